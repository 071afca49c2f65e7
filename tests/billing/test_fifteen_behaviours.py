"""The fifteen things that subscriptions must have, one test named after each, at each gateway that has it."""

import datetime as dt
import json
import time
from typing import Any, get_args

import pytest
import stripe
from celery import current_app
from kombu.exceptions import OperationalError

from billing import inbox, purchasing, reconciliation
from billing.entitlements import access_of, account_of
from billing.errors import AlreadySubscribed, PaymentOverdue
from billing.gateways import get_gateway
from billing.gateways.base import BadNotification
from billing.gateways.stripe.snapshots import STATUSES
from billing.models import GatewayEvent, GatewayTask, Payment, Price, Subscription, UsagePeriod
from core.errors import DomainError
from tests.billing.chaos import RETURN, World

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

MINUTE, HOUR, DAY = dt.timedelta(minutes=1), dt.timedelta(hours=1), dt.timedelta(days=1)
MONTH = dt.timedelta(days=31)
PREMIUM, ENTERPRISE = 20_000_000, 100_000_000

at_each_gateway = pytest.mark.parametrize("gateway", ["stripe", "mercadopago"])
at_stripe = pytest.mark.parametrize("gateway", ["stripe"])


def hear(world: World) -> None:
    """Everything that gateways have to tell arrives, and a worker looks at it."""
    for gateway in world.sites:
        world.deliver(gateway, "all")
    reconciliation.work_off()


def buy(world: World, gateway: str, plan: str = "premium", interval: str = "month") -> Subscription:
    assert world.open_checkout(gateway, plan, interval)
    world.pay_tab(0)
    hear(world)
    return Subscription.objects.get(gateway=gateway)


def plan(world: World) -> str:
    return access_of(account_of(world.user.pk)).plan.key


def allowance(world: World) -> int | None:
    return UsagePeriod.objects.filter(account=world.account_id, kind="paid").latest("period_start").allowance_micros


@at_each_gateway
def test_1_signature_on_the_raw_body_with_a_secret_of_its_own(world: World, gateway: str, monkeypatch: Any) -> None:
    assert world.open_checkout(gateway, "premium", "month")
    world.pay_tab(0)
    server, told = world.sites[gateway].server, get_gateway(gateway)
    notice = server.state["notices"][0]
    body = json.dumps(notice["body"]).encode()
    query = dict(pair.split("=", 1) for pair in notice["url"].partition("?")[2].split("&") if pair)
    headers = {name.lower(): value for name, value in server.sign(notice["url"], body).items()}
    assert told.read_notification(body, headers, query).event_id
    changed_query = {name: f"{value}0" for name, value in query.items()}
    for wrong in ((body + b" ", headers, changed_query), (body, {}, query), (body, forged(world, gateway), query)):
        with pytest.raises(BadNotification):
            told.read_notification(*wrong)
    real_time = time.time
    monkeypatch.setattr(time, "time", lambda: real_time() + 400)
    with pytest.raises(BadNotification):
        told.read_notification(body, headers, query)


def forged(world: World, gateway: str) -> dict[str, str]:
    server = world.sites[gateway].server
    notice, genuine = server.state["notices"][0], server.notice_secret
    server.notice_secret = "another"
    headers = server.sign(notice["url"], json.dumps(notice["body"]).encode())
    server.notice_secret = genuine
    return {name.lower(): value for name, value in headers.items()}


@at_each_gateway
def test_2_inbox_with_unique_events(world: World, gateway: str) -> None:
    world.open_checkout(gateway, "premium", "month")
    world.pay_tab(0)
    told = len(world.sites[gateway].server.state["notices"])
    world.deliver(gateway, "twice")
    assert 0 < GatewayEvent.objects.count() <= told
    reconciliation.work_off()
    reconciliation.work_off()
    assert (plan(world), allowance(world)) == ("premium", PREMIUM)
    assert (Payment.objects.count(), UsagePeriod.objects.filter(kind="paid").count()) == (1, 1)


@at_each_gateway
def test_3_order_independence(world: World, gateway: str) -> None:
    buy(world, gateway)
    world.set_card("decline")
    world.pass_time(MONTH)
    world.pay_what_is_due()
    world.deliver(gateway, "backwards")
    reconciliation.work_off()
    assert (Subscription.objects.get().status, plan(world)) == ("active", "premium")


