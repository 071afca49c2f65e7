"""A question that was sent before: its turn is there, or is just being written by another request."""

import time
from uuid import UUID

from core.errors import Conflict, NotFound
from history import access
from history.models import Turn

TRIES = 60
PAUSE_SECONDS = 0.05


def find_known_turn(owner_id: int, turn_id: UUID, conversation_id: UUID) -> Turn | None:
    """Return the turn if it is there; raises Conflict if it is another question's."""
    turn = access.find_turn(turn_id)
    return check_same_question(turn, owner_id, conversation_id) if turn else None


def await_known_turn(owner_id: int, turn_id: UUID, conversation_id: UUID) -> Turn:
    """Return the turn of a question that was sent twice at once: another request has reserved, and is writing it.

    Raises Conflict when it does not appear: the id was used, and its turn deleted.
    """
    for _ in range(TRIES):
        if known := find_known_turn(owner_id, turn_id, conversation_id):
            return known
        time.sleep(PAUSE_SECONDS)
    raise Conflict


def check_same_question(turn: Turn, owner_id: int, conversation_id: UUID) -> Turn:
    """Return the turn; raises Conflict unless it is the person's, in this conversation, NotFound if that is deleted."""
    if turn.owner_id != owner_id or turn.conversation_id != conversation_id:
        raise Conflict
    if access.find_conversation(conversation_id) is None:
        raise NotFound
    return turn
