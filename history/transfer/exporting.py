"""Exports all conversations of a person as a zip, in a worker: a JSON file for each, and an index. Who takes one up
whose worker died begins again."""

import logging
import secrets
import time
import zipfile
from collections.abc import Iterator
from tempfile import TemporaryFile
from threading import BoundedSemaphore
from typing import IO, Any
from uuid import UUID

import msgspec
from celery import shared_task
from django.conf import settings
from django.core.files import File
from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.translation import gettext as _
from kombu.exceptions import OperationalError

from accounts import limits
from accounts.limits import Act
from accounts.models import User
from core import long_work, rows
from core.errors import NotFound
from core.mail import send_mail
from core.sweeps import iterate_pages
from history.models import THERE, Conversation, Export
from history.transfer import document, states
from history.transfer.refusals import TransferRunning
from history.transfer.states import BEAT_SECONDS, Lost, part, transfer_storage, write_state
from history.transfer.writing import write

logger = logging.getLogger(__name__)

FILE_NAME = "conversations.zip"
_free = BoundedSemaphore(1)


def begin_export(owner_id: int) -> Export:
    """Return a new export, which a worker does; raises TransferRunning or RateLimited."""
    row = Export(owner_id=owner_id, key=secrets.token_hex(16))
    rows.insert(row)
    if states.has_another_open(row):
        Export.objects.filter(pk=row.pk).delete()
        raise TransferRunning
    try:
        limits.count_of_member(Act.EXPORT, owner_id)
    except Exception:
        Export.objects.filter(pk=row.pk).delete()
        raise
    export_later(row.pk)
    return row


def export_later(export_id: UUID) -> None:
    """Hand an export to a worker. Without a broker the sweep does it later."""
    try:
        export_conversations.delay(str(export_id))
    except OperationalError:
        logger.warning("Export not handed over yet", extra={"export_id": export_id})


@shared_task(bind=True, max_retries=None)
def export_conversations(self: Any, export_id: str) -> None:
    """Make an export, now or a second later: others may have to come first."""
    with long_work.take_place(_free) as is_there_room:
        if not is_there_room:
            raise self.retry(countdown=1)
        make_export(UUID(export_id))


def make_export(export_id: UUID) -> None:
    """Make an export that waits; nothing if somebody else makes or has made it."""
    row = states.claim_transfer(Export, export_id, of=(Export.Status.WRITING,), first=Export.Status.WAITING)
    if row is None:
        return
    try:
        if row.tries > states.MAX_TRIES:
            write_state(row, status=Export.Status.FAILED, finished_at=timezone.now())
            states.drop_files(row)
            return
        with TemporaryFile() as made:  # it has no name: nothing of it outlives this process
            _write_zip(row, made)
            size = made.tell()
            write_state(row)
            transfer_storage().delete(part(row, "zip"))  # of who died here
            transfer_storage().save(part(row, "zip"), File(made))
            write_state(row, status=Export.Status.READY, size=size, finished_at=timezone.now())
    except Lost:
        states.drop_if_erased(row)
        return
    _erase_older(row)
    _tell(row)


def open_export(owner_id: int, export_id: UUID) -> tuple[Export, IO[bytes]]:
    """Return the owner's export and its zip; raises NotFound."""
    row = states.access(Export, owner_id, export_id)
    if row.status != Export.Status.READY:
        raise NotFound
    try:
        return row, transfer_storage().open(part(row, "zip"))
    except OSError as error:
        raise NotFound from error


def _write_zip(row: Export, made: IO[bytes]) -> None:
    of_owner = _conversations_of(row.owner_id)
    write_state(row, status=Export.Status.WRITING, total=of_owner.count(), done=0)
    entries: list[document.IndexEntry] = []
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for conversation in _alive(row, of_owner, entries):
            name = f"conversations/{conversation.pk}.json"
            with archive.open(name, "w", force_zip64=True) as file:
                for text in write(conversation, "json"):
                    file.write(text.encode())
            entries.append(_entry(conversation, name))
        index = {"format": document.INDEX_FORMAT, "version": document.VERSION, "conversations": entries}
        archive.writestr("index.json", msgspec.json.format(msgspec.json.encode(index), indent=1))


def _alive(
    row: Export, of_owner: "QuerySet[Conversation]", entries: list[document.IndexEntry]
) -> Iterator[Conversation]:
    """Yield the conversations, and say in the row now and then that they are being written."""
    told_at = time.monotonic()
    for page in iterate_pages(of_owner):
        for conversation in page:
            yield conversation
            if time.monotonic() - told_at > BEAT_SECONDS / 5:
                told_at = time.monotonic()
                write_state(row, done=len(entries))
    write_state(row, done=len(entries))


def _conversations_of(owner_id: int) -> "QuerySet[Conversation]":
    return Conversation.objects.filter(owner_id=owner_id, **THERE)


def _entry(conversation: Conversation, name: str) -> document.IndexEntry:
    return document.IndexEntry(
        id=str(conversation.pk),
        title=conversation.title,
        turn_count=conversation.turn_count,
        created_at=conversation.created_at,
        updated_at=conversation.updated_at,
        file=name,
    )


def _erase_older(row: Export) -> None:
    """Erase the exports before this one: nobody needs two."""
    older = Export.objects.filter(owner_id=row.owner_id, created_at__lt=row.created_at)
    states.erase_transfers(older.exclude(pk=row.pk))
    states.erase_hidden_transfers(Export, owner_id=row.owner_id)


def _tell(row: Export) -> None:
    """Send the owner a mail: where the zip is, never the zip."""
    user = User.objects.filter(pk=row.owner_id).first()
    if user is None:
        return
    values = {"site": settings.SITE_NAME, "days": settings.EXPORT_DAYS, "url": settings.SITE_URL + reverse("transfers")}
    with translation.override(user.locale):
        subject = _("Your conversations are ready to download") % values
        body = (
            _("Your export from %(site)s is ready. Log in and download it within %(days)s days:\n\n%(url)s\n") % values
        )
    try:
        send_mail.delay(subject=subject, body=body, to=[user.email])
    except OperationalError:  # the page says it, too
        logger.warning("Mail about an export not sent", extra={"export_id": row.pk})
