"""Gives attachments to their owner alone: their state, and their bytes when they are ready."""

import datetime as dt
import time
from collections.abc import Iterable
from typing import IO
from uuid import UUID

from django.db import connections, router
from django.utils import timezone

from chat.attachments.states import is_waiting, refuse_file
from chat.attachments.storage import storage
from chat.models import Attachment
from core import rows
from core.errors import NotFound
from history import access

MAX_WAIT = dt.timedelta(seconds=90)
"""How long a person waits for a worker to begin with a file, or to read it; then they are told that nobody did."""
PAUSE_SECONDS = 0.2


def access_attachment(owner_id: int, attachment_id: UUID) -> Attachment:
    """Return the owner's attachment; raises NotFound, also where its conversation is in the trash. One that no
    worker has read in time is refused now."""
    found = rows.find(Attachment, pk=attachment_id)
    if found is None or found.owner_id != owner_id or found.status == Attachment.Status.ERASED:
        raise NotFound
    if found.conversation_id is not None and access.is_hidden(found.conversation_id):
        raise NotFound
    since = (found.status == Attachment.Status.PROCESSING and found.claimed_at) or found.created_at
    if is_waiting(found) and since < timezone.now() - MAX_WAIT:
        refuse_file(found, "file_unprocessed")
    return found


def open_part(owner_id: int, attachment_id: UUID, *, preview: bool = False) -> tuple[Attachment, IO[bytes]]:
    """Return an attachment that is ready, and its file or the small image of it; raises NotFound."""
    found = access_attachment(owner_id, attachment_id)
    if found.status != Attachment.Status.READY or (preview and found.kind != Attachment.Kind.IMAGE):
        raise NotFound
    try:
        return found, storage().open(found.part("preview") if preview else found.stored)
    except OSError as error:
        raise NotFound from error


def wait_for(attachments: Iterable[Attachment], *, seconds: float) -> list[Attachment]:
    """Return the attachments as they are when none waits any more, or the time is up."""
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
