"""Reserves, settles and releases credits: the only module that writes usage.

The invariants, tested in tests/billing/test_metering.py on SQLite and PostgreSQL: a period's `reserved_micros` is the
sum of its held reservations, `used_micros` the sum of its records, an account's `holds` the number of its held
reservations, and a reservation is admitted only if used + reserved + amount <= allowance of the one row that pays it.
Each key is settled or released once, and for no more than was reserved, unless its record says why. The counters of a
supplier's day (billing/spending.py), and of a part of an account, are changed in the same transactions.

Rows are locked in one order: the reservation, the account, the period, the part's month, the supplier's day.
"""

import datetime as dt
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Count, F, OuterRef, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone

from billing import spending
from billing.entitlements import Budget, budget_of
from billing.errors import AllowanceUsedUp, PartUsedUp, TooManyAtOnce
from billing.models import (
    AllowanceNotice,
    BillingAccount,
    PartMonth,
    Reservation,
    UsagePeriod,
    UsageRecord,
)
from billing.months import month_of
from billing.spending import DayHolds, SupplierHold, UnpaidRequest
from core import rows
from core.errors import Conflict
from core.money import MICROS_PER_CREDIT
from core.sweeps import iterate_pages

logger = logging.getLogger(__name__)

MAX_TRIES = 3
"""How often a reservation is tried, when what it was refused for is over a moment later."""

NOTICE_PERCENT = (80, 100)
"""At how much of an allowance people are told."""

_HOLD = f"UPDATE {BillingAccount._meta.db_table} SET holds = holds + 1 WHERE id = %s"  # noqa: S608  a name of ours
_WHILE_FEWER_ARE_HELD = " AND holds < %s"
_RESERVE_IN_PERIOD = f"""
UPDATE {UsagePeriod._meta.db_table} SET reserved_micros = reserved_micros + %s
WHERE id = %s AND (allowance_micros IS NULL OR allowance_micros >= used_micros + reserved_micros + %s)
"""  # noqa: S608  the same
_RESERVE_OF_PART = f"""
UPDATE {PartMonth._meta.db_table} SET reserved_micros = reserved_micros + %s
WHERE id = %s AND %s >= used_micros + reserved_micros + %s
"""  # noqa: S608  the same
_END_HOLD = f"""
UPDATE {BillingAccount._meta.db_table} SET holds = holds - 1
WHERE id = (SELECT account_id FROM {UsagePeriod._meta.db_table} WHERE id = %s)
"""  # noqa: S608  the same
_SETTLE_IN_PERIOD = f"""
UPDATE {UsagePeriod._meta.db_table} SET used_micros = used_micros + %s, reserved_micros = reserved_micros - %s
WHERE id = %s RETURNING allowance_micros, used_micros, noticed_percent
"""  # noqa: S608  the same


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one piece of work. `input` includes what was read from and written to a cache."""

    input: int
    output: int
    cache_read: int = 0
    cache_write: int = 0
    source: str = UsageRecord.Source.PROVIDER


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an account, which may use so much in a calendar month (UTC); None is no limit of its own."""

    label: str
    monthly_credits: int | None = None

    @property
    def monthly_micros(self) -> int | None:
        return None if self.monthly_credits is None else self.monthly_credits * MICROS_PER_CREDIT


def reserve(
    user_id: int,
    key: UUID,
    *,
    amount_micros: int,
    budget: Budget | None = None,
    supplier_holds: Sequence[SupplierHold] = (),
    part: Part | None = None,
) -> bool:
    """Reserve `amount_micros` under `key`, of the user's current period or else of a pack, and of what `part` of the
    account may use; and `supplier_holds` of suppliers' days, one for each supplier; return whether this call did it.

    `budget` is the user's, where the caller has read it already; after a refusal it says what is left. Calling again
    with the same key changes nothing. Raises AllowanceUsedUp (of a part PartUsedUp), TooManyAtOnce or SpendLimitReached
    with nothing written, and Conflict when the key is another user's.
    """
    budget = budget or budget_of(user_id)
    day_holds = spending.days_of_holds(supplier_holds)
    hold_fields = spending.hold_fields(day_holds)
    part_month = _find_or_begin_month(budget.period.account_id, part) if part else None
    fields = {"period": budget.period, "amount_micros": amount_micros, "part_month": part_month}
    try:
        with transaction.atomic():
            rows.insert(Reservation(pk=key, **fields, **hold_fields))
            _reserve_in_one(budget, key, amount_micros)
            _reserve_of_part(part, part_month, amount_micros)
            spending.take_holds(key, day_holds)
    except IntegrityError:
        existing = Reservation.objects.select_related("period").filter(pk=key).first()
        if existing is None:
            raise
        if existing.period.account_id != budget.period.account_id:
            raise Conflict from None
        return _reserve_again(budget, key, fields, day_holds, part)
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
        held = _end_held(key, Reservation.State.RELEASED)
        if held is None and not (unpaid and _is_released_without_requests(key)):
            return False
        reservation = held or rows.find(Reservation, pk=key)
        assert reservation is not None
        if held is not None:
            _settle_in_period(held, was_held=True, used_micros=0)
        spending.end_holds(reservation, was_held=held is not None, unpaid=unpaid_days)
    return True