@at_each_gateway
def test_4_fast_answer_and_durable_work(world: World, gateway: str, monkeypatch: Any) -> None:
    """The answer needs neither the gateway nor a broker, and nothing is lost without them."""

    def no_broker(*_args: Any, **_options: Any) -> None:
        raise OperationalError

    monkeypatch.setattr(current_app, "send_task", no_broker)
    world.open_checkout(gateway, "premium", "month")
    world.pay_tab(0)
    for path in range(4):
        world.sites[gateway].fail("cut", 1_000, path)
    world.deliver(gateway, "all")
    reconciliation.work_off()
    assert plan(world) == "free"
    assert GatewayEvent.objects.filter(done_at=None).exists()
    world.sites[gateway].server._faults.clear()
    world.pass_time(10 * MINUTE)
    reconciliation.work_off()
    assert plan(world) == "premium"
    assert not GatewayEvent.objects.filter(done_at=None).exists()


@at_each_gateway
def test_5_reconciliation(world: World, gateway: str) -> None:
    """Whatever is not told is seen: a purchase, a renewal, a refund."""
    world.open_checkout(gateway, "premium", "month")
    world.pay_tab(0)
    world.deliver(gateway, "lost")
    reconciliation.reconcile()
    assert plan(world) == "premium"
    world.pass_time(MONTH)
    world.deliver(gateway, "lost")
    reconciliation.reconcile()
    assert Payment.objects.filter(status="paid").count() == 2
    world.refund(1, 100, at_the_gateway=True)
    world.deliver(gateway, "lost")
    reconciliation.reconcile()
    assert plan(world) == "free"


@at_each_gateway
def test_5_reconciliation_after_a_week_without_the_site(world: World, gateway: str) -> None:
    """What ended and was refunded too long ago to be in a list of changes is asked about all the same."""
    buy(world, gateway)
    world.refund(0, 100, at_the_gateway=True)
    get_gateway(gateway).cancel_now(Subscription.objects.get().reference, key="somebody-else")
    world.deliver(gateway, "lost")
    world.clock.at += 7 * DAY
    reconciliation.reconcile()
    assert plan(world) == "free"


@at_each_gateway
def test_6_one_customer_and_one_live_subscription(world: World, gateway: str) -> None:
    buy(world, gateway)
    with pytest.raises(AlreadySubscribed):
        purchasing.start_checkout(
            world.user, world.price(gateway, "premium", "month").pk, "subscription", return_url=RETURN
        )
    world.open_unguarded_checkout(gateway, "premium", "month")
    world.pay_tab(0)
    hear(world)
    first, second = Subscription.objects.order_by("created_at")
    assert (first.is_double, second.is_double) == (False, True)
    assert second.payments.get().refunded_minor == second.payments.get().amount_minor
    assert (plan(world), allowance(world)) == ("premium", PREMIUM)
    if gateway == "stripe":
        assert len(world.sites[gateway].objects("customer")) == 1
    world.settle()
    world.judge()


@at_stripe
@pytest.mark.parametrize("second", [("premium", "month"), ("enterprise", "year")])
def test_6_a_second_purchase_that_a_credit_paid_gives_it_back(
    world: World, gateway: str, second: tuple[str, str]
) -> None:
    """The rest of a year is a credit when a month takes its place, and Stripe pays the next invoices with it."""
    subscription = buy(world, gateway, "premium", "year")
    world.open_unguarded_checkout(gateway, *second)
    world.change("enterprise", "month")
    (customer,) = world.sites[gateway].objects("customer")
    credit = customer["balance"]
    assert credit < 0
    world.pay_tab(0)
    hear(world)
    double = Subscription.objects.exclude(pk=subscription.pk).get()
    payment = double.payments.get()
    assert double.is_double
    assert payment.credit_minor > 0
    assert payment.refunded_minor == payment.amount_minor
    (customer,) = world.sites[gateway].objects("customer")
    assert customer["balance"] == credit
    world.settle()
    world.judge()


