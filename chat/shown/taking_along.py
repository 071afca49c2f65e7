"""What the chat has of a person beside their conversations, for an export of everything: files, who of the staff read
what, and what they were told of their history."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from django.dispatch import receiver
from django.utils.translation import gettext as _

from accounts.export_parts import ExportPart, json_of_all
from accounts.models import User
from accounts.signals import everything_taken_along
from chat.attachments.storage import storage
from chat.models import Attachment, HistoryNotice, StaffReading
from core.sweeps import iterate_by_key, iterate_pages
from history.temporary import is_temporary
from history.transfer.document import path_of_file

PIECE_BYTES = 1 << 20
_FOLDER = "attachments/"
_FILE = ("id", "conversation_id", "kind", "name", "media_type", "size", "pages", "sha256", "created_at")
_READING = ("id", "conversation_id", "staff_email", "reason", "created_at", "expires_at")
_NOTICE = ("days", "sent_at", "goes_at")


@receiver(everything_taken_along)
def parts_of_chat(user: User, **_signal: Any) -> Iterator[ExportPart]:
    yield ExportPart(
        name="attachments.json",
        about=_("The files you have attached: what they were called, and where they are here."),
        pieces=lambda: json_of_all(_describe(file) for file in _files_of(user)),
    )
    about = _("The files themselves, as we keep them: images are made anew, and of texts the text is kept.")
    for file in _files_of(user):
        if storage().exists(file.stored):
            name = path_of_file(file.pk, file.media_type)
            yield ExportPart(name=name, about=about, pieces=partial(_pieces_of, file), listed_as=_FOLDER)
    yield ExportPart(
        name="staff-readings.json",
        about=_("Who of the staff was allowed to read a conversation of yours, when and why."),
        pieces=lambda: json_of_all(_fields(one, _READING) for one in _of_user(StaffReading, user)),
    )
    yield ExportPart(
        name="history-notices.json",
        about=_("When you were told that old conversations will go."),
        pieces=lambda: json_of_all(_fields(one, _NOTICE) for one in _of_user(HistoryNotice, user)),
    )


def _files_of(user: User) -> Iterator[Attachment]:
    """Yield the files that are kept: a zip that is kept for days has none of a temporary conversation."""
    for page in iterate_pages(Attachment.objects.filter(owner_id=user.pk, status=Attachment.Status.READY)):
        yield from (file for file in page if file.conversation_id is None or not is_temporary(file.conversation_id))


def _describe(file: Attachment) -> dict[str, Any]:
    is_there = storage().exists(file.stored)
    return {**_fields(file, _FILE), "file": path_of_file(file.pk, file.media_type) if is_there else None}


def _pieces_of(file: Attachment) -> Iterator[bytes]:
    with storage().open(file.stored) as stored:
        while piece := stored.read(PIECE_BYTES):
            yield piece


def _of_user(model: type[StaffReading] | type[HistoryNotice], user: User) -> Iterator[Any]:
    return iterate_by_key(model._default_manager.filter(user=user))


def _fields(row: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}
