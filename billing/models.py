"""Money: what plans allow and cost, who pays what, what is reserved, what was used.

What people use is counted in integer micro-US-dollars, what they pay in the minor unit of a currency.
"""

import datetime as dt
from decimal import Decimal
from typing import Any, ClassVar, Self

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.crypto import get_random_string
from django.utils.translation import gettext_lazy as _

MICROS_PER_CREDIT = 1_000
ERRAND_SECONDS = 60
"""For how long an errand is nobody else's once it was claimed: longer than a gateway is ever waited for."""
ROUND_SECONDS = 30.0
"""How long a round of errands goes on: while a gateway is silent each of them takes its ten seconds, and mails wait."""
MAX_ATTEMPTS = 40
"""How often an errand is tried: for about a week."""


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
    has_api = models.BooleanField(_("API"), default=True)
    has_batches = models.BooleanField(_("batches"), default=False)
    history_days = models.PositiveIntegerField(_("days conversations are kept"), null=True, blank=True)
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


class BillingAccount(models.Model):
    """Who pays, and the row that is locked while what they pay for is written.

    `plan` is what an operator granted, until `grant_until` or without end. `holds` is the number of the held
    reservations. `subscribed_until` and `packs_until` are the latest moments at which a subscription or a pack may
    still count: after them, nobody needs to look. `currency` is that of the first payment: gateways let a customer
    have but one.

    The account of a user who was deleted stays, without a name: the ledger's sums must hold.
    """

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="billing_account", verbose_name=_("user")
    )
    plan = models.ForeignKey(Plan, models.PROTECT, null=True, blank=True, verbose_name=_("granted plan"))
    grant_until = models.DateTimeField(_("granted until"), null=True, blank=True)
    grant_reason = models.CharField(_("why"), max_length=200, blank=True)
    granted_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+", verbose_name=_("by")
    )
    holds = models.IntegerField(_("open reservations"), default=0, editable=False)
    subscribed_until = models.DateTimeField(_("access until"), null=True, editable=False)
    packs_until = models.DateTimeField(null=True, editable=False)
    trial_at = models.DateTimeField(_("had a trial"), null=True, editable=False)
    created_at = models.DateTimeField(_("since"), default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("billing account")
        verbose_name_plural = _("billing accounts")
        constraints = (models.CheckConstraint(condition=Q(holds__gte=0), name="holds_not_negative"),)

    def __str__(self) -> str:
        return str(self.pk)  # the admin's log keeps it: no name

    @property
    def email(self) -> str:
        """The address a gateway's customer has; empty once the user was deleted. dj-stripe asks for it, too."""
        return self.user.email if self.user else ""


class UsagePeriod(models.Model):
    """Credits for a time: a calendar month of the default plan, a month that was paid or granted, or a pack.

    The row is the grant: a second grant cannot exist. `reserved_micros` is the sum of the held reservations,
    `used_micros` that of the usage records.

    `plan_micros` is what the plan gives for the whole time, up to `full_end`, as it was when the row was written or
    raised. The allowance has the share of it up to `granted_until`: a month that is not paid yet is cut. Without a
    `plan` (trials, packs) nothing of that applies.
    """

    class Kind(models.TextChoices):
        MONTH = "month", _("month")
        PAID = "paid", _("paid month")
        PACK = "pack", _("pack")

    account = models.ForeignKey(BillingAccount, models.PROTECT, related_name="periods")
    kind = models.CharField(_("kind"), max_length=5, choices=Kind, default=Kind.MONTH)
    # Without an index: it is looked up when an operator edits a plan.
    plan = models.ForeignKey(Plan, models.PROTECT, null=True, related_name="+", db_index=False, verbose_name=_("plan"))
    period_start = models.DateTimeField(_("from"))
    period_end = models.DateTimeField(_("until"))
    full_end = models.DateTimeField(null=True)
    granted_until = models.DateTimeField(null=True)
    plan_micros = models.BigIntegerField(null=True)
    allowance_micros = models.BigIntegerField(_("allowance"), null=True, blank=True)
    used_micros = models.BigIntegerField(_("used"), default=0)
    reserved_micros = models.BigIntegerField(_("reserved"), default=0)
    noticed_percent = models.PositiveSmallIntegerField(default=0)

    class Meta:
        verbose_name = _("usage period")
        verbose_name_plural = _("usage periods")
        constraints = (
            models.UniqueConstraint(fields=["account", "kind", "period_start"], name="one_period_a_kind"),
            models.CheckConstraint(condition=Q(period_end__gt=F("period_start")), name="period_goes_forward"),
            models.CheckConstraint(condition=Q(used_micros__gte=0, reserved_micros__gte=0), name="period_not_negative"),
        )

    def __str__(self) -> str:
        return f"{self.account_id} {self.period_start:%Y-%m}"

    @property
    def left_micros(self) -> int | None:
        """What is neither used nor reserved; None means no limit."""
        if self.allowance_micros is None:
            return None
        return self.allowance_micros - self.used_micros - self.reserved_micros


class Spending(models.Model):
    """What one supplier charges us on one day (UTC): what we pay, not what people pay.

    `used_micros` is the sum of its usage records and entries, `reserved_micros` what held reservations and entries may
    still cost us; of reservations that is only counted for suppliers that have a limit.
    """

    supplier = models.CharField(_("supplier"), max_length=50)
    day = models.DateField(_("day"))
    used_micros = models.BigIntegerField(_("used"), default=0)
    reserved_micros = models.BigIntegerField(_("reserved"), default=0)
    alarmed_percent = models.PositiveSmallIntegerField(default=0)

    class Meta:
        verbose_name = _("spending of a day")
        verbose_name_plural = _("spending by day")
        ordering = ("-day", "supplier")
        constraints = (
            models.UniqueConstraint(fields=["supplier", "day"], name="one_spending_a_day"),
            models.CheckConstraint(
                condition=Q(used_micros__gte=0, reserved_micros__gte=0), name="spending_not_negative"
            ),
        )

    def __str__(self) -> str:
        return f"{self.supplier} {self.day}"


class Reservation(models.Model):
    """Credits set aside for one piece of work; its id is the work's own id, so that there cannot be two.

    `spending_micros` is what it holds of a supplier's day, where that has a limit. Where several suppliers may do the
    work, it is what it holds of the first one's; the others' are rows of SpendingEntry.
    """

    class State(models.TextChoices):
        HELD = "held", _("held")
        SETTLED = "settled", _("settled")
        RELEASED = "released", _("released")

    id = models.UUIDField(primary_key=True)
    period = models.ForeignKey(UsagePeriod, models.PROTECT, related_name="reservations", verbose_name=_("period"))
    amount_micros = models.BigIntegerField(_("reserved"))
    # Without an index: nothing is looked up by it.
    spending = models.ForeignKey(Spending, models.PROTECT, null=True, related_name="+", db_index=False)
    spending_micros = models.BigIntegerField(_("of the supplier's day"), default=0)
    state = models.CharField(_("state"), max_length=8, choices=State, default=State.HELD)
    created_at = models.DateTimeField(_("since"), default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("reservation")
        verbose_name_plural = _("reservations")
        indexes = (models.Index(fields=["created_at"], condition=Q(state="held"), name="held_reservations"),)
        constraints = (
            models.CheckConstraint(
                condition=Q(amount_micros__gte=0, spending_micros__gte=0), name="reservation_not_negative"
            ),
        )

    def __str__(self) -> str:
        return str(self.pk)


class SpendingEntry(models.Model):
    """What is held of a supplier's day, or was taken of it, and stands neither in a reservation nor in a usage record.

    Of a reservation: what it holds of a further supplier's day, until it ends; and what a supplier takes for a request
    that gave no answer. Without one: the operator's own work, such as a title.
    """

    spending = models.ForeignKey(Spending, models.PROTECT, related_name="+", db_index=False)
    reservation = models.ForeignKey(Reservation, models.PROTECT, null=True, related_name="+")
    label = models.CharField(max_length=120, blank=True)
    held_micros = models.BigIntegerField(default=0)
    spent_micros = models.BigIntegerField(default=0)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        indexes = (models.Index(fields=["created_at"], condition=Q(held_micros__gt=0), name="held_entries"),)
        constraints = (
            models.CheckConstraint(condition=Q(held_micros__gte=0, spent_micros__gte=0), name="entry_not_negative"),
        )

    def __str__(self) -> str:
        return f"{self.label} {self.spent_micros}"


class UsageRecord(models.Model):
    """What one piece of work cost. Never changed: a correction is a new row."""

    class Source(models.TextChoices):
        PROVIDER = "provider", _("reported by the provider")
        ESTIMATED = "estimated", _("estimated")

    class AboveBecause(models.TextChoices):
        """Why a cost is above its reservation. There is no other reason."""

        INPUT = "input", _("more input than estimated")

    reservation = models.OneToOneField(
        Reservation, models.PROTECT, related_name="record", verbose_name=_("reservation")
    )
    period = models.ForeignKey(UsagePeriod, models.PROTECT, related_name="records", verbose_name=_("period"))
    label = models.CharField(_("what for"), max_length=120)
    input_tokens = models.PositiveIntegerField(_("input"), default=0)
    cache_read_tokens = models.PositiveIntegerField(_("of it read from cache"), default=0)
    cache_write_tokens = models.PositiveIntegerField(_("of it written to cache"), default=0)
    output_tokens = models.PositiveIntegerField(_("output"), default=0)
    source = models.CharField(_("source"), max_length=9, choices=Source)
    cost_micros = models.BigIntegerField(_("cost"))
    above_because = models.CharField(  # noqa: DJ001  null is also what a process writes that does not know it yet
        _("why above its reservation"), max_length=9, choices=AboveBecause, null=True
    )
    spending = models.ForeignKey(
        Spending, models.PROTECT, null=True, related_name="+", db_index=False, verbose_name=_("spending of a day")
    )
    spent_micros = models.BigIntegerField(_("the supplier takes"), default=0)
    recorded_at = models.DateTimeField(_("at"), default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("usage record")
        verbose_name_plural = _("usage records")
        ordering = ("-recorded_at",)
        indexes = (models.Index(fields=["recorded_at"], name="records_by_time"),)
        constraints = (
            models.CheckConstraint(condition=Q(cost_micros__gte=0, spent_micros__gte=0), name="cost_not_negative"),
        )

    def __str__(self) -> str:
        return f"{self.label} {self.cost_micros}"


class SubscriptionQuerySet(models.QuerySet["Subscription"]):
    def live(self, now: dt.datetime) -> list["Subscription"]:
        """Return those that are live, of which there are few: of what is over nothing is read."""
        is_alive = Q(access_until__gt=now) | Q(is_frozen=True) | Q(ended_at=None)
        return [one for one in self.filter(is_alive) if one.is_live(now)]


class Subscription(models.Model):
    """Something that was bought at a gateway: a plan that renews, one paid time of a plan, or a pack of credits.

    A copy of what the gateway said at `observed_at`, and what follows from it and from the payments. It gives `plan`
    from `access_from` to `paid_until`, the end of the last payment, and `grace_plan` from then to `access_until`.
    `is_double`: somebody bought twice; it gives nothing and is refunded. `is_frozen`: a payment is disputed.
    """

    class Kind(models.TextChoices):
        SUBSCRIPTION = "subscription", _("subscription")
        PREPAID = "prepaid", _("prepaid")
        PACK = "pack", _("pack")

    class Status(models.TextChoices):
        PENDING = "pending", _("waiting for payment")
        TRIALING = "trialing", _("trial")
        ACTIVE = "active", _("active")
        PAST_DUE = "past_due", _("past due")
        PAUSED = "paused", _("paused")
        ENDED = "ended", _("ended")

    account = models.ForeignKey(
        BillingAccount, models.PROTECT, related_name="subscriptions", verbose_name=_("billing account")
    )
    gateway = models.CharField(_("gateway"), max_length=20)
    reference = models.CharField(_("the gateway's name for it"), max_length=100)
    kind = models.CharField(_("kind"), max_length=12, choices=Kind)
    status = models.CharField(_("status"), max_length=8, choices=Status)
    price = models.ForeignKey(Price, models.PROTECT, related_name="subscriptions", verbose_name=_("price"))
    next_price = models.ForeignKey(
        Price, models.PROTECT, null=True, related_name="+", verbose_name=_("changes to"), db_index=False
    )
    anchor = models.DateTimeField(_("months begin at"))
    plan = models.ForeignKey(Plan, models.PROTECT, null=True, related_name="+", verbose_name=_("plan"))
    grace_plan = models.ForeignKey(Plan, models.PROTECT, null=True, related_name="+")
    access_from = models.DateTimeField(_("access from"), null=True)
    paid_until = models.DateTimeField(_("paid until"), null=True)
    access_until = models.DateTimeField(_("access until"), null=True)
    cancels_at = models.DateTimeField(_("is cancelled at"), null=True)
    trial_start = models.DateTimeField(null=True)
    trial_end = models.DateTimeField(_("trial until"), null=True)
    card_fingerprint = models.CharField(max_length=64, blank=True)
    is_frozen = models.BooleanField(_("frozen"), default=False)
    is_double = models.BooleanField(_("bought twice"), default=False)
    observed_at = models.DateTimeField(_("asked at"))
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    ended_at = models.DateTimeField(_("ended"), null=True)

    objects = SubscriptionQuerySet.as_manager()

    class Meta:
        verbose_name = _("subscription")
        verbose_name_plural = _("subscriptions")
        constraints = (models.UniqueConstraint(fields=["gateway", "reference"], name="one_subscription_a_reference"),)
        indexes = (
            models.Index(fields=["card_fingerprint"], condition=~Q(card_fingerprint=""), name="cards"),
            models.Index(fields=["observed_at"], condition=Q(ended_at=None), name="live_subscriptions"),
            models.Index(fields=["trial_end"], condition=Q(trial_start__isnull=False), name="trials"),
        )

    def __str__(self) -> str:
        return f"{self.gateway} {self.reference}"

    @property
    def is_trial(self) -> bool:
        """Whether it had a trial of ours, and not just a gateway's way of beginning later."""
        return self.trial_start is not None

    @property
    def held_until(self) -> dt.datetime | None:
        """Until when it was paid, or may be tried; None for what is neither."""
        return self.paid_until or (self.trial_end if self.is_trial else None)

    @property
    def renews(self) -> bool:
        """Whether the gateway will charge for it again."""
        return (
            self.kind == self.Kind.SUBSCRIPTION
            and self.cancels_at is None
            and self.status in (self.Status.TRIALING, self.Status.ACTIVE, self.Status.PAST_DUE)
        )

    def gives(self, now: dt.datetime) -> bool:
        """Whether it gives its plan now, paid or in grace."""
        begins, until = self.access_from, self.access_until
        return begins is not None and until is not None and begins <= now < until

    def is_live(self, now: dt.datetime) -> bool:
        """Whether it gives something now or will be charged for again, so that nothing else may be bought beside it."""
        if self.kind == self.Kind.PACK or self.is_double:
            return False
        is_paid = self.access_until is not None and now < self.access_until
        return is_paid or self.is_frozen or self.renews or self.status == self.Status.PAUSED


class Payment(models.Model):
    """One invoice or payment, as the gateway had it when it was asked last.

    `usage_period` is the pack it bought. `refund_requested_at` is when the payer asked for their money back, and
    `refund_answer` what the operator refused it with. The fiscal document is the operator's own. What names the payer
    goes with their account; `PERSONAL_TOLD` is what of it a gateway tells again.
    """

    PERSONAL_TOLD: ClassVar = ("tax_id", "receipt_url", "action_url", "action_code")
    PERSONAL: ClassVar = (*PERSONAL_TOLD, "refund_reason", "refund_answer", "fiscal_url")

    class Status(models.TextChoices):
        PENDING = "pending", _("pending")
        PAID = "paid", _("paid")
        FAILED = "failed", _("failed")
        VOID = "void", _("void")

    class Dispute(models.TextChoices):
        OPEN = "open", _("disputed")
        WON = "won", _("dispute won")
        LOST = "lost", _("dispute lost")

    class Action(models.TextChoices):
        CONFIRM = "confirm", _("to be confirmed with the bank")
        VOUCHER = "voucher", _("to be paid with a voucher")
        PAY = "pay", _("to be paid")

    subscription = models.ForeignKey(
        Subscription, models.PROTECT, related_name="payments", verbose_name=_("subscription")
    )
    gateway = models.CharField(_("gateway"), max_length=20)
    reference = models.CharField(_("the gateway's name for it"), max_length=100)
    price = models.ForeignKey(Price, models.PROTECT, related_name="+", verbose_name=_("price"))
    status = models.CharField(_("status"), max_length=7, choices=Status)
    amount_minor = models.BigIntegerField(_("amount"))
    currency = models.CharField(_("currency"), max_length=3)
    period_start = models.DateTimeField(_("from"), null=True)
    period_end = models.DateTimeField(_("until"), null=True)
    is_proration = models.BooleanField(_("for an upgrade"), default=False)
    paid_at = models.DateTimeField(_("paid at"), null=True)
    refunded_minor = models.BigIntegerField(_("refunded"), default=0)
    dispute = models.CharField(_("dispute"), max_length=4, choices=Dispute, blank=True)
    tax_minor = models.BigIntegerField(_("tax"), default=0)
    tax_country = models.CharField(_("country"), max_length=2, blank=True)
    tax_id = models.CharField(_("tax id"), max_length=50, blank=True)
    receipt_url = models.TextField(blank=True)
    action_url = models.TextField(blank=True)
    action = models.CharField(max_length=7, choices=Action, blank=True)
    action_code = models.TextField(blank=True)
    expires_at = models.DateTimeField(_("expires"), null=True)
    usage_period = models.OneToOneField(UsagePeriod, models.PROTECT, null=True, related_name="payment")
    refund_requested_at = models.DateTimeField(_("refund asked for"), null=True)
    refund_reason = models.CharField(_("why"), max_length=500, blank=True)
    refund_answered_at = models.DateTimeField(_("answered"), null=True)
    refund_answer = models.CharField(_("answer"), max_length=200, blank=True)
    fiscal_number = models.CharField(_("fiscal document"), max_length=60, blank=True)
    fiscal_url = models.URLField(_("its address"), max_length=500, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("payment")
        verbose_name_plural = _("payments")
        ordering = ("-created_at",)
        constraints = (models.UniqueConstraint(fields=["gateway", "reference"], name="one_payment_a_reference"),)
        indexes = (
            models.Index(fields=["paid_at"], condition=Q(paid_at__isnull=False), name="payments_by_day"),
            models.Index(fields=["period_end"], condition=Q(status="paid"), name="paid_times"),
            models.Index(
                fields=["refund_requested_at"],
                condition=Q(refund_requested_at__isnull=False, refund_answered_at=None),
                name="open_refund_requests",
            ),
            models.Index(fields=["created_at"], condition=Q(dispute="open"), name="open_disputes"),
        )

    def __str__(self) -> str:
        return f"{self.gateway} {self.reference}"

    @property
    def is_refunded(self) -> bool:
        """Whether all of it was given back."""
        return self.refunded_minor >= self.amount_minor > 0

    @property
    def counts(self) -> bool:
        """Whether it pays for its time: paid, and neither refunded in full nor taken back by the bank."""
        return self.status == self.Status.PAID and not self.is_refunded and self.dispute != self.Dispute.LOST

    @property
    def may_be_refunded(self) -> bool:
        """Whether there is money to give back. While a payment is disputed its bank decides, or it went back twice."""
        return self.counts and self.amount_minor > self.refunded_minor and self.dispute != self.Dispute.OPEN

    @property
    def waits_for_answer(self) -> bool:
        """Whether its payer asked for their money back, and the operator has not answered."""
        return self.refund_requested_at is not None and self.refund_answered_at is None


class Purchase(models.Model):
    """A checkout that was begun. `key` is what makes repeating it at the gateway harmless."""

    key = models.CharField(max_length=40, unique=True)
    account = models.ForeignKey(BillingAccount, models.PROTECT, related_name="purchases")
    price = models.ForeignKey(Price, models.PROTECT, related_name="+")
    kind = models.CharField(max_length=12, choices=Subscription.Kind)
    reference_type = models.CharField(max_length=40, blank=True)
    reference_id = models.CharField(max_length=100, blank=True)
    url = models.TextField(blank=True)
    payer_email = models.EmailField(blank=True)
    coupon = models.ForeignKey(Coupon, models.PROTECT, null=True, related_name="+", db_index=False)
    starts_at = models.DateTimeField(null=True)
    trial_days = models.PositiveSmallIntegerField(default=0)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    closed_at = models.DateTimeField(null=True)

    class Meta:
        indexes = (models.Index(fields=["account"], condition=Q(closed_at=None), name="open_purchases"),)

    def __str__(self) -> str:
        return self.key


class ErrandQuerySet(models.QuerySet[Any]):
    def due(self) -> Self:
        """Those that somebody should try now, the longest waiting first."""
        return self.filter(done_at=None, due_at__lte=timezone.now()).order_by("due_at")


class Errand(models.Model):
    """Something to be done outside of the request that noticed it: a row first, so that nothing depends on a broker.

    Whoever claims it has ERRAND_SECONDS; whoever dies with it leaves it to the next one. It must be harmless to do
    twice.
    """

    due_at = models.DateTimeField(_("due"), default=timezone.now)
    attempts = models.PositiveSmallIntegerField(_("attempts"), default=0)
    error = models.CharField(_("last error"), max_length=200, blank=True)
    created_at = models.DateTimeField(_("since"), default=timezone.now, editable=False)
    done_at = models.DateTimeField(_("done"), null=True)

    objects = ErrandQuerySet.as_manager()

    class Meta:
        abstract = True

    def claim(self) -> bool:
        """Take it, unless it is done or somebody else's at the moment; return whether this call did."""
        now = timezone.now()
        free = type(self).objects.filter(pk=self.pk, done_at=None, due_at__lte=now)
        if not free.update(due_at=now + dt.timedelta(seconds=ERRAND_SECONDS), attempts=F("attempts") + 1):
            return False
        self.refresh_from_db(fields=["attempts"])
        return True

    @property
    def is_hopeless(self) -> bool:
        """Whether it was claimed once too often: whoever took it last died, or met what nobody foresaw."""
        return self.attempts > MAX_ATTEMPTS

    def finish(self, error: str = "") -> None:
        """It is done; with an error, it will not be tried again."""
        type(self).objects.filter(pk=self.pk).update(done_at=timezone.now(), error=error[:200])

    def reopen(self) -> bool:
        """Let it be tried now, as if it never had been; return False if it is done."""
        undone = type(self).objects.filter(Q(done_at=None) | ~Q(error=""), pk=self.pk)
        return bool(undone.update(done_at=None, due_at=timezone.now(), attempts=0))

    def postpone(self, error: str) -> None:
        """Try again later: after a minute at first, in the end every six hours."""
        self.refresh_from_db(fields=["attempts"])
        delay = min(dt.timedelta(minutes=2 ** min(self.attempts, 10) / 2), dt.timedelta(hours=6))
        type(self).objects.filter(pk=self.pk).update(due_at=timezone.now() + delay, error=error[:200])


class AllowanceNotice(Errand):
    """That so much of a period's allowance is used: to be mailed, and shown until it was seen."""

    period = models.ForeignKey(UsagePeriod, models.PROTECT, related_name="notices")
    percent = models.PositiveSmallIntegerField()
    seen_at = models.DateTimeField(null=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=["period", "percent"], name="one_notice_a_percentage"),)
        indexes = (models.Index(fields=["due_at"], condition=Q(done_at=None), name="notices_to_mail"),)

    def __str__(self) -> str:
        return f"{self.period_id} {self.percent}%"


class Letter(Errand):
    """A mail about money: that it is to be sent, and that it was. `key` makes it one mail.

    It is about a payment, a subscription, or a month.
    """

    class Kind(models.TextChoices):
        RECEIPT = "receipt", _("receipt")
        FAILED = "failed", _("a payment failed")
        CONFIRM = "confirm", _("to be confirmed with the bank")
        VOUCHER = "voucher", _("voucher")
        TRIAL_ENDS = "trial_ends", _("the trial ends")
        GRACE = "grace", _("reminder")
        CANCELLED = "cancelled", _("cancelled")
        REFUNDED = "refunded", _("refunded")
        NO_REFUND = "no_refund", _("refund refused")
        STATEMENT = "statement", _("statement of a month")

    key = models.CharField(max_length=64, unique=True)
    account = models.ForeignKey(BillingAccount, models.PROTECT, related_name="letters")
    kind = models.CharField(_("kind"), max_length=10, choices=Kind)
    payment = models.ForeignKey(
        Payment, models.PROTECT, null=True, related_name="letters", db_index=False, verbose_name=_("payment")
    )
    subscription = models.ForeignKey(
        Subscription, models.PROTECT, null=True, related_name="+", db_index=False, verbose_name=_("subscription")
    )
    month = models.DateTimeField(null=True)

    class Meta:
        verbose_name = _("mail about money")
        verbose_name_plural = _("mails about money")
        indexes = (models.Index(fields=["due_at"], condition=Q(done_at=None), name="letters_to_send"),)

    def __str__(self) -> str:
        return self.key


class GatewayEvent(Errand):
    """A genuine notification: the inbox. It says what to ask the gateway about, and nothing else is kept of it."""

    gateway = models.CharField(_("gateway"), max_length=20)
    event_id = models.CharField(_("event"), max_length=150)
    event_type = models.CharField(_("type"), max_length=80)
    reference_type = models.CharField(_("about"), max_length=40)
    reference_id = models.CharField(_("id"), max_length=100)

    class Meta:
        verbose_name = _("gateway's notification")
        verbose_name_plural = _("gateways' notifications")
        constraints = (models.UniqueConstraint(fields=["gateway", "event_id"], name="one_event"),)
        indexes = (
            models.Index(fields=["due_at"], condition=Q(done_at=None), name="events_to_handle"),
            models.Index(fields=["created_at"], condition=~Q(error=""), name="events_with_errors"),
        )

    def __str__(self) -> str:
        return f"{self.gateway} {self.event_id}"


class GatewayTask(Errand):
    """Something to be done at a gateway: the outbox. `key` makes it one thing, here and there."""

    class Act(models.TextChoices):
        CANCEL_NOW = "cancel_now", _("cancel at once")
        CANCEL_AT_PERIOD_END = "cancel_at_period_end", _("cancel at the end of the period")
        RESUME = "resume", _("resume")
        REFUND = "refund", _("refund")
        EXPIRE_CHECKOUT = "expire_checkout", _("end a checkout")
        FORGET_CUSTOMER = "forget_customer", _("erase the customer")

    key = models.CharField(_("key"), max_length=64, unique=True)
    account = models.ForeignKey(BillingAccount, models.PROTECT, related_name="gateway_tasks")
    gateway = models.CharField(_("gateway"), max_length=20)
    act = models.CharField(_("what"), max_length=20, choices=Act)
    reference_type = models.CharField(max_length=40, blank=True)
    reference = models.CharField(_("of what"), max_length=100, blank=True)
    amount_minor = models.BigIntegerField(_("amount"), default=0)

    class Meta:
        verbose_name = _("task at a gateway")
        verbose_name_plural = _("tasks at gateways")
        indexes = (
            models.Index(fields=["due_at"], condition=Q(done_at=None), name="tasks_to_do"),
            models.Index(fields=["created_at"], condition=~Q(error=""), name="tasks_with_errors"),
        )

    def __str__(self) -> str:
        return self.key


class StaffAct(models.Model):
    """What an operator did, and why: to somebody's account, or without one to what is nobody's. Never changed.

    `key` is of the form that was sent: sent twice, it is one act.
    """

    class Act(models.TextChoices):
        GRANT = "grant", _("a plan granted")
        REVOKE = "revoke", _("a grant taken back")
        REFUND = "refund", _("refund")
        REFUSE_REFUND = "refuse_refund", _("refund refused")
        CANCEL_NOW = "cancel_now", _("cancel at once")
        CANCEL_AT_PERIOD_END = "cancel_at_period_end", _("cancel at the end of the period")
        RESYNC = "resync", _("gateway asked")
        RETRY_EVENT = "retry_event", _("notification tried again")
        RETRY_TASK = "retry_task", _("task tried again")
        REPLACE_PRICE = "replace_price", _("price replaced")
        FISCAL_DOCUMENT = "fiscal_document", _("fiscal document attached")

    key = models.CharField(max_length=40, unique=True, null=True)  # noqa: DJ001  those before it have none
    account = models.ForeignKey(BillingAccount, models.PROTECT, null=True, related_name="staff_acts")
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", verbose_name=_("by"))
    act = models.CharField(_("what"), max_length=40, choices=Act)
    reason = models.CharField(_("why"), max_length=200, blank=True)
    details = models.JSONField(_("details"), default=dict)
    at = models.DateTimeField(_("at"), default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("act of an operator")
        verbose_name_plural = _("acts of operators")
        ordering = ("-at",)

    def __str__(self) -> str:
        return f"{self.act} {self.account_id}"
