"""Who pays, and what an operator did to their account."""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from billing.models.selling import Plan


class BillingAccount(models.Model):
    """Who pays, and the row that is locked while what they pay for is written.

    `plan` is what an operator granted, until `grant_until` or without end. `holds` is the number of the held
    reservations. `subscribed_until` and `packs_until` are the latest moments at which a subscription or a pack may
    still count: after them, nobody needs to look.

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
