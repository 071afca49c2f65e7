"""What is counted of each provider and model, by five minutes and by hour, and what the last probes found.

Two hashes of Redis, `health:m:<five minutes>` and `health:h:<hour>`, have a field `<what>|<provider>|<model>`: `ok`,
`failed:<code>`, and how many times to the first token (`first:<step>`) and speeds (`speed:<step>`) fell on a step of a
logarithmic scale, four to the octave. Probes count `up` and `down` of a provider.

Answers are counted by the breakers' reports (chat/llm/breaker.py), probes here.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from django.utils import timezone

from chat.llm.breaker import (
    FAILURE_CODES,
    FIVE_MINUTE_COUNTERS,
    FIVE_MINUTE_COUNTERS_TTL_SECONDS,
    FIVE_MINUTES_MS,
    HOUR_COUNTERS,
    HOUR_COUNTERS_TTL_SECONDS,
    HOUR_MS,
    OPEN_BREAKERS,
    OPERATOR_CODES,
    PROBES,
    UNREACHABLE_CODES,
    OpenBreaker,
    parse_open_breakers,
    split_breaker_id,
)
from chat.llm.providers.base import TokenUsage
from chat.models import LanguageModel
from core.redis_clients import sync_redis

HOURS_SHOWN = 24
RECENT_SLOTS = 3  # of five minutes
STEPS_PER_OCTAVE = 4
"""A median is right within a tenth."""
MAX_STEP = 200
"""Beyond this nothing was measured: 2**50 milliseconds, or tokens a second."""
MIN_SPEED_TOKENS, MIN_SPEED_SECONDS = 20, 0.2
"""A shorter answer has no speed."""
PROVIDER_FAULT_CODES = FAILURE_CODES | OPERATOR_CODES

BreakerKey = tuple[str, str, str]
"""Provider, digest of the API key, model."""


@dataclass(slots=True)
class Tally:
    """What was counted of one provider, or of one model."""

    ok: int = 0
    failed: Counter[str] = field(default_factory=Counter)  # by code
    first: Counter[int] = field(default_factory=Counter)  # by step of milliseconds
    speed: Counter[int] = field(default_factory=Counter)  # by step of tokens a second
    up: int = 0
    down: int = 0

    def add(self, what: str, number: int) -> None:
        kind, _, detail = what.partition(":")
        match kind:
            case "ok":
                self.ok += number
            case "failed":
                self.failed[detail] += number
            case "first":
                self.first[_read_step(detail)] += number
            case "speed":
                self.speed[_read_step(detail)] += number
            case "up":
                self.up += number
            case "down":
                self.down += number

    @property
    def errors(self) -> list[tuple[str, int]]:
        """Each code and its number, the most frequent first."""
        return self.failed.most_common()

    @property
    def provider_faults(self) -> int:
        """Failures that are the provider's own, not a question's."""
        return sum(number for code, number in self.failed.items() if code in PROVIDER_FAULT_CODES)

    @property
    def first_seconds(self) -> float | None:
        """The median time to the first token."""
        milliseconds = _median(self.first)
        return None if milliseconds is None else milliseconds / 1000

    @property
    def tokens_per_second(self) -> float | None:
        """The median speed after the first token."""
        return _median(self.speed)


class Probe(msgspec.Struct, frozen=True):
    """What a provider answered when it was asked for its models: the code of its error, empty if it listed them.

    `keys` holds the same for each digest of an API key; `at` is seconds since 1970.
    """

    code: str
    at: Annotated[float, msgspec.Meta(ge=0, le=1e11)]
    keys: dict[str, str] = {}

    @property
    def is_down(self) -> bool:
        """Whether the provider could not be reached. One that refuses to list its models, or has no list, is up."""
        return self.code in UNREACHABLE_CODES


@dataclass(slots=True)
class Counts:
    """Everything Redis has: counters by number of the hour and of the last five-minute slots, probes, open breakers."""

    hours: dict[int, Mapping[bytes, bytes]]
    slots: list[Mapping[bytes, bytes]]
    probes: dict[str, Probe]
    open_breakers: dict[BreakerKey, OpenBreaker]
    now_ms: int  # since 1970


def success_fields(
    model: LanguageModel, usage: TokenUsage | None, first_seconds: float, streaming_seconds: float
) -> tuple[str, ...]:
    """Return the fields to count for an answer: the time to its first token, and its speed after that.

    `usage` is what is believed of what the provider reported: everybody sees the speed.
    """
    of_model = f"|{model.provider}|{model.key}"
    fields = [f"ok{of_model}", f"first:{_step(first_seconds * 1000)}{of_model}"]
    if usage and usage.output >= MIN_SPEED_TOKENS and streaming_seconds >= MIN_SPEED_SECONDS:
        fields.append(f"speed:{_step(usage.output / streaming_seconds)}{of_model}")
    return tuple(fields)


def failure_fields(model: LanguageModel, code: str) -> tuple[str, ...]:
    """Return the fields to count for an attempt that failed."""
    return (f"failed:{code}|{model.provider}|{model.key}",)


def save_probe(provider: str, probe: Probe) -> None:
    """Save what a probe found, and count it."""
    probed_ms = round(probe.at * 1000)
    counted = f"{'down' if probe.is_down else 'up'}|{provider}|"
    hour_key = f"{HOUR_COUNTERS}{probed_ms // HOUR_MS}"
    slot_key = f"{FIVE_MINUTE_COUNTERS}{probed_ms // FIVE_MINUTES_MS}"
    with sync_redis().pipeline(transaction=False) as pipeline:
        pipeline.hset(PROBES, provider, msgspec.json.encode(probe))
        for key, ttl in ((hour_key, HOUR_COUNTERS_TTL_SECONDS), (slot_key, FIVE_MINUTE_COUNTERS_TTL_SECONDS)):
            pipeline.hincrby(key, counted, 1)
            pipeline.expire(key, ttl)
        pipeline.execute()


def read_counts() -> Counts:
    """Return everything that was counted, in one round trip; raises RedisError."""
    now = now_ms()
    hours = [now // HOUR_MS - ago for ago in reversed(range(HOURS_SHOWN))]
    with sync_redis().pipeline(transaction=False) as pipeline:
        for hour in hours:
            pipeline.hgetall(f"{HOUR_COUNTERS}{hour}")
        for ago in range(RECENT_SLOTS):
            pipeline.hgetall(f"{FIVE_MINUTE_COUNTERS}{now // FIVE_MINUTES_MS - ago}")
        pipeline.hgetall(PROBES)
        pipeline.hgetall(OPEN_BREAKERS)
        answers: list[Any] = pipeline.execute()
    return Counts(
        hours=dict(zip(hours, answers[:HOURS_SHOWN], strict=True)),
        slots=answers[HOURS_SHOWN:-2],
        probes=_parse_probes(answers[-2]),
        open_breakers=_parse_breakers(now, answers[-1]),
        now_ms=now,
    )


def read_open_breakers() -> dict[BreakerKey, OpenBreaker]:
    """Return the open breakers alone; raises RedisError."""
    entries: Any = sync_redis().hgetall(OPEN_BREAKERS)
    return _parse_breakers(now_ms(), entries) if entries else {}


def tally_of(hashes: Iterable[Mapping[bytes, bytes]], provider: str, model: str = "") -> Tally:
    """Return what was counted of the provider, or of one of its models. What is none of ours is passed over."""
    tally = Tally()
    for counts in hashes:
        for name, number in counts.items():
            with suppress(ValueError):
                what, counted_provider, counted_model = name.decode().split("|", 2)
                if counted_provider == provider and (not model or counted_model == model):
                    tally.add(what, int(number))
    return tally


def now_ms() -> int:
    return round(timezone.now().timestamp() * 1000)


def _parse_breakers(now: int, entries: Mapping[bytes, bytes]) -> dict[BreakerKey, OpenBreaker]:
    flat = [part for entry in entries.items() for part in entry]
    return {split_breaker_id(breaker): opened for breaker, opened in parse_open_breakers((now, flat)).items()}


def _parse_probes(found: Mapping[bytes, bytes]) -> dict[str, Probe]:
    probes = {}
    for provider, value in found.items():
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            probes[provider.decode()] = msgspec.json.decode(value, type=Probe)
    return probes


def _read_step(detail: str) -> int:
    step = int(detail)
    if abs(step) > MAX_STEP:
        raise ValueError
    return step


def _step(value: float) -> int:
    return round(math.log2(max(value, 1e-3)) * STEPS_PER_OCTAVE)


def _median(steps: Counter[int]) -> float | None:
    remaining = sum(steps.values()) / 2
    for step in sorted(steps):
        remaining -= steps[step]
        if remaining <= 0:
            return float(2 ** (step / STEPS_PER_OCTAVE))
    return None
