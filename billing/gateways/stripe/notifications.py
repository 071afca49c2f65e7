"""Whether a notification is Stripe's, and what it is about. Nothing is asked, and nothing it says is believed."""

import json
from collections.abc import Mapping
from typing import Any

import stripe
from django.conf import settings

from billing.gateways.base import BadNotification, Notification, Reference
from billing.gateways.stripe.catalogue import EVENTS
from billing.gateways.stripe.snapshots import NAME

TOLERANCE_SECONDS = 300


def read(body: bytes, headers: Mapping[str, str]) -> Notification:
    """Raises BadNotification. A second secret counts while one takes the other's place."""
    signature = next((value for name, value in headers.items() if name.lower() == "stripe-signature"), "")
    if not any(_is_signed(body, signature, secret) for secret in settings.STRIPE_WEBHOOK_SECRETS if secret):
        raise BadNotification("signature")
    event = _parse(body)
    if event.get("livemode") is not settings.STRIPE_LIVE_MODE:
        raise BadNotification("mode")
    data = event.get("data")
    about = data.get("object") if isinstance(data, dict) else None
    if not isinstance(about, dict):
        raise BadNotification("no event")
    event_id, event_type = _word(event.get("id")), _word(event.get("type"))
    reference = None
    if event_type in EVENTS:
        reference = Reference(NAME, _word(about.get("object")), _word(about.get("id")))
    return Notification(event_id, event_type, reference)


def _word(found: Any) -> str:
    """Return a string that a database keeps; PostgreSQL keeps no NUL."""
    if not isinstance(found, str) or "\0" in found:
        raise BadNotification("no event")
    return found


def _is_signed(body: bytes, signature: str, secret: str) -> bool:
    try:
        stripe.WebhookSignature.verify_header(body, signature, secret, TOLERANCE_SECONDS)
    except (stripe.SignatureVerificationError, ValueError, TypeError):  # neither UTF-8 nor ASCII: the SDK trips
        return False
    return True


def _parse(body: bytes) -> dict[str, Any]:
    try:
        event = json.loads(body)
    except ValueError:
        raise BadNotification("no JSON") from None
    if not isinstance(event, dict):
        raise BadNotification("no JSON object")
    return event
