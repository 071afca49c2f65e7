"""Our own format of a conversation, described in docs/api.md: a JSON object with all turns of the tree. Written by
exports, read by imports. Knows nothing of Django: see parsed.py."""

import datetime as dt
from collections.abc import Sequence
from uuid import UUID

import msgspec

from history.transfer.parsed import MAX_KEY, MAX_TITLE, Notes, ParsedConversation, ParsedTurn, clean

FORMAT = "tertulia.conversation"
VERSION = 1
INDEX_FORMAT = "tertulia.export"


FILE_ENDINGS = {"image/png": "png", "image/jpeg": "jpg", "application/pdf": "pdf", "text/plain": "txt"}


class ExportedFile(msgspec.Struct):
    """A file of a question: it was there, and is not in the document. In an export of everything `file` says where it
    is, if it is still kept."""

    name: str
    kind: str = ""
    media_type: str = ""
    size: int = 0
    file: str | msgspec.UnsetType = msgspec.UNSET


class ExportedUsage(msgspec.Struct):
    input: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int
    source: str


class ExportedTurn(msgspec.Struct):
    id: str
    parent_id: str | None
    question: str
    status: str = ""
    attachments: list[ExportedFile] = []
    answer: str = ""
    reasoning: str = ""
    requested_model: str = ""
    model: str = ""
    provider: str = ""
    effort: str = ""
    usage: ExportedUsage | None = None
    cost_micros: int | None = None
    finish_reason: str = ""
    error: str = ""
    created_at: dt.datetime | None = None
    completed_at: dt.datetime | None = None


class DocumentHead(msgspec.Struct):
    """All of a document but its turns, which come after it."""

    format: str
    version: int
    id: str
    title: str = ""
    is_archived: bool = False
    leaf_id: str | None = None
    created_at: dt.datetime | None = None
    updated_at: dt.datetime | None = None


class Document(DocumentHead, kw_only=True):
    turns: list[msgspec.Raw]


class IndexEntry(msgspec.Struct):
    """A conversation in the index of an export of everything."""

    id: str
    title: str
    turn_count: int
    created_at: dt.datetime
    updated_at: dt.datetime
    file: str


def path_of_file(file_id: str | UUID, media_type: str) -> str:
    """Return where a file is in an export of everything."""
    return f"attachments/{file_id}.{FILE_ENDINGS.get(media_type, 'bin')}"


def parse_document(data: bytes, notes: Notes) -> ParsedConversation:
    """Return a conversation; raises FileRefused, or msgspec's errors for a shape that is wrong."""
    found = msgspec.json.decode(data, type=Document)
    if found.version != VERSION:
        raise notes.refuse("unknown_version")
    if not found.id or len(found.id) > MAX_KEY:
        raise notes.refuse("missing_id")
    turns = [_turn(number, raw, notes) for number, raw in enumerate(found.turns, 1)]
    _check_tree(turns, notes)
    keys = {turn.key for turn in turns}
    return ParsedConversation(
        source="tertulia",
        key=found.id,
        title=clean(found.title, MAX_TITLE),
        created_at=seconds(found.created_at),
        updated_at=seconds(found.updated_at),
        leaf=found.leaf_id if found.leaf_id in keys else None,
        is_archived=found.is_archived,
        turns=turns,
    )


def _turn(number: int, raw: msgspec.Raw, notes: Notes) -> ParsedTurn:
    try:
        found = msgspec.json.decode(raw, type=ExportedTurn)
    except msgspec.ValidationError as error:
        raise notes.refuse("wrong_shape", str(number), detail=str(error)) from error
    if not found.id or len(found.id) > MAX_KEY:
        raise notes.refuse("missing_id", found.id)
    notes.left_out["files"] += len(found.attachments)
    return ParsedTurn(
        key=found.id,
        parent=found.parent_id,
        question=notes.cut(found.question),
        answer=notes.cut(found.answer),
        reasoning=notes.cut(found.reasoning),
        model=clean(found.model or found.requested_model, 100),
        asked_at=seconds(found.created_at),
        ended_at=seconds(found.completed_at),
        files=[clean(file.name, 100) for file in found.attachments[:100]],
    )


def _check_tree(turns: Sequence[ParsedTurn], notes: Notes) -> None:
    """Raise FileRefused where a turn is not the only one with its id, or does not come after its parent: exports write
    them in the order in which they were asked."""
    before: set[str] = set()
    all_keys = {turn.key for turn in turns}
    for turn in turns:
        if turn.key in before:
            raise notes.refuse("duplicate_id", turn.key)
        if turn.parent is not None and turn.parent not in before:
            raise notes.refuse("cycle" if turn.parent in all_keys else "missing_parent", turn.key)
        before.add(turn.key)


def seconds(moment: dt.datetime | None) -> float | None:
    """Return seconds since 1970; a time without a zone is in UTC."""
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()
