"""Stripe as a `Gateway`."""

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Literal

import stripe
from django.conf import settings
from django.utils import timezone

from billing.gateways.base import (
    LISTING_SECONDS,
    ChangePreview,
    Checkout,
    GatewayRefused,
    Kind,
    Notification,
    Order,
    PaymentMode,
    Reference,
    Snapshot,
    fetch_each,
    readable,
)
from billing.gateways.stripe import mirror, notifications
from billing.gateways.stripe.catalogue import Sellable, ensure_portal, ensure_price, get_price
from billing.gateways.stripe.client import Data, asking, every, is_missing, plain
from billing.gateways.stripe.fetching import LIMIT, find_purchase
from billing.gateways.stripe.snapshots import (
    ACCOUNT,
    DEFERRED,
    KIND,
    NAME,
    PRICE,
    FetchedSession,
    FetchedSubscription,
    find_account_id,
    is_proration,
    moment,
    session_snapshot,
    subscription_snapshot,
)
from core.sweeps import guard

LOCALES: dict[str, Literal["auto", "es-419", "en", "pt-BR"]] = {"es": "es-419", "en": "en", "pt-br": "pt-BR"}
SOONEST = dt.timedelta(hours=49)
"""How far ahead a subscription can begin that does not begin now: Stripe wants two days."""
REFUND_KEY = "tertulia_key"
CHANGES = (
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "customer.subscription.deleted",
    "charge.refunded",
    "charge.dispute.created",
    "charge.dispute.closed",
)
"""Events about what may not be among the subscriptions that are alive."""


