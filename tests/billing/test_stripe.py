"""The Stripe gateway, against the simulated Stripe."""

import dataclasses
import datetime as dt
import io
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import stripe
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.utils import timezone
from djstripe import models as rows

from billing.gateways.base import GatewayRefused, GatewayUnavailable, Reference
from billing.gateways.stripe import client, gateway, mirror
from billing.gateways.stripe.snapshots import DISPUTES, STATUSES
from billing.management.commands.set_up_stripe import Command
from billing.models import Price
from billing.seeds import load_prices
from tests.billing.stripe_site import Shop, simulated

MONTH = dt.timedelta(days=31)


def test_a_bought_subscription_is_paid_for_a_month_from_its_anchor(shop: Shop) -> None:
    bought = shop.buy()
    (payment,) = bought.payments
    assert (bought.status, bought.account_id, bought.kind) == ("active", shop.account_id, "subscription")
    assert bought.price_reference == payment.price_reference == "premium-month-usd"
    assert (payment.status, payment.amount_minor, payment.currency) == ("paid", 2_000, "USD")
    assert payment.period_start == bought.anchor
    assert dt.timedelta(days=28) <= payment.period_end - payment.period_start <= MONTH
    assert bought.card_fingerprint
    assert bought.cancels_at is None
    assert bought.observed_at <= timezone.now()


def test_a_checkout_that_nobody_paid_is_nothing(shop: Shop) -> None:
    checkout = shop.gateway.start_checkout(shop.order())
    assert checkout.url.startswith(shop.url)
    assert shop.gateway.fetch(checkout.reference) is None


def test_the_same_order_twice_is_one_checkout(shop: Shop) -> None:
    order = shop.order()
    assert shop.gateway.start_checkout(order) == shop.gateway.start_checkout(order)
    assert len(shop.objects("checkout.session")) == 1


def test_an_expired_checkout_cannot_be_paid(shop: Shop) -> None:
    checkout = shop.gateway.start_checkout(shop.order())
    shop.gateway.expire_checkout(checkout.reference)
    shop.gateway.expire_checkout(checkout.reference)
    assert [session["status"] for session in shop.objects("checkout.session")] == ["expired"]


def test_a_renewal_says_active_an_hour_before_it_is_paid(shop: Shop) -> None:
    bought = shop.buy()
    end = bought.payments[0].period_end
    shop.control("clock", to=int(end.timestamp()) + 60)
    early = shop.fetch(bought)
    assert early.status == "active"
    assert max(payment.period_end for payment in early.payments if payment.status == "paid") == end
    shop.control("clock", forward=3_600)
    renewed = shop.fetch(bought)
    assert max(payment.period_end for payment in renewed.payments if payment.status == "paid") > end


def test_a_renewal_on_the_31st_never_drifts(shop: Shop) -> None:
    shop.control("clock", to=int(dt.datetime(2027, 1, 31, 10, tzinfo=dt.UTC).timestamp()), stopped=True)
    bought = shop.buy()
    for _ in range(2):
        bought = shop.renew(bought)
    ends = sorted(payment.period_end.date().isoformat() for payment in bought.payments)
    assert ends == ["2027-02-28", "2027-03-31", "2027-04-30"]


def test_a_failed_renewal_is_past_due_tried_again_and_ended(shop: Shop) -> None:
    bought = shop.buy()
    failed = shop.renew(bought, "decline")
    assert failed.status == "past_due"
    (unpaid,) = (payment for payment in failed.payments if payment.status == "failed")
    assert (unpaid.action, unpaid.action_url.startswith(shop.url)) == ("pay", True)
    shop.control("clock", forward=20 * 86_400)
    assert shop.fetch(bought).status == "ended"


def test_a_failed_renewal_that_is_paid_is_active_again(shop: Shop) -> None:
    failed = shop.renew(shop.buy(), "decline")
    (unpaid,) = (payment for payment in failed.payments if payment.status == "failed")
    shop.control("invoice", id=unpaid.reference, do="pay")
    paid = shop.fetch(failed)
    assert paid.status == "active"
    assert all(payment.status == "paid" for payment in paid.payments)


def test_a_payment_that_the_bank_must_confirm_says_where(shop: Shop) -> None:
    waiting = shop.renew(shop.buy(), "confirm")
    (unpaid,) = (payment for payment in waiting.payments if payment.status == "pending")
    assert (unpaid.action, unpaid.action_url.startswith(f"{shop.url}/invoice/")) == ("confirm", True)


