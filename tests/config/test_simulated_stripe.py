"""The simulated Stripe is held against Stripe's own SDK, and does what tests and newcomers need."""

import datetime as dt
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stripe

from config.embedded import services
from config.embedded.simulated_gateway import SIMULATION
from config.embedded.simulated_stripe import SimulatedStripe, nested
from config.embedded.simulated_stripe_lives import months_later, period_start_of

SECRET = "whsec_simulated"
KEY = "sk_test_simulated0123456789abcdef"
VERSION = "2026-05-27.dahlia"
TYPES: dict[str, Any] = {
    "product": stripe.Product,
    "price": stripe.Price,
    "customer": stripe.Customer,
    "payment_method": stripe.PaymentMethod,
    "subscription": stripe.Subscription,
    "subscription_schedule": stripe.SubscriptionSchedule,
    "invoice": stripe.Invoice,
    "invoice_payment": stripe.InvoicePayment,
    "payment_intent": stripe.PaymentIntent,
    "charge": stripe.Charge,
    "refund": stripe.Refund,
    "dispute": stripe.Dispute,
    "event": stripe.Event,
    "coupon": stripe.Coupon,
    "promotion_code": stripe.PromotionCode,
    "webhook_endpoint": stripe.WebhookEndpoint,
    "customer_balance_transaction": stripe.CustomerBalanceTransaction,
    "checkout.session": stripe.checkout.Session,
    "billing_portal.session": stripe.billing_portal.Session,
    "billing_portal.configuration": stripe.billing_portal.Configuration,
}


@pytest.fixture(scope="module")
def served() -> Iterator[SimulatedStripe]:
    gateway = SimulatedStripe(notice_secret=SECRET)
    with gateway.serve():
        yield gateway


@pytest.fixture
def simulated(served: SimulatedStripe) -> SimulatedStripe:
    served.state = served._fresh_state()
    return served


@pytest.fixture
def client(simulated: SimulatedStripe) -> Iterator[stripe.StripeClient]:
    http = stripe.RequestsClient()
    addresses: Any = {"api": simulated.url}
    yield stripe.StripeClient(
        KEY, stripe_version=VERSION, base_addresses=addresses, http_client=http, max_network_retries=0
    )
    http.close()


def control(simulated: SimulatedStripe, what: str, **asked: Any) -> dict[str, Any]:
    with urllib.request.urlopen(f"{simulated.url}/_control/{what}", json.dumps(asked).encode()) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def check_out(client: stripe.StripeClient, **changed: Any) -> Any:
    """Return a new checkout session of a new customer."""
    product = client.v1.products.create({"name": "Premium"})
    price = client.v1.prices.create(
        {"product": product.id, "currency": "usd", "unit_amount": 2_000, "recurring": {"interval": "month"}}
    )
    fields: Any = {
        "mode": "subscription",
        "customer": client.v1.customers.create({"email": "ana@example.com"}).id,
        "client_reference_id": "1",
        "line_items": [{"price": price.id, "quantity": 1}],
        "success_url": "http://localhost/paid",
        "cancel_url": "http://localhost/left",
        "locale": "auto",
        **changed,
    }
    return client.v1.checkout.sessions.create(fields)


