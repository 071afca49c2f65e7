"""Writes turns into a new conversation all at once: hidden, as what is deleted is, until it is whole.

Its row is written first, with the mark of a deletion and without turns, and the mark is taken away last. What a process
dies on is erased as any deletion that was not finished, after COPY_GRACE; until then it may still be written.
"""

import datetime as dt
from collections.abc import Sequence
from uuid import UUID

from django.db import IntegrityError
from django.utils import timezone

from core import rows
from core.errors import Conflict, NotFound, Unavailable
from core.sweeps import in_portions
from history import tree
from history.deletion import COPY_GRACE, erase_turns
from history.errors import ForkTooLarge
from history.folding import titled
from history.models import Conversation, TitledBy, Turn, new_id, now
from history.temporary import check_kept

COPY_TIME = COPY_GRACE / 2
"""How long a copy may take; whoever needs longer gives up, before it is erased under their hands."""
MAX_TURNS, MAX_CHARACTERS = 5_000, 20_000_000
"""Of a copy, as of a share."""


def read_path(turn: Turn) -> list[Turn]:
    """Return the turns that lead to one and that one, the root first; raises ForkTooLarge."""
    path: list[Turn] = []
    size = 0
    for row in tree.path_to_root(turn):
        path.append(row)
        size += len(row.question) + len(row.answer) + len(row.reasoning)
        if len(path) > MAX_TURNS or size > MAX_CHARACTERS:
            raise ForkTooLarge
    return path[::-1]


def begin_copy(original: Conversation, conversation_id: UUID, *, title: str) -> Conversation:
    """Return a new conversation of the same owner, in the same folder, that nobody sees yet, for `finish_copy`; or, if
    the id is in use, the owner's that is there.

    Raises Conflict if it is somebody else's, NotFound while it is in the trash or being deleted, and Unavailable, with
    the time to wait, while another request copies to it, or has died over that, and what `check_kept` raises.
    """
    check_kept(conversation_id)
    copy = Conversation(
        pk=conversation_id,
        owner_id=original.owner_id,
        folder_id=original.folder_id,
        **titled(title),
        titled_by=TitledBy.PERSON,
        is_deleted=True,
    )
    try:
        rows.insert(copy)
    except IntegrityError as error:
        existing = rows.find(Conversation, pk=conversation_id, owner_id=original.owner_id)
        if existing is None:
            raise Conflict from error
        if existing.trashed_at or (existing.is_deleted and existing.turn_count):
            raise NotFound from error
        if not existing.is_deleted:
            return existing
        raise Unavailable(retry_after=5) from error
    return copy


def begin_hidden(conversation: Conversation) -> None:
    """Write a new conversation that nobody sees until `finish_copy` has written its turns."""
    conversation.is_deleted, conversation.turn_count, conversation.created_at = True, 0, now()
    rows.insert(conversation)


def copies_of(path: Sequence[Turn], copy: Conversation) -> list[Turn]:
    """Return unsaved copies of turns that follow one another, the first as the root: as they ended, and free."""
    copies: list[Turn] = []
    for number, turn in enumerate(path):
        fields = {field.attname: getattr(turn, field.attname) for field in Turn._meta.concrete_fields}
        fields |= {
            "id": new_id(),
            "owner_id": copy.owner_id,
            "conversation_id": copy.pk,
            "parent_id": copies[-1].pk if copies else None,
            "beside_id": None,
            "seq": number + 1,
            "depth": number,
            "cost_micros": None if turn.cost_micros is None else 0,
            "max_cost_micros": None,
            "unanswered": None,
            "dialogue": None,
        }
        copies.append(Turn(**fields))
    return copies


def finish_copy(copy: Conversation, copies: Sequence[Turn]) -> None:
    """Write the turns, and let the owner see the conversation; raises Unavailable, with nothing left, if that was too
    late."""
    for some in in_portions(copies):
        Turn.objects.bulk_create(some)
        if is_late(copy):
            break
    hidden = {"pk": copy.pk, "owner_id": copy.owner_id, "is_deleted": True, "created_at": copy.created_at}
    whole = {"is_deleted": None, "turn_count": len(copies), "updated_at": timezone.now()}
    if is_late(copy) or not rows.update(Conversation, hidden, whole):
        erase_turns([turn.pk for turn in copies])
        raise Unavailable(retry_after=(COPY_GRACE - COPY_TIME).total_seconds())
    copy.is_deleted, copy.turn_count = None, len(copies)


def is_late(copy: Conversation) -> bool:
    age: dt.timedelta = timezone.now() - copy.created_at
    return age > COPY_TIME
