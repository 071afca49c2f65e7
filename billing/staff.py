"""What operators do, each with a row that says who did it and why, written in the same transaction.

`key` is of the form that was sent: with the same key again, nothing more is done. What is to be done at a gateway is
a task of the outbox; the functions return whether it is done: if not, it will be.
"""

import datetime as dt
from typing import Any
from uuid import uuid4

from django.db import transaction
from django.db.models import QuerySet, Sum
from django.utils import timezone

from accounts.models import User
from billing import inbox, letters, outbox
from billing.errors import NothingToRefund, NothingToTry, RefundUnderway
from billing.models import (
    BillingAccount,
    GatewayEvent,
    GatewayTask,
    Payment,
    Plan,
    Price,
    StaffAct,
    Subscription,
    UsagePeriod,
    new_price_reference,
)
from billing.subscriptions import (
    add_refund,
    add_task,
    credited_minor,
    handle,
    lock_account,
    reference_of,
    write_access,
)

Act = StaffAct.Act


def grant_plan(
    account: BillingAccount,
    plan: Plan | None,
    *,
    by: User,
    reason: str,
    until: dt.datetime | None = None,
    key: str = "",
) -> None:
    """Grant a plan, until then or without end, in place of what was granted before; None takes that away."""
    details = {"plan": plan.key if plan else "", "until": until.isoformat() if until and plan else ""}
    with transaction.atomic():
        account = lock_account(account.pk)
        if not _record(account, Act.GRANT if plan else Act.REVOKE, by, reason, details, key):
            return
        account.plan, account.grant_until = plan, until if plan else None
        account.grant_reason, account.granted_by = reason[:200], by if plan else None
        account.save(update_fields=["plan", "grant_until", "grant_reason", "granted_by"])
        write_access(account)


def refund(payment: Payment, *, by: User, reason: str, amount_minor: int | None = None, key: str = "") -> bool:
    """Give a payment back, or a part of it. Raises NothingToRefund, also for more than is left, and RefundUnderway."""
    key = key or uuid4().hex
    task_key = f"refund:{key}"
    with transaction.atomic():
        account = lock_account(payment.subscription.account_id)
        payment = Payment.objects.select_related("subscription").get(pk=payment.pk)
        left = refundable_minor(payment)
        amount_minor = left if amount_minor is None else amount_minor
        details = {"payment": payment.pk, "amount_minor": amount_minor, "currency": payment.currency}
        if _record(account, Act.REFUND, by, reason, details, key):
            if not 0 < amount_minor <= left:
                raise NothingToRefund
            if _refunds_of(payment).filter(done_at=None).exists():
                raise RefundUnderway
            add_refund(account, payment, key=task_key, amount_minor=amount_minor)
            Payment.objects.filter(pk=payment.pk).update(refund_answered_at=timezone.now())
    return outbox.do_task(GatewayTask.objects.get(key=task_key))


def refuse_refund(payment: Payment, *, by: User, reason: str, key: str = "") -> None:
    """Answer somebody who asked for their money back with no; they are mailed the reason. Raises NothingToRefund where
    nobody waits for an answer."""
    with transaction.atomic():
        account = lock_account(payment.subscription.account_id)
        payment = Payment.objects.select_related("subscription").get(pk=payment.pk)
        if not _record(account, Act.REFUSE_REFUND, by, reason, {"payment": payment.pk}, key):
            return
        if not payment.waits_for_answer:
            raise NothingToRefund
        payment.refund_answered_at, payment.refund_answer = timezone.now(), reason[:200]
        payment.save(update_fields=["refund_answered_at", "refund_answer"])
        letters.note_refusal(payment)


def cancel_for(subscription: Subscription, *, by: User, reason: str, at_once: bool = False, key: str = "") -> bool:
    """Cancel somebody's subscription, at once or at the end of what is paid."""
    act = GatewayTask.Act.CANCEL_NOW if at_once else GatewayTask.Act.CANCEL_AT_PERIOD_END
    task_key = f"staff:{act}:{subscription.pk}:{subscription.observed_at.timestamp():.6f}"
    with transaction.atomic():
        account = lock_account(subscription.account_id)
        if _record(account, Act(act), by, reason, {"subscription": subscription.pk}, key):
            task = add_task(account, subscription.gateway, act, subscription.reference, key=task_key)
        else:
            task = account.gateway_tasks.filter(act=act, reference=subscription.reference).latest("pk")
    return outbox.do_task(task)


