"""Rate limits of questions and uploads, by one limiter in Redis that is exact under concurrency."""

from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from redis.exceptions import RedisError

from core.errors import RateLimited, Unavailable
from core.lua import LuaScript
from core.redis_clients import sync_redis

_COUNT = LuaScript(Path(__file__).with_name("count_in_window.lua"))
_UNCOUNT = LuaScript(Path(__file__).with_name("uncount_in_window.lua"))

HOUR_SECONDS = 3_600


@dataclass(frozen=True, slots=True)
class Limit:
    """Where a person stands: `limit` an hour, `remaining` now, `reset_seconds` until all are available again."""

    limit: int
    remaining: int
    reset_seconds: float


def count_question(user_id: int, turns_per_hour: int | None) -> Limit | None:
    """Count one question; None when there is no limit. Raises RateLimited, with the time to wait."""
    if turns_per_hour is None:
        return None
    if turns_per_hour == 0:
        raise RateLimited
    return _count(_turns_key(user_id), turns_per_hour)


def uncount_question(user_id: int, turns_per_hour: int | None) -> None:
    """Give back the count of a question that was refused after all."""
    if turns_per_hour:
        _UNCOUNT(sync_redis(), arrival=_turns_key(user_id), limit=turns_per_hour, window_seconds=HOUR_SECONDS)


def count_upload(user_id: int) -> None:
    """Count one uploaded file; raises RateLimited, with the time to wait, or Unavailable."""
    try:
        _count(_uploads_key(user_id), settings.ATTACHMENTS_PER_HOUR)
    except RedisError as error:
        raise Unavailable(retry_after=5) from error


def forget_counts(user_id: int) -> None:
    """Drop what was counted of a person who is gone. Raises RedisError."""
    sync_redis().unlink(_turns_key(user_id), _uploads_key(user_id))


def _count(key: str, per_hour: int) -> Limit:
    allowed, remaining, reset_ms, wait_ms = _COUNT(
        sync_redis(), arrival=key, limit=per_hour, window_seconds=HOUR_SECONDS
    )
    if not allowed:
        raise RateLimited(retry_after=wait_ms / 1000)
    return Limit(per_hour, remaining, reset_ms / 1000)


def _turns_key(user_id: int) -> str:
    return f"limit:turns:{user_id}"


def _uploads_key(user_id: int) -> str:
    return f"limit:uploads:{user_id}"
