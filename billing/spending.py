"""What suppliers charge us in a day, and the limit an operator sets on it. Days are UTC.

Counted in the transactions of metering.py, and so exactly once, even if a process dies. `supplier` is any name the
caller gives to whoever sends us the bill.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F, OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone

from billing.errors import SpendLimitReached
from billing.models import Reservation, Spending, SpendingEntry, UsageRecord
from core import rows
from core.caching import CachedTable
from core.sweeps import iterate_pages

_HOLD_IN_DAY = f"""
UPDATE {Spending._meta.db_table} SET reserved_micros = reserved_micros + %s
WHERE id = %s AND used_micros + reserved_micros < %s
"""  # noqa: S608  a name of ours


@dataclass(frozen=True, slots=True)
class SupplierHold:
    """The most that a piece of work may cost us, to be held of its supplier's day; and that day's limit, if any."""

    supplier: str
    amount_micros: int
    daily_limit_micros: int | None


@dataclass(frozen=True, slots=True)
class UnpaidRequest:
    """What a supplier takes for a request that gave no answer. Nobody pays us for it; `label` is what was asked."""

    supplier: str
    label: str
    spent_micros: int


@dataclass(frozen=True, slots=True)
class OwnWork:
    """Work that no reservation pays, and what it holds of its supplier's day."""

    entry_id: int
    spending_id: int
    held_micros: int


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


def record_alert(supplier: str, percent: int) -> bool:
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


# --- The operator's own work, which no reservation pays ---------------------------------------------------------------


def begin_own_work(hold: SupplierHold, label: str) -> OwnWork:
    """Hold the most that a piece of our own work can cost of its supplier's day. Raises SpendLimitReached."""
    entry = SpendingEntry(spending_id=id_of_today(hold.supplier), held_micros=hold.amount_micros, label=label)
    with transaction.atomic():
        entry.save(force_insert=True)
        _take_hold(entry.spending_id, hold)
    return _work_of(entry)


def end_own_work(work: OwnWork, *, spent_micros: int) -> bool:
    """Record, once, what the work cost, in the day it was held of; return whether this call did it."""
    with transaction.atomic():
        held = SpendingEntry.objects.filter(pk=work.entry_id, held_micros__gt=0)
        is_ended = held.update(held_micros=0, spent_micros=spent_micros) == 1
        if is_ended:
            plus = {"reserved_micros": -work.held_micros, "used_micros": spent_micros}
            rows.update(Spending, {"pk": work.spending_id}, {}, plus=plus)
    return is_ended


def end_forgotten_work(*, older_than: dt.timedelta) -> None:
    """End our own work that nobody ended: its process died, and it is taken to have cost the most it could."""
    forgotten = SpendingEntry.objects.filter(
        reservation=None, held_micros__gt=0, created_at__lt=timezone.now() - older_than
    )
    for page in iterate_pages(forgotten):
        for entry in page:
            end_own_work(_work_of(entry), spent_micros=entry.held_micros)


def list_unbalanced_days() -> QuerySet[Spending]:
    """Return the days whose counters are not the sums of their rows: none, unless something is broken."""

    def of_day(queryset: QuerySet[Any], amount: str) -> Coalesce:
        grouped = queryset.filter(spending=OuterRef("pk")).order_by().values("spending")
        return Coalesce(Subquery(grouped.annotate(result=Sum(amount)).values("result")), 0)

    held = Reservation.objects.filter(state=Reservation.State.HELD)
    entries = SpendingEntry.objects.all()
    return Spending.objects.annotate(
        recorded=of_day(UsageRecord.objects.all(), "spent_micros") + of_day(entries, "spent_micros"),
        reserved=of_day(held, "spending_micros") + of_day(entries, "held_micros"),
    ).exclude(recorded=F("used_micros"), reserved=F("reserved_micros"))


# --- For metering, inside its transactions ----------------------------------------------------------------------------

DayHolds = tuple[tuple[int, SupplierHold], ...]
"""Holds with the ids of their days, in the order of those: whoever locks several days does it in this order, so that
two of them cannot deadlock."""


def days_of_holds(supplier_holds: Sequence[SupplierHold]) -> DayHolds:
    """Return the holds with their days. What costs nothing holds nothing."""
    days = [(id_of_today(hold.supplier), hold) for hold in supplier_holds if hold.amount_micros]
    return tuple(sorted(days, key=lambda one: one[0]))


