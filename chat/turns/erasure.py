"""What a deletion does to turns: they are stopped and paid for, what was shown as any other stop pays it, then erased.
The trash stops them in the same way, and keeps them.

A hold is never given back for a turn that somebody may still be writing: what a person deletes counts until it is over.
"""

import logging
import time
from collections.abc import Sequence
from uuid import UUID

from django.db import close_old_connections

from accounts import closure
from billing import metering
from chat.turns import answer_cache, limits
from chat.turns.closing import close_queued, settle_turn
from chat.turns.ending import end_erased, erase_logs
from chat.turns.leases import request_stops
from core.redis_clients import sync_redis
from core.sweeps import in_portions
from history import access, deletion, progress, trash
from history.models import Turn

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.03


def stop_and_settle(turn_ids: Sequence[UUID], *, patience_seconds: float = 0) -> bool:
    """Stop the turns, wait until they are closed, settle them, and take their text out of Redis.

    Returns whether all of that is done; where it is not, because their runner is dead, it must be called again. The
    caller holds no transaction. Raises RedisError.
    """
    if not _stop(turn_ids, patience_seconds):
        return False
    for some in in_portions(turn_ids):
        for turn in progress.find_turns(metering.list_held_among(some)).values():
            settle_turn(turn, turn)
    erase_logs(sync_redis(), turn_ids)
    return True


def erase_history(owner_id: int, *, patience_seconds: float) -> bool:
    """Erase all turns of a person who is gone; return whether that is done. If not, it must be called again."""
    is_ended = deletion.end_completions(owner_id)
    is_done = deletion.delete_history(owner_id, patience_seconds=patience_seconds) and is_ended
    answer_cache.forget_answers(owner_id)
    limits.forget_counts(owner_id)
    if not (is_done and erase_strays(deletion.list_turn_ids(owner_id))):
        return False
    answer_cache.erase_answers(owner_id)
    return True


def erase_strays(turn_ids: Sequence[UUID]) -> bool:
    """Erase turns that have no conversation; return whether that is done. If not, it must be called again."""
    if not stop_and_settle(turn_ids):
        return False
    deletion.erase_turns(turn_ids)
    return True


def erase_if_stray(turn: Turn) -> bool:
    """Erase a queued turn whose conversation is gone: who opened it died before it could be undone. Return whether
    that is so."""
    if access.find_even_trashed(turn.conversation_id) is not None:
        return False
    logger.warning("Stray turn erased", extra={"turn_id": turn.pk})
    erase_strays([turn.pk])
    return True


def stop_in_trash(owner_id: int, conversation_ids: Sequence[UUID]) -> None:
    """Stop the turns of conversations that were put into the trash. Their runners close and settle them."""
    ask_for_stop(progress.list_open_in(owner_id, conversation_ids))


def finish_trashing() -> None:
    """Stop what still runs in the trash: whoever put it there has died since."""
    for turns in progress.iterate_open():
        trashed = trash.list_trashed_among({turn.conversation_id for turn in turns})
        ask_for_stop([turn for turn in turns if turn.conversation_id in trashed])


def finish_erasures() -> None:
    """Erase what a deletion could not erase yet, or died on, and what has been in the trash for long."""
    trash.delete_expired()
    deletion.finish_deletions()
    closure.finish_closures()


def _stop(turn_ids: Sequence[UUID], patience_seconds: float) -> bool:
    """Ask for a stop as `stop_turn` does, and wait; return whether all turns are over."""
    open_turns = _list_open(turn_ids)
    if not open_turns:
        return True
    ask_for_stop(open_turns)
    deadline = time.monotonic() + patience_seconds
    while open_turns := _list_open([turn.pk for turn in open_turns]):
        if time.monotonic() > deadline:
            return False
        close_old_connections()  # back into the pool: who sleeps must not keep others from theirs
        time.sleep(PAUSE_SECONDS)
    return True


def ask_for_stop(open_turns: Sequence[Turn]) -> None:
    """Ask for a stop as `stop_turn` does: the request comes first, as a runner may claim a turn meanwhile."""
    request_stops(sync_redis(), [turn.pk for turn in open_turns])
    end_erased(sync_redis(), [turn.pk for turn in open_turns if close_queued(turn, status=Turn.Status.STOPPED)])


def _list_open(turn_ids: Sequence[UUID]) -> list[Turn]:
    return [turn for some in in_portions(turn_ids) for turn in progress.list_open_among(some)]
