"""Turns whose runner is gone: closed with what their log says, or left to run again."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import msgspec
from django.db import DatabaseError, OperationalError
from django.utils.translation import gettext_noop
from redis.asyncio import Redis

from chat.llm.catalog import find_model
from chat.llm.pricing import read_price
from chat.turns.closing import close_turn
from chat.turns.ending import announce_end
from chat.turns.leases import drop_lease, find_stopped_holder, take_lease
from chat.turns.log import Replay, decode_begun, decode_outcome, replay_log
from chat.turns.outcomes import cached_outcome, priced_outcome, with_unanswered
from chat.turns.sent_requests import SentRequest, find_stopped, read_sent
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


@dataclass(frozen=True, slots=True)
class Remains:
    """What a runner that is gone left in Redis of a turn: its log, the requests it sent, and the one that was in flight
    when the person stopped the turn."""

    replay: Replay
    sent: Sequence[SentRequest] = ()
    stopped: SentRequest | None = None


async def read_remains(redis: Redis, turn_id: UUID) -> Remains:
    replay, sent = await replay_log(redis, turn_id), await read_sent(redis, turn_id)
    stopped = find_stopped(sent, await find_stopped_holder(redis, turn_id)) if sent else None
    return Remains(replay, sent, stopped)


def outcome_from_log(turn: Turn, remains: Remains) -> Outcome | None:
    """Return how a turn without a runner ends; None when nothing was shown, so that it can simply run again, unless
    its person stopped it while a provider had the prompt."""
    replay = remains.replay
    if outcome := decode_outcome(replay):
        return outcome
    if replay.was_shown:
        return _interrupted(turn, remains)
    if remains.stopped is not None:
        return _stopped(turn, remains, remains.stopped)
    return None if turn.gen < MAX_GENERATIONS else lost_outcome(turn, remains)


def lost_outcome(turn: Turn, remains: Remains, error: str = "runner_lost") -> Outcome:
    """Return how a turn fails that showed nothing: nobody pays for it."""
    lost = Outcome(Turn.Status.FAILED, model=turn.model, provider=turn.provider, error=error)
    return with_unanswered(turn, lost, remains.sent)


def _stopped(turn: Turn, remains: Remains, stopped: SentRequest) -> Outcome:
    outcome = priced_outcome(
        turn,
        Outcome(Turn.Status.STOPPED),
        model=find_model(stopped.model),
        price=read_price(stopped.price),
        stopped=stopped,
    )
    return with_unanswered(turn, outcome, remains.sent, answered=stopped.id)


def _interrupted(turn: Turn, remains: Remains) -> Outcome:
    replay = remains.replay
    begun = decode_begun(replay)
    model = find_model(begun.model or turn.requested_model)
    lost = Outcome(
        Turn.Status.INTERRUPTED,
        replay.text,
        replay.reasoning,
        replay.tool_calls or None,
        instead_of=begun.instead_of,
        instead_because=begun.instead_because,
        error="runner_lost",
    )
    if begun.is_from_cache and model is not None:
        outcome = cached_outcome(lost, model)
    else:
        price = read_price(begun.price) if begun.price else None
        outcome = priced_outcome(turn, lost, model=model, price=price)
    outcome = with_unanswered(turn, outcome, remains.sent, answered=begun.request)
    return msgspec.structs.replace(outcome, reasoning_ms=replay.reasoning_ms)


def give_up(turn: Turn, remains: Remains) -> Outcome:
    """Return how a turn ends that MAX_DEATHS runners died with before it showed anything, and alert the operators."""
    sentence = gettext_noop("Two runners died with the same question, which was given up. Their logs may say why.")
    alert(f"runners:given_up:{turn.requested_model}", sentence, turn_id=turn.pk, model=turn.requested_model)
    return lost_outcome(turn, remains, "given_up")


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
        unanswered=outcome.unanswered,
        error="internal_error",
    )
    return await in_thread(close_turn, turn, empty)
