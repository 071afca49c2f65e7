"""Reserves, settles and releases credits: the only module that writes usage.

The invariants, tested in tests/billing/test_metering.py on SQLite and PostgreSQL: a period's `reserved_micros` is the
sum of its held reservations, `used_micros` the sum of its records, and a reservation is admitted only if used +
reserved + amount <= allowance. Each key is settled or released once, and for no more than was reserved, unless its
record says why. The counters of a supplier's day
(billing/spending.py) are changed in the same transactions.
"""

import datetime as dt
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Aggregate, Count, F, OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone

from billing import spending
from billing.entitlements import Budget, period_of, plan_of
from billing.errors import AllowanceUsedUp, TooManyAtOnce
from billing.models import Reservation, UsagePeriod, UsageRecord
from billing.spending import DayHolds, SupplierHold, UnpaidRequest
from core import rows
from core.errors import Conflict
from core.sweeps import iterate_pages

logger = logging.getLogger(__name__)

MAX_TRIES = 3
"""How often a reservation is tried, when what it was refused for is over a moment later."""

_PERIODS = UsagePeriod._meta.db_table
_RESERVE_IN_PERIOD = f"""
UPDATE {_PERIODS} SET reserved_micros = reserved_micros + %s, holds = holds + 1
WHERE id = %s AND (allowance_micros IS NULL OR allowance_micros >= used_micros + reserved_micros + %s)
"""  # noqa: S608  a name of ours
# Work of the month before may still be held. Whoever waited for the lock of the row on PostgreSQL sees that row as it
# is then, and the others as they were before: hence its own `holds` is not part of the sum.
_WHILE_FEWER_ARE_HELD = f"""
AND holds + (SELECT COALESCE(SUM(holds), 0) FROM {_PERIODS} WHERE account_id = %s AND id <> %s) < %s
"""  # noqa: S608  the same


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one piece of work. `input` includes what was read from and written to a cache."""

    input: int
    output: int
    cache_read: int = 0
    cache_write: int = 0
    source: str = UsageRecord.Source.PROVIDER


def reserve(
    user_id: int,
    key: UUID,
    *,
    amount_micros: int,
    budget: Budget | None = None,
    supplier_holds: Sequence[SupplierHold] = (),
) -> bool:
    """Reserve `amount_micros` of the user's current period under `key`, and `supplier_holds` of suppliers' days, one
    for each supplier; return whether this call did it.

    `budget` is the user's, where the caller has read it already; after a refusal it says what is left. Calling again
    with the same key changes nothing. Raises AllowanceUsedUp, TooManyAtOnce or SpendLimitReached with nothing written,
    and Conflict when the key is another user's.
    """
    period = budget.period if budget else period_of(user_id)
    day_holds = spending.days_of_holds(supplier_holds)
    hold_fields = spending.hold_fields(day_holds)
    try:
        with transaction.atomic():
            rows.insert(Reservation(pk=key, period=period, amount_micros=amount_micros, **hold_fields))
            _reserve_in_period(period, amount_micros)
            spending.take_holds(key, day_holds)
    except IntegrityError:
        existing = Reservation.objects.select_related("period").filter(pk=key).first()
        if existing is None:
            raise
        if existing.period.account_id != period.account_id:
            raise Conflict from None
        return _reserve_again(period, key, amount_micros, day_holds)
    return True


def settle(
    key: UUID,
    *,
    cost_micros: int,
    usage: Usage,
    label: str,
    supplier: str = "",
    spent_micros: int = 0,
    above_because: Literal["input"] | None = None,
    unpaid: Sequence[UnpaidRequest] = (),
) -> bool:
    """Record, once, what the work under `key` cost and what `supplier` charges us, and what suppliers take for its
    `unpaid` requests; return whether this call did it.

    Work whose reservation was released is recorded too: it was done. A cost above the reservation is charged only with
    a reason, which is recorded; without one the reservation is what is charged.
    """
    spending_id = spending.id_of_today(supplier) if spent_micros else None
    unpaid_days = spending.days_of_unpaid(unpaid)
    with transaction.atomic():
        reservation, was_held = _begin_settlement(key)
        if reservation is None:
            return False
        is_above = cost_micros > reservation.amount_micros
        if is_above and not above_because:
            figures = {"cost_micros": cost_micros, "reserved_micros": reservation.amount_micros}
            logger.error("Cost above its reservation without a reason", extra={"key": key, **figures})
            cost_micros = reservation.amount_micros
        rows.insert(
            UsageRecord(
                reservation_id=reservation.pk,  # the object itself would make a reference cycle
                period_id=reservation.period_id,
                label=label,
                input_tokens=usage.input,
                cache_read_tokens=usage.cache_read,
                cache_write_tokens=usage.cache_write,
                output_tokens=usage.output,
                source=usage.source,
                cost_micros=cost_micros,
                above_because=above_because if is_above else None,
                spending_id=spending_id,
                spent_micros=spent_micros,
            )
        )
        _settle_in_period(reservation, was_held=was_held, used_micros=cost_micros)
        spending.end_holds(
            reservation, was_held=was_held, spending_id=spending_id, spent_micros=spent_micros, unpaid=unpaid_days
        )
    return True


def release(key: UUID, unpaid: Sequence[UnpaidRequest] = ()) -> bool:
    """Give the credits reserved under `key` back unused, once, and record what suppliers take for its `unpaid`
    requests; return whether this call did it.

    Where they had been given back already, as those of work that seemed lost, the requests are still recorded, once.
    """
    unpaid_days = spending.days_of_unpaid(unpaid)
    with transaction.atomic():
        was_held = _change_state(key, Reservation.State.HELD, Reservation.State.RELEASED)
        if not was_held and not (unpaid and _is_released_without_requests(key)):
            return False
        reservation = rows.find(Reservation, pk=key)
        assert reservation is not None
        if was_held:
            _settle_in_period(reservation, was_held=True, used_micros=0)
        spending.end_holds(reservation, was_held=was_held, unpaid=unpaid_days)
    return True


def find_reservation(key: UUID) -> Reservation | None:
    """Return what is, or was, reserved under `key`, whoever did it: the caller must check that."""
    return rows.find(Reservation, pk=key)


def iterate_held(*, older_than: dt.timedelta) -> Iterator[list[UUID]]:
    """Yield the keys of reservations held for longer than `older_than`, oldest first, a page at a time."""
    held = Reservation.objects.filter(state=Reservation.State.HELD, created_at__lt=timezone.now() - older_than)
    for page in iterate_pages(held.only("pk", "created_at")):
        yield [reservation.pk for reservation in page]


def list_held_among(keys: Sequence[UUID]) -> list[UUID]:
    """Return those of the keys whose reservation is held."""
    held = Reservation.objects.filter(state=Reservation.State.HELD, pk__in=keys)
    return list(held.values_list("pk", flat=True))


def list_unbalanced_periods() -> QuerySet[UsagePeriod]:
    """Return the periods whose counters are not the sums of their rows: none, unless something is broken."""

    def of_period(queryset: QuerySet[Any], aggregate: Aggregate) -> Coalesce:
        grouped = queryset.filter(period=OuterRef("pk")).order_by().values("period")
        return Coalesce(Subquery(grouped.annotate(result=aggregate).values("result")), 0)

    held = Reservation.objects.filter(state=Reservation.State.HELD)
    return UsagePeriod.objects.annotate(
        recorded=of_period(UsageRecord.objects.all(), Sum("cost_micros")),
        reserved=of_period(held, Sum("amount_micros")),
        held=of_period(held, Count("pk")),
    ).exclude(recorded=F("used_micros"), reserved=F("reserved_micros"), held=F("holds"))


def _reserve_again(period: UsagePeriod, key: UUID, amount_micros: int, day_holds: DayHolds) -> bool:
    """Make a released reservation held again; return whether it was released.

    When a process dies between reserving and writing the work, the sweep releases the reservation; the same request may
    then be sent again.
    """
    hold_fields = spending.hold_fields(day_holds)
    with transaction.atomic():
        released = Reservation.objects.filter(pk=key, state=Reservation.State.RELEASED)
        fields = {"state": Reservation.State.HELD, "period": period, "amount_micros": amount_micros}
        if not released.update(**fields, **hold_fields, created_at=timezone.now()):
            return False
        _reserve_in_period(period, amount_micros)
        spending.take_holds(key, day_holds)
    return True


def _reserve_in_period(period: UsagePeriod, amount_micros: int) -> None:
    """Reserve the amount if it fits: one conditional statement, so that two calls cannot take the same credits."""
    turns_at_once = plan_of(period.account).turns_at_once
    statement, parameters = _RESERVE_IN_PERIOD, [amount_micros, period.pk, amount_micros]
    if turns_at_once is not None:
        statement += _WHILE_FEWER_ARE_HELD
        parameters += [period.account_id, period.pk, turns_at_once]
    for _ in range(MAX_TRIES):
        if rows.execute(UsagePeriod, statement, parameters):
            return
        period.refresh_from_db(fields=["used_micros", "reserved_micros", "allowance_micros"])
        if turns_at_once is not None and _count_holds(period.account_id) >= turns_at_once:
            break
        left_micros = period.left_micros
        if left_micros is not None and left_micros < amount_micros:
            raise AllowanceUsedUp(resets_at=period.period_end)
        # What was in the way has just ended.
    raise TooManyAtOnce


def _count_holds(account_id: int) -> int:
    """Return how many reservations the account holds, in whatever month."""
    periods = UsagePeriod.objects.filter(account_id=account_id)
    return int(periods.aggregate(holds=Coalesce(Sum("holds"), 0))["holds"])


def _begin_settlement(key: UUID) -> tuple[Reservation | None, bool]:
    """Lock a reservation and make it settled; return it, None if it was settled before, and whether it was held."""
    if _change_state(key, Reservation.State.HELD, Reservation.State.SETTLED):
        return rows.find(Reservation, pk=key), True
    reservation = Reservation.objects.select_for_update().filter(pk=key).first()
    if reservation is None or reservation.state == Reservation.State.SETTLED:
        return None, False
    was_held = _change_state(key, Reservation.State.HELD, Reservation.State.SETTLED)  # held again meanwhile
    if not was_held:
        _change_state(key, Reservation.State.RELEASED, Reservation.State.SETTLED)
    return reservation, was_held


def _is_released_without_requests(key: UUID) -> bool:
    """Lock a reservation; return whether it is released, and nothing was recorded for its requests."""
    released = Reservation.objects.select_for_update().filter(pk=key, state=Reservation.State.RELEASED)
    return released.first() is not None and not spending.has_unpaid(key)


def _change_state(key: UUID, before: Reservation.State, after: Reservation.State) -> bool:
    """Change the state of a reservation; return whether it was `before`."""
    return rows.update(Reservation, {"pk": key, "state": before}, {"state": after}) == 1


def _settle_in_period(reservation: Reservation, *, was_held: bool, used_micros: int) -> None:
    """Add what was used to the period, and take off what was reserved."""
    plus = {"used_micros": used_micros}
    if was_held:
        plus |= {"reserved_micros": -reservation.amount_micros, "holds": -1}
    rows.update(UsagePeriod, {"pk": reservation.period_id}, {}, plus=plus)