@at_each_gateway
def test_7_grant_on_paid_state_and_not_on_the_redirect(world: World, gateway: str) -> None:
    world.open_checkout(gateway, "premium", "month")
    world.come_back()
    assert plan(world) == "free"
    world.set_card("decline")  # of what is bought; at Stripe nobody gets through the checkout with it
    world.pay_tab(0)
    world.come_back()
    assert plan(world) == "premium"


@at_stripe
def test_8_total_status_map(world: World, gateway: str) -> None:
    words, _any_other = get_args(stripe.Subscription.__annotations__["status"])
    assert set(get_args(words)) == STATUSES.keys()
    buy(world, gateway)
    subscription = world.sites[gateway].objects("subscription")[0]
    gives = {"active": "premium", "past_due": "premium", "canceled": "premium", "incomplete": "premium"}
    for status, expected in gives.items():  # what is paid is paid, whatever it is called
        subscription["status"] = status
        reconciliation.reconcile()
        assert plan(world) == expected
    world.clock.at += MONTH
    after = {"active": "premium", "past_due": "premium", "canceled": "free", "unpaid": "free", "paused": "free"}
    for status, expected in after.items():
        subscription["status"] = status
        inbox.handle_event(note_about(gateway, subscription["id"], status))
        assert plan(world) == expected, status


def note_about(gateway: str, reference: str, name: str) -> GatewayEvent:
    about = inbox.Reference(gateway, "subscription", reference)
    return inbox.note(about, event_id=f"about-{reference}-{name}", event_type="test")


@pytest.mark.parametrize("gateway", ["mercadopago"])
def test_8_total_status_map_of_mercado_pago(world: World, gateway: str) -> None:
    buy(world, gateway)
    preapproval = world.sites[gateway].objects("preapprovals")[0]
    for status in ("authorized", "paused", "cancelled", "pending"):
        preapproval["status"] = status
        inbox.handle_event(note_about(gateway, preapproval["id"], status))
        assert plan(world) == "premium", status
    world.clock.at += MONTH
    for status, expected in {"authorized": "premium", "paused": "free", "cancelled": "free"}.items():
        preapproval["status"] = status
        inbox.handle_event(note_about(gateway, preapproval["id"], f"{status}-later"))
        assert plan(world) == expected, status


@at_each_gateway
def test_9_dunning(world: World, gateway: str) -> None:
    """A renewal that fails has its grace, is tried again, and cancelling ends the attempts."""
    buy(world, gateway)
    world.set_card("decline")
    world.pass_time(MONTH)
    hear(world)
    assert (Subscription.objects.get().status, plan(world)) == ("past_due", "premium")
    with pytest.raises(PaymentOverdue):
        purchasing.start_checkout(
            world.user, world.price(gateway, "premium", "month").pk, "subscription", return_url=RETURN
        )
    world.pay_what_is_due()
    hear(world)
    assert (Subscription.objects.get().status, plan(world)) == ("active", "premium")
    world.set_card("decline")
    world.pass_time(MONTH)
    hear(world)
    world.cancel()
    hear(world)
    assert (Subscription.objects.get().status, plan(world)) == ("ended", "free")
    paid = len(world.charges())
    world.set_card("ok")
    world.pass_time(MONTH)
    assert len(world.charges()) == paid
    world.settle()
    world.judge()


@at_stripe
def test_10_upgrade_now_with_preview(world: World, gateway: str) -> None:
    buy(world, gateway)
    world.pass_time(7 * DAY)
    price = world.price(gateway, "enterprise", "month")
    planned = purchasing.preview_change(world.user, price.pk)
    assert planned.preview is not None
    world.pass_time(HOUR)
    purchasing.change(world.user, price.pk, planned.preview)
    assert plan(world) == "enterprise"
    upgrade = Payment.objects.get(is_proration=True)
    assert upgrade.amount_minor == planned.preview.amount_minor > 0
    assert PREMIUM < (allowance(world) or 0) < ENTERPRISE
    world.settle()
    world.judge()


@at_each_gateway
def test_11_downgrade_at_the_end_of_the_period(world: World, gateway: str) -> None:
    buy(world, gateway, "enterprise")
    world.change("premium", "month")
    hear(world)
    assert (plan(world), allowance(world)) == ("enterprise", ENTERPRISE)
    world.pass_time(MONTH)
    hear(world)
    assert (plan(world), allowance(world)) == ("premium", PREMIUM)
    world.settle()
    world.judge()


