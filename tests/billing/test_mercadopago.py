"""Mercado Pago's gateway against a simulated one: what somebody buys there, and what becomes of it."""

import contextlib
import dataclasses
import datetime as dt
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from django.utils import timezone

from billing.gateways.base import GatewayRefused, GatewayUnavailable, Order, Reference
from billing.gateways.mercadopago import agreements, client, gateway, smoke
from billing.periods import add_months
from tests.billing.mercadopago import ORDER, PACK, PREPAID, Simulation, simulated_mercado_pago

MONTH = dt.timedelta(days=28)


@pytest.fixture(scope="module")
def server() -> Iterator[Simulation]:
    with simulated_mercado_pago() as simulation:
        yield simulation


@pytest.fixture
def mp(server: Simulation) -> Simulation:
    server.control("reset")
    server.control("notices", mode="hold")
    server.control("clock", forward=0, stopped=True)
    gateway._accounts.clear()
    return server


def other(order: Order, **fields: object) -> Order:
    return dataclasses.replace(order, **fields)


def payments_of(mp: Simulation) -> list[dict]:
    with mp.server.lock:
        return [dict(payment) for payment in mp.server.state["payments"].values()]


# --- Subscriptions


def test_a_subscription_is_paid_when_its_first_payment_is_approved(mp: Simulation):
    reference = mp.buy()
    found = mp.subscription(reference)
    assert (found.status, found.kind, found.account_id) == ("active", "subscription", 12)
    (payment,) = found.payments
    assert (payment.status, payment.amount_minor, payment.currency) == ("paid", 1_500_000, "ARS")
    assert payment.price_reference == found.price_reference == "premium-month"
    assert payment.period_start == found.anchor == payment.paid_at
    assert payment.period_end == add_months(found.anchor, 1)


def test_an_authorized_subscription_is_not_paid(mp: Simulation):
    checkout = mp.gateway().start_checkout(ORDER)
    assert mp.subscription(checkout.reference.id).status == "pending"
    mp.pay(checkout)
    assert mp.server.state["preapprovals"][checkout.reference.id]["status"] == "authorized"
    found = mp.subscription(checkout.reference.id)
    assert (found.status, found.payments) == ("pending", ())


def test_a_processed_instalment_is_not_paid(mp: Simulation):
    reference = mp.buy()
    mp.control("card", id=reference, card="bad")
    for _attempt in range(4):
        mp.charge_next(reference)
    last = list(mp.server.state["instalments"].values())[-1]
    assert (last["status"], last["payment"]["status"]) == ("processed", "rejected")
    found = mp.subscription(reference)
    assert found.status == "past_due"
    assert [payment.status for payment in found.payments] == ["paid", "failed", "failed", "failed", "failed"]


def test_the_charge_that_tries_a_card_pays_for_nothing(mp: Simulation):
    checkout = mp.gateway().start_checkout(ORDER)
    mp.pay(checkout)
    (trial,) = payments_of(mp)
    assert trial["operation_type"] == "card_validation"
    assert trial["external_reference"] == mp.server.state["preapprovals"][checkout.reference.id]["external_reference"]
    assert mp.gateway().fetch(Reference("mercadopago", "payment", str(trial["id"]))) is None
    with mp.server.lock:  # were it as much as what is bought, and not given back
        mp.server.state["payments"][str(trial["id"])] |= {"transaction_amount": 15_000.0, "status": "approved"}
    assert mp.subscription(checkout.reference.id).payments == ()


def test_each_renewal_pays_for_the_month_after(mp: Simulation):
    reference = mp.buy()
    mp.charge_next(reference)
    mp.charge_next(reference)
    first, second, third = mp.subscription(reference).payments
    assert first.period_end == second.period_start
    assert second.period_end == third.period_start
    assert third.period_end - first.period_start >= 3 * MONTH


def test_a_renewal_before_its_time_pays_for_the_next_month(mp: Simulation):
    reference = mp.buy()
    mp.control("renew", id=reference)
    first, second = mp.subscription(reference).payments
    assert second.period_start == first.period_end
    assert second.paid_at < second.period_start
    mp.charge_next(reference)
    assert mp.subscription(reference).payments[2].period_start == second.period_end


