"""How somebody stands: which plan they have, why, until when, and what comes next. Pages and API show the same."""

import datetime as dt
from dataclasses import dataclass
from typing import Literal

from django.utils import timezone

from billing.entitlements import Access, access_of
from billing.models import BillingAccount, GatewayTask, Plan, Price, Subscription
from billing.purchasing import find_free_moment, find_waiting, is_overdue, list_live

Status = Literal[
    "default", "granted", "trial", "active", "cancelled", "overdue", "unpaid", "frozen", "prepaid", "paused", "waiting"
]
"""`cancelled`: paid until then, and not renewed. `overdue`: not paid, and in its grace; `unpaid`: the grace is over.
`frozen`: a payment is disputed. `waiting`: bought, and nothing is paid yet."""


@dataclass(frozen=True, slots=True)
class Standing:
    """`plan` is what holds now. `until` is when it ends unless something is paid or changed; `next_price` is what will
    be charged at `next_payment_at`; `later` is what was bought and begins when `subscription` ends. While
    `is_being_cancelled`, the gateway has still to be told of a cancellation."""

    status: Status
    plan: Plan
    subscription: Subscription | None = None
    until: dt.datetime | None = None
    next_price: Price | None = None
    next_payment_at: dt.datetime | None = None
    later: Subscription | None = None
    is_being_cancelled: bool = False

    @property
    def is_planned_change(self) -> bool:
        """Whether the next payment is for another plan than the one that was paid last."""
        held = self.subscription.plan if self.subscription else None
        return self.next_price is not None and held is not None and self.next_price.plan_id != held.pk

    @property
    def may_cancel(self) -> bool:
        """Whether something would be charged again, now or later, or for the first time."""
        if self.is_being_cancelled:
            return False
        bought = [one for one in (self.subscription, self.later) if one is not None]
        is_charged = any(one.renews or one.status == Subscription.Status.PAUSED for one in bought)
        return is_charged or self.status == "waiting"

    @property
    def may_resume(self) -> bool:
        """Whether a cancellation or a planned change can be taken back."""
        held = self.subscription
        if held is None or held.status == Subscription.Status.ENDED or self.later is not None:
            return False
        is_cancelled = self.status == "cancelled" and held.cancels_at is not None
        return is_cancelled or (self.status in ("active", "trial") and held.next_price_id is not None)


def standing_of(account: BillingAccount) -> Standing:
    access, now = access_of(account), timezone.now()
    found = list_live(account)
    live = [one for one in found if not _begins_later(one, now)]
    current = next((one for one in live if access.subscription and one.pk == access.subscription.pk), None)
    current = current or max(live, key=lambda one: one.pk, default=None)
    later = next((one for one in found if _begins_later(one, now)), None)
    if current is None:
        return _without_subscription(account, access, later)
    status = _status_of(current, now)
    if status in ("active", "trial") and _is_being_cancelled(account, current):
        return Standing("cancelled", access.plan, current, current.access_until, later=later, is_being_cancelled=True)
    if not current.renews or status in ("frozen", "paused"):
        return Standing(status, access.plan, current, current.access_until, later=later)
    price = current.next_price or current.price
    next_payment_at = current.trial_end if status == "trial" else current.paid_until
    return Standing(status, access.plan, current, current.access_until, price, next_payment_at, later)


def _is_being_cancelled(account: BillingAccount, subscription: Subscription) -> bool:
    """Whether it was cancelled here and its gateway does not know yet: it was silent, or a worker tells it just now."""
    acts = (GatewayTask.Act.CANCEL_NOW, GatewayTask.Act.CANCEL_AT_PERIOD_END)
    told_later = account.gateway_tasks.filter(done_at=None, act__in=acts, gateway=subscription.gateway)
    return told_later.filter(reference=subscription.reference).exists()


def _begins_later(subscription: Subscription, now: dt.datetime) -> bool:
    """Whether it was bought to begin when another one ends: nothing of it is paid yet, or what is paid begins later."""
    return subscription.anchor > now and (subscription.access_from is None or subscription.access_from > now)


def _without_subscription(account: BillingAccount, access: Access, later: Subscription | None) -> Standing:
    if account.plan_id == access.plan.pk and not access.plan.is_default:
        return Standing("granted", access.plan, None, access.until, later=later)
    begun = find_waiting(account)
    return Standing("waiting" if begun else "default", access.plan, begun, later=later)


def _status_of(subscription: Subscription, now: dt.datetime) -> Status:
    if subscription.is_frozen:
        return "frozen"
    if subscription.status == Subscription.Status.PAUSED:
        return "paused"
    if subscription.kind == Subscription.Kind.PREPAID:
        return "prepaid"
    if not subscription.renews:
        return "cancelled"
    paid_until, trial_end = subscription.paid_until, subscription.trial_end
    if subscription.is_trial and trial_end and now < trial_end and (paid_until is None or paid_until <= trial_end):
        return "trial"
    if is_overdue(subscription):
        return "overdue" if subscription.access_until and now < subscription.access_until else "unpaid"
    return "active"


def may_begin_when_it_ends(account: BillingAccount) -> bool:
    """Whether something else may be bought now that begins when the live subscription ends."""
    return find_free_moment(account) is not None
