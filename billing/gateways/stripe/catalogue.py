"""What Stripe must know before anything is sold: prices by lookup key, the portal's configuration, the webhook."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, cast

import stripe
from django.conf import settings

from billing.gateways.base import SECONDS, GatewayRefused, Interval
from billing.gateways.stripe import mirror
from billing.gateways.stripe.client import Data, asking, every, plain
from billing.models import Price

EVENTS = (
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.resumed",
    "customer.subscription.pending_update_applied",
    "customer.subscription.pending_update_expired",
    "invoice.finalized",
    "invoice.paid",
    "invoice.payment_failed",
    "invoice.payment_action_required",
    "invoice.marked_uncollectible",
    "invoice.voided",
    "payment_intent.requires_action",
    "charge.refunded",
    "charge.dispute.created",
    "charge.dispute.closed",
    "charge.dispute.funds_reinstated",
    "charge.dispute.funds_withdrawn",
)
"""What Stripe is asked to tell: each is about something that `fetching` can follow to a purchase."""

PORTAL = "tertulia"
"""The metadata by which the portal's configuration is found again."""


@dataclass(frozen=True, slots=True)
class Sellable:
    """What a price is at Stripe; `reference` is its lookup key."""

    reference: str
    name: str
    amount_minor: int
    currency: str
    interval: Interval


def publish(price: Price, seconds: float = SECONDS) -> str:
    """Make a price at Stripe unless it is there, and mirror it; return its id. Raises GatewayUnavailable, and
    GatewayRefused if there is another one by the same name."""
    name = price.plan.name if price.plan else f"{price.pack_credits} credits"
    interval = cast("Interval", price.interval)
    with asking(seconds) as client:
        found = ensure_price(client, Sellable(price.reference, name, price.amount_minor, price.currency, interval))
        mirror_prices(client, [found])
    return found


def ensure_price(client: stripe.StripeClient, wanted: Sellable) -> str:
    """Return the id of the price, which is made when there is none. Raises GatewayRefused if there is another one by
    the same name."""
    found = find_price(client, wanted.reference)
    if found is None:
        found = _make_price(client, wanted)
    interval = (found["recurring"] or {}).get("interval", "")
    is_same = (found["unit_amount"], found["currency"], interval)
    if is_same != (wanted.amount_minor, wanted.currency.lower(), wanted.interval):
        raise GatewayRefused(f"another price at Stripe is called {wanted.reference}")
    return str(found["id"])


def find_price(client: stripe.StripeClient, reference: str) -> Data | None:
    """Return the price with this lookup key, or this id."""
    if reference.startswith("price_"):
        return plain(client.v1.prices.retrieve(reference))
    found = client.v1.prices.list({"lookup_keys": [reference], "limit": 1}).data
    return plain(found[0]) if found else None


def get_price(client: stripe.StripeClient, reference: str) -> Data:
    """Raises GatewayRefused for a price that Stripe does not know: `manage.py set_up_stripe` makes them."""
    found = find_price(client, reference)
    if found is None:
        raise GatewayRefused(f"no price at Stripe is called {reference}")
    return found


def mirror_prices(client: stripe.StripeClient, ids: Iterable[str]) -> None:
    """Write the rows of prices and their products."""
    expand = {"expand": ["product"]}
    found = [plain(client.v1.prices.retrieve(one, cast(stripe.params.PriceRetrieveParams, expand))) for one in ids]
    mirror.write_catalog((price["product"] for price in found), ({**p, "product": p["product"]["id"]} for p in found))


def ensure_portal(client: stripe.StripeClient, return_url: str) -> str:
    """Return the id of the portal's configuration, which is made when there is none: nothing in it changes a plan or
    cancels, which this site does itself."""
    known = every(client.v1.billing_portal.configurations.list({"active": True, "limit": 100}))
    for configuration in known:
        if PORTAL in (configuration["metadata"] or {}):
            return str(configuration["id"])
    made = client.v1.billing_portal.configurations.create(
        {
            "default_return_url": return_url,
            "metadata": {PORTAL: "portal"},
            "features": {
                "payment_method_update": {"enabled": True},
                "invoice_history": {"enabled": True},
                "customer_update": {"enabled": True, "allowed_updates": ["address", "tax_id"]},
                "subscription_cancel": {"enabled": False},
                "subscription_update": {"enabled": False},
            },
        },
        {"idempotency_key": f"{PORTAL}-portal-{settings.STRIPE_API_VERSION}"},
    )
    return made.id


def make_webhook(client: stripe.StripeClient, url: str) -> tuple[Data, str]:
    """Create an endpoint; return it and its secret, which Stripe tells this once."""
    made = plain(
        client.v1.webhook_endpoints.create(
            {
                "url": url,
                "enabled_events": cast(Any, EVENTS),
                "api_version": cast(Literal["2026-05-27.dahlia"], settings.STRIPE_API_VERSION),
            }
        )
    )
    return made, made["secret"]


def find_webhook(client: stripe.StripeClient, url: str) -> Data | None:
    """Return the endpoint with this address, without its secret."""
    known = every(client.v1.webhook_endpoints.list({"limit": 100}))
    return next((endpoint for endpoint in known if endpoint["url"] == url), None)


def _make_price(client: stripe.StripeClient, wanted: Sellable) -> Data:
    product = f"{PORTAL}-{wanted.reference}"
    try:
        client.v1.products.retrieve(product)
    except stripe.InvalidRequestError:
        client.v1.products.create({"id": product, "name": wanted.name}, {"idempotency_key": f"product-{product}"})
    params: stripe.params.PriceCreateParams = {
        "product": product,
        "currency": wanted.currency.lower(),
        "unit_amount": wanted.amount_minor,
        "lookup_key": wanted.reference,
    }
    if wanted.interval:
        params["recurring"] = {"interval": wanted.interval}
    return plain(client.v1.prices.create(params, {"idempotency_key": f"price-{wanted.reference}"}))
