"""What Stripe's objects mean: pure functions from what was fetched to a `Snapshot`."""

import datetime as dt
from dataclasses import dataclass
from typing import Any, Literal, cast

from billing.gateways.base import (
    GatewayRefused,
    Kind,
    PaymentSnapshot,
    PaymentStatus,
    Snapshot,
    SubscriptionStatus,
)
from billing.gateways.stripe.client import Data

NAME = "stripe"
ACCOUNT = "djstripe_subscriber"
"""The metadata that says whose it is: dj-stripe's own word, which its customers carry, too."""
KIND, PRICE, DEFERRED = "kind", "price", "deferred"
"""More metadata: of a one-off payment, what is bought; of a subscription, that what looks like a trial is a wait."""

ITEM = "subscription_item_details"
"""What a line of an invoice comes from, if it is the subscription."""

STATUSES: dict[str, SubscriptionStatus] = {
    "incomplete": "pending",
    "incomplete_expired": "ended",
    "trialing": "trialing",
    "active": "active",
    "past_due": "past_due",
    "paused": "paused",
    "unpaid": "ended",
    "canceled": "ended",
}
DISPUTES: dict[str, Literal["open", "won", "lost"]] = {
    "needs_response": "open",
    "under_review": "open",
    "warning_needs_response": "open",
    "warning_under_review": "open",
    "warning_closed": "won",
    "prevented": "won",
    "won": "won",
    "lost": "lost",
}


@dataclass(frozen=True, slots=True)
class FetchedSubscription:
    """A subscription with all that belongs to it. `intents` are those of open invoices alone, by id; `references` has
    the site's name of every price that is mentioned, by its id."""

    observed_at: dt.datetime
    subscription: Data
    customer: Data
    invoices: list[Data]
    charges: list[Data]
    disputes: list[Data]
    intents: dict[str, Data]
    references: dict[str, str]
    planned_price: str = ""
    """The site's name of the price that a schedule changes to."""


@dataclass(frozen=True, slots=True)
class FetchedSession:
    """A checkout of a payment that is made once; before somebody paid, there is no intent and no charge."""

    observed_at: dt.datetime
    session: Data
    customer: Data
    intent: Data | None
    charge: Data | None
    disputes: list[Data]


@dataclass(frozen=True, slots=True)
class _Voucher:
    url: str
    code: str
    expires_at: dt.datetime | None


def find_account_id(found: Data) -> int | None:
    """Return whose an object is; None if it is not of this site."""
    account = (found.get("metadata") or {}).get(ACCOUNT, "")
    return int(account) if account.isdecimal() else None


def subscription_snapshot(fetched: FetchedSubscription) -> Snapshot:
    """Raises GatewayRefused for a status that nobody has heard of."""
    found = fetched.subscription
    items = found["items"]["data"]
    is_deferred = DEFERRED in found["metadata"]
    status = _known(STATUSES, found["status"])
    if status == "trialing" and is_deferred:
        status = "active"  # and nothing of it is paid yet
    return Snapshot(
        gateway=NAME,
        reference=found["id"],
        kind="subscription",
        account_id=find_account_id(found) or 0,
        status=status,
        price_reference=fetched.references[items[0]["price"]["id"]],
        anchor=moment(found["billing_cycle_anchor"]),
        observed_at=fetched.observed_at,
        payments=tuple(_payments(fetched)),
        next_price_reference=fetched.planned_price,
        cancels_at=_find_moment(found["ended_at"]) or _find_end(found),
        trial_end=None if is_deferred else _find_moment(found["trial_end"]),
        card_fingerprint=_fingerprint(found.get("default_payment_method")) or _charged_card(fetched.charges),
    )


