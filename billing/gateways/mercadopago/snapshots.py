"""What Mercado Pago has, read as a `Snapshot`. Nothing here asks anybody anything.

An approved payment is the only proof: a subscription that is `authorized` is not paid, nor is an instalment that is
`processed`. Mercado Pago keeps no paid-through, so what a payment pays for is reckoned here.
"""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from django.utils.translation import gettext_noop

from billing.gateways.base import PaymentSnapshot, PaymentStatus, Snapshot, SubscriptionStatus
from billing.gateways.mercadopago.agreements import GATEWAY, NEVER, Agreement, read_agreement, read_amount
from billing.months import add_months
from core.alerts import alert

Json = Mapping[str, Any]

STATUSES: Mapping[str, PaymentStatus] = {
    "approved": "paid",
    "in_mediation": "paid",
    "charged_back": "paid",
    "refunded": "paid",
    "pending": "pending",
    "in_process": "pending",
    "authorized": "pending",
    "rejected": "failed",
    "cancelled": "void",
}
DISPUTES: Mapping[str, Literal["won", "lost"]] = {"reimbursed": "won", "settled": "lost"}
"""Details of a payment that is `charged_back`; otherwise it is being argued about."""
DAYS_OF_A_MONTH = 30.4


@dataclass(frozen=True, slots=True)
class Seller:
    """Whose payments count: the account our token belongs to, and the only currency it takes."""

    id: str
    country: str
    currency: str


def is_purchase(payment: Json) -> bool:
    """Return whether this is somebody buying something: a card is tried with a small charge, which is given back."""
    return payment.get("operation_type") != "card_validation"


def preapproval_of(payment: Json) -> str:
    """Return the id of the subscription that a payment belongs to; empty for one that stands alone. Either place may
    be empty.
    """
    interaction = payment.get("point_of_interaction") or {}
    data = interaction.get("transaction_data") or {}
    return str(data.get("subscription_id") or (payment.get("metadata") or {}).get("preapproval_id") or "")


def read_subscription(
    preapproval: Json, agreement: Agreement, payments: Iterable[Json], seller: Seller, observed_at: dt.datetime
) -> Snapshot:
    """Return the subscription with all its payments; one that is not what was agreed is left out, with an alert."""
    known = _in_order(payments)
    snapshots = [(payment, _read_payment(payment, agreement, seller)) for payment in known]
    read = [(payment, snapshot) for payment, snapshot in snapshots if snapshot is not None]
    anchor = _anchor_of(preapproval, agreement, [snapshot for _payment, snapshot in read])
    dated = _date_payments(read, agreement, anchor)
    return Snapshot(
        gateway=GATEWAY,
        reference=str(preapproval["id"]),
        kind="subscription",
        account_id=agreement.account_id,
        status=_status_of(preapproval, agreement, dated, observed_at),
        price_reference=agreement.price_reference,
        anchor=anchor,
        observed_at=observed_at,
        payments=dated,
        trial_end=agreement.since if agreement.terms == "trial" else None,
        card_fingerprint=_fingerprint_of(preapproval.get("payer_id")),
    )


def read_purchase(
    reference: str, agreement: Agreement, payments: Iterable[Json], seller: Seller, observed_at: dt.datetime
) -> Snapshot:
    """Return a period or a pack that was bought once, with every attempt at paying it."""
    known = _in_order(payments)
    read = [snapshot for snapshot in (_read_payment(payment, agreement, seller) for payment in known) if snapshot]
    first_paid = min((found.paid_at for found in read if _counts(found) and found.paid_at), default=None)
    anchor = max(first_paid or observed_at, agreement.since)
    ends_at = None
    if agreement.kind == "prepaid":
        read, ends_at = _date_prepaid(read, agreement, anchor)
    return Snapshot(
        gateway=GATEWAY,
        reference=reference,
        kind=agreement.kind,
        account_id=agreement.account_id,
        status=_status_of_purchase(read, ends_at, observed_at),
        price_reference=agreement.price_reference,
        anchor=anchor,
        observed_at=observed_at,
        payments=tuple(read),
        cancels_at=ends_at,
        card_fingerprint=_fingerprint_of(next((_payer_of(payment).get("id") for payment in known), None)),
    )


def read_time(text: object) -> dt.datetime | None:
    """Return a time of Mercado Pago's, such as `2026-11-29T17:40:00.000-04:00`; None for nothing."""
    return dt.datetime.fromisoformat(str(text)).astimezone(dt.UTC) if text else None


