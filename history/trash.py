"""The trash: conversations are put into it and taken back; what lies there for TRASH_DAYS is deleted.

Each step is one conditional write, so that an undo and the sweep may meet: a row that is marked as deleted is not given
back, one that was taken back is not deleted.
"""

import datetime as dt
from collections.abc import Sequence
from uuid import UUID

from django.conf import settings
from django.db.models import Q, QuerySet

from core.sweeps import PAGE_SIZE
from history.models import THERE, Conversation, now
from history.signals import conversations_changed, conversations_trashed


def trash_conversations(owner_id: int, conversation_ids: Sequence[UUID]) -> list[UUID]:
    """Put conversations of the owner into the trash: from now on nobody finds them, and no turn can be added.

    Return those that were put there. Their open turns are stopped now, or by the sweep.
    """
    there = Conversation.objects.filter(owner_id=owner_id, pk__in=conversation_ids, **THERE)
    found = list(there.values_list("pk", flat=True))
    there.update(trashed_at=now())
    _announce_trashed(owner_id, found)
    return found


def trash_folder(owner_id: int, folder_id: UUID) -> None:
    """Put all conversations of a folder into the trash."""
    in_folder = Conversation.objects.filter(owner_id=owner_id, folder_id=folder_id, **THERE)
    while found := list(in_folder.values_list("pk", flat=True)[:PAGE_SIZE]):
        in_folder.filter(pk__in=found).update(trashed_at=now())
        _announce_trashed(owner_id, found)


def list_unused(owner_id: int, before: dt.datetime, *, limit: int) -> list[Conversation]:
    """Return conversations of the owner that were last used before then, the longest unused first: neither pinned ones
    nor those that were taken out of the trash since."""
    return list(_unused(owner_id, before).order_by("updated_at")[:limit])


def trash_unused(owner_id: int, before: dt.datetime) -> bool:
    """Put what `list_unused` lists into the trash, PAGE_SIZE of it; return whether there may be more.

    A conversation that is used, pinned or taken back meanwhile stays where it is.
    """
    found, moment = [row.pk for row in list_unused(owner_id, before, limit=PAGE_SIZE)], now()
    if not found:
        return False
    # By their keys alone: with the owner, SQLite would look through everything that is due.
    Conversation.objects.filter(_is_unused(before), pk__in=found).update(trashed_at=moment)
    trashed = Conversation.objects.filter(pk__in=found, trashed_at=moment)
    _announce_trashed(owner_id, list(trashed.values_list("pk", flat=True)))
    return len(found) == PAGE_SIZE


def restore_conversations(owner_id: int, conversation_ids: Sequence[UUID]) -> list[UUID]:
    """Take conversations of the owner out of the trash; return those that were taken out: none that is being erased."""
    trashed = _trashed(owner_id).filter(pk__in=conversation_ids)
    found = list(trashed.values_list("pk", flat=True))
    if not trashed.update(trashed_at=None, kept_since=now()):
        return []
    still = Conversation.objects.filter(owner_id=owner_id, pk__in=found, **THERE)
    restored = list(still.values_list("pk", flat=True))
    conversations_changed.send_robust(Conversation, owner_id=owner_id, conversation_ids=restored)
    return restored


def delete_from_trash(owner_id: int, conversation_ids: Sequence[UUID]) -> list[UUID]:
    """Delete conversations that are in the owner's trash; return which. The sweep erases them."""
    trashed = _trashed(owner_id).filter(pk__in=conversation_ids)
    found = list(trashed.values_list("pk", flat=True))
    return found if trashed.update(is_deleted=True) else []


def empty_trash(owner_id: int, *, until: dt.datetime) -> int:
    """Delete what was put into the owner's trash until then; return how many. The sweep erases them."""
    return _trashed(owner_id).filter(trashed_at__lte=until).update(is_deleted=True)


def delete_expired() -> None:
    """Delete what has been in the trash for TRASH_DAYS: a portion of it, the oldest first."""
    before = now() - dt.timedelta(days=settings.TRASH_DAYS)
    expired = Conversation.objects.filter(trashed_at__lt=before, is_deleted=None)
    found = list(expired.order_by("trashed_at", "pk").values_list("pk", flat=True)[:PAGE_SIZE])
    if found:  # what was taken back since is not expired any more
        expired.filter(pk__in=found).update(is_deleted=True)


def list_trashed_among(conversation_ids: set[UUID]) -> set[UUID]:
    """Return those of the conversations that are in the trash, whoever owns them."""
    trashed = Conversation.objects.filter(pk__in=conversation_ids, trashed_at__isnull=False)
    return set(trashed.values_list("pk", flat=True))


def _unused(owner_id: int, before: dt.datetime) -> "QuerySet[Conversation]":
    return Conversation.objects.filter(_is_unused(before), owner_id=owner_id)


def _is_unused(before: dt.datetime) -> Q:
    is_kept = Q(kept_since__isnull=False, kept_since__gte=before)
    return Q(**THERE, is_pinned=None, updated_at__lt=before) & ~is_kept


def _trashed(owner_id: int) -> "QuerySet[Conversation]":
    return Conversation.objects.filter(owner_id=owner_id, trashed_at__isnull=False, is_deleted=None)


def _announce_trashed(owner_id: int, conversation_ids: list[UUID]) -> None:
    if conversation_ids:
        conversations_trashed.send_robust(Conversation, owner_id=owner_id, conversation_ids=conversation_ids)
