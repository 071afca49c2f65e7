"""One purchase from beginning to end: in Stripe's test mode by `manage.py smoke_payments`, in tests simulated."""

from collections.abc import Iterator

from billing.gateways.base import Order, Reference, Snapshot
from billing.gateways.stripe import catalogue, mirror
from billing.gateways.stripe.client import asking
from billing.gateways.stripe.gateway import StripeGateway
from billing.gateways.stripe.snapshots import ACCOUNT, NAME

CHEAP = catalogue.Sellable("smoke-month-usd", "Smoke test", 2_000, "USD", "month")
DEAR = catalogue.Sellable("smoke-dear-month-usd", "Smoke test, dear", 9_900, "USD", "month")
VISA, ASKS_THE_BANK = "pm_card_visa", "pm_card_authenticationRequired"
"""Cards that Stripe has for tests."""


def walk(account_id: int, run: str) -> Iterator[tuple[str, bool]]:
    """Yield each step, and whether Stripe did as expected. `run` is different in every run."""
    gateway = StripeGateway()
    with asking() as client:
        cheap = catalogue.ensure_price(client, CHEAP)
        catalogue.ensure_price(client, DEAR)
    checkout = gateway.start_checkout(_order(account_id, run))
    yield "a checkout has a page", checkout.url.startswith("http")
    gateway.expire_checkout(checkout.reference)
    yield "an expired checkout is nothing", gateway.fetch(checkout.reference) is None

    reference = _subscribe(account_id, cheap)
    bought = _fetch(gateway, reference)
    yield "a subscription is active and paid", (bought.status, _statuses(bought)) == ("active", {"paid"})
    yield "the card has a fingerprint", bool(bought.card_fingerprint)
    yield "its price has our name", bought.price_reference == CHEAP.reference

    gateway.change_price_at_period_end(reference, DEAR.reference, key=f"{run}-later")
    yield "a change at the end of the period waits", _fetch(gateway, reference).price_reference == CHEAP.reference
    preview = gateway.preview_change(reference, DEAR.reference)
    _take_card(account_id, ASKS_THE_BANK)
    gateway.change_price(reference, DEAR.reference, preview, key=f"{run}-asks")
    waiting = _fetch(gateway, reference)
    (unpaid,) = (payment for payment in waiting.payments if payment.status != "paid")
    yield "an upgrade waits for the bank", waiting.price_reference == CHEAP.reference
    yield "and says where to confirm", (unpaid.action, bool(unpaid.action_url)) == ("confirm", True)
    _void(unpaid.reference)

    _take_card(account_id, VISA)
    preview = gateway.preview_change(reference, DEAR.reference)
    gateway.change_price(reference, DEAR.reference, preview, key=f"{run}-upgrade")
    changed = _fetch(gateway, reference)
    upgrades = [
        payment.amount_minor for payment in changed.payments if payment.is_proration and payment.status == "paid"
    ]
    yield "an upgrade counts at once", changed.price_reference == DEAR.reference
    yield "and costs what its preview said", upgrades == [preview.amount_minor]

    gateway.cancel_at_period_end(reference, key=f"{run}-cancel")
    yield "a cancelled subscription has an end", _fetch(gateway, reference).cancels_at is not None
    gateway.resume(reference, key=f"{run}-resume")
    yield "a resumed one has none", _fetch(gateway, reference).cancels_at is None
    first = bought.payments[0].reference
    for _ in range(2):
        gateway.refund(first, amount_minor=700, key=f"{run}-refund")
    refunded = {payment.reference: payment.refunded_minor for payment in _fetch(gateway, reference).payments}
    yield "a refund is made once", refunded[first] == 700
    portal = gateway.payment_method_url(account_id, reference, "https://chat.example.com/billing/")
    yield "the portal opens", portal.startswith("http")
    gateway.cancel_now(reference, key=f"{run}-now")
    yield "cancelling now ends it", _fetch(gateway, reference).status == "ended"
    gateway.forget_customer(account_id, key=f"{run}-forget")
    yield "a forgotten customer leaves no row", mirror.find_customer(account_id) is None


def _order(account_id: int, run: str) -> Order:
    return Order(
        key=f"{run}-checkout",
        account_id=account_id,
        email="smoke@example.com",
        kind="subscription",
        price_reference=CHEAP.reference,
        description=CHEAP.name,
        amount_minor=CHEAP.amount_minor,
        currency=CHEAP.currency,
        interval=CHEAP.interval,
        return_url="https://chat.example.com/billing/",
        locale="es",
    )


def _subscribe(account_id: int, price: str) -> str:
    """Subscribe the account without its checkout, which only a person can pay; return the subscription's id."""
    customer = _take_card(account_id, VISA)
    with asking() as client:
        made = client.v1.subscriptions.create(
            {"customer": customer, "items": [{"price": price}], "metadata": {ACCOUNT: str(account_id)}}
        )
    return str(made.id)


def _take_card(account_id: int, card: str) -> str:
    """Let the account's customer pay with a card of Stripe's for tests; return the customer's id."""
    customer = mirror.find_customer(account_id) or ""
    with asking() as client:
        method = client.v1.payment_methods.attach(card, {"customer": customer})
        client.v1.customers.update(customer, {"invoice_settings": {"default_payment_method": method.id}})
    return customer


def _void(invoice: str) -> None:
    with asking() as client:
        client.v1.invoices.void_invoice(invoice)


def _fetch(gateway: StripeGateway, reference: str) -> Snapshot:
    snapshot = gateway.fetch(Reference(NAME, "subscription", reference))
    assert snapshot is not None
    return snapshot


def _statuses(snapshot: Snapshot) -> set[str]:
    return {payment.status for payment in snapshot.payments}
