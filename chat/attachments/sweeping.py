"""What beat repairs of attachments: files nobody reads, files of turns that were never written, files nobody wants."""

import datetime as dt

from django.db.models import Q
from django.utils import timezone

from chat.attachments.binding import free_of
from chat.attachments.reading import STUCK, read_later
from chat.attachments.uploads import erase, erase_of_conversation, mark_erased
from chat.models import Attachment
from history.models import Conversation, Turn

Status = Attachment.Status

FORGOTTEN = dt.timedelta(seconds=20)
"""A file that waits longer than this lost its task, or has a long line before it: one more task does no harm."""
BOUND_GRACE = dt.timedelta(minutes=2)
"""A turn's files younger than this may belong to a request that is still writing the turn."""
ABANDONED = dt.timedelta(days=1)
AT_ONCE = 500


def repair_attachments() -> None:
    """Repair what is broken, one pass. May run beside anybody."""
    now = timezone.now()
    lost = Q(status=Status.UPLOADED, created_at__lt=now - FORGOTTEN) | Q(
        status=Status.PROCESSING, claimed_at__lt=now - STUCK
    )
    for attachment in Attachment.objects.filter(lost).order_by("created_at")[:AT_ONCE]:
        read_later(attachment.pk)
    _settle_bound(now - BOUND_GRACE)
    mark_erased(Q(turn_id=None, created_at__lt=now - ABANDONED) & ~Q(status=Status.ERASED))
    erase(list(Attachment.objects.filter(status=Status.ERASED)[:AT_ONCE]))


def _settle_bound(before: dt.datetime) -> None:
    """See that the turns files were given to exist: else the files are free again, or gone with the conversation."""
    bound = list(Attachment.objects.filter(bound_at__lt=before)[:AT_ONCE])
    if not bound:
        return
    turns = set(Turn.objects.filter(pk__in={row.turn_id for row in bound if row.turn_id}).values_list("pk", flat=True))
    conversations = {row.conversation_id for row in bound if row.conversation_id and row.turn_id in turns}
    there = set(Conversation.objects.filter(pk__in=conversations).values_list("pk", flat=True))
    for row in bound:
        assert row.turn_id is not None
        assert row.conversation_id is not None
        if row.turn_id not in turns:
            free_of(row.turn_id)
        elif row.conversation_id not in there:  # deleted while the turn was being written
            erase_of_conversation(row.conversation_id)
        else:
            Attachment.objects.filter(pk=row.pk, bound_at=row.bound_at).update(bound_at=None)
