"""Rows of what is to be done outside of the request that noticed it: notices, mails, inbox and outbox."""

import datetime as dt
from typing import Any, Self

from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from billing.models.accounts import BillingAccount
from billing.models.ledger import UsagePeriod
from billing.models.purchases import Payment, Subscription

ERRAND_SECONDS = 60
"""For how long an errand is nobody else's once it was claimed: longer than a gateway is ever waited for."""
ROUND_SECONDS = 30.0
"""How long a round of errands goes on: while a gateway is silent each of them takes its ten seconds, and mails wait."""
MAX_ATTEMPTS = 40
"""How often an errand is tried: for about a week."""


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
        RETURN_CREDIT = "return_credit", _("return the credit")
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
