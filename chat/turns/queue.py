"""The line of turns that wait for a runner: whether it has room for one more, and who has which place in it."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from threading import Lock
from time import monotonic
from typing import Any
from uuid import UUID

from django.conf import settings
from redis.asyncio import Redis
from redis.exceptions import RedisError

from chat.errors import QueueFull
from chat.turns.log import GROUP, QUEUE
from core.loops import PerLoop
from core.redis_clients import sync_redis
from core.threads import IS_SQLITE

MAX_OPENING = 500
"""Turns that wait at a process's door. More would wait for their turn longer than it takes to say no."""
AT_ONCE = 1 if IS_SQLITE else 8
"""Turns a process opens at the same time. With SQLite more would only take the interpreter from the loop: one token in a
hundred was 25 to 40 % later with two."""
COUNTED_EVERY_SECONDS = 0.5
COME_BACK_SECONDS = (5, 20)  # not all at the same moment


class QueueRoom:
    """What this process knows of the line: counted now and then, and this process's own turns added meanwhile."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting = 0
        self._counted_at = float("-inf")

    def join(self) -> None:
        """Count one more in; raises QueueFull, with a time to come back, while QUEUE_LIMIT turns wait."""
        with self._lock:
            if monotonic() - self._counted_at > COUNTED_EVERY_SECONDS:
                self._waiting, self._counted_at = _count_waiting(), monotonic()
            if self._waiting >= settings.QUEUE_LIMIT:
                raise queue_full()
            self._waiting += 1

    def forget(self) -> None:
        self._counted_at = float("-inf")


queue_room = QueueRoom()


class OpeningLimit:
    """Where a loop's questions wait to be opened, `AT_ONCE` at a time: tokens and refusals come before them."""

    def __init__(self) -> None:
        self._inside = 0
        self._lane = asyncio.Semaphore(AT_ONCE)

    @asynccontextmanager
    async def opening(self) -> AsyncGenerator[None]:
        """Wait for one's turn; raises QueueFull at once, before anything is done, while MOST_OPENING do."""
        if self._inside >= MAX_OPENING:
            raise queue_full()
        self._inside += 1
        try:
            async with self._lane:
                yield
        finally:
            self._inside -= 1


_opening_limits = PerLoop(OpeningLimit)


def opening_limit() -> OpeningLimit:
    """Return the running loop's door."""
    return _opening_limits.get()


def queue_full() -> QueueFull:
    return QueueFull(retry_after=random.uniform(*COME_BACK_SECONDS))  # noqa: S311  jitter


async def places(redis: Redis) -> dict[UUID, int]:
    """Return the place of every turn no runner has taken yet: 1 is the next."""
    groups: Any = await redis.xinfo_groups(QUEUE)
    taken = next((group["last-delivered-id"] for group in groups if group["name"] == GROUP.encode()), b"0-0")
    entries: Any = await redis.xrange(QUEUE, min=b"(" + taken, count=settings.QUEUE_LIMIT)
    return {UUID(bytes=fields[b"turn"]): place for place, (_entry, fields) in enumerate(entries, 1)}


def _count_waiting() -> int:
    """Return how many turns no runner has taken; none while Redis cannot tell: the next step will say so."""
    try:
        groups: Any = sync_redis().xinfo_groups(QUEUE)
    except RedisError:
        return 0
    return sum(group["lag"] or 0 for group in groups if group["name"] == GROUP.encode())
