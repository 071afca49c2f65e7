"""Exports everything of a person as a zip, in a worker: each conversation as JSON and as Markdown, what every app has
of them, and an index. Who takes one up whose worker died begins again."""

import logging
import secrets
import time
import zipfile
from collections.abc import Iterable, Iterator
from itertools import chain
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
from django.utils.formats import date_format
from django.utils.text import slugify
from django.utils.translation import gettext as _
from kombu.exceptions import OperationalError

from accounts import limits
from accounts.export_parts import ExportPart
from accounts.limits import Act
from accounts.models import User
from accounts.signals import everything_taken_along
from core import long_work, rows
from core.errors import NotFound
from core.mail import send_mail
from core.sweeps import iterate_pages
from history.models import THERE, Conversation, Export
from history.transfer import document, states
from history.transfer.parts import parts_of_history
from history.transfer.refusals import TransferRunning
from history.transfer.states import BEAT_SECONDS, Lost, part, transfer_storage, write_state
from history.transfer.writing import write

logger = logging.getLogger(__name__)

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


def file_name_of(row: Export) -> str:
    """Return what the zip is called for whoever saves it: the site's name, and the day."""
    return f"{slugify(settings.SITE_NAME) or 'export'}-{row.created_at:%Y-%m-%d}.zip"


def _write_zip(row: Export, made: IO[bytes]) -> None:
    """Write everything, in the language and time zone of its owner."""
    owner = User.objects.filter(pk=row.owner_id).first()
    of_owner = _conversations_of(row.owner_id)
    write_state(row, status=Export.Status.WRITING, total=of_owner.count(), done=0)
    language, zone = (owner.locale, owner.zone) if owner else (settings.LANGUAGE_CODE, None)
    archive = zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=6)
    with translation.override(language), timezone.override(zone), archive:
        _Writer(row, archive).write_all(owner, of_owner)


class _Writer:
    """Writes the zip of one export, and says in its row now and then that it is at work."""

    def __init__(self, row: Export, archive: zipfile.ZipFile) -> None:
        self._row, self._archive = row, archive
        self._told_at = time.monotonic()
        self._done = 0
        self._listed: dict[str, str] = {}
        """By file, or by folder, what it is."""

    def write_all(self, owner: User | None, of_owner: "QuerySet[Conversation]") -> None:
        entries = [self._write_conversation(one, "conversations") for one in self._each(of_owner)]
        write_state(self._row, done=self._done)
        in_trash = Conversation.objects.filter(owner_id=self._row.owner_id, is_deleted=None, trashed_at__isnull=False)
        trashed = [self._write_conversation(one, "trash") for one in self._each(in_trash)]
        for one in chain(parts_of_history(self._row.owner_id), _parts_of_apps(owner)):
            self._write(one.name, one.pieces())
            self._listed[one.listed_as or one.name] = one.about
        index = {
            "format": document.INDEX_FORMAT,
            "version": document.VERSION,
            "conversations": entries,
            "trash": trashed,
            "files": self._listed,
        }
        self._archive.writestr("index.json", msgspec.json.format(msgspec.json.encode(index), indent=1))
        self._archive.writestr("README.txt", self._read_me())

    def _each(self, found: "QuerySet[Conversation]") -> Iterator[Conversation]:
        return (conversation for page in iterate_pages(found) for conversation in page)

    def _write_conversation(self, conversation: Conversation, folder: str) -> document.IndexEntry:
        name = f"{folder}/{conversation.pk}"
        self._write(f"{name}.json", encoded(write(conversation, "json", beside_files=True)))
        self._write(f"{name}.md", encoded(write(conversation, "markdown")))
        if folder == "conversations":
            self._done += 1
        return _entry(conversation, f"{name}.json")

    def _write(self, name: str, pieces: Iterable[bytes]) -> None:
        with self._archive.open(name, "w", force_zip64=True) as file:
            for piece in pieces:
                file.write(piece)
                self._tell()
        self._tell()

    def _tell(self) -> None:
        if time.monotonic() - self._told_at > BEAT_SECONDS / 5:
            self._told_at = time.monotonic()
            write_state(self._row, done=self._done)

    def _read_me(self) -> str:
        """Return what is where, for people."""
        values = {"site": settings.SITE_NAME, "date": date_format(timezone.localdate(), "DATE_FORMAT")}
        lines = [_("Everything of yours at %(site)s, on %(date)s") % values, ""]
        lines += [f"{name}\n    {about}" for name, about in (_own_files() | self._listed).items()]
        lines += [
            "",
            _("Not in it: temporary chats, passwords and keys: we do not keep them."),
        ]
        return "\n".join(lines) + "\n"


def encoded(texts: Iterable[str]) -> Iterator[bytes]:
    return (text.encode() for text in texts)


def _own_files() -> dict[str, str]:
    return {
        "index.json": _("What is in this file, for programs."),
        "conversations/": _(
            "Your conversations, two files each: JSON with all branches, which can be imported again, and the branch "
            "you see as text (Markdown)."
        ),
        "trash/": _("The same of what is in the trash. An import leaves it out."),
    }


def _parts_of_apps(owner: User | None) -> Iterator[ExportPart]:
    if owner is not None:
        parts: Iterator[ExportPart]
        for _receiver, parts in everything_taken_along.send(User, user=owner):  # type: ignore[assignment]
            yield from parts


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
        subject = _("Your data is ready to download")
        body = (
            _("Your export from %(site)s is ready. Log in and download it within %(days)s days:\n\n%(url)s\n") % values
        )
    try:
        send_mail.delay(subject=subject, body=body, to=[user.email])
    except OperationalError:  # the page says it, too
        logger.warning("Mail about an export not sent", extra={"export_id": row.pk})