class StripeGateway:
    """Stripe, asked with the key of the settings."""

    name = NAME
    title = "Stripe"
    kinds: tuple[Kind, ...] = ("subscription", "pack")
    wants_payer_email = False
    has_prorations = True
    changes_interval = True

    @property
    def payment_mode(self) -> PaymentMode:
        if settings.SIMULATED_STRIPE_URL:
            return "simulated"
        return "live" if settings.STRIPE_LIVE_MODE else "test"

    # --- Buying ------------------------------------------------------------------------------------------------------

    def start_checkout(self, order: Order) -> Checkout:
        with asking() as client:
            customer = _ensure_customer(client, order.account_id, order.email)
            mirror.write_customer(customer, order.account_id)  # now: to be forgotten, whatever comes next
            wanted = Sellable(
                order.price_reference, order.description, order.amount_minor, order.currency, order.interval
            )
            params = _session_params(order, customer["id"], ensure_price(client, wanted))
            # With the customer in the key: one that was deleted at Stripe, and made anew, is another request.
            options: stripe.RequestOptions = {"idempotency_key": f"{order.key}-{customer['id']}"}
            session = client.v1.checkout.sessions.create(params, options)
        return Checkout(Reference(NAME, "checkout.session", session.id), session.url or "")

    def expire_checkout(self, reference: Reference) -> None:
        """End a checkout that is open; one that is over stays as it is."""
        with asking() as client:
            session = client.v1.checkout.sessions.retrieve(reference.id)
            if session.status == "open":
                client.v1.checkout.sessions.expire(reference.id)

    # --- Asking ------------------------------------------------------------------------------------------------------

    def fetch(self, reference: Reference) -> Snapshot | None:
        with readable():
            with asking() as client:
                fetched = find_purchase(client, reference.type, reference.id)
            return None if fetched is None else _keep(fetched)

    def list_recent(self, since: dt.datetime) -> Iterator[Snapshot]:
        return fetch_each(self, [*_list_alive(), *_list_changed(since)])

    # --- Changing ----------------------------------------------------------------------------------------------------

    def preview_change(self, reference: str, price_reference: str) -> ChangePreview:
        with asking() as client:
            price = get_price(client, price_reference)
            found = plain(client.v1.subscriptions.retrieve(reference))
            item = found["items"]["data"][0]
            at = max(int(timezone.now().timestamp()), item["current_period_start"])  # clocks differ
            preview = client.v1.invoices.create_preview(
                {
                    "subscription": reference,
                    "subscription_details": {
                        "items": [{"id": item["id"], "price": price["id"]}],
                        "proration_behavior": "always_invoice",
                        "proration_date": at,
                    },
                }
            )
        is_same_interval = price["recurring"]["interval"] == item["price"]["recurring"]["interval"]
        lines = plain(preview)["lines"]["data"]
        ends = [line["period"]["end"] for line in lines if not is_proration(line)]
        return ChangePreview(
            amount_minor=preview.amount_due,
            currency=preview.currency.upper(),
            proration_date=moment(at),
            next_amount_minor=price["unit_amount"],
            next_payment_at=moment(item["current_period_end"] if is_same_interval else max(ends)),
        )

    def change_price(self, reference: str, price_reference: str, preview: ChangePreview, *, key: str) -> None:
        with asking() as client:
            found = _detach(client, reference)
            client.v1.subscriptions.update(
                reference,
                {
                    "items": [
                        {
                            "id": found["items"]["data"][0]["id"],
                            "price": get_price(client, price_reference)["id"],
                        }
                    ],
                    "payment_behavior": "pending_if_incomplete",  # the plan changes when it is paid
                    "proration_behavior": "always_invoice",
                    "proration_date": int(preview.proration_date.timestamp()),
                },
                {"idempotency_key": key},
            )

    def change_price_at_period_end(self, reference: str, price_reference: str, *, key: str) -> None:
        """By a schedule of two phases, which lets go of the subscription when the second has begun. What nothing is
        charged for yet stays so to the end of the first."""
        with asking() as client:
            price = get_price(client, price_reference)
            found = plain(client.v1.subscriptions.retrieve(reference))
            item, schedule = found["items"]["data"][0], found["schedule"]
            if schedule is None:
                made = client.v1.subscription_schedules.create(
                    {"from_subscription": reference}, {"idempotency_key": f"{key}-schedule"}
                )
                schedule = made.id
            end = item["current_period_end"]
            client.v1.subscription_schedules.update(
                schedule,
                {
                    "end_behavior": "release",
                    "proration_behavior": "none",
                    "phases": [
                        {
                            "items": [{"price": item["price"]["id"], "quantity": 1}],
                            "start_date": item["current_period_start"],
                            "end_date": end,
                            "trial": found["status"] == "trialing",
                        },
                        {
                            "items": [{"price": price["id"], "quantity": 1}],
                            "start_date": end,
                            "duration": {"interval": price["recurring"]["interval"], "interval_count": 1},
                            "proration_behavior": "none",
                        },
                    ],
                },
                {"idempotency_key": f"{key}-phases"},
            )

    def cancel_at_period_end(self, reference: str, *, key: str) -> None:
        with asking() as client:
            _detach(client, reference)
            client.v1.subscriptions.update(reference, {"cancel_at_period_end": True}, {"idempotency_key": key})

    def cancel_now(self, reference: str, *, key: str) -> None:
        """Needs no key: what is ended or void already stays so."""
        with asking() as client:
            try:
                client.v1.subscriptions.cancel(reference, {"invoice_now": False, "prorate": False})
            except stripe.InvalidRequestError as error:
                if not is_missing(error):
                    raise
            for status in ("open", "uncollectible"):
                unpaid = client.v1.invoices.list({"subscription": reference, "status": status, "limit": LIMIT})
                for invoice in unpaid.auto_paging_iter():
                    client.v1.invoices.void_invoice(str(invoice.id))

    def resume(self, reference: str, *, key: str) -> None:
        """Nothing ends or changes at the end of the period any more."""
        with asking() as client:
            _detach(client, reference)
            client.v1.subscriptions.update(reference, {"cancel_at_period_end": False}, {"idempotency_key": key})

    def refund(self, payment_reference: str, *, amount_minor: int, key: str) -> None:
        """Stripe forgets keys after a day, and so the refund carries its own."""
        with asking() as client:
            intent = _paid_intent(client, payment_reference)
            known = client.v1.refunds.list({"payment_intent": intent, "limit": LIMIT})
            if any((refund["metadata"] or {}).get(REFUND_KEY) == key for refund in every(known)):
                return
            client.v1.refunds.create(
                {"payment_intent": intent, "amount": amount_minor, "metadata": {REFUND_KEY: key}},
                {"idempotency_key": key},
            )

    def return_credit(self, payment_reference: str, *, amount_minor: int, key: str) -> None:
        """Remembered with the credit itself, as a refund is."""
        with asking() as client:
            invoice = plain(client.v1.invoices.retrieve(payment_reference))
            transactions = client.v1.customers.balance_transactions
            known = transactions.list(invoice["customer"], {"limit": LIMIT})
            if any((one["metadata"] or {}).get(REFUND_KEY) == key for one in every(known)):
                return
            transactions.create(
                invoice["customer"],
                {
                    "amount": -amount_minor,  # below nothing it is the customer's
                    "currency": invoice["currency"],
                    "description": f"Credit of {invoice['number'] or invoice['id']}",
                    "metadata": {REFUND_KEY: key, "invoice": invoice["id"]},
                },
                {"idempotency_key": key},
            )

    # --- The customer ------------------------------------------------------------------------------------------------

    def payment_method_url(self, account_id: int, reference: str, return_url: str) -> str:
        with asking() as client:
            customer = plain(client.v1.subscriptions.retrieve(reference))["customer"]
            session = client.v1.billing_portal.sessions.create(
                {
                    "customer": customer,
                    "configuration": ensure_portal(client, return_url),
                    "return_url": return_url,
                    "flow_data": {"type": "payment_method_update"},
                }
            )
        return str(session.url)

    def forget_customer(self, account_id: int, *, key: str) -> None:
        """Stripe ends their subscriptions, too, and keeps what the law wants of payments. Needs no key."""
        customers = mirror.list_customers(account_id)
        with asking() as client:
            for customer in customers:
                try:
                    client.v1.customers.delete(customer)
                except stripe.InvalidRequestError as error:
                    if not is_missing(error):
                        raise
        mirror.forget(customers)

    def read_notification(self, body: bytes, headers: Mapping[str, str], query: Mapping[str, str]) -> Notification:
        return notifications.read(body, headers)


