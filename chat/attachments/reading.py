"""Reads uploaded files in a worker: the risky part in a child process with limits. May be repeated at any point."""

import datetime as dt
import json
import logging
import subprocess
import sys
from math import ceil
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import msgspec
from celery import shared_task
from django.conf import settings
from django.core.files import File
from django.db.models import F, Q, QuerySet
from django.utils import timezone
from kombu.exceptions import OperationalError

from chat.attachments.states import refuse_file
from chat.attachments.storage import MADE_PARTS, drop_parts, storage
from chat.llm.pricing import RESERVE_BYTES_PER_TOKEN
from chat.models import Attachment
from core import long_work
from core.sweeps import MAX_CLOCK_DIFFERENCE

logger = logging.getLogger(__name__)

CLAIM_LASTS = dt.timedelta(seconds=2 * settings.ATTACHMENT_SECONDS + 45) + MAX_CLOCK_DIFFERENCE
"""A file that somebody has been reading for longer is read by somebody else: the first must have died."""
MAX_ATTEMPTS = 3
PARTS_OF_KIND = {
    Attachment.Kind.IMAGE: ("file", "preview"),
    Attachment.Kind.PDF: ("text",),
    Attachment.Kind.TEXT: ("file", "text"),
}

_free_readers = long_work.places


class ReadFile(msgspec.Struct):
    """What the child process (extract.py) says of a file."""

    error: str = ""
    media_type: str = ""
    width: int = 0
    height: int = 0
    pages: int = 0
    text_bytes: int = 0
    is_cut: bool = False


def read_later(attachment_id: UUID) -> None:
    """Hand a file to a worker. Without a broker the sweep does it later."""
    try:
        read_attachment.delay(str(attachment_id))
    except OperationalError:
        logger.warning("Attachment not handed over yet", extra={"attachment_id": attachment_id})


@shared_task(bind=True, max_retries=None)
def read_attachment(self: Any, attachment_id: str) -> None:
    """Read one uploaded file, now or a second later: others may have to come first."""
    found = _waiting(UUID(attachment_id)).first()
    if found is None:
        return
    if _must_let_others_go_first(found.owner_id) or not _free_readers.acquire(blocking=False):
        raise self.retry(countdown=1)
    try:
        read_file(UUID(attachment_id))
    finally:
        _free_readers.release()


def read_file(attachment_id: UUID) -> None:
    """Read a file that waits; nothing if somebody else reads or has read it."""
    attachment = _claim(attachment_id)
    if attachment is None:
        return
    if attachment.attempts > MAX_ATTEMPTS:
        refuse_file(attachment, "file_broken")
        return
    with TemporaryDirectory(prefix="attachment-") as name:
        folder = Path(name)
        try:
            with storage().open(attachment.part("source")) as source, (folder / "source").open("wb") as copy:
                copyfileobj(source, copy)
        except FileNotFoundError:  # whoever uploaded it died before it was written
            refuse_file(attachment, "file_broken")
            return
        found = _extract(attachment.kind, folder)
        if found.error:
            refuse_file(attachment, found.error)
            return
        _finish(attachment, folder, found)


def _waiting(attachment_id: UUID) -> QuerySet[Attachment]:
    """Return the file if it waits for a reader, which one whose reader died does."""
    stuck = Q(status=Attachment.Status.PROCESSING, claimed_at__lt=timezone.now() - CLAIM_LASTS)
    return Attachment.objects.filter(Q(status=Attachment.Status.UPLOADED) | stuck, pk=attachment_id)


def _must_let_others_go_first(owner_id: int) -> bool:
    """Return whether a file of the person's is being read while somebody else's waits: nobody may take all readers."""
    being_read = Attachment.objects.filter(
        owner_id=owner_id, status=Attachment.Status.PROCESSING, claimed_at__gte=timezone.now() - CLAIM_LASTS
    )
    others = Attachment.objects.filter(status=Attachment.Status.UPLOADED).exclude(owner_id=owner_id)
    return being_read.exists() and others.exists()


def _claim(attachment_id: UUID) -> Attachment | None:
    """Claim a file for reading, as one more attempt; None if it does not wait."""
    if not _waiting(attachment_id).update(
        status=Attachment.Status.PROCESSING, claimed_at=timezone.now(), attempts=F("attempts") + 1
    ):
        return None
    return Attachment.objects.filter(pk=attachment_id).first()


def _extract(kind: str, folder: Path) -> ReadFile:
    """Return what the child process says of the file; an error if the kernel ended it."""
    command = [sys.executable, "-m", "chat.attachments.extract", kind, str(folder), json.dumps(_limits())]
    try:
        done = subprocess.run(  # noqa: S603  our own module
            command,
            cwd=settings.BASE_DIR,
            env={"LANG": "C.UTF-8", "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"},  # no secrets
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=2 * settings.ATTACHMENT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ReadFile(error="file_slow")
    try:
        return msgspec.json.decode(done.stdout, type=ReadFile)
    except msgspec.MsgspecError:
        logger.warning("File reader ended", extra={"kind": kind, "status": done.returncode})
        return ReadFile(error="file_slow" if done.returncode in (-24, -9) else "file_broken")  # SIGXCPU, SIGKILL


def _limits() -> dict[str, int]:
    return {
        "pixels": settings.ATTACHMENT_PIXELS,
        "pages": settings.ATTACHMENT_PAGES,
        "characters": settings.ATTACHMENT_CHARACTERS,
        "seconds": settings.ATTACHMENT_SECONDS,
    }


def _finish(attachment: Attachment, folder: Path, found: ReadFile) -> None:
    """Store the parts that were made, delete the file as it came unless it is a PDF, and call the attachment ready.

    It is called ready last: a photograph as it came, with its place and camera in it, must not outlive a crash unseen.
    """
    for name in PARTS_OF_KIND[Attachment.Kind(attachment.kind)]:
        with (folder / name).open("rb") as made:
            storage().save(attachment.part(name), File(made))
    attachment.media_type = found.media_type or attachment.media_type
    attachment.size = storage().size(attachment.stored)
    drop_parts(attachment, except_names=(attachment.stored, *map(attachment.part, MADE_PARTS)))
    ours = Attachment.objects.filter(
        pk=attachment.pk, status=Attachment.Status.PROCESSING, attempts=attachment.attempts
    )
    is_ours = ours.update(
        status=Attachment.Status.READY,
        media_type=attachment.media_type,
        size=attachment.size,
        width=found.width,
        height=found.height,
        pages=found.pages,
        tokens=ceil(found.text_bytes / RESERVE_BYTES_PER_TOKEN),
        is_cut=found.is_cut,
    )
    if not is_ours:  # erased or taken over meanwhile, by somebody who could not know of these parts
        for name in MADE_PARTS:
            storage().delete(attachment.part(name))
