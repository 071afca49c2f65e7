"""An attached file over HTTP: to its owner alone, and as nothing a browser would run."""

from uuid import UUID

from django.http import HttpResponse
from django.utils.http import content_disposition_header

from chat.attachments.serving import open_part
from chat.models import Attachment

CONTENT_TYPES = {
    "image/png": "image/png",
    "image/jpeg": "image/jpeg",
    "application/pdf": "application/pdf",
    "text/plain": "text/plain; charset=utf-8",
}
"""How files are served, by their media type."""
OTHER_TYPE = "application/octet-stream"
"""All others are bytes to download."""


def file_response(owner_id: int, attachment_id: UUID, *, preview: bool = False) -> HttpResponse:
    """Return the owner's file, or the small version of an image; raises NotFound. A browser shows images, which were
    encoded anew by us, and saves the rest."""
    attachment, file = open_part(owner_id, attachment_id, preview=preview)
    with file:
        body = file.read()
    stored_type = CONTENT_TYPES.get(attachment.media_type, OTHER_TYPE)
    response = HttpResponse(body, content_type="image/webp" if preview else stored_type)
    is_image = attachment.kind == Attachment.Kind.IMAGE
    response["Content-Disposition"] = content_disposition_header(not is_image, attachment.name) or "inline"
    response["Content-Security-Policy"] = "sandbox; default-src 'none'; frame-ancestors 'none'"
    response["X-Content-Type-Options"] = "nosniff"
    response["Cross-Origin-Resource-Policy"] = "same-origin"
    return response
