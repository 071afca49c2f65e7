"""Objects that belong to one event loop: connections, and all that hold a lock, a future or a task of the loop."""

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary, WeakSet

T = TypeVar("T")
_per_loop: WeakSet["PerLoop[Any]"] = WeakSet()


class PerLoop(Generic[T]):
    """One object for each running event loop, made by `make` on first use."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        _per_loop.add(self)
        self._made: WeakKeyDictionary[asyncio.AbstractEventLoop, T] = WeakKeyDictionary()

    def get(self) -> T:
        """Return the running loop's object."""
        loop = asyncio.get_running_loop()
        value = self._made.get(loop)
        if value is None:
            value = self._made[loop] = self._make()
        return value

    def replace(self, value: T) -> None:
        """Make `value` the running loop's object."""
        self._made[asyncio.get_running_loop()] = value

    def pop(self) -> T | None:
        """Forget the running loop's object, and return it so that it can be closed; None if there was none."""
        return self._made.pop(asyncio.get_running_loop(), None)


def forget_this_loop() -> None:
    """Forget all objects of the running loop, which is about to end: one that refers to its loop, as by a task, would
    keep it for ever."""
    for found in list(_per_loop):
        found.pop()


_serving: list[asyncio.AbstractEventLoop] = []


def serve_on_this_loop() -> None:
    """Make the running loop the one that serves this process's readers."""
    _serving[:] = [asyncio.get_running_loop()]


def serving_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that serves this process's readers; None before it does, and in a process that has none."""
    return _serving[0] if _serving and _serving[0].is_running() else None