def test_a_voucher_stays_pending_until_it_is_paid(shop: Shop) -> None:
    bought = shop.buy("voucher")
    (payment,) = bought.payments
    assert (bought.status, payment.status, payment.action) == ("pending", "pending", "voucher")
    assert payment.expires_at is not None
    assert payment.action_code.isdecimal()
    (intent,) = shop.objects("payment_intent")
    shop.control("voucher", intent=intent["id"])
    paid = shop.fetch(bought)
    assert (paid.status, paid.payments[0].status) == ("active", "paid")


def test_a_voucher_that_expires_pays_nothing(shop: Shop) -> None:
    bought = shop.buy("voucher", kind="pack", interval="", price_reference="pack-5000-usd", amount_minor=600)
    shop.control("clock", forward=5 * 86_400)
    expired = shop.fetch(bought)
    assert (expired.status, expired.payments[0].status) == ("pending", "failed")


def test_an_invoice_given_up_or_void_is_not_paid(shop: Shop) -> None:
    failed = shop.renew(shop.buy(), "decline")
    (unpaid,) = (payment for payment in failed.payments if payment.status == "failed")
    shop.control("invoice", id=unpaid.reference, do="uncollectible")
    assert "failed" in {payment.status for payment in shop.fetch(failed).payments}
    shop.control("invoice", id=unpaid.reference, do="void")
    assert {payment.status for payment in shop.fetch(failed).payments} == {"paid", "void"}


def test_a_pack_is_paid_once(shop: Shop) -> None:
    pack = shop.buy(kind="pack", interval="", price_reference="pack-5000-usd", amount_minor=600)
    (payment,) = pack.payments
    assert (pack.kind, pack.status, pack.price_reference) == ("pack", "active", "pack-5000-usd")
    assert (payment.status, payment.amount_minor) == ("paid", 600)
    shop.gateway.refund(payment.reference, amount_minor=600, key="refund-1")
    assert shop.fetch(Reference("stripe", "purchase", pack.reference)).payments[0].refunded_minor == 600


def test_a_trial_costs_nothing_and_is_no_paid_month(shop: Shop) -> None:
    trial = shop.buy(trial_days=14)
    assert (trial.status, trial.payments) == ("trialing", ())
    assert trial.trial_end == trial.anchor
    paid = shop.renew(trial)
    assert (paid.status, [payment.amount_minor for payment in paid.payments]) == ("active", [2_000])


def test_a_subscription_that_begins_later_is_no_trial(shop: Shop) -> None:
    starts_at = timezone.now() + dt.timedelta(days=20)
    waiting = shop.buy(starts_at=starts_at)
    assert (waiting.status, waiting.payments, waiting.trial_end) == ("active", (), None)
    assert waiting.anchor == starts_at.replace(microsecond=0)


# --- Changes -------------------------------------------------------------------------------------------------------


def ensure_enterprise(shop: Shop, **changed: Any) -> str:
    """Make a dearer price known to Stripe."""
    fields = {"price_reference": "enterprise-month-usd", "description": "Enterprise", "amount_minor": 9_900}
    order = shop.order(**fields | changed)
    shop.gateway.start_checkout(order)
    return order.price_reference


def halfway(shop: Shop, days: int = 10) -> None:
    shop.control("clock", forward=days * 86_400)


