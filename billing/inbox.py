"""What gateways tell us: a row for each notification, which a worker handles by asking the gateway.

Nothing is believed of a notification but what it is about. A row may be handled twice, and by two at once: the second
time changes nothing.
"""

import datetime as dt
import logging
from contextlib import suppress

from celery import current_app
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext_noop
from kombu.exceptions import OperationalError

from billing.errors import UnknownPrice, WrongAccount
from billing.gateways.base import GatewayRefused, GatewayUnavailable, Notification, Reference
from billing.models import MAX_ATTEMPTS, ROUND_SECONDS, GatewayEvent
from billing.subscriptions import handle
from core.alerts import alert
from core.sweeps import PAGE_SIZE, guard, while_time

logger = logging.getLogger(__name__)

WORTH_TRYING_AGAIN = (GatewayUnavailable, UnknownPrice, WrongAccount, KeyError)
WORK_OFF = "billing.tasks.work_off_billing"
"""The task that does what is due; beat sends it, too."""


def receive(gateway: str, notification: Notification) -> None:
    """Write down a genuine notification, once, and wake a worker. One that is of no interest leaves nothing."""
    about = notification.reference
    if about is not None:
        note(about, event_id=notification.event_id, event_type=notification.event_type)


def note(about: Reference, *, event_id: str, event_type: str) -> GatewayEvent:
    """Write down, once for each id, that the gateway is to be asked about something; return the row."""
    with transaction.atomic():
        event, is_new = GatewayEvent.objects.get_or_create(
            gateway=about.gateway,
            event_id=event_id[:150],
            defaults={"event_type": event_type[:80], "reference_type": about.type, "reference_id": about.id},
        )
        if is_new:
            transaction.on_commit(wake, robust=True)
    return event


def wake() -> None:
    """Have a worker do what is due. Without a broker, the sweep does it within a minute."""
    try:
        current_app.send_task(WORK_OFF)
    except OperationalError:
        logger.warning("Nobody was woken for what gateways told")


def handle_due() -> None:
    """Handle what has come in and was not handled yet, the oldest first."""
    for event in while_time(GatewayEvent.objects.due()[:PAGE_SIZE], ROUND_SECONDS):
        with guard("gateway event", event=event.pk):
            handle_event(event)


def handle_event(event: GatewayEvent, *, is_waited_for: bool = False) -> bool:
    """Handle one, unless somebody else does; return whether it is done.

    Where a page waits for what comes of it, the gateway is asked here in any case: a worker that was faster may not be
    through, and the page would show how things were before.
    """
    about = Reference(event.gateway, event.reference_type, event.reference_id)
    if not event.claim():
        if is_waited_for:
            with suppress(GatewayRefused, *WORTH_TRYING_AGAIN):
                handle(about)
        return False
    if event.is_hopeless:
        _give_up(event, "nobody came to its end")
        return False
    begun = timezone.now()
    try:
        handle(about)
    except GatewayRefused as refused:
        event.finish(f"refused: {refused.code}")
        return False
    except WORTH_TRYING_AGAIN as error:
        _try_later(event, f"{type(error).__name__}: {error}")
        return False
    _finish_all_about(event, begun)
    return True


def _finish_all_about(event: GatewayEvent, begun: dt.datetime) -> None:
    """What was told of the same thing before it was asked for is answered, too."""
    event.finish()
    same = GatewayEvent.objects.filter(
        gateway=event.gateway, reference_type=event.reference_type, reference_id=event.reference_id, done_at=None
    )
    same.filter(created_at__lt=begun).update(done_at=timezone.now())


def _try_later(event: GatewayEvent, error: str) -> None:
    if event.attempts < MAX_ATTEMPTS:
        event.postpone(error)
    else:
        _give_up(event, error)


def _give_up(event: GatewayEvent, error: str) -> None:
    event.finish(error)
    sentence = gettext_noop("A notification of %(gateway)s could not be handled, and is not tried again.")
    alert(f"{event.gateway}:event:{event.pk}", sentence, gateway=event.gateway, error=error)
