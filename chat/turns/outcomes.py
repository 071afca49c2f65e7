"""What a turn that ended cost: never more than was reserved for it, except for input that was estimated too low."""

import logging
from collections.abc import Iterable
from dataclasses import replace

import msgspec
from django.utils.translation import gettext_noop

from chat.llm.pricing import (
    RESERVE_BYTES_PER_TOKEN,
    SETTLE_BYTES_PER_TOKEN,
    ModelPrice,
    compute_cost,
    estimate_tokens,
    metered_usage,
    price_of,
    write_stamp,
)
from chat.llm.providers.base import TokenUsage
from chat.models import LanguageModel
from chat.provider_registry import token_factor_of
from chat.turns.sent_requests import SentRequest, encode_unanswered
from core.alerts import alert
from history.models import Turn
from history.progress import Outcome

logger = logging.getLogger(__name__)

ABOVE_RESERVATION = gettext_noop(
    "An answer of %(model)s cost more than was reserved for it: its price rose, it ignores its limit, or its tokens "
    "are estimated too low."
)


def cached_outcome(ended: Outcome, model: LanguageModel) -> Outcome:
    """Return the outcome of an answer that came from the cache: it is free, and used no tokens."""
    return msgspec.structs.replace(ended, model=model.key, provider=model.provider, is_from_cache=True, cost_micros=0)


def priced_outcome(
    turn: Turn,
    ended: Outcome,
    *,
    model: LanguageModel | None,
    price: ModelPrice | None = None,
    usage: TokenUsage | None = None,
    stopped: SentRequest | None = None,
) -> Outcome:
    """Return the outcome priced by what the provider reported and is believed, else by an estimate of what was shown.

    What showed nothing and reported nothing costs nothing, unless the person stopped it: `stopped` is the request that
    was in flight then, and had the prompt. `model` is who answered or failed, and `price` its price
    when it began; without one it is the price of when the question was asked, as far as it is known today.
    """
    usage_source = "provider" if usage else "estimated"
    if usage is None and (ended.answer or ended.reasoning or ended.tool_calls or stopped):
        usage = _estimate(turn, ended, stopped)
    if model is None:
        return msgspec.structs.replace(
            ended, model=turn.model, provider=turn.provider, instead_of="", instead_because=""
        )
    ended = msgspec.structs.replace(ended, model=model.key, provider=model.provider)
    if usage is None:
        return ended
    price = price or price_of(model, turn.created_at)
    reckoning = compute_cost(price, metered_usage(usage))
    return msgspec.structs.replace(
        ended,
        input_tokens=usage.input,
        cache_read_tokens=usage.cache_read,
        cache_write_tokens=usage.cache_write,
        output_tokens=usage.output,
        reasoning_tokens=usage.reasoning,
        usage_source=usage_source,
        cost_micros=_charge(turn, model, usage, price, reckoning.cost_micros),
        price=write_stamp(reckoning.stamp),
    )


def _charge(turn: Turn, model: LanguageModel, usage: TokenUsage, price: ModelPrice, cost_micros: int) -> int:
    """Return what of the cost is charged: at most what was reserved, and what the input costs that was counted beyond
    the estimate. An answer longer than its cap, or a price that rose meanwhile, is not the person's to pay."""
    reserved = turn.max_cost_micros
    if reserved is None or cost_micros <= reserved:
        return cost_micros
    careful = turn.input_tokens * SETTLE_BYTES_PER_TOKEN * token_factor_of(model.provider) // RESERVE_BYTES_PER_TOKEN
    in_cap = replace(usage, output=min(usage.output, turn.max_output))
    as_estimated = replace(in_cap, input=min(usage.input, int(careful)))
    beyond = compute_cost(price, metered_usage(in_cap)).cost_micros
    beyond -= compute_cost(price, metered_usage(as_estimated)).cost_micros
    charged = min(cost_micros, reserved + beyond)
    fields = {"turn_id": turn.pk, "model": model.key, "provider": model.provider}
    figures = {"cost_micros": cost_micros, "reserved_micros": reserved, "charged_micros": charged}
    logger.warning("Cost above its reservation", extra=fields | figures)
    alert(f"{model.provider}:{model.key}:reservation", ABOVE_RESERVATION, **fields, **figures)
    return charged


def with_unanswered(turn: Turn, outcome: Outcome, requests: Iterable[SentRequest], *, answered: str = "") -> Outcome:
    """Return the outcome of an open turn with the requests that gave no answer: all, but for the one with the id
    `answered` where the outcome has a cost, which is for that one."""
    if outcome.cost_micros is not None and not outcome.is_from_cache:
        requests = (request for request in requests if request.id != answered)
    return msgspec.structs.replace(outcome, unanswered=encode_unanswered(turn, requests))


def _estimate(turn: Turn, ended: Outcome, stopped: SentRequest | None) -> TokenUsage:
    """Return what was shown, in tokens. A model that was stopped before its first word may have thought a little."""
    reasoning, answer = map(_estimate_text, (ended.reasoning, ended.answer + (ended.tool_calls or "")))
    if stopped and not answer:
        reasoning = max(reasoning, stopped.thought_tokens)
    output = min(turn.max_output, answer + reasoning)
    return TokenUsage(input=turn.input_tokens, output=output, reasoning=min(output, reasoning))


def _estimate_text(text: str) -> int:
    return estimate_tokens([text], bytes_per_token=SETTLE_BYTES_PER_TOKEN) if text else 0
