"""What beat repairs of attachments: files that nobody reads, whose turn was never written, or that were never used."""

import datetime as dt
from collections import defaultdict
from collections.abc import Callable
from uuid import UUID

from django.db.models import Q
from django.utils import timezone

from chat.attachments.erasing import erase_hidden, erase_of_conversation, hide_files
from chat.attachments.reading import CLAIM_LASTS, read_later
from chat.models import Attachment
from core.sweeps import MAX_CLOCK_DIFFERENCE, guard, iterate_pages
from history.models import Conversation, Turn
from history.temporary import find_temporary, is_temporary

UNREAD_GRACE = dt.timedelta(seconds=15) + MAX_CLOCK_DIFFERENCE
"""A file that waits longer than this has lost its task, or many are before it: one more task does no harm."""
BOUND_GRACE = dt.timedelta(seconds=115) + MAX_CLOCK_DIFFERENCE
"""Files bound more recently than this may belong to a request that is still writing their turn."""
UNUSED_KEPT = dt.timedelta(days=1)
"""How long a file is kept that nobody asks about."""


def repair_attachments() -> None:
    """Do one pass of repairs. May run at the same time as anything else."""
    now = timezone.now()
    unread = Q(status=Attachment.Status.UPLOADED, created_at__lt=now - UNREAD_GRACE)
    reader_died = Q(status=Attachment.Status.PROCESSING, claimed_at__lt=now - CLAIM_LASTS)
    _repair_each("unread file", unread | reader_died, lambda file: read_later(file.pk))
    with guard("bound files"):
        for page in iterate_pages(Attachment.objects.filter(bound_at__lt=now - BOUND_GRACE)):
            _check_bound(page)
    with guard("unused files"):
        hide_files(Q(turn_id=None, created_at__lt=now - UNUSED_KEPT) & ~Q(status=Attachment.Status.ERASED))
    _repair_each("hidden file", Q(status=Attachment.Status.ERASED), lambda file: erase_hidden([file]))


def _repair_each(name: str, which: Q, repair: Callable[[Attachment], None]) -> None:
    with guard(f"{name}s"):
        for page in iterate_pages(Attachment.objects.filter(which)):
            for attachment in page:
                with guard(name, attachment_id=attachment.pk):
                    repair(attachment)


def _check_bound(bound: list[Attachment]) -> None:
    """Of files that were bound a while ago, free those without a turn, and erase those without a conversation."""
    temporary, stored = defaultdict[UUID, list[Attachment]](list), list[Attachment]()
    for row in bound:
        if row.conversation_id and is_temporary(row.conversation_id):
            temporary[row.conversation_id].append(row)
        else:
            stored.append(row)
    for conversation_id, files in temporary.items():
        with guard("files of a temporary conversation", conversation_id=conversation_id):
            _check_temporary(conversation_id, files)
    turns = set(Turn.objects.filter(pk__in={row.turn_id for row in stored if row.turn_id}).values_list("pk", flat=True))
    conversations = {row.conversation_id for row in stored if row.conversation_id and row.turn_id in turns}
    existing = set(Conversation.objects.filter(pk__in=conversations).values_list("pk", flat=True))
    for row in stored:
        with guard("bound file", attachment_id=row.pk):
            _repair_bound(row, turn_exists=row.turn_id in turns, conversation_exists=row.conversation_id in existing)


def _check_temporary(conversation_id: UUID, bound: list[Attachment]) -> None:
    """Erase the files of a temporary conversation that is gone; else free those that no turn of it uses. The others
    stay bound: the sweep looks at them again until they can go."""
    found = find_temporary(conversation_id)
    if found is None:
        erase_of_conversation(conversation_id)
        return
    used = " ".join(turn.attachments for turn in found.turns)
    for row in bound:
        if str(row.pk) not in used:
            same = Attachment.objects.filter(pk=row.pk, turn_id=row.turn_id, bound_at=row.bound_at)
            same.update(turn_id=None, conversation_id=None, bound_at=None)


def _repair_bound(row: Attachment, *, turn_exists: bool, conversation_exists: bool) -> None:
    assert row.turn_id is not None
    assert row.conversation_id is not None
    if not turn_exists:
        _hand_on_or_free(row)
    elif not conversation_exists:  # deleted while the turn was being written
        erase_of_conversation(row.conversation_id)
    else:
        Attachment.objects.filter(pk=row.pk, bound_at=row.bound_at).update(bound_at=None)


def _hand_on_or_free(row: Attachment) -> None:
    """Give a file whose turn was not written to a later turn of the conversation that uses it, or free it."""
    assert row.conversation_id is not None
    in_conversation = Turn.objects.filter(owner_id=row.owner_id, conversation_id=row.conversation_id)
    later = in_conversation.filter(attachments__contains=str(row.pk)).first()
    fields: dict[str, UUID | None] = {"turn_id": later.pk} if later else {"turn_id": None, "conversation_id": None}
    Attachment.objects.filter(pk=row.pk, turn_id=row.turn_id, bound_at=row.bound_at).update(**fields, bound_at=None)
