"""Turns whose runner is gone: closed with what their log says, or left to run again."""

import logging

import msgspec
from django.db import DatabaseError, OperationalError
from django.utils.translation import gettext_lazy as _
from redis.asyncio import Redis

from chat.llm.catalog import find_model
from chat.llm.pricing import read_price
from chat.turns.closing import close_turn
from chat.turns.ending import announce_end
from chat.turns.leases import drop_lease, take_lease
from chat.turns.log import Replay, decode_begun, decode_outcome
from chat.turns.outcomes import cached_outcome, priced_outcome
from core.alerts import alert
from core.threads import in_thread
from history import access
from history.models import Turn
from history.progress import Outcome

logger = logging.getLogger(__name__)

MAX_DEATHS = 2
"""A turn that was on board of so many runners that died is not given to another: it may be what they died of."""
MAX_GENERATIONS = 10
"""A turn that showed nothing is not run again after so many generations, whatever became of them: Redis may have lost
who had it on board."""


def outcome_from_log(turn: Turn, replay: Replay) -> Outcome | None:
    """Return how a turn without a runner ends; None when nothing was shown, so that it can simply run again."""
    if outcome := decode_outcome(replay):
        return outcome
    if not replay.was_shown and turn.gen < MAX_GENERATIONS:
        return None
    begun = decode_begun(replay)
    model = find_model(begun.model or turn.requested_model)
    lost = Outcome(
        Turn.Status.INTERRUPTED if replay.was_shown else Turn.Status.FAILED,
        replay.text,
        replay.reasoning,
        instead_of=begun.instead_of,
        instead_because=begun.instead_because,
        error="runner_lost",
    )
    if begun.is_from_cache and model is not None:
        outcome = cached_outcome(lost, model)
    else:
        price = read_price(begun.price) if begun.price else None
        outcome = priced_outcome(turn, lost, model=model, price=price)
    return msgspec.structs.replace(outcome, reasoning_ms=replay.reasoning_ms)


def give_up(turn: Turn) -> Outcome:
    """Return how a turn ends that MAX_DEATHS runners died with before it showed anything, and alert the operators."""
    sentence = _("Two runners died with the same question, which was given up. Their logs may say why.")
    alert(f"runners:given_up:{turn.requested_model}", sentence, turn_id=turn.pk, model=turn.requested_model)
    return Outcome(Turn.Status.FAILED, model=turn.model, provider=turn.provider, error="given_up")


async def close_without_runner(
    redis: Redis, turn: Turn, outcome: Outcome, *, closer: str, queue_entry: bytes = b""
) -> bool:
    """Close a turn nobody holds the lease of; return whether this call closed it.

    The lease is taken meanwhile: a runner that was only slow cannot append to a turn that is being closed.
    """
    holder = f"{closer}:{turn.gen}"
    if not await take_lease(redis, turn.pk, holder):
        return False
    is_ours = await _close_somehow(turn, outcome)
    found: Turn | None = turn
    if not is_ours:
        found = await in_thread(access.find_turn, turn.pk)
    if found is not None and found.is_open:  # another runner has claimed it meanwhile
        await drop_lease(redis, turn.pk, holder)
    else:
        await announce_end(redis, found or turn, holder=holder, queue_entry=queue_entry)
    return is_ours


async def _close_somehow(turn: Turn, outcome: Outcome) -> bool:
    """Close the turn; where the database refuses what its log says, without the log's words: nobody else will end it.

    What it cost stays: that may be in the ledger already.
    """
    try:
        return await in_thread(close_turn, turn, outcome)
    except OperationalError:
        raise
    except (DatabaseError, ValueError, OverflowError):
        logger.exception("Turn closed without its text", extra={"turn_id": turn.pk})
    empty = Outcome(
        Turn.Status.FAILED,
        input_tokens=outcome.input_tokens,
        output_tokens=outcome.output_tokens,
        usage_source=outcome.usage_source,
        cost_micros=outcome.cost_micros,
        error="internal_error",
    )
    return await in_thread(close_turn, turn, empty)
