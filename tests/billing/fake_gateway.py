"""A gateway in memory: what it has is a dictionary of snapshots, which tests change as a gateway would."""

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from django.db import connection
from django.utils import timezone

from billing.entitlements import account_of
from billing.gateways.base import (
    ChangePreview,
    Checkout,
    GatewayRefused,
    Kind,
    Notification,
    Order,
    PaymentMode,
    PaymentSnapshot,
    Reference,
    Snapshot,
)
from billing.models import Price
from billing.months import add_months


@dataclass
class State:
    """`error` is what every call raises; `calls` are those that change something, with their keys."""

    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    error: Exception | None = None
    scheduled: dict[str, str] = field(default_factory=dict)
    during_fetch: Any = None


state = State()


class FakeGateway:
    name = "fake"
    title = "Fake Pay"
    kinds: tuple[Kind, ...] = ("subscription", "prepaid", "pack")
    wants_payer_email = True
    has_prorations = True
    changes_interval = True
    payment_mode: PaymentMode = "simulated"

    def start_checkout(self, order: Order) -> Checkout:
        self._call("start_checkout", order.key)
        state.orders.append(order)
        return Checkout(Reference(self.name, "checkout", order.key), f"https://pay.test/{order.key}")

    def expire_checkout(self, reference: Reference) -> None:
        self._call("expire_checkout", reference.id)

    def fetch(self, reference: Reference) -> Snapshot | None:
        self._ask()
        observed_at, found = timezone.now(), state.snapshots.get(reference.id)
        if state.during_fetch:
            state.during_fetch()
        return replace(found, observed_at=observed_at) if found else None

    def list_recent(self, since: dt.datetime) -> Iterator[Snapshot]:
        self._ask()
        for snapshot in list(state.snapshots.values()):
            yield replace(snapshot, observed_at=timezone.now())

    def preview_change(self, reference: str, price_reference: str) -> ChangePreview:
        self._ask()
        price = Price.objects.get(gateway=self.name, reference=price_reference)
        at = paid_until(reference)
        return ChangePreview(700, price.currency, timezone.now(), price.amount_minor, at)

    def change_price(self, reference: str, price_reference: str, preview: ChangePreview, *, key: str) -> None:
        self._call("change_price", reference, price_reference, key)
        change_now(reference, price_reference, at=preview.proration_date)

    def change_price_at_period_end(self, reference: str, price_reference: str, *, key: str) -> None:
        self._call("change_price_at_period_end", reference, price_reference, key)
        state.scheduled[reference] = price_reference

    def cancel_at_period_end(self, reference: str, *, key: str) -> None:
        self._call("cancel_at_period_end", reference, key)
        change(reference, cancels_at=paid_until(reference))

    def cancel_now(self, reference: str, *, key: str) -> None:
        self._call("cancel_now", reference, key)
        payments = tuple(
            replace(payment, status="void") if payment.status in ("pending", "failed") else payment
            for payment in state.snapshots[reference].payments
        )
        change(reference, status="ended", payments=payments)

    def resume(self, reference: str, *, key: str) -> None:
        self._call("resume", reference, key)
        change(reference, cancels_at=None, next_price_reference="")

    def refund(self, payment_reference: str, *, amount_minor: int, key: str) -> None:
        self._call("refund", payment_reference, amount_minor, key)
        payment = payment_of(payment_reference)
        if payment.refunded_minor + amount_minor > payment.amount_minor:
            raise GatewayRefused("more than was paid")
        change_payment(payment_reference, refunded_minor=payment.refunded_minor + amount_minor)

    def payment_method_url(self, account_id: int, reference: str, return_url: str) -> str:
        return f"https://pay.test/method/{reference}"

    def forget_customer(self, account_id: int, *, key: str) -> None:
        self._call("forget_customer", account_id, key)

    def read_notification(self, body: bytes, headers: Mapping[str, str], query: Mapping[str, str]) -> Notification:
        raise NotImplementedError

    def _call(self, *what: object) -> None:
        """Note a call that changes something."""
        self._ask()
        state.calls.append(what)

    def _ask(self) -> None:
        assert not connection.in_atomic_block, "A gateway is asked within a transaction."
        if state.error:
            raise state.error


