"""Whether a notification is Mercado Pago's, and what it is about. What it says is never believed.

The SDK's own validator is not used: it takes an empty secret, and refuses times in milliseconds when it compares them.
"""

import hashlib
import hmac
import json
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

from billing.gateways.base import BadNotification, Notification, Reference
from billing.gateways.mercadopago.agreements import GATEWAY

TOLERANCE_SECONDS = 300
MILLISECONDS_FROM = 10**11
"""A time above this is in milliseconds: in seconds it would be the year 5138."""

TOPICS: Mapping[str, str] = {
    "payment": "payment",
    "subscription_preapproval": "subscription",
    "subscription_authorized_payment": "instalment",
    "topic_merchant_order_wh": "merchant_order",
    "topic_chargebacks_wh": "chargeback",
}
"""What a notification may be about, and what we call that."""

ID = re.compile(r"[A-Za-z0-9-]{1,64}")


def read_signed(
    body: bytes, headers: Mapping[str, str], query: Mapping[str, str], secrets: Iterable[str]
) -> Notification:
    """Return what a genuine notification is about. Raises BadNotification. The old unsigned IPN is never genuine."""
    given = {name.lower(): value for name, value in headers.items()}
    request_id, data_id = given.get("x-request-id", ""), query.get("data.id", "")
    _check_signature(given.get("x-signature", ""), request_id, data_id, secrets)
    content = _read_object(body)
    topic = str(content.get("type") or query.get("type") or "")
    told_id = (
        str((content.get("data") or {}).get("id") or data_id) if isinstance(content.get("data"), dict) else data_id
    )
    if not ID.fullmatch(data_id) or told_id.lower() != data_id.lower():
        raise BadNotification("its ids are missing, or differ")
    if topic not in TOPICS:
        return Notification("", "other", None)
    # Of what tells it apart only that is used which is signed, so that one that was overheard cannot be made into many.
    digest = hashlib.sha256(f"{data_id}:{request_id or content.get('id')}".encode("utf-8", "replace")).hexdigest()
    return Notification(f"{topic}:{digest[:32]}", topic, Reference(GATEWAY, TOPICS[topic], told_id))


def _check_signature(header: str, request_id: str, data_id: str, secrets: Iterable[str]) -> None:
    parts = dict(part.strip().split("=", 1) for part in header.split(",") if "=" in part)
    sent_at, signature = parts.get("ts", ""), parts.get("v1", "")
    if not signature or not (sent_at.isascii() and sent_at.isdigit() and len(sent_at) <= 16):
        raise BadNotification("it is not signed")
    usable = [secret for secret in secrets if secret]
    if not usable:
        raise BadNotification("MERCADOPAGO_WEBHOOK_SECRET is not set")
    seconds = int(sent_at) / 1000 if int(sent_at) > MILLISECONDS_FROM else int(sent_at)
    if abs(time.time() - seconds) > TOLERANCE_SECONDS:
        raise BadNotification("it is too old, or of the future")
    # What is signed has the id as it is, or in lower case: Mercado Pago's own libraries disagree.
    manifests = {_manifest(known_id, request_id, sent_at) for known_id in (data_id, data_id.lower())}
    for secret in usable:
        for manifest in manifests:
            expected = hmac.new(secret.encode(), manifest.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
            if hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
                return
    raise BadNotification("its signature is another")


def _manifest(data_id: str, request_id: str, sent_at: str) -> str:
    """Return what is signed; parts that are missing are left out."""
    parts = [f"id:{data_id}"] * bool(data_id) + [f"request-id:{request_id}"] * bool(request_id) + [f"ts:{sent_at}"]
    return ";".join(parts) + ";"


def _read_object(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadNotification("it is no JSON") from error
    if not isinstance(content, dict):
        raise BadNotification("it is no object")
    return content
