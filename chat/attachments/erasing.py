"""Erases attachments: hidden at once, then removed from the storage, then their rows.

What a process dies on in between is done again by the sweep.
"""

from collections.abc import Sequence
from uuid import UUID

from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from chat.attachments.storage import drop_parts
from chat.models import Attachment
from core.errors import Conflict
from core.sweeps import PAGE_SIZE


def erase_unused(attachment: Attachment) -> None:
    """Erase a file its owner removed before asking; raises Conflict for one that was used, which stays."""
    if not hide_files(Q(pk=attachment.pk, turn_id=None)):
        raise Conflict(
            _("This file belongs to a question. It goes when you delete the conversation."), code="file_used"
        )
    erase_hidden([attachment])


def erase_of_conversation(conversation_id: UUID) -> None:
    _erase_where(Q(conversation_id=conversation_id))


def erase_of_owner(owner_id: int) -> None:
    _erase_where(Q(owner_id=owner_id))


def hide_files(which: Q) -> int:
    """Hide files at once, to be erased by `erase_hidden` or the sweep; return how many."""
    return Attachment.objects.filter(which).update(status=Attachment.Status.ERASED, turn_id=None, bound_at=None)


def erase_hidden(attachments: Sequence[Attachment]) -> None:
    """Remove files from the storage, then their rows."""
    for attachment in attachments:
        drop_parts(attachment)
    ids = [attachment.pk for attachment in attachments]
    Attachment.objects.filter(pk__in=ids, status=Attachment.Status.ERASED).delete()


def _erase_where(which: Q) -> None:
    hide_files(which)
    while hidden := list(Attachment.objects.filter(which, status=Attachment.Status.ERASED)[:PAGE_SIZE]):
        erase_hidden(hidden)