def _keep(fetched: FetchedSubscription | FetchedSession) -> Snapshot:
    """Write dj-stripe's rows, which may fail without harm; return the snapshot."""
    if isinstance(fetched, FetchedSubscription):
        snapshot = subscription_snapshot(fetched)
        with guard("mirror", reference=snapshot.reference):
            mirror.write_subscription(fetched, snapshot.account_id)
    else:
        snapshot = session_snapshot(fetched)
        with guard("mirror", reference=snapshot.reference):
            mirror.write_session(fetched, snapshot.account_id)
    return snapshot


def _ensure_customer(client: stripe.StripeClient, account_id: int, email: str) -> Data:
    """Return the account's one customer, with the current address.

    The request that makes it never differs, whatever the address is by now, so that Stripe takes it as the same one;
    unless the one it made before was deleted there.
    """
    known: str | None = mirror.find_customer(account_id)
    replaced: str | None = None
    while True:
        if known is None:
            key = f"customer-{settings.SITE_URL}-{account_id}-{replaced or ''}"
            metadata = {ACCOUNT: str(account_id)}
            known = client.v1.customers.create({"metadata": metadata}, {"idempotency_key": key}).id
        try:
            return plain(client.v1.customers.update(known, {"email": email}))
        except stripe.InvalidRequestError as error:
            if not is_missing(error) or known == replaced:
                raise
            known, replaced = None, known


def _session_params(order: Order, customer: str, price: str) -> "stripe.params.checkout.SessionCreateParams":
    metadata = {ACCOUNT: str(order.account_id), KIND: order.kind, PRICE: order.price_reference}
    params: stripe.params.checkout.SessionCreateParams = {
        "mode": "subscription" if order.kind == "subscription" else "payment",
        "customer": customer,
        "customer_update": {"address": "auto", "name": "auto"},
        "client_reference_id": str(order.account_id),
        "line_items": [{"price": price, "quantity": 1}],
        "metadata": metadata,
        "success_url": order.return_url,
        "cancel_url": order.return_url,
        "tax_id_collection": {"enabled": True},
        "locale": LOCALES.get(order.locale, "auto"),
    }
    if settings.STRIPE_TAX:
        params["automatic_tax"] = {"enabled": True}
    if order.discount_reference.startswith("promo_"):
        params["discounts"] = [{"promotion_code": order.discount_reference}]
    elif order.discount_reference:
        params["discounts"] = [{"coupon": order.discount_reference}]
    else:
        params["allow_promotion_codes"] = True
    if order.kind == "subscription":
        params["payment_method_collection"] = "always"
        params["subscription_data"] = _subscription_data(order)
    else:
        params["payment_intent_data"] = {"metadata": metadata}
    return params


def _subscription_data(order: Order) -> "stripe.params.checkout.SessionCreateParamsSubscriptionData":
    metadata = {ACCOUNT: str(order.account_id)}
    data: stripe.params.checkout.SessionCreateParamsSubscriptionData = {"metadata": metadata}
    if order.starts_at is not None:
        metadata[DEFERRED] = "yes"
        data["trial_end"] = int(max(order.starts_at, timezone.now() + SOONEST).timestamp())
    elif order.trial_days:
        data["trial_period_days"] = order.trial_days
        data["trial_settings"] = {"end_behavior": {"missing_payment_method": "cancel"}}
    return data


def _detach(client: stripe.StripeClient, reference: str) -> Data:
    """Return a subscription after ending the schedule it may have, which would refuse changes."""
    found = plain(client.v1.subscriptions.retrieve(reference))
    if found["schedule"]:
        client.v1.subscription_schedules.release(found["schedule"])
    return found


def _paid_intent(client: stripe.StripeClient, payment_reference: str) -> str:
    if payment_reference.startswith("pi_"):
        return payment_reference
    payments = client.v1.invoice_payments.list({"invoice": payment_reference, "status": "paid"})
    for payment in map(plain, payments.data):
        if intent := payment["payment"].get("payment_intent"):
            return str(intent)
    raise GatewayRefused("nothing was paid")


def _list_alive() -> list[Reference]:
    with asking(LISTING_SECONDS) as client:
        found = every(client.v1.subscriptions.list({"limit": LIMIT}))
    return [Reference(NAME, "subscription", one["id"]) for one in found if find_account_id(one) is not None]


def _list_changed(since: dt.datetime) -> list[Reference]:
    """Return what events since then are about; Stripe keeps them for thirty days."""
    with asking(LISTING_SECONDS) as client:
        created: stripe.params.EventListParamsCreated = {"gte": int(since.timestamp())}
        events = every(client.v1.events.list({"types": list(CHANGES), "created": created, "limit": LIMIT}))
    about = [event["data"]["object"] for event in reversed(events)]
    return list(dict.fromkeys(Reference(NAME, one["object"], one["id"]) for one in about))
