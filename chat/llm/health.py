"""How the providers are: what real turns and free probes said, by five minutes and by hour.

Everything is counted in two hashes of Redis, `health:m:<five minutes>` and `health:h:<hour>`, with a field for each
`<what>|<provider>|<model>`: `ok`, `failed:<code>`, and how many first tokens (`first:`) and speeds (`speed:`) fell between
two quarters of an octave. A probe counts `up` or `down` of a provider. Nothing here asks a provider.
"""

import datetime as dt
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import msgspec
from django.utils import timezone
from redis.exceptions import RedisError

from chat.llm.breaker import (
    BROKEN,
    FAILURES,
    HOUR_MS,
    HOURS,
    KEPT_HOURS_SECONDS,
    MINUTES,
    MINUTES_MS,
    OPEN,
    OpenBreaker,
    key_digest,
    parse_open,
    split_breaker_id,
)
from chat.llm.catalog import list_offered
from chat.llm.providers import list_providers
from chat.llm.providers.base import Provider, TokenUsage
from chat.models import LanguageModel
from core.redis_clients import sync_redis

HOURS_SHOWN = 24
RECENT_SLOTS = 3  # five minutes each
STEPS = 4
"""Steps of an octave: a median is right within a tenth."""
MIN_TOKENS, MIN_SECONDS = 20, 0.2
"""Of what is shorter a speed says nothing."""
DEGRADED, UNAVAILABLE = 0.1, 0.5
"""Parts of the attempts that failed; of fewer than three, one by chance is nothing."""
MIN_FAILED = 2
PROBED_SECONDS = 300
"""A probe says nothing any more after this."""
RESTING_SECONDS, OVERVIEW_SECONDS = 1.0, 5.0
PROBES = "health:probes"
DOWN = frozenset(("authentication", "connection", "overloaded", "timeout"))
"""What a probe may find that means nobody is answered."""
SPEAKS_AGAINST = FAILURES | BROKEN

T = TypeVar("T")
State: TypeAlias = Literal["operational", "degraded", "unavailable", "unknown"]


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
        kind, _, which = what.partition(":")
        match kind:
            case "ok":
                self.ok += number
            case "failed":
                self.failed[which] += number
            case "first":
                self.first[int(which)] += number
            case "speed":
                self.speed[int(which)] += number
            case "up":
                self.up += number
            case "down":
                self.down += number

    @property
    def errors(self) -> list[tuple[str, int]]:
        """Each code and its number, the most frequent first."""
        return self.failed.most_common()

    @property
    def against(self) -> int:
        """Failures that are the provider's own, not a question's."""
        return sum(number for code, number in self.failed.items() if code in SPEAKS_AGAINST)

    @property
    def state(self) -> State:
        """What these numbers say: by the turns, else by the probes."""
        attempts = self.ok + self.against
        if self.against >= MIN_FAILED and self.against >= attempts * DEGRADED:
            return "unavailable" if self.against >= attempts * UNAVAILABLE else "degraded"
        if self.down > self.up and not self.ok:
            return "unavailable"
        if self.down and self.down >= (self.up + self.down) * DEGRADED:
            return "degraded"
        return "operational" if self.ok or self.up or attempts else "unknown"

    @property
    def first_seconds(self) -> float | None:
        """The median time to the first token."""
        found = _median(self.first)
        return None if found is None else found / 1000

    @property
    def tokens_per_second(self) -> float | None:
        """The median speed after it."""
        return _median(self.speed)


@dataclass(frozen=True, slots=True)
class Hour:
    begins_at: dt.datetime
    state: State


class Probe(msgspec.Struct, frozen=True):
    """What a provider said when it was asked for its models: the code of its error, empty if it told them.

    `keys` holds the same for each digest of a key; `at` is seconds since 1970.
    """

    code: str
    at: float
    keys: dict[str, str] = {}

    @property
    def is_down(self) -> bool:
        """Whether it could not be reached. Who refuses to tell its models, or has no such list, is there."""
        return self.code in DOWN


@dataclass(frozen=True, slots=True)
class ProviderHealth:
    """What the status page shows of a provider. `resting` are the labels of its models nobody is answered by now."""

    name: str
    state: State
    hours: tuple[Hour, ...]  # the oldest first
    first_seconds: float | None
    tokens_per_second: float | None
    resting: tuple[str, ...]

    @property
    def has_figures(self) -> bool:
        return self.first_seconds is not None or self.tokens_per_second is not None


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """What the admin shows of a model: what was counted of it, and its open breakers by digest of their key."""

    model: LanguageModel
    lately: Tally
    today: Tally
    breakers: tuple[tuple[str, OpenBreaker], ...]

    @property
    def tallies(self) -> tuple[Tally, Tally]:
        return self.lately, self.today


