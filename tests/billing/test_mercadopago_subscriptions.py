"""What somebody has who bought through Mercado Pago: from the checkout to what their plan allows."""

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.utils import timezone

from billing.entitlements import account_of, current_period, entitlements_of
from billing.gateways import get_gateway
from billing.gateways.base import Order, Reference
from billing.models import GatewayTask, Payment, Price, Subscription
from billing.seeds import load_prices
from billing.subscriptions import handle
from tests.billing.mercadopago import SECRET, Simulation, simulated_mercado_pago

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

DAY = dt.timedelta(days=1)


@pytest.fixture(scope="module")
def server() -> Iterator[Simulation]:
    with simulated_mercado_pago() as simulation:
        yield simulation


class Shop:
    """Ana, who buys at Mercado Pago, and the time, which is the same for the site and there."""

    def __init__(self, mp: Simulation, user: Any, at: Callable[[dt.datetime], None]) -> None:
        self.mp, self.user, self._at = mp, user, at
        self.reference = ""
        self.sync_clock()

    def sync_clock(self) -> None:
        self._at(dt.datetime.fromtimestamp(self.mp.server.now(), dt.UTC))

    def forward(self, **time: float) -> None:
        self.mp.forward(**time)
        self.sync_clock()

    def charge_next(self, card: str = "good") -> None:
        self.mp.control("card", id=self.reference, card=card)
        self.mp.charge_next(self.reference)
        self.sync_clock()
        self.ask()

    def begin(self, kind: str = "subscription", price: str = "premium-month-ars", **other: Any) -> Any:
        found = Price.objects.get(reference=price)
        order = Order(
            key=f"{kind}-{price}",
            account_id=account_of(self.user.pk).pk,
            email=self.user.email,
            kind=kind,  # type: ignore[arg-type]
            price_reference=price,
            description="Premium",
            amount_minor=found.amount_minor,
            currency=found.currency,
            interval=found.interval,  # type: ignore[arg-type]
            return_url="http://localhost:8000/billing/return/",
            locale="es",
            **other,
        )
        return get_gateway("mercadopago").start_checkout(order)

    def buy(self) -> None:
        checkout = self.begin()
        self.reference = checkout.reference.id
        self.mp.pay(checkout)
        self.forward(minutes=30)
        self.ask()

    def ask(self, kind: str = "subscription", reference: str = "") -> Subscription | None:
        return handle(Reference("mercadopago", kind, reference or self.reference))

    @property
    def plan(self) -> str:
        return entitlements_of(self.user.pk).plan


@pytest.fixture
def shop(server: Simulation, settings: Any, ana: Any, at: Any) -> Shop:
    settings.GATEWAYS = {"mercadopago": "billing.gateways.mercadopago.gateway.from_settings"}
    settings.MERCADOPAGO_ACCESS_TOKEN = "TEST-token"
    settings.MERCADOPAGO_WEBHOOK_SECRETS = [SECRET]
    settings.MERCADOPAGO_COUNTRY, settings.MERCADOPAGO_MODE = "AR", "test"
    settings.SIMULATED_MERCADOPAGO_URL = server.url
    server.control("reset")
    server.control("notices", mode="hold")
    server.control("clock", forward=0, stopped=True)
    load_prices("mercadopago", "ARS", cents=1_000)
    return Shop(server, ana, at)


def test_nothing_is_given_until_the_first_payment_is_approved(shop: Shop):
    checkout = shop.begin()
    shop.ask(reference=checkout.reference.id)
    assert shop.plan == "free"
    shop.mp.pay(checkout)
    shop.ask(reference=checkout.reference.id)
    assert shop.plan == "free"
    shop.forward(minutes=30)
    shop.ask(reference=checkout.reference.id)
    assert shop.plan == "premium"
    assert current_period(account_of(shop.user.pk)).allowance_micros == 20_000_000


def test_a_plan_ends_by_the_clock_when_every_notification_is_lost(shop: Shop):
    shop.buy()
    paid_until = Subscription.objects.get().paid_until
    assert paid_until is not None
    shop.forward(days=32)
    assert shop.plan == "premium"  # in its grace
    shop.forward(days=8)
    assert shop.plan == "free"