def bought(user: Any, price: Price, reference: str = "s1", *, at: dt.datetime, **fields: Any) -> Snapshot:
    """Somebody has bought something: return the snapshot, with its first payment unless told otherwise."""
    kind = fields.pop("kind", "subscription" if price.plan_id else "pack")
    payments = fields.pop("payments", None)
    if payments is None:
        payments = (payment(price, f"{reference}-p1", at, add_months(at, price.months)),)
    snapshot = Snapshot(
        gateway=price.gateway,
        reference=reference,
        kind=kind,
        account_id=account_of(user.pk).pk,
        status=fields.pop("status", "active"),
        price_reference=price.reference,
        anchor=fields.pop("anchor", at),
        observed_at=timezone.now(),
        payments=payments,
        **fields,
    )
    state.snapshots[reference] = snapshot
    return snapshot


def payment(price: Price, reference: str, start: dt.datetime, end: dt.datetime, **fields: Any) -> PaymentSnapshot:
    said = {"status": "paid", "paid_at": start, "amount_minor": price.amount_minor, "currency": price.currency} | fields
    is_pack = price.plan_id is None
    return PaymentSnapshot(
        reference=reference,
        price_reference=price.reference,
        period_start=None if is_pack else start,
        period_end=None if is_pack else end,
        **said,
    )


def renew(reference: str, *, status: Any = "paid", paid_at: dt.datetime | None = None) -> str:
    """The gateway charges for the next time; return the payment's reference."""
    snapshot = state.snapshots[reference]
    price_reference = state.scheduled.pop(reference, snapshot.price_reference)
    price = Price.objects.get(gateway=snapshot.gateway, reference=price_reference)
    regular = [one for one in snapshot.payments if not one.is_proration]
    months = sum(Price.objects.get(gateway=snapshot.gateway, reference=one.price_reference).months for one in regular)
    start, end = add_months(snapshot.anchor, months), add_months(snapshot.anchor, months + price.months)
    name = f"{reference}-p{len(snapshot.payments) + 1}"
    told = payment(price, name, start, end, status=status, paid_at=(paid_at or start) if status == "paid" else None)
    change(
        reference,
        payments=(*snapshot.payments, told),
        price_reference=price_reference,
        status="active" if status == "paid" else "past_due",
    )
    return name


def change_now(reference: str, price_reference: str, *, at: dt.datetime, status: Any = "paid") -> None:
    """The price changes at once: the rest of the time is billed."""
    snapshot = state.snapshots[reference]
    price = Price.objects.get(gateway=snapshot.gateway, reference=price_reference)
    name = f"{reference}-p{len(snapshot.payments) + 1}"
    told = payment(price, name, at, paid_until(reference), status=status, is_proration=True, amount_minor=700)
    change(reference, payments=(*snapshot.payments, told), price_reference=price_reference)


def paid_until(reference: str) -> dt.datetime:
    paid = [one for one in state.snapshots[reference].payments if one.status == "paid" and one.period_end]
    return max(one.period_end for one in paid if one.period_end)


def change(reference: str, **fields: Any) -> Snapshot:
    state.snapshots[reference] = replace(state.snapshots[reference], **fields)
    return replace(state.snapshots[reference], observed_at=timezone.now())


def change_payment(payment_reference: str, **fields: Any) -> Snapshot:
    reference = payment_reference.rpartition("-")[0]
    payments = tuple(
        replace(one, **fields) if one.reference == payment_reference else one
        for one in state.snapshots[reference].payments
    )
    return change(reference, payments=payments)


def payment_of(payment_reference: str) -> PaymentSnapshot:
    payments = state.snapshots[payment_reference.rpartition("-")[0]].payments
    return next(one for one in payments if one.reference == payment_reference)