def test_an_upgrade_costs_what_the_preview_said(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    bought, dearer = shop.buy(), ensure_enterprise(shop)
    halfway(shop)
    later = timezone.now() + dt.timedelta(days=10)
    monkeypatch.setattr(timezone, "now", lambda: later)
    preview = shop.gateway.preview_change(bought.reference, dearer)
    assert 0 < preview.amount_minor < 7_900
    assert preview.next_amount_minor == 9_900
    assert preview.next_payment_at == bought.payments[0].period_end
    for _ in range(2):
        shop.gateway.change_price(bought.reference, dearer, preview, key="upgrade-1")
    changed = shop.fetch(bought)
    assert changed.price_reference == dearer
    (upgrade,) = (payment for payment in changed.payments if payment.is_proration)
    assert (upgrade.amount_minor, upgrade.price_reference) == (preview.amount_minor, dearer)
    assert upgrade.period_end == bought.payments[0].period_end
    assert len(changed.payments) == 2


@pytest.mark.parametrize("outcome", ["decline", "confirm"])
def test_an_upgrade_that_is_not_paid_changes_nothing_until_it_is(shop: Shop, outcome: str) -> None:
    bought, dearer = shop.buy(), ensure_enterprise(shop)
    shop.control("card", customer=shop.objects("customer")[0]["id"], outcome=outcome)
    preview = shop.gateway.preview_change(bought.reference, dearer)
    shop.gateway.change_price(bought.reference, dearer, preview, key="upgrade-1")
    waiting = shop.fetch(bought)
    assert (waiting.price_reference, waiting.status) == ("premium-month-usd", "active")
    (unpaid,) = (payment for payment in waiting.payments if payment.status != "paid")
    assert unpaid.action == ("pay" if outcome == "decline" else "confirm")
    shop.control("invoice", id=unpaid.reference, do="pay")
    assert shop.fetch(bought).price_reference == dearer


def test_an_upgrade_that_nobody_pays_is_given_up(shop: Shop) -> None:
    bought, dearer = shop.buy(), ensure_enterprise(shop)
    shop.control("card", customer=shop.objects("customer")[0]["id"], outcome="confirm")
    preview = shop.gateway.preview_change(bought.reference, dearer)
    shop.gateway.change_price(bought.reference, dearer, preview, key="upgrade-1")
    shop.control("clock", forward=24 * 3_600)
    assert shop.fetch(bought).price_reference == "premium-month-usd"
    assert {payment.status for payment in shop.fetch(bought).payments} == {"paid", "void"}


def test_a_change_to_a_year_begins_a_new_paid_period(shop: Shop) -> None:
    bought = shop.buy()
    yearly = ensure_enterprise(shop, price_reference="premium-year-usd", interval="year", amount_minor=20_000)
    preview = shop.gateway.preview_change(bought.reference, yearly)
    shop.gateway.change_price(bought.reference, yearly, preview, key="year-1")
    changed = shop.fetch(bought)
    newest = max(changed.payments, key=lambda payment: payment.period_end)
    assert not newest.is_proration
    assert newest.period_start == changed.anchor == preview.proration_date
    assert newest.period_end == preview.next_payment_at
    assert newest.amount_minor == preview.amount_minor


def test_a_downgrade_counts_from_the_next_period(shop: Shop) -> None:
    cheaper = shop.buy().price_reference
    bought = shop.buy(price_reference="enterprise-month-usd", amount_minor=9_900)
    for _ in range(2):
        shop.gateway.change_price_at_period_end(bought.reference, cheaper, key="down-1")
    planned = shop.fetch(bought)
    assert (planned.price_reference, planned.next_price_reference) == ("enterprise-month-usd", cheaper)
    renewed = shop.renew(bought)
    assert (renewed.price_reference, renewed.next_price_reference) == (cheaper, "")
    assert [payment.amount_minor for payment in renewed.payments] == [2_000, 9_900]


def test_resuming_takes_a_downgrade_back(shop: Shop) -> None:
    cheaper = shop.buy().price_reference
    bought = shop.buy(price_reference="enterprise-month-usd", amount_minor=9_900)
    shop.gateway.change_price_at_period_end(bought.reference, cheaper, key="down-1")
    shop.gateway.resume(bought.reference, key="resume-1")
    assert shop.fetch(bought).next_price_reference == ""
    assert shop.renew(bought).price_reference == "enterprise-month-usd"


def test_an_upgrade_takes_the_place_of_a_downgrade(shop: Shop) -> None:
    dearer, bought = ensure_enterprise(shop), shop.buy()
    cheaper = ensure_enterprise(shop, price_reference="small-month-usd", amount_minor=500)
    shop.gateway.change_price_at_period_end(bought.reference, cheaper, key="down-1")
    preview = shop.gateway.preview_change(bought.reference, dearer)
    shop.gateway.change_price(bought.reference, dearer, preview, key="up-1")
    assert shop.renew(bought).price_reference == dearer


def test_a_cancelled_subscription_ends_with_its_period(shop: Shop) -> None:
    bought = shop.buy()
    shop.gateway.cancel_at_period_end(bought.reference, key="cancel-1")
    cancelled = shop.fetch(bought)
    assert (cancelled.status, cancelled.cancels_at) == ("active", bought.payments[0].period_end)
    ended = shop.renew(bought)
    assert (ended.status, len(ended.payments)) == ("ended", 1)


def test_a_resumed_subscription_renews(shop: Shop) -> None:
    bought = shop.buy()
    shop.gateway.cancel_at_period_end(bought.reference, key="cancel-1")
    shop.gateway.resume(bought.reference, key="resume-1")
    assert shop.fetch(bought).cancels_at is None
    assert len(shop.renew(bought).payments) == 2


def test_cancelling_now_voids_what_is_unpaid_and_may_be_repeated(shop: Shop) -> None:
    failed = shop.renew(shop.buy(), "decline")
    for _ in range(2):
        shop.gateway.cancel_now(failed.reference, key="now-1")
    ended = shop.fetch(failed)
    assert (ended.status, {payment.status for payment in ended.payments}) == ("ended", {"paid", "void"})


# --- Money back ----------------------------------------------------------------------------------------------------


def test_a_refund_is_made_once_even_after_stripe_forgot_its_key(shop: Shop) -> None:
    bought = shop.buy()
    for _ in range(2):
        shop.gateway.refund(bought.payments[0].reference, amount_minor=700, key="refund-1")
    simulated.state["keys"].clear()
    shop.gateway.refund(bought.payments[0].reference, amount_minor=700, key="refund-1")
    assert shop.fetch(bought).payments[0].refunded_minor == 700
    with pytest.raises(GatewayRefused):
        shop.gateway.refund(bought.payments[0].reference, amount_minor=9_999, key="refund-2")


def test_a_credit_is_returned_once_even_after_stripe_forgot_its_key(shop: Shop) -> None:
    payment = shop.buy().payments[0]
    for _ in range(2):
        shop.gateway.return_credit(payment.reference, amount_minor=700, key="return-1")
        simulated.state["keys"].clear()
    (customer,) = simulated.lives.all_of("customer")
    assert customer["balance"] == -700


def test_a_dispute_is_open_then_won_or_lost(shop: Shop) -> None:
    bought = shop.buy()
    (charge,) = shop.objects("charge")
    opened = shop.control("dispute", charge=charge["id"])
    assert shop.fetch(Reference("stripe", "dispute", opened["id"])).payments[0].dispute == "open"
    for status in ("won", "lost"):
        shop.control("dispute", dispute=opened["id"], status=status)
        assert shop.fetch(bought).payments[0].dispute == status


def test_whatever_a_notification_is_about_leads_to_the_purchase(shop: Shop) -> None:
    bought = shop.buy()
    charge = shop.objects("charge")[0]["id"]
    shop.control("refund", charge=charge, amount=100)
    shop.control("dispute", charge=charge)
    kinds = ("subscription", "invoice", "checkout.session", "payment_intent", "charge", "refund", "dispute")
    for kind in kinds:
        (found,) = shop.objects(kind)
        assert shop.fetch(Reference("stripe", kind, found["id"])).reference == bought.reference
    pack = shop.buy(kind="pack", interval="", price_reference="pack-5000-usd", amount_minor=600)
    for kind in ("payment_intent", "charge"):
        assert shop.fetch(Reference("stripe", kind, shop.objects(kind)[-1]["id"])).reference == pack.reference


def test_what_is_gone_or_not_ours_is_nothing(shop: Shop) -> None:
    bought = shop.buy()
    assert shop.gateway.fetch(Reference("stripe", "subscription", "sub_unknown")) is None
    assert shop.gateway.fetch(Reference("stripe", "customer", "cus_unknown")) is None
    (found,) = shop.objects("subscription")
    found["metadata"] = {}
    assert shop.gateway.fetch(Reference("stripe", "subscription", bought.reference)) is None


def test_a_status_that_nobody_has_heard_of_is_refused_loudly(shop: Shop) -> None:
    bought = shop.buy()
    shop.objects("subscription")[0]["status"] = "hibernating"
    with pytest.raises(GatewayRefused, match="hibernating"):
        shop.fetch(bought)


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("incomplete", "pending"),
        ("incomplete_expired", "ended"),
        ("trialing", "trialing"),
        ("active", "active"),
        ("past_due", "past_due"),
        ("paused", "paused"),
        ("unpaid", "ended"),
        ("canceled", "ended"),
    ],
)
def test_each_status_has_its_meaning(shop: Shop, told: str, meant: str) -> None:
    bought = shop.buy()
    shop.objects("subscription")[0]["status"] = told
    assert shop.fetch(bought).status == meant


