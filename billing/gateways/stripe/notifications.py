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
    event_id, event_type = event.get("id"), event.get("type")
    data = event.get("data")
    about = data.get("object") if isinstance(data, dict) else None
    if not (isinstance(event_id, str) and isinstance(event_type, str) and isinstance(about, dict)):
        raise BadNotification("no event")
    reference = None
    if event_type in EVENTS and isinstance(about.get("id"), str) and isinstance(about.get("object"), str):
        reference = Reference(NAME, about["object"], about["id"])
    return Notification(event_id, event_type, reference)


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
    if not isinstance(event, dict) or "\0" in str(event):  # PostgreSQL keeps no NUL
        raise BadNotification("no JSON object")
    return event
