"""Writes figures as text: tables, bar charts, and the entries of RESULTS.md."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
MARKER = "<!-- newest first; written by bench.run below this line -->"
_WIDTH = 50
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class BudgetedFigure:
    """A figure and its limit, the most or the least it may be. Without a limit it is for information."""

    figure: str
    limit: float | None
    measured: float | None
    detail: str = ""
    at_least: bool = False

    @property
    def verdict(self) -> str:
        if self.limit is None:
            return ""
        if self.measured is None:
            return "not measured"
        if self.measured >= self.limit if self.at_least else self.measured <= self.limit:
            return "met"
        if not self.limit:
            return "**missed**"
        return f"**missed by {abs(self.measured - self.limit) / self.limit:,.0%}**"

    @property
    def row(self) -> tuple[str, str, str, str, str]:
        sign = "≥" if self.at_least else "≤"
        limit = "" if self.limit is None else f"{sign} {format_number(self.limit)}"
        return self.figure, limit, format_number(self.measured), self.verdict, self.detail


@dataclass(frozen=True, slots=True)
class Bar:
    name: str
    value: float
    is_from_elsewhere: bool = False  # from the documentation, not measured in this run


def format_number(value: float | None) -> str:
    """Return a figure with its significant digits."""
    if value is None:
        return "–"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}".removesuffix(".0")
    return f"{value:.{2 if abs(value) >= 0.1 else 3}f}".rstrip("0").rstrip(".")


def join_numbers(*values: float | None) -> str:
    return " / ".join(map(format_number, values))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bar_chart(title: str, all_bars: Sequence[Bar]) -> str:
    """Return a bar chart as a code block; bars from elsewhere are marked."""
    longest = max(bar.value for bar in all_bars)
    name_width = max(len(bar.name) for bar in all_bars)
    lines = [title]
    for bar in all_bars:
        mark = "  (measured elsewhere)" if bar.is_from_elsewhere else ""
        lines.append(f"{bar.name:<{name_width}}  {format_number(bar.value):>6}  {_bar(bar.value / longest)}{mark}")
    return "\n".join(["```text", *lines, "```"])


def _bar(share: float) -> str:
    eighths = max(1, round(share * _WIDTH * 8))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def insert_entry(text: str, entry: str) -> str:
    """Return the text of RESULTS.md with a new entry above the others. Raises ValueError if the marker is missing."""
    before, marker, after = text.partition(MARKER)
    if not marker:
        raise ValueError(f"No place for an entry: {MARKER}")
    return "\n\n".join([f"{before}{marker}", entry.strip(), after.strip()]).strip() + "\n"
