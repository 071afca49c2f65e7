"""What operators do to somebody's account, each with a row that says who did it and why."""

import datetime as dt
from typing import Any

from django.db import transaction
from django.db.models import Sum
from django.utils import timezone

from accounts.models import User
from billing import outbox
from billing.errors import NothingToRefund
from billing.models import BillingAccount, GatewayTask, Payment, Plan, StaffAct, Subscription, UsagePeriod
from billing.subscriptions import add_refund, add_task, handle, lock_account, reference_of, write_access


def grant_plan(
    account: BillingAccount, plan: Plan | None, *, by: User, reason: str, until: dt.datetime | None = None
) -> None:
    """Grant a plan, until then or without end, in place of what was granted before; None takes that away."""
    with transaction.atomic():
        account = lock_account(account.pk)
        account.plan, account.grant_until = plan, until if plan else None
        account.grant_reason, account.granted_by = reason[:200], by if plan else None
        account.save(update_fields=["plan", "grant_until", "grant_reason", "granted_by"])
        write_access(account)
        details = {"plan": plan.key if plan else "", "until": until.isoformat() if until else ""}
        _record(account, "grant" if plan else "revoke", by, reason, details)


def refund(payment: Payment, *, by: User, reason: str, amount_minor: int | None = None) -> bool:
    """Give a payment back, or a part of it; return whether it is done: if not, it will be. Raises NothingToRefund."""
    with transaction.atomic():
        account = lock_account(payment.subscription.account_id)
        payment = Payment.objects.select_related("subscription").get(pk=payment.pk)
        if not payment.may_be_refunded:
            raise NothingToRefund
        key = f"refund:{payment.pk}:{payment.refunded_minor}"
        task = add_refund(account, payment, key=key, amount_minor=amount_minor)
        _record(account, "refund", by, reason, {"payment": payment.pk, "amount_minor": task.amount_minor})
    return outbox.do_task(task)


def cancel_for(subscription: Subscription, *, by: User, reason: str, at_once: bool = False) -> bool:
    """Cancel somebody's subscription; return whether it is done: if not, it will be."""
    act = GatewayTask.Act.CANCEL_NOW if at_once else GatewayTask.Act.CANCEL_AT_PERIOD_END
    with transaction.atomic():
        account = lock_account(subscription.account_id)
        key = f"staff:{act}:{subscription.pk}:{subscription.observed_at.timestamp():.6f}"
        task = add_task(account, subscription.gateway, act, subscription.reference, key=key)
        _record(account, act, by, reason, {"subscription": subscription.pk})
    return outbox.do_task(task)


def resync(subscription: Subscription, *, by: User) -> Subscription | None:
    """Ask the gateway now, and make our rows say what it says. Raises what `subscriptions.handle` does."""
    found = handle(reference_of(subscription))
    _record(subscription.account, "resync", by, "", {"subscription": subscription.pk})
    return found


def micros_used_with(payment: Payment) -> int:
    """Return what was used of the credits that the payment gave: what an operator looks at before a refund."""
    if payment.usage_period is not None:
        return payment.usage_period.used_micros
    if payment.period_start is None or payment.period_end is None:
        return 0
    within = payment.subscription.account.periods.filter(
        kind=UsagePeriod.Kind.PAID, period_start__gte=payment.period_start, period_start__lt=payment.period_end
    )
    return int(within.aggregate(used=Sum("used_micros"))["used"] or 0)


def _record(account: BillingAccount, act: str, by: User, reason: str, details: dict[str, Any]) -> None:
    StaffAct.objects.create(account=account, by=by, act=act, reason=reason[:200], details=details, at=timezone.now())