def session_snapshot(fetched: FetchedSession) -> Snapshot:
    found, metadata = fetched.session, fetched.session["metadata"]
    payment = _one_payment(fetched)
    status: SubscriptionStatus = "active" if payment.status == "paid" else "pending"
    if found["status"] == "expired":
        status = "ended"
    return Snapshot(
        gateway=NAME,
        reference=found["id"],
        kind=cast(Kind, metadata[KIND]),
        account_id=find_account_id(found) or 0,
        status=status,
        price_reference=metadata[PRICE],
        anchor=payment.paid_at or moment(found["created"]),
        observed_at=fetched.observed_at,
        payments=(payment,),
        card_fingerprint=_charged_card([fetched.charge] if fetched.charge else []),
    )


def moment(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def intent_ids(invoice: Data) -> list[str]:
    """Return the payments an invoice was or will be paid by."""
    payments = [entry["payment"] for entry in (invoice.get("payments") or {}).get("data", [])]
    return [payment["payment_intent"] for payment in payments if payment.get("payment_intent")]


def price_id(line: Data) -> str:
    return str(line["pricing"]["price_details"]["price"])


def is_proration(line: Data) -> bool:
    """Whether a line of an invoice is for the rest of a time, or gives that back."""
    parent = line["parent"] or {}
    details = parent.get("subscription_item_details") or parent.get("invoice_item_details") or {}
    return bool(details.get("proration"))


def _payments(fetched: FetchedSubscription) -> list[PaymentSnapshot]:
    trial_end = fetched.subscription["trial_end"] or 0
    found = []
    for invoice in fetched.invoices:
        lines = invoice["lines"]["data"]
        is_of_trial = invoice["total"] == 0 and all(line["period"]["end"] <= trial_end for line in lines)
        if invoice["status"] != "draft" and _counted_lines(invoice) and not is_of_trial:
            found.append(_invoice_payment(fetched, invoice))
    return found


def _invoice_payment(fetched: FetchedSubscription, invoice: Data) -> PaymentSnapshot:
    counted = _counted_lines(invoice)
    ids = intent_ids(invoice)
    charge = next((one for one in fetched.charges if one["payment_intent"] in ids and one["paid"]), None)
    intent = next((fetched.intents[one] for one in ids if one in fetched.intents), None)
    status, action, action_url = _open_state(invoice, intent)
    voucher = _voucher(intent)
    charged, total = invoice["amount_due"], invoice["total"]  # what a credit pays of it is not charged
    had, has = invoice["starting_balance"], invoice["ending_balance"]  # negative: a credit
    tax = sum(one["amount"] for one in invoice.get("total_taxes") or [])
    return PaymentSnapshot(
        reference=invoice["id"],
        status=status,
        price_reference=fetched.references[price_id(max(counted, key=lambda line: line["amount"]))],
        amount_minor=charged,
        currency=invoice["currency"].upper(),
        period_start=moment(min(line["period"]["start"] for line in counted)),
        period_end=moment(max(line["period"]["end"] for line in counted)),
        is_proration=is_proration(counted[0]),
        paid_at=_find_moment(invoice["status_transitions"]["paid_at"]),
        refunded_minor=charge["amount_refunded"] if charge else 0,
        credit_minor=0 if has is None else max(0, has - had),
        dispute=_dispute_of(charge, fetched.disputes),
        tax_minor=tax if charged >= total > 0 else tax * charged // total if total > 0 else 0,
        tax_country=(invoice.get("customer_address") or {}).get("country") or "",
        tax_id=next((one["value"] or "" for one in invoice.get("customer_tax_ids") or []), ""),
        receipt_url=invoice.get("hosted_invoice_url") or "",
        action=action,
        action_url=action_url,
        action_code=voucher.code,
        expires_at=voucher.expires_at,
    )


def _counted_lines(invoice: Data) -> list[Data]:
    """Return the lines that say what an invoice pays for: those of the subscription itself, else those for the rest of
    a time. What an operator added to it has no price of ours."""
    priced = [line for line in invoice["lines"]["data"] if line["pricing"]]
    regular = [line for line in priced if (line["parent"] or {}).get("type") == ITEM and not is_proration(line)]
    return regular or [line for line in priced if is_proration(line)]


def _open_state(
    invoice: Data, intent: Data | None
) -> tuple[PaymentStatus, Literal["", "confirm", "voucher", "pay"], str]:
    if invoice["status"] == "paid":
        return "paid", "", ""
    if invoice["status"] == "void":
        return "void", "", ""
    page = invoice.get("hosted_invoice_url") or ""
    state = intent["status"] if intent else ""
    if state == "processing":
        return "pending", "", ""
    if state == "requires_action":
        voucher = _voucher(intent)
        return ("pending", "voucher", voucher.url or page) if voucher.expires_at else ("pending", "confirm", page)
    return ("failed" if invoice["attempted"] else "pending"), "pay", page


def _one_payment(fetched: FetchedSession) -> PaymentSnapshot:
    found, intent, charge = fetched.session, fetched.intent, fetched.charge
    status: PaymentStatus = "void" if found["status"] == "expired" else "pending"
    action: Literal["", "voucher", "pay"] = "pay" if found["status"] == "open" else ""
    url, voucher = found["url"] or "", _voucher(intent)
    if found["payment_status"] in ("paid", "no_payment_required"):
        status = "paid"
    elif intent is not None and intent["status"] == "requires_action":
        action, url = "voucher", voucher.url
    elif intent is not None and intent["status"] in ("requires_payment_method", "canceled"):
        status = "failed"
    details = found.get("customer_details") or {}
    return PaymentSnapshot(
        reference=intent["id"] if intent else found["id"],
        status=status,
        price_reference=found["metadata"][PRICE],
        amount_minor=found["amount_total"],
        currency=found["currency"].upper(),
        paid_at=moment((charge or found)["created"]) if status == "paid" else None,
        refunded_minor=charge["amount_refunded"] if charge else 0,
        dispute=_dispute_of(charge, fetched.disputes),
        tax_minor=(found.get("total_details") or {}).get("amount_tax") or 0,
        tax_country=(details.get("address") or {}).get("country") or "",
        tax_id=next((one["value"] or "" for one in details.get("tax_ids") or []), ""),
        receipt_url=(charge or {}).get("receipt_url") or "",
        action=action,
        action_url=url if action else "",
        action_code=voucher.code,
        expires_at=voucher.expires_at,
    )


def _voucher(intent: Data | None) -> "_Voucher":
    """Return how a payment by cash or bank is made, if it waits for that."""
    action = intent["next_action"] if intent else None
    details = (action[action["type"]] or {}) if action else {}
    return _Voucher(
        url=details.get("hosted_voucher_url") or details.get("hosted_instructions_url") or "",
        code=details.get("data") or details.get("number") or "",  # Pix's text, the number of a boleto or an OXXO
        expires_at=_find_moment(details.get("expires_at") or details.get("expires_after")),
    )


def _dispute_of(charge: Data | None, disputes: list[Data]) -> Literal["", "open", "won", "lost"]:
    """Return how the disputes about a charge stand, the worst of them."""
    if charge is None or not charge["disputed"]:
        return ""
    states = [_known(DISPUTES, one["status"]) for one in disputes if one["charge"] == charge["id"]]
    if "lost" in states:
        return "lost"
    return "won" if states and "open" not in states else "open"


def _find_end(subscription: Data) -> dt.datetime | None:
    if subscription["cancel_at"] is None and subscription["cancel_at_period_end"]:
        return moment(max(item["current_period_end"] for item in subscription["items"]["data"]))
    return _find_moment(subscription["cancel_at"])


def _find_moment(seconds: int | None) -> dt.datetime | None:
    return None if seconds is None else moment(seconds)


def _fingerprint(method: Any) -> str:
    card = method.get("card") if isinstance(method, dict) else None
    return (card or {}).get("fingerprint") or ""


def _charged_card(charges: list[Data]) -> str:
    cards = [_fingerprint(charge.get("payment_method_details")) for charge in charges if charge["paid"]]
    return cards[0] if cards else ""


def _known(meanings: dict[str, Any], word: str) -> Any:
    if word not in meanings:
        raise GatewayRefused(f"unknown status {word}")
    return meanings[word]