# --- Counting -------------------------------------------------------------------------------------------------------


def success(model: LanguageModel, usage: TokenUsage | None, waited: float, wrote: float) -> tuple[str, ...]:
    """Return the fields to count for an answer; `waited` and `wrote` are seconds, to the first token and after it."""
    of = f"|{model.provider}|{model.key}"
    counts = [f"ok{of}", f"first:{_step(waited * 1000)}{of}"]
    if usage and usage.output >= MIN_TOKENS and wrote >= MIN_SECONDS:
        counts.append(f"speed:{_step(usage.output / wrote)}{of}")
    return tuple(counts)


def failure(model: LanguageModel, code: str) -> tuple[str, ...]:
    """Return the fields to count for an attempt that failed."""
    return (f"failed:{code}|{model.provider}|{model.key}",)


def save_probe(provider: str, probe: Probe) -> None:
    """Keep what a probe found, and count it."""
    now = round(probe.at * 1000)
    what = f"{'down' if probe.is_down else 'up'}|{provider}|"
    with sync_redis().pipeline(transaction=False) as pipeline:
        pipeline.hset(PROBES, provider, msgspec.json.encode(probe))
        for key, seconds in ((_hour_key(now), KEPT_HOURS_SECONDS), (_slot_key(now), 1800)):
            pipeline.hincrby(key, what, 1)
            pipeline.expire(key, seconds)
        pipeline.execute()


# --- Reading --------------------------------------------------------------------------------------------------------


def resting_models() -> frozenset[str]:
    """Return the keys of models whose every breaker is open: nobody would be answered by them now.

    As of a second ago; empty while Redis is away.
    """
    return _resting.get()


def overview() -> tuple[ProviderHealth, ...] | None:
    """Return how the providers on offer are, as of some seconds ago; None while Redis is away. Waits for no provider."""
    return _overview.get()


def forget_cached_health() -> None:
    """Drop what this process keeps of them."""
    _resting.forget()
    _overview.forget()


def causes() -> tuple[list[ErrorCounts], dict[str, Probe]] | None:
    """Return what the operator may know: of each model on offer, and the last probe of each provider.

    None while Redis is away.
    """
    try:
        found = _read()
    except RedisError:
        return None
    return [
        ErrorCounts(
            model=model,
            lately=_tally(found.slots, model.provider, model.key),
            today=_tally(found.hours.values(), model.provider, model.key),
            breakers=tuple(
                (digest, opened)
                for (provider, digest, key), opened in found.opened.items()
                if (provider, key) == (model.provider, model.key)
            ),
        )
        for model in (candidate.model for candidate in list_offered())
    ], found.probes


@dataclass(slots=True)
class _Found:
    """What Redis has: counters by hour (its number) and of the last five-minute slots, probes, and open breakers."""

    hours: dict[int, Mapping[bytes, bytes]]
    slots: list[Mapping[bytes, bytes]]
    probes: dict[str, Probe]
    opened: dict[tuple[str, str, str], OpenBreaker]
    now: int  # milliseconds since 1970


class _Cached(Generic[T]):
    """The result of `load`, for `seconds`; `missing` while Redis is away."""

    def __init__(self, load: Callable[[], T], seconds: float, missing: T) -> None:
        self._load, self._seconds, self._missing = load, seconds, missing
        self._value, self._loaded_at = missing, float("-inf")

    def get(self) -> T:
        if time.monotonic() - self._loaded_at >= self._seconds:
            self._loaded_at = time.monotonic()  # others need not load it too
            try:
                self._value = self._load()
            except RedisError:
                self._value = self._missing
        return self._value

    def forget(self) -> None:
        self._value, self._loaded_at = self._missing, float("-inf")


def _load_resting() -> frozenset[str]:
    entries: Any = sync_redis().hgetall(OPEN)
    return _resting_of(_opened(_now_ms(), entries)) if entries else frozenset()


def _resting_of(opened: Mapping[tuple[str, str, str], OpenBreaker]) -> frozenset[str]:
    closed: dict[tuple[str, str], set[str]] = {}
    for (provider, digest, model), found in opened.items():
        if found.seconds > 0:
            closed.setdefault((provider, model), set()).add(digest)
    providers = list_providers()
    return frozenset(
        model for (provider, model), digests in closed.items() if digests >= _digests(providers.get(provider))
    )


