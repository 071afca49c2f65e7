"""What somebody has who bought through Mercado Pago: from the checkout and its notifications to what a plan allows."""

import datetime as dt
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from billing import inbox, purchasing
from billing.entitlements import account_of, current_period, entitlements_of
from billing.gateways import get_gateway
from billing.gateways.base import Order, Reference
from billing.models import GatewayEvent, GatewayTask, Payment, Price, Purchase, Subscription
from billing.seeds import load_prices
from billing.subscriptions import apply, handle
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


def try_premium(shop: Shop) -> None:
    """Begin a week's trial."""
    price = Price.objects.get(reference="premium-month-ars")
    Purchase.objects.create(key="t", account=account_of(shop.user.pk), price=price, kind="subscription", trial_days=7)
    checkout = shop.begin(trial_days=7)
    shop.reference = checkout.reference.id
    shop.mp.pay(checkout)
    shop.ask()
    assert shop.plan == "premium"


def test_a_trial_stays_one_of_its_plan_after_a_change(shop: Shop):
    """Mercado Pago changes a price at once, also of what nothing was paid for."""
    try_premium(shop)
    get_gateway("mercadopago").change_price_at_period_end(shop.reference, "enterprise-month-ars", key="change-1")
    shop.ask()
    assert shop.plan == "premium"
    shop.forward(days=8)
    shop.ask()
    assert shop.plan == "enterprise"


def test_a_trial_that_is_cancelled_goes_on_to_its_end(shop: Shop):
    """So the page says that asks for it; Mercado Pago cancels at once."""
    try_premium(shop)
    shop.forward(minutes=10)
    assert purchasing.cancel(shop.user)
    assert shop.plan == "premium"
    shop.forward(days=8)
    assert shop.plan == "free"


def test_what_begins_later_is_alive_before_its_first_payment_and_gives_nothing(shop: Shop):
    """So that what it takes the place of is cancelled in time, and not both are charged."""
    shop.buy()
    old = Subscription.objects.get()
    checkout = shop.begin(price="enterprise-month-ars", starts_at=old.paid_until)
    shop.ask(reference=checkout.reference.id)
    assert Subscription.objects.get(reference=checkout.reference.id).status == "pending"
    shop.mp.pay(checkout)
    new = shop.ask(reference=checkout.reference.id)
    assert (new.status, new.access_until, new.is_double, shop.plan) == ("active", None, False, "premium")
    assert GatewayTask.objects.filter(act="cancel_at_period_end", reference=old.reference).exists()
    shop.forward(days=31)
    new = shop.ask(reference=checkout.reference.id)
    assert (new.is_double, shop.plan) == (False, "enterprise")


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
    assert pending.action_code
    assert pending.action_url.startswith(shop.mp.url)
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
    for snapshot in get_gateway("mercadopago").list_recent(timezone.now() - DAY):
        apply(snapshot)
    assert shop.plan == "premium"


# --- Notifications

WEBHOOK = "/webhooks/mercadopago/"


def deliver(client: Client, mp: Simulation, notice: dict[str, Any], **other: Any) -> int:
    """Post a notification as Mercado Pago does; return what was answered."""
    body, headers, query = mp.sent(notice)
    given = {"body": body, "headers": headers, "query": query, **other}
    address = f"{WEBHOOK}?{urlencode(given['query'])}"
    answer = client.post(address, given["body"], content_type="application/json", headers=given["headers"])
    return answer.status_code


def events() -> set[tuple[str, str]]:
    return set(GatewayEvent.objects.values_list("reference_type", "reference_id"))