def test_a_rejected_renewal_has_its_grace_and_a_later_attempt_pays_for_the_month(shop: Shop):
    shop.buy()
    first_end = Subscription.objects.get().paid_until
    shop.charge_next("bad")
    assert (Subscription.objects.get().status, shop.plan) == ("past_due", "premium")
    shop.charge_next("good")
    subscription = Subscription.objects.get()
    assert (subscription.status, shop.plan) == ("active", "premium")
    assert subscription.paid_until - first_end >= 28 * DAY
    assert Payment.objects.filter(status="failed").count() == 1


def test_a_cancelled_subscription_holds_to_what_was_paid_and_has_no_grace(shop: Shop):
    shop.buy()
    get_gateway("mercadopago").cancel_at_period_end(shop.reference, key="cancel-1")
    shop.ask()
    subscription = Subscription.objects.get()
    assert (subscription.status, shop.plan) == ("ended", "premium")
    shop.forward(days=27)
    assert shop.plan == "premium"
    shop.forward(days=5)
    assert shop.plan == "free"


def test_an_upgrade_counts_when_it_is_paid(shop: Shop):
    shop.buy()
    get_gateway("mercadopago").change_price_at_period_end(shop.reference, "enterprise-month-ars", key="change-1")
    shop.ask()
    assert shop.plan == "premium"
    shop.charge_next()
    assert shop.plan == "enterprise"


def test_a_full_refund_ends_the_plan(shop: Shop):
    shop.buy()
    payment = Payment.objects.get()
    get_gateway("mercadopago").refund(payment.reference, amount_minor=payment.amount_minor, key="refund-1")
    shop.ask()
    assert shop.plan == "free"


@pytest.mark.parametrize(("result", "plan"), [("open", "free"), ("won", "premium"), ("lost", "free")])
def test_a_chargeback_freezes_the_plan_until_it_is_won(shop: Shop, result: str, plan: str):
    shop.buy()
    shop.mp.control("dispute", id=Payment.objects.get().reference, result="open")
    shop.ask()
    assert shop.plan == "free"
    assert GatewayTask.objects.filter(act="cancel_at_period_end").exists()
    shop.mp.control("dispute", id=Payment.objects.get().reference, result=result)
    shop.ask()
    assert shop.plan == plan


def test_a_month_paid_with_a_voucher_begins_when_it_is_paid(shop: Shop):
    checkout = shop.begin("prepaid")
    shop.mp.pay(checkout, "rapipago")
    shop.ask("purchase", checkout.reference.id)
    assert shop.plan == "free"
    pending = Payment.objects.get()
    assert (pending.status, pending.action) == ("pending", "voucher")
    assert pending.expires_at - timezone.now() > 2 * DAY
    shop.forward(days=2)
    shop.mp.control("settle", id=pending.reference, status="approved")
    shop.ask("payment", pending.reference)
    assert shop.plan == "premium"
    shop.forward(days=27)
    assert shop.plan == "premium"
    shop.forward(days=5)
    assert shop.plan == "free"  # it does not renew, and so has no grace


def test_a_pack_gives_its_credits_once(shop: Shop):
    checkout = shop.begin("pack", "pack-5000-ars")
    shop.mp.pay(checkout, "approved")
    for _ in range(2):
        shop.ask("purchase", checkout.reference.id)
    packs = account_of(shop.user.pk).periods.filter(kind="pack")
    assert [pack.allowance_micros for pack in packs] == [5_000_000]


def test_money_that_was_not_agreed_gives_nothing(shop: Shop):
    checkout = shop.begin()
    shop.mp.pay(checkout)
    shop.forward(minutes=30)
    for payment in shop.mp.server.state["payments"].values():
        payment["transaction_amount"] = 1.0
    shop.ask(reference=checkout.reference.id)
    assert shop.plan == "free"


def test_the_list_heals_what_no_notification_told(shop: Shop):
    checkout = shop.begin()
    shop.mp.pay(checkout)
    shop.forward(minutes=30)
    from billing.subscriptions import apply

    for snapshot in get_gateway("mercadopago").list_recent(timezone.now() - DAY):
        apply(snapshot)
    assert shop.plan == "premium"
