"""What one person's sockets may take of a process, however many they are: no member can keep it from the others."""

import asyncio
from asyncio import sleep
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID

from accounts.models import User
from chat.errors import TooManySockets
from core.loops import PerLoop
from core.threads import in_thread

T = TypeVar("T")

MAX_SOCKETS = 20
"""Sockets one person may have open: each tab with a chat has one."""
COMMANDS_AT_ONCE = 200
COMMANDS_A_SECOND = 10
"""Commands of one person: so many at any time, and after that so many a second. What a command comes to makes no
difference, and opening a socket is one. Whoever sends more is not refused, but read more slowly."""


class Share:
    """What the open sockets of one person have together."""

    def __init__(self, user_id: int) -> None:
        self._user_id = user_id
        self._sockets = 0
        self._counted_until = 0.0  # when all commands so far are forgotten: the generic cell rate algorithm
        self._renders: dict[tuple[Any, ...], asyncio.Task[Any]] = {}

    def enter(self) -> None:
        """Count one more socket; raises TooManySockets."""
        if self._sockets >= MAX_SOCKETS:
            raise TooManySockets
        self._sockets += 1

    def leave(self) -> None:
        """Count one socket less. What it has sent still counts for whoever comes back."""
        self._sockets -= 1
        if not self._sockets:
            seconds = max(0.0, self._counted_until - monotonic()) + 1  # timers may be a little early
            asyncio.get_running_loop().call_later(seconds, self._forget)

    async def pace(self) -> None:
        """Count one command, and wait until its time has come."""
        now = monotonic()
        self._counted_until = max(self._counted_until, now) + 1 / COMMANDS_A_SECOND
        if (pause := self._counted_until - now - COMMANDS_AT_ONCE / COMMANDS_A_SECOND) > 0:
            await sleep(pause)

    async def render(self, render: Callable[[User, UUID], T], user: User, subject_id: UUID) -> T:
        """Return what `render` does, in a thread: once for all sockets that want it at the same moment.

        Whoever wants it when it has begun has it done again: something may have changed since.
        """
        key = (render, subject_id, user.locale, user.time_zone)
        task = self._renders.get(key)
        if task is None:
            task = self._renders[key] = asyncio.create_task(self._render_now(key, render, user, subject_id))
            task.add_done_callback(_take_error)
        rendered: T = await asyncio.shield(task)  # a socket that goes away does not take it from the others
        return rendered

    async def _render_now(
        self, key: tuple[Any, ...], render: Callable[[User, UUID], T], user: User, subject_id: UUID
    ) -> T:
        del self._renders[key]
        return await in_thread(render, user, subject_id)

    def _forget(self) -> None:
        shares = _shares.get()
        if not self._sockets and self._counted_until <= monotonic() and shares.get(self._user_id) is self:
            del shares[self._user_id]


_shares: PerLoop[dict[int, Share]] = PerLoop(dict)


def take_share(user_id: int) -> Share:
    """Return the person's share of this process, with one more socket; raises TooManySockets."""
    shares = _shares.get()
    share = shares.get(user_id) or Share(user_id)
    share.enter()
    shares[user_id] = share
    return share


def _take_error(task: "asyncio.Task[Any]") -> None:
    """Look at a task's error: nobody may be left to whom it matters, which asyncio would report."""
    if not task.cancelled():
        task.exception()
