"""What a turn that ended cost."""

import msgspec

from billing.metering import Usage
from chat.llm.pricing import SETTLE_BYTES_PER_TOKEN, Price, compute_cost, estimate_tokens, price_of, write_stamp
from chat.llm.providers.base import TokenUsage
from chat.models import LanguageModel
from history.models import Turn
from history.progress import Outcome


def cached_outcome(ended: Outcome, model: LanguageModel) -> Outcome:
    """Return the outcome of an answer that came from the cache: it is free, and used no tokens."""
    return msgspec.structs.replace(ended, model=model.key, provider=model.provider, is_from_cache=True, cost_micros=0)


def priced_outcome(
    turn: Turn,
    ended: Outcome,
    *,
    model: LanguageModel | None,
    price: Price | None = None,
    usage: TokenUsage | None = None,
) -> Outcome:
    """Return the outcome priced by what the provider reported, else by an estimate of what was shown.

    What showed nothing and reported nothing costs nothing. `model` is who answered, and `price` its price when it
    began; without one it is the price of when the question was asked, as far as it is known today.
    """
    usage_source = "provider" if usage else "estimated"
    if usage is None and (ended.answer or ended.reasoning):
        usage = _estimate(turn, ended)
    if model is None or usage is None:
        return msgspec.structs.replace(
            ended, model=turn.model, provider=turn.provider, instead_of="", instead_because=""
        )
    metered = Usage(usage.input, usage.output, usage.cache_read, usage.cache_write)
    reckoning = compute_cost(price or price_of(model, turn.created_at), metered)
    return msgspec.structs.replace(
        ended,
        model=model.key,
        provider=model.provider,
        input_tokens=usage.input,
        cache_read_tokens=usage.cache_read,
        cache_write_tokens=usage.cache_write,
        output_tokens=usage.output,
        reasoning_tokens=usage.reasoning,
        usage_source=usage_source,
        cost_micros=reckoning.cost_micros,
        price=write_stamp(reckoning.stamp),
    )


def _estimate(turn: Turn, ended: Outcome) -> TokenUsage:
    reasoning, answer = map(_estimate_text, (ended.reasoning, ended.answer))
    return TokenUsage(input=turn.input_tokens, output=answer + reasoning, reasoning=reasoning)


def _estimate_text(text: str) -> int:
    return estimate_tokens([text], bytes_per_token=SETTLE_BYTES_PER_TOKEN) if text else 0
