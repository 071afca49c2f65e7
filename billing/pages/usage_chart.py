"""Usage as a picture: a bar for each day, drawn by the server; and as a file."""

import csv
import datetime as dt
import io
from collections.abc import Sequence
from dataclasses import dataclass

from django.utils.formats import date_format

from billing.entitlements import credits_of
from billing.usage import UsageLine

WIDTH, HEIGHT, GAP = 20, 120, 4
LEAST = 2
"""The lowest bar of a day on which something was used."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet would take a cell for a formula by."""


@dataclass(frozen=True, slots=True)
class DayBar:
    """One day: its place and size in the picture, and what it says."""

    day: dt.date
    x: int
    y: int
    height: int
    credits: float

    @property
    def width(self) -> int:
        return WIDTH - GAP


@dataclass(frozen=True, slots=True)
class Chart:
    bars: list[DayBar]
    width: int
    height: int
    highest: float
    """The credits of the highest bar."""

    @property
    def last_day(self) -> dt.date:
        return self.bars[-1].day


def draw(lines: Sequence[UsageLine], first: dt.date, last: dt.date) -> Chart:
    """Return a chart of lines that are grouped by day, with a bar for every day, used or not."""
    by_day = {line.day: line for line in lines}
    highest = max((line.cost_micros for line in lines), default=0)
    bars = []
    for number in range((last - first).days + 1):
        day = first + dt.timedelta(days=number)
        line = by_day.get(day)
        micros = line.cost_micros if line else 0
        height = max(LEAST, HEIGHT * micros // highest) if micros else 0
        bars.append(DayBar(day, number * WIDTH + GAP // 2, HEIGHT - height, height, credits_of(micros)))
    return Chart(bars, len(bars) * WIDTH, HEIGHT, credits_of(highest))


def write_csv(lines: Sequence[UsageLine]) -> str:
    """Return lines that are grouped by day and model as CSV, in English and with points: for programs."""
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(("day", "model", "answers", "input_tokens", "output_tokens", "credits"))
    for line in lines:
        cost = f"{line.credits:.3f}"
        day = line.day.isoformat() if line.day else ""
        writer.writerow((day, safe_cell(line.model), line.answers, line.input_tokens, line.output_tokens, cost))
    return written.getvalue()


def safe_cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def list_months(since: dt.date, today: dt.date, most: int = 24) -> list[tuple[str, str]]:
    """Return the months from the latest one back, as they are sent and as they are read."""
    found: list[tuple[str, str]] = []
    month = today.replace(day=1)
    while month >= since.replace(day=1) and len(found) < most:
        found.append((f"{month:%Y-%m}", date_format(month, "YEAR_MONTH_FORMAT")))
        month = (month - dt.timedelta(days=1)).replace(day=1)
    return found
