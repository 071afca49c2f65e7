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
    stop(standing(sys.stdin))


def standing(lines: Iterable[str]) -> set[int]:
    groups: set[int] = set()
    for line in lines:
        change = groups.add if line.startswith("+") else groups.discard
        change(int(line[1:]))
    return groups


def stop(groups: set[int]) -> None:
    groups = {group for group in groups if send(group, signal.SIGTERM)}
    deadline = time.monotonic() + GRACE_SECONDS
    while groups and time.monotonic() < deadline:
        time.sleep(0.05)
        groups = {group for group in groups if send(group, 0)}
    for group in groups:
        send(group, signal.SIGKILL)


def send(group: int, number: int) -> bool:
    """Whether the group was still there."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS answers "not permitted" for a group of zombies
        return False
    return True


if __name__ == "__main__":
    main()