def test_a_payment_that_succeeds_at_a_later_attempt_pays_for_the_month_it_was_due_in(mp: Simulation):
    reference = mp.buy()
    mp.control("card", id=reference, card="bad")
    mp.charge_next(reference)
    mp.charge_next(reference)
    assert mp.subscription(reference).status == "past_due"
    mp.control("card", id=reference, card="good")
    mp.charge_next(reference)
    found = mp.subscription(reference)
    assert found.status == "active"
    paid = [payment for payment in found.payments if payment.status == "paid"]
    assert paid[1].period_start == paid[0].period_end
    assert paid[1].paid_at - paid[1].period_start > dt.timedelta(days=5)


def test_a_month_nobody_paid_is_not_paid_by_the_next_payment(mp: Simulation):
    reference = mp.buy()
    mp.control("card", id=reference, card="bad")
    for _attempt in range(4):
        mp.charge_next(reference)
    mp.control("card", id=reference, card="good")
    mp.charge_next(reference)
    paid = [payment for payment in mp.subscription(reference).payments if payment.status == "paid"]
    assert paid[1].period_start - paid[0].period_end >= MONTH
    assert abs(paid[1].paid_at - paid[1].period_start) < dt.timedelta(days=1)


def test_three_rejected_instalments_end_a_subscription(mp: Simulation):
    reference = mp.buy()
    mp.control("card", id=reference, card="bad")
    mp.forward(days=130)
    found = mp.subscription(reference)
    assert found.status == "ended"
    assert [payment.status for payment in found.payments].count("paid") == 1


def test_a_yearly_price_is_taken_every_twelve_months(mp: Simulation):
    order = other(ORDER, price_reference="premium-year", amount_minor=15_000_000, interval="year")
    reference = mp.buy(order)
    mp.charge_next(reference)
    first, second = mp.subscription(reference).payments
    assert (second.period_start.year, first.period_end) == (first.period_start.year + 1, second.period_start)


def test_a_trial_begins_without_a_payment_and_is_paid_from_its_end(mp: Simulation, monkeypatch: pytest.MonkeyPatch):
    checkout = mp.gateway().start_checkout(other(ORDER, trial_days=7))
    mp.pay(checkout)
    found = mp.subscription(checkout.reference.id)
    assert (found.status, found.payments) == ("trialing", ())
    assert found.anchor == found.trial_end
    assert dt.timedelta(days=6) < found.trial_end - timezone.now() <= dt.timedelta(days=7)
    mp.forward(days=8)
    (payment,) = mp.subscription(checkout.reference.id).payments
    assert (payment.status, payment.period_start) == ("paid", found.trial_end)


def test_a_subscription_that_begins_later_is_not_charged_before(mp: Simulation):
    begins = (timezone.now() + dt.timedelta(days=10)).replace(microsecond=0)
    checkout = mp.gateway().start_checkout(other(ORDER, starts_at=begins))
    mp.pay(checkout)
    mp.forward(days=9)
    assert mp.subscription(checkout.reference.id).payments == ()
    mp.forward(days=2)
    found = mp.subscription(checkout.reference.id)
    assert found.anchor >= begins
    assert [payment.status for payment in found.payments] == ["paid"]


def test_the_payer_is_asked_for_by_their_address_at_mercado_pago(mp: Simulation):
    with_address = mp.gateway().start_checkout(ORDER)
    without = mp.gateway().start_checkout(other(ORDER, key="order-9", account_id=13, payer_email=""))
    emails = mp.server.state["emails"]
    assert emails[with_address.reference.id] == "ana@mercadopago.example"
    assert emails[without.reference.id] == "ana@example.com"


def test_the_same_order_again_is_the_same_checkout(mp: Simulation):
    first, second = (mp.gateway().start_checkout(ORDER) for _ in range(2))
    assert first == second
    assert [found["status"] for found in mp.server.state["preapprovals"].values()] == ["pending"]


def test_an_order_whose_answer_was_lost_makes_one_subscription(mp: Simulation):
    mp.control("faults", kind="slow", seconds=0, path="/preapproval")  # the search for one that is pending
    mp.control("faults", kind="lost", path="/preapproval")
    with pytest.raises(GatewayUnavailable):
        mp.gateway().start_checkout(ORDER)
    assert len(mp.server.state["preapprovals"]) == 1
    mp.gateway().start_checkout(ORDER)
    assert len(mp.server.state["preapprovals"]) == 1


