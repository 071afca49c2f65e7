"""Runs blocking work in threads beside the event loop; cancels asyncio tasks for certain."""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import tzinfo
from functools import partial
from typing import Any, ParamSpec, TypeVar

from django.conf import settings
from django.db import connections
from django.utils.timezone import get_current_timezone
from django.utils.timezone import override as override_zone
from django.utils.translation import get_language
from django.utils.translation import override as override_language

from core.metrics import watch_pool

P = ParamSpec("P")
R = TypeVar("R")

# Threads mostly wait for a database over a network, so there can be many. SQLite keeps them computing: more of them
# would only take the interpreter from the loop, and tokens would be late.
IS_SQLITE = all(database["ENGINE"].endswith("sqlite3") for database in settings.DATABASES.values())
THREADS = 2 if IS_SQLITE else 12
_executor: Any = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="in-thread")


def use_of_threads() -> tuple[int, int]:
    """Return how many calls are in hand, of which those beyond the threads wait, and how many threads there are. Read
    from the executor when somebody asks, so that no call pays for it."""
    working = len(_executor._threads) - _executor._idle_semaphore._value
    return working + _executor._work_queue.qsize(), THREADS


watch_pool("threads", use_of_threads)


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run synchronous code that uses a database in a thread, in the language and time zone of its caller, and return
    its result.

    Channels' `database_sync_to_async` does the same at four times the cost.
    """
    speaking = partial(_speaking, get_language(), get_current_timezone(), partial(function, *args, **kwargs))
    call = partial(copy_context().run, _with_fresh_connections, speaking)
    result: R = await asyncio.get_running_loop().run_in_executor(_executor, call)
    return result


def _speaking(language: str | None, zone: tzinfo, function: Callable[[], R]) -> R:
    """Call the function in this language and time zone. They are in the context, but asgiref (3.13) shows what is to
    none but the thread that set it."""
    with override_language(language), override_zone(zone):
        return function()


def _with_fresh_connections(function: Callable[[], R]) -> R:
    """Close database connections that are broken or too old, before the call and after it."""
    close_old_connections()
    try:
        return function()
    finally:
        close_old_connections()


def close_old_connections() -> None:
    """Close this thread's connections that are broken or too old, or give them back to their pool: as Django does, but
    SQLite's stay, since opening them costs more than most queries. Inside a transaction nothing happens."""
    for connection in connections.all(initialized_only=True):
        if connection.vendor != "sqlite":
            connection.close_if_unusable_or_obsolete()


async def cancel_and_wait(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel the tasks again and again until all have ended: before Python 3.12, a cancellation that arrives while
    `wait_for` returns is lost, in redis-py too."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.2)
