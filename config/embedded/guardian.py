"""Stops what a manager left behind: run by `supervision.py`, it outlives the manager and watches a pipe from it.

The pipe says `+123` when process group 123 begins and `-123` when it has ended. The pipe closes when the manager is
gone, however it went (even `kill -9`); the groups still standing then are the ones to stop.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable

GRACE_SECONDS = 5


def main() -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the end of the pipe is the only reason to end
    stop_groups(living_groups(sys.stdin))


def living_groups(lines: Iterable[str]) -> set[int]:
    groups: set[int] = set()
    for line in lines:
        change = groups.add if line.startswith("+") else groups.discard
        change(int(line[1:]))
    return groups


def stop_groups(groups: set[int]) -> None:
    groups = {group for group in groups if signal_groups(group, signal.SIGTERM)}
    deadline = time.monotonic() + GRACE_SECONDS
    while groups and time.monotonic() < deadline:
        time.sleep(0.05)
        groups = {group for group in groups if signal_groups(group, 0)}
    for group in groups:
        signal_groups(group, signal.SIGKILL)


def signal_groups(group: int, number: int) -> bool:
    """Whether the group was still there."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS answers "not permitted" for a group of zombies
        return False
    return True


if __name__ == "__main__":
    main()