def find_reservation(key: UUID) -> Reservation | None:
    """Return what is, or was, reserved under `key`, whoever did it: the caller must check that."""
    return rows.find(Reservation, pk=key)


def find_cost(key: UUID) -> int:
    """Return what was recorded of the work under `key`, in micros; 0 where nothing was."""
    return UsageRecord.objects.filter(reservation_id=key).values_list("cost_micros", flat=True).first() or 0


def find_part(key: UUID) -> str:
    """Return the label of the part that reserved under `key`; empty where none did."""
    label = Reservation.objects.filter(pk=key).values_list("part_month__label", flat=True).first()
    return label or ""


def used_by_parts(user_id: int) -> dict[str, int]:
    """Return what each part of the user's account used in this month, in micros."""
    months = PartMonth.objects.filter(account__user_id=user_id, month=month_of(timezone.now())[0].date())
    return dict(months.values_list("label", "used_micros"))


def iterate_held(*, older_than: dt.timedelta) -> Iterator[list[UUID]]:
    """Yield the keys of reservations held for longer than `older_than`, oldest first, a page at a time."""
    held = Reservation.objects.filter(state=Reservation.State.HELD, created_at__lt=timezone.now() - older_than)
    for page in iterate_pages(held.only("pk", "created_at")):
        yield [reservation.pk for reservation in page]


def list_held_among(keys: Sequence[UUID]) -> list[UUID]:
    """Return those of the keys whose reservation is held."""
    held = Reservation.objects.filter(state=Reservation.State.HELD, pk__in=keys)
    return list(held.values_list("pk", flat=True))


def list_held_of(user_id: int) -> dict[UUID, str]:
    """Return the keys of what the user has reserved and what is not over, each with the label of the part that did;
    empty where none did."""
    held = Reservation.objects.filter(state=Reservation.State.HELD, period__account__user_id=user_id)
    return {key: label or "" for key, label in held.values_list("pk", "part_month__label")}


def list_unbalanced_periods() -> QuerySet[UsagePeriod]:
    """Return the periods whose counters are not the sums of their rows: none, unless something is broken."""

    def of_period(queryset: QuerySet[Any], amount: str) -> Coalesce:
        grouped = queryset.filter(period=OuterRef("pk")).order_by().values("period")
        return Coalesce(Subquery(grouped.annotate(result=Sum(amount)).values("result")), 0)

    held = Reservation.objects.filter(state=Reservation.State.HELD)
    return UsagePeriod.objects.annotate(
        recorded=of_period(UsageRecord.objects.all(), "cost_micros"), reserved=of_period(held, "amount_micros")
    ).exclude(recorded=F("used_micros"), reserved=F("reserved_micros"))


def list_unbalanced_parts() -> QuerySet[PartMonth]:
    """Return the months of parts whose counters are not the sums of their rows: none, unless something is broken."""
    theirs = Reservation.objects.filter(part_month=OuterRef("pk")).order_by().values("part_month")
    used = Subquery(theirs.annotate(result=Sum("record__cost_micros")).values("result"))
    held = theirs.filter(state=Reservation.State.HELD).annotate(result=Sum("amount_micros")).values("result")
    return PartMonth.objects.annotate(recorded=Coalesce(used, 0), reserved=Coalesce(Subquery(held), 0)).exclude(
        recorded=F("used_micros"), reserved=F("reserved_micros")
    )


def list_unbalanced_accounts() -> QuerySet[BillingAccount]:
    """Return the accounts that do not count as many holds as they have: none, unless something is broken."""
    held = Reservation.objects.filter(state=Reservation.State.HELD, period__account=OuterRef("pk"))
    grouped = held.order_by().values("period__account").annotate(result=Count("pk"))
    return BillingAccount.objects.annotate(held=Coalesce(Subquery(grouped.values("result")), 0)).exclude(
        held=F("holds")
    )


def _reserve_again(budget: Budget, key: UUID, fields: dict[str, Any], day_holds: DayHolds, part: Part | None) -> bool:
    """Make a released reservation held again; return whether it was released.

    When a process dies between reserving and writing the work, the sweep releases the reservation; the same request may
    then be sent again.
    """
    hold_fields = spending.hold_fields(day_holds)
    with transaction.atomic():
        released = Reservation.objects.filter(pk=key, state=Reservation.State.RELEASED)
        if not released.update(state=Reservation.State.HELD, **fields, **hold_fields, created_at=timezone.now()):
            return False
        _reserve_in_one(budget, key, fields["amount_micros"])
        _reserve_of_part(part, fields["part_month"], fields["amount_micros"])
        spending.take_holds(key, day_holds)
    return True


