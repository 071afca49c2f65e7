"""What is left of a turn whose runner is gone: close it with what its log says, or let it run again."""

from uuid import UUID

import msgspec
from redis.asyncio import Redis

from chat.llm.catalog import find_model
from chat.llm.pricing import read_price
from chat.turns import log
from chat.turns.closing import close_turn, make_outcome
from chat.turns.log import Begun, Keep, Replay
from core.threads import in_thread
from history import access
from history.models import Turn
from history.progress import Outcome

MAX_TRIES = 3
"""A turn that showed nothing after this many runners died of it is not given to another one."""


def last_words(turn: Turn, replay: Replay) -> Outcome | None:
    """Return how a turn without a runner ends; None when nothing was shown, so that it can simply run again."""
    if replay.outcome:
        known = msgspec.json.decode(replay.outcome, type=Outcome)
        return msgspec.structs.replace(known, answer=replay.text, reasoning=replay.reasoning)
    if not replay.was_shown and turn.gen < MAX_TRIES:
        return None
    begun = msgspec.json.decode(replay.begun, type=Begun) if replay.begun else Begun()
    outcome = make_outcome(
        turn,
        status=Turn.Status.INTERRUPTED if replay.was_shown else Turn.Status.FAILED,
        answer=replay.text,
        reasoning=replay.reasoning,
        model=find_model(begun.model or turn.requested_model),
        price=read_price(begun.price) if begun.price else None,
        instead_of=begun.instead_of,
        instead_because=begun.instead_because,
        is_from_cache=begun.is_from_cache,
        error="runner_lost",
    )
    return msgspec.structs.replace(outcome, reasoning_ms=replay.reasoning_ms)


async def close_with(redis: Redis, turn: Turn, outcome: Outcome, *, closer: str, queue_entry: bytes = b"") -> bool:
    """Close a turn nobody holds the lease of; return whether this call did it.

    The lease keeps a runner that was only slow from appending to a turn that is being closed.
    """
    holder = f"{closer}:{turn.gen}"
    if not await log.take_lease(redis, turn.pk, holder):
        return False
    is_ours = await in_thread(close_turn, turn, outcome)
    found: Turn | None = turn
    if not is_ours:
        found = await in_thread(access.find_turn, turn.pk)
    if found is not None and found.is_open:  # another runner has claimed it meanwhile
        await log.give_lease_back(redis, turn.pk, holder)
    else:
        await announce_end(redis, found or turn, holder=holder, queue_entry=queue_entry)
    return is_ours


async def announce_end(
    redis: Redis, turn: Turn, *, holder: str = "", queue_entry: bytes = b"", keep: Keep | None = None
) -> None:
    """Tell readers and the person's other tabs that the turn is over. May be repeated."""
    told = {"gen": turn.gen, "owner_id": turn.owner_id, "characters": len(turn.answer)}
    await log.end_log(redis, turn.pk, **told, holder=holder, queue_entry=queue_entry, keep=keep)


async def has_lease(redis: Redis, turn_id: UUID) -> bool:
    return bool(await redis.exists(log.lease_key(turn_id)))
