"""Threads for work that would block an event loop, and how its tasks are cancelled."""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

from django.conf import settings
from django.db import close_old_connections

P = ParamSpec("P")
R = TypeVar("R")

# A database over a network is waited for, by many at once. SQLite is not: more threads would only take the interpreter
# from the loop, and the tokens would be late.
IS_SQLITE = all(database["ENGINE"].endswith("sqlite3") for database in settings.DATABASES.values())
_threads = ThreadPoolExecutor(max_workers=2 if IS_SQLITE else 12, thread_name_prefix="in-thread")


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


async def cancel_and_wait(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel until they are over: before Python 3.12 a cancellation is lost while `wait_for` returns, in redis-py too."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=0.2)