def test_a_new_checkout_cancels_the_one_that_was_left_pending(mp: Simulation):
    first = mp.gateway().start_checkout(ORDER)
    stranger = mp.gateway().start_checkout(other(ORDER, account_id=13, key="order-8"))
    second = mp.gateway().start_checkout(other(ORDER, key="order-9"))
    known = mp.server.state["preapprovals"]
    assert [known[found.reference.id]["status"] for found in (first, stranger, second)] == [
        "cancelled",
        "pending",
        "pending",
    ]


def test_a_checkout_expires_unless_it_was_paid(mp: Simulation):
    checkout = mp.gateway().start_checkout(ORDER)
    mp.gateway().expire_checkout(checkout.reference)
    mp.gateway().expire_checkout(checkout.reference)
    assert mp.subscription(checkout.reference.id).status == "ended"
    paid = mp.gateway().start_checkout(other(ORDER, key="order-9"))
    mp.pay(paid)
    with pytest.raises(GatewayRefused, match="checkout_completed"):
        mp.gateway().expire_checkout(paid.reference)


def test_cancelling_ends_a_subscription_now_and_keeps_what_was_paid(mp: Simulation):
    reference = mp.buy()
    mp.gateway().cancel_at_period_end(reference, key="cancel-1")
    mp.gateway().cancel_at_period_end(reference, key="cancel-1")
    mp.forward(days=40)
    found = mp.subscription(reference)
    assert found.status == "ended"
    (payment,) = found.payments
    assert (payment.status, payment.refunded_minor) == ("paid", 0)
    assert payment.period_end > payment.paid_at + MONTH - dt.timedelta(days=1)


def test_cancelling_while_a_payment_is_due_stops_its_attempts(mp: Simulation):
    reference = mp.buy()
    mp.control("card", id=reference, card="bad")
    mp.charge_next(reference)
    mp.gateway().cancel_now(reference, key="cancel-1")
    mp.control("card", id=reference, card="good")
    mp.forward(days=20)
    assert [payment.status for payment in mp.subscription(reference).payments] == ["paid", "failed"]


def test_a_paused_subscription_can_be_resumed_and_a_cancelled_one_cannot(mp: Simulation):
    reference = mp.buy()
    mp.control("pause", id=reference)
    assert mp.subscription(reference).status == "paused"
    mp.gateway().resume(reference, key="resume-1")
    mp.gateway().resume(reference, key="resume-1")
    assert mp.subscription(reference).status == "active"
    mp.gateway().cancel_now(reference, key="cancel-1")
    with pytest.raises(GatewayRefused, match="cancelled_for_good"):
        mp.gateway().resume(reference, key="resume-2")


def test_another_price_counts_from_the_next_payment(mp: Simulation):
    reference = mp.buy()
    preview = mp.gateway().preview_change(reference, "enterprise-month")
    assert (preview.amount_minor, preview.next_amount_minor, preview.currency) == (0, 7_500_000, "ARS")
    before = mp.subscription(reference)
    assert preview.next_payment_at - before.anchor >= MONTH - dt.timedelta(days=1)
    mp.gateway().change_price(reference, "enterprise-month", preview, key="change-1")
    mp.gateway().change_price(reference, "enterprise-month", preview, key="change-1")
    changed = mp.subscription(reference)
    assert (changed.price_reference, changed.anchor) == ("enterprise-month", before.anchor)
    assert changed.payments == before.payments
    mp.charge_next(reference)
    first, second = mp.subscription(reference).payments
    assert (first.price_reference, first.amount_minor) == ("premium-month", 1_500_000)
    assert (second.price_reference, second.amount_minor) == ("enterprise-month", 7_500_000)
    assert second.period_start == first.period_end


def test_a_price_for_another_time_or_in_another_currency_is_refused(mp: Simulation):
    reference = mp.buy()
    with pytest.raises(GatewayRefused, match="interval_cannot_change"):
        mp.gateway().preview_change(reference, "premium-year")
    for price in ("premium-real", "nothing-known"):
        with pytest.raises(GatewayRefused, match="unknown_price"):
            mp.gateway().change_price_at_period_end(reference, price, key="change-1")


def test_a_price_is_not_changed_while_a_payment_of_the_old_one_is_due(mp: Simulation):
    reference = mp.buy()
    mp.control("card", id=reference, card="bad")
    mp.charge_next(reference)
    with pytest.raises(GatewayRefused, match="payment_is_due"):
        mp.gateway().change_price_at_period_end(reference, "enterprise-month", key="change-1")


# --- What is bought once


