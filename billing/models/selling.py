"""What is sold: plans, prices of plans and of packs, coupons; and what currencies are worth."""

from decimal import Decimal
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.crypto import get_random_string
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext

from core.money import MICROS_PER_CREDIT


class Plan(models.Model):
    """What a user may do. An empty limit means no limit."""

    class Tier(models.TextChoices):
        DEMO = "demo", _("Demo")
        CHEAP = "cheap", _("Quick")
        MID = "mid", _("Balanced")
        STRONG = "strong", _("Strong")

    key = models.SlugField(_("key"), unique=True)
    name = models.CharField(_("name"), max_length=60)
    rank = models.PositiveSmallIntegerField(_("rank"), default=0, help_text=_("Higher is more."))
    is_default = models.BooleanField(
        _("default"), default=False, help_text=_("What everyone has without a subscription.")
    )
    credits_per_month = models.PositiveIntegerField(_("credits a month"), null=True, blank=True)
    turns_per_hour = models.PositiveIntegerField(_("questions an hour"), null=True, blank=True)
    turns_at_once = models.PositiveIntegerField(_("answers at once"), null=True, blank=True)
    question_characters = models.PositiveIntegerField(_("longest question, characters"), default=32_000)
    answer_tokens = models.PositiveIntegerField(_("longest answer, tokens"), default=4_096)
    best_tier = models.CharField(_("best models"), max_length=6, choices=Tier, default=Tier.CHEAP)
    upload_bytes = models.PositiveBigIntegerField(_("largest file, bytes"), null=True, blank=True)
    has_api = models.BooleanField(
        _("API"), default=True, help_text=_("Without it, programs with a token are refused; the pages work as before.")
    )
    requests_per_minute = models.PositiveIntegerField(
        _("requests a minute"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_("To the API, of all programs of a person together. Empty: what the site gives everybody."),
    )
    has_comparison = models.BooleanField(
        _("two models side by side"),
        default=False,
        help_text=_("Two models may answer the same question, side by side; both are paid."),
    )
    has_batches = models.BooleanField(
        _("batches"), default=False, help_text=_("Files of many requests, which are answered while nobody waits.")
    )
    history_days = models.PositiveIntegerField(
        _("days conversations are kept"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_("After their last use. Whoever has older ones is told 30 days before they go into the trash."),
    )
    trial_days = models.PositiveSmallIntegerField(_("days of trial"), default=0, blank=True)
    trial_credits = models.PositiveIntegerField(_("credits of the trial"), default=0, blank=True)

    class Meta:
        verbose_name = _("plan")
        verbose_name_plural = _("plans")
        ordering = ("rank",)
        constraints = (
            models.UniqueConstraint(fields=["is_default"], condition=Q(is_default=True), name="one_default_plan"),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def shown_name(self) -> str:
        """The name in the reader's language if it is one of `seeds.py`, else as the operator wrote it."""
        return pgettext("plan", self.name)

    @property
    def allowance_micros(self) -> int | None:
        return None if self.credits_per_month is None else self.credits_per_month * MICROS_PER_CREDIT

    @property
    def trial_micros(self) -> int:
        return self.trial_credits * MICROS_PER_CREDIT


class PriceQuerySet(models.QuerySet["Price"]):
    def update(self, **fields: Any) -> int:
        """Set what may change of prices."""
        if changed := Price.FIXED.intersection(name.removesuffix("_id") for name in fields):
            raise ValueError(f"A price never changes its {', '.join(sorted(changed))}: make a new one.")
        return super().update(**fields)


def clean_currency(currency: str) -> str:
    """Return a currency's three capital letters; raises ValidationError."""
    if not (len(currency) == 3 and currency.isascii() and currency.isalpha()):
        raise ValidationError({"currency": _("Three capital letters, as in USD.")})
    return currency.upper()


def new_price_reference() -> str:
    return f"price-{get_random_string(16)}"


class Price(models.Model):
    """What a plan costs for a month or a year at one gateway, or what a pack of credits costs.

    Nothing of it changes but whether it is for sale: who bought it goes on paying it. Another price is another row.
    """

    FIXED: ClassVar = frozenset(
        ("plan", "gateway", "reference", "currency", "amount_minor", "interval", "pack_credits", "pack_months")
    )

    class Interval(models.TextChoices):
        MONTH = "month", _("a month")
        YEAR = "year", _("a year")

    plan = models.ForeignKey(
        Plan,
        models.PROTECT,
        null=True,
        blank=True,
        related_name="prices",
        verbose_name=_("plan"),
        help_text=_("Empty for a pack of credits."),
    )
    gateway = models.CharField(_("gateway"), max_length=20)
    reference = models.CharField(_("the gateway's name for it"), max_length=100, default=new_price_reference)
    currency = models.CharField(_("currency"), max_length=3, help_text=_("Three capital letters, as in USD."))
    amount_minor = models.PositiveBigIntegerField(
        _("amount"), help_text=_("In the smallest unit of the currency: 1000 is 10.00 USD, and 1000 CLP.")
    )
    interval = models.CharField(_("for"), max_length=5, choices=Interval, blank=True)
    pack_credits = models.PositiveIntegerField(_("credits of the pack"), default=0, blank=True)
    pack_months = models.PositiveSmallIntegerField(_("months until the pack expires"), default=0, blank=True)
    is_for_sale = models.BooleanField(_("for sale"), default=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = PriceQuerySet.as_manager()

    class Meta:
        verbose_name = _("price")
        verbose_name_plural = _("prices")
        ordering = ("plan__rank", "gateway", "currency", "interval", "pack_credits")
        constraints = (
            models.UniqueConstraint(fields=["gateway", "reference"], name="one_price_a_reference"),
            models.UniqueConstraint(
                fields=["plan", "gateway", "currency", "interval"],
                condition=Q(is_for_sale=True),
                name="one_price_for_sale",
                violation_error_message=_("Another price of this plan is for sale there: withdraw it first."),
            ),
            models.CheckConstraint(
                condition=Q(plan__isnull=False, interval__in=["month", "year"], pack_credits=0, pack_months=0)
                | Q(plan__isnull=True, interval="", pack_credits__gt=0, pack_months__gt=0),
                name="price_of_a_plan_or_a_pack",
                violation_error_message=_(
                    "A plan's price is for a month or a year. A pack's has credits, and months until it expires."
                ),
            ),
        )

    def __str__(self) -> str:
        return f"{self.gateway} {self.reference}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save; what a price is for, and how much, stays as it was saved first. Raises ValueError."""
        if not self._state.adding:
            stored = type(self).objects.filter(pk=self.pk).values(*self.FIXED).get()
            stored["plan_id"] = stored.pop("plan")
            if changed := sorted(name for name, value in stored.items() if getattr(self, name) != value):
                raise ValueError(f"A price never changes its {', '.join(changed)}: make a new one.")
        super().save(*args, **kwargs)

    def clean(self) -> None:
        self.currency = clean_currency(self.currency)

    @property
    def months(self) -> int:
        """How many months it pays for; of a pack, after how many it expires."""
        return {"month": 1, "year": 12, "": self.pack_months}[self.interval]

    @property
    def pack_micros(self) -> int:
        return self.pack_credits * MICROS_PER_CREDIT


class Coupon(models.Model):
    """A word that makes a checkout cheaper. By how much, for how long and how often is the gateway's discount's."""

    code = models.CharField(_("code"), max_length=40, unique=True, help_text=_("What people write. Case is ignored."))
    gateway = models.CharField(_("gateway"), max_length=20)
    reference = models.CharField(
        _("the gateway's name for it"), max_length=100, help_text=_("Of Stripe's coupon, or promotion code (promo_…).")
    )
    is_active = models.BooleanField(_("can be used"), default=True)

    class Meta:
        verbose_name = _("coupon")
        verbose_name_plural = _("coupons")

    def __str__(self) -> str:
        return self.code

    def clean(self) -> None:
        self.code = self.code.strip().upper()


class ExchangeRate(models.Model):
    """What one unit of a currency is worth in the site's own, from a day on, as the operator says.

    Rows, and no setting: a month is always reckoned with the rates of its own last day.
    """

    currency = models.CharField(_("currency"), max_length=3, help_text=_("Three capital letters, as in USD."))
    since = models.DateField(_("from"))
    rate = models.DecimalField(
        _("rate"),
        max_digits=20,
        decimal_places=10,
        validators=[MinValueValidator(Decimal("0.0000000001"))],
        help_text=_("What one unit of it is worth in the site's currency."),
    )

    class Meta:
        verbose_name = _("exchange rate")
        verbose_name_plural = _("exchange rates")
        ordering = ("currency", "-since")
        constraints = (
            models.UniqueConstraint(fields=["currency", "since"], name="one_rate_a_day"),
            models.CheckConstraint(condition=Q(rate__gt=0), name="rate_is_positive"),
        )

    def __str__(self) -> str:
        return f"{self.currency} {self.since}"

    def clean(self) -> None:
        self.currency = clean_currency(self.currency)