def _load_overview() -> tuple[ProviderHealth, ...]:
    found = _read()
    resting = _resting_of(found.opened)
    offered: dict[str, list[LanguageModel]] = {}
    for candidate in list_offered():
        offered.setdefault(candidate.provider.slug, []).append(candidate.model)
    providers = list_providers()
    return tuple(
        _health_of(providers[key], models, found, resting) for key, models in offered.items() if key in providers
    )


def _health_of(
    provider: Provider, models: list[LanguageModel], found: _Found, resting: frozenset[str]
) -> ProviderHealth:
    lately = _tally(found.slots, provider.slug)
    today = _tally(found.hours.values(), provider.slug)
    at_rest = tuple(model.label for model in models if model.key in resting)
    first = today.first_seconds if lately.first_seconds is None else lately.first_seconds
    speed = today.tokens_per_second if lately.tokens_per_second is None else lately.tokens_per_second
    return ProviderHealth(
        name=provider.name,
        state=_state_now(lately, found.probes.get(provider.slug), found.now, len(at_rest), len(models)),
        hours=tuple(
            Hour(dt.datetime.fromtimestamp(hour * HOUR_MS / 1000, dt.UTC), _tally((counts,), provider.slug).state)
            for hour, counts in found.hours.items()
        ),
        first_seconds=first,
        tokens_per_second=speed,
        resting=at_rest,
    )


def _state_now(lately: Tally, probe: Probe | None, now: int, resting: int, models: int) -> State:
    """Return the state: by what turns and probes said lately, and who rests."""
    if resting == models:
        return "unavailable"
    state = lately.state
    if probe and probe.is_down and now / 1000 - probe.at < PROBED_SECONDS:
        state = "degraded" if lately.ok else "unavailable"
    if state in ("operational", "unknown") and resting:
        return "degraded"
    return state


def _read() -> _Found:
    now = _now_ms()
    hours = [now // HOUR_MS - ago for ago in reversed(range(HOURS_SHOWN))]
    with sync_redis().pipeline(transaction=False) as pipeline:
        for hour in hours:
            pipeline.hgetall(f"{HOURS}{hour}")
        for ago in range(RECENT_SLOTS):
            pipeline.hgetall(f"{MINUTES}{now // MINUTES_MS - ago}")
        pipeline.hgetall(PROBES)
        pipeline.hgetall(OPEN)
        answers: list[Any] = pipeline.execute()
    return _Found(
        hours=dict(zip(hours, answers[:HOURS_SHOWN], strict=True)),
        slots=answers[HOURS_SHOWN:-2],
        probes={key.decode(): msgspec.json.decode(value, type=Probe) for key, value in answers[-2].items()},
        opened=_opened(now, answers[-1]),
        now=now,
    )


def _opened(now: int, entries: Mapping[bytes, bytes]) -> dict[tuple[str, str, str], OpenBreaker]:
    flat = [part for entry in entries.items() for part in entry]
    return {split_breaker_id(breaker): opened for breaker, opened in parse_open((now, flat)).items()}


def _tally(hashes: Iterable[Mapping[bytes, bytes]], provider: str, model: str = "") -> Tally:
    """Return what was counted of the provider, or of one of its models."""
    found = Tally()
    for counts in hashes:
        for name, number in counts.items():
            what, of, which = name.decode().split("|", 2)
            if of == provider and (not model or which == model):
                found.add(what, int(number))
    return found


def _digests(provider: Provider | None) -> set[str]:
    """Return the digests of the keys in use. A breaker of a key that was replaced says nothing any more."""
    return {key_digest(one.api_key) for one in provider.with_each_api_key()} if provider else set()


def _step(value: float) -> int:
    return round(math.log2(max(value, 1e-3)) * STEPS)


def _median(steps: Counter[int]) -> float | None:
    half = sum(steps.values()) / 2
    for step in sorted(steps):
        half -= steps[step]
        if half <= 0:
            return float(2 ** (step / STEPS))
    return None


def _now_ms() -> int:
    return round(timezone.now().timestamp() * 1000)


def _hour_key(now: int) -> str:
    return f"{HOURS}{now // HOUR_MS}"


def _slot_key(now: int) -> str:
    return f"{MINUTES}{now // MINUTES_MS}"


_resting: _Cached[frozenset[str]] = _Cached(_load_resting, RESTING_SECONDS, frozenset())
_overview: _Cached[tuple[ProviderHealth, ...] | None] = _Cached(_load_overview, OVERVIEW_SECONDS, None)
