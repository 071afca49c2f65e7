"""Fetching what a reference is about: a subscription or a one-off payment, with all that belongs to it."""

import datetime as dt

import stripe
from django.utils import timezone

from billing.gateways.stripe.client import Data, every, is_missing, plain
from billing.gateways.stripe.snapshots import ACCOUNT, KIND, FetchedSession, FetchedSubscription, intent_ids, price_id

LIMIT = 100
"""How many objects a page of a list has: the most there may be."""

references: dict[str, str] = {}
"""The site's names of the prices that were met, by id. Nothing of a price changes."""


def find_purchase(
    client: stripe.StripeClient, kind: str, object_id: str
) -> FetchedSubscription | FetchedSession | None:
    """Return what the object belongs to, as it is now; None if it is gone, or nothing this site sold.

    Each kind of object points to another until a subscription or a checkout of ours is found.
    """
    observed_at = timezone.now()
    try:
        while True:
            if kind == "subscription":
                return _fetch_subscription(client, object_id, observed_at)
            if kind in ("checkout.session", "purchase"):
                session = plain(client.v1.checkout.sessions.retrieve(object_id, {"expand": ["customer"]}))
                if session["mode"] != "subscription":
                    return _fetch_session(client, session, observed_at)
                kind, object_id = "subscription", session["subscription"] or ""
            else:
                kind, object_id = _point_on(client, kind, object_id)
            if not object_id:
                return None
    except stripe.InvalidRequestError as error:
        if is_missing(error):
            return None
        raise


def _point_on(client: stripe.StripeClient, kind: str, object_id: str) -> tuple[str, str]:
    """Return the kind and id of what an object is a part of; no id if it is a part of nothing."""
    api = client.v1
    if kind == "invoice":
        return "subscription", _subscription_of(plain(api.invoices.retrieve(object_id)))
    if kind == "subscription_schedule":
        found = plain(api.subscription_schedules.retrieve(object_id))
        return "subscription", found["subscription"] or found["released_subscription"] or ""
    if kind == "charge":
        return "payment_intent", plain(api.charges.retrieve(object_id))["payment_intent"] or ""
    if kind == "dispute":
        return "charge", plain(api.disputes.retrieve(object_id))["charge"]
    if kind == "refund":
        return "charge", plain(api.refunds.retrieve(object_id))["charge"] or ""
    if kind == "payment_intent":
        payments = api.invoice_payments.list({"payment": {"type": "payment_intent", "payment_intent": object_id}})
        if payments.data:
            return "invoice", plain(payments.data[0])["invoice"]
        sessions = api.checkout.sessions.list({"payment_intent": object_id})
        return "checkout.session", sessions.data[0].id if sessions.data else ""
    return kind, ""


def _subscription_of(invoice: Data) -> str:
    details = (invoice["parent"] or {}).get("subscription_details") or {}
    return details.get("subscription") or ""


def _fetch_subscription(
    client: stripe.StripeClient, object_id: str, observed_at: dt.datetime
) -> FetchedSubscription | None:
    api = client.v1
    found = plain(api.subscriptions.retrieve(object_id, {"expand": ["customer", "default_payment_method"]}))
    if ACCOUNT not in found["metadata"]:
        return None
    customer = found["customer"]
    invoices = every(api.invoices.list({"subscription": object_id, "limit": LIMIT, "expand": ["data.payments"]}))
    charges = every(api.charges.list({"customer": customer["id"], "limit": LIMIT}))
    waiting = [one for invoice in invoices if invoice["status"] == "open" for one in intent_ids(invoice)]
    return FetchedSubscription(
        observed_at=observed_at,
        subscription=found,
        customer=customer,
        invoices=invoices,
        charges=charges,
        disputes=_fetch_disputes(client, charges),
        intents={one: plain(api.payment_intents.retrieve(one)) for one in waiting},
        references=_name_prices(client, found, invoices),
        planned_price=_find_planned_price(client, found),
    )


def _find_planned_price(client: stripe.StripeClient, subscription: Data) -> str:
    """Return the site's name of the price that the subscription changes to when its period ends; empty for none."""
    if not subscription["schedule"]:
        return ""
    schedule = plain(client.v1.subscription_schedules.retrieve(subscription["schedule"]))
    present = subscription["items"]["data"][0]["price"]["id"]
    planned = str(schedule["phases"][-1]["items"][0]["price"])
    return "" if planned == present else _name_price(client, planned)


def _name_prices(client: stripe.StripeClient, subscription: Data, invoices: list[Data]) -> dict[str, str]:
    prices = [item["price"] for item in subscription["items"]["data"]]
    references.update({price["id"]: price["lookup_key"] or price["id"] for price in prices})
    mentioned = {price_id(line) for invoice in invoices for line in invoice["lines"]["data"] if line["pricing"]}
    for price in mentioned:
        _name_price(client, price)
    return dict(references)


def _name_price(client: stripe.StripeClient, price: str) -> str:
    if price not in references:
        references[price] = plain(client.v1.prices.retrieve(price))["lookup_key"] or price
    return references[price]


def _fetch_session(client: stripe.StripeClient, session: Data, observed_at: dt.datetime) -> FetchedSession | None:
    if not {ACCOUNT, KIND} <= session["metadata"].keys():
        return None
    customer, intent, charge = session["customer"], None, None
    if session["payment_intent"]:
        found = client.v1.payment_intents.retrieve(session["payment_intent"], {"expand": ["latest_charge"]})
        intent = plain(found)
        charge = intent["latest_charge"]
    disputes = _fetch_disputes(client, [charge] if charge else [])
    return FetchedSession(observed_at, session, customer, intent, charge, disputes)


def _fetch_disputes(client: stripe.StripeClient, charges: list[Data]) -> list[Data]:
    found = []
    for charge in charges:
        if charge["disputed"]:
            found += every(client.v1.disputes.list({"charge": charge["id"], "limit": LIMIT}))
    return found
