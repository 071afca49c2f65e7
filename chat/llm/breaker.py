"""Circuit breakers, shared by all runners in Redis: a provider, API key and model are skipped a while after failures.

Closed: it is asked. Open: it is skipped until a moment. After that moment it is half open: one request at a time may
try, and closes it, or opens it for twice as long. When a provider says how long to wait (Retry-After), its breaker
opens for just that time: a pause, which ends without a trial.

A breaker opens after 5 failures in a row, or when at least half of at least 10 attempts within a minute failed; at
once when the provider refuses the API key or sends us elsewhere. A client's mistakes and stopped answers never count.

A question must not open it for others. What only a provider does counts each time: no connection, a redirect, 401, 402,
429, and every 5xx but 500 and 504. Whatever else goes wrong may be what was asked: a prompt that is too long to answer
in time, that breaks the model or meets a filter. That counts once for each person, whatever they ask, as long as it
goes on; and each time while the last probe could not reach the provider. 403 and 404 open the breaker when a second
person meets them within the window; only then is the operator alerted of a 403. So for one person alone on a site a
provider that is silent, and yet lists its models, opens no breaker: each question waits for it as the first one did,
and is then asked of the next candidate.

The open breakers are one small hash. A runner reads it at most four times a second, and gets it again in the answer
to each report. So a turn on a busy runner does not wait for Redis; on an idle one it waits for one round trip.
Reports are sent while the answer streams, several in one message when there are many, and feed the counters of
chat/llm/health/ on the way.

Without Redis every breaker is closed, and nothing is counted.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from time import monotonic
from typing import Any, Literal, TypeAlias
from uuid import uuid4

import msgspec
from django.conf import settings
from redis.exceptions import RedisError

from chat.llm.providers.base import Provider
from chat.llm.providers.errors import NotReached, ProviderError
from core.loops import PerLoop
from core.lua import LuaScript
from core.redis_clients import async_redis

logger = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 5
MIN_ATTEMPTS, FAILED_SHARE = 10, 0.5
"""A breaker opens when this share of at least this many attempts within the window failed."""
SLOT_MS, SLOTS = 10_000, 6
"""The window: the last minute, in slots of ten seconds."""
FIRST_OPEN_MS, MAX_OPEN_MS = 30_000, 300_000
MAX_PAUSE_MS = 3_600_000
"""However long a provider says to wait, it is tried after an hour: the operator may have paid meanwhile."""
FORGET_AFTER_MS = 600_000
"""A half-open breaker that nobody tries for so long is removed."""
FRESH_SECONDS = 0.25
REDIS_TIMEOUT_SECONDS = 0.25
"""How long a turn waits for Redis before it goes on without breakers."""
BATCH_SECONDS = 0.1
"""How long a success waits for others, to be reported with them."""
GRACE_SECONDS = 0.05
"""A pause counts as over this much before its end: two clocks are compared."""
TRIAL_GRACE_SECONDS = 5.0
MIN_REFUSED = 2
"""So many people must have met a 403 or 404, which may mean the question."""

OPEN_BREAKERS = "breakers:open"
HOUR_COUNTERS, FIVE_MINUTE_COUNTERS = "health:h:", "health:m:"
"""Prefixes of the counters' keys; chat/llm/health/counters.py reads them."""
PROBES = "health:probes"
PROBE_VALID_SECONDS = 300
UNREACHABLE_CODES = frozenset(("authentication", "connection", "overloaded", "redirected", "timeout"))
"""Codes of a probe that mean the provider answers nobody."""
HOUR_MS, FIVE_MINUTES_MS = 3_600_000, 300_000
HOUR_COUNTERS_TTL_SECONDS, FIVE_MINUTE_COUNTERS_TTL_SECONDS = 25 * 3600, 1800

FAILURE_CODES = frozenset(("overloaded", "timeout", "connection", "bad_response", "rate_limited", "truncated"))
"""Codes that count as the provider's failure; `truncated` only before the first token."""
OPERATOR_CODES = frozenset(("authentication", "permission", "not_found", "redirected"))
"""Codes that waiting does not mend: an operator must act."""

LAST_RESORT = "last resort"
"""In place of a trial's id: the breaker is open, and it is asked because nobody else can be."""

Verdict: TypeAlias = Literal["success", "failure", "unusable", "pause", "neutral"]
"""`unusable` opens the breaker at once, or where it may be what was asked, at the second person; `pause` opens it for
the time the provider said; `neutral` changes nothing."""

_READ = LuaScript(Path(__file__).with_name("read_open_breakers.lua"))
_REPORT = LuaScript(Path(__file__).with_name("report_attempts.lua"))
_CLAIM = LuaScript(Path(__file__).with_name("claim_trial.lua"))