def test_a_paid_month_that_does_not_renew_ends_by_itself(mp: Simulation, monkeypatch: pytest.MonkeyPatch):
    checkout = mp.gateway().start_checkout(PREPAID)
    assert mp.snapshot("purchase", checkout.reference.id).status == "pending"
    assert "status=approved" in mp.pay(checkout, "approved")
    found = mp.snapshot("purchase", checkout.reference.id)
    (payment,) = found.payments
    assert (found.kind, found.status, payment.status) == ("prepaid", "active", "paid")
    assert payment.period_start == found.anchor == payment.paid_at
    assert payment.period_end == found.cancels_at == add_months(found.anchor, 1)
    later = found.cancels_at + dt.timedelta(seconds=1)
    monkeypatch.setattr(gateway.timezone, "now", lambda: later)
    assert mp.snapshot("purchase", checkout.reference.id).status == "ended"


def test_a_month_bought_ahead_begins_when_the_other_ends(mp: Simulation):
    begins = (timezone.now() + dt.timedelta(days=10)).replace(microsecond=0)
    checkout = mp.gateway().start_checkout(other(PREPAID, starts_at=begins))
    mp.pay(checkout, "approved")
    found = mp.snapshot("purchase", checkout.reference.id)
    assert found.anchor == found.payments[0].period_start == begins


def test_a_pack_pays_for_no_time(mp: Simulation):
    checkout = mp.gateway().start_checkout(PACK)
    mp.pay(checkout, "approved")
    found = mp.snapshot("purchase", checkout.reference.id)
    (payment,) = found.payments
    assert (found.kind, found.status, found.cancels_at) == ("pack", "active", None)
    assert (payment.status, payment.period_start, payment.amount_minor) == ("paid", None, 600_000)


@pytest.mark.parametrize(
    ("country", "currency", "method"),
    [
        ("BR", "BRL", "pix"),
        ("BR", "BRL", "bolbradesco"),
        ("MX", "MXN", "oxxo"),
        ("CO", "COP", "efecty"),
        ("CO", "COP", "pse"),
    ],
)
def test_a_voucher_waits_for_days_with_its_link_code_and_expiry(
    mp: Simulation, country: str, currency: str, method: str
):
    mp.control("seller", site_id=agreements.COUNTRIES[country].site)
    pay = mp.gateway(country=country)
    checkout = pay.start_checkout(other(PREPAID, currency=currency))
    assert "status=pending" in mp.pay(checkout, method)
    found = pay.fetch(checkout.reference)
    (payment,) = found.payments
    assert (found.status, payment.status, payment.action) == ("pending", "pending", "voucher")
    assert payment.action_url.startswith(f"{mp.url}/payments/")
    assert payment.action_code
    assert dt.timedelta(days=2) < payment.expires_at - timezone.now() <= dt.timedelta(days=3, minutes=1)
    mp.forward(days=2)
    mp.control("settle", id=payment.reference, status="approved")
    (paid,) = pay.fetch(checkout.reference).payments
    assert (paid.status, paid.action, paid.expires_at) == ("paid", "", None)
    assert paid.period_start == paid.paid_at > timezone.now() + dt.timedelta(days=1)


def test_a_voucher_nobody_paid_is_void(mp: Simulation):
    checkout = mp.gateway().start_checkout(PREPAID)
    mp.pay(checkout, "rapipago")
    mp.forward(days=4)
    found = mp.snapshot("purchase", checkout.reference.id)
    assert (found.status, [payment.status for payment in found.payments]) == ("pending", ["void"])


def test_an_expired_checkout_takes_its_vouchers_along(mp: Simulation):
    checkout = mp.gateway().start_checkout(PREPAID)
    mp.pay(checkout, "rapipago")
    mp.gateway().expire_checkout(checkout.reference)
    assert [payment.status for payment in mp.snapshot("purchase", checkout.reference.id).payments] == ["void"]
    assert "status=null" in mp.pay(checkout, "approved")
    assert len(payments_of(mp)) == 1


