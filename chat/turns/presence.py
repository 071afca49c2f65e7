"""Which runners are alive: each announces itself every few seconds. When is said by Redis's clock, not by theirs."""

from redis.asyncio import Redis

from core.redis_clients import sync_redis

ALIVE_KEY = "runners:alive"
ALIVE_SECONDS = 15


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
    seconds, _microseconds = sync_redis().time()
    if not sync_redis().zcount(ALIVE_KEY, seconds - ALIVE_SECONDS, "+inf"):
        raise NoRunner