class OpenBreaker(msgspec.Struct, frozen=True):
    """An open breaker. `seconds_left` until it may be tried, negative if it may be now; `code` of the last failure."""

    seconds_left: float
    times_opened: int  # in a row; 0: a pause the provider asked for
    failed_seconds_ago: float
    code: str

    @property
    def is_pause(self) -> bool:
        return self.times_opened == 0


class Report(msgspec.Struct, frozen=True, array_like=True):
    """What an attempt, or its first token, means for its breaker, and the fields to count in the health counters.

    `asker` names the person, if what they asked may be why it failed: they count once.
    """

    breaker: str
    verdict: Verdict
    code: str = ""
    pause_ms: int = 0
    trial: str = ""
    counter_fields: tuple[str, ...] = ()
    asker: str = ""


def breaker_id(provider: Provider, model_key: str) -> str:
    """Return the breaker's name: provider, digest of the API key, model."""
    return f"{provider.slug}:{api_key_digest(provider.api_key)}:{model_key}"


def split_breaker_id(breaker: str) -> tuple[str, str, str]:
    """Return provider, digest of the API key, and model."""
    provider, digest, model = breaker.split(":", 2)
    return provider, digest, model


@lru_cache(256)
def api_key_digest(api_key: str) -> str:
    """Return what names an API key to an operator and cannot be turned back; empty for none."""
    if not api_key:
        return ""
    return blake2b(api_key.encode(), key=settings.SECRET_KEY.encode()[:64], digest_size=4).hexdigest()


def verdict_on(error: ProviderError, *, has_begun: bool) -> tuple[Verdict, int]:
    """Return what an error means for its breaker, and the milliseconds of a pause, else 0."""
    if error.code in OPERATOR_CODES:
        return "unusable", 0
    if error.code == "rate_limited" and error.retry_after:
        return "pause", min(MAX_PAUSE_MS, round(error.retry_after * 1000))
    if error.code in FAILURE_CODES and not (has_begun and error.code == "truncated"):
        return "failure", 0
    return "neutral", 0


def may_be_the_questions(error: ProviderError) -> bool:
    """Return whether what was asked may have caused the error, or only the provider."""
    if isinstance(error, NotReached):
        return False
    match error.code:
        case "authentication" | "rate_limited" | "redirected":
            return False
        case "permission":
            return error.status == 403
        case "overloaded":
            return error.status in (None, 500)
    return True


def parse_open_breakers(answer: Any) -> dict[str, OpenBreaker]:
    """Return the open breakers of a script's answer: now in milliseconds, then names and entries in turn. What is none
    of ours is passed over."""
    now, flat = answer[0], answer[1]
    open_breakers = {}
    for name, entry in zip(flat[::2], flat[1::2], strict=True):
        with suppress(ValueError, OverflowError):
            open_until, times_opened, failed_at, code = entry.decode().split(" ")
            split_breaker_id(name.decode())
            open_breakers[name.decode()] = OpenBreaker(
                seconds_left=(int(open_until) - now) / 1000,
                times_opened=int(times_opened),
                failed_seconds_ago=(now - int(failed_at)) / 1000,
                code=code,
            )
    return open_breakers


