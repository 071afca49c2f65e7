"""Redis clients: one for the threads of a process, also behind Django's cache, and one for each event loop."""

import json
import weakref
from functools import cache
from queue import Empty
from time import monotonic
from typing import Any

import redis
import redis.asyncio
from django.conf import settings
from django.core.cache.backends import redis as cache_backend
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff

from core.gate import Gate
from core.loops import PerLoop
from core.metrics import watch_pool

SYNC_OPTIONS: dict[str, Any] = {**settings.REDIS_LIMITS, "socket_timeout": 3}
"""Seconds: a thread waits no longer for a Redis that is silent. Nothing is sent twice."""
# When every connection is in use, callers wait for one; the default pool refuses the hundred and first at once.
SYNC_POOL_OPTIONS: dict[str, Any] = {**SYNC_OPTIONS, "max_connections": settings.REDIS_POOL, "timeout": 5}
ASYNC_POOL_OPTIONS: dict[str, Any] = {**settings.REDIS_LIMITS, "max_connections": settings.REDIS_POOL, "timeout": 10}


class GatedPool(redis.BlockingConnectionPool):
    """A pool of connections for threads: while Redis does not answer, one of them a second waits for it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)  # type: ignore[no-untyped-call]
        self._gate = Gate()

    def get_connection(self, *args: Any, **options: Any) -> Any:
        if self._gate.refuses():
            raise redis.ConnectionError("Redis did not answer a moment ago.")
        begun = monotonic()
        try:
            connection: Any = super().get_connection(*args, **options)  # type: ignore[no-untyped-call]
        except (redis.ConnectionError, redis.TimeoutError) as error:
            if not isinstance(error.__context__, Empty):  # which means that every connection is in use
                self._gate.fail(begun)
            raise
        connection.taken_at = monotonic()
        return connection

    def release(self, connection: Any) -> None:
        if connection.is_connected:
            self._gate.open()
        elif taken_at := getattr(connection, "taken_at", None):  # it is closed when no answer came
            self._gate.fail(taken_at)
        super().release(connection)  # type: ignore[no-untyped-call]


@cache
def sync_redis() -> "redis.Redis":
    """Return this process's client, which threads may share. Keys and values are bytes."""
    pool: Any = GatedPool.from_url(settings.REDIS_URL, **SYNC_POOL_OPTIONS)
    watch_pool("redis", lambda: (pool.max_connections - pool.pool.qsize(), pool.max_connections))
    return redis.Redis(connection_pool=pool)


class JsonSerializer:
    """Writes values as JSON. Django's own unpickles what it finds: whoever can write to Redis would run code here."""

    def dumps(self, value: Any) -> bytes:
        return json.dumps(value).encode()

    def loads(self, data: Any) -> Any:
        """Return the value; None for what is not ours."""
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return None


class CacheClient(cache_backend.RedisCacheClient):
    def __init__(self, servers: Any) -> None:
        super().__init__(servers, serializer=JsonSerializer)

    def get(self, key: Any, default: Any) -> Any:
        found = super().get(key, default)
        return default if found is None else found

    def get_client(self, key: Any = None, *, write: bool = False) -> "redis.Redis":
        return sync_redis()


class Cache(cache_backend.RedisCache):
    """Django's cache, over the client of the process. Django makes a cache for each request, and each of its own kind
    makes a pool, connects again, and knows nothing of a Redis that is silent."""

    def __init__(self, server: Any, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._class = CacheClient


def async_redis() -> "redis.asyncio.Redis":
    """Return the running loop's client. It never retries: only the caller knows whether a command may be sent twice."""
    return _clients.get()


async def close_async_redis() -> None:
    if client := _clients.pop():
        await client.aclose(close_connection_pool=True)


def _make_client() -> "redis.asyncio.Redis":
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        settings.REDIS_URL, retry=AsyncRetry(NoBackoff(), 0), **ASYNC_POOL_OPTIONS
    )
    seen: Any = weakref.proxy(pool)  # it is its loop's
    watch_pool("redis_async", lambda: (len(seen._in_use_connections), seen.max_connections))
    return redis.asyncio.Redis(connection_pool=pool)


_clients = PerLoop(_make_client)