def test_a_month_that_is_paid_twice_is_two_months(mp: Simulation):
    checkout = mp.gateway().start_checkout(PREPAID)
    mp.pay(checkout, "rapipago")
    mp.pay(checkout, "approved")
    voucher = next(found for found in payments_of(mp) if found["payment_method_id"] == "rapipago")
    mp.forward(days=1)
    mp.control("settle", id=voucher["id"], status="approved")
    found = mp.snapshot("purchase", checkout.reference.id)
    spans = sorted((payment.period_start, payment.period_end) for payment in found.payments)
    assert spans[0][1] == spans[1][0]
    assert found.cancels_at == spans[1][1] == add_months(found.anchor, 2)
    mp.gateway().refund(str(voucher["id"]), amount_minor=1_500_000, key="refund-1")
    assert mp.snapshot("purchase", checkout.reference.id).cancels_at == add_months(found.anchor, 1)


def test_a_rejected_card_may_be_followed_by_another(mp: Simulation):
    checkout = mp.gateway().start_checkout(PACK)
    mp.pay(checkout, "rejected")
    assert mp.snapshot("purchase", checkout.reference.id).status == "pending"
    mp.pay(checkout, "approved")
    found = mp.snapshot("purchase", checkout.reference.id)
    assert (found.status, [payment.status for payment in found.payments]) == ("active", ["failed", "paid"])


# --- References


def test_every_reference_leads_to_the_whole_subscription(mp: Simulation):
    reference = mp.buy()
    (instalment,) = mp.server.state["instalments"].values()
    payment = next(found for found in payments_of(mp) if found["operation_type"] == "recurring_payment")
    expected = mp.subscription(reference)
    mp.control("dispute", id=payment["id"], result="won")
    (chargeback,) = mp.server.state["chargebacks"]
    for kind, found_id in (("instalment", instalment["id"]), ("payment", payment["id"]), ("chargeback", chargeback)):
        found = mp.snapshot(kind, str(found_id))
        assert (found.reference, len(found.payments)) == (expected.reference, 1)


def test_every_reference_leads_to_the_whole_purchase(mp: Simulation):
    checkout = mp.gateway().start_checkout(PREPAID)
    mp.pay(checkout, "approved")
    (order,) = mp.server.state["orders"]
    (payment,) = mp.server.state["payments"]
    for kind, found_id in (("merchant_order", order), ("payment", payment)):
        assert mp.snapshot(kind, found_id).reference == checkout.reference.id


@pytest.mark.parametrize(
    "kind", ["subscription", "instalment", "payment", "merchant_order", "chargeback", "purchase", "x"]
)
def test_a_reference_to_nothing_is_nothing(mp: Simulation, kind: str):
    assert mp.gateway().fetch(Reference("mercadopago", kind, "123")) is None


def test_what_somebody_else_sells_over_the_same_account_is_nothing(mp: Simulation):
    reference = mp.buy()
    mp.server.state["preapprovals"][reference]["external_reference"] = "order 17 of another shop"
    assert mp.gateway().fetch(Reference("mercadopago", "subscription", reference)) is None
    assert list(mp.gateway().list_recent(timezone.now() - dt.timedelta(days=1))) == []


def test_a_payment_the_search_does_not_show_is_found_by_its_instalment(mp: Simulation):
    reference = mp.buy()
    for payment in mp.server.state["payments"].values():
        payment["external_reference"] = None
    assert [payment.status for payment in mp.subscription(reference).payments] == ["paid"]


def test_payments_are_found_where_instalments_are_not(mp: Simulation):
    """As was seen with real money: the search for instalments may be empty."""
    reference = mp.buy()
    mp.server.state["instalments"].clear()
    assert [payment.status for payment in mp.subscription(reference).payments] == ["paid"]


def test_the_list_has_what_lives_and_what_changed(mp: Simulation):
    begun = timezone.now() - dt.timedelta(minutes=1)
    alive, gone = mp.buy(), mp.buy(other(ORDER, key="order-7", account_id=13))
    bought = mp.gateway().start_checkout(PREPAID)
    mp.pay(bought, "approved")
    mp.gateway().cancel_now(gone, key="cancel-1")
    assert {found.reference for found in mp.gateway().list_recent(begun)} == {alive, gone, bought.reference.id}
    later = timezone.now() + dt.timedelta(days=2)
    assert {found.reference for found in mp.gateway().list_recent(later)} == {alive}
    (payment,) = mp.subscription(gone).payments
    mp.forward(days=3)
    mp.gateway().refund(payment.reference, amount_minor=1_500_000, key="refund-1")
    assert {found.reference for found in mp.gateway().list_recent(later)} == {alive, gone}


