"""Argon2 within limits: two hashes at once in a process, whoever asks for them and however many."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from django.contrib.auth.hashers import Argon2PasswordHasher

from core.errors import Unavailable
from core.threads import close_old_connections

T = TypeVar("T")

HASHES_AT_ONCE = 2
WAIT_SECONDS = 2.0
"""Who does not get a hash within this time is told to come back, before a crowd fills the process with threads."""
SHORT_WAIT_SECONDS = 0.1
"""Who waits longer gives their connection to a database back meanwhile."""


class PasswordHasher(Argon2PasswordHasher):
    """Argon2id with OWASP's parameters (Password Storage Cheat Sheet). A hash with others is replaced at the next
    log-in, by Django."""

    time_cost = 2
    memory_cost = 19 * 1024  # KiB
    parallelism = 1

    def encode(self, password: str, salt: str) -> str:
        return _in_turn(lambda: super(PasswordHasher, self).encode(password, salt))

    def verify(self, password: str, encoded: str) -> bool:
        return _in_turn(lambda: super(PasswordHasher, self).verify(password, encoded))


@cache
def _executor() -> ThreadPoolExecutor:
    """Return the threads that hash. A semaphore around the threads that ask would leave each of them the memory of its
    hash, which the C library keeps for every thread's arena: 340 MB after 40 of them, here 40."""
    return ThreadPoolExecutor(HASHES_AT_ONCE, thread_name_prefix="hasher")


def _in_turn(work: Callable[[], T]) -> T:
    """Do the work when its turn comes. Raises Unavailable when that takes too long."""
    future: Future[T] = _executor().submit(work)
    try:
        return future.result(SHORT_WAIT_SECONDS)
    except TimeoutError:
        close_old_connections()
    try:
        return future.result(WAIT_SECONDS)
    except TimeoutError:
        if not future.cancel():
            return future.result()  # it is being made at this moment
        raise Unavailable(retry_after=WAIT_SECONDS) from None
