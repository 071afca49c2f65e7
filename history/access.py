"""Reads a person's conversations and turns. What is missing and what belongs to somebody else raise the same error.

Temporary conversations are found where a function says so; of their turns, all are (history/temporary.py).
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar
from uuid import UUID

from django.db.models import Model, Q, QuerySet

from core import rows
from core.errors import NotFound
from history.errors import TemporaryGone
from history.folding import titled
from history.models import THERE, Conversation, TitledBy, Turn
from history.signals import conversations_changed
from history.temporary import find_temporary, find_temporary_turns, is_temporary, list_temporary_turns

T = TypeVar("T")
M = TypeVar("M", bound=Model)

PAGE_SIZE = 50
MAX_ENDS = 20
"""Turns that a dialogue may have come to, the same questions with the same answers, of which one is looked for that is
not in the trash."""

Place = Literal["list", "archive", "trash"]
"""Where a conversation is: an archived one is out of the list, one in the trash is found nowhere else."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Rows, and the cursor of the next page: None on the last page."""

    rows: list[T]
    next: str | None


def access_conversation(owner_id: int, conversation_id: UUID) -> Conversation:
    """Return the owner's conversation; raises NotFound."""
    conversation = None if is_temporary(conversation_id) else find_conversation(conversation_id)
    if conversation is None or conversation.owner_id != owner_id:
        raise _not_found(conversation_id)
    return conversation


def find_conversation(conversation_id: UUID) -> Conversation | None:
    """Return a conversation that is neither deleted nor in the trash, whoever owns it: the caller must check the
    owner."""
    return rows.find(Conversation, pk=conversation_id, **THERE)


def find_to_ask_in(owner_id: int, conversation_id: UUID) -> Conversation | None:
    """Return the owner's conversation; None where there is none of that id, and a question may begin it. Raises
    NotFound for somebody else's, in whatever state it is, and for one that is in the trash or being deleted."""
    found = rows.find(Conversation, pk=conversation_id)
    if found is not None and (found.owner_id != owner_id or found.is_deleted or found.trashed_at):
        raise NotFound
    return found


def is_somebody_elses(owner_id: int, conversation_id: UUID) -> bool:
    """Return whether there is a conversation of that id, in whatever state, that is not the owner's."""
    found = find_even_temporary(conversation_id) or rows.find(Conversation, pk=conversation_id)
    return found is not None and found.owner_id != owner_id


def find_even_temporary(conversation_id: UUID) -> Conversation | None:
    """Return a conversation as `find_conversation` does, or a temporary one, whoever owns it."""
    if is_temporary(conversation_id):
        found = find_temporary(conversation_id)
        return found.conversation if found else None
    return find_conversation(conversation_id)


def access_even_temporary(owner_id: int, conversation_id: UUID) -> Conversation:
    """Return the owner's conversation, also a temporary one; raises NotFound."""
    conversation = find_even_temporary(conversation_id)
    if conversation is None or conversation.owner_id != owner_id:
        raise _not_found(conversation_id)
    return conversation


def _not_found(pk: UUID) -> NotFound:
    """Return the error for a conversation or a turn that is missing or somebody else's."""
    return TemporaryGone() if is_temporary(pk) else NotFound()


def find_even_trashed(conversation_id: UUID) -> Conversation | None:
    """Return a conversation that is not deleted, also from the trash, or a temporary one, whoever owns it."""
    if is_temporary(conversation_id):
        return find_even_temporary(conversation_id)
    return rows.find(Conversation, pk=conversation_id, is_deleted__isnull=True)


def access_even_trashed(owner_id: int, conversation_id: UUID) -> Conversation:
    """Return the owner's conversation, also from the trash, or a temporary one; raises NotFound."""
    conversation = find_even_trashed(conversation_id)
    if conversation is None or conversation.owner_id != owner_id:
        raise _not_found(conversation_id)
    return conversation


def is_hidden(conversation_id: UUID) -> bool:
    """Return whether a conversation is in the trash or being deleted, or was temporary and is gone, and what belongs to
    it must not be found. One that is not written yet is not."""
    if is_temporary(conversation_id):
        return find_temporary(conversation_id) is None
    found = rows.find(Conversation, pk=conversation_id)
    return found is not None and bool(found.is_deleted or found.trashed_at)


def access_turn(owner_id: int, turn_id: UUID) -> Turn:
    """Return the owner's turn, also of a temporary conversation; raises NotFound, also where that is in the trash, and
    for what a program asked and nobody keeps."""
    return access_turn_in_conversation(owner_id, turn_id)[0]


def access_turn_in_conversation(owner_id: int, turn_id: UUID) -> tuple[Turn, Conversation]:
    """Return the owner's turn and its conversation, as `access_turn` does."""
    turn = find_turn(turn_id)
    if turn is None or turn.owner_id != owner_id:
        raise _not_found(turn_id)
    conversation = find_even_temporary(turn.conversation_id)
    if conversation is None:
        raise _not_found(turn_id)
    if turn.is_completion and is_temporary(turn_id):
        raise _not_found(turn_id)
    return turn, conversation


def access_completion(owner_id: int, turn_id: UUID) -> Turn:
    """Return the turn of what a program of the owner's asked, also from the trash: whoever waits for it is answered;
    raises NotFound."""
    turn = find_turn(turn_id)
    if turn is None or turn.owner_id != owner_id or not turn.is_completion:
        raise _not_found(turn_id)
    if find_even_trashed(turn.conversation_id) is None:
        raise _not_found(turn_id)
    return turn


