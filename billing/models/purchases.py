"""What was bought, as a gateway says: subscriptions, their payments, and checkouts that were begun."""

import datetime as dt
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from billing.models.accounts import BillingAccount
from billing.models.ledger import UsagePeriod
from billing.models.selling import Coupon, Plan, Price


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
    credit_minor = models.BigIntegerField(_("paid with credit"), default=0)
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
    def lost_minor(self) -> int:
        """What the bank took back: of what was refunded in part before, the rest."""
        return self.amount_minor - self.refunded_minor if self.dispute == self.Dispute.LOST else 0

    @property
    def may_be_refunded(self) -> bool:
        """Whether there is money to give back. While a payment is disputed its bank decides, or it went back twice."""
        return self.counts and self.amount_minor > self.refunded_minor and self.dispute != self.Dispute.OPEN

    @property
    def waits_for_answer(self) -> bool:
        """Whether its payer asked for their money back, and the operator has not answered."""
        return self.refund_requested_at is not None and self.refund_answered_at is None


class Reversal(models.Model):
    """Money of a payment that went back, and when we heard of it. Never changed: what came back again, as after a
    refund that failed, is a row with a negative amount.

    The sums of a payment's rows are its `refunded_minor` and `lost_minor`.
    """

    class Kind(models.TextChoices):
        REFUND = "refund", _("refund")
        DISPUTE = "dispute", _("dispute lost")

    payment = models.ForeignKey(Payment, models.PROTECT, related_name="reversals")
    kind = models.CharField(_("kind"), max_length=7, choices=Kind)
    amount_minor = models.BigIntegerField(_("amount"))
    at = models.DateTimeField(_("at"))

    class Meta:
        indexes = (models.Index(fields=["at"], name="reversals_by_day"),)

    def __str__(self) -> str:
        return f"{self.kind} {self.amount_minor}"


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
