"""Months, and what is written of an allowance: the rows that grant credits, and the only functions that change them.

Whoever calls a function that writes holds the lock of the account (`subscriptions`), but for `find_or_grant`, which
only makes a row that there is not.
"""

import calendar
import datetime as dt
from dataclasses import dataclass

from django.db.models import F, Q
from django.utils import timezone

from billing.models import BillingAccount, Plan, UsagePeriod
from core import rows

SHORTEST = dt.timedelta(microseconds=1)
"""A period has to go forward: one that is closed as it begins lasts as long."""


def month_of(moment: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """Return the calendar month (UTC) that contains `moment`: its first instant, and the next month's."""
    start = moment.astimezone(dt.UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return start, (start + dt.timedelta(days=32)).replace(day=1)


def add_months(anchor: dt.datetime, months: int) -> dt.datetime:
    """Return the moment so many months after the anchor (UTC), on the last day of a month that has no such day."""
    anchor = anchor.astimezone(dt.UTC)
    years, month = divmod(anchor.month - 1 + months, 12)
    year, month = anchor.year + years, month + 1
    return anchor.replace(year=year, month=month, day=min(anchor.day, calendar.monthrange(year, month)[1]))


def anchored_month_of(anchor: dt.datetime, moment: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """Return the month that contains `moment`, of those that are counted from the anchor."""
    anchor, moment = anchor.astimezone(dt.UTC), moment.astimezone(dt.UTC)
    number = (moment.year - anchor.year) * 12 + moment.month - anchor.month
    if moment < add_months(anchor, number):
        number -= 1
    return add_months(anchor, number), add_months(anchor, number + 1)


@dataclass(frozen=True, slots=True)
class PeriodTerms:
    """What period there should be: from when to when, and with how much for the time up to `full_end`."""

    kind: UsagePeriod.Kind
    start: dt.datetime
    end: dt.datetime
    full_end: dt.datetime
    plan_id: int | None
    plan_micros: int | None

    def share_until(self, end: dt.datetime) -> int | None:
        return share(self.plan_micros, end - self.start, self.full_end - self.start)


def share(micros: int | None, time: dt.timedelta, length: dt.timedelta) -> int | None:
    """Return what a part of a period has of an allowance, rounded down; all of it for the whole, None without limit."""
    if micros is None:
        return None
    microsecond = dt.timedelta(microseconds=1)
    return micros * (time // microsecond) // (length // microsecond)


def find_or_grant(account: BillingAccount, terms: PeriodTerms) -> UsagePeriod:
    """Return the period with this kind and start; making it is the grant."""
    where = {"account": account.pk, "kind": terms.kind, "period_start": terms.start}
    period = rows.find(UsagePeriod, **where)
    if period is None:
        defaults = {
            "plan_id": terms.plan_id,
            "period_end": terms.end,
            "full_end": terms.full_end,
            "granted_until": terms.end,
            "plan_micros": terms.plan_micros,
            "allowance_micros": terms.share_until(terms.end),
        }
        period, _ = UsagePeriod.objects.get_or_create(
            account=account, kind=terms.kind, period_start=terms.start, defaults=defaults
        )
    period.account = account
    return period


def follow(period: UsagePeriod, terms: PeriodTerms, *, changed_at: dt.datetime) -> None:
    """Make the period end when the terms do, and give it what they have more, or take what they have less, for the time
    that was left when they changed. Calling again changes nothing."""
    _lengthen(period, terms)
    if terms.plan_id is not None and terms.plan_id != period.plan_id:
        _change_plan(period, terms, changed_at)
    period.save(update_fields=["period_end", "full_end", "granted_until", "plan", "plan_micros", "allowance_micros"])


def close_period(period: UsagePeriod, at: dt.datetime) -> None:
    """End the period: nothing more is paid from it; what was reserved settles there."""
    period.period_end = max(period.period_start + SHORTEST, min(at, period.period_end))
    period.save(update_fields=["period_end"])


def grant_pack(account: BillingAccount, micros: int, bought_at: dt.datetime, until: dt.datetime) -> UsagePeriod:
    """Make the period of a pack; one more that was bought at the same instant begins a microsecond later."""
    while True:
        period, is_new = UsagePeriod.objects.get_or_create(
            account=account,
            kind=UsagePeriod.Kind.PACK,
            period_start=bought_at,
            defaults={"period_end": until, "allowance_micros": micros},
        )
        if is_new:
            return period
        bought_at += SHORTEST


def raise_to_plan(plan: Plan) -> None:
    """Give running periods of a plan what it gives more than when they were written. What it gives less counts from
    the next period on. Calling again changes nothing."""
    micros = plan.allowance_micros
    running = UsagePeriod.objects.filter(plan=plan, period_end__gt=timezone.now(), plan_micros__isnull=False)
    if micros is None:
        running.update(plan_micros=None, allowance_micros=None)
        return
    lower = running.filter(plan_micros__lt=micros)
    is_whole = Q(full_end=None) | Q(granted_until=None) | Q(granted_until__gte=F("full_end"))
    for period in lower.exclude(is_whole):
        assert period.full_end is not None
        assert period.granted_until is not None
        time, length = period.granted_until - period.period_start, period.full_end - period.period_start
        more = (share(micros, time, length) or 0) - (share(period.plan_micros, time, length) or 0)
        same = lower.filter(pk=period.pk, plan_micros=period.plan_micros, granted_until=period.granted_until)
        same.update(plan_micros=micros, allowance_micros=F("allowance_micros") + more)
    lower.filter(is_whole).update(
        plan_micros=micros, allowance_micros=F("allowance_micros") + micros - F("plan_micros")
    )


def _lengthen(period: UsagePeriod, terms: PeriodTerms) -> None:
    """Make it end when the terms do, and give it more if its share is greater then: it is lengthened, or what began at
    the same instant at another gateway has a shorter month."""
    full_end = period.full_end or period.period_end
    granted_until = period.granted_until or period.period_end
    period.period_end = max(terms.end, period.period_start + SHORTEST)
    if period.plan_id is None or terms.plan_id is None:
        return
    until = min(terms.end, terms.full_end)
    before = share(period.plan_micros, granted_until - period.period_start, full_end - period.period_start)
    after = share(period.plan_micros, until - period.period_start, terms.full_end - period.period_start)
    if before is None or after is None or period.allowance_micros is None:
        period.full_end, period.granted_until = terms.full_end, max(granted_until, until)
    elif after > before:
        period.allowance_micros += after - before
        period.full_end, period.granted_until = terms.full_end, until


def _change_plan(period: UsagePeriod, terms: PeriodTerms, changed_at: dt.datetime) -> None:
    """Another plan holds since `changed_at`: add the share of the difference, or take what is left of it."""
    old, new = period.plan_micros, terms.plan_micros
    granted_until = period.granted_until or period.period_end
    length = (period.full_end or period.period_end) - period.period_start
    left = granted_until - max(period.period_start, min(changed_at, granted_until))
    period.plan_id, period.plan_micros = terms.plan_id, new
    if old is None or period.allowance_micros is None:
        return _limit(period, new, left, length)
    spent = period.used_micros + period.reserved_micros
    if new is None:
        period.allowance_micros = None
    elif left == length:  # all of it is the new plan's: what was kept because it was spent is not added to
        period.allowance_micros = max(spent, new)
    elif new >= old:
        period.allowance_micros += share(new - old, left, length) or 0
    else:
        less = period.allowance_micros - (share(old - new, left, length) or 0)
        period.allowance_micros = min(period.allowance_micros, max(spent, less))


def _limit(period: UsagePeriod, micros: int | None, left: dt.timedelta, length: dt.timedelta) -> None:
    """A plan without a limit became one with it: its share of what is left counts from what was spent."""
    if micros is not None:
        spent = period.used_micros + period.reserved_micros
        period.allowance_micros = spent + (share(micros, left, length) or 0)
