"""Notifications of Mercado Pago: whose they are, and what they are about. And whether what is simulated is like it."""

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator, Mapping

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from mercadopago.webhook.validator import InvalidWebhookSignatureError, WebhookSignatureValidator

from billing.gateways.base import BadNotification, Reference
from billing.gateways.mercadopago import notifications
from tests.billing.mercadopago import ORDER, PREPAID, SECRET, Simulation, simulated_mercado_pago

OLD_SECRET = "the-secret-before"
BODY = {"id": 17, "type": "payment", "action": "payment.updated", "data": {"id": "6001"}}
QUERY = {"data.id": "6001", "type": "payment"}


def signed(
    data_id: str = "6001", *, secret: str = SECRET, request_id: str = "r-1", sent_at: int | str | None = None
) -> dict[str, str]:
    sent_at = int(time.time()) if sent_at is None else sent_at
    parts = [f"id:{data_id}"] * bool(data_id) + [f"request-id:{request_id}"] * bool(request_id) + [f"ts:{sent_at}"]
    signature = hmac.new(secret.encode(), (";".join(parts) + ";").encode(), hashlib.sha256).hexdigest()
    return {"X-Signature": f"ts={sent_at},v1={signature}", "X-Request-Id": request_id}


def read(headers: Mapping[str, str], *, body: object = BODY, query: Mapping[str, str] = QUERY, secrets=(SECRET,)):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return notifications.read_signed(raw, headers, query, secrets)


def test_a_signed_notification_is_a_reference():
    found = read(signed())
    assert found.reference == Reference("mercadopago", "payment", "6001")
    assert found.event_type == "payment"


@pytest.mark.parametrize(
    ("topic", "kind"),
    [
        ("subscription_preapproval", "subscription"),
        ("subscription_authorized_payment", "instalment"),
        ("topic_merchant_order_wh", "merchant_order"),
        ("topic_chargebacks_wh", "chargeback"),
        ("subscription_preapproval_plan", None),
        ("point_integration_wh", None),
    ],
)
def test_each_topic_is_about_one_thing_or_of_no_interest(topic: str, kind: str | None):
    found = read(signed(), body={**BODY, "type": topic})
    assert found.reference == (Reference("mercadopago", kind, "6001") if kind else None)


def test_the_time_may_be_in_seconds_or_in_milliseconds():
    read(signed(sent_at=int(time.time())))
    read(signed(sent_at=int(time.time() * 1000)))


def test_the_id_may_be_signed_as_it_is_or_in_lower_case():
    body, query = {**BODY, "data": {"id": "ABC-1"}}, {"data.id": "ABC-1"}
    for data_id in ("ABC-1", "abc-1"):
        assert read(signed(data_id), body=body, query=query).reference == Reference("mercadopago", "payment", "ABC-1")


def test_two_secrets_count_while_one_follows_the_other():
    for secret in (SECRET, OLD_SECRET):
        read(signed(secret=secret), secrets=(SECRET, OLD_SECRET))


@pytest.mark.parametrize("secrets", [(), ("",), ("", "")])
def test_without_a_secret_nothing_is_believed(secrets: tuple[str, ...]):
    with pytest.raises(BadNotification, match="MERCADOPAGO_WEBHOOK_SECRET"):
        read(signed(secret=""), secrets=secrets)


@pytest.mark.parametrize(
    "headers",
    [
        dict,
        lambda: {"X-Signature": ""},
        lambda: {"X-Signature": "nonsense"},
        lambda: {"X-Signature": f"ts={int(time.time())}"},
        lambda: {"X-Signature": "v1=abc"},
        lambda: {"X-Signature": "ts=²,v1=abc"},
        lambda: {"X-Signature": f"ts={'9' * 5000},v1=abc"},
        lambda: {"X-Signature": f"ts={int(time.time())},v1=ñandú"},
        lambda: signed(secret="another"),
        lambda: signed(sent_at=int(time.time()) - 400),
        lambda: signed(sent_at=int(time.time()) + 400),
        lambda: signed(sent_at=int(time.time() * 1000) - 400_000),
        lambda: {**signed(), "X-Request-Id": "r-2"},
        lambda: {**signed(), "X-Signature": signed()["X-Signature"].replace("v1=", "v1=0")},
    ],
)
def test_a_forged_or_stale_notification_is_refused(headers: Callable[[], dict[str, str]]):
    """Signed when the test runs, not when it was collected: what is forged must not be refused for its age."""
    with pytest.raises(BadNotification):
        read(headers())


def test_the_old_unsigned_notification_is_refused():
    with pytest.raises(BadNotification, match="not signed"):
        read({}, body={"resource": "6001", "topic": "payment"}, query={"topic": "payment", "id": "6001"})


