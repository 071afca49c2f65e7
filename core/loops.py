"""Objects that belong to one event loop: connections, and all that hold a lock, a future or a task of the loop."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class PerLoop(Generic[T]):
    """One object for each running event loop, made by `make` on first use."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: WeakKeyDictionary[asyncio.AbstractEventLoop, T] = WeakKeyDictionary()

    def get(self) -> T:
        """Return the running loop's object."""
        loop = asyncio.get_running_loop()
        value = self._made.get(loop)
        if value is None:
            self._forget_closed()
            value = self._made[loop] = self._make()
        return value

    def replace(self, value: T) -> None:
        """Make `value` the running loop's object."""
        self._made[asyncio.get_running_loop()] = value

    def pop(self) -> T | None:
        """Forget the running loop's object, and return it so that it can be closed; None if there was none."""
        return self._made.pop(asyncio.get_running_loop(), None)

    def _forget_closed(self) -> None:
        """What refers to its loop, as by a task, would keep it for ever."""
        for reference in self._made.keyrefs():
            if (loop := reference()) is not None and loop.is_closed():
                self._made.pop(loop, None)


_serving: list[asyncio.AbstractEventLoop] = []


def serve_on_this_loop() -> None:
    """Make the running loop the one that serves this process's readers."""
    _serving[:] = [asyncio.get_running_loop()]


def serving_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that serves this process's readers; None before it does, and in a process that has none."""
    return _serving[0] if _serving and _serving[0].is_running() else None
