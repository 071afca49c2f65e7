"""What suppliers charge us in a day, and the limit an operator sets on it. Days are UTC.

Counted in the transactions of metering.py, and so exactly once, even if a process dies. `supplier` is any name the
caller gives to whoever sends us the bill.
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

_HOLD_IN_DAY = f"""
UPDATE {Spending._meta.db_table} SET reserved_micros = reserved_micros + %s
WHERE id = %s AND used_micros + reserved_micros < %s
"""  # noqa: S608  a name of ours


@dataclass(frozen=True, slots=True)
class SupplierHold:
    """The most that a piece of work may cost us, to be held of its supplier's day; and that day's limit."""

    supplier: str
    amount_micros: int
    daily_limit_micros: int


@dataclass(frozen=True, slots=True)
class SpendingToday:
    """What a supplier has charged us today; `reserved_micros` is what running work may still cost."""

    used_micros: int = 0
    reserved_micros: int = 0
    alarmed_percent: int = 0

    @property
    def committed_micros(self) -> int:
        return self.used_micros + self.reserved_micros


def spending_today(suppliers: tuple[str, ...]) -> dict[str, SpendingToday]:
    """Return today's spending for each of the suppliers."""
    days = rows.select(Spending, {"day": _today(), "supplier": suppliers}) if suppliers else []
    spending = {day.supplier: SpendingToday(day.used_micros, day.reserved_micros, day.alarmed_percent) for day in days}
    return {supplier: spending.get(supplier, SpendingToday()) for supplier in suppliers}


def record_alarm(supplier: str, percent: int) -> bool:
    """Record that the operator was told of this percentage today; return whether it is higher than the last one."""
    changed = rows.update(
        Spending,
        {"supplier": supplier, "day": _today(), "alarmed_percent__lt": percent},
        {"alarmed_percent": percent},
    )
    return changed == 1


def seconds_left_today() -> float:
    """Return the seconds until the next day (UTC)."""
    now = timezone.now().astimezone(dt.UTC)
    tomorrow = dt.datetime.combine(now.date() + dt.timedelta(days=1), dt.time(), dt.UTC)
    return (tomorrow - now).total_seconds()


def list_unbalanced_days() -> QuerySet[Spending]:
    """Return the days whose counters are not the sums of their rows: none, unless something is broken."""

    def of_day(queryset: QuerySet[Any], amount: str) -> Coalesce:
        grouped = queryset.filter(spending=OuterRef("pk")).order_by().values("spending")
        return Coalesce(Subquery(grouped.annotate(result=Sum(amount)).values("result")), 0)

    held = Reservation.objects.filter(state=Reservation.State.HELD)
    return Spending.objects.annotate(
        recorded=of_day(UsageRecord.objects.all(), "spent_micros"), reserved=of_day(held, "spending_micros")
    ).exclude(recorded=F("used_micros"), reserved=F("reserved_micros"))


# --- For metering, inside its transactions ----------------------------------------------------------------------------


def hold_fields(supplier_hold: SupplierHold | None) -> dict[str, Any]:
    """Return the fields of a reservation that record the hold."""
    if supplier_hold is None or not supplier_hold.amount_micros:
        return {"spending_id": None, "spending_micros": 0}
    return {"spending_id": id_of_today(supplier_hold.supplier), "spending_micros": supplier_hold.amount_micros}


def take_hold(supplier_hold: SupplierHold | None, fields: dict[str, Any]) -> None:
    """Add the hold to its day, unless the limit is reached: one conditional statement. Raises SpendLimitReached.

    The last hold may go beyond the limit: work that may cost more than is left would otherwise never be done.
    """
    if supplier_hold is None or fields["spending_id"] is None:
        return
    parameters = [supplier_hold.amount_micros, fields["spending_id"], supplier_hold.daily_limit_micros]
    if not rows.execute(Spending, _HOLD_IN_DAY, parameters):
        raise SpendLimitReached(retry_after=seconds_left_today())


def end_hold(
    reservation: Reservation, *, was_held: bool, spending_id: int | None = None, spent_micros: int = 0
) -> None:
    """Add what was spent to the day `spending_id`, and take the hold off its own. Rows are locked in the order of their
    ids, so that two calls cannot deadlock."""
    changes: dict[int, dict[str, int]] = {}
    if spending_id is not None:
        changes[spending_id] = {"used_micros": spent_micros}
    if was_held and reservation.spending_id is not None:
        changes.setdefault(reservation.spending_id, {})["reserved_micros"] = -reservation.spending_micros
    for pk, plus in sorted(changes.items()):
        rows.update(Spending, {"pk": pk}, {}, plus=plus)


def id_of_today(supplier: str) -> int:
    """Return the id of the supplier's row for today, created on first use."""
    day = _today()
    known_id = _ids.get().get((supplier, day))
    return known_id or Spending.objects.get_or_create(supplier=supplier, day=day)[0].pk


def _load_ids() -> dict[tuple[str, dt.date], int]:
    """Return the ids of the last days' rows: at midnight, the clocks of two machines may be on different days."""
    recent = Spending.objects.filter(day__gte=_today() - dt.timedelta(days=2))
    return {(supplier, day): pk for supplier, day, pk in recent.values_list("supplier", "day", "pk")}


_ids = CachedTable("spendings", _load_ids, Spending)


def _today() -> dt.date:
    return timezone.now().astimezone(dt.UTC).date()
