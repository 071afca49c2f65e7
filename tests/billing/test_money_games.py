"""What somebody tries who wants more than they pay for, and what an operator is shown of it."""

import datetime as dt
from typing import Any
from uuid import uuid4

import pytest

from accounts.models import User
from billing import metering, outbox, purchasing, staff
from billing.entitlements import entitlements_of
from billing.gateways.base import GatewayUnavailable, Reference
from billing.gateways.stripe.gateway import StripeGateway
from billing.metering import Usage
from billing.models import Payment, Price, Purchase, Subscription
from billing.pages.buying import list_packs, list_ways, outcome_of
from billing.purchasing import list_for_sale
from billing.seeds import load_prices
from billing.subscriptions import apply
from tests.billing.fake_gateway import bought, change, change_now, state
from tests.billing.stripe_site import Shop
from tests.billing.test_pages import begun, browser_of, signed, subscribe, text_of

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

START = dt.datetime(2027, 1, 31, 9, 30, tzinfo=dt.UTC)
DAY, MINUTE = dt.timedelta(days=1), dt.timedelta(minutes=1)


def plan(user: Any) -> str:
    return entitlements_of(user.pk).plan


def use(user: Any, micros: int) -> None:
    key = uuid4()
    metering.reserve(user.pk, key, amount_micros=micros)
    metering.settle(key, cost_micros=micros, usage=Usage(1, 1), label="m")


def test_what_was_used_of_an_upgrade_is_shown_before_its_refund(ana: Any, prices: Any, at: Any):
    at(START)
    apply(bought(ana, prices["premium-month"], at=START))
    at(START + DAY)
    change_now("s1", "enterprise-month-usd", at=START + DAY)
    apply(change("s1"))
    use(ana, 30_000_000)
    assert [staff.micros_used_with(one) for one in Payment.objects.all()] == [30_000_000] * 2


def test_a_change_costs_what_was_shown_for_the_plan_there_was(ana: User, prices: Any):
    """Two tabs: the second one's price was for another change."""
    browser = browser_of(ana)
    subscribe(ana, prices["premium-month"])
    yearly, dearer = (f"/billing/change/{prices[one].pk}/" for one in ("premium-year", "enterprise-month"))
    first, second = signed(browser.get(yearly)), signed(browser.get(dearer))
    browser.post(yearly, first)
    assert browser.post(dearer, second).headers["Location"] == dearer
    assert [call[0] for call in state.calls] == ["change_price"]


def test_a_gateway_that_is_gone_blocks_no_page(ana: User, prices: Any, settings: Any):
    browser = browser_of(ana)
    purchase = begun(browser, prices["premium-month"])
    subscribe(ana, prices["premium-month"])
    Purchase.objects.update(closed_at=None)
    settings.GATEWAYS = {}
    for page in ("", "cancel/", "payments/", f"return/{purchase.key}/"):
        assert browser.get(f"/billing/{page}").status_code == 200, page
    said = browser.post("/billing/payment-method/", follow=True)
    assert "The payment service does not answer." in text_of(said)


def change_interval(shop: Shop, user: Any, old: str, new: str) -> Subscription:
    """Buy one price of the simulated Stripe, and change to another one at once."""
    prices = {price.reference: price for price in load_prices("stripe", "USD")}
    for reference in (new, old):
        price = prices[reference]
        asked = {"price_reference": reference, "amount_minor": price.amount_minor, "interval": price.interval}
        order = shop.order(**asked)
        shop.gateway.expire_checkout(shop.gateway.start_checkout(order).reference)
    apply(shop.buy(**asked))
    shop.control("clock", forward=DAY.total_seconds(), stopped=True)
    return purchasing.change(user, prices[new].pk, purchasing.preview_change(user, prices[new].pk).preview)


def test_what_is_paid_with_a_credit_was_not_charged(shop: Shop, ana: Any):
    changed = change_interval(shop, ana, "premium-year-usd", "enterprise-month-usd")
    for _ in range(2):
        apply(shop.renew(shop.fetch(Reference("stripe", "subscription", changed.reference))))
    _year, *later = Payment.objects.order_by("period_start")
    charged = [charge["amount"] for charge in shop.objects("charge")]
    assert [one.amount_minor for one in later[:2]] == [0, 0]
    assert charged == [20_000, later[2].amount_minor]
    last = later[2]
    assert last.amount_minor == 9_900 - 200
    shop.gateway.refund(last.reference, amount_minor=last.amount_minor, key="all-of-it")
    apply(shop.fetch(Reference("stripe", "subscription", changed.reference)))
    last.refresh_from_db()
    assert last.is_refunded


def test_what_was_credited_is_not_given_back_again(shop: Shop, ana: Any):
    change_interval(shop, ana, "premium-year-usd", "enterprise-month-usd")
    assert plan(ana) == "enterprise"
    year = Payment.objects.earliest("period_start")
    assert staff.refundable_minor(year) <= 1  # a second has passed
    (charge,) = shop.objects("charge")
    shop.control("refund", charge=charge["id"])  # at Stripe itself
    apply(shop.fetch(Reference("stripe", "invoice", year.reference)))
    assert plan(ana) == "free"


def test_of_two_packs_each_has_its_own_checkout(shop: Shop, ana: Any):
    """Two tabs: what was paid in the second one is seen when its payer comes back."""
    prices = {price.reference: price for price in load_prices("stripe", "USD")}
    first, second = (
        purchasing.start_checkout(ana, prices[name].pk, "pack", return_url="https://chat.example.com/", key=name)
        for name in ("pack-5000-usd", "pack-20000-usd")
    )
    for purchase in (first, second):
        shop.control("pay", session=purchase.reference_id)
        came_back = purchasing.return_from_checkout(ana, purchase.key)
        assert outcome_of(came_back).state == "done", purchase.key


def test_a_pack_that_expires_sooner_is_another_pack(prices: Any):
    """The checkout says for how long what is bought can be used, and another price is no way to pay for it."""
    year = prices["pack-5000"]
    terms = {"gateway": "fake", "currency": "USD", "pack_credits": 5_000, "pack_months": 1, "amount_minor": 400}
    month = Price.objects.create(**terms)
    assert [way.price.price for way in list_ways(year)] == [year]
    assert [shown.price for shown in list_packs(list_for_sale(), "USD")] == [month, year, prices["pack-20000"]]


def test_a_cancellation_that_comes_too_late_is_none_of_the_next_month(shop: Shop, ana: Any, at: Any, monkeypatch: Any):
    """Stripe was silent while the month ended that was to be the last."""
    load_prices("stripe", "USD")
    month = apply(shop.buy())
    assert month.paid_until is not None
    with monkeypatch.context() as silent:
        silent.setattr(StripeGateway, "cancel_at_period_end", _say_nothing)
        assert not purchasing.cancel(ana)
    at(month.paid_until + 10 * MINUTE)
    shop.control("clock", to=(month.paid_until + 10 * MINUTE).timestamp(), stopped=True)
    outbox.do_due()
    shop.control("clock", forward=2 * DAY.total_seconds(), stopped=True)
    assert [one["amount"] for one in shop.objects("charge")] == [2_000]


def _say_nothing(*_given: Any, **_named: Any) -> None:
    raise GatewayUnavailable
