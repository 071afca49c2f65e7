"""What is left when a process dies, and what happens meanwhile in another."""

import asyncio
import datetime as dt
import threading
from collections.abc import Callable
from typing import Any

from django.db import connections
from django.utils import timezone

from billing.models import Reservation
from chat.models import LanguageModel
from chat.turns import log
from chat.turns.log import Entry, EntryKind, encode_begun, encode_entry
from chat.turns.runner import Runner
from core.redis_clients import sync_redis
from history import progress
from history.models import Turn
from tests.chat.asking import saved


class Died(BaseException):
    """A process was killed here: nothing after this happens, and nothing is cleaned up."""


def die(*_arguments: Any, **_named: Any) -> Any:
    raise Died


def elsewhere(happen: Callable[[], Any]) -> None:
    """Let something happen in another thread, with connections of its own, and wait for it."""

    def run() -> None:
        happen()
        connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


class Gone:
    """In place of a client of a runner that was killed: who still uses it is cancelled."""

    def __getattr__(self, name: str) -> Any:
        raise asyncio.CancelledError


def kill(runner: Runner, running: "asyncio.Task[None]") -> None:
    """End a runner of this loop as kill -9 would: wherever its turns are, they write nothing more, to no store.

    Before Python 3.12 redis-py loses a cancellation now and then, and a loop would go on.
    """
    runner._redis = Gone()  # type: ignore[assignment]
    for task in (*runner._tasks.values(), running):
        task.cancel()


def lose_runner(turn: Turn, text: str = "") -> Turn:
    """Leave the turn as a runner that is gone would: claimed, with what it showed in the log."""
    progress.claim(turn)
    model = LanguageModel.objects.get(key="scripted")
    entries = [Entry(turn.pk.bytes, EntryKind.BEGUN, 1, 0, encode_begun(model))]
    entries += [Entry(turn.pk.bytes, EntryKind.TEXT, 1, 0, text)] if text else []
    for entry in entries:
        sync_redis().xadd(log.log_key(turn.pk), {b"e": encode_entry(entry)})
    return turn


def grow_old(turn: Turn, seconds: float) -> Turn:
    """Make a turn and its reservation older."""
    since = dt.timedelta(seconds=seconds)
    Turn.objects.filter(pk=turn.pk).update(created_at=turn.created_at - since)
    if turn.started_at:
        Turn.objects.filter(pk=turn.pk).update(started_at=turn.started_at - since)
    Reservation.objects.filter(pk=turn.pk).update(created_at=timezone.now() - since)
    return saved(turn)
