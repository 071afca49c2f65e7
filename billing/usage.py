"""What somebody used: statistics of the ledger, by day, by model and by part of the account, and when the allowance
will be used up.

Every question is about one account and at most MAX_DAYS, so that the database reads no more than the periods of that
time; a day is one of the reader's own time zone.
"""

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from django.db.models import Count, Sum
from django.db.models.functions import TruncDate
from django.utils import timezone

from billing.models import BillingAccount, UsagePeriod, UsageRecord
from core.money import MICROS_PER_CREDIT

MAX_DAYS = 366
SETTLED_WITHIN = dt.timedelta(days=31)
"""How long after the end of its period a record may be written: what was reserved settles there."""
SOONEST_PROJECTION = dt.timedelta(days=1)
"""Before so much of a period has passed, nothing is foretold."""

Grouping = Literal["day", "model", "part"]


@dataclass(frozen=True, slots=True)
class UsageLine:
    """The sums of some answers: of a day (None: of all), of a model (empty: of all), of a part of the account, by its
    label (empty: of all, and of what no part used)."""

    day: dt.date | None
    model: str
    answers: int
    input_tokens: int
    output_tokens: int
    cost_micros: int
    part: str = ""

    @property
    def credits(self) -> float:
        return self.cost_micros / MICROS_PER_CREDIT


def list_usage(account: BillingAccount, first: dt.date, last: dt.date, *by: Grouping) -> list[UsageLine]:
    """Return the usage from the first day to the last one, both included, in sums for each of what it is grouped `by`.

    Raises ValueError for more than MAX_DAYS.
    """
    if not 0 <= (last - first).days < MAX_DAYS:
        raise ValueError(f"{first} to {last}")
    if not dt.MINYEAR + 1 < first.year <= last.year < dt.MAXYEAR:
        return []  # nothing was used then, and in some zones those days are in years that do not exist
    zone = timezone.get_current_timezone()
    start = dt.datetime.combine(first, dt.time(), zone)
    end = dt.datetime.combine(last + dt.timedelta(days=1), dt.time(), zone)
    periods = account.periods.filter(period_start__lt=end, period_end__gt=start - SETTLED_WITHIN)
    records = UsageRecord.objects.filter(period__in=periods, recorded_at__gte=start, recorded_at__lt=end)
    fields = {"day": "day", "model": "label", "part": "reservation__part_month__label"}
    groups = [fields[name] for name in by]
    sums = (
        records.annotate(day=TruncDate("recorded_at", tzinfo=zone))
        .values(*groups)
        .annotate(
            answers=Count("pk"), read=Sum("input_tokens"), written=Sum("output_tokens"), micros=Sum("cost_micros")
        )
        .order_by(*groups)
    )
    return [
        UsageLine(
            one.get("day"),
            one.get("label", ""),
            one["answers"],
            one["read"],
            one["written"],
            one["micros"],
            one.get(fields["part"]) or "",
        )
        for one in sums
    ]


def group(lines: Iterable[UsageLine], by: Literal["day", "model"]) -> list[UsageLine]:
    """Return the sums of lines that are grouped by day and model, for each day or for each model alone. Days stand in
    their order, models in that of what they cost."""
    found: dict[object, UsageLine] = {}
    for line in lines:
        key = line.day if by == "day" else line.model
        before = found.get(key)
        day, model = (line.day, "") if by == "day" else (None, line.model)
        found[key] = _add(day, model, [line] if before is None else [before, line])
    if by == "day":
        return list(found.values())
    return sorted(found.values(), key=lambda line: (-line.cost_micros, line.model))


def sum_up(lines: Sequence[UsageLine]) -> UsageLine:
    return _add(None, "", lines)


def find_end_of_credits(period: UsagePeriod) -> dt.datetime | None:
    """Return when the period's credits will be used up if their owner goes on as until now; None if they last, if that
    cannot be told yet, or if there is no limit."""
    now = timezone.now()
    passed, left = now - period.period_start, period.left_micros
    if left is None or left <= 0 or not period.used_micros or passed < SOONEST_PROJECTION:
        return None
    ends_at = now + passed * (left / period.used_micros)
    return ends_at if ends_at < period.period_end else None


def _add(day: dt.date | None, model: str, lines: Sequence[UsageLine]) -> UsageLine:
    return UsageLine(
        day,
        model,
        sum(line.answers for line in lines),
        sum(line.input_tokens for line in lines),
        sum(line.output_tokens for line in lines),
        sum(line.cost_micros for line in lines),
    )