def test_every_status_of_the_sdk_is_known() -> None:
    def words(field: Any) -> set[str]:
        return set(re.findall(r"'(\w+)'", str(field)))

    assert words(stripe.Subscription.__annotations__["status"]) == STATUSES.keys()
    assert words(stripe.Dispute.__annotations__["status"]) == DISPUTES.keys()


# --- Reconciliation ------------------------------------------------------------------------------------------------


def test_recent_purchases_are_those_alive_and_those_that_changed(shop: Shop) -> None:
    since = timezone.now() - dt.timedelta(seconds=5)
    alive, ended = shop.buy(), shop.buy()
    shop.gateway.cancel_now(ended.reference, key="now-1")
    pack = shop.buy(kind="pack", interval="", price_reference="pack-5000-usd", amount_minor=600)
    found = [snapshot.reference for snapshot in shop.gateway.list_recent(since)]
    assert sorted(found) == sorted([alive.reference, ended.reference, pack.reference])
    later = timezone.now() + dt.timedelta(days=1)
    assert [snapshot.reference for snapshot in shop.gateway.list_recent(later)] == [alive.reference]


def test_a_silence_hides_no_other_purchase_and_several_end_the_list(shop: Shop) -> None:
    bought = [shop.buy().reference for _ in range(4)]
    later = timezone.now() + dt.timedelta(days=1)
    shop.control("faults", kind="cut", times=2, path="/v1/subscriptions/")
    assert [snapshot.reference for snapshot in shop.gateway.list_recent(later)] == bought[1::-1]
    shop.control("faults", kind="cut", times=3, path="/v1/subscriptions/")
    with pytest.raises(GatewayUnavailable):
        list(shop.gateway.list_recent(later))