@pytest.mark.parametrize("broken", [{"collector_id": 1}, {"auto_recurring": None}, {"last_modified": "soon"}])
def test_a_purchase_that_cannot_be_read_hides_no_other(mp: Simulation, broken: dict[str, object]):
    first = mp.buy()
    second = mp.buy(dataclasses.replace(ORDER, key="order-9", account_id=13, payer_email="beto@mercadopago.example"))
    mp.server.state["preapprovals"][first] |= broken
    found = [one.reference for one in mp.gateway().list_recent(timezone.now() - dt.timedelta(days=1))]
    assert second in found


def test_a_search_is_read_page_after_page(mp: Simulation, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "PAGE", 2)
    reference = mp.buy()
    for _ in range(4):
        mp.charge_next(reference)
    assert len(mp.subscription(reference).payments) == 5


# --- Money that is not what was agreed


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("transaction_amount", 1.0),
        ("transaction_amount", 15000.001),
        ("transaction_amount", None),
        ("transaction_amount", "15000"),
        ("currency_id", "CLP"),
        ("currency_id", "USD"),
        ("collector_id", 99),
        ("collector_id", None),
        ("external_reference", "ttl_s1_13_0_1500000_0123456789ab_premium-month"),
        ("status", "celebrated"),
    ],
)
def test_a_payment_that_was_not_agreed_counts_for_nothing_and_is_logged(
    mp: Simulation, caplog: pytest.LogCaptureFixture, field: str, value: object
):
    reference = mp.buy()
    payment = next(
        found for found in mp.server.state["payments"].values() if found["operation_type"] == "recurring_payment"
    )
    payment[field] = value
    found = mp.subscription(reference)
    assert (found.status, found.payments) == ("pending", ())
    subjects = {getattr(record, "subject", "") for record in caplog.records}
    assert f"mercadopago:payment:{payment['id']}" in subjects


def test_a_subscription_of_another_seller_is_refused(mp: Simulation):
    reference = mp.buy()
    mp.server.state["preapprovals"][reference]["collector_id"] = 99
    with pytest.raises(GatewayRefused, match="subscription_of_another_seller"):
        mp.subscription(reference)


def test_a_discount_is_what_was_agreed(mp: Simulation):
    reference = mp.buy(other(ORDER, amount_minor=1_000_000))
    (payment,) = mp.subscription(reference).payments
    assert (payment.status, payment.amount_minor, payment.price_reference) == ("paid", 1_000_000, "premium-month")


# --- Money that goes back


def test_a_refund_is_made_once_however_often_it_is_asked_for(mp: Simulation):
    reference = mp.buy()
    (payment,) = mp.subscription(reference).payments
    for _ in range(2):
        mp.gateway().refund(payment.reference, amount_minor=500_000, key="refund-1")
    (partly,) = mp.subscription(reference).payments
    assert (partly.status, partly.refunded_minor) == ("paid", 500_000)
    mp.gateway().refund(payment.reference, amount_minor=1_000_000, key="refund-2")
    (whole,) = mp.subscription(reference).payments
    assert (whole.status, whole.refunded_minor) == ("paid", 1_500_000)
    with pytest.raises(GatewayRefused):
        mp.gateway().refund(payment.reference, amount_minor=100, key="refund-3")


def test_a_purchase_that_was_given_back_is_over(mp: Simulation):
    checkout = mp.gateway().start_checkout(PACK)
    mp.pay(checkout, "approved")
    (payment,) = mp.snapshot("purchase", checkout.reference.id).payments
    mp.gateway().refund(payment.reference, amount_minor=600_000, key="refund-1")
    assert mp.snapshot("purchase", checkout.reference.id).status == "ended"


@pytest.mark.parametrize("result", ["open", "won", "lost"])
def test_a_chargeback_is_open_until_it_is_won_or_lost(mp: Simulation, result: str):
    reference = mp.buy()
    (payment,) = mp.subscription(reference).payments
    mp.control("dispute", id=payment.reference, result=result)
    (disputed,) = mp.subscription(reference).payments
    assert (disputed.status, disputed.dispute) == ("paid", result)


# --- Whose account


