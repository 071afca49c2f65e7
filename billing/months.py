"""Months: those of the calendar, and those that are counted from an anchor. All of them are UTC."""

import calendar
import datetime as dt
from collections.abc import Iterator


def month_of(moment: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    """Return the calendar month (UTC) that contains `moment`: its first instant, and the next month's."""
    start = moment.astimezone(dt.UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return start, (start + dt.timedelta(days=32)).replace(day=1)


def months_back(moment: dt.datetime) -> Iterator[dt.datetime]:
    """Yield the first instants of calendar months, from the one that contains `moment` back, without end."""
    while True:
        moment, _end = month_of(moment)
        yield moment
        moment -= dt.timedelta(days=1)


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
