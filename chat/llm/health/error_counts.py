"""What the operator sees in the admin: each model's errors and open breakers, and the last probe of each provider."""

from dataclasses import dataclass

from redis.exceptions import RedisError

from chat.llm.breaker import OpenBreaker
from chat.llm.catalog import list_offered
from chat.llm.health.counters import Counts, Probe, Tally, read_counts, tally_of
from chat.models import LanguageModel


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """What was counted of a model in the last minutes and today, and its open breakers by digest of their API key."""

    model: LanguageModel
    recent: Tally
    today: Tally
    breakers: tuple[tuple[str, OpenBreaker], ...]

    @property
    def tallies(self) -> tuple[Tally, Tally]:
        return self.recent, self.today


def read_error_counts() -> tuple[list[ErrorCounts], dict[str, Probe]] | None:
    """Return the counts of each model on offer, and the last probe of each provider; None without Redis."""
    try:
        counts = read_counts()
    except RedisError:
        return None
    return [_errors_of(candidate.model, counts) for candidate in list_offered()], counts.probes


def _errors_of(model: LanguageModel, counts: Counts) -> ErrorCounts:
    return ErrorCounts(
        model=model,
        recent=tally_of(counts.slots, model.provider, model.key),
        today=tally_of(counts.hours.values(), model.provider, model.key),
        breakers=tuple(
            (digest, breaker)
            for (provider, digest, key), breaker in counts.open_breakers.items()
            if (provider, key) == (model.provider, model.key)
        ),
    )