@pytest.mark.parametrize("body", [b"null", b"5", b"[]", b'"text"', b"", b"\0", b'{"a":', b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(body: bytes):
    with pytest.raises(BadNotification):
        read(signed(), body=body)


def test_what_is_told_must_be_what_was_signed():
    with pytest.raises(BadNotification, match="differ"):
        read(signed(), body={**BODY, "data": {"id": "6002"}})
    with pytest.raises(BadNotification, match="missing"):
        read(signed("../users"), body={**BODY, "data": {"id": "../users"}}, query={"data.id": "../users"})


def test_the_same_notification_has_the_same_id_whatever_is_not_signed():
    first = read(signed())
    assert read(signed(), body={**BODY, "id": 99, "action": "payment.created"}).event_id == first.event_id
    assert read(signed(request_id="r-2")).event_id != first.event_id


@given(
    signature=st.text(max_size=80),
    request_id=st.text(max_size=20),
    data_id=st.text(max_size=20),
    body=st.binary(max_size=40),
)
def test_no_notification_breaks_the_reading(signature: str, request_id: str, data_id: str, body: bytes):
    with pytest.raises(BadNotification):
        notifications.read_signed(
            body, {"x-signature": signature, "x-request-id": request_id}, {"data.id": data_id}, [SECRET]
        )


# --- What is simulated


@pytest.fixture(scope="module")
def server() -> Iterator[Simulation]:
    with simulated_mercado_pago() as simulation:
        yield simulation


@pytest.fixture
def mp(server: Simulation) -> Simulation:
    server.control("reset")
    server.control("notices", mode="hold")
    server.control("clock", forward=0, stopped=True)
    return server


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_what_the_simulation_signs_is_genuine_to_us_and_to_the_sdk(mp: Simulation, unit: str):
    mp.control("signature", unit=unit)
    mp.buy()
    notices = mp.notices()
    assert {notice["body"]["type"] for notice in notices} == {
        "payment",
        "subscription_preapproval",
        "subscription_authorized_payment",
    }
    for notice in notices:
        body, headers, query = mp.sent(notice)
        found = notifications.read_signed(body, headers, query, [SECRET])
        assert found.reference is not None
        assert found.reference.id == notice["body"]["data"]["id"]
        tolerance = 300 if unit == "s" else None  # the SDK refuses milliseconds when it compares them
        given = (headers["x-signature"], headers["x-request-id"], query["data.id"], SECRET)
        WebhookSignatureValidator.validate(*given, tolerance_seconds=tolerance)
        with pytest.raises(InvalidWebhookSignatureError):
            WebhookSignatureValidator.validate(*given[:3], "another", tolerance_seconds=tolerance)


def test_what_is_notified_again_has_the_same_id(mp: Simulation):
    mp.gateway().start_checkout(ORDER)
    (notice,) = mp.notices()
    first, second = (notifications.read_signed(*mp.sent(notice), [SECRET]) for _ in range(2))
    assert first.event_id == second.event_id


REQUIRED = {
    # What docs/billing.md says each thing has, of which the site reads a part.
    "preapprovals": "id payer_id back_url collector_id application_id status reason external_reference date_created "
    "last_modified init_point auto_recurring next_payment_date version",
    "instalments": "id type date_created last_modified preapproval_id reason external_reference currency_id "
    "transaction_amount debit_date retry_attempt status payment",
    "payments": "id date_created date_approved date_last_updated date_of_expiration operation_type status "
    "status_detail currency_id collector_id payer metadata external_reference transaction_amount "
    "transaction_amount_refunded taxes_amount payment_method_id payment_type_id transaction_details "
    "point_of_interaction live_mode",
    "preferences": "id collector_id init_point items back_urls external_reference expires expiration_date_to",
    "orders": "id preference_id external_reference payments",
    "chargebacks": "id payments currency amount coverage_applied documentation_status live_mode",
}
STATUSES = {
    "preapprovals": {"pending", "authorized", "paused", "cancelled"},
    "instalments": {"scheduled", "processed", "recycling", "cancelled"},
    "payments": {
        "pending", "approved", "authorized", "in_process", "in_mediation", "rejected", "cancelled", "refunded",
        "charged_back",
    },
}  # fmt: skip


def test_what_is_simulated_has_mercado_pagos_shapes_and_words(mp: Simulation):
    checkout = mp.gateway().start_checkout(PREPAID)
    mp.pay(checkout, "rapipago")
    mp.pay(checkout, "approved")
    reference = mp.buy()
    mp.control("card", id=reference, card="bad")
    mp.charge_next(reference)
    first = mp.subscription(reference).payments[0]
    mp.control("dispute", id=first.reference, result="open")
    mp.gateway().cancel_now(reference, key="cancel-1")
    for kind, names in REQUIRED.items():
        things = list(mp.server.state[kind].values())
        assert things
        for thing in things:
            assert set(names.split()) <= thing.keys()
            assert kind not in STATUSES or thing["status"] in STATUSES[kind]


def test_the_checkout_says_in_three_languages_that_it_is_a_simulation(mp: Simulation):
    for order in (ORDER, PREPAID):
        shown = requests.get(mp.gateway().start_checkout(order).url, timeout=10).text
        for sentence in ("Esto es una simulación", "This is a simulation", "Isto é uma simulação"):
            assert sentence in shown