def find_dialogue_end(owner_id: int, dialogue: str) -> Turn | None:
    """Return the latest turn that a dialogue of a program's has come to, of a conversation that is neither deleted nor
    in the trash. Of its fields only those are read that say where it is."""
    found = Turn.objects.filter(owner_id=owner_id, is_completion=True, dialogue=dialogue)
    found = found.order_by("-created_at").only("owner_id", "conversation_id", "depth")
    ends = list(found[:MAX_ENDS])
    there = {row.pk for row in list_there(owner_id, [end.conversation_id for end in ends])} if ends else ()
    return next((end for end in ends if end.conversation_id in there), None)


def access_stored_turn(owner_id: int, turn_id: UUID) -> tuple[Turn, Conversation]:
    """Return the owner's turn and its conversation, as `access_turn` does, but none of a temporary one."""
    if is_temporary(turn_id):
        raise _not_found(turn_id)
    return access_turn_in_conversation(owner_id, turn_id)


def find_turn(turn_id: UUID) -> Turn | None:
    """Return a turn, whoever owns it, until it is erased: the caller has checked the owner, or acts for the system."""
    if is_temporary(turn_id):
        return find_temporary_turns([turn_id]).get(turn_id)
    return rows.find(Turn, pk=turn_id)


def list_conversations(
    owner_id: int,
    place: Place = "list",
    *,
    folder_id: UUID | None = None,
    after: str | None = None,
    limit: int = PAGE_SIZE,
) -> Page[Conversation]:
    """Return the owner's conversations in `place`, last used first; of the trash, last put there first. With
    `folder_id`, those in that folder."""
    conversations = Conversation.objects.filter(owner_id=owner_id, is_deleted=None)
    if folder_id is not None:
        conversations = conversations.filter(folder_id=folder_id)
    if place == "trash":
        return _page_by("trashed_at", conversations.filter(trashed_at__isnull=False), after, limit)
    is_archived = True if place == "archive" else None
    return _page_by("updated_at", conversations.filter(trashed_at=None, is_archived=is_archived), after, limit)


def list_loose(owner_id: int, *, after: str | None = None, limit: int = PAGE_SIZE) -> Page[Conversation]:
    """Return the owner's conversations that the sidebar lists by date: in no folder, not pinned and not archived."""
    return _page_by("updated_at", _loose(owner_id), after, limit)


def list_there(owner_id: int, conversation_ids: Sequence[UUID]) -> list[Conversation]:
    """Return those of the owner's conversations that are neither deleted nor in the trash."""
    return list(Conversation.objects.filter(owner_id=owner_id, pk__in=conversation_ids, **THERE))


def list_turns(conversation: Conversation, *, after: int = 0, limit: int = PAGE_SIZE) -> Page[Turn]:
    """Return the turns of a conversation, also of a temporary one, in the order they were asked, those with `seq` above
    `after`."""
    if is_temporary(conversation.pk):
        later = [turn for turn in list_temporary_turns(conversation.pk) if turn.seq > after]
        return Page(later[:limit], str(later[limit - 1].seq) if len(later) > limit else None)
    turns = Turn.objects.filter(owner_id=conversation.owner_id, conversation_id=conversation.pk, seq__gt=after)
    page = list(turns.order_by("seq")[: limit + 1])
    return Page(page[:limit], str(page[limit - 1].seq) if len(page) > limit else None)


def rename_conversation(conversation: Conversation, title: str) -> None:
    """Give the conversation its owner's title, which nothing replaces; raises NotFound if it was deleted, or put into
    the trash, meanwhile."""
    fields = titled(title) | {"titled_by": TitledBy.PERSON}
    if not rows.update(Conversation, {"pk": conversation.pk, "owner_id": conversation.owner_id} | THERE, fields):
        raise NotFound
    for name, value in fields.items():
        setattr(conversation, name, value)
    conversations_changed.send_robust(Conversation, owner_id=conversation.owner_id, conversation_ids=[conversation.pk])


def title_conversation(conversation: Conversation, title: str) -> bool:
    """Replace the question's first words with a model's title; return whether they were still the title."""
    untouched = {"titled_by": TitledBy.WORDS, "title": conversation.title}
    there = {"pk": conversation.pk} | THERE
    return rows.update(Conversation, there | untouched, titled(title) | {"titled_by": TitledBy.MODEL}) == 1


def write_cursor(moment: dt.datetime, pk: UUID) -> str:
    """Return what `read_cursor` reads: where the next page goes on."""
    return f"{moment.isoformat()}~{pk}"


def _loose(owner_id: int) -> "QuerySet[Conversation]":
    of_owner = Conversation.objects.filter(owner_id=owner_id, **THERE)
    return of_owner.filter(folder_id=None, is_pinned=None, is_archived=None)


def _page_by(moment: str, found: "QuerySet[Conversation]", after: str | None, limit: int) -> Page[Conversation]:
    """Return a page of the rows, the latest `moment` first."""
    if after:
        found = rows_after(found, moment, after)
    return page_of(list(found.order_by(f"-{moment}", "-pk")[: limit + 1]), limit, moment)


def rows_after(found: "QuerySet[M, M]", moment: str, cursor: str) -> "QuerySet[M, M]":
    """Return those of the rows that follow the cursor's, where the latest `moment` comes first."""
    last, pk = read_cursor(cursor)
    later = Q(**{f"{moment}__lt": last}) | Q(**{moment: last}, pk__lt=pk)
    # The first condition is for the index: stores do not see it in the second.
    return found.filter(**{f"{moment}__lte": last}).filter(later)


def page_of(found: list[Conversation], limit: int, moment: str = "updated_at") -> Page[Conversation]:
    """Return the first `limit` of the rows as a page; one that was read beyond them says that there is a next."""
    last = found[limit - 1] if len(found) > limit else None
    return Page(found[:limit], write_cursor(getattr(last, moment), last.pk) if last else None)


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
