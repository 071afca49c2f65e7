"""The largest number of streams at which every reader is still served well."""

from collections.abc import Callable

from bench.load import Report

TOKEN_P99_MS = 100
FIRST_TOKEN_P99_MS = 1_000
STRETCH_P99 = 1.1  # above it the offered rate was not reached, by whoever was short of CPU


def is_held(report: Report) -> bool:
    """Nothing refused, nothing missing, and every token in time."""
    token, first, stretch = report.token_added_ms.p99, report.first_token_added_ms.p99, report.stretch.p99
    if not report.ok or token is None or first is None or stretch is None:
        return False
    return token < TOKEN_P99_MS and first < FIRST_TOKEN_P99_MS and stretch < STRETCH_P99


def largest(holds: Callable[[int], bool], *, first: int, cap: int) -> int:
    """Return the largest number that holds: doubling from `first`, then halving the gap to a tenth. 0 if none does."""
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
    """Over which so many streams start."""
    return min(3.0, max(1.0, streams / 200))
