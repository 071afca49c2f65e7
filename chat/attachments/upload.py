"""Accepts an uploaded file: checked by its size and its first bytes, stored as it came, to be read by a worker."""

import hashlib
import secrets

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.db.models import QuerySet

from billing.entitlements import entitlements_of
from chat.attachments.sniffing import HEAD_BYTES, clean_name, detect_kind
from chat.attachments.storage import drop_parts, storage
from chat.errors import BadFile, file_sentence_for
from chat.models import Attachment
from core.errors import RateLimited, Unavailable


def store_upload(owner_id: int, upload: "UploadedFile[bytes]") -> Attachment:
    """Store what was uploaded and return it, still to be read; raises BadFile or RateLimited, and Unavailable
    where there is no room for it.

    The row is written first: whatever dies in between, no stored file is without one.
    """
    if not upload.size:
        raise BadFile("file_empty")
    most_bytes = entitlements_of(owner_id).largest_file(settings.ATTACHMENT_BYTES)
    if upload.size > most_bytes:
        raise BadFile("file_too_large", status=413, most_bytes=most_bytes)
    name = clean_name(upload.name or "")
    kind, media_type = detect_kind(upload.read(HEAD_BYTES), name)
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
    if _unused(owner_id).count() > settings.ATTACHMENTS_PENDING:
        attachment.delete()
        raise RateLimited(file_sentence_for("too_many_pending"), code="too_many_pending")
    upload.seek(0)
    try:
        storage().save(attachment.part("source"), upload)
    except OSError as error:  # the disk is full: what was written of it goes, and so does its row
        drop_parts(attachment)
        attachment.delete()
        raise Unavailable(retry_after=30) from error
    if not Attachment.objects.filter(pk=attachment.pk).exclude(status=Attachment.Status.ERASED).exists():
        drop_parts(attachment)  # the account was closed meanwhile
    return attachment


def _unused(owner_id: int) -> QuerySet[Attachment]:
    """Return the person's files that were not asked about yet."""
    return Attachment.objects.filter(owner_id=owner_id, turn_id=None).exclude(
        status__in=(Attachment.Status.ERASED, Attachment.Status.REFUSED)
    )


def _sha256(upload: "UploadedFile[bytes]") -> str:
    upload.seek(0)
    digest = hashlib.sha256()
    for chunk in upload.chunks():
        digest.update(chunk)
    return digest.hexdigest()
