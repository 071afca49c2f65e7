"""Reads a person's conversations and turns. What is missing and what belongs to somebody else raise the same error."""

import datetime as dt
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from django.db.models import Q

from core import rows
from core.errors import NotFound
from history.folding import titled
from history.models import Conversation, TitledBy, Turn

T = TypeVar("T")

PAGE_SIZE = 50


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Rows, and the cursor of the next page: None on the last page."""

    rows: list[T]
    next: str | None


def access_conversation(owner_id: int, conversation_id: UUID) -> Conversation:
    """Return the owner's conversation; raises NotFound."""
    conversation = find_conversation(conversation_id)
    if conversation is None or conversation.owner_id != owner_id:
        raise NotFound
    return conversation


def find_conversation(conversation_id: UUID) -> Conversation | None:
    """Return a conversation that is not deleted, whoever owns it: the caller must check the owner."""
    return rows.find(Conversation, pk=conversation_id, is_deleted__isnull=True)


def access_turn(owner_id: int, turn_id: UUID) -> Turn:
    """Return the owner's turn; raises NotFound."""
    return access_turn_in_conversation(owner_id, turn_id)[0]


def access_turn_in_conversation(owner_id: int, turn_id: UUID) -> tuple[Turn, Conversation]:
    """Return the owner's turn and its conversation; raises NotFound, also while that is being deleted."""
    turn = find_turn(turn_id)
    if turn is None or turn.owner_id != owner_id:
        raise NotFound
    conversation = find_conversation(turn.conversation_id)
    if conversation is None:
        raise NotFound
    return turn, conversation


def find_turn(turn_id: UUID) -> Turn | None:
    """Return a turn, whoever owns it, until it is erased: the caller has checked the owner, or acts for the system."""
    return rows.find(Turn, pk=turn_id)


def list_conversations(owner_id: int, *, after: str | None = None, limit: int = PAGE_SIZE) -> Page[Conversation]:
    """Return the owner's conversations, last used first."""
    conversations = Conversation.objects.filter(owner_id=owner_id, is_deleted=None)
    if after:
        moment, pk = read_cursor(after)
        conversations = conversations.filter(Q(updated_at__lt=moment) | Q(updated_at=moment, pk__lt=pk))
    page = list(conversations.order_by("-updated_at", "-pk")[: limit + 1])
    last = page[limit - 1] if len(page) > limit else None
    return Page(page[:limit], f"{last.updated_at.isoformat()}~{last.pk}" if last else None)


def list_turns(conversation: Conversation, *, after: int = 0, limit: int = PAGE_SIZE) -> Page[Turn]:
    """Return the conversation's turns in the order they were asked, those with `seq` above `after`."""
    turns = Turn.objects.filter(owner_id=conversation.owner_id, conversation_id=conversation.pk, seq__gt=after)
    page = list(turns.order_by("seq")[: limit + 1])
    return Page(page[:limit], str(page[limit - 1].seq) if len(page) > limit else None)


def rename_conversation(conversation: Conversation, title: str) -> None:
    """Give the conversation its owner's title, which nothing replaces."""
    fields = titled(title) | {"titled_by": TitledBy.PERSON}
    for name, value in fields.items():
        setattr(conversation, name, value)
    conversation.save(update_fields=list(fields))


def title_conversation(conversation: Conversation, title: str) -> bool:
    """Replace the question's first words with a model's title; return whether they were still the title."""
    untouched = {"titled_by": TitledBy.WORDS, "title": conversation.title}
    there = {"pk": conversation.pk, "is_deleted__isnull": True}
    return rows.update(Conversation, there | untouched, titled(title) | {"titled_by": TitledBy.MODEL}) == 1


def write_cursor(moment: dt.datetime, pk: UUID) -> str:
    """Return what `read_cursor` reads: where the next page goes on."""
    return f"{moment.isoformat()}~{pk}"


def read_cursor(cursor: str) -> tuple[dt.datetime, UUID]:
    """Return when the last conversation of a page was used, and its id; raises NotFound for what is no cursor."""
    try:
        timestamp, pk = cursor.split("~")
        moment = dt.datetime.fromisoformat(timestamp)
        # Beside the first and the last year, its day may be in one that does not exist, where its reader is.
        if moment.tzinfo is None or not dt.MINYEAR < moment.year < dt.MAXYEAR:
            raise NotFound
        return moment.astimezone(dt.UTC), UUID(pk)
    except (ValueError, OverflowError) as error:
        raise NotFound from error
