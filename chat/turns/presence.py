"""Which runners are alive, and which had a turn on board when they died.

Each announces itself every few seconds. When is said by Redis's clock, not by theirs. Before it does anything for a
turn, a runner boards it, and it leaves a turn that it does not end, or when it is told to stop. Who is still noted when
another boards has died with the turn on board, or has been silent for as long as that. A runner whose event loop stood
still until its leases had run out lives on, but an event of one of its turns may have done that: it is noted, too.
"""

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from redis.asyncio import Redis

from core.lua import LuaScript
from core.redis_clients import sync_redis

ALIVE_KEY = "runners:alive"
ALIVE_SECONDS = 15
ABOARD_SECONDS = 3_600

_BOARD_TURN = LuaScript(Path(__file__).with_name("board_turn.lua"))


class NoRunner(Exception):
    """No runner has announced itself lately."""


async def announce_runner(redis: Redis, runner: str) -> None:
    """Say that the runner is alive; to be repeated within ALIVE_SECONDS."""
    seconds, _microseconds = await redis.time()
    await redis.zadd(ALIVE_KEY, {runner: seconds})
    await redis.zremrangebyscore(ALIVE_KEY, "-inf", seconds - 10 * ALIVE_SECONDS)


async def remove_runner(redis: Redis, runner: str) -> None:
    await redis.zrem(ALIVE_KEY, runner)


def require_runner() -> None:
    """Raise NoRunner unless a runner announced itself within ALIVE_SECONDS."""
    if not count_runners():
        raise NoRunner


def count_runners() -> int:
    """Return how many announced themselves within ALIVE_SECONDS. What came by a clock that ran ahead, and was set back,
    says nothing."""
    seconds, _microseconds = sync_redis().time()
    return int(sync_redis().zcount(ALIVE_KEY, seconds - ALIVE_SECONDS, seconds + ALIVE_SECONDS))


def aboard_key(turn_id: UUID) -> str:
    """The runners that have the turn on board: a set of names."""
    return f"turn:{turn_id}:aboard"


async def board_turn(redis: Redis, turn_id: UUID, runner: str) -> int:
    """Note that the runner has the turn on board; return how many others died with it."""
    others: int = await _BOARD_TURN(redis, aboard=aboard_key(turn_id), runner=runner, kept_seconds=ABOARD_SECONDS)
    return others


async def leave_turns(redis: Redis, turn_ids: Sequence[UUID], runner: str) -> None:
    """Note that the runner has these turns on board no more: if it dies now, that was not with them."""
    async with redis.pipeline(transaction=False) as pipeline:
        for turn_id in turn_ids:
            pipeline.srem(aboard_key(turn_id), runner)
        await pipeline.execute()


async def note_lost(redis: Redis, turn_id: UUID, holder: str) -> None:
    """Note that a runner which lives lost the turn as if it had died with it. `holder`: a name it never boards with."""
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.sadd(aboard_key(turn_id), holder)
        pipeline.expire(aboard_key(turn_id), ABOARD_SECONDS)
        await pipeline.execute()
