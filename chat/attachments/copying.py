"""Copies files for a conversation that begins with another one's turns: each goes with its own conversation."""

import secrets
from collections.abc import Iterable, Sequence
from uuid import UUID

from django.forms import model_to_dict
from django.utils import timezone

from chat.attachments.binding import Attached
from chat.attachments.storage import MADE_PARTS, drop_parts, storage
from chat.models import Attachment
from core import rows
from history.models import new_id


def copy_files(
    files: Iterable[tuple[UUID, Sequence[Attached]]], *, owner_id: int, conversation_id: UUID
) -> dict[UUID, UUID]:
    """Copy the files of turns, which come with their new ids, each file once; return its copy's id by its own.

    A file that is gone has a copy that is gone. A row is written before the parts it names, and called ready after
    them: whatever dies in between, the sweep erases it with the conversation.
    """
    copies: dict[UUID, UUID] = {}
    for turn_id, attached in files:
        for file in attached:
            if file.id not in copies:
                copies[file.id] = new_id()
                source = rows.find(Attachment, pk=file.id, owner_id=owner_id)
                if source is not None and source.status == Attachment.Status.READY:
                    _copy(source, copies[file.id], turn_id=turn_id, conversation_id=conversation_id)
    return copies


def _copy(source: Attachment, copy_id: UUID, *, turn_id: UUID, conversation_id: UUID) -> None:
    copy = Attachment(**model_to_dict(source, exclude=("id",)))
    copy.pk, copy.key, copy.created_at = copy_id, secrets.token_hex(16), timezone.now()
    copy.turn_id, copy.conversation_id, copy.bound_at = turn_id, conversation_id, timezone.now()
    copy.status = Attachment.Status.REFUSED  # until its parts are there: nobody reads it, and nobody is shown it
    copy.save(force_insert=True)
    for name in dict.fromkeys((source.stored, *map(source.part, MADE_PARTS))):
        if storage().exists(name):
            with storage().open(name) as part:
                storage().save(name.replace(f"{source.key[:2]}/{source.key}", f"{copy.key[:2]}/{copy.key}"), part)
    if not Attachment.objects.filter(pk=copy.pk, status=copy.status).update(status=Attachment.Status.READY):
        drop_parts(copy)  # erased meanwhile, by somebody who could not know of them
