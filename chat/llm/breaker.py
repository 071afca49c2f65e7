"""Who is not asked for a while: one breaker for each provider, key and model, shared by every runner in Redis.

Closed: ask. Open: do not, until its time is over. Then half-open: one request at a time may try, and closes it or opens it
for twice as long. A key a provider told to wait (Retry-After) rests for just that time.

A breaker opens after 5 failures in a row, or when at least half of at least 10 attempts within a minute fail; when the
provider refuses the key or does not know the model, at once. What a client did wrong, and what somebody stopped, never
counts.

All open breakers are one small hash, which a runner reads at most four times a second, and gets anew with every report it
sends: with all closed a busy runner's turns wait for nothing, an idle one's for one answer of Redis. A report is sent
beside the stream, carries many turns' outcomes when they are many, and counts them for chat/llm/health.py on the way.

Redis away: everybody is asked, and nothing is counted.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b
from time import monotonic
from typing import Any, Literal, TypeAlias
from uuid import uuid4

import msgspec
from django.conf import settings
from redis.exceptions import RedisError

from chat.llm.providers.base import Provider
from chat.llm.providers.errors import ProviderError
from core.loops import PerLoop
from core.redis_clients import async_redis

logger = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 5
MIN_ATTEMPTS, FAILED_SHARE = 10, 0.5
"""So many attempts within the window, and this part of them failed."""
SLOT_MS, SLOTS = 10_000, 6
"""The window: the last minute, ten seconds at a time."""
FIRST_OPEN_MS, MAX_OPEN_MS = 30_000, 300_000
MAX_REST_MS = 3_600_000
"""A provider that asks for more is asked again after an hour: an operator may have paid meanwhile."""
FORGOTTEN_MS = 600_000
"""A breaker nobody has tried for so long after its time is forgotten."""
FRESH_SECONDS = 0.25
LOOK_SECONDS = 0.25
"""How long a turn waits for Redis before it goes on without breakers."""
TOGETHER_SECONDS = 0.1
GRACE_SECONDS = 0.05
CLAIM_GRACE_SECONDS = 5.0

OPEN = "breakers:open"
HOURS, MINUTES = "health:h:", "health:m:"
"""Counters by hour and by five minutes, read by chat/llm/health.py."""
HOUR_MS, MINUTES_MS = 3_600_000, 300_000
KEPT_HOURS_SECONDS, KEPT_MINUTES_SECONDS = 25 * 3600, 1800

FAILURES = frozenset(("overloaded", "timeout", "connection", "bad_response", "rate_limited", "truncated"))
"""Codes that speak against a provider. A stream that breaks off after its first token is its `truncated` no more."""
BROKEN = frozenset(("authentication", "permission", "not_found"))
"""Codes that waiting does not help: an operator must."""

Verdict: TypeAlias = Literal["ok", "failed", "rest", "broken", "none"]

# What is open: for each breaker `<until> <times opened> <last failure> <code>`, in Redis's milliseconds. Zero times opened
# is a rest, which ends without a trial.
_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""
_ANSWER = """
return {now, redis.call('HGETALL', 'breakers:open')}
"""
_LOOK = _NOW + _ANSWER

# ARGV: an array of Report in msgpack; then the numbers above. Answers as _LOOK does, and which breakers opened.
_REPORT = (
    _NOW
    + """
local in_a_row, at_least, of_them = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local slot_ms, slots = tonumber(ARGV[5]), tonumber(ARGV[6])
local first_ms, longest_ms, forgotten_ms = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local hours, minutes = ARGV[10] .. math.floor(now / ARGV[11]), ARGV[12] .. math.floor(now / ARGV[13])
local slot, changed, is_counted = math.floor(now / slot_ms), {}, false

local function parse(entry)
  local ends, times, failed, code = string.match(entry, '^(%d+) (%d+) (%d+) (%S+)$')
  return tonumber(ends), tonumber(times), tonumber(failed), code
end

local function open(id, ends, times, code)
  redis.call('HSET', 'breakers:open', id, string.format('%.0f %d %.0f %s', ends, times, now, code))
end