class Breakers:
    """The open breakers as this event loop last read them, and the reports it has not sent yet."""

    def __init__(self) -> None:
        self._open: Mapping[str, OpenBreaker] = {}
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._reports: list[Report] = []
        self._when_opened: dict[str, Callable[[], None]] = {}  # by breaker, for what is being reported
        self._sending: asyncio.Task[None] | None = None
        self._send_timer: asyncio.TimerHandle | None = None

    def start_refresh(self) -> "asyncio.Task[None] | None":
        """Begin to read the open breakers, unless that was done a moment ago: a `refresh` that follows waits less."""
        if monotonic() - self._read_at < FRESH_SECONDS:
            return None
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(), context=Context())
        return self._reading

    async def refresh(self) -> None:
        """Read the open breakers, unless that was done a moment ago; wait at most REDIS_TIMEOUT_SECONDS."""
        if reading := self.start_refresh():
            await asyncio.wait((reading,), timeout=REDIS_TIMEOUT_SECONDS)

    def find_open(self, breaker: str) -> OpenBreaker | None:
        """Return the breaker as it is now if it is open or half open; None if it is closed."""
        last_read = self._open.get(breaker)
        if last_read is None:
            return None
        passed_seconds = monotonic() - self._read_at
        seconds_left = last_read.seconds_left - passed_seconds
        if last_read.is_pause and seconds_left <= GRACE_SECONDS:
            return None
        failed_seconds_ago = last_read.failed_seconds_ago + passed_seconds
        return OpenBreaker(seconds_left, last_read.times_opened, failed_seconds_ago, last_read.code)

    async def claim_trial(self, breaker: str, *, timeout_seconds: float) -> str | None:
        """Return a trial's id if the caller may try the breaker now; empty if it is closed by now; else None.

        The claim ends by itself some time after `timeout_seconds`, should the process die.
        """
        trial = uuid4().hex
        claim_ms = round((timeout_seconds + TRIAL_GRACE_SECONDS) * 1000)
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_SECONDS):
                answer = await _CLAIM(
                    async_redis(), open_breakers=OPEN_BREAKERS, breaker=breaker, trial=trial, claim_ms=claim_ms
                )
        except (RedisError, OSError, TimeoutError):
            return ""
        return (None, "", trial)[int(answer)]

    def report(self, report: Report, *, when_opened: Callable[[], None] | None = None) -> None:
        """Send a report in the background: a failure or a trial at once, a success with others of the same moment.

        `when_opened` is called if it opens the breaker.
        """
        self._reports.append(report)
        if when_opened is not None:
            self._when_opened[report.breaker] = when_opened
        if report.verdict != "success" or report.trial:
            self._send_now()
        elif self._send_timer is None:
            self._send_timer = asyncio.get_running_loop().call_later(BATCH_SECONDS, self._send_now)

    async def flush(self) -> None:
        """Send all reports now, and wait until that is done or has failed."""
        self._send_now()
        for task in (self._reading, self._sending):
            if task is not None and not task.done():
                await asyncio.wait((task,))

    async def _read(self) -> None:
        try:
            self._store(await _READ(async_redis(), open_breakers=OPEN_BREAKERS))
        except (RedisError, OSError) as error:
            self._close_all(error)

    def _send_now(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
        if self._reports and (self._sending is None or self._sending.done()):
            self._sending = asyncio.create_task(self._send(), context=Context())

    async def _send(self) -> None:
        while self._reports:
            reports, self._reports = self._reports, []
            when_opened, self._when_opened = self._when_opened, {}
            try:
                answer = await _run_report(reports)
            except (RedisError, OSError) as error:
                self._close_all(error)
                continue
            self._store(answer)
            for breaker in answer[2]:
                self._log_opened(breaker.decode())
                if call := when_opened.get(breaker.decode()):
                    call()

    def _store(self, answer: Any) -> None:
        self._open, self._read_at = parse_open_breakers(answer), monotonic()

    def _log_opened(self, breaker: str) -> None:
        provider, digest, model = split_breaker_id(breaker)
        opened = self._open.get(breaker)
        code, seconds = (opened.code, round(opened.seconds_left, 1)) if opened else ("", 0)
        fields = {"provider": provider, "key": digest, "model": model, "code": code, "seconds": seconds}
        logger.warning("Breaker opened", extra=fields)

    def _close_all(self, error: Exception) -> None:
        logger.warning("Breakers unreachable", extra={"error": type(error).__name__})
        self._open, self._read_at = {}, monotonic()


async def _run_report(reports: list[Report]) -> Any:
    return await _REPORT(
        async_redis(),
        open_breakers=OPEN_BREAKERS,
        reports=msgspec.msgpack.encode(reports),
        failures_in_a_row=FAILURES_IN_A_ROW,
        min_attempts=MIN_ATTEMPTS,
        failed_share=FAILED_SHARE,
        slot_ms=SLOT_MS,
        slots=SLOTS,
        first_open_ms=FIRST_OPEN_MS,
        max_open_ms=MAX_OPEN_MS,
        forget_after_ms=FORGET_AFTER_MS,
        hour_counters=HOUR_COUNTERS,
        hour_ms=HOUR_MS,
        hour_counters_ttl=HOUR_COUNTERS_TTL_SECONDS,
        five_minute_counters=FIVE_MINUTE_COUNTERS,
        five_minutes_ms=FIVE_MINUTES_MS,
        five_minute_counters_ttl=FIVE_MINUTE_COUNTERS_TTL_SECONDS,
        last_resort=LAST_RESORT,
        min_refused=MIN_REFUSED,
        probes=PROBES,
        unreachable_codes=" ".join(sorted(UNREACHABLE_CODES)),
        probe_valid_seconds=PROBE_VALID_SECONDS,
    )


_breakers = PerLoop(Breakers)


def breakers() -> Breakers:
    """Return the running loop's breakers."""
    return _breakers.get()


async def close_breakers() -> None:
    """Send the last reports, before the loop's Redis client is closed."""
    if closing := _breakers.pop():
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await closing.flush()