def _in_order(payments: Iterable[Json]) -> list[Json]:
    """Return the payments that are purchases, the oldest first."""
    return sorted(filter(is_purchase, payments), key=lambda payment: read_time(payment["date_created"]) or NEVER)


def _read_payment(payment: Json, agreement: Agreement, seller: Seller) -> PaymentSnapshot | None:
    """Return one payment, by the terms it was made under: those of its own reference. None for what was not agreed."""
    own = read_agreement(payment.get("external_reference")) or agreement
    status = STATUSES.get(str(payment.get("status")))
    objection = _objection_to(payment, own, agreement, seller)
    if objection or status is None:
        sentence = gettext_noop("A payment at Mercado Pago is not what was agreed: it counts for nothing.")
        alert(f"{GATEWAY}:payment:{payment['id']}", sentence, payment=payment["id"], reason=objection or "its status")
        return None
    is_paid = status == "paid"
    transaction = (payment.get("point_of_interaction") or {}).get("transaction_data") or {}
    details = payment.get("transaction_details") or {}
    action, action_url = _action_of(payment, status, transaction, details)
    return PaymentSnapshot(
        reference=str(payment["id"]),
        status=status,
        price_reference=own.price_reference,
        amount_minor=own.amount_minor,
        currency=seller.currency,
        paid_at=(read_time(payment.get("date_approved")) or read_time(payment["date_created"])) if is_paid else None,
        refunded_minor=_refunded_of(payment, own, seller) if is_paid else 0,
        dispute=_dispute_of(payment),
        tax_minor=read_amount(payment.get("taxes_amount") or 0, seller.currency),
        tax_country=seller.country,
        tax_id=str((_payer_of(payment).get("identification") or {}).get("number") or ""),
        action_url=action_url,
        action=action,
        action_code=_voucher_code(payment, transaction, details) if action == "voucher" else "",
        expires_at=read_time(payment.get("date_of_expiration")) if status == "pending" else None,
    )


def _objection_to(payment: Json, own: Agreement, agreement: Agreement, seller: Seller) -> str:
    """Return why a payment cannot be one for this purchase; empty if it can."""
    collector = payment.get("collector_id") or (payment.get("collector") or {}).get("id")
    if str(collector) != seller.id:
        return "it is somebody else's"
    if (own.account_id, own.mark, own.kind) != (agreement.account_id, agreement.mark, agreement.kind):
        return "it is for another purchase"
    currency = str(payment.get("currency_id"))
    if currency != seller.currency:
        return "its currency is another"
    try:
        amount_minor = read_amount(payment.get("transaction_amount"), currency)
    except ValueError:
        return "it has no amount"
    return "" if amount_minor == own.amount_minor else "its amount is another"


def _refunded_of(payment: Json, own: Agreement, seller: Seller) -> int:
    refunded = read_amount(payment.get("transaction_amount_refunded") or 0, seller.currency)
    return own.amount_minor if payment["status"] == "refunded" else min(refunded, own.amount_minor)


def _dispute_of(payment: Json) -> Literal["", "open", "won", "lost"]:
    if payment["status"] == "charged_back":
        return DISPUTES.get(str(payment.get("status_detail")), "open")
    return "open" if payment["status"] == "in_mediation" else ""


def _action_of(
    payment: Json, status: PaymentStatus, transaction: Json, details: Json
) -> tuple[Literal["", "confirm", "voucher"], str]:
    """Return what the payer must do, and where: confirm at their bank, or pay a voucher."""
    if status != "pending":
        return "", ""
    if payment.get("status_detail") == "pending_challenge":
        return "confirm", str((payment.get("three_ds_info") or {}).get("external_resource_url") or "")
    url = details.get("external_resource_url") or transaction.get("ticket_url")
    return ("voucher", str(url)) if url or transaction.get("qr_code") else ("", "")


def _voucher_code(payment: Json, transaction: Json, details: Json) -> str:
    """Return what the payer types or copies: Pix's text, a bar code's digits, the number of a cash payment."""
    barcode = details.get("barcode") or payment.get("barcode") or {}
    code = transaction.get("qr_code") or barcode.get("content") or details.get("digitable_line")
    return str(code or details.get("verification_code") or details.get("payment_method_reference_id") or "")


