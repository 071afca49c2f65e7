"""What an answer took, and what the next one may take: in figures, as pages, events and the API show them."""

from collections.abc import Iterable
from typing import Any, TypedDict

import msgspec

from chat.llm.pricing import SETTLE_BYTES_PER_TOKEN, estimate_tokens, rates_with_markup, read_stamp
from chat.models import LanguageModel
from chat.provider_registry import token_factor_of
from chat.turns.prompts import INSTRUCTIONS, add_instructions
from history.models import Turn

TYPICAL_ANSWER_TOKENS = 500
"""How long an answer is expected to be while the conversation has none to judge by."""
TYPICAL_REASONING_TOKENS = 500
"""What a model that reasons is expected to think for it."""


class UsageOfTurnBody(TypedDict):
    """Tokens of an answer: of `input`, `cache_read` and `cache_write` are a part, of `output`, `reasoning`. `source` is
    who counted: `provider`, or `estimated`."""

    input: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int
    source: str


class PriceOfTurnBody(TypedDict):
    """By which prices a cost was reckoned: micro-US-dollars a million tokens, for inputs longer than `above` tokens."""

    input: int
    output: int
    cache_read: int
    cache_write: int
    above: int
    markup_percent: int
    as_of: str
    provider_micros: int


def usage_of(turn: Turn) -> UsageOfTurnBody | None:
    """Return the tokens of a finished turn; None while it is open or when nothing was used."""
    if not turn.usage_source:
        return None
    return {
        "input": turn.input_tokens,
        "cache_read": turn.cache_read_tokens,
        "cache_write": turn.cache_write_tokens,
        "output": turn.output_tokens,
        "reasoning": turn.reasoning_tokens,
        "source": turn.usage_source,
    }


def first_token_ms(turn: Turn) -> int | None:
    """Return how long it took from the question to the first token, in milliseconds; None where nothing was shown."""
    if turn.first_token_at is None:
        return None
    return max(0, round((turn.first_token_at - turn.created_at).total_seconds() * 1000))


def tokens_per_second(turn: Turn) -> float | None:
    """Return how fast the answer came after its first token, reasoning included; None where that says nothing."""
    if turn.first_token_at is None or turn.completed_at is None:
        return None
    seconds = (turn.completed_at - turn.first_token_at).total_seconds()
    return turn.output_tokens / seconds if seconds > 0 and turn.output_tokens > 1 else None


def price_details(turn: Turn) -> PriceOfTurnBody | None:
    """Return the prices a turn was charged by; None where no cost was computed."""
    stamp = read_stamp(turn.price)
    if stamp is None:
        return None
    return {
        "input": stamp.input,
        "output": stamp.output,
        "cache_read": stamp.cache_read,
        "cache_write": stamp.cache_write,
        "above": stamp.above,
        "markup_percent": stamp.markup_percent,
        "as_of": stamp.as_of,
        "provider_micros": stamp.provider_micros,
    }


def estimates_for(
    models: Iterable[LanguageModel], unnamed: Iterable[LanguageModel] = (), *, instructions: str = ""
) -> dict[str, Any]:
    """Return what static/js/estimate.js calculates with. `unnamed` are those of the models that may answer where none
    is named; `instructions` those of the folder."""
    return {
        "instructions": estimate_tokens(
            [add_instructions(INSTRUCTIONS, instructions)], bytes_per_token=SETTLE_BYTES_PER_TOKEN
        ),
        "bytes_per_token": SETTLE_BYTES_PER_TOKEN,
        "models": {model.key: _estimate_of(model) for model in models},
        "unnamed": [model.key for model in unnamed],
    }


def _estimate_of(model: LanguageModel) -> dict[str, Any]:
    if model.is_free:
        return {"tier": model.tier}
    return {
        "tier": model.tier,
        "tiers": [msgspec.structs.asdict(rates) for rates in rates_with_markup(model)],
        "more": token_factor_of(model.provider),
        "window": model.context_window,
        "typical": TYPICAL_ANSWER_TOKENS + TYPICAL_REASONING_TOKENS * model.reasons,
    }