def test_one_purchase_that_cannot_be_read_hides_no_other(shop: Shop) -> None:
    first, second = shop.buy(), shop.buy()
    shop.objects("subscription")[1]["status"] = "hibernating"
    later = timezone.now() + dt.timedelta(days=1)
    assert [snapshot.reference for snapshot in shop.gateway.list_recent(later)] == [first.reference]
    assert second.reference != first.reference


def test_more_subscriptions_than_a_page_has_are_all_seen(shop: Shop) -> None:
    bought = shop.buy()
    subscriptions = simulated.state["objects"]["subscription"]
    for number in range(120):
        subscriptions[f"sub_{number}"] = {**subscriptions[bought.reference], "id": f"sub_{number}"}
    assert len({reference.id for reference in gateway._list_alive()}) == 121


# --- The customer --------------------------------------------------------------------------------------------------


def test_an_account_has_one_customer_whatever_its_address(shop: Shop) -> None:
    shop.gateway.start_checkout(shop.order())
    rows.Customer.objects.all().delete()  # as if the process had died before it wrote the row
    shop.gateway.start_checkout(shop.order(email="ana@example.org"))
    (customer,) = shop.objects("customer")
    assert customer["email"] == "ana@example.org"
    assert rows.Customer.objects.get().email == "ana@example.org"


def test_a_customer_deleted_at_stripe_gets_a_new_one(shop: Shop) -> None:
    order = shop.order()
    shop.gateway.start_checkout(order)
    (first,) = shop.objects("customer")
    del simulated.state["objects"]["customer"][first["id"]]
    checkout = shop.gateway.start_checkout(order)
    (second,) = shop.objects("customer")
    assert second["id"] != first["id"]
    shop.control("pay", session=checkout.reference.id)
    assert shop.fetch(checkout.reference).status == "active"


def test_six_tabs_at_once_make_one_customer(shop: Shop) -> None:
    def ensure(_: int) -> str:
        try:
            with client.asking() as asked:
                return str(gateway._ensure_customer(asked, shop.account_id, "ana@example.com")["id"])
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(ensure, range(6)))) == 1
    assert len(shop.objects("customer")) == 1


def test_the_portal_changes_the_card_and_nothing_else(shop: Shop) -> None:
    bought = shop.buy()
    for _ in range(2):
        url = shop.gateway.payment_method_url(shop.account_id, bought.reference, "https://chat.example.com/billing/")
    assert url.startswith(f"{shop.url}/portal/")
    (configuration,) = shop.objects("billing_portal.configuration")
    features = configuration["features"]
    assert features["subscription_cancel"]["enabled"] == features["subscription_update"]["enabled"] == "false"