def resync(subscription: Subscription, *, by: User, reason: str = "", key: str = "") -> Subscription | None:
    """Ask the gateway now, and make our rows say what it says. Raises what `subscriptions.handle` does."""
    _record(subscription.account, Act.RESYNC, by, reason, {"subscription": subscription.pk}, key)
    return handle(reference_of(subscription))


def try_again(errand: GatewayEvent | GatewayTask, *, by: User, reason: str, key: str = "") -> bool:
    """Do now what is waiting, or was given up. Raises NothingToTry for what is done."""
    with transaction.atomic():
        if isinstance(errand, GatewayTask):
            details = {"task": errand.key, "error": errand.error}
            is_new = _record(errand.account, Act.RETRY_TASK, by, reason, details, key)
            is_open = is_new and outbox.reopen(errand)
        else:
            details = {"event": errand.event_id, "error": errand.error}
            is_new = _record(None, Act.RETRY_EVENT, by, reason, details, key)
            is_open = is_new and errand.reopen()
        if is_new and not is_open:
            raise NothingToTry
    return outbox.do_task(errand) if isinstance(errand, GatewayTask) else inbox.handle_event(errand)


def replace_price(price: Price, amount_minor: int, *, by: User, reason: str, key: str = "") -> Price:
    """Withdraw a price, and sell the same for another amount; who bought it goes on paying it. Return the new one."""
    reference = new_price_reference()
    details = {"price": price.reference, "amount_minor": amount_minor, "new": reference}
    with transaction.atomic():
        if not _record(None, Act.REPLACE_PRICE, by, reason, details, key):
            reference = StaffAct.objects.get(key=key).details["new"]
            return Price.objects.get(gateway=price.gateway, reference=reference)
        Price.objects.filter(pk=price.pk).update(is_for_sale=False)
        same = {name: getattr(price, name) for name in Price.FIXED - {"reference", "amount_minor"}}
        return Price.objects.create(**same, reference=reference, amount_minor=amount_minor)


def attach_document(payment: Payment, *, by: User, number: str, url: str = "", key: str = "") -> None:
    """Note the fiscal document that the operator made for a payment; its payer sees it. Empty takes it away."""
    details = {"payment": payment.pk, "number": number, "url": url}
    with transaction.atomic():
        if _record(payment.subscription.account, Act.FISCAL_DOCUMENT, by, "", details, key):
            Payment.objects.filter(pk=payment.pk).update(fiscal_number=number, fiscal_url=url)


def refundable_minor(payment: Payment) -> int:
    """Return what of a payment can be given back: what was, what the gateway was told since it was asked last, and what
    was credited to a payment that took its place, is not left."""
    if not payment.may_be_refunded:
        return 0
    told = _refunds_of(payment).filter(error="", done_at__gt=payment.subscription.observed_at)
    back = payment.refunded_minor + (told.aggregate(told=Sum("amount_minor"))["told"] or 0) + credited_minor(payment)
    return max(0, payment.amount_minor - back)


def micros_used_with(payment: Payment) -> int:
    """Return what was used of the credits that the payment gave: what an operator looks at before a refund. An upgrade
    gave its own to a period that had begun."""
    if payment.usage_period is not None:
        return payment.usage_period.used_micros
    if payment.period_start is None or payment.period_end is None:
        return 0
    within = payment.subscription.account.periods.filter(
        kind=UsagePeriod.Kind.PAID, period_end__gt=payment.period_start, period_start__lt=payment.period_end
    )
    return int(within.aggregate(used=Sum("used_micros"))["used"] or 0)


def _refunds_of(payment: Payment) -> QuerySet[GatewayTask]:
    tasks = payment.subscription.account.gateway_tasks.filter(act=GatewayTask.Act.REFUND)
    return tasks.filter(gateway=payment.gateway, reference=payment.reference)


def _record(
    account: BillingAccount | None, act: StaffAct.Act, by: User, reason: str, details: dict[str, Any], key: str = ""
) -> bool:
    """Write down an act, before it is done; return False if that form was sent before."""
    fields = {"account": account, "by": by, "act": act, "reason": reason[:200], "details": details}
    _act, is_new = StaffAct.objects.get_or_create(key=key or uuid4().hex, defaults={**fields, "at": timezone.now()})
    return is_new
