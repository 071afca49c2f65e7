"""Tries the real Mercado Pago in its test mode: what the simulation is like, and what it is not, shows here."""

import datetime as dt
from collections.abc import Iterator
from uuid import uuid4

from django.utils import timezone

from billing.gateways.base import Kind, Order, Reference
from billing.gateways.mercadopago.agreements import COUNTRIES, read_amount
from billing.gateways.mercadopago.gateway import MercadoPago

AMOUNTS = {"ARS": 5_000, "BRL": 20, "CLP": 5_000, "COP": 20_000, "MXN": 100, "PEN": 20, "UYU": 200}
"""Of each currency, enough that no way of paying finds it too little."""
HOUR = dt.timedelta(hours=1)


class SmokeFailure(Exception):
    """Something is not as the site expects it. The message is one sentence."""


def try_out(gateway: MercadoPago, country: str, payer_email: str) -> Iterator[str]:
    """Begin a subscription and a single payment, look at them, end them; yield a sentence for each thing that works.

    `payer_email` is the address of a test buyer. Nothing is paid: that needs a person in a browser. Raises
    SmokeFailure and what gateways raise.
    """
    if gateway.mode != "test":
        raise SmokeFailure("MERCADOPAGO_MODE is not test: nothing is tried with a real account.")
    for mistake in gateway.find_mistakes():
        raise SmokeFailure(mistake)
    yield f"The account is one of {country}, for tests."
    currency = COUNTRIES[country].currency
    yield from _try("subscription", gateway, currency, payer_email)
    yield from _try("prepaid", gateway, currency, payer_email)
    count = sum(1 for _snapshot in gateway.list_recent(timezone.now() - HOUR))
    yield f"The list of what changed within the hour has {count} purchases."


def _try(kind: Kind, gateway: MercadoPago, currency: str, payer_email: str) -> Iterator[str]:
    order = Order(
        key=uuid4().hex,
        account_id=0,
        email=payer_email,
        kind=kind,
        price_reference="smoke",
        description="Smoke",
        amount_minor=read_amount(AMOUNTS[currency], currency),
        currency=currency,
        interval="month",
        return_url="https://example.com/",
        locale="es",
    )
    checkout = gateway.start_checkout(order)
    yield f"A checkout ({kind}): {checkout.url}"
    _expect(gateway, checkout.reference, "pending")
    yield f"It is found, and nothing is paid ({kind})."
    gateway.expire_checkout(checkout.reference)
    _expect(gateway, checkout.reference, "ended" if kind == "subscription" else "pending")
    yield f"It is ended ({kind})."


def _expect(gateway: MercadoPago, reference: Reference, status: str) -> None:
    found = gateway.fetch(reference)
    if found is None or found.status != status or found.payments:
        raise SmokeFailure(f"{reference.type} {reference.id} is {found and found.status}, and should be {status}.")