def days_of_unpaid(unpaid: Sequence[UnpaidRequest]) -> list[tuple[int, UnpaidRequest]]:
    """Return the requests with the ids of today's rows of their suppliers."""
    return [(id_of_today(request.supplier), request) for request in unpaid]


def has_unpaid(key: UUID) -> bool:
    """Return whether what suppliers take for requests of a reservation is recorded."""
    return SpendingEntry.objects.filter(reservation_id=key, spent_micros__gt=0).exists()


def hold_fields(day_holds: DayHolds) -> dict[str, Any]:
    """Return the fields of a reservation that record the first hold."""
    for spending_id, hold in day_holds:
        return {"spending_id": spending_id, "spending_micros": hold.amount_micros}
    return {"spending_id": None, "spending_micros": 0}


def take_holds(key: UUID, day_holds: DayHolds) -> None:
    """Add the holds to their days, unless the limit of one is reached, and record those beyond the first. Raises
    SpendLimitReached."""
    for spending_id, hold in day_holds:
        _take_hold(spending_id, hold)
    for spending_id, hold in day_holds[1:]:
        rows.insert(SpendingEntry(spending_id=spending_id, reservation_id=key, held_micros=hold.amount_micros))


def end_holds(
    reservation: Reservation,
    *,
    was_held: bool,
    spending_id: int | None = None,
    spent_micros: int = 0,
    unpaid: Sequence[tuple[int, UnpaidRequest]] = (),
) -> None:
    """Add what was spent to the day `spending_id` and to those of the unpaid requests, and take the holds off theirs.
    Days are locked in the order of their ids. Unpaid requests are added once, though work that failed may be reserved
    for and released again."""
    if unpaid and has_unpaid(reservation.pk):
        unpaid = ()
    used = {spending_id: spent_micros} if spending_id is not None else {}
    for day_id, request in unpaid:
        used[day_id] = used.get(day_id, 0) + request.spent_micros
        fields = {"label": request.label, "spent_micros": request.spent_micros}
        rows.insert(SpendingEntry(spending_id=day_id, reservation_id=reservation.pk, **fields))
    freed = _drop_holds(reservation) if was_held and reservation.spending_id is not None else {}
    for day_id in sorted(used.keys() | freed.keys()):
        plus = {"used_micros": used.get(day_id, 0), "reserved_micros": -freed.get(day_id, 0)}
        rows.update(Spending, {"pk": day_id}, {}, plus=plus)


def id_of_today(supplier: str) -> int:
    """Return the id of the supplier's row for today, created on first use."""
    day = _today()
    known_id = _ids.get().get((supplier, day))
    return known_id or Spending.objects.get_or_create(supplier=supplier, day=day)[0].pk


def _take_hold(spending_id: int, hold: SupplierHold) -> None:
    """Add a hold to its day, unless the limit is reached: one conditional statement. Raises SpendLimitReached.

    The last hold may go beyond the limit: work that may cost more than is left would otherwise never be done.
    """
    if hold.daily_limit_micros is None:
        rows.update(Spending, {"pk": spending_id}, {}, plus={"reserved_micros": hold.amount_micros})
    elif not rows.execute(Spending, _HOLD_IN_DAY, [hold.amount_micros, spending_id, hold.daily_limit_micros]):
        raise SpendLimitReached(retry_after=seconds_left_today())


def _work_of(entry: SpendingEntry) -> OwnWork:
    return OwnWork(entry.pk, entry.spending_id, entry.held_micros)


def _drop_holds(reservation: Reservation) -> dict[int, int]:
    """Drop what the reservation holds; return how much that was of which days."""
    assert reservation.spending_id is not None
    further = SpendingEntry.objects.filter(reservation_id=reservation.pk, held_micros__gt=0)
    freed = dict(further.values_list("spending_id", "held_micros"))
    if freed:
        further.delete()
    return freed | {reservation.spending_id: reservation.spending_micros}


def _load_ids() -> dict[tuple[str, dt.date], int]:
    """Return the ids of the last days' rows: at midnight, the clocks of two machines may be on different days."""
    recent = Spending.objects.filter(day__gte=_today() - dt.timedelta(days=2))
    return {(supplier, day): pk for supplier, day, pk in recent.values_list("supplier", "day", "pk")}


_ids = CachedTable("spendings", _load_ids, Spending)


def _today() -> dt.date:
    return timezone.now().astimezone(dt.UTC).date()
