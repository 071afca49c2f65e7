"""Stripe's notifications: what is genuine becomes one row, and nothing else does anything."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import stripe
from django.test import Client, override_settings
from djstripe import models as rows

from billing.models import GatewayEvent, Subscription
from tests.billing.stripe_site import SECRET, SETTINGS, Shop

ADDRESS = f"/stripe/webhook/{SETTINGS['STRIPE_WEBHOOK_UUID']}/"
EVENT: dict[str, Any] = {
    "id": "evt_1",
    "object": "event",
    "type": "customer.subscription.updated",
    "livemode": False,
    "data": {"object": {"id": "sub_1", "object": "subscription"}},
}

Send = Callable[..., int]


@pytest.fixture
def send(db: None, settings: Any) -> Send:
    """Return how to post a body, signed as Stripe's own SDK signs; the answer's status comes back."""
    for name, value in SETTINGS.items():
        setattr(settings, name, value)

    def post(
        body: Any = EVENT, *, secret: str = SECRET, at: int | None = None, address: str = ADDRESS, **headers: str
    ) -> int:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        text = data.decode(errors="replace")
        signature = stripe.WebhookSignature.generate_signature_header(text, secret, at)
        headers = {"stripe-signature": signature} | headers
        answer = Client(headers=headers).post(address, data, content_type="application/json")
        return answer.status_code

    return post


@pytest.mark.stores
def test_a_genuine_event_is_one_row_however_often_it_comes(send: Send) -> None:
    assert [send(), send(), send()] == [200, 200, 200]
    event = GatewayEvent.objects.get()
    assert (event.gateway, event.event_id, event.event_type) == ("stripe", "evt_1", "customer.subscription.updated")
    assert (event.reference_type, event.reference_id, event.done_at) == ("subscription", "sub_1", None)


def test_a_simulated_event_of_stripe_arrives(shop: Shop, live_server: Any) -> None:
    from tests.billing.stripe_site import simulated

    simulated.notice_url = f"{live_server.url}{ADDRESS}"
    try:
        shop.buy()
        deadline = time.monotonic() + 20
        while simulated.state["notices"] and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        simulated.notice_url = ""
    types = set(GatewayEvent.objects.values_list("event_type", flat=True))
    assert {"checkout.session.completed", "customer.subscription.created", "invoice.paid"} <= types
    assert "payment_intent.succeeded" not in types  # of no interest: its invoice tells


@pytest.mark.stores
@pytest.mark.parametrize(
    "body",
    [b"null", b"5", b"[]", b'"text"', b"", b"{", b"\xff\xfe", b'{"id": "evt_\\u0000"}', b"\0", b"{}"],
    ids=repr,
)
def test_a_signed_body_that_is_no_event_is_refused(send: Send, body: bytes) -> None:
    assert send(body) == 400
    assert not GatewayEvent.objects.exists()


@pytest.mark.stores
def test_an_event_with_a_nul_is_refused(send: Send) -> None:
    assert send({**EVENT, "data": {"object": {"id": "sub_\0", "object": "subscription"}}}) == 400
    assert not GatewayEvent.objects.exists()


def test_three_megabytes_are_refused(send: Send) -> None:
    assert send(b'{"a": "' + b"x" * 3_000_000 + b'"}') == 400
    assert send({**EVENT, "padding": "x" * 600_000}) == 400
    assert send({**EVENT, "padding": "x" * 400_000}) == 200


def test_a_forged_signature_is_refused_and_stores_nothing(send: Send) -> None:
    assert send(secret="whsec_of_somebody_else") == 400
    assert send(**{"stripe-signature": ""}) == 400
    assert send(**{"stripe-signature": "t=1,v1=é"}) == 400
    assert send(**{"stripe-signature": "t=1,v1="}) == 400
    assert send(**{"stripe-signature": "nonsense"}) == 400
    assert not GatewayEvent.objects.exists()
    assert not rows.WebhookEventTrigger.objects.exists()


def test_a_body_that_was_changed_is_refused(send: Send) -> None:
    signature = stripe.WebhookSignature.generate_signature_header(json.dumps(EVENT), SECRET)
    changed = {**EVENT, "id": "evt_2"}
    assert send(changed, **{"stripe-signature": signature}) == 400


def test_an_event_that_is_replayed_after_minutes_is_refused(send: Send) -> None:
    assert send(at=int(time.time()) - 400) == 400
    assert send(at=int(time.time()) - 200) == 200


def test_an_event_of_the_other_mode_is_refused(send: Send, settings: Any) -> None:
    assert send({**EVENT, "livemode": True}) == 400
    settings.STRIPE_LIVE_MODE = True
    assert send({**EVENT, "livemode": True}) == 200
    assert send({**EVENT, "livemode": 1}) == 400


def test_the_old_secret_counts_while_the_new_one_takes_its_place(send: Send, settings: Any) -> None:
    settings.STRIPE_WEBHOOK_SECRETS = ["whsec_new", SECRET]
    assert send() == send(secret="whsec_new") == 200
    settings.STRIPE_WEBHOOK_SECRETS = ["whsec_new"]
    assert send() == 400


@pytest.mark.parametrize("secrets", [[], [""]])
def test_without_a_secret_nothing_is_believed(send: Send, settings: Any, secrets: list[str]) -> None:
    settings.STRIPE_WEBHOOK_SECRETS = secrets
    assert send(secret="") == 400
    assert send() == 400


@override_settings(DEBUG=True)
def test_no_header_chooses_the_secret(send: Send) -> None:
    assert send(secret="mine", **{"x-djstripe-webhook-secret": "mine"}) == 400


@pytest.mark.stores
def test_a_strange_forwarded_address_hurts_nobody(send: Send) -> None:
    assert send(**{"x-forwarded-for": "unknown"}) == 200


def test_another_address_is_not_there(send: Send, settings: Any) -> None:
    assert send(address="/stripe/webhook/00000000-0000-0000-0000-000000000000/") == 404
    settings.GATEWAYS = {}
    assert send() == 404


def test_only_a_post_is_a_notification(send: Send) -> None:
    assert Client().get(ADDRESS).status_code == 405


def test_an_event_of_no_interest_is_taken_and_forgotten(send: Send) -> None:
    assert send({**EVENT, "type": "product.created"}) == 200
    assert not GatewayEvent.objects.exists()


def test_an_answer_needs_nothing_of_stripe(shop: Shop, send: Send) -> None:
    shop.control("faults", kind="cut", times=100, path="/v1/")
    assert send() == 200
    assert not Subscription.objects.exists()


def test_thousands_of_forged_notifications_leave_no_row(send: Send) -> None:
    for number in range(200):
        assert send({**EVENT, "id": f"evt_{number}"}, secret="whsec_forged") == 400
    assert not GatewayEvent.objects.exists()
    assert not rows.Event.objects.exists()
    assert not rows.WebhookEventTrigger.objects.exists()
