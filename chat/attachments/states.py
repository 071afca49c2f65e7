"""The states of an attachment before it is ready: it waits to be read, or is refused."""

from chat.attachments.storage import drop_parts
from chat.models import Attachment
from core import rows

WAITING_STATES = (Attachment.Status.UPLOADED, Attachment.Status.PROCESSING)


def is_waiting(attachment: Attachment) -> bool:
    """Return whether it waits for a worker to read it, or is being read."""
    return attachment.status in WAITING_STATES


def refuse_file(attachment: Attachment, error: str) -> None:
    """Refuse a file that waits, with the code of the reason, and delete its parts.

    What somebody else has changed meanwhile stays as it is; `attachment` is brought up to date.
    """
    refused = {"status": Attachment.Status.REFUSED, "error": error}
    waiting = {"pk": attachment.pk, "status": WAITING_STATES, "attempts": attachment.attempts}
    if rows.update(Attachment, waiting, refused):
        attachment.status, attachment.error = Attachment.Status.REFUSED, error
        drop_parts(attachment)
    else:
        attachment.refresh_from_db()
