"""A site whose Stripe is the simulated one, with somebody who can buy."""

import json
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

from billing.gateways.base import Order, Reference, Snapshot
from billing.gateways.stripe.gateway import StripeGateway
from config.embedded.simulated_stripe import SimulatedStripe

SECRET = "whsec_of_the_tests"
SETTINGS: dict[str, Any] = {
    "STRIPE_SECRET_KEY": "sk_test_simulated0123456789abcdef",
    "STRIPE_PUBLIC_KEY": "pk_test_simulated0123456789abcdef",
    "STRIPE_WEBHOOK_SECRETS": [SECRET],
    "STRIPE_WEBHOOK_UUID": "7f9f0a4e-33a5-4d2a-9f3c-5a8b8e1d2c3b",
    "STRIPE_LIVE_MODE": False,
    "GATEWAYS": {"stripe": "billing.gateways.stripe.gateway.StripeGateway"},
}


class Shop:
    """The simulated Stripe as a payer, a bank and time act on it, and what an account buys there."""

    def __init__(self, url: str, account_id: int = 0) -> None:
        self.url, self.account_id, self.gateway = url, account_id, StripeGateway()
        self._orders = 0

    def control(self, what: str, **asked: Any) -> dict[str, Any]:
        body = json.dumps(asked).encode()
        with urllib.request.urlopen(f"{self.url}/_control/{what}", body, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def order(self, **changed: Any) -> Order:
        self._orders += 1
        fields: dict[str, Any] = {
            "key": f"order-{self.account_id}-{self._orders}",
            "account_id": self.account_id,
            "email": "ana@example.com",
            "kind": "subscription",
            "price_reference": "premium-month-usd",
            "description": "Premium",
            "amount_minor": 2_000,
            "currency": "USD",
            "interval": "month",
            "return_url": "https://chat.example.com/billing/",
            "locale": "es",
        }
        return Order(**fields | changed)

    def buy(self, how: str = "ok", **changed: Any) -> Snapshot:
        """Check out and pay; return what the gateway says of it."""
        checkout = self.gateway.start_checkout(self.order(**changed))
        self.control("pay", session=checkout.reference.id, how=how)
        return self.fetch(checkout.reference)

    def fetch(self, reference: Reference | Snapshot) -> Snapshot:
        if isinstance(reference, Snapshot):
            kind = "subscription" if reference.kind == "subscription" else "checkout.session"
            reference = Reference("stripe", kind, reference.reference)
        snapshot = self.gateway.fetch(reference)
        assert snapshot is not None
        return snapshot

    def renew(self, bought: Snapshot, outcome: str = "ok") -> Snapshot:
        self.control("renew", subscription=bought.reference, outcome=outcome)
        return self.fetch(bought)

    def objects(self, kind: str) -> list[dict[str, Any]]:
        """Return the objects of a type in the simulated state, the oldest first, without deleted ones."""
        found = simulated.state["objects"].get(kind, {}).values()
        return [one for one in found if not one.get("deleted")]


simulated = SimulatedStripe(notice_secret=SECRET)
serving = threading.Lock()


def serve() -> Iterator[str]:
    """Serve the one simulated Stripe of this process until the generator is closed."""
    with serving, simulated.serve() as url:
        yield url