@pytest.mark.parametrize(
    ("settings", "seller", "mistake"),
    [
        ({"country": "BR"}, {}, "MERCADOPAGO_COUNTRY is BR, and the account's is AR."),
        ({"country": ""}, {}, "MERCADOPAGO_COUNTRY is not set, and the account's is AR."),
        ({"mode": "live"}, {}, "MERCADOPAGO_MODE is live, and MERCADOPAGO_ACCESS_TOKEN is a test account's."),
        ({}, {"site_id": "MLC"}, "MERCADOPAGO_COUNTRY is AR, and the account's is CL."),
    ],
)
def test_settings_that_contradict_the_account_sell_nothing(mp: Simulation, settings: dict, seller: dict, mistake: str):
    mp.control("seller", **seller)
    assert mistake in mp.gateway(**settings).find_mistakes()
    with pytest.raises(GatewayRefused, match="settings_contradict_account"):
        mp.gateway(**settings).start_checkout(ORDER)
    assert mp.server.state["preapprovals"] == {}


def test_another_currency_than_the_countrys_is_refused(mp: Simulation):
    with pytest.raises(GatewayRefused, match="currency_of_another_country"):
        mp.gateway().start_checkout(other(ORDER, currency="BRL"))


def test_payers_change_how_they_pay_among_their_own_subscriptions(mp: Simulation):
    reference = mp.buy()
    assert mp.gateway().payment_method_url(12, reference, "http://localhost/") == f"{mp.url}/subscriptions"


# --- Bad days


@pytest.mark.parametrize("kind", ["html", "cut", "lost"])
def test_a_gateway_that_does_not_speak_its_language_is_unavailable(mp: Simulation, kind: str):
    reference = mp.buy()
    mp.control("faults", kind=kind, path="/")
    with pytest.raises(GatewayUnavailable):
        mp.subscription(reference)
    assert mp.subscription(reference).status == "active"


def test_all_of_a_call_has_one_deadline(mp: Simulation, monkeypatch: pytest.MonkeyPatch):
    reference = mp.buy()
    monkeypatch.setattr(client, "SECONDS", 0.5)
    mp.control("faults", kind="slow", seconds=0.3, path="/", times=3)
    begun = time.monotonic()
    with pytest.raises(GatewayUnavailable):
        mp.subscription(reference)
    assert time.monotonic() - begun < 5
    time.sleep(0.5)  # the server still sleeps for whom nobody waits


def test_an_answer_that_comes_byte_after_byte_is_not_waited_for(mp: Simulation, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client, "SECONDS", 0.4)
    with socket.create_server(("127.0.0.1", 0)) as server:
        dripping = threading.Thread(target=drip, args=[server])
        dripping.start()
        begun = time.monotonic()
        with pytest.raises(GatewayUnavailable, match="no answer in time"):
            mp.gateway(base_url=f"http://127.0.0.1:{server.getsockname()[1]}").find_mistakes()
        assert time.monotonic() - begun < 5
        dripping.join()


def drip(server: socket.socket) -> None:
    """Answer one request, with a byte every 50 ms for ten seconds, or until nobody listens."""
    connection, _address = server.accept()
    with connection, contextlib.suppress(OSError):
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n")
        for _ in range(200):
            time.sleep(0.05)
            connection.sendall(b" ")


def test_json_that_says_something_else_is_unavailable(mp: Simulation):
    reference = mp.buy()
    mp.server.state["preapprovals"][reference]["auto_recurring"] = None
    with pytest.raises(GatewayUnavailable, match="unreadable"):
        mp.subscription(reference)


def test_a_token_that_is_refused_is_told_from_a_bad_day(mp: Simulation):
    with pytest.raises(client.TokenRefused, match="unauthorized"):
        gateway.MercadoPago("unknown", [], "AR", "test", find_price=lambda _: None, base_url=mp.url).find_mistakes()


# --- Trying the real one


def test_the_smoke_test_begins_and_ends_what_it_tries(mp: Simulation):
    lines = list(smoke.try_out(mp.gateway(), "AR", "buyer@testuser.com"))
    assert lines[-1] == "The list of what changed within the hour has 1 purchases."
    assert [found["status"] for found in mp.server.state["preapprovals"].values()] == ["cancelled"]
    assert payments_of(mp) == []


def test_the_smoke_test_never_runs_with_a_real_account(mp: Simulation):
    mp.control("seller", is_test=False)
    for mode, sentence in (("live", "MERCADOPAGO_MODE is not test"), ("test", "a real account's")):
        with pytest.raises(smoke.SmokeFailure, match=sentence):
            list(smoke.try_out(mp.gateway(mode=mode, token="APP_USR-1"), "AR", "buyer@testuser.com"))
    assert mp.server.state["preapprovals"] == {}
