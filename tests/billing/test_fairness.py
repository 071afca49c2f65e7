"""Nobody is charged for what they do not have, and nobody has what they do not pay: the ways around that."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from billing import inbox, outbox, purchasing, reconciliation, staff, subscriptions
from billing.entitlements import access_of, account_of, entitlements_of, list_access, period_of
from billing.errors import AlreadySubscribed, GatewayDeclined, NotSubscribed, PaymentOverdue
from billing.gateways.base import ChangePreview, GatewayRefused, GatewayUnavailable, Reference
from billing.gateways.stripe import mirror
from billing.models import GatewayEvent, GatewayTask, Payment, Purchase, Subscription, UsagePeriod
from billing.pages.overview import PAYMENTS_SHOWN, list_payments, list_to_pay
from billing.seeds import load_prices
from billing.standing import standing_of
from billing.subscriptions import apply
from tests.billing.fake_gateway import bought, change, change_payment, payment, renew, state
from tests.billing.stripe_site import Shop, simulated

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

START = dt.datetime(2027, 1, 31, 9, 30, tzinfo=dt.UTC)
FEBRUARY = dt.datetime(2027, 2, 28, 9, 30, tzinfo=dt.UTC)
MARCH = dt.datetime(2027, 3, 31, 9, 30, tzinfo=dt.UTC)
APRIL = dt.datetime(2027, 4, 30, 9, 30, tzinfo=dt.UTC)
DAY, HOUR = dt.timedelta(days=1), dt.timedelta(hours=1)
RETURN = "https://tertulia.test/billing/"


def plan(user: Any) -> str:
    return entitlements_of(user.pk).plan


def calls() -> list[tuple[str, str]]:
    return [call[:2] for call in state.calls]


def checkout(user: Any, price: Any, **fields: Any) -> Purchase:
    return purchasing.start_checkout(user, price.pk, fields.pop("kind", "subscription"), return_url=RETURN, **fields)


@pytest.fixture
def premium(ana: Any, prices: Any, at: Any) -> Any:
    at(START)
    apply(bought(ana, prices["premium-month"], at=START))
    at(START + HOUR)
    return ana


@pytest.fixture
def changing(ana: Any, prices: Any, at: Any) -> Any:
    """Ana, who pays Enterprise to the end of February, and has bought Premium (`s2`) from then on."""
    at(START)
    apply(bought(ana, prices["enterprise-month"], at=START))
    at(START + HOUR)
    apply(bought(ana, prices["premium-month"], "s2", at=START, anchor=FEBRUARY, payments=()))
    reconciliation.work_off()
    at(START + 2 * HOUR)
    return ana


# A change of interval, whose rest is credited


def test_a_year_that_was_credited_for_a_dearer_month_is_over(ana: Any, prices: Any, at: Any):
    at(START)
    apply(bought(ana, prices["premium-year"], at=START))
    middle = START + 10 * DAY
    until = dt.datetime(2027, 3, 10, 9, 30, tzinfo=dt.UTC)
    at(middle)
    dear = payment(prices["enterprise-month"], "s1-p2", middle, until, amount_minor=-9_500)
    both = (*state.snapshots["s1"].payments, dear)
    told = change("s1", payments=both, anchor=middle, price_reference="enterprise-month-usd", cancels_at=until)
    assert (apply(told).paid_until, plan(ana)) == (until, "enterprise")
    at(until)
    assert plan(ana) == "free"
    assert apply(change("s1", status="ended")).paid_until == until


def test_a_refunded_change_gives_the_year_back(ana: Any, prices: Any, at: Any):
    at(START)
    year_end = apply(bought(ana, prices["premium-year"], at=START)).paid_until
    dear = payment(prices["enterprise-year"], "s1-p2", START + DAY, START + 366 * DAY, amount_minor=79_000)
    at(START + DAY)
    apply(change("s1", payments=(*state.snapshots["s1"].payments, dear), anchor=START + DAY))
    assert plan(ana) == "enterprise"
    assert apply(change_payment("s1-p2", refunded_minor=79_000)).paid_until == year_end
    assert plan(ana) == "premium"


def test_stripe_says_when_a_changed_interval_is_paid_next(shop: Shop, ana: Any):
    prices = {price.reference: price for price in load_prices("stripe", "USD")}
    for reference in ("premium-year-usd", "enterprise-month-usd"):
        price = prices[reference]
        order = shop.order(price_reference=reference, amount_minor=price.amount_minor, interval=price.interval)
        shop.gateway.expire_checkout(shop.gateway.start_checkout(order).reference)
    apply(shop.buy(price_reference="premium-year-usd", amount_minor=20_000, interval="year"))
    planned = purchasing.preview_change(ana, prices["enterprise-month-usd"].pk)
    assert planned.preview is not None
    assert planned.preview.next_payment_at - planned.starts_at < 32 * DAY
    changed = purchasing.change(ana, planned.price.pk, planned.preview)
    assert changed.paid_until == planned.preview.next_payment_at
    assert changed.plan is not None
    assert changed.plan.key == "enterprise"


# Two that are live


def test_cancelling_ends_what_would_begin_later_too(changing: Any):
    assert purchasing.cancel(changing)
    assert calls()[-1] == ("cancel_now", "s2")
    assert not any(one.renews for one in Subscription.objects.all())
    assert plan(changing) == "enterprise"  # that is paid
    with pytest.raises(NotSubscribed):
        purchasing.cancel(changing)


def test_what_was_replaced_is_not_resumed_beside_what_replaces_it(changing: Any):
    assert not standing_of(account_of(changing.pk)).may_resume
    with pytest.raises(AlreadySubscribed):
        purchasing.resume(changing)
    purchasing.cancel(changing)
    assert standing_of(account_of(changing.pk)).may_resume
    assert purchasing.resume(changing)
    assert [one.reference for one in Subscription.objects.all() if one.renews] == ["s1"]


def test_what_is_bought_beside_two_begins_after_both(ana: Any, prices: Any, at: Any):
    at(START)
    apply(bought(ana, prices["enterprise-month"], at=START, kind="prepaid", cancels_at=FEBRUARY))
    later = payment(prices["premium-month"], "s2-p1", FEBRUARY, MARCH, paid_at=START)
    fields = {"kind": "prepaid", "anchor": FEBRUARY, "payments": (later,), "cancels_at": MARCH}
    apply(bought(ana, prices["premium-month"], "s2", at=START, **fields))
    at(START + HOUR)
    assert checkout(ana, prices["premium-month"], kind="prepaid", replaces=True).starts_at == MARCH


def test_a_disputed_subscription_of_the_past_keeps_nobody_from_cancelling(premium: Any, prices: Any, at: Any):
    apply(change("s1", status="ended", cancels_at=START))
    at(FEBRUARY)
    apply(bought(premium, prices["premium-month"], "s2", at=FEBRUARY))
    state.snapshots["s0"] = replace(state.snapshots["s1"], reference="s0", payments=())
    apply(change_payment("s1-p1", dispute="open"))
    Subscription.objects.filter(reference="s1").update(plan=prices["enterprise-month"].plan)
    at(FEBRUARY + HOUR)
    assert purchasing.cancel(premium)
    assert calls() == [("cancel_at_period_end", "s2")]


def test_the_operator_hears_of_two_that_are_paid_for_the_same_time(
    changing: Any, prices: Any, at: Any, monkeypatch: Any
):
    alerts: list[str] = []
    monkeypatch.setattr(subscriptions, "alert", lambda subject, *_words, **_fields: alerts.append(subject))
    at(FEBRUARY)
    apply(change("s2", payments=(payment(prices["premium-month"], "s2-p1", FEBRUARY, MARCH),)))
    assert alerts == []
    renew("s1")  # it was charged before it heard that it had ended
    apply(change("s1"))
    assert [subject.partition(":")[0] for subject in alerts] == ["both"]
    assert plan(changing) == "enterprise"


def test_a_single_payment_that_was_made_twice_is_refunded_and_alarms_once(premium: Any, prices: Any, monkeypatch: Any):
    refused: list[str] = []
    monkeypatch.setattr(outbox, "alert", lambda subject, *_words, **_fields: refused.append(subject))
    monkeypatch.setattr("tests.billing.fake_gateway.FakeGateway.expire_checkout", _refuse)  # it was paid
    apply(bought(premium, prices["premium-month"], "s2", at=START, kind="prepaid", cancels_at=FEBRUARY))
    reconciliation.work_off()
    assert (calls(), refused) == ([("refund", "s2-p1")], [])


# Money that went back


def test_who_got_the_money_back_is_not_charged_again(premium: Any):
    apply(change_payment("s1-p1", refunded_minor=2_000))
    reconciliation.work_off()
    assert calls() == [("cancel_now", "s1")]
    assert Subscription.objects.get().status == "ended"


def test_a_refund_of_a_month_long_past_cancels_nothing(premium: Any, at: Any):
    at(FEBRUARY)
    renew("s1")
    apply(change("s1"))
    apply(change_payment("s1-p1", refunded_minor=2_000))
    reconciliation.work_off()
    assert calls() == []
    assert plan(premium) == "premium"


def test_a_month_that_took_a_years_place_is_what_was_paid_last(ana: Any, prices: Any, at: Any):
    at(START)
    year = apply(bought(ana, prices["premium-year"], at=START)).payments.get()
    middle, until = START + 10 * DAY, dt.datetime(2027, 3, 10, 9, 30, tzinfo=dt.UTC)
    at(middle)
    dear = payment(prices["enterprise-month"], "s1-p2", middle, until, amount_minor=9_900)
    apply(change("s1", payments=(*state.snapshots["s1"].payments, dear), price_reference="enterprise-month-usd"))
    apply(change_payment("s1-p1", refunded_minor=year.amount_minor))
    reconciliation.work_off()
    assert (calls(), plan(ana)) == ([], "enterprise")
    apply(change_payment("s1-p2", refunded_minor=9_900))
    reconciliation.work_off()
    assert calls() == [("cancel_now", "s1")]


# Grants


def test_a_grant_that_was_lower_for_a_while_gives_a_month_once(ana: Any, olga: Any, prices: Any, at: Any):
    at(START)
    account = account_of(ana.pk)
    for key in ("enterprise-month", "premium-month", "enterprise-month"):
        staff.grant_plan(account, prices[key].plan, by=olga, reason="Press.")
        period = period_of(ana.pk)
        UsagePeriod.objects.filter(pk=period.pk).update(used_micros=70_000_000)
    assert period.allowance_micros == 100_000_000


def test_the_grace_of_a_plan_takes_nothing_of_the_same_plan_that_was_granted(
    premium: Any, olga: Any, prices: Any, at: Any
):
    staff.grant_plan(account_of(premium.pk), prices["premium-month"].plan, by=olga, reason="Press.")
    assert access_of(account_of(premium.pk)).subscription is not None
    at(FEBRUARY + HOUR)
    assert [access.is_grace for access in list_access(account_of(premium.pk))] == [False, True]
    assert period_of(premium.pk).allowance_micros == 20_000_000


# Clocks


def test_a_clock_that_was_a_day_ahead_withholds_nothing(ana: Any, prices: Any, at: Any):
    at(START + DAY)
    apply(bought(ana, prices["premium-month"], at=START, status="pending", payments=()))
    at(START + HOUR)
    paid = payment(prices["premium-month"], "s1-p1", START, START + 28 * DAY)
    apply(change("s1", status="active", payments=(paid,)))
    assert plan(ana) == "premium"
    late = change("s1", status="ended", payments=())
    at(START + 2 * HOUR)
    apply(change("s1", status="active", payments=(paid,)))
    apply(late)
    assert Subscription.objects.get().status == "active"


# Trials


def trial(user: Any, price: Any, reference: str = "s1", **fields: Any) -> Any:
    ends = fields.pop("ends")
    Purchase.objects.create(
        key=f"k-{reference}", account=account_of(user.pk), price=price, kind="subscription", trial_days=7
    )
    told = {"status": "trialing", "trial_end": ends, "anchor": ends, "payments": ()} | fields
    return bought(user, price, reference, at=START, **told)


def test_a_second_trial_does_not_end_the_first(ana: Any, prices: Any, at: Any):
    at(START)
    apply(trial(ana, prices["premium-month"], ends=START + 7 * DAY))
    apply(trial(ana, prices["premium-month"], "s2", ends=START + 7 * DAY + HOUR))
    reconciliation.work_off()
    assert calls() == [("cancel_now", "s2")]
    assert Subscription.objects.get(reference="s1").renews


def test_a_trial_does_not_become_one_of_a_higher_plan(ana: Any, prices: Any, at: Any):
    at(START)
    apply(trial(ana, prices["premium-month"], ends=START + 7 * DAY))
    at(START + DAY)
    planned = purchasing.preview_change(ana, prices["enterprise-month"].pk)
    assert (planned.starts_at, planned.preview) == (START + 7 * DAY, None)
    purchasing.change(ana, prices["enterprise-month"].pk, ChangePreview(0, "USD", START, 9_900, START))
    assert calls() == [("change_price_at_period_end", "s1")]
    assert plan(ana) == "premium"


def test_what_is_agreed_to_be_paid_after_a_trial_does_not_change_it(ana: Any, prices: Any, at: Any):
    """Mercado Pago knows no other price than the next one."""
    at(START)
    apply(trial(ana, prices["premium-month"], ends=START + 7 * DAY))
    apply(change("s1", price_reference="enterprise-month-usd"))
    assert plan(ana) == "premium"
    at(START + 7 * DAY)
    paid = payment(prices["enterprise-month"], "s1-p1", START + 7 * DAY, START + 35 * DAY)
    apply(change("s1", status="active", payments=(paid,)))
    assert plan(ana) == "enterprise"


def test_a_change_that_is_planned_in_a_trial_leaves_it_a_trial(shop: Shop, monkeypatch: Any):
    load_prices("stripe", "USD")
    enterprise = shop.order(price_reference="enterprise-month-usd", amount_minor=9_900)
    shop.gateway.expire_checkout(shop.gateway.start_checkout(enterprise).reference)
    tried = shop.buy(trial_days=7)
    sent: list[Any] = []
    monkeypatch.setattr("stripe.SubscriptionScheduleService.update", lambda _self, *given: sent.append(given[1]))
    shop.gateway.change_price_at_period_end(tried.reference, "enterprise-month-usd", key="k")
    assert [phase.get("trial", False) for phase in sent[0]["phases"]] == [True, False]


# Cancelling


def test_a_cancellation_the_gateway_refuses_is_not_called_done(premium: Any, at: Any):
    state.error = GatewayRefused("no")
    with pytest.raises(GatewayDeclined):
        purchasing.cancel(premium)


def test_cancelling_what_had_ended_unheard_is_done(premium: Any, monkeypatch: Any):
    monkeypatch.setattr("tests.billing.fake_gateway.FakeGateway.cancel_at_period_end", _refuse)
    change("s1", status="ended", cancels_at=START + HOUR)
    assert purchasing.cancel(premium)
    assert Subscription.objects.get().status == "ended"


def _refuse(*_given: Any, **_named: Any) -> None:
    raise GatewayRefused("gone")


def test_a_trial_whose_first_payment_failed_ends_at_once_when_it_is_cancelled(ana: Any, prices: Any, at: Any):
    at(START)
    ends = START + 7 * DAY
    price = prices["premium-month"]
    apply(trial(ana, price, ends=ends))
    at(ends + HOUR)
    failed = payment(price, "s1-p1", ends, ends + 28 * DAY, status="failed", paid_at=None)
    apply(change("s1", status="past_due", payments=(failed,)))
    assert standing_of(account_of(ana.pk)).status == "unpaid"
    with pytest.raises(PaymentOverdue):
        checkout(ana, price)
    assert purchasing.cancel(ana)
    assert calls() == [("cancel_now", "s1")]
    assert Payment.objects.get().status == "void"


def test_a_planned_change_can_be_taken_back(ana: Any, prices: Any, at: Any):
    at(START)
    apply(bought(ana, prices["enterprise-month"], at=START))
    apply(change("s1", next_price_reference="premium-month-usd"))
    assert standing_of(account_of(ana.pk)).may_resume
    assert purchasing.resume(ana)
    assert calls() == [("resume", "s1")]


# Whoever went away


def test_what_names_a_payer_does_not_come_back_after_their_account_is_closed(premium: Any, at: Any):
    apply(change_payment("s1-p1", tax_id="12345678901", receipt_url="https://pay.test/r", action_code="0001"))
    assert Payment.objects.get().tax_id
    premium.delete()
    at(START + 2 * HOUR)
    reconciliation.work_off()
    assert calls()[0] == ("cancel_now", "s1")
    apply(change("s1"))
    paid = Payment.objects.get()
    assert [getattr(paid, name) for name in Payment.PERSONAL] == [""] * len(Payment.PERSONAL)
    assert "refund" not in [call[0] for call in state.calls]  # that was bought, and had


def test_a_checkout_paid_after_the_account_was_closed_is_cancelled_and_refunded(ana: Any, prices: Any, at: Any):
    at(START)
    told = [
        bought(ana, prices["premium-month"], "s1", at=START),
        bought(ana, prices["premium-month"], "s2", at=START, kind="prepaid", cancels_at=FEBRUARY),
        bought(ana, prices["pack-5000"], "s3", at=START),
    ]
    ana.delete()
    for snapshot in told:
        apply(snapshot)
        apply(snapshot)
    reconciliation.work_off()
    refunds = sorted(reference for what, reference in calls() if what == "refund")
    assert refunds == ["s1-p1", "s2-p1", "s3-p1"]
    assert ("cancel_now", "s1") in calls()
    account = Subscription.objects.filter(reference="s1").get().account
    for reference in ("s1", "s2", "s3"):
        apply(change(reference))
    assert list_access(account) == []


def test_a_renewal_charged_while_the_account_was_being_closed_is_given_back(premium: Any, at: Any):
    premium.delete()
    at(FEBRUARY)
    renew("s1")
    apply(change("s1"))
    reconciliation.work_off()
    assert [reference for what, reference in calls() if what == "refund"] == ["s1-p2"]


def test_who_never_paid_is_forgotten_at_every_gateway(ana: Any, gateway: Any):
    account_of(ana.pk)
    ana.delete()
    assert GatewayTask.objects.filter(act="forget_customer", gateway="fake").count() == 1


def test_a_customer_whose_checkout_failed_is_known_and_so_can_be_forgotten(shop: Shop, monkeypatch: Any):
    monkeypatch.setattr("billing.gateways.stripe.gateway._session_params", _refuse)
    with pytest.raises(GatewayRefused):
        shop.gateway.start_checkout(shop.order())
    assert mirror.find_customer(shop.account_id)


# What is to be paid


def test_a_pack_that_is_paid_is_not_to_be_paid(shop: Shop, ana: Any):
    load_prices("stripe", "USD")
    order = shop.order(kind="pack", price_reference="pack-5000-usd", amount_minor=600, interval="")
    begun = shop.gateway.start_checkout(order)
    apply(shop.fetch(begun.reference))
    assert len(list_to_pay(account_of(ana.pk))) == 1
    shop.control("pay", session=begun.reference.id, how="ok")
    apply(shop.fetch(begun.reference))
    assert list_to_pay(account_of(ana.pk)) == []
    assert sorted(Payment.objects.values_list("status", flat=True)) == ["paid", "void"]


def test_what_an_operator_adds_to_an_invoice_withholds_nothing(shop: Shop, ana: Any):
    load_prices("stripe", "USD")
    told = shop.buy()
    [invoice] = shop.objects("invoice")
    before = told.payments[0]
    fee = {**invoice["lines"]["data"][0], "amount": 50_000, "period": {"start": 1, "end": 1}}
    fee["parent"] = {"type": "invoice_item_details", "invoice_item_details": {"proration": False}}
    for pricing in (None, {"price_details": {"price": "price_of_a_fee", "product": "prod_fee"}}):
        invoice["lines"]["data"].append({**fee, "pricing": pricing})
    simulated.state["objects"]["price"]["price_of_a_fee"] = {"id": "price_of_a_fee", "lookup_key": None}
    [payment_] = shop.fetch(told).payments
    assert (payment_.price_reference, payment_.period_start, payment_.period_end, payment_.is_proration) == (
        "premium-month-usd",
        before.period_start,
        before.period_end,
        False,
    )


# A gateway that speaks nonsense, or not at all


def test_nonsense_of_stripe_is_asked_for_again_later(shop: Shop, ana: Any):
    load_prices("stripe", "USD")
    told = shop.buy()
    simulated.state["objects"]["subscription"][told.reference]["metadata"] = None
    with pytest.raises(GatewayUnavailable):
        shop.gateway.fetch(Reference("stripe", "subscription", told.reference))
    event = inbox.note(Reference("stripe", "subscription", told.reference), event_id="e", event_type="t")
    assert not inbox.handle_event(event)
    event.refresh_from_db()
    assert "unreadable" in event.error


def test_nobody_waits_twice_for_a_silent_gateway(ana: Any, prices: Any, monkeypatch: Any):
    for number in range(3):  # as of tabs that were opened at once
        Purchase.objects.create(
            key=f"old-{number}",
            account=account_of(ana.pk),
            price=prices["premium-month"],
            kind="subscription",
            reference_type="checkout",
            reference_id=f"old-{number}",
        )
    asked: list[str] = []

    def be_silent(_gateway: Any, *what: str) -> None:
        asked.append(what[0])
        if what[0] == "expire_checkout":
            raise GatewayUnavailable

    monkeypatch.setattr("tests.billing.fake_gateway.FakeGateway._call", be_silent)
    checkout(ana, prices["premium-month"])
    assert asked == ["expire_checkout", "start_checkout"]
    assert GatewayTask.objects.filter(act="expire_checkout", done_at=None).count() == 3


def test_a_round_of_errands_ends_though_a_gateway_is_slow(ana: Any, prices: Any, monkeypatch: Any):
    for number in range(5):
        inbox.note(Reference("fake", "subscription", f"s{number}"), event_id=f"e{number}", event_type="t")
    monkeypatch.setattr(inbox, "ROUND_SECONDS", 0.0)
    inbox.handle_due()
    assert GatewayEvent.objects.filter(done_at=None).count() == 4


def test_a_first_payment_is_not_waited_for_for_ever(ana: Any, prices: Any, at: Any):
    at(START)
    apply(bought(ana, prices["premium-month"], at=START, status="pending", payments=()))
    assert standing_of(account_of(ana.pk)).status == "waiting"
    at(START + 8 * DAY)
    assert standing_of(account_of(ana.pk)).status == "default"


# Years of payments


def test_of_what_is_over_no_page_reads_more_than_it_shows(premium: Any, prices: Any, monkeypatch: Any):
    held = Subscription.objects.get()
    over = {"account": held.account, "gateway": "fake", "kind": "prepaid", "status": "ended", "price": held.price}
    times = {"anchor": START, "observed_at": START, "ended_at": START, "access_until": START}
    Subscription.objects.bulk_create(Subscription(reference=f"old-{n}", **over, **times) for n in range(50))
    paid = {"subscription": held, "gateway": "fake", "price": held.price, "status": "paid", "paid_at": START}
    amount = {"amount_minor": 2_000, "currency": "USD"}
    Payment.objects.bulk_create(Payment(reference=f"old-{n}", **paid, **amount) for n in range(50))
    read: list[type[Any]] = []
    for model in (Payment, Subscription):
        make = model.from_db
        monkeypatch.setattr(model, "from_db", _counting(make, model, read))
    standing_of(held.account)
    assert read.count(Subscription) == 2  # what holds, and what is live
    read.clear()
    shown, older = list_payments(held.account)
    assert (len(shown), older is not None) == (PAYMENTS_SHOWN, True)
    assert read.count(Payment) == PAYMENTS_SHOWN + 1


def _counting(make: Any, model: type[Any], read: list[type[Any]]) -> Any:
    def from_db(*given: Any) -> Any:
        read.append(model)
        return make(*given)

    return from_db
