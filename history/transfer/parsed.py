"""What every source of conversations comes to: turns with their parents, ready to be written. Knows nothing of Django:
it is also loaded by the process that reads what strangers have made (extract.py)."""

from collections import Counter
from dataclasses import dataclass, field

import msgspec

from core.unicode import mend

MAX_TEXT = 400_000
"""Characters of one text of a turn. With its folded copy it must fit into a document of MongoDB, 16 MB."""
MAX_TITLE = 200
MAX_KEY = 200
"""Characters of an id of a source."""


class FilePlace(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where something is: in which file, which conversation from 1, which message by its id; `detail` is what a parser
    says of it, for whoever knows the format."""

    file: str = ""
    conversation: int = 0
    message: str = ""
    detail: str = ""


class FileRefused(Exception):
    """A file cannot be imported. `code` is a key of REFUSALS (refusals.py)."""

    def __init__(self, code: str, place: FilePlace) -> None:
        super().__init__(code)
        self.code, self.place = code, place


class ParsedTurn(msgspec.Struct, omit_defaults=True):
    """A turn of a source. `key` and `parent` are the source's ids; times are seconds since 1970, or None.

    `images` are how many pictures were in question and answer that have no name, `files` the names of the others.
    """

    key: str
    parent: str | None = None
    question: str = ""
    answer: str = ""
    reasoning: str = ""
    model: str = ""
    asked_at: float | None = None
    ended_at: float | None = None
    files: list[str] = []
    images: int = 0
    answer_images: int = 0


class ParsedConversation(msgspec.Struct, omit_defaults=True):
    """A conversation of a source. A turn comes after its parent; `leaf` is the key of the last one of the branch that
    the source shows, None for the last of all."""

    source: str
    key: str
    title: str = ""
    created_at: float | None = None
    updated_at: float | None = None
    leaf: str | None = None
    is_archived: bool = False
    turns: list[ParsedTurn] = []


class Extracted(msgspec.Struct, omit_defaults=True):
    """What reading a file came to: an error and its place, or how much there is and what was left out, by kind."""

    error: str = ""
    place: FilePlace = FilePlace()
    source: str = ""
    conversations: int = 0
    turns: int = 0
    left_out: dict[str, int] = {}


class Progress(msgspec.Struct):
    """How far reading is, of 100."""

    percent: int


@dataclass(slots=True)
class Notes:
    """Where one is in a file, and what is left out of it."""

    file: str = ""
    conversation: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def place(self, message: str = "", detail: str = "") -> FilePlace:
        return FilePlace(self.file, self.conversation, clean(message, 80), clean(detail, 200))

    def refuse(self, code: str, message: str = "", *, detail: str = "") -> FileRefused:
        """Return the refusal of what is here, or of a message of it."""
        return FileRefused(code, self.place(message, detail))

    def cut(self, text: str) -> str:
        """Return the text as it can be stored; what is too long is cut, and noted."""
        cleaned = clean(text)
        if len(cleaned) > MAX_TEXT:
            self.left_out["cut"] += 1
            return cleaned[:MAX_TEXT]
        return cleaned


def clean(text: str, length: int | None = None) -> str:
    """Return the text without what no store takes: NUL and lone surrogates."""
    return mend(text if length is None else text[:length]).replace("\0", "")
