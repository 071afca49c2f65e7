"""Reserve, settle, release: the only writer of usage.

The invariants, proved in tests/billing/test_metering.py on SQLite and PostgreSQL:
a period's `reserved_micros` is the sum of its held reservations, `used_micros` the sum of its records, and a
reservation is admitted only if used + reserved + amount <= allowance. Each key is settled or released once. So is what a
supplier's day holds and has used (billing/spending.py), in the same transactions.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Aggregate, Count, F, OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone

from billing import spending
from billing.entitlements import Budget, period_of, plan_of
from billing.errors import AllowanceUsedUp, TooManyAtOnce
from billing.models import Reservation, UsagePeriod, UsageRecord
from billing.spending import SupplierHold
from core import rows
from core.errors import Conflict

_TAKE_ROOM = f"""
UPDATE {UsagePeriod._meta.db_table} SET reserved_micros = reserved_micros + %s, holds = holds + 1
WHERE id = %s AND (allowance_micros IS NULL OR allowance_micros >= used_micros + reserved_micros + %s)
"""  # noqa: S608  a name of ours


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one piece of work. `input` includes what was read from and written to a cache."""

    input: int
    output: int
    cache_read: int = 0
    cache_write: int = 0
    source: str = UsageRecord.Source.PROVIDER


def reserve(
    user_id: int, key: UUID, *, amount_micros: int, budget: Budget | None = None, claim: SupplierHold | None = None
) -> bool:
    """Hold `amount_micros` of the user's current period under `key`, and what `claim` says of a supplier's day; return
    whether this call did it.

    `budget` is the user's, where the caller has read it already; after a refusal it says what is left. The same key
    again changes nothing. Raises AllowanceUsedUp, TooManyAtOnce or SpendLimitReached with nothing written, and Conflict
    when somebody else has the key.
    """
    period = budget.period if budget else period_of(user_id)
    held = spending.hold_fields(claim)
    try:
        with transaction.atomic():
            rows.insert(Reservation(pk=key, period=period, amount_micros=amount_micros, **held))
            _take_room(period, amount_micros)
            spending.take_hold(claim, held)
    except IntegrityError:
        known = Reservation.objects.select_related("period").filter(pk=key).first()
        if known is None:
            raise
        if known.period.account_id != period.account_id:
            raise Conflict from None
        return _hold_again(period, key, amount_micros, claim)
    return True


def settle(key: UUID, *, cost_micros: int, usage: Usage, label: str, supplier: str = "", spent_micros: int = 0) -> bool:
    """Record what the work under `key` cost, once, and what `supplier` takes for it; return whether this call did it.

    What was released before is recorded too: the work was done. A cost above the reservation is recorded as it is.
    """
    spent_from = spending.today_of(supplier) if spent_micros else None
    with transaction.atomic():
        if was_held := _move(key, Reservation.State.HELD, Reservation.State.SETTLED):
            reservation = rows.find(Reservation, pk=key)  # locked by the update
        else:
            reservation = Reservation.objects.select_for_update().filter(pk=key).first()
            if reservation is None or reservation.state == Reservation.State.SETTLED:
                return False
            was_held = _move(key, Reservation.State.HELD, Reservation.State.SETTLED)  # held again meanwhile
            if not was_held:
                _move(key, Reservation.State.RELEASED, Reservation.State.SETTLED)
        assert reservation is not None
        rows.insert(
            UsageRecord(
                reservation_id=reservation.pk,  # the object itself would refer back, and wait for the collector
                period_id=reservation.period_id,
                label=label,
                input_tokens=usage.input,
                cache_read_tokens=usage.cache_read,
                cache_write_tokens=usage.cache_write,
                output_tokens=usage.output,
                source=usage.source,
                cost_micros=cost_micros,
                spending_id=spent_from,
                spent_micros=spent_micros,
            )
        )
        _give_back(reservation, was_held=was_held, used_micros=cost_micros)
        spending.end_hold(reservation, was_held=was_held, spent_from=spent_from, spent_micros=spent_micros)
    return True


def release(key: UUID) -> bool:
    """Give the reservation under `key` back unused, once; return whether this call did it."""
    with transaction.atomic():
        if not _move(key, Reservation.State.HELD, Reservation.State.RELEASED):
            return False
        reservation = rows.find(Reservation, pk=key)
        assert reservation is not None
        _give_back(reservation, was_held=True, used_micros=0)
        spending.end_hold(reservation, was_held=True)
    return True


def list_held(*, older_than: dt.timedelta, limit: int = 500) -> list[UUID]:
    """Return the keys of reservations held for longer than `older_than`, oldest first."""
    held = Reservation.objects.filter(state=Reservation.State.HELD, created_at__lt=timezone.now() - older_than)
    return list(held.order_by("created_at").values_list("pk", flat=True)[:limit])


def list_unbalanced_periods() -> QuerySet[UsagePeriod]:
    """Return the periods whose counters are not the sums of their rows. Empty, unless something is broken."""

    def of_period(rows: QuerySet[Any], aggregate: Aggregate) -> Coalesce:
        grouped = rows.filter(period=OuterRef("pk")).order_by().values("period")
        return Coalesce(Subquery(grouped.annotate(result=aggregate).values("result")), 0)

    held = Reservation.objects.filter(state=Reservation.State.HELD)
    return UsagePeriod.objects.annotate(
        recorded=of_period(UsageRecord.objects.all(), Sum("cost_micros")),
        reserved=of_period(held, Sum("amount_micros")),
        held=of_period(held, Count("pk")),
    ).exclude(recorded=F("used_micros"), reserved=F("reserved_micros"), held=F("holds"))


def _hold_again(period: UsagePeriod, key: UUID, amount_micros: int, claim: SupplierHold | None) -> bool:
    """Hold a reservation that was released before its work began; return whether it had been released.

    A request that died between reserving and writing its work is released by the sweep, and may then be sent again.
    """
    spent = spending.hold_fields(claim)
    with transaction.atomic():
        released = Reservation.objects.filter(pk=key, state=Reservation.State.RELEASED)
        held = {"state": Reservation.State.HELD, "period": period, "amount_micros": amount_micros}
        if not released.update(**held, **spent, created_at=timezone.now()):
            return False
        _take_room(period, amount_micros)
        spending.take_hold(claim, spent)
    return True


def _take_room(period: UsagePeriod, amount_micros: int) -> None:
    """Count the reservation in, if there is room: one conditional statement, so that no two can take the same room."""
    turns_at_once = plan_of(period.account).turns_at_once
    statement, parameters = _TAKE_ROOM, [amount_micros, period.pk, amount_micros]
    if turns_at_once is not None:
        statement, parameters = f"{statement} AND holds < %s", [*parameters, turns_at_once]
    if rows.execute(UsagePeriod, statement, parameters):
        return
    period.refresh_from_db(fields=["holds", "used_micros", "reserved_micros", "allowance_micros"])
    if turns_at_once is not None and period.holds >= turns_at_once:
        raise TooManyAtOnce
    raise AllowanceUsedUp(resets_at=period.period_end)


def _move(key: UUID, before: Reservation.State, after: Reservation.State) -> bool:
    """Change the state of a reservation; return whether it was `before`."""
    return rows.update(Reservation, {"pk": key, "state": before}, {"state": after}) == 1


def _give_back(reservation: Reservation, *, was_held: bool, used_micros: int) -> None:
    plus = {"used_micros": used_micros}
    if was_held:
        plus |= {"reserved_micros": -reservation.amount_micros, "holds": -1}
    rows.update(UsagePeriod, {"pk": reservation.period_id}, {}, plus=plus)
