"""Stops the processes that a killed supervisor left running: a process of its own, started by `supervision.py`.

It reads a pipe from the supervisor: `+123` says that process group 123 has started, `-123` that it has ended. The pipe
closes when the supervisor has ended in any way, even by `kill -9`; then the guardian stops the groups that remain.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable

GRACE_SECONDS = 5  # between SIGTERM and SIGKILL


def main() -> None:
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # only the end of the pipe ends it
    stop_groups(read_remaining_groups(sys.stdin))


def read_remaining_groups(lines: Iterable[str]) -> set[int]:
    """Read to the end of the pipe; return the process groups that were started and have not ended."""
    groups: set[int] = set()
    for line in lines:
        change = groups.add if line.startswith("+") else groups.discard
        change(int(line[1:]))
    return groups


def stop_groups(groups: set[int]) -> None:
    remaining = {group for group in groups if signal_group(group, signal.SIGTERM)}
    deadline = time.monotonic() + GRACE_SECONDS
    while remaining and time.monotonic() < deadline:
        time.sleep(0.05)
        remaining = {group for group in remaining if signal_group(group, 0)}
    for group in remaining:
        signal_group(group, signal.SIGKILL)


def signal_group(group: int, number: int) -> bool:
    """Return whether the group still existed."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS answers "not permitted" for a group of zombies
        return False
    return True


if __name__ == "__main__":
    main()
