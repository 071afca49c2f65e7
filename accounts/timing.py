"""Answers that would tell by their time whether an address is known take equally long."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 0.4
"""Longer than what differs takes: a row more, another mail, a hash with old parameters."""


@contextmanager
def equally_long() -> Iterator[None]:
    """Let what is done here take SECONDS, also when it fails."""
    begun = time.monotonic()
    try:
        yield
    finally:
        pad(begun)


def pad(begun: float) -> None:
    """Wait until SECONDS have passed since `begun` (`time.monotonic()`)."""
    time.sleep(max(0.0, begun + SECONDS - time.monotonic()))
