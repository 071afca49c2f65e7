"""Keeps what takes long from taking all threads of a worker: repairs must not wait for it."""

from threading import BoundedSemaphore

MAX_AT_ONCE = 2
"""One fewer than a worker process has threads (docs/production.md)."""

places = BoundedSemaphore(MAX_AT_ONCE)
"""Whoever works long in a worker takes one, or comes back later."""
