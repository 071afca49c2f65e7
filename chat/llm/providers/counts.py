"""Token counts as providers report them: their fields may have any type, and only whole numbers are read."""

from typing import Any


class NoReport(Exception):
    """A total is missing, or something that is no whole number stands where a count should."""


def total_of(report: Any, name: str) -> int:
    """Return a count that every report has; one below zero is zero. Raises NoReport."""
    count = _fields_of(report).get(name)
    if type(count) is not int:
        raise NoReport
    return max(0, count)


def detail_of(report: Any, name: str) -> int:
    """Return a count that is zero where it is missing or null, as is all of a report that is null. Raises NoReport."""
    return 0 if report is None or _fields_of(report).get(name) is None else total_of(report, name)


def details_of(report: Any, name: str) -> Any:
    """Return the part of a report with this name. Raises NoReport."""
    return _fields_of(report).get(name)


def _fields_of(report: Any) -> dict[str, Any]:
    if not isinstance(report, dict):
        raise NoReport
    return report
