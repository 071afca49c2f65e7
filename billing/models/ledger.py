"""What is granted, reserved and used of credits, and what suppliers take: the ledger, in micro-US-dollars."""

from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from billing.models.accounts import BillingAccount
from billing.models.selling import Plan


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


class PartMonth(models.Model):
    """What a part of an account used in one calendar month (UTC), for a limit of its own. What the part is, its caller
    knows: here it is a label.

    `used_micros` is the sum of the usage records, `reserved_micros` that of the held reservations, that are its own.
    """

    account = models.ForeignKey(BillingAccount, models.PROTECT, related_name="part_months")
    label = models.CharField(max_length=40)
    month = models.DateField()
    used_micros = models.BigIntegerField(default=0)
    reserved_micros = models.BigIntegerField(default=0)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["account", "label", "month"], name="one_month_a_part"),
            models.CheckConstraint(condition=Q(used_micros__gte=0, reserved_micros__gte=0), name="part_not_negative"),
        )

    def __str__(self) -> str:
        return f"{self.account_id} {self.label} {self.month:%Y-%m}"


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
    part_month = models.ForeignKey(PartMonth, models.PROTECT, null=True, related_name="reservations", db_index=False)
    state = models.CharField(_("state"), max_length=8, choices=State, default=State.HELD)
    created_at = models.DateTimeField(_("since"), default=timezone.now, editable=False)

    class Meta:
        verbose_name = _("reservation")
        verbose_name_plural = _("reservations")
        indexes = (
            models.Index(fields=["created_at"], condition=Q(state="held"), name="held_reservations"),
            # Most are of no part, and cost nothing here.
            models.Index(fields=["part_month"], condition=Q(part_month__isnull=False), name="reservations_of_parts"),
        )
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
