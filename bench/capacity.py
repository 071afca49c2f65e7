"""Finds the capacity of a core: the largest number of streams at which every reader is still served well."""

from collections.abc import Callable

from bench.load import LoadReport

MAX_TOKEN_P99_MS = 100
MAX_FIRST_TOKEN_P99_MS = 1_000
MAX_STRETCH_P99 = 1.1  # above it, tokens came slower than the provider sent them: somebody was short of CPU


def is_held(report: LoadReport) -> bool:
    """Return whether no turn was refused, no token was missing, and tokens came in time."""
    token, first, stretch = report.token_added_ms.p99, report.first_token_added_ms.p99, report.stretch.p99
    if not report.ok or token is None or first is None or stretch is None:
        return False
    return token < MAX_TOKEN_P99_MS and first < MAX_FIRST_TOKEN_P99_MS and stretch < MAX_STRETCH_P99


def find_largest(holds: Callable[[int], bool], *, first: int, cap: int) -> int:
    """Return the largest number for which `holds` is true, to a tenth; 0 if none is. Doubles from `first` until one
    fails, then bisects."""
    held, failed, number = 0, 0, first
    while True:
        if holds(number):
            held = number
        else:
            failed = number
        if not failed and number >= cap:
            return held
        if not failed:
            number = min(number * 2, cap)
        elif failed - held <= max(2, held // 10):
            return held
        else:
            number = (held + failed) // 2


def ramp_seconds(streams: int) -> float:
    """Return the seconds over which so many streams start."""
    return min(3.0, max(1.0, streams / 200))