def _payer_of(payment: Json) -> Json:
    payer: Json = payment.get("payer") or {}
    return payer


def _fingerprint_of(payer_id: object) -> str:
    """Return what tells payers apart: Mercado Pago shows no fingerprints of cards, and a payer may have many."""
    return f"{GATEWAY}:{payer_id}" if payer_id and str(payer_id) != "0" else ""


def _anchor_of(preapproval: Json, agreement: Agreement, payments: Sequence[PaymentSnapshot]) -> dt.datetime:
    """Return when the months begin to count: with the first payment, unless another moment was agreed."""
    if agreement.terms in ("trial", "anchored"):
        return agreement.since
    first_paid = min((payment.paid_at for payment in payments if payment.paid_at), default=None)
    if first_paid:
        return first_paid
    created = read_time(preapproval["date_created"])
    return max(created or NEVER, agreement.since)


def _date_payments(
    payments: Sequence[tuple[Json, PaymentSnapshot]], agreement: Agreement, anchor: dt.datetime
) -> tuple[PaymentSnapshot, ...]:
    """Return the payments with the months they pay for: those in which they were due.

    A month nobody paid is skipped, since Mercado Pago goes on with the next; and no two payments pay for the same.
    """
    months = agreement.months  # a subscription never changes how many
    dated, last = [], -1
    for payment, snapshot in payments:
        due = _due_date(payment) or snapshot.paid_at or read_time(payment["date_created"]) or anchor
        instalment = max(round((due - anchor).total_seconds() / 86_400 / DAYS_OF_A_MONTH / months), last + 1)
        start, end = add_months(anchor, instalment * months), add_months(anchor, (instalment + 1) * months)
        dated.append(replace(snapshot, period_start=start, period_end=end))
        if snapshot.status == "paid":
            last = instalment
    return tuple(dated)


def _date_prepaid(
    payments: Sequence[PaymentSnapshot], agreement: Agreement, anchor: dt.datetime
) -> tuple[list[PaymentSnapshot], dt.datetime | None]:
    """Return the payments with what they pay for, and when the last of it ends. Whoever pays a second time, with a
    card beside a voucher, gets the time after it.
    """
    dated, count = [], 0
    for payment in payments:
        start = add_months(anchor, count * agreement.months)
        end = add_months(anchor, (count + 1) * agreement.months)
        is_paid = payment.status == "paid"
        dated.append(replace(payment, period_start=start, period_end=end) if is_paid else payment)
        count += _counts(payment)
    return dated, add_months(anchor, count * agreement.months) if count else None


def _counts(payment: PaymentSnapshot) -> bool:
    """Return whether it was paid, and not given back or taken back."""
    is_given_back = payment.refunded_minor >= payment.amount_minor
    return payment.status == "paid" and not is_given_back and payment.dispute != "lost"


def _due_date(payment: Json) -> dt.datetime | None:
    """Return the day the payment was due, in the middle of which it is put: it is a date without a time."""
    transaction = (payment.get("point_of_interaction") or {}).get("transaction_data") or {}
    day = transaction.get("billing_date")
    return dt.datetime.fromisoformat(f"{day}T12:00:00+00:00") if day else None


def _status_of(
    preapproval: Json, agreement: Agreement, payments: Sequence[PaymentSnapshot], observed_at: dt.datetime
) -> SubscriptionStatus:
    """Return how a subscription stands. `authorized` alone says nothing: what counts is what was paid. One that takes
    the place of another when that has ended waits for its first payment, and is alive while it does.
    """
    found = preapproval.get("status")
    if found == "cancelled":
        return "ended"
    if found == "paused":
        return "paused"
    if found != "authorized":
        return "pending"
    if agreement.terms == "trial" and observed_at < agreement.since:
        return "trialing"
    begins_later = agreement.terms == "trial" or (agreement.terms == "plain" and agreement.since != NEVER)
    if not begins_later and not any(payment.status == "paid" for payment in payments):
        return "pending"
    return "past_due" if payments and payments[-1].status == "failed" else "active"


def _status_of_purchase(
    payments: Sequence[PaymentSnapshot], ends_at: dt.datetime | None, observed_at: dt.datetime
) -> SubscriptionStatus:
    if not any(payment.status == "paid" for payment in payments):
        return "pending"
    if not any(map(_counts, payments)):
        return "ended"
    return "ended" if ends_at and ends_at <= observed_at else "active"
