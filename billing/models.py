"""Money: what plans allow, what is reserved, what was used. Amounts are integer micro-US-dollars."""

import datetime as dt

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

MICROS_PER_CREDIT = 1_000


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


class BillingAccount(models.Model):
    """Who pays. `plan` is what an operator granted; without it, the default plan applies.

    The account of a user who was deleted stays, without a name: the ledger's sums must hold.
    """

    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="billing_account")
    plan = models.ForeignKey(Plan, models.PROTECT, null=True, blank=True, verbose_name=_("granted plan"))
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("billing account")
        verbose_name_plural = _("billing accounts")

    def __str__(self) -> str:
        return str(self.pk)  # the admin's log keeps it: no name


class UsagePeriod(models.Model):
    """One account's month. The row is the grant: a second grant cannot exist.

    `reserved_micros` and `holds` are the sum and the number of the held reservations, `used_micros` the sum of the
    usage records.
    """

    account = models.ForeignKey(BillingAccount, models.PROTECT, related_name="periods")
    period_start = models.DateTimeField(_("from"))
    period_end = models.DateTimeField(_("until"))
    allowance_micros = models.BigIntegerField(_("allowance"), null=True, blank=True)
    used_micros = models.BigIntegerField(_("used"), default=0)
    reserved_micros = models.BigIntegerField(_("reserved"), default=0)
    holds = models.IntegerField(_("open reservations"), default=0)

    class Meta:
        verbose_name = _("usage period")
        verbose_name_plural = _("usage periods")
        constraints = (
            models.UniqueConstraint(fields=["account", "period_start"], name="one_period"),
            models.CheckConstraint(condition=Q(period_end__gt=F("period_start")), name="period_goes_forward"),
            models.CheckConstraint(
                condition=Q(used_micros__gte=0, reserved_micros__gte=0, holds__gte=0), name="period_not_negative"
            ),
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
    period = models.ForeignKey(UsagePeriod, models.PROTECT, related_name="reservations")
    amount_micros = models.BigIntegerField()
    # Without an index: nothing is looked up by it.
    spending = models.ForeignKey(Spending, models.PROTECT, null=True, related_name="+", db_index=False)
    spending_micros = models.BigIntegerField(default=0)
    state = models.CharField(max_length=8, choices=State, default=State.HELD)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
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

    reservation = models.OneToOneField(Reservation, models.PROTECT, related_name="record")
    period = models.ForeignKey(UsagePeriod, models.PROTECT, related_name="records")
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
    spending = models.ForeignKey(Spending, models.PROTECT, null=True, related_name="+", db_index=False)
    spent_micros = models.BigIntegerField(_("the supplier takes"), default=0)
    recorded_at = models.DateTimeField(_("at"), default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("usage record")
        verbose_name_plural = _("usage records")
        ordering = ("-recorded_at",)
        constraints = (
            models.CheckConstraint(condition=Q(cost_micros__gte=0, spent_micros__gte=0), name="cost_not_negative"),
        )

    def __str__(self) -> str:
        return f"{self.label} {self.cost_micros}"


def month_of(moment: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """Return the calendar month (UTC) that contains `moment`: its first instant, and the next month's."""
    start = moment.astimezone(dt.UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return start, (start + dt.timedelta(days=32)).replace(day=1)
