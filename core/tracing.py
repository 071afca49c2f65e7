"""Spans of what follows from a request, where somebody collects them (config/reporting.py): each noted at its end.

The trace is the request: its id is carried to runners and workers for the logs, and tells them whose trace it is.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

from structlog.contextvars import get_contextvars

Attributes: TypeAlias = Mapping[str, str | int | float]
Collect: TypeAlias = Callable[[str, str, float, Attributes], None]
"""Takes a request's id, the name of a span, its seconds, and what is known of it."""

_collect: Collect | None = None


def collect_spans(collect: Collect) -> None:
    """Have `collect` called for every span from now on. It must not wait."""
    global _collect
    _collect = collect


def note_span(name: str, seconds: float, **attributes: str | int | float) -> None:
    """Note what has just ended. Attributes are ids, names and codes, never what people write."""
    if _collect is None:
        return
    bound = get_contextvars()
    if request_id := bound.get("request_id"):
        ids = {key: str(bound[key]) for key in ("turn_id", "user_id") if key in bound}
        _collect(str(request_id), name, seconds, ids | attributes)
