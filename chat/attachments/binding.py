"""The files of a question: checked, bound to its turn, listed on it, and read again for the prompt."""

from collections.abc import Iterable, Sequence
from uuid import UUID

import msgspec
from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from chat.attachments.states import is_waiting
from chat.attachments.storage import storage
from chat.errors import FileNotReady, FileNotUsable, TooManyFiles
from chat.models import Attachment
from core import rows


class Attached(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file as its turn lists it. `tokens` is the estimate of its text."""

    id: UUID
    kind: str
    name: str
    media_type: str
    size: int
    pages: int = 0
    width: int = 0
    height: int = 0
    tokens: int = 0
    is_cut: bool = False


_decode = msgspec.json.Decoder(tuple[Attached, ...]).decode


def encode_attached(files: Sequence[Attached]) -> str:
    """Return what Turn.attachments keeps; empty for none."""
    return msgspec.json.encode(files).decode() if files else ""


def decode_attached(text: str) -> tuple[Attached, ...]:
    """Return the files of a turn; none where they cannot be read: the turn is shown, and gone on from, without."""
    try:
        return _decode(text) if text else ()
    except msgspec.MsgspecError:
        return ()


def get_usable_files(
    owner_id: int, ids: Sequence[UUID], *, turn_id: UUID, conversation_id: UUID
) -> tuple[Attached, ...]:
    """Return the files of a question in its order, by one statement; without any, by none.

    A file belongs to the first conversation that uses it, and may be asked about again there. Raises TooManyFiles,
    FileNotUsable or FileNotReady.
    """
    wanted = tuple(dict.fromkeys(ids))
    if not wanted:
        return ()
    if len(wanted) > settings.ATTACHMENTS_PER_QUESTION:
        raise TooManyFiles
    found = {row.pk: row for row in rows.select(Attachment, {"pk": wanted, "owner_id": owner_id})}
    for pk in wanted:
        row = found.get(pk)
        if row is not None and is_waiting(row):
            raise FileNotReady(retry_after=2)
        is_free = row is not None and (row.turn_id in (None, turn_id) or row.conversation_id == conversation_id)
        if row is None or row.status != Attachment.Status.READY or not is_free:
            raise FileNotUsable
    if sum(row.size for row in found.values()) > settings.ATTACHMENTS_BYTES:
        raise TooManyFiles
    return tuple(_to_attached(found[pk]) for pk in wanted)


def bind_files(files: Sequence[Attached], *, turn_id: UUID, conversation_id: UUID) -> None:
    """Bind the files to a turn, all or none; raises FileNotUsable if another conversation was faster.

    Whoever dies between this and the turn leaves files of a turn that does not exist: the same question takes them
    again, and a sweep frees them.
    """
    if not files:
        return
    ids = [file.id for file in files]
    free = Q(turn_id=None) | Q(turn_id=turn_id)
    ready = Attachment.objects.filter(pk__in=ids, status=Attachment.Status.READY)
    now = timezone.now()
    ours = ready.filter(free).update(turn_id=turn_id, conversation_id=conversation_id, bound_at=now)
    if ours == len(ids):
        return
    of_conversation = ready.filter(conversation_id=conversation_id)
    if of_conversation.count() < len(ids):
        unbind_files(turn_id)
        raise FileNotUsable
    # Their first turn may never be written: the sweep must not free them before it can see this one.
    of_conversation.filter(bound_at__isnull=False).update(bound_at=now)


def unbind_files(turn_id: UUID) -> None:
    """Free the files of a turn that was not written after all."""
    Attachment.objects.filter(turn_id=turn_id, bound_at__isnull=False).update(
        turn_id=None, conversation_id=None, bound_at=None
    )


class FileContents:
    """Reads the bytes and texts of files from the storage; their rows are read at once, by one statement."""

    def __init__(self, owner_id: int, files: Iterable[Attached]) -> None:
        ids = tuple({file.id for file in files})
        found = rows.select(Attachment, {"pk": ids, "owner_id": owner_id}) if ids else []
        self._rows = {row.pk: row for row in found if row.status == Attachment.Status.READY}

    def data_of(self, file: Attached) -> bytes | None:
        """Return the bytes that are sent of an image or a PDF; None if it is gone."""
        row = self._rows.get(file.id)
        return _read(row.stored) if row else None

    def text_of(self, file: Attached) -> str | None:
        """Return the text of a PDF or a text; None if it is gone."""
        row = self._rows.get(file.id)
        data = _read(row.part("text")) if row else None
        return None if data is None else data.decode()


def _read(name: str) -> bytes | None:
    try:
        with storage().open(name) as file:
            data: bytes = file.read()
            return data
    except FileNotFoundError:  # erased meanwhile
        return None


def _to_attached(row: Attachment) -> Attached:
    names = ("kind", "name", "media_type", "size", "pages", "width", "height", "tokens", "is_cut")
    return Attached(row.pk, **{name: getattr(row, name) for name in names})
