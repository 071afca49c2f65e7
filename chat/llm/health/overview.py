"""How each provider is, as pages say it, and which models nobody would be answered by now. Asks no provider."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from redis.exceptions import RedisError

from chat.llm.breaker import HOUR_MS, PROBE_VALID_SECONDS, OpenBreaker, api_key_digest
from chat.llm.catalog import list_offered
from chat.llm.health.counters import BreakerKey, Counts, Probe, Tally, read_counts, read_open_breakers, tally_of
from chat.llm.providers import list_providers
from chat.llm.providers.base import Provider
from chat.models import LanguageModel
from core.caching import CachedValue

DEGRADED_SHARE, UNAVAILABLE_SHARE = 0.1, 0.5
"""Of the attempts, or of the probes, that failed."""
MIN_FAILED = 2
"""One failure may be chance."""
UNAVAILABLE_CACHED_SECONDS, OVERVIEW_CACHED_SECONDS = 1.0, 5.0

State: TypeAlias = Literal["operational", "degraded", "unavailable", "unknown"]


@dataclass(frozen=True, slots=True)
class Hour:
    begins_at: dt.datetime
    state: State


@dataclass(frozen=True, slots=True)
class ProviderHealth:
    """What the status page shows of a provider. `unavailable` are its models that answer nobody now."""

    name: str
    state: State
    hours: tuple[Hour, ...]  # the oldest first
    first_seconds: float | None
    tokens_per_second: float | None
    unavailable: tuple[LanguageModel, ...]

    @property
    def has_figures(self) -> bool:
        return self.first_seconds is not None or self.tokens_per_second is not None


def unavailable_models() -> frozenset[str]:
    """Return the keys of models whose breaker is open for every API key: nobody would be answered by them now.

    At most a second old; empty without Redis.
    """
    return _unavailable.get()


def silent_models() -> frozenset[str]:
    """Return the keys of the models that the status page says do not answer now; none without Redis. For pages: who is
    asked is decided by `unavailable_models`."""
    return frozenset(model.key for provider in list_provider_health() or () for model in provider.unavailable)


def list_provider_health() -> tuple[ProviderHealth, ...] | None:
    """Return how the providers on offer are, at most some seconds old; None without Redis."""
    return _overview.get()


def state_of(tally: Tally) -> State:
    """Return what the numbers say: the answers first, then the probes."""
    attempts = tally.ok + tally.provider_faults
    if tally.provider_faults >= MIN_FAILED and tally.provider_faults >= attempts * DEGRADED_SHARE:
        return "unavailable" if tally.provider_faults >= attempts * UNAVAILABLE_SHARE else "degraded"
    if tally.down > tally.up and not tally.ok:
        return "unavailable"
    if tally.down and tally.down >= (tally.up + tally.down) * DEGRADED_SHARE:
        return "degraded"
    return "operational" if tally.ok or tally.up or attempts else "unknown"


def _load_unavailable() -> frozenset[str]:
    try:
        return _unavailable_by(read_open_breakers())
    except RedisError:
        return frozenset()


def _unavailable_by(open_breakers: Mapping[BreakerKey, OpenBreaker]) -> frozenset[str]:
    digests_by_model: dict[tuple[str, str], set[str]] = {}
    for (provider, digest, model), breaker in open_breakers.items():
        if breaker.seconds_left > 0:
            digests_by_model.setdefault((provider, model), set()).add(digest)
    if not digests_by_model:
        return frozenset()
    providers = list_providers()
    return frozenset(
        model
        for (provider, model), digests in digests_by_model.items()
        if digests >= _digests_in_use(providers.get(provider))
    )


def _digests_in_use(provider: Provider | None) -> set[str]:
    """Return the digests of the provider's API keys: the breaker of a key that was replaced says nothing any more."""
    return {api_key_digest(one.api_key) for one in provider.with_each_api_key()} if provider else set()


def _load_overview() -> tuple[ProviderHealth, ...] | None:
    try:
        counts = read_counts()
    except RedisError:
        return None
    unavailable = _unavailable_by(counts.open_breakers)
    offered: dict[str, list[LanguageModel]] = {}
    for candidate in list_offered():
        offered.setdefault(candidate.provider.slug, []).append(candidate.model)
    providers = list_providers()
    return tuple(
        _health_of(providers[slug], models, counts, unavailable)
        for slug, models in offered.items()
        if slug in providers
    )


def _health_of(
    provider: Provider, models: list[LanguageModel], counts: Counts, unavailable: frozenset[str]
) -> ProviderHealth:
    recent = tally_of(counts.slots, provider.slug)
    today = tally_of(counts.hours.values(), provider.slug)
    skipped = tuple(model for model in models if model.key in unavailable)
    state = _state_now(recent, counts.probes.get(provider.slug), counts.now_ms, len(skipped), len(models))
    first_seconds, recent_speed = recent.first_seconds, recent.tokens_per_second
    return ProviderHealth(
        name=provider.name,
        state=state,
        hours=tuple(
            Hour(
                dt.datetime.fromtimestamp(hour * HOUR_MS / 1000, dt.UTC), state_of(tally_of((counted,), provider.slug))
            )
            for hour, counted in counts.hours.items()
        ),
        first_seconds=today.first_seconds if first_seconds is None else first_seconds,
        tokens_per_second=today.tokens_per_second if recent_speed is None else recent_speed,
        unavailable=tuple(models) if state == "unavailable" else skipped,
    )


def _state_now(recent: Tally, probe: Probe | None, now_ms: int, unavailable: int, models: int) -> State:
    """Return the state by recent answers and probes, and by how many of the models are unavailable."""
    if unavailable == models:
        return "unavailable"
    state = state_of(recent)
    if probe and probe.is_down and now_ms / 1000 - probe.at < PROBE_VALID_SECONDS:
        state = "degraded" if recent.ok else "unavailable"
    if state in ("operational", "unknown") and unavailable:
        return "degraded"
    return state


_unavailable = CachedValue(_load_unavailable, seconds=UNAVAILABLE_CACHED_SECONDS)
_overview = CachedValue(_load_overview, seconds=OVERVIEW_CACHED_SECONDS)