def drift(kind: Any, sent: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Return which fields the SDK does not know, and which it promises that were not sent."""
    known = {name: str(field) for name, field in kind.__annotations__.items() if "ClassVar" not in str(field)}
    required = {name for name, field in known.items() if "Optional" not in field and "NoneType" not in field}
    return sent.keys() - known.keys(), required - sent.keys()


def test_every_shape_is_what_the_sdk_says(simulated: SimulatedStripe, client: stripe.StripeClient) -> None:
    session = check_out(client)
    control(simulated, "pay", session=session.id)
    subscription = client.v1.subscriptions.list().data[0]
    client.v1.subscription_schedules.create({"from_subscription": subscription.id})
    charge = client.v1.charges.list().data[0].id
    control(simulated, "refund", charge=charge, amount=100)
    control(simulated, "dispute", charge=charge)
    configuration = client.v1.billing_portal.configurations.create({"features": {"invoice_history": {"enabled": True}}})
    client.v1.billing_portal.sessions.create({"customer": session.customer, "configuration": configuration.id})
    client.v1.customers.balance_transactions.create(session.customer, {"amount": -100, "currency": "usd"})
    coupon = client.v1.coupons.create({"percent_off": 10, "duration": "once"})
    client.v1.promotion_codes.create({"code": "HOLA", "promotion": {"type": "coupon", "coupon": coupon.id}})
    client.v1.webhook_endpoints.create({"url": "http://127.0.0.1:9/", "enabled_events": ["charge.captured"]})

    objects = simulated.state["objects"]
    assert TYPES.keys() <= objects.keys()
    for name, kind in TYPES.items():
        for found in objects[name].values():
            assert drift(kind, found) == (set(), set()), name
    (item,) = client.v1.subscriptions.list().data[0].to_dict()["items"]["data"]
    assert drift(stripe.SubscriptionItem, item) == (set(), set())
    line = client.v1.invoices.list().data[0].lines.data[0].to_dict()
    assert drift(stripe.InvoiceLineItem, line) == (set(), set())
    assert drift(stripe.Account, client.v1.accounts.retrieve_current().to_dict()) == (set(), set())


def test_every_event_it_sends_is_one_of_stripes(simulated: SimulatedStripe, client: stripe.StripeClient) -> None:
    control(simulated, "pay", session=check_out(client).id)
    subscription = client.v1.subscriptions.list().data[0].id
    control(simulated, "renew", subscription=subscription, outcome="decline")
    control(simulated, "clock", forward=30 * 86_400)
    types = {event["type"] for event in simulated.state["objects"]["event"].values()}
    known = str(stripe.Event.__annotations__["type"])
    assert {kind for kind in types if f"'{kind}'" not in known} == set()
    assert "invoice.payment_failed" in types


def test_the_sdk_takes_its_signatures(simulated: SimulatedStripe) -> None:
    body = '{"object": "event", "id": "evt_1"}'
    signature = simulated.sign("http://localhost/", body.encode())["Stripe-Signature"]
    assert stripe.Webhook.construct_event(body, signature, SECRET).id == "evt_1"
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.Webhook.construct_event(body, signature, "whsec_other")


def test_another_version_or_key_is_refused(simulated: SimulatedStripe) -> None:
    http = stripe.RequestsClient()
    addresses: Any = {"api": simulated.url}
    with pytest.raises(stripe.InvalidRequestError):
        stripe.StripeClient(KEY, base_addresses=addresses, http_client=http).v1.customers.list()
    with pytest.raises(stripe.AuthenticationError):
        stripe.StripeClient(
            "sk_live_x", stripe_version=VERSION, base_addresses=addresses, http_client=http
        ).v1.customers.list()
    http.close()


def test_bracketed_names_are_read_as_stripe_does() -> None:
    pairs = [("a[b][c]", "1"), ("items[0][price]", "x"), ("items[1][price]", "y"), ("expand[]", "q"), ("n", "")]
    assert nested(pairs) == {
        "a": {"b": {"c": "1"}},
        "items": [{"price": "x"}, {"price": "y"}],
        "expand": ["q"],
        "n": "",
    }


# --- The pages -----------------------------------------------------------------------------------------------------


def visit(url: str, **form: str) -> tuple[str, str]:
    """Return where a person ends up, and what is there; an address of the site is not followed."""

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *arguments: Any) -> None:
            return None

    opener = urllib.request.build_opener(Stay)
    data = urllib.parse.urlencode(form).encode() if form else None
    try:
        with opener.open(url, data) as answer:
            return url, answer.read().decode()
    except urllib.error.HTTPError as error:
        assert error.code == 303
        place = error.headers["Location"]
        error.close()
        return place, ""


def test_the_checkout_says_in_three_languages_that_it_is_a_simulation(
    simulated: SimulatedStripe, client: stripe.StripeClient
) -> None:
    _place, text = visit(check_out(client).url)
    assert all(sentence in text for sentence in SIMULATION)


def test_a_newcomer_is_declined_asked_by_the_bank_and_pays(
    simulated: SimulatedStripe, client: stripe.StripeClient
) -> None:
    session = check_out(client)
    _place, text = visit(session.url, do="decline")
    assert "rechazad" in text
    assert client.v1.subscriptions.list().data == []
    _place, text = visit(session.url, do="bank")
    assert "Confirm" in text
    assert client.v1.subscriptions.list().data == []
    place, _text = visit(session.url, do="ok")
    assert place == "http://localhost/paid"
    assert client.v1.subscriptions.list().data[0].status == "active"
    place, _text = visit(session.url, do="ok")  # once more, from a second tab
    assert len(client.v1.subscriptions.list().data) == 1


def test_a_newcomer_leaves_without_paying(simulated: SimulatedStripe, client: stripe.StripeClient) -> None:
    place, _text = visit(check_out(client).url, do="leave")
    assert place == "http://localhost/left"
    assert client.v1.subscriptions.list().data == []


def test_a_newcomer_renews_and_fails_on_the_first_page(simulated: SimulatedStripe, client: stripe.StripeClient) -> None:
    visit(check_out(client).url, do="ok")
    subscription = client.v1.subscriptions.list().data[0].id
    _place, text = visit(f"{simulated.url}/")
    assert subscription in text
    visit(f"{simulated.url}/", ok=subscription)
    assert len(client.v1.invoices.list({"status": "paid"}).data) == 2
    visit(f"{simulated.url}/", decline=subscription)
    assert client.v1.subscriptions.retrieve(subscription).status == "past_due"
    visit(check_out(client).url, do="ok")  # the site's clock has not moved: what is bought next begins now
    assert abs(client.v1.subscriptions.list().data[0].billing_cycle_anchor - time.time()) < 60


def test_renewing_on_the_first_page_renews_one_subscription(
    simulated: SimulatedStripe, client: stripe.StripeClient
) -> None:
    for _ in range(2):
        visit(check_out(client).url, do="ok")
    renewed, other = (found.id for found in client.v1.subscriptions.list().data)
    visit(f"{simulated.url}/", decline=renewed)
    assert client.v1.subscriptions.retrieve(renewed).status == "past_due"
    assert len(client.v1.invoices.list({"subscription": other}).data) == 1
    visit(f"{simulated.url}/", ok=renewed)  # the open invoice is tried again, and no other month is charged
    assert client.v1.subscriptions.retrieve(renewed).status == "active"
    assert len(client.v1.invoices.list({"subscription": renewed}).data) == 2
    for _ in range(4):
        visit(f"{simulated.url}/", decline=renewed)
    assert client.v1.subscriptions.retrieve(renewed).status == "canceled"


def test_a_newcomer_buys_as_if_it_were_long_ago(simulated: SimulatedStripe, client: stripe.StripeClient) -> None:
    for done, status, days in (("ends", "active", 0), ("grace", "past_due", 7)):
        visit(check_out(client).url, do=done)
        bought = client.v1.subscriptions.list().data[0]
        assert bought.status == status
        paid = client.v1.invoices.list({"subscription": bought.id, "status": "paid"}).data
        assert len(paid) == 1
        ends = paid[0].lines.data[0].period.end - time.time() + days * 86_400
        assert 240 < ends < 300 + 4 * 86_400  # there is no 30th of February


def test_a_month_that_ends_then_began_on_a_day_there_is() -> None:
    for day in ("2026-03-28", "2026-03-29", "2026-03-31", "2026-05-31", "2024-02-29", "2026-12-31"):
        end = int(dt.datetime.fromisoformat(f"{day}T10:00:00+00:00").timestamp())
        for months in (1, 12):
            start = period_start_of(end, months)
            assert end <= months_later(start, start, months) < end + 4 * 86_400


def test_what_a_site_sends_is_escaped(simulated: SimulatedStripe, client: stripe.StripeClient) -> None:
    session = check_out(client, cancel_url='http://localhost/"><script>alert(1)</script>')
    configuration = client.v1.billing_portal.configurations.create({"features": {"invoice_history": {"enabled": True}}})
    portal = client.v1.billing_portal.sessions.create(
        {"customer": session.customer, "configuration": configuration.id, "return_url": '/"><script>alert(1)</script>'}
    )
    assert "<script>alert" not in visit(portal.url)[1]


# --- What it survives ----------------------------------------------------------------------------------------------


def test_its_state_survives_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    for count in (1, 2):
        gateway = SimulatedStripe(file=file)
        with gateway.serve() as url:
            http = stripe.RequestsClient()
            addresses: Any = {"api": url}
            client = stripe.StripeClient(KEY, stripe_version=VERSION, base_addresses=addresses, http_client=http)
            client.v1.customers.create({"email": "ana@example.com"})
            assert len(client.v1.customers.list().data) == count
            http.close()


def test_a_broken_state_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    file.write_text('{"objects": ')
    assert SimulatedStripe(file=file).state["objects"] == {}


def test_notifications_are_held_reordered_repeated_and_lost(
    simulated: SimulatedStripe, client: stripe.StripeClient
) -> None:
    simulated.notice_url = "http://127.0.0.1:9/nobody"
    try:
        control(simulated, "notices", mode="hold")
        control(simulated, "pay", session=check_out(client).id)
        waiting = [notice["id"] for notice in simulated.state["notices"]]
        assert len(waiting) > 3
        delivered = control(simulated, "deliver", newest_first=True, copies=2)["delivered"]
        assert [answer["id"] for answer in delivered] == waiting[::-1]
        assert all(answer["statuses"] == [0, 0] for answer in delivered)
        assert len(simulated.state["notices"]) == len(waiting)  # nobody took them: they are tried again
        control(simulated, "drop", ids=waiting[:1])
        assert [notice["id"] for notice in simulated.state["notices"]] == waiting[1:]
        control(simulated, "notices", mode="lose")
        control(simulated, "pay", session=check_out(client).id)
        assert len(simulated.state["notices"]) == len(waiting) - 1
    finally:
        simulated.notice_url = ""


def test_it_is_started_for_a_site_without_a_key_and_only_then(tmp_path: Path) -> None:
    stores = {"REDIS_URL": "redis://localhost/", "DEMO_MODEL_URL": ""}
    site = "http://127.0.0.1:8000"
    needed = services.find_needed(stores, tmp_path, simulates_for=site)
    names = {"SIMULATED_STRIPE_URL", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "STRIPE_WEBHOOK_UUID"}
    assert "stripe" in [gateway.name for gateway in needed.gateways]
    assert names <= needed.environment.keys()
    (process,) = (gateway for gateway in needed.gateways if gateway.name == "stripe")
    assert f"{site}/stripe/webhook/{needed.environment['STRIPE_WEBHOOK_UUID']}/" in process.command
    assert needed.environment["STRIPE_WEBHOOK_SECRET"] not in process.command
    for configured, address in (({**stores, "STRIPE_SECRET_KEY": "sk_test_mine"}, site), (stores, "")):
        needed = services.find_needed(configured, tmp_path, simulates_for=address)
        assert "stripe" not in [gateway.name for gateway in needed.gateways]
        assert not names & needed.environment.keys()
