"""Rate limits of questions, uploads and forks, and that of the queue: one script in Redis, exact for all processes."""

import math
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.utils.translation import ngettext
from redis.exceptions import RedisError

from accounts.limits import Limit
from chat.turns.asked import asked_of_key
from chat.turns.queue import GROUP, OPENING, OPENING_SECONDS, QUEUE, queue_full
from core.errors import RateLimited, Unavailable
from core.lua import LuaScript, Value
from core.redis_clients import sync_redis

_COUNT = LuaScript(Path(__file__).with_name("count_in_window.lua"))
_UNCOUNT = LuaScript(Path(__file__).with_name("uncount_in_window.lua"))

HOUR_SECONDS = 3_600
FORKS_PER_HOUR = 120


def count_question(user_id: int, turn_id: UUID, *, turns_per_hour: int | None) -> Limit | None:
    """Count a question in its hour, and its turn among those that will wait for a runner; None when the hour has no
    limit. Raises RateLimited or QueueFull, with the time to wait, and counts nothing then."""
    if turns_per_hour == 0:
        raise RateLimited
    try:
        limit = _count(
            _turns_key(user_id),
            turns_per_hour or 0,
            queue=QUEUE,
            opening=OPENING,
            group=GROUP,
            queue_limit=settings.QUEUE_LIMIT,
            turn=turn_id.bytes,
            opening_seconds=OPENING_SECONDS,
        )
    except RateLimited as error:
        seconds = error.retry_after or 0
        raise RateLimited(_say_when(turns_per_hour or 0, seconds), retry_after=seconds) from error
    return limit if turns_per_hour else None


def uncount_question(user_id: int, turn_id: UUID, *, turns_per_hour: int | None) -> None:
    """Give back the counts of a question that was refused after all."""
    _UNCOUNT(
        sync_redis(),
        arrival=_turns_key(user_id),
        opening=OPENING,
        limit=turns_per_hour or 0,
        window_seconds=HOUR_SECONDS,
        turn=turn_id.bytes,
    )


def count_upload(user_id: int, *, files: int = 1) -> None:
    """Count files that were uploaded, or are copied: all of them or none. More than an hour has count as its limit.
    Raises RateLimited, with the time to wait, or Unavailable."""
    per_hour = settings.ATTACHMENTS_PER_HOUR
    try:
        # So many at once take as much of an hour as one of so many times fewer.
        _count(_uploads_key(user_id), per_hour / max(1, min(files, per_hour)))
    except RedisError as error:
        raise Unavailable(retry_after=5) from error


def count_fork(user_id: int) -> None:
    """Count one conversation that was forked; raises RateLimited, with the time to wait, or Unavailable."""
    try:
        _count(_forks_key(user_id), FORKS_PER_HOUR)
    except RedisError as error:
        raise Unavailable(retry_after=5) from error


def forget_counts(user_id: int) -> None:
    """Drop what was counted of a person who is gone. Raises RedisError."""
    sync_redis().unlink(_turns_key(user_id), _uploads_key(user_id), _forks_key(user_id), asked_of_key(user_id))


def _count(key: str, per_hour: float, **queue: Value) -> Limit:
    answer, remaining, reset_ms, wait_ms = _COUNT(
        sync_redis(), arrival=key, limit=per_hour, window_seconds=HOUR_SECONDS, **queue
    )
    if answer < 0:
        raise queue_full()
    if not answer:
        raise RateLimited(retry_after=wait_ms / 1000)
    return Limit(int(per_hour), remaining, reset_ms / 1000)


def _say_when(per_hour: int, seconds: float) -> str:
    minutes = math.ceil(seconds / 60)
    when = ngettext("Ask again in %(minutes)d minute.", "Ask again in %(minutes)d minutes.", minutes)
    allowed = ngettext(
        "Your plan has %(count)d question an hour.", "Your plan has %(count)d questions an hour.", per_hour
    )
    return f"{allowed % {'count': per_hour}} {when % {'minutes': minutes}}"


def _turns_key(user_id: int) -> str:
    return f"limit:turns:{user_id}"


def _uploads_key(user_id: int) -> str:
    return f"limit:uploads:{user_id}"


def _forks_key(user_id: int) -> str:
    return f"limit:forks:{user_id}"