def _reserve_in_one(budget: Budget, key: UUID, amount_micros: int) -> None:
    """Take one of the account's holds, and reserve the amount of the first row that has room for it. Each is one
    conditional statement, so that two calls cannot take the same."""
    account_id, turns_at_once = budget.period.account_id, budget.entitlements.turns_at_once
    statement, parameters = _HOLD, [account_id]
    if turns_at_once is not None:
        statement, parameters = _HOLD + _WHILE_FEWER_ARE_HELD, [account_id, turns_at_once]
    if not rows.execute(BillingAccount, statement, parameters):
        raise TooManyAtOnce
    payers = (budget.period, *budget.packs)
    for _ in range(MAX_TRIES):
        for payer in payers:
            if rows.execute(UsagePeriod, _RESERVE_IN_PERIOD, [amount_micros, payer.pk, amount_micros]):
                if payer is not budget.period:
                    rows.update(Reservation, {"pk": key}, {"period_id": payer.pk})
                return
        for payer in payers:
            payer.refresh_from_db(fields=["used_micros", "reserved_micros", "allowance_micros"])
        left_micros = budget.left_micros
        if left_micros is not None and left_micros < amount_micros:
            break
        # What was in the way has just ended.
    raise AllowanceUsedUp(resets_at=budget.period.period_end)


def _find_or_begin_month(account_id: int, part: Part) -> PartMonth:
    """Return the row of this month, created on first use."""
    where: dict[str, Any] = {"account_id": account_id, "label": part.label, "month": month_of(timezone.now())[0].date()}
    return rows.find(PartMonth, **where) or PartMonth.objects.get_or_create(**where)[0]


def _reserve_of_part(part: Part | None, month: PartMonth | None, amount_micros: int) -> None:
    """Reserve the amount of what the part may use: one conditional statement, as above. Raises PartUsedUp."""
    if part is None or month is None:
        return
    if part.monthly_micros is None:
        rows.update(PartMonth, {"pk": month.pk}, {}, plus={"reserved_micros": amount_micros})
        return
    parameters = [amount_micros, month.pk, part.monthly_micros, amount_micros]
    if not rows.execute(PartMonth, _RESERVE_OF_PART, parameters):
        month.refresh_from_db(fields=["used_micros", "reserved_micros"])
        left_micros = part.monthly_micros - month.used_micros - month.reserved_micros
        raise PartUsedUp(resets_at=month_of(timezone.now())[1], left_micros=left_micros)


def _begin_settlement(key: UUID) -> tuple[Reservation | None, bool]:
    """Lock a reservation and make it settled; return it, None if it was settled before, and whether it was held."""
    if held := _end_held(key, Reservation.State.SETTLED):
        return held, True
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


def _end_held(key: UUID, after: Reservation.State) -> Reservation | None:
    """Change the state of a reservation that is held, and return it, locked; None if it is not held."""
    found = rows.update_and_fetch(Reservation, {"pk": key, "state": Reservation.State.HELD}, {"state": after})
    return found[0] if found else None


def _change_state(key: UUID, before: Reservation.State, after: Reservation.State) -> bool:
    """Change the state of a reservation; return whether it was `before`."""
    return rows.update(Reservation, {"pk": key, "state": before}, {"state": after}) == 1


def _settle_in_period(reservation: Reservation, *, was_held: bool, used_micros: int) -> None:
    """Add what was used to the period and to the part's month, take off what was reserved, end the account's hold, and
    note when so much of the allowance is used that its owner should know."""
    reserved_micros = 0
    if was_held:
        reserved_micros = reservation.amount_micros
        rows.execute(BillingAccount, _END_HOLD, [reservation.period_id])
    parameters = [used_micros, reserved_micros, reservation.period_id]
    ((allowance_micros, used_in_all, noticed_percent),) = rows.fetch(UsagePeriod, _SETTLE_IN_PERIOD, parameters)
    if reservation.part_month_id is not None:
        plus = {"used_micros": used_micros, "reserved_micros": -reserved_micros}
        rows.update(PartMonth, {"pk": reservation.part_month_id}, {}, plus=plus)
    if not allowance_micros or not used_micros:
        return
    reached = [percent for percent in NOTICE_PERCENT if used_in_all * 100 >= allowance_micros * percent]
    if reached and reached[-1] > noticed_percent:
        rows.update(UsagePeriod, {"pk": reservation.period_id}, {"noticed_percent": reached[-1]})
        AllowanceNotice.objects.get_or_create(period_id=reservation.period_id, percent=reached[-1])
