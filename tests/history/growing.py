"""Conversations and turns for the tests of the history."""

from typing import Any
from uuid import UUID

from history import tree
from history.models import Conversation, Turn, new_id

ANA, BO = 1, 2
"""Owners. The history knows nobody but by number."""


def begin(owner_id: int = ANA, title: str = "Saludos", conversation_id: UUID | None = None) -> Conversation:
    return tree.get_or_create_conversation(owner_id, conversation_id or new_id(), title=title)


def unsaved(conversation: Conversation, question: str = "hola", **fields: Any) -> Turn:
    """Return a turn that can be added."""
    defaults = {"status": Turn.Status.COMPLETED, "requested_model": "scripted", "max_output": 100}
    ids = {"owner_id": conversation.owner_id, "conversation_id": conversation.pk}
    return Turn(question=question, **(defaults | ids | fields))


def ask(conversation: Conversation, question: str = "hola", *, after: Turn | UUID | None = None, **fields: Any) -> Turn:
    """Add a turn below `after`, at the root without one."""
    if isinstance(after, Turn):
        fields = {"parent_id": after.pk, "depth": after.depth + 1, **fields}
    return tree.add_turn(unsaved(conversation, question, **{"parent_id": after, **fields}))


def ask_in_a_row(conversation: Conversation, count: int, *, after: Turn | None = None) -> list[Turn]:
    """Add turns, each below the one before; return them."""
    turns = []
    for number in range(count):
        after = ask(conversation, f"pregunta {number}", after=after)
        turns.append(after)
    return turns
