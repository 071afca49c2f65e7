"""Ways out of this process: Redis from both worlds, and threads for everything that writes."""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache, partial
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from django.conf import settings
from django.db import close_old_connections
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff

P = ParamSpec("P")
R = TypeVar("R")

# Whoever finds every connection taken waits for one: the default refuses the hundred and first at once.
POOL: dict[str, Any] = {"socket_timeout": 5, "socket_connect_timeout": 2, "max_connections": 64, "timeout": 10}

# A database over a network is waited for, by many at once. SQLite is not: more threads would only take the interpreter
# from the loop, and the tokens would be late.
IS_SQLITE = all(database["ENGINE"].endswith("sqlite3") for database in settings.DATABASES.values())
_threads = ThreadPoolExecutor(max_workers=2 if IS_SQLITE else 12, thread_name_prefix="in-thread")
_clients: "WeakKeyDictionary[asyncio.AbstractEventLoop, redis.asyncio.Redis]" = WeakKeyDictionary()


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run sync code that talks to a database, beside the loop.

    Channels' `database_sync_to_async` does the same at four times the cost.
    """
    call = partial(copy_context().run, _with_connections, partial(function, *args, **kwargs))
    return await asyncio.get_running_loop().run_in_executor(_threads, call)


def _with_connections(function: Callable[[], R]) -> R:
    """Call with database connections that are good, and leave none behind that is not."""
    close_old_connections()
    try:
        return function()
    finally:
        close_old_connections()


@cache
def sync_redis() -> "redis.Redis":
    """Return this process's client; its pool is safe to share between threads. Keys and values are bytes."""
    return redis.Redis(connection_pool=redis.BlockingConnectionPool.from_url(settings.REDIS_URL, **POOL))


def async_redis() -> "redis.asyncio.Redis":
    """Return the running loop's client. It does not retry: after a broken connection the caller must think first."""
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            settings.REDIS_URL, retry=AsyncRetry(NoBackoff(), 0), **POOL
        )
        _clients[loop] = redis.asyncio.Redis(connection_pool=pool)
    return _clients[loop]


async def close_async_redis() -> None:
    if client := _clients.pop(asyncio.get_running_loop(), None):
        await client.aclose(close_connection_pool=True)


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel until they are over: before Python 3.12 a cancellation is lost while `wait_for` returns, in redis-py too."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.2)
