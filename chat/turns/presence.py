"""Which runners are alive."""

import time

from redis.asyncio import Redis

from core.redis_clients import sync_redis

ALIVE = "runners:alive"
ALIVE_SECONDS = 15


class NoRunner(Exception):
    """No runner has given a sign of life."""


async def announce(redis: Redis, runner: str) -> None:
    """Give a sign of life; to be repeated within ALIVE_SECONDS."""
    await redis.zadd(ALIVE, {runner: time.time()})
    await redis.zremrangebyscore(ALIVE, "-inf", time.time() - 10 * ALIVE_SECONDS)


async def leave(redis: Redis, runner: str) -> None:
    await redis.zrem(ALIVE, runner)


def require_runner() -> None:
    """Raise NoRunner unless one gave a sign of life lately."""
    if not sync_redis().zcount(ALIVE, time.time() - ALIVE_SECONDS, "+inf"):
        raise NoRunner
