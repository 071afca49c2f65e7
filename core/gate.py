"""A gate in front of a store: while the store is silent, one caller a second tries it, and the others are refused at
once. Without it every thread of a process would wait for the same time-out."""

from threading import Lock
from time import monotonic

RETRY_SECONDS = 1.0
SILENT_SECONDS = 0.5
"""An error that came sooner than this (a connection that was cut, a port that is closed) keeps nobody waiting: the next
caller may well succeed."""


class Gate:
    """Open until a caller has waited in vain; then one a second is let through, until one of them is answered."""

    def __init__(self) -> None:
        self._is_closed = False
        self._next_try = 0.0
        self._lock = Lock()

    def refuses(self) -> bool:
        """Return whether this caller must not wait for the store."""
        if not self._is_closed:
            return False
        with self._lock:
            now = monotonic()
            if now < self._next_try:
                return True
            self._next_try = now + RETRY_SECONDS
            return False

    def open(self) -> None:
        """The store answered."""
        self._is_closed = False

    def fail(self, begun: float) -> None:
        """The store did not answer a caller who began at `begun` (`time.monotonic()`): close, if that took long."""
        if monotonic() - begun < SILENT_SECONDS:
            return
        with self._lock:
            self._is_closed = True
            self._next_try = monotonic() + RETRY_SECONDS
