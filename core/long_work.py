"""Keeps what takes long from taking all threads of a worker: repairs must not wait for it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import BoundedSemaphore

MAX_AT_ONCE = 2
"""One fewer than a worker process has threads (docs/production.md)."""

places = BoundedSemaphore(MAX_AT_ONCE)
"""Whoever works long in a worker takes one, or comes back later."""


@contextmanager
def take_place(own: BoundedSemaphore) -> Iterator[bool]:
    """Take a place of one's own kind, and one of all that works long; yield whether both were free. Never waits."""
    with ExitStack() as taken:
        for some in (own, places):
            if not some.acquire(blocking=False):
                yield False
                return
            taken.callback(some.release)
        yield True
