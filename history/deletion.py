"""Deletes conversations: hidden at once, and erased when nothing of them runs or is unpaid any more.

`is_deleted` says so until the rows are gone: whatever a process dies on is done again by the sweep. Every step may be
repeated, and may run at the same time as itself.
"""

import datetime as dt
import time
from collections.abc import Sequence
from itertools import groupby, islice
from uuid import UUID

from django.db.models import Exists
from django.utils import timezone

from core import rows
from core.errors import NotFound
from core.sweeps import PAGE_SIZE, PATIENCE_SECONDS, guard, in_portions, iterate_pages, while_time
from history import share_erasure
from history.models import Conversation, Folder, Turn
from history.signals import conversation_deleted
from history.temporary import (
    end_conversations,
    erase_ended,
    find_temporary,
    is_temporary,
    list_completions,
    list_ended_temporaries,
)

COPY_GRACE = dt.timedelta(seconds=60)
"""A hidden conversation without turns that is younger than this is being copied to (history/forks.py)."""
SWEEP_SECONDS = 5.0
"""How long one sweep erases: what repairs turns comes after it."""


def delete_conversation(conversation: Conversation) -> None:
    """Delete a conversation for good: from now on nobody finds it, and no turn can be added to it.

    It is erased when its open turns are stopped and paid for: now, or by `finish_deletions`. One from the trash is
    deleted only there: raises NotFound if it was taken back, or erased, meanwhile. A temporary one is ended.
    """
    if is_temporary(conversation.pk):
        end_conversations(conversation.owner_id, [conversation.pk])
        _erase_if_ended(conversation.pk, patience_seconds=PATIENCE_SECONDS)
        return
    found = Conversation.objects.filter(pk=conversation.pk, owner_id=conversation.owner_id)
    if conversation.trashed_at:
        found = found.filter(trashed_at__isnull=False)
    if not found.update(is_deleted=True) and conversation.trashed_at:
        raise NotFound
    erase_if_over(conversation, patience_seconds=PATIENCE_SECONDS)


def delete_history(owner_id: int, *, patience_seconds: float = 0) -> bool:
    """Delete all conversations of a person, those in the trash and temporary ones too, and their folders; return
    whether everything is erased. If not, it must be called again."""
    is_ended = end_temporaries(owner_id)
    share_erasure.erase_shares_of_owner(owner_id)
    of_owner = Conversation.objects.filter(owner_id=owner_id)
    Folder.objects.filter(owner_id=owner_id).delete()
    of_owner.filter(is_deleted=None).update(is_deleted=True)
    found = list(of_owner[:PAGE_SIZE])
    left = [conversation for conversation in found if not erase_if_over(conversation)]
    deadline = time.monotonic() + patience_seconds  # they were all asked to stop, and do it at the same time
    for conversation in left:
        erase_if_over(conversation, patience_seconds=deadline - time.monotonic())
    return is_ended and not of_owner.exists()


def end_temporaries(owner_id: int) -> bool:
    """End all temporary conversations of a person; return whether they are erased. If not, the sweep goes on."""
    are_erased = [_erase_if_ended(pk) for pk in end_conversations(owner_id)]
    return all(are_erased)


def end_completions(owner_id: int) -> bool:
    """End what a person's programs asked; return whether it is erased. If not, the sweep goes on."""
    if not (found := list_completions(owner_id)):
        return True
    are_erased = [_erase_if_ended(pk) for pk in end_conversations(owner_id, found)]
    return all(are_erased)


def finish_deletions() -> None:
    """Erase what was deleted and could not be erased yet, for SWEEP_SECONDS: the rest is the next sweep's."""
    being_copied = {"turn_count": 0, "created_at__gt": timezone.now() - COPY_GRACE}
    found = Conversation.objects.filter(is_deleted=True).exclude(**being_copied)
    deleted = (row for page in iterate_pages(found) for row in page)
    for conversation in while_time(deleted, SWEEP_SECONDS):
        with guard("deletion", conversation_id=conversation.pk):
            erase_if_over(conversation)
    for conversation_id in while_time(list_ended_temporaries(), SWEEP_SECONDS):
        with guard("temporary conversation", conversation_id=conversation_id):
            _erase_if_ended(conversation_id)


def list_turn_ids(owner_id: int, **where: UUID) -> list[UUID]:
    """Return the ids of a person's turns, of deleted conversations too."""
    return list(Turn.objects.filter(owner_id=owner_id, **where).values_list("pk", flat=True))


def erase_turns(turn_ids: Sequence[UUID], *, of_deleted: Conversation | None = None) -> None:
    """Erase the turns that are over; those of a deleted conversation only while it is: another process may have erased
    it since, and an import have written it again, with turns of the same ids."""
    for some in in_portions(turn_ids):
        over = Turn.objects.filter(pk__in=some).exclude(status__in=Turn.OPEN)
        if of_deleted is not None:
            deleted = Conversation.objects.filter(pk=of_deleted.pk, is_deleted=True)
            if rows.speaks_sql(Turn):
                over = over.filter(Exists(deleted))  # in the same statement: nobody comes in between
            elif not deleted.exists():
                return
        over.delete()


def erase_turns_without_conversation() -> int:
    """Erase the turns whose conversation is not there, which nobody could ever delete; return of how many conversations
    there were some. For a history that nobody uses: who imports writes turns first."""
    found = Turn.objects.order_by("conversation_id").values_list("conversation_id", flat=True).iterator()
    named, count = (conversation_id for conversation_id, _same in groupby(found)), 0
    while some := list(islice(named, PAGE_SIZE)):
        there = set(Conversation.objects.filter(pk__in=some).values_list("pk", flat=True))
        if gone := [conversation_id for conversation_id in some if conversation_id not in there]:
            Turn.objects.filter(conversation_id__in=gone).delete()
            count += len(gone)
    return count


def erase_if_over(conversation: Conversation, *, patience_seconds: float = 0) -> bool:
    """Erase a deleted conversation, its turns first; return whether that is done, by whomever."""
    turn_ids = list_turn_ids(conversation.owner_id, conversation_id=conversation.pk)
    if rows.find(Conversation, pk=conversation.pk, is_deleted=True) is None:
        return True  # after the turns were listed: its id may be in use again, and its turns must not be
    if not _is_all_else_erased(conversation, turn_ids, patience_seconds):
        return False
    erase_turns(turn_ids, of_deleted=conversation)
    share_erasure.erase_shares_of_conversation(conversation)
    Conversation.objects.filter(pk=conversation.pk, is_deleted=True).delete()
    return True


def _erase_if_ended(conversation_id: UUID, *, patience_seconds: float = 0) -> bool:
    """Erase a temporary conversation that was ended; return whether that is done, by whomever."""
    found = find_temporary(conversation_id, even_ended=True)
    if found is not None and not found.is_ended:
        return True
    if found is not None:
        turn_ids = [turn.pk for turn in found.turns]
        if not _is_all_else_erased(found.conversation, turn_ids, patience_seconds):
            return False
    erase_ended(conversation_id)
    return True


def _is_all_else_erased(conversation: Conversation, turn_ids: Sequence[UUID], patience_seconds: float) -> bool:
    """Let others erase what else belongs to a conversation; return whether nothing of that is left."""
    answers = conversation_deleted.send_robust(
        Conversation, conversation=conversation, turn_ids=turn_ids, patience_seconds=patience_seconds
    )
    return all(answer is True for _receiver, answer in answers)
