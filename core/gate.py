"""A gate in front of a store: while the store does not answer, one caller a second tries it, and the others are refused
at once. Without it every thread of a process would wait for the same time-out."""

from threading import Lock
from time import monotonic

RETRY_SECONDS = 1.0


class Gate:
    """Open until `close`; then `refuses` lets one caller a second through, until one of them calls `open`."""

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

    def close(self) -> None:
        """The store did not answer."""
        with self._lock:
            self._is_closed = True
            self._next_try = monotonic() + RETRY_SECONDS
