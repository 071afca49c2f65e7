"""Reads one untrusted export, in a process of its own:
`python -m history.transfer.extract <source> <made> <name> <seconds>`.

It knows nothing of the site: no Django, no secrets in its environment. A file may be made to take all memory or all
time; the kernel ends this process at its limits, and whoever started it refuses the file. It writes one line of JSON
for each conversation to `made` (parsed.ParsedConversation), says how far it is (parsed.Progress), and last what it
found (parsed.Extracted).
"""

import re
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from core.confinement import confine
from history.transfer import chatgpt, claude, document
from history.transfer.archive import MAX_UNPACKED, Readable, open_upload, split_conversations
from history.transfer.parsed import Extracted, FilePlace, FileRefused, Notes, ParsedConversation, Progress

MEMORY_BYTES = 1_500_000_000
MAX_CONVERSATIONS = 200_000
MAX_TURNS = 2_000_000
MAX_TURNS_OF_ONE = 10_000
"""Of a conversation: its page looks at the ids of all of them, and all of them may be answers to one question."""
TELL_SECONDS = 1.0
"""So often it says how far it is."""

Parse = Callable[[bytes, Notes], ParsedConversation]
LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2}|\\."
)


class Peek(msgspec.Struct):
    """What tells the sources apart."""

    mapping: msgspec.Raw = msgspec.Raw()
    chat_messages: msgspec.Raw = msgspec.Raw()
    format: str | None = None


class _Counting:
    """A file that knows how much of it was read."""

    def __init__(self, file: IO[bytes], on_read: Callable[[int], None]) -> None:
        self._file, self._on_read = file, on_read

    def read(self, size: int, /) -> bytes:
        data = self._file.read(size)
        self._on_read(len(data))
        return data


def main(source: Path, made: Path, name: str) -> Extracted:
    """Write all conversations and return what was found, or the error and its place, with nothing to be used."""
    notes = Notes()
    try:
        return _extract(source, made, name, notes)
    except FileRefused as refusal:
        return Extracted(error=refusal.code, place=refusal.place)
    except msgspec.ValidationError as error:
        wrong = notes.refuse("wrong_shape", detail=str(error))
        return Extracted(error=wrong.code, place=wrong.place)
    except (msgspec.DecodeError, UnicodeError):
        return Extracted(error="not_json", place=notes.place())
    except RecursionError:
        return Extracted(error="too_deep", place=notes.place())
    except MemoryError:
        return Extracted(error="too_slow", place=notes.place())
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        return Extracted(error="zip_broken", place=notes.place())


def _extract(source: Path, made: Path, name: str, notes: Notes) -> Extracted:
    found = Extracted()
    keys: set[str] = set()
    encoder = msgspec.json.Encoder()
    with open_upload(source, name) as upload, made.open("wb") as lines:
        tell = _teller(sum(part.size for part in upload.sources))
        for part in upload.sources:
            notes.file, notes.conversation = part.name, 0
            with upload.open(part) as file:
                for conversation in _conversations(_Counting(file, tell), notes):
                    if conversation.key in keys:
                        raise notes.refuse("duplicate_id")
                    keys.add(conversation.key)
                    if found.source not in ("", conversation.source):
                        raise notes.refuse("mixed")
                    found.source = conversation.source
                    if not conversation.turns:
                        notes.left_out["empty"] += 1
                        continue
                    if len(conversation.turns) > MAX_TURNS_OF_ONE:
                        raise notes.refuse("conversation_too_large")
                    found.conversations += 1
                    found.turns += len(conversation.turns)
                    if found.conversations > MAX_CONVERSATIONS or found.turns > MAX_TURNS:
                        raise notes.refuse("too_many")
                    lines.write(encoder.encode(conversation) + b"\n")
    if not keys:
        raise FileRefused("zip_nothing", FilePlace(notes.file))
    found.left_out = {kind: number for kind, number in notes.left_out.items() if number}
    return found


def _conversations(file: Readable, notes: Notes) -> Iterator[ParsedConversation]:
    for data in split_conversations(file, notes):
        left_out = notes.left_out.copy()
        try:
            yield _parser_of(data, notes)(data, notes)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            # Half of a sign, escaped: Python and JavaScript write it, and no parser of ours takes it.
            mended = LONE_SURROGATE.sub(_mended, data)
            if mended == data:
                raise
            notes.left_out = left_out
            yield _parser_of(mended, notes)(mended, notes)


def _parser_of(data: bytes, notes: Notes) -> Parse:
    peek = msgspec.json.decode(data, type=Peek)
    if peek.format == document.FORMAT:
        return document.parse_document
    if peek.mapping:
        return chatgpt.parse_chatgpt
    if peek.chat_messages:
        return claude.parse_claude
    raise notes.refuse("unknown_source")


def _mended(found: re.Match[bytes]) -> bytes:
    is_lone = len(found[0]) == 6 and found[0][:2] == b"\\u"
    return b"\\ufffd" if is_lone else found[0]


def _teller(total: int) -> Callable[[int], None]:
    """Return what is called with the bytes that were read: it says now and then how far that is."""
    read, told_at = 0, 0.0

    def tell(size: int) -> None:
        nonlocal read, told_at
        read += size
        if time.monotonic() - told_at > TELL_SECONDS:
            told_at = time.monotonic()
            _say(Progress(min(99, 100 * read // max(1, total))))

    return tell


def _say(what: Progress | Extracted) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    confine(int(sys.argv[4]), memory_bytes=MEMORY_BYTES, written_bytes=2 * MAX_UNPACKED)
    _say(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
