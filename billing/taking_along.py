"""What billing has of a person, for an export of everything: what they bought, paid and used."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from django.db.models import Model, QuerySet
from django.dispatch import receiver
from django.utils.translation import gettext as _

from accounts.export_parts import ExportPart, json_of, json_of_all
from accounts.models import User
from accounts.signals import everything_taken_along
from billing.models import BillingAccount, Payment, Purchase, Subscription, UsagePeriod, UsageRecord
from core.sweeps import iterate_by_key

_ACCOUNT = ("id", "created_at", "grant_until", "grant_reason", "trial_at")
_SUBSCRIPTION = (
    *("id", "gateway", "reference", "kind", "status", "price_id", "anchor", "access_from", "paid_until"),
    *("access_until", "cancels_at", "trial_start", "trial_end", "is_frozen", "is_double", "created_at", "ended_at"),
)
_PAYMENT = (
    *("id", "subscription_id", "gateway", "reference", "status", "amount_minor", "currency", "period_start"),
    *("period_end", "is_proration", "paid_at", "refunded_minor", "credit_minor", "dispute", "tax_minor", "tax_country"),
    *("tax_id", "receipt_url", "expires_at", "refund_requested_at", "refund_reason", "refund_answered_at"),
    *("refund_answer", "fiscal_number", "fiscal_url", "created_at"),
)
_PURCHASE = ("id", "price_id", "kind", "payer_email", "starts_at", "trial_days", "created_at", "closed_at")
_PERIOD = ("id", "kind", "period_start", "period_end", "allowance_micros", "used_micros", "reserved_micros")
_RECORD = (
    *("recorded_at", "label", "input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens", "source"),
    *("cost_micros", "period_id", "reservation_id"),
)


@receiver(everything_taken_along)
def parts_of_billing(user: User, **_signal: Any) -> Iterator[ExportPart]:
    account = BillingAccount.objects.select_related("plan").filter(user=user).first()
    if account is None:
        return
    plan = account.plan.key if account.plan else None
    of_account = {name: getattr(account, name) for name in _ACCOUNT} | {"granted_plan": plan}
    payments = Payment.objects.filter(subscription__account=account)
    records = UsageRecord.objects.filter(period__account=account)
    yield _part("billing/account.json", _("Your account in our books."), lambda: json_of(of_account))
    yield _part(
        "billing/subscriptions.json",
        _("What you have bought: subscriptions, paid times and packs."),
        lambda: json_of_all(_rows(Subscription.objects.filter(account=account), _SUBSCRIPTION)),
    )
    yield _part(
        "billing/payments.json",
        _("Your invoices and payments. Amounts are in the smallest unit of their currency."),
        lambda: json_of_all(_rows(payments, _PAYMENT)),
    )
    yield _part(
        "billing/checkouts.json",
        _("The checkouts you have begun."),
        lambda: json_of_all(_rows(Purchase.objects.filter(account=account), _PURCHASE)),
    )
    yield _part(
        "billing/periods.json",
        _("The credits you had, for a month or in a pack, in millionths of a dollar."),
        lambda: json_of_all(_rows(UsagePeriod.objects.filter(account=account), _PERIOD)),
    )
    about = _("What each of your answers used: tokens, and what it cost in millionths of a dollar.")
    yield _part("usage.json", about, lambda: json_of_all(_rows(records, _RECORD)))
    yield _part("usage.csv", _("The same as a table."), lambda: _csv_of(_RECORD, _rows(records, _RECORD)))


def _part(name: str, about: str, pieces: Callable[[], Iterable[bytes]]) -> ExportPart:
    return ExportPart(name=name, about=about, pieces=pieces)


def _rows(found: QuerySet[Any], names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    row: Model
    for row in iterate_by_key(found):
        yield {name: getattr(row, name) for name in names}


def _csv_of(names: tuple[str, ...], rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Yield a table, a line at a time. No cell begins as a formula does: labels are names of models."""
    line = io.StringIO()
    writer = csv.DictWriter(line, names)
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "recorded_at": row["recorded_at"].isoformat()})
        yield line.getvalue().encode()
        line.seek(0)
        line.truncate()
    yield line.getvalue().encode()