@at_each_gateway
def test_12_cancel_at_the_end_of_the_period_and_resume(world: World, gateway: str) -> None:
    buy(world, gateway)
    world.cancel()
    hear(world)
    assert plan(world) == "premium"
    if gateway == "stripe":
        world.resume()
        world.pass_time(MONTH)
        hear(world)
        assert (plan(world), Payment.objects.filter(status="paid").count()) == ("premium", 2)
        world.cancel()
    else:
        with pytest.raises(DomainError):  # Mercado Pago has no way back
            purchasing.resume(world.user)
    world.pass_time(MONTH)
    for name in world.sites:
        world.deliver(name, "lost")
    assert plan(world) == "free"  # by the clock alone, without any grace
    world.settle()
    world.judge()


@at_each_gateway
def test_13_tax_ids_and_receipts(world: World, gateway: str) -> None:
    if gateway == "stripe":
        buy(world, gateway)
        invoice = world.sites[gateway].objects("invoice")[0]
        invoice |= {"customer_address": {"country": "MX"}, "total_taxes": [{"amount": 276}]}
        invoice["customer_tax_ids"] = [{"type": "mx_rfc", "value": "XAXX010101000"}]
    else:
        world.open_checkout(gateway, "premium", "month")
        world.pay_tab(0)
        payment = next(
            one for one in world.sites[gateway].objects("payments") if "validation" not in one["operation_type"]
        )
        payment |= {"payer": {**payment["payer"], "identification": {"number": "20123456789"}}, "taxes_amount": 2.76}
    hear(world)
    reconciliation.reconcile()
    paid = Payment.objects.get()
    assert paid.tax_minor == 276
    expected = ("MX", "XAXX010101000") if gateway == "stripe" else ("AR", "20123456789")
    assert (paid.tax_country, paid.tax_id) == expected
    assert bool(paid.receipt_url) == (gateway == "stripe")  # Mercado Pago sends its receipts by mail


@at_each_gateway
def test_14_refunds_and_disputes(world: World, gateway: str) -> None:
    buy(world, gateway)
    world.refund(0, 30, at_the_gateway=True)
    hear(world)
    assert (plan(world), allowance(world)) == ("premium", PREMIUM)
    name = world.charges()[0][1].name
    for result, expected in (("open", "free"), ("won", "premium")):
        world.sites[gateway].dispute(name, result)
        hear(world)
        assert plan(world) == expected, result
    assert Subscription.objects.get().cancels_at is not None or Subscription.objects.get().status == "ended"
    world.settle()
    world.judge()


@at_each_gateway
def test_14_a_lost_dispute_and_a_full_refund_end_what_was_paid(world: World, gateway: str) -> None:
    buy(world, gateway)
    name = world.charges()[0][1].name
    for result in ("open", "lost"):
        world.sites[gateway].dispute(name, result)
    hear(world)
    assert (plan(world), Subscription.objects.get().status) == ("free", "ended")
    world.open_checkout(gateway, "premium", "month")
    world.pay_tab(0)
    hear(world)
    assert plan(world) == "premium"
    world.refund(1, 100, at_the_gateway=False)
    hear(world)
    assert plan(world) == "free"
    assert not GatewayTask.objects.filter(done_at=None).exists()


@at_each_gateway
def test_15_catalogue_by_key_and_grandfathering(world: World, gateway: str) -> None:
    """Who bought at a price goes on paying it; whoever comes later pays the new one."""
    buy(world, gateway)
    old = world.price(gateway, "premium", "month")
    with pytest.raises(ValueError, match="amount_minor"):
        Price.objects.filter(pk=old.pk).update(amount_minor=1)
    Price.objects.filter(pk=old.pk).update(is_for_sale=False)
    new = Price.objects.create(
        plan=old.plan, gateway=gateway, currency=old.currency, amount_minor=old.amount_minor * 2, interval="month"
    )
    world.pass_time(MONTH)
    hear(world)
    amounts = Payment.objects.filter(status="paid").values_list("amount_minor", flat=True)
    assert set(amounts) == {old.amount_minor}
    assert new.reference not in Subscription.objects.values_list("price__reference", flat=True)
    assert plan(world) == "premium"
