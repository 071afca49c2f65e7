"""The end of a turn: the answer is saved and the reservation settled or released, each exactly once."""

from billing import metering
from billing.metering import Usage
from chat.llm.pricing import (
    SETTLE_BYTES_PER_TOKEN,
    Price,
    compute_cost,
    estimate_tokens,
    price_of,
    read_stamp,
    write_stamp,
)
from chat.llm.providers.base import TokenUsage
from chat.models import LanguageModel
from history import access, progress
from history.models import Turn
from history.progress import Outcome

Status = Turn.Status


def close_turn(turn: Turn, outcome: Outcome) -> bool:
    """Save `outcome` and settle; return whether this caller's outcome is the one that holds.

    The settlement happens even if the write fails: the tokens were used. The sweep repeats either one.
    """
    try:
        is_ours = progress.close(turn, outcome)
    except Exception:
        settle_turn(turn, outcome)
        raise
    if is_ours or access.find_turn(turn.pk) is None:  # somebody deleted it while it was being written
        settle_turn(turn, outcome)
    return is_ours


def settle_turn(turn: Turn, outcome: Outcome | Turn) -> None:
    """Settle what a finished turn used, or release its reservation when it used nothing. May be repeated.

    An answer from the cache used nothing: the ledger does not have it.
    """
    if outcome.cost_micros is None or outcome.is_from_cache:
        metering.release(turn.pk)
        return
    usage = Usage(
        input=outcome.input_tokens,
        output=outcome.output_tokens,
        cache_read=outcome.cache_read_tokens,
        cache_write=outcome.cache_write_tokens,
        source=outcome.usage_source,
    )
    stamp = read_stamp(outcome.price)
    metering.settle(
        turn.pk,
        cost_micros=outcome.cost_micros,
        usage=usage,
        label=outcome.model,
        supplier=outcome.provider,
        spent_micros=stamp.provider_micros if stamp else outcome.cost_micros,
    )


def make_outcome(
    turn: Turn,
    *,
    status: str,
    answer: str,
    reasoning: str,
    model: LanguageModel | None,
    price: Price | None = None,
    instead_of: str = "",
    instead_because: str = "",
    usage: TokenUsage | None = None,
    is_from_cache: bool = False,
    finish_reason: str = "",
    error: str = "",
) -> Outcome:
    """Return how a turn ended, priced: by what the provider reported, else by an estimate of what was shown.

    What showed nothing and reported nothing costs nothing. What came from the cache is free, and used no tokens. `price` is
    that of `model` when it began to answer; without one it is the price of when the question was asked, as far as it is
    known today.
    """
    if is_from_cache and model is not None:
        return Outcome(
            status=status,
            answer=answer,
            reasoning=reasoning,
            model=model.key,
            provider=model.provider,
            is_from_cache=True,
            cost_micros=0,
            finish_reason=finish_reason,
            error=error,
        )
    source = "provider" if usage else "estimated"
    if usage is None and (answer or reasoning):
        usage = _estimate(turn, answer, reasoning)
    if model is None or usage is None:
        return Outcome(status, answer, reasoning, turn.model, turn.provider, finish_reason=finish_reason, error=error)
    metered = Usage(usage.input, usage.output, usage.cache_read, usage.cache_write)
    reckoning = compute_cost(price or price_of(model, turn.created_at), metered)
    return Outcome(
        status=status,
        answer=answer,
        reasoning=reasoning,
        model=model.key,
        provider=model.provider,
        instead_of=instead_of,
        instead_because=instead_because,
        input_tokens=usage.input,
        cache_read_tokens=usage.cache_read,
        cache_write_tokens=usage.cache_write,
        output_tokens=usage.output,
        reasoning_tokens=usage.reasoning,
        usage_source=source,
        cost_micros=reckoning.cost_micros,
        price=write_stamp(reckoning.stamp),
        finish_reason=finish_reason,
        error=error,
    )


def close_queued(turn: Turn, *, status: str, error: str = "") -> bool:
    """Close a turn nobody has begun to write; return whether that was still so."""
    return turn.status == Status.QUEUED and close_turn(turn, Outcome(status, error=error))


def can_continue(turn: Turn) -> bool:
    """Return whether the model may be asked to go on where the answer broke off."""
    broke_off = turn.status in (Status.STOPPED, Status.INTERRUPTED) or turn.finish_reason == "length"
    return broke_off and bool(turn.answer) and turn.error != "content_filter"


def _estimate(turn: Turn, answer: str, reasoning: str) -> TokenUsage:
    reasoned = estimate_tokens([reasoning], bytes_per_token=SETTLE_BYTES_PER_TOKEN) if reasoning else 0
    written = estimate_tokens([answer], bytes_per_token=SETTLE_BYTES_PER_TOKEN) if answer else 0
    return TokenUsage(input=turn.input_tokens, output=written + reasoned, reasoning=reasoned)
