"""How often somebody may ask: one rate limiter in Redis, exact under concurrency."""

from dataclasses import dataclass

from django.conf import settings
from redis.exceptions import RedisError

from core.errors import RateLimited, Unavailable
from core.redis_clients import sync_redis

# The generic cell rate algorithm. The key holds the theoretical arrival time in microseconds: the moment at which
# all that was taken is given back. Redis's own clock, so that every process agrees.
_TAKE = """
local now = redis.call('TIME'); now = now[1] * 1000000 + now[2]
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2]) * 1000000
local interval = window / limit
local tat = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
local after = tat + interval
if after - now > window + 1 then
  return {0, 0, math.ceil((tat - now) / 1000), math.ceil((after - now - window) / 1000)}
end
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000))
return {1, math.floor((window - (after - now)) / interval + 0.0001), math.ceil((after - now) / 1000), 0}
"""
_GIVE_BACK = """
local tat = redis.call('GET', KEYS[1])
if tat then
  local interval = tonumber(ARGV[2]) * 1000000 / tonumber(ARGV[1])
  redis.call('SET', KEYS[1], string.format('%.0f', tonumber(tat) - interval), 'KEEPTTL')
end
"""

HOUR = 3600


@dataclass(frozen=True, slots=True)
class Limit:
    """Where somebody stands: `limit` an hour, `remaining` now, `reset_seconds` until all are back."""

    limit: int
    remaining: int
    reset_seconds: float


def take(user_id: int, turns_per_hour: int | None) -> Limit | None:
    """Count one question; None when there is no limit. Raises RateLimited, with the time to wait."""
    if turns_per_hour is None:
        return None
    if turns_per_hour == 0:
        raise RateLimited
    return _take(_key(user_id), turns_per_hour)


def give_back(user_id: int, turns_per_hour: int | None) -> None:
    """Uncount a question that was refused after it was counted."""
    if turns_per_hour:
        sync_redis().eval(_GIVE_BACK, 1, _key(user_id), turns_per_hour, HOUR)


def take_upload(user_id: int) -> None:
    """Count one uploaded file; raises RateLimited, with the time to wait, or Unavailable."""
    try:
        _take(f"limit:uploads:{user_id}", settings.ATTACHMENTS_PER_HOUR)
    except RedisError as error:
        raise Unavailable(retry_after=5) from error


def _take(key: str, per_hour: int) -> Limit:
    allowed, remaining, reset_ms, wait_ms = sync_redis().eval(_TAKE, 1, key, per_hour, HOUR)
    if not allowed:
        raise RateLimited(retry_after=wait_ms / 1000)
    return Limit(per_hour, remaining, reset_ms / 1000)


def _key(user_id: int) -> str:
    return f"limit:turns:{user_id}"
