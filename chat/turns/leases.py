"""Who may write a turn, and requests to stop it.

The lease `turn:<id>:lease` holds `<runner>:<gen>`, or `<closer>:<gen>` while a turn without a runner is being closed.
It runs out by itself unless it is renewed, which appending to the log does (append.lua).
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any
from uuid import UUID

from redis import Redis as SyncRedis
from redis.asyncio import Redis

from chat.turns.answer_cache import CacheRead
from chat.turns.log import log_key
from core.lua import LuaScript

LEASE_MS = 15_000
STOP_SECONDS = 600
STOP_REQUESTS = "turns:control"
"""The pub/sub channel that carries the ids of turns to stop to every runner."""

_TAKE_LEASE = LuaScript(Path(__file__).with_name("take_lease.lua"))
_DROP_LEASE = LuaScript(Path(__file__).with_name("drop_lease.lua"))
_REQUEST_STOP = LuaScript(Path(__file__).with_name("request_stop.lua"))


class Taken(IntEnum):
    """Whether a lease was taken. `STOP`: it was, and somebody wants the turn to be stopped."""

    NO = 0
    YES = 1
    STOP = 2


class LeaseLost(Exception):
    """The lease is somebody else's: whatever this runner still has of the turn is void."""


def lease_key(turn_id: UUID) -> str:
    return f"turn:{turn_id}:lease"


def stop_key(turn_id: UUID) -> str:
    """Its value is who held the lease when the turn's person stopped it; empty where nobody did, or where it is stopped
    for another reason."""
    return f"turn:{turn_id}:stop"


async def take_lease(redis: Redis, turn_id: UUID, holder: str, *, empties_log: bool = False) -> Taken:
    """Take the lease if it is free, or the holder's own, of this generation or an earlier one; return whether it was
    taken."""
    taken, *_no_cache = await _TAKE_LEASE(
        redis,
        lease=lease_key(turn_id),
        log=log_key(turn_id),
        stop_request=stop_key(turn_id),
        new_holder=holder,
        lease_ms=LEASE_MS,
        empties_log="1" if empties_log else "0",
    )
    return Taken(taken)


async def take_lease_and_read_cache(
    redis: Redis, turn_id: UUID, holder: str, read: CacheRead
) -> tuple[Taken, bytes, bytes | None]:
    """Take the lease as `take_lease` does, and empty the log; return the cache's version and value, too."""
    taken, version, value = await _TAKE_LEASE(
        redis,
        lease=lease_key(turn_id),
        log=log_key(turn_id),
        stop_request=stop_key(turn_id),
        cache=read.answers_key,
        cache_version=read.version_key,
        new_holder=holder,
        lease_ms=LEASE_MS,
        empties_log="1",
        cache_field=read.field,
    )
    return Taken(taken), version or b"", value


async def drop_lease(redis: Redis, turn_id: UUID, holder: str) -> None:
    """Drop the lease if it is the holder's."""
    await _DROP_LEASE(redis, lease=lease_key(turn_id), holder=holder)


async def find_holders(redis: Redis, turn_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return who holds the leases of those turns that have one."""
    found: Any = await redis.mget(map(lease_key, turn_ids)) if turn_ids else []
    return _holders(turn_ids, found)


def find_holders_sync(redis: SyncRedis, turn_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Return the same to a caller outside an event loop."""
    found: Any = redis.mget(map(lease_key, turn_ids)) if turn_ids else []
    return _holders(turn_ids, found)


async def request_stop(redis: Redis, turn_id: UUID) -> None:
    """Ask whoever runs the turn to stop it, as its person wants. The key outlives a lost message."""
    await _request_stop(redis, turn_id)


def request_stops(redis: SyncRedis, turn_ids: Iterable[UUID]) -> None:
    """Do that for turns that are deleted: whoever deletes what is being answered stops it."""
    for turn_id in turn_ids:
        _request_stop(redis, turn_id)


async def find_stopped_holder(redis: Redis, turn_id: UUID) -> str:
    """Return who held the lease when the turn's person stopped it; empty for nobody, or without such a stop."""
    holder: Any = await redis.get(stop_key(turn_id))
    return holder.decode(errors="replace") if holder else ""


def _request_stop(redis: SyncRedis | Redis, turn_id: UUID) -> Any:
    return _REQUEST_STOP(
        redis,
        stop_request=stop_key(turn_id),
        lease=lease_key(turn_id),
        turn=turn_id.bytes,
        channel=STOP_REQUESTS,
        kept_seconds=STOP_SECONDS,
    )


def _holders(turn_ids: Sequence[UUID], found: Sequence[bytes | None]) -> dict[UUID, str]:
    return {turn_id: holder.decode(errors="replace") for turn_id, holder in zip(turn_ids, found, strict=True) if holder}
