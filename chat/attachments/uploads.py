"""A file from its upload until it is used or erased: kept, read in a worker, shown to its owner alone."""

import datetime as dt
import hashlib
import logging
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import IO
from uuid import UUID

from django.conf import settings
from django.core.files.storage import Storage, storages
from django.core.files.uploadedfile import UploadedFile
from django.db import connections, router
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from chat.attachments.sniffing import HEAD, clean_name, kind_of
from chat.errors import BadFile, file_sentence_for
from chat.models import Attachment
from core import rows
from core.errors import Conflict, NotFound, RateLimited

logger = logging.getLogger(__name__)

Status = Attachment.Status

WAITING = dt.timedelta(seconds=90)
"""How long a person waits for a worker to take a file, or to read it; then they are told that nobody did."""
PAUSE_SECONDS = 0.2


def storage() -> Storage:
    return storages["attachments"]


def keep(owner_id: int, upload: "UploadedFile[bytes]") -> Attachment:
    """Keep what was uploaded and return it, to be read by a worker; raises BadFile or RateLimited.

    The row comes first: whatever dies, no file is without one.
    """
    if not upload.size:
        raise BadFile("file_empty")
    if upload.size > settings.ATTACHMENT_BYTES:
        raise BadFile("file_too_large", status=413)
    name = clean_name(upload.name or "")
    kind, media_type = kind_of(upload.read(HEAD), name)
    attachment = Attachment(
        owner_id=owner_id,
        kind=kind,
        name=name,
        media_type=media_type,
        size=upload.size,
        sha256=_sha256(upload),
        key=secrets.token_hex(16),
    )
    attachment.save(force_insert=True)
    # Counted with this one, so that of many uploads at once none slips through.
    if _pending(owner_id).count() > settings.ATTACHMENTS_PENDING:
        attachment.delete()
        raise RateLimited(file_sentence_for("too_many_pending"), code="too_many_pending")
    upload.seek(0)
    storage().save(attachment.part("source"), upload)
    return attachment


def access_attachment(owner_id: int, attachment_id: UUID) -> Attachment:
    """Return the owner's attachment; raises NotFound. One that no worker came for is refused now."""
    found = rows.find(Attachment, pk=attachment_id)
    if found is None or found.owner_id != owner_id or found.status == Status.ERASED:
        raise NotFound
    since = (found.status == Status.PROCESSING and found.claimed_at) or found.created_at
    if is_waiting(found) and since < timezone.now() - WAITING:
        refuse(found, "file_unprocessed")
    return found


def open_part(owner_id: int, attachment_id: UUID, *, preview: bool = False) -> tuple[Attachment, IO[bytes]]:
    """Return an attachment that is ready, and its file or the small image of it; raises NotFound."""
    found = access_attachment(owner_id, attachment_id)
    if found.status != Status.READY or (preview and found.kind != Attachment.Kind.IMAGE):
        raise NotFound
    try:
        return found, storage().open(found.part("preview") if preview else found.stored)
    except OSError as error:
        raise NotFound from error


def is_waiting(attachment: Attachment) -> bool:
    return attachment.status in (Status.UPLOADED, Status.PROCESSING)


def wait_for(attachments: Iterable[Attachment], *, seconds: float) -> list[Attachment]:
    """Return the attachments as they are when no worker has any of them in hand, or the time is up."""
    ids = tuple(attachment.pk for attachment in attachments)
    deadline = time.monotonic() + seconds
    while True:
        found = {row.pk: row for row in rows.select(Attachment, {"pk": ids})} if ids else {}
        if not any(map(is_waiting, found.values())) or time.monotonic() > deadline:
            return [found[pk] for pk in ids if pk in found]
        _lend_connection()
        time.sleep(PAUSE_SECONDS)


def _lend_connection() -> None:
    """Give this thread's connection back to its pool: whoever sleeps must not keep others from theirs."""
    connection = connections[router.db_for_write(Attachment)]
    if connection.vendor != "sqlite" and not connection.in_atomic_block:
        connection.close()


def refuse(attachment: Attachment, error: str) -> None:
    """Say why a file that waits cannot be used, and drop what was kept of it."""
    fields = {"status": Status.REFUSED, "error": error}
    waiting = {"pk": attachment.pk, "status": (Status.UPLOADED, Status.PROCESSING), "attempts": attachment.attempts}
    if rows.update(Attachment, waiting, fields):
        attachment.status, attachment.error = Status.REFUSED, error
        drop_parts(attachment)
    else:
        attachment.refresh_from_db()


def discard(attachment: Attachment) -> None:
    """Erase a file its owner removed before asking; raises Conflict for one that was used: it stays with its question."""
    if not mark_erased(Q(pk=attachment.pk, turn_id=None)):
        raise Conflict(
            _("This file belongs to a question. It goes when you delete the conversation."), code="file_used"
        )
    erase([attachment])


def erase_of_conversation(conversation_id: UUID) -> None:
    _erase_where(Q(conversation_id=conversation_id))


def erase_of_owner(owner_id: int) -> None:
    _erase_where(Q(owner_id=owner_id))


def mark_erased(which: Q) -> int:
    """Hide files at once; `erase` or the sweep removes them. Return how many."""
    return Attachment.objects.filter(which).update(status=Status.ERASED, turn_id=None, bound_at=None)


def _erase_where(which: Q) -> None:
    mark_erased(which)
    while found := list(Attachment.objects.filter(which, status=Status.ERASED)[:500]):
        erase(found)


def erase(attachments: Sequence[Attachment]) -> None:
    """Remove files from the storage, then their rows: what dies in between is done again by the sweep."""
    for attachment in attachments:
        drop_parts(attachment)
    Attachment.objects.filter(pk__in=[attachment.pk for attachment in attachments], status=Status.ERASED).delete()


def drop_parts(attachment: Attachment, *, spare: Iterable[str] = ()) -> None:
    """Delete everything the storage may have of an attachment, of every attempt, except the names to `spare`."""
    kept = set(spare)
    last = attachment.attempts
    names = [attachment.part("source")]
    for attempt in range(1, last + 1):
        attachment.attempts = attempt
        names += map(attachment.part, ("file", "preview", "text"))
    attachment.attempts = last
    for name in names:
        if name not in kept:
            storage().delete(name)
    if not kept:
        _drop_folder(attachment)


def _drop_folder(attachment: Attachment) -> None:
    """Remove the empty folder, where the storage has folders."""
    try:
        storage().delete(attachment.part("source").rpartition("/")[0])
    except OSError:  # no folder, or a worker is just writing into it
        pass


def _pending(owner_id: int) -> QuerySet[Attachment]:
    return Attachment.objects.filter(owner_id=owner_id, turn_id=None).exclude(
        status__in=(Status.ERASED, Status.REFUSED)
    )


def _sha256(upload: "UploadedFile[bytes]") -> str:
    upload.seek(0)
    digest = hashlib.sha256()
    for chunk in upload.chunks():
        digest.update(chunk)
    return digest.hexdigest()