@pytest.mark.stores
def test_a_forgotten_customer_leaves_no_row(shop: Shop) -> None:
    bought = shop.buy()
    shop.buy(kind="pack", interval="", price_reference="pack-5000-usd", amount_minor=600)
    for _ in range(2):
        shop.gateway.forget_customer(shop.account_id, key="forget-1")
    assert shop.objects("customer") == []
    assert shop.fetch(bought).status == "ended"  # Stripe keeps the payments, and is asked about them once more
    for model in (rows.Customer, rows.Subscription, rows.Invoice, rows.Charge, rows.Session):
        assert not model.objects.exists()
    assert "ana@example.com" not in str(list(rows.Price.objects.values()))


# --- The mirror ----------------------------------------------------------------------------------------------------


@pytest.mark.stores
def test_what_is_fetched_is_mirrored_for_the_admin(shop: Shop) -> None:
    bought = shop.buy()
    shop.renew(bought, "decline")
    subscription = rows.Subscription.objects.get(id=bought.reference)
    assert subscription.customer.subscriber_id == shop.account_id
    assert subscription.stripe_data["items"]["data"][0]["current_period_end"]
    assert rows.Invoice.objects.filter(subscription=subscription).count() == 2
    assert rows.Charge.objects.filter(customer=subscription.customer).count() == 2
    shop.fetch(bought)
    assert rows.Invoice.objects.count() == 2


def test_a_broken_mirror_breaks_no_purchase(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: Any) -> None:
        raise ValueError

    monkeypatch.setattr(mirror, "write_subscription", broken)
    assert shop.buy().status == "active"


