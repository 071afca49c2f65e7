"""dj-stripe's rows, written from what was fetched: for the admin and the page of invoices, never for a decision.

Not by dj-stripe's own `sync_from_stripe_data`: it fetches what a row points to inside its transactions.
"""

import datetime as dt
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db import transaction
from djstripe import models

from billing.gateways.stripe.client import Data
from billing.gateways.stripe.snapshots import FetchedSession, FetchedSubscription


def find_customer(account_id: int) -> str | None:
    """Return the id of the account's customer at Stripe, in the mode that is set."""
    rows = models.Customer.objects.filter(subscriber_id=account_id, livemode=settings.STRIPE_LIVE_MODE)
    found: str | None = rows.order_by("-created", "-djstripe_id").values_list("id", flat=True).first()
    return found


def list_customers(account_id: int) -> list[str]:
    rows = models.Customer.objects.filter(subscriber_id=account_id, livemode=settings.STRIPE_LIVE_MODE)
    return list(rows.values_list("id", flat=True))


def write_customer(found: Data, account_id: int) -> None:
    if not found.get("deleted"):
        _write(models.Customer, found, email=found["email"] or "", subscriber_id=account_id)


def write_catalog(products: Iterable[Data], prices: Iterable[Data]) -> None:
    for product in products:
        _write(models.Product, product, name=product["name"], active=product["active"])
    for price in prices:
        _write(
            models.Price,
            price,
            active=price["active"],
            currency=price["currency"],
            nickname=price["nickname"] or "",
            product_id=price["product"],
            lookup_key=price["lookup_key"],
        )


def write_subscription(fetched: FetchedSubscription, account_id: int) -> None:
    """Write a subscription, its customer, invoices and charges; all of it, or nothing."""
    customer = fetched.customer
    if customer.get("deleted"):
        return
    with transaction.atomic():
        write_customer(customer, account_id)
        _write(models.Subscription, fetched.subscription, customer_id=customer["id"])
        for invoice in fetched.invoices:
            _write(models.Invoice, invoice, customer_id=customer["id"], subscription_id=fetched.subscription["id"])
        _write_charges(fetched.charges, customer["id"])


def write_session(fetched: FetchedSession, account_id: int) -> None:
    customer = fetched.customer
    if customer.get("deleted"):
        return
    with transaction.atomic():
        write_customer(customer, account_id)
        _write(models.Session, fetched.session, customer_id=customer["id"])
        if fetched.charge is not None:
            _write_charges([fetched.charge], customer["id"])


def write_webhook_endpoint(found: Data, *, uuid: str, secret: str) -> None:
    """Write the endpoint, in place of another one at the same address."""
    models.WebhookEndpoint.objects.filter(djstripe_uuid=uuid).exclude(id=found["id"]).delete()
    _write(
        models.WebhookEndpoint,
        found,
        api_version=found["api_version"] or "",
        enabled_events=found["enabled_events"],
        secret=secret,
        status=found["status"],
        url=found["url"],
        application=found["application"] or "",
        djstripe_uuid=uuid,
    )


@transaction.atomic
def forget(customer_ids: Iterable[str]) -> None:
    """Delete every row about these customers."""
    ids = list(customer_ids)
    models.Charge.objects.filter(customer_id__in=ids).delete()
    models.Session.objects.filter(customer_id__in=ids).delete()
    models.Customer.objects.filter(id__in=ids).delete()  # its subscriptions and invoices go with it


def _write_charges(charges: Iterable[Data], customer_id: str) -> None:
    for charge in charges:
        amount = Decimal(charge["amount"]) / 100  # as dj-stripe keeps it, in every currency
        fields = {"amount": amount, "currency": charge["currency"], "status": charge["status"]}
        _write(models.Charge, charge, customer_id=customer_id, **fields)


def _write(model: Any, found: Data, **fields: Any) -> None:
    common = {
        "livemode": found.get("livemode", settings.STRIPE_LIVE_MODE),
        "created": dt.datetime.fromtimestamp(found["created"], dt.UTC),
        "metadata": found.get("metadata") or {},
        "stripe_data": {name: value for name, value in found.items() if name != "secret"},
    }
    model.objects.update_or_create(id=found["id"], defaults=common | fields)
