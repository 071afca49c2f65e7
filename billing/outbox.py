"""What is to be done at gateways: a row first, written with what it follows from, and done outside of transactions.

Each task has a key, which the gateway gets, too: to do it twice is to do it once. When it is done the gateway is asked
how things are now, by way of the inbox, so that whoever dies in between loses nothing.
"""

import logging

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext_noop

from billing import inbox
from billing.gateways import get_gateway
from billing.gateways.base import GatewayRefused, GatewayUnavailable, Reference
from billing.models import MAX_ATTEMPTS, ROUND_SECONDS, GatewayEvent, GatewayTask, Payment, Subscription
from billing.subscriptions import reference_of
from core.alerts import alert
from core.sweeps import PAGE_SIZE, guard, while_time

logger = logging.getLogger(__name__)

Act = GatewayTask.Act


def do_due() -> None:
    """Do what is due, the longest waiting first."""
    for task in while_time(GatewayTask.objects.due()[:PAGE_SIZE], ROUND_SECONDS):
        with guard("gateway task", task=task.pk):
            do_task(task)


def do_task(task: GatewayTask) -> bool:
    """Do one, unless it is done or somebody else does it, and see what came of it; return whether it is done.

    The caller holds no transaction.
    """
    if not task.claim():
        task.refresh_from_db(fields=["done_at", "error"])
        return task.done_at is not None and not task.error
    if task.is_hopeless:
        _give_up(task, "nobody came to its end")
        return False
    try:
        _do(task)
    except (GatewayUnavailable, KeyError) as error:
        _try_later(task, f"{type(error).__name__}: {error}")
        return False
    except GatewayRefused as refused:
        logger.warning("Gateway refused a task", extra={"task": task.pk, "code": refused.code})
        event = _finish(task, f"refused: {refused.code}")
        _alert(task, refused.code)
    else:
        event = _finish(task)
    if event is not None:
        inbox.handle_event(event, is_waited_for=True)
    return not task.error


def reopen(task: GatewayTask) -> bool:
    """Let it be done as if it never had been, and what comes of it be asked again; return False if it is done."""
    GatewayEvent.objects.filter(gateway=task.gateway, event_id=_event_id(task)).delete()
    return task.reopen()


def _do(task: GatewayTask) -> None:
    gateway = get_gateway(task.gateway)
    match task.act:
        case Act.CANCEL_NOW:
            gateway.cancel_now(task.reference, key=task.key)
        case Act.CANCEL_AT_PERIOD_END:
            if _is_too_late(task):
                gateway.cancel_now(task.reference, key=task.key)
            else:
                gateway.cancel_at_period_end(task.reference, key=task.key)
        case Act.RESUME:
            gateway.resume(task.reference, key=task.key)
        case Act.REFUND:
            gateway.refund(task.reference, amount_minor=task.amount_minor, key=task.key)
        case Act.RETURN_CREDIT:
            gateway.return_credit(task.reference, amount_minor=task.amount_minor, key=task.key)
        case Act.EXPIRE_CHECKOUT:
            gateway.expire_checkout(Reference(task.gateway, task.reference_type, task.reference))
        case Act.FORGET_CUSTOMER:
            gateway.forget_customer(task.account_id, key=task.key)


def _is_too_late(task: GatewayTask) -> bool:
    """Whether what it was to be cancelled at the end of is over: a gateway that was silent would take the next one's
    end. It may have charged for that already, which the operator is told to look at."""
    subscription = Subscription.objects.filter(gateway=task.gateway, reference=task.reference).first()
    held_until = subscription.held_until if subscription else None
    if held_until is None or timezone.now() < held_until:
        return False
    sentence = gettext_noop("A cancellation comes late to %(gateway)s. See whether more was charged, and refund that.")
    fields = {"gateway": task.gateway, "reference": task.reference, "account": task.account_id}
    alert(f"{task.gateway}:late:{task.key}", sentence, **fields)
    return True


def _finish(task: GatewayTask, error: str = "") -> GatewayEvent | None:
    """Note that it is done and, in the same transaction, that the gateway is to be asked how things are now."""
    with transaction.atomic():
        task.finish(error)
        task.error = error
        about = _about(task)
        return inbox.note(about, event_id=_event_id(task), event_type=f"task.{task.act}") if about else None


def _event_id(task: GatewayTask) -> str:
    return f"task:{task.key}"


def _about(task: GatewayTask) -> Reference | None:
    if task.act == Act.FORGET_CUSTOMER:
        return None
    if task.act == Act.EXPIRE_CHECKOUT:
        return Reference(task.gateway, task.reference_type, task.reference)
    if task.act in (Act.REFUND, Act.RETURN_CREDIT):
        of_payment = Payment.objects.select_related("subscription")
        payment = of_payment.filter(gateway=task.gateway, reference=task.reference).first()
        return reference_of(payment.subscription) if payment else None
    subscription = Subscription.objects.filter(gateway=task.gateway, reference=task.reference).first()
    return reference_of(subscription) if subscription else None


def _try_later(task: GatewayTask, error: str) -> None:
    if task.attempts < MAX_ATTEMPTS:
        task.postpone(error)
    else:
        _give_up(task, error)


def _give_up(task: GatewayTask, error: str) -> None:
    task.finish(error)
    _alert(task, error)


def _alert(task: GatewayTask, error: str) -> None:
    """Tell the operator; that a checkout which is to end has ended in a purchase is nothing to tell."""
    if task.act != Act.EXPIRE_CHECKOUT:
        sentence = gettext_noop("Something could not be done at %(gateway)s, and is not tried again.")
        fields = {
            "gateway": task.gateway,
            "act": task.act,
            "reference": task.reference,
            "account": task.account_id,
            "error": error,
        }
        alert(f"{task.gateway}:task:{task.key}", sentence, **fields)