def test_nothing_is_asked_inside_a_transaction(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    request = stripe.RequestsClient.request

    def watched(self: Any, *arguments: Any, **more: Any) -> Any:
        asked.append(connection.in_atomic_block)
        return request(self, *arguments, **more)

    monkeypatch.setattr(stripe.RequestsClient, "request", watched)
    bought = shop.renew(shop.buy())
    shop.gateway.forget_customer(shop.account_id, key="forget-1")
    assert bought.status == "active"
    assert len(asked) > 10
    assert not any(asked)


def test_what_is_asked_is_not_logged(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.buy()
    assert [record for record in caplog.records if record.name == "stripe"] == []


# --- A bad day at Stripe -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["html", "cut"])
def test_an_answer_that_is_none_is_worth_trying_again(shop: Shop, kind: str) -> None:
    bought = shop.buy()
    shop.control("faults", kind=kind, path="/v1/")
    with pytest.raises(GatewayUnavailable):
        shop.fetch(bought)
    assert shop.fetch(bought) == dataclasses.replace(bought, observed_at=shop_time(shop, bought))


def shop_time(shop: Shop, bought: Any) -> dt.datetime:
    """Return a moment that is equal to any: when a snapshot was taken is of no interest here."""

    class Whenever(dt.datetime):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, dt.datetime)

        __hash__ = dt.datetime.__hash__

    return Whenever.now(dt.UTC)


def test_a_checkout_whose_answer_is_lost_is_the_same_when_it_is_asked_for_again(shop: Shop) -> None:
    shop.gateway.start_checkout(shop.order())
    order = shop.order()
    shop.control("faults", kind="lost", path="/v1/checkout/sessions")
    with pytest.raises(GatewayUnavailable):
        shop.gateway.start_checkout(order)
    shop.gateway.start_checkout(order)
    assert len(shop.objects("checkout.session")) == 2


def test_a_slow_answer_is_not_waited_for(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    bought = shop.buy()
    monkeypatch.setattr(client.asking.__wrapped__, "__defaults__", (0.5,))
    shop.control("faults", kind="slow", seconds=3, path="/v1/")
    began = time.monotonic()
    with pytest.raises(GatewayUnavailable):
        shop.fetch(bought)
    assert time.monotonic() - began < 2.5


def test_a_refused_key_is_an_operators_to_mend(shop: Shop, settings: Any) -> None:
    settings.STRIPE_SECRET_KEY = "sk_wrong"
    with pytest.raises(GatewayUnavailable):
        shop.gateway.fetch(Reference("stripe", "subscription", "sub_1"))


def test_a_key_that_was_used_for_something_else_is_refused(shop: Shop) -> None:
    order = shop.order()
    shop.gateway.start_checkout(order)
    with pytest.raises(GatewayRefused, match="idempotency_error"):
        shop.gateway.start_checkout(dataclasses.replace(order, locale="en"))


def test_a_price_that_costs_something_else_at_stripe_is_refused(shop: Shop) -> None:
    shop.gateway.start_checkout(shop.order())
    with pytest.raises(GatewayRefused, match="another price"):
        shop.gateway.start_checkout(shop.order(amount_minor=1))


def test_a_discount_takes_off_the_first_payment(shop: Shop) -> None:
    with client.asking() as asked:
        coupon = asked.v1.coupons.create({"percent_off": 25, "duration": "once"})
        promotion = asked.v1.promotion_codes.create(
            {"code": "HOLA", "promotion": {"type": "coupon", "coupon": coupon.id}}
        )
    bought = shop.buy(discount_reference=promotion.id)
    assert [payment.amount_minor for payment in bought.payments] == [1_500]


def test_a_gateway_that_hangs_keeps_no_writer_waiting(shop: Shop) -> None:
    bought = shop.buy()
    shop.control("faults", kind="slow", seconds=1.5, path="/v1/")
    asking = threading.Thread(target=lambda: (shop.fetch(bought), connection.close()))
    asking.start()
    began = time.monotonic()
    with transaction.atomic():
        rows.Product.objects.create(id="prod_meanwhile", name="Meanwhile")
    assert time.monotonic() - began < 1.4
    asking.join()


# --- What an operator runs -----------------------------------------------------------------------------------------


def test_the_smoke_test_finds_everything_as_expected_here(shop: Shop) -> None:
    said = io.StringIO()
    call_command("smoke_payments", stdout=said)
    lines = said.getvalue().splitlines()
    assert len(lines) > 12
    assert [line for line in lines if not line.startswith(("as expected: ", "Skipped: MERCADOPAGO"))] == []


@pytest.mark.parametrize("key", ["", "sk_live_0123456789abcdef01234567"])
def test_the_smoke_test_is_skipped_without_a_test_key(shop: Shop, settings: Any, key: str) -> None:
    settings.STRIPE_SECRET_KEY = key
    said = io.StringIO()
    call_command("smoke_payments", stdout=said)
    assert said.getvalue().startswith("Skipped: STRIPE_SECRET_KEY is no key of Stripe's test mode.\n")
    assert shop.objects("customer") == []


def test_setting_up_makes_prices_portal_and_webhook_once(shop: Shop, settings: Any) -> None:
    settings.STRIPE_WEBHOOK_SECRETS = []
    settings.SITE_URL = "https://chat.example.com"
    load_prices("stripe", "USD")
    said = io.StringIO()
    call_command("set_up_stripe", stdout=said)
    assert "STRIPE_WEBHOOK_UUID" not in said.getvalue()  # the simulated one was told when it started
    for _ in range(2):
        Command(stdout=said)._make_webhook(is_new_wanted=False)
        call_command("set_up_stripe", stdout=said)
    references = set(Price.objects.filter(gateway="stripe").values_list("reference", flat=True))
    assert {price["lookup_key"] for price in shop.objects("price")} == references
    assert set(rows.Price.objects.values_list("lookup_key", flat=True)) == references
    assert len(shop.objects("billing_portal.configuration")) == 1
    (endpoint,) = shop.objects("webhook_endpoint")
    assert endpoint["url"] == f"https://chat.example.com/stripe/webhook/{settings.STRIPE_WEBHOOK_UUID}/"
    assert endpoint["api_version"] == settings.STRIPE_API_VERSION
    assert f"STRIPE_WEBHOOK_SECRET={endpoint['secret']}\n" in said.getvalue()
    row = rows.WebhookEndpoint.objects.get()
    assert (str(row.djstripe_uuid), row.url) == (settings.STRIPE_WEBHOOK_UUID, endpoint["url"])
    assert endpoint["secret"] not in str(row.stripe_data)


def test_a_new_webhook_gives_both_secrets(shop: Shop, settings: Any) -> None:
    said = io.StringIO()
    for is_new_wanted in (False, True):
        Command(stdout=said)._make_webhook(is_new_wanted=is_new_wanted)
    _first, second = shop.objects("webhook_endpoint")
    (old_secret,) = settings.STRIPE_WEBHOOK_SECRETS
    assert f"STRIPE_WEBHOOK_SECRET={second['secret']},{old_secret}\n" in said.getvalue()
    assert rows.WebhookEndpoint.objects.get().id == second["id"]


def test_setting_up_without_a_key_says_so(db: None) -> None:
    with pytest.raises(CommandError, match="STRIPE_SECRET_KEY"):
        call_command("set_up_stripe")
