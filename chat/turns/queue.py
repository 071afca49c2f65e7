"""The queue of turns that wait for a runner: who may join it, and each turn's position.

A turn's entry stays in the stream `turns`, claimed by a runner, until the turn is closed.
"""

import asyncio
import logging
import math
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

from django.conf import settings
from redis.asyncio import Redis
from redis.exceptions import RedisError
from structlog.contextvars import get_contextvars

from chat.errors import QueueFull
from chat.turns.log import WAKE_UPS, Entry, EntryKind, encode_entries
from core.loops import PerLoop
from core.lua import LuaScript
from core.redis_clients import sync_redis
from core.request_ids import VALID_ID
from core.threads import IS_SQLITE
from history.models import Turn
from history.temporary import is_temporary

logger = logging.getLogger(__name__)

QUEUE = "turns"
GROUP = "runners"
OPENING = "turns:opening"
"""The turns that are being opened, which will wait in the queue: a sorted set, by the moment they are forgotten."""
OPENING_SECONDS = 30
"""How long a turn counts as being opened, if the process that opens it dies."""
QUEUED_SECONDS = 600
"""How long the mark of a queue entry lives; a turn waits less."""

MAX_OPENING = 500
"""Questions a process opens and keeps waiting for that; one more is refused at once, and may come back. It protects the
process; what the site takes in is QUEUE_LIMIT, counted in Redis for all its processes (limits.py)."""
OPENING_EACH = 2
"""Questions of one person among those. Whoever asks more at once waits for their own, and nobody else does."""
OPENED_AT_ONCE = 1 if IS_SQLITE else 8
"""Turns that a process opens at once. With SQLite more would only keep the interpreter from the loop: one token in a
hundred was 25 to 40 % later with two."""
HALF_FORGOTTEN_SECONDS = 10.0
"""After this time what somebody asked counts half: it tells how often they ask, and is forgotten soon."""
RETRY_AFTER_SECONDS = (5, 20)  # a range, so that not everybody comes back at the same moment

_ENQUEUE = LuaScript(Path(__file__).with_name("enqueue.lua"))


def queued_key(turn_id: UUID) -> str:
    """Marks that the turn has an entry in the queue; without it the sweep makes a new one."""
    return f"turn:{turn_id}:queued"


def turn_of(fields: Mapping[bytes, bytes]) -> UUID | None:
    """Return the turn of a queue entry; None for an entry that nobody of ours has written."""
    try:
        return UUID(bytes=fields[b"turn"])
    except (KeyError, ValueError):
        return None


def request_of(fields: Mapping[bytes, bytes]) -> str:
    """Return the id of the request that put the turn there; empty for none, or for one that is not ours."""
    request_id = fields.get(b"request", b"").decode(errors="replace")
    return request_id if VALID_ID.fullmatch(request_id) else ""


def enqueue(turn: Turn) -> None:
    """Hand the turn to the runners, and notify the owner's open pages of it, unless it is on none: a program asks, and
    nobody keeps it.

    An unreachable Redis is no error: the sweep finds queued turns without an entry.
    """
    opened = Entry(turn.pk.bytes, EntryKind.OPENED, turn.gen, text=str(turn.owner_id))
    try:
        _ENQUEUE(
            sync_redis(),
            queue=QUEUE,
            mark=queued_key(turn.pk),
            opening=OPENING,
            turn=turn.pk.bytes,
            mark_seconds=QUEUED_SECONDS,
            channel=WAKE_UPS,
            request=get_contextvars().get("request_id", ""),
            notification=encode_entries([] if turn.is_completion and is_temporary(turn.pk) else [opened]),
        )
    except RedisError:
        logger.warning("Turn not queued yet", extra={"turn_id": turn.pk})
        return
    logger.info("Turn queued", extra={"turn_id": turn.pk, "user_id": turn.owner_id, "model": turn.requested_model})


def count_waiting(most: int) -> int:
    """Return how many turns no runner has taken yet, up to `most`. Raises RedisError."""
    redis: Any = sync_redis()
    groups = redis.xinfo_groups(QUEUE) if redis.exists(QUEUE) else []
    taken = next((group["last-delivered-id"] for group in groups if group["name"] == GROUP.encode()), b"0-0")
    return len(redis.xrange(QUEUE, min=b"(" + taken, count=most))


class OpeningLimit:
    """Lets OPENED_AT_ONCE questions of a loop be opened at the same time; the others wait, and tokens do not.

    Of those who wait, whoever asked least of late is next: somebody who asks again and again, whatever comes of it, is
    behind everybody who does not, however many of them there are.
    """

    def __init__(self) -> None:
        self._free = OPENED_AT_ONCE
        self._waiting: list[tuple[int, asyncio.Event]] = []  # owners, in the order in which they came
        self._places: WeakValueDictionary[int, asyncio.Semaphore] = WeakValueDictionary()  # by owner, while one is used
        self._asked: dict[int, tuple[float, float]] = {}  # by owner: how much it was, and when that was so

    @asynccontextmanager
    async def slot(self, owner_id: int) -> AsyncGenerator[None]:
        """Wait for a slot; raises QueueFull before anything is done, while MAX_OPENING questions wait."""
        async with self._places.setdefault(owner_id, asyncio.Semaphore(OPENING_EACH)):
            await self._enter(owner_id)
            try:
                yield
            finally:
                self._leave()

    async def _enter(self, owner_id: int) -> None:
        if OPENED_AT_ONCE - self._free + len(self._waiting) >= MAX_OPENING:
            raise queue_full()
        if not self._free:
            turn = asyncio.Event()
            self._waiting.append((owner_id, turn))
            try:
                await turn.wait()
            except asyncio.CancelledError:
                if turn.is_set():  # it had just come
                    self._leave()
                else:
                    self._waiting.remove((owner_id, turn))
                raise
        else:
            self._free -= 1
        self._asked[owner_id] = (self._asked_of_late(owner_id) + 1, monotonic())

    def _leave(self) -> None:
        if self._waiting:
            following = min(self._waiting, key=lambda place: self._asked_of_late(place[0]))
            self._waiting.remove(following)
            following[1].set()
            return
        self._free += 1
        if len(self._asked) > MAX_OPENING:
            self._asked = {owner: asked for owner, asked in self._asked.items() if self._asked_of_late(owner) > 0.1}

    def _asked_of_late(self, owner_id: int) -> float:
        asked, at = self._asked.get(owner_id, (0.0, 0.0))
        return asked * math.exp2((at - monotonic()) / HALF_FORGOTTEN_SECONDS)


_opening_limits = PerLoop(OpeningLimit)


def opening_limit() -> OpeningLimit:
    """Return the running loop's limit."""
    return _opening_limits.get()


async def queue_positions(redis: Redis) -> dict[UUID, int]:
    """Return the position of every turn no runner has taken yet: 1 is the next."""
    groups: Any = await redis.xinfo_groups(QUEUE)
    taken = next((group["last-delivered-id"] for group in groups if group["name"] == GROUP.encode()), b"0-0")
    entries: Any = await redis.xrange(QUEUE, min=b"(" + taken, count=settings.QUEUE_LIMIT)
    positions = ((turn_of(fields), position) for position, (_entry, fields) in enumerate(entries, 1))
    return {turn_id: position for turn_id, position in positions if turn_id is not None}


def queue_full() -> QueueFull:
    """Return the refusal, with a time to come back."""
    return QueueFull(retry_after=random.uniform(*RETRY_AFTER_SECONDS))  # noqa: S311  jitter
