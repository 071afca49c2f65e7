"""What suppliers take of us in a day, and the limit an operator sets on it. Days are UTC.

Counted in the transactions of metering.py, so exactly once, whatever dies in between. `supplier` is whatever name the
caller gives to who sends the bill.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Any

from django.db.models import F, OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone

from billing.errors import SpendLimitReached
from billing.models import Reservation, Spending, UsageRecord
from core import rows
from core.caching import CachedTable

_TAKE_ROOM = f"""
UPDATE {Spending._meta.db_table} SET reserved_micros = reserved_micros + %s
WHERE id = %s AND used_micros + reserved_micros < %s
"""  # noqa: S608  a name of ours


@dataclass(frozen=True, slots=True)
class SupplierHold:
    """What a piece of work may cost us at most, and what its supplier may take in a day."""

    supplier: str
    most_micros: int
    limit_micros: int


@dataclass(frozen=True, slots=True)
class Spent:
    """Where a supplier stands today; `reserved_micros` may still be taken by what is running."""

    used_micros: int = 0
    reserved_micros: int = 0
    alarmed_percent: int = 0

    @property
    def committed_micros(self) -> int:
        return self.used_micros + self.reserved_micros


def spent_today(suppliers: tuple[str, ...]) -> dict[str, Spent]:
    """Return where each of the suppliers stands today."""
    found = rows.select(Spending, {"day": _today(), "supplier": suppliers}) if suppliers else []
    known = {row.supplier: Spent(row.used_micros, row.reserved_micros, row.alarmed_percent) for row in found}
    return {supplier: known.get(supplier, Spent()) for supplier in suppliers}


def mark_alarmed(supplier: str, percent: int) -> bool:
    """Remember that the operator was told today; return whether less had been told before."""
    changed = rows.update(
        Spending,
        {"supplier": supplier, "day": _today(), "alarmed_percent__lt": percent},
        {"alarmed_percent": percent},
    )
    return changed == 1


def seconds_left() -> float:
    """Return how long today lasts."""
    now = timezone.now().astimezone(dt.UTC)
    tomorrow = dt.datetime.combine(now.date() + dt.timedelta(days=1), dt.time(), dt.UTC)
    return (tomorrow - now).total_seconds()


def list_unbalanced_days() -> QuerySet[Spending]:
    """Return the days whose counters are not the sums of their rows. Empty, unless something is broken."""

    def of_day(found: QuerySet[Any], amount: str) -> Coalesce:
        grouped = found.filter(spending=OuterRef("pk")).order_by().values("spending")
        return Coalesce(Subquery(grouped.annotate(result=Sum(amount)).values("result")), 0)

    held = Reservation.objects.filter(state=Reservation.State.HELD)
    return Spending.objects.annotate(
        recorded=of_day(UsageRecord.objects.all(), "spent_micros"), reserved=of_day(held, "spending_micros")
    ).exclude(recorded=F("used_micros"), reserved=F("reserved_micros"))


# --- For metering, inside its transactions ----------------------------------------------------------------------------


def hold_fields(claim: SupplierHold | None) -> dict[str, Any]:
    """Return what a reservation keeps of a claim."""
    if claim is None or not claim.most_micros:
        return {"spending_id": None, "spending_micros": 0}
    return {"spending_id": today_of(claim.supplier), "spending_micros": claim.most_micros}


def take_hold(claim: SupplierHold | None, held: dict[str, Any]) -> None:
    """Count a claim in, unless the limit is reached: one conditional statement. Raises SpendLimitReached.

    The last one admitted may go beyond the limit: one that is dearer than what is left would else never be answered.
    """
    if claim is None or held["spending_id"] is None:
        return
    if not rows.execute(Spending, _TAKE_ROOM, [claim.most_micros, held["spending_id"], claim.limit_micros]):
        raise SpendLimitReached(retry_after=seconds_left())


def end_hold(reservation: Reservation, *, was_held: bool, spent_from: int | None = None, spent_micros: int = 0) -> None:
    """Count what was spent, and what is held no more. The rows in one order, so that no two wait for each other."""
    changes: dict[int, dict[str, int]] = {}
    if spent_from is not None:
        changes[spent_from] = {"used_micros": spent_micros}
    if was_held and reservation.spending_id is not None:
        changes.setdefault(reservation.spending_id, {})["reserved_micros"] = -reservation.spending_micros
    for pk, plus in sorted(changes.items()):
        rows.update(Spending, {"pk": pk}, {}, plus=plus)


def today_of(supplier: str) -> int:
    """Return the id of the supplier's row of today, made on first use."""
    day = _today()
    known = _days.get().get((supplier, day))
    return known or Spending.objects.get_or_create(supplier=supplier, day=day)[0].pk


def _load() -> dict[tuple[str, dt.date], int]:
    """Return the ids of the latest days' rows: one that has just ended, or begins elsewhere, is among them."""
    recent = Spending.objects.filter(day__gte=_today() - dt.timedelta(days=2))
    return {(supplier, day): pk for supplier, day, pk in recent.values_list("supplier", "day", "pk")}


_days = CachedTable("spendings", _load, Spending)


def _today() -> dt.date:
    return timezone.now().astimezone(dt.UTC).date()
