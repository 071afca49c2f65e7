"""The simulated Mercado Pago for tests, in a thread, and our gateway that asks it."""

import dataclasses
import datetime as dt
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests

from billing.gateways.base import Checkout, Order, Reference, Snapshot
from billing.gateways.mercadopago.gateway import MercadoPago, PriceTerms
from config.embedded.simulated_mercadopago import SimulatedMercadoPago

SECRET = "a-secret-of-notifications"
SETTINGS: dict[str, Any] = {
    "MERCADOPAGO_ACCESS_TOKEN": "TEST-token",
    "MERCADOPAGO_WEBHOOK_SECRETS": [SECRET],
    "MERCADOPAGO_COUNTRY": "AR",
    "MERCADOPAGO_MODE": "test",
    "GATEWAYS": {"mercadopago": "billing.gateways.mercadopago.gateway.from_settings"},
}
PRICES = {
    "premium-month": PriceTerms(1_500_000, "ARS", 1),
    "enterprise-month": PriceTerms(7_500_000, "ARS", 1),
    "premium-year": PriceTerms(15_000_000, "ARS", 12),
    "premium-real": PriceTerms(4_990, "BRL", 1),
    "pack": PriceTerms(600_000, "ARS", 0),
}
ORDER = Order(
    key="order-1",
    account_id=12,
    email="ana@example.com",
    kind="subscription",
    price_reference="premium-month",
    description="Tertulia Premium",
    amount_minor=1_500_000,
    currency="ARS",
    interval="month",
    return_url="http://localhost:8000/billing/return/",
    locale="es",
    payer_email="ana@mercadopago.example",
)
PREPAID = dataclasses.replace(ORDER, key="order-2", kind="prepaid")
PACK = dataclasses.replace(ORDER, key="order-3", kind="pack", price_reference="pack", amount_minor=600_000, interval="")


class Simulation:
    """The simulated Mercado Pago, and what a payer or its operators do there."""

    def __init__(self, server: SimulatedMercadoPago) -> None:
        self.server = server

    @property
    def url(self) -> str:
        return self.server.url

    def gateway(self, *, token: str = "TEST-token", **other: Any) -> MercadoPago:
        given = {"country": "AR", "mode": "test", "webhook_secrets": [SECRET], "base_url": self.url, **other}
        return MercadoPago(token, find_price=PRICES.get, **given)

    def control(self, act: str, **what: Any) -> dict[str, Any]:
        answer = requests.post(f"{self.url}/_control/{act}", json=what, timeout=10)
        answer.raise_for_status()
        return answer.json()

    def pay(self, checkout: Checkout, choice: str = "pay") -> str:
        """Do what a payer does on the checkout page; return where they are sent."""
        answer = requests.post(checkout.url, data={"do": choice}, allow_redirects=False, timeout=10)
        assert answer.status_code == 303, answer.text
        return answer.headers["Location"]

    def buy(self, order: Order = ORDER) -> str:
        """Buy a subscription whose first instalment is paid; return its reference."""
        checkout = self.gateway().start_checkout(order)
        self.pay(checkout)
        self.forward(hours=1)
        return checkout.reference.id

    def forward(self, **time: float) -> None:
        self.control("clock", forward=dt.timedelta(**time).total_seconds(), stopped=True)

    def charge_next(self, reference: str) -> None:
        """Go on to when the subscription is charged next."""
        with self.server.lock:
            instalments = self.server.state["instalments"].values()
            retries = [found["next_retry_date"] for found in instalments if found["status"] == "recycling"]
            due = min([self.server.state["preapprovals"][reference]["next_payment_date"], *retries])
        self.control("clock", to=dt.datetime.fromisoformat(due).timestamp(), stopped=True)

    def snapshot(self, kind: str, reference: str) -> Snapshot:
        found = self.gateway().fetch(Reference("mercadopago", kind, reference))
        assert found is not None
        return found

    def subscription(self, reference: str) -> Snapshot:
        return self.snapshot("subscription", reference)

    def notices(self) -> list[dict[str, Any]]:
        return requests.get(f"{self.url}/_control/notices", timeout=10).json()["notices"]

    def sent(self, notice: Mapping[str, Any]) -> tuple[bytes, dict[str, str], dict[str, str]]:
        """Return body, headers and query of a notification, as the site gets them."""
        body = json.dumps(notice["body"]).encode()
        query = dict(pair.split("=", 1) for pair in urlsplit(notice["url"]).query.split("&"))
        return body, dict(self.server.sign(notice["url"], body)), query


@contextmanager
def simulated_mercado_pago(notice_url: str = "http://127.0.0.1:1/webhooks/mercadopago/") -> Iterator[Simulation]:
    server = SimulatedMercadoPago(notice_url=notice_url, notice_secret=SECRET)
    with server.serve():
        yield Simulation(server)