local function trip(id, times, code)
  open(id, now + math.min(longest_ms, first_ms * 2 ^ (times - 1)), times, code)
  redis.call('DEL', 'breaker:' .. id)
  changed[#changed + 1] = id
end

local function count(id, has_failed)
  local key = 'breaker:' .. id
  redis.call('HINCRBY', key, 't' .. slot, 1)
  redis.call('EXPIRE', key, math.ceil(slot_ms * slots / 1000) * 2)
  if not has_failed then
    redis.call('HSET', key, 'row', 0)
    return false
  end
  redis.call('HINCRBY', key, 'f' .. slot, 1)
  if redis.call('HINCRBY', key, 'row', 1) >= in_a_row then return true end
  local all, failed, old = 0, 0, {}
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    local kind, at = string.match(fields[i], '^([tf])(%d+)$')
    if kind and tonumber(at) <= slot - slots then
      old[#old + 1] = fields[i]
    elseif kind == 't' then
      all = all + fields[i + 1]
    elseif kind == 'f' then
      failed = failed + fields[i + 1]
    end
  end
  if #old > 0 then redis.call('HDEL', key, unpack(old)) end
  return all >= at_least and failed >= all * of_them
end

for _, report in ipairs(cmsgpack.unpack(ARGV[1])) do
  local id, verdict, code, rest_ms, trial, counts = unpack(report)
  local claim = 'breaker:' .. id .. ':trial'
  if trial ~= '' and redis.call('GET', claim) == trial then
    redis.call('DEL', claim)
  end
  local entry = redis.call('HGET', 'breakers:open', id)
  local ends, times, failed, was
  if entry then ends, times, failed, was = parse(entry) end
  if verdict == 'ok' then
    if entry and (trial ~= '' or (times == 0 and ends <= now)) then
      redis.call('HDEL', 'breakers:open', id)
    end
    count(id, false)
  elseif verdict == 'rest' then
    if not entry or (times == 0 and ends < now + rest_ms) then
      open(id, now + rest_ms, 0, code)
      changed[#changed + 1] = id
    elseif times > 0 and trial ~= '' and trial ~= 'last' then
      open(id, now + math.max(rest_ms, first_ms), times, code)
    end
  elseif verdict == 'failed' or verdict == 'broken' then
    if entry and times > 0 then
      if trial ~= '' and trial ~= 'last' then
        trip(id, times + 1, code)
      else
        open(id, ends, times, code)
      end
    elseif count(id, true) or verdict == 'broken' then
      trip(id, 1, code)
    end
  end
  for _, field in ipairs(counts) do
    is_counted = true
    redis.call('HINCRBY', hours, field, 1)
    redis.call('HINCRBY', minutes, field, 1)
  end
end
if is_counted then
  redis.call('EXPIRE', hours, ARGV[14])
  redis.call('EXPIRE', minutes, ARGV[15])
end
local entries = redis.call('HGETALL', 'breakers:open')
for i = 1, #entries, 2 do
  local ends, times = parse(entries[i + 1])
  if ends + (times == 0 and 0 or forgotten_ms) < now then redis.call('HDEL', 'breakers:open', entries[i]) end
end
return {now, redis.call('HGETALL', 'breakers:open'), changed}
"""
)

# ARGV: breaker, claim, its milliseconds. Answers 0 not now, 1 it is closed, 2 the trial is yours.
_CLAIM = (
    _NOW
    + """
local entry = redis.call('HGET', 'breakers:open', ARGV[1])
if not entry then return 1 end
local ends, times = string.match(entry, '^(%d+) (%d+)')
if tonumber(ends) > now then return 0 end
if times == '0' then return 1 end
return redis.call('SET', 'breaker:' .. ARGV[1] .. ':trial', ARGV[2], 'NX', 'PX', ARGV[3]) and 2 or 0
"""
)


class OpenBreaker(msgspec.Struct, frozen=True):
    """An open breaker: seconds until it may be tried (negative: it may), how often it opened in a row (0: a rest the
    provider asked for), seconds since the last failure, and that failure's code."""

    seconds: float
    times: int
    failed_ago: float
    code: str


class Report(msgspec.Struct, frozen=True, array_like=True):
    """What an attempt, or its first token, says of a breaker, and what is to be counted."""

    breaker: str
    verdict: Verdict
    code: str = ""
    rest_ms: int = 0
    trial: str = ""
    counts: tuple[str, ...] = ()


def breaker_id(provider: Provider, model_key: str) -> str:
    """Return the breaker's name: provider, digest of its key, model."""
    return f"{provider.slug}:{key_digest(provider.api_key)}:{model_key}"


def split_breaker_id(breaker: str) -> tuple[str, str, str]:
    """Return provider, digest of the key, and model."""
    provider, digest, model = breaker.split(":", 2)
    return provider, digest, model


@lru_cache(256)
def key_digest(key: str) -> str:
    """Return what names a key to an operator: it cannot be turned back. Empty for no key."""
    if not key:
        return ""
    return blake2b(key.encode(), key=settings.SECRET_KEY.encode()[:64], digest_size=4).hexdigest()


def verdict_on(error: ProviderError, *, has_begun: bool) -> tuple[Verdict, int]:
    """Return what an error says of its breaker, and for how many milliseconds a rest is."""
    if error.code in BROKEN:
        return "broken", 0
    if error.code == "rate_limited" and error.retry_after:
        return "rest", min(MAX_REST_MS, round(error.retry_after * 1000))
    if error.code in FAILURES and not (has_begun and error.code == "truncated"):
        return "failed", 0
    return "none", 0


def parse_open(answer: Any) -> dict[str, OpenBreaker]:
    """Return the open breakers of a script's answer."""
    now, flat = answer[0], answer[1]
    found = {}
    for name, value in zip(flat[::2], flat[1::2], strict=True):
        ends, times, failed, code = value.decode().split(" ")
        found[name.decode()] = OpenBreaker((int(ends) - now) / 1000, int(times), (now - int(failed)) / 1000, code)
    return found


class Breakers:
    """What this loop knows of the breakers, and what it has to tell."""

    def __init__(self) -> None:
        self._open: Mapping[str, OpenBreaker] = {}
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._reports: list[Report] = []
        self._sending: asyncio.Task[None] | None = None
        self._sends_later: asyncio.TimerHandle | None = None
        redis = async_redis()
        self._look, self._report = redis.register_script(_LOOK), redis.register_script(_REPORT)

    def look_ahead(self) -> "asyncio.Task[None] | None":
        """Begin to read what is open, unless that is known as of a moment ago. Whoever will `look` waits less."""
        if monotonic() - self._read_at < FRESH_SECONDS:
            return None
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        return self._reading

    async def look(self) -> None:
        """Know what is open, as of a moment ago; wait no longer than LOOK_SECONDS for it."""
        if reading := self.look_ahead():
            await asyncio.wait((reading,), timeout=LOOK_SECONDS)

    def find_open(self, breaker: str) -> OpenBreaker | None:
        """Return the breaker as it is now if it is open; None if it is closed. One that may be tried is open too."""
        found = self._open.get(breaker)
        if found is None:
            return None
        passed = monotonic() - self._read_at
        seconds = found.seconds - passed
        if found.times == 0 and seconds <= GRACE_SECONDS:
            return None
        return OpenBreaker(seconds, found.times, found.failed_ago + passed, found.code)

    async def claim(self, breaker: str, *, patience_seconds: float) -> str | None:
        """Return the name of a trial if one may be made now by this caller; empty if it is closed by now, else None.

        The claim ends by itself some time after `patience_seconds`, should its holder die.
        """
        trial = uuid4().hex
        milliseconds = round((patience_seconds + CLAIM_GRACE_SECONDS) * 1000)
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                answer = await async_redis().register_script(_CLAIM)(args=(breaker, trial, milliseconds))
        except (RedisError, OSError, TimeoutError):
            return ""
        return (None, "", trial)[int(answer)]

    def report(self, report: Report) -> None:
        """Tell Redis, beside whatever the caller does next: a failure at once, a success with others of the same moment."""
        self._reports.append(report)
        if report.verdict != "ok" or report.trial:
            self._send_now()
        elif self._sends_later is None:
            self._sends_later = asyncio.get_running_loop().call_later(TOGETHER_SECONDS, self._send_now)

    async def settle(self) -> None:
        """Tell everything now, and wait until it is told, or cannot be."""
        self._send_now()
        for task in (self._reading, self._sending):
            if task is not None and not task.done():
                await asyncio.wait((task,))

    async def _read(self) -> None:
        try:
            self._know(await self._look(client=async_redis()))
        except (RedisError, OSError) as error:
            self._forget(error)

    def _send_now(self) -> None:
        if self._sends_later is not None:
            self._sends_later.cancel()
            self._sends_later = None
        if self._reports and (self._sending is None or self._sending.done()):
            self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._reports:
            reports, self._reports = self._reports, []
            numbers = (
                *(
                    FAILURES_IN_A_ROW,
                    MIN_ATTEMPTS,
                    FAILED_SHARE,
                    SLOT_MS,
                    SLOTS,
                    FIRST_OPEN_MS,
                    MAX_OPEN_MS,
                    FORGOTTEN_MS,
                ),
                *(HOURS, HOUR_MS, MINUTES, MINUTES_MS, KEPT_HOURS_SECONDS, KEPT_MINUTES_SECONDS),
            )
            try:
                packed = msgspec.msgpack.encode(reports)
                answer: Any = await self._report(args=(packed, *numbers), client=async_redis())
            except (RedisError, OSError) as error:
                self._forget(error)
                continue
            self._know(answer)
            for breaker in answer[2]:
                provider, digest, model = split_breaker_id(breaker.decode())
                told = self._open.get(breaker.decode())
                code, seconds = (told.code, round(told.seconds, 1)) if told else ("", 0)
                fields = {"provider": provider, "key": digest, "model": model, "code": code, "seconds": seconds}
                logger.warning("Breaker opened", extra=fields)

    def _know(self, answer: Any) -> None:
        self._open, self._read_at = parse_open(answer), monotonic()

    def _forget(self, error: Exception) -> None:
        logger.warning("Breakers unreachable", extra={"error": type(error).__name__})
        self._open, self._read_at = {}, monotonic()


_breakers = PerLoop(Breakers)


def breakers() -> Breakers:
    """Return the running loop's."""
    return _breakers.get()


async def close_breakers() -> None:
    """Tell what is still to be told; before the loop's Redis is closed."""
    if found := _breakers.pop():
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await found.settle()