def test_notifications_alone_make_a_member_premium(shop: Shop, client: Client):
    checkout = shop.begin()
    shop.mp.pay(checkout)
    shop.forward(minutes=30)
    notices = shop.mp.notices()
    for notice in reversed(notices):
        for _ in range(2):
            assert deliver(client, shop.mp, notice) == 200
    assert GatewayEvent.objects.count() == len(notices)
    assert {kind for kind, _id in events()} == {"subscription", "instalment", "payment"}
    assert shop.plan == "free"
    inbox.handle_due()
    assert shop.plan == "premium"
    assert Payment.objects.count() == 1
    assert not GatewayEvent.objects.filter(done_at=None).exists()


def test_a_notification_is_taken_while_mercado_pago_does_not_answer(shop: Shop, client: Client):
    checkout = shop.begin()
    shop.mp.pay(checkout)
    shop.mp.control("faults", kind="cut", path="/", times=100)
    assert deliver(client, shop.mp, shop.mp.notices()[0]) == 200
    inbox.handle_due()
    assert GatewayEvent.objects.filter(done_at=None).count() == 1


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"5",
        b"[]",
        b"",
        b"\0",
        b'{"type": "payment", "data": {"id": "\0"}}',
        b"{" * 3_000_000,
        b"x" * 3_000_000,
    ],
)
def test_a_malformed_notification_is_refused_and_leaves_nothing(shop: Shop, client: Client, body: bytes):
    shop.begin()
    (notice,) = shop.mp.notices()
    assert deliver(client, shop.mp, notice, body=body) == 401
    assert events() == set()


def test_a_forged_or_stale_notification_is_refused_and_leaves_nothing(
    shop: Shop, client: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
):
    shop.begin()
    (notice,) = shop.mp.notices()
    _body, headers, _query = shop.mp.sent(notice)
    assert deliver(client, shop.mp, notice, headers={}) == 401
    assert deliver(client, shop.mp, notice, headers={**headers, "x-request-id": "another"}) == 401
    assert deliver(client, shop.mp, notice, query={"data.id": "another"}) == 401
    settings.MERCADOPAGO_WEBHOOK_SECRETS = ["another"]
    assert deliver(client, shop.mp, notice) == 401
    settings.MERCADOPAGO_WEBHOOK_SECRETS = [""]
    assert deliver(client, shop.mp, notice) == 401
    settings.MERCADOPAGO_WEBHOOK_SECRETS = ["another", SECRET]
    with monkeypatch.context() as patched:
        patched.setattr("billing.gateways.mercadopago.notifications.time.time", lambda: time.monotonic())
        assert deliver(client, shop.mp, notice, headers=headers) == 401
    assert events() == set()
    assert deliver(client, shop.mp, notice) == 200
    assert len(events()) == 1


def test_a_notification_of_no_interest_and_an_unsigned_one_of_old_leave_nothing(shop: Shop, client: Client):
    shop.begin()
    (notice,) = shop.mp.notices()
    body = json.dumps({**notice["body"], "type": "subscription_preapproval_plan"}).encode()
    assert deliver(client, shop.mp, notice, body=body) == 200
    assert client.post(f"{WEBHOOK}?topic=payment&id=1", b"", content_type="application/json").status_code == 401
    assert client.get(WEBHOOK).status_code == 405
    assert events() == set()


def test_without_mercado_pago_there_is_no_address_for_its_notifications(shop: Shop, client: Client, settings: Any):
    settings.GATEWAYS = {}
    assert client.post(WEBHOOK).status_code == 404


def test_the_smoke_command_says_what_is_not_as_expected(shop: Shop, settings: Any, capsys: pytest.CaptureFixture[str]):
    settings.STRIPE_SECRET_KEY = ""
    settings.MERCADOPAGO_TEST_PAYER = "buyer@testuser.com"
    call_command("smoke_payments")
    assert "as expected: It is ended (prepaid)." in capsys.readouterr().out
    settings.MERCADOPAGO_COUNTRY = "BR"
    with pytest.raises(SystemExit):
        call_command("smoke_payments")
    assert "NOT AS EXPECTED: Mercado Pago: SmokeFailure: MERCADOPAGO_COUNTRY is BR" in capsys.readouterr().out
