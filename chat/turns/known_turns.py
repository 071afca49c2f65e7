"""A question that was sent before: its turn is there, is just being written by another request, or was there once."""

import asyncio
import datetime as dt
from uuid import UUID

from django.utils import timezone

from billing import metering
from core.errors import Conflict, NotFound, Unavailable
from core.sweeps import MAX_CLOCK_DIFFERENCE, SWEEP_INTERVAL
from core.threads import in_thread
from history import access
from history.models import Turn

WRITING_SECONDS = 3.0
"""How long a request may take from its reservation to its turn; the same question waits for it so long."""
WRITING_GRACE = dt.timedelta(seconds=WRITING_SECONDS) + MAX_CLOCK_DIFFERENCE
"""A reservation older than this belongs to a request that died; the sweep waits longer, to be sure."""
HELD_GRACE = dt.timedelta(seconds=40) + MAX_CLOCK_DIFFERENCE
"""A reservation younger than this may belong to a request that is still writing its turn: no sweep releases it."""
RELEASED_AFTER = HELD_GRACE + SWEEP_INTERVAL
"""After this, the sweep has released a reservation whose turn was never written."""
PAUSE_SECONDS = 0.1


class BeingWritten(Unavailable):
    """Another request is writing this turn at this moment: `await_written`, and open it again."""


def find_known_turn(owner_id: int, turn_id: UUID, conversation_id: UUID) -> Turn | None:
    """Return the turn if it is there; raises Conflict if it is another question's."""
    turn = access.find_turn(turn_id)
    return check_same_question(turn, owner_id, conversation_id) if turn else None


def refuse_reserved(turn_id: UUID) -> None:
    """Raise what a reservation says of a turn that is not there: it is BeingWritten; who reserved for it has died, and
    the sweep will release that (Unavailable); or its id was used, and it was deleted (Conflict)."""
    reservation = metering.find_reservation(turn_id)
    if reservation is None or reservation.state == reservation.State.SETTLED:
        raise Conflict
    age = timezone.now() - reservation.created_at
    if reservation.state == reservation.State.HELD and age >= WRITING_GRACE:
        raise Unavailable(retry_after=max((RELEASED_AFTER - age).total_seconds(), 1))
    raise BeingWritten(retry_after=1)


async def await_written(turn_id: UUID) -> None:
    """Wait until another request has written the turn, or given up, for WRITING_SECONDS at most.

    On the event loop, so that nothing else waits: neither a thread nor a database connection is held meanwhile.
    """
    for _ in range(round(WRITING_SECONDS / PAUSE_SECONDS)):
        await asyncio.sleep(PAUSE_SECONDS)
        if not await in_thread(_is_being_written, turn_id):
            return


def check_same_question(turn: Turn, owner_id: int, conversation_id: UUID) -> Turn:
    """Return the turn; raises Conflict unless it is the person's, in this conversation, NotFound if that is deleted."""
    if turn.owner_id != owner_id or turn.conversation_id != conversation_id:
        raise Conflict
    if access.find_even_temporary(conversation_id) is None:
        raise NotFound
    return turn


def _is_being_written(turn_id: UUID) -> bool:
    reservation = metering.find_reservation(turn_id)
    is_held = reservation is not None and reservation.state == reservation.State.HELD
    return is_held and access.find_turn(turn_id) is None
