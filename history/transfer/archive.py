"""Finds the conversations in what was uploaded: a JSON file, or a zip with some in it. Knows nothing of Django.

A zip is not unpacked: its members are read as a stream, and never further than its directory says they are long.
"""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from history.transfer.parsed import FilePlace, FileRefused, Notes, clean

MAX_MEMBERS = 200_000
MAX_UNPACKED = 2_000_000_000
"""Bytes of all JSON files in a zip."""
MAX_RATIO = 250
"""To so many times its size a file may unpack: text does to 20 times, one that repeats itself to 100, and what was made
to fill a disk to 1,000."""
MIN_BOMB = 50_000_000
"""Bytes below which the ratio does not matter."""

WANTED = re.compile(r"(.*/)?(conversations(-\d{1,6})?\.json|conversations/[^/]+\.json)")
"""What exports call the files in which conversations are: ChatGPT's in one or numbered, Claude's, our own."""
IGNORED = re.compile(r"__MACOSX/|(.*/)?\._")
LOCAL_HEADER, EMPTY_ZIP = b"PK\x03\x04", b"PK\x05\x06"
ENCRYPTED = 0x1
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Source:
    """A JSON file with conversations: its name and length, and how it is opened."""

    name: str
    size: int
    member: zipfile.ZipInfo | None = None


class Upload:
    """What was uploaded, open for reading."""

    def __init__(self, file: IO[bytes], archive: zipfile.ZipFile | None, sources: list[Source]) -> None:
        self._file, self._archive, self.sources = file, archive, sources

    def open(self, source: Source) -> IO[bytes]:
        if source.member is None:
            self._file.seek(0)
            return self._file
        assert self._archive is not None
        return self._archive.open(source.member)


@contextmanager
def open_upload(path: Path, name: str) -> Iterator[Upload]:
    """Give the upload with its JSON files in the order of their names; raises FileRefused for what is none."""
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        if head not in (LOCAL_HEADER, EMPTY_ZIP):
            yield Upload(file, None, [Source(clean(name, 100), path.stat().st_size)])
            return
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError, KeyError) as error:
            raise FileRefused("zip_broken", FilePlace(clean(name, 100))) from error
        with archive:
            yield Upload(file, archive, _list_sources(archive, FilePlace(clean(name, 100))))


def _list_sources(archive: zipfile.ZipFile, place: FilePlace) -> list[Source]:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise FileRefused("zip_bomb", place)
    wanted = [m for m in members if WANTED.fullmatch(m.filename) and not IGNORED.match(m.filename)]
    if not wanted:
        is_nested = any(member.filename.lower().endswith(".zip") for member in members)
        raise FileRefused("zip_nested" if is_nested else "zip_nothing", place)
    # Where numbered files stand beside the whole, or one for each conversation does, they say the same once more.
    whole = [member for member in wanted if re.search(r"(^|/)conversations\.json$", member.filename)]
    wanted = whole or wanted
    names = [member.filename for member in wanted]
    if len(set(names)) < len(names):
        raise FileRefused("zip_broken", FilePlace(clean(max(names, key=names.count), 100)))
    for member in wanted:
        _check(member, FilePlace(clean(member.filename, 100)))
    if sum(member.file_size for member in wanted) > MAX_UNPACKED:
        raise FileRefused("zip_bomb", place)
    return [Source(clean(m.filename, 100), m.file_size, m) for m in sorted(wanted, key=lambda m: m.filename)]


def _check(member: zipfile.ZipInfo, place: FilePlace) -> None:
    if member.flag_bits & ENCRYPTED:
        raise FileRefused("zip_encrypted", place)
    if member.compress_type not in METHODS:
        raise FileRefused("zip_broken", place)
    if member.file_size > MIN_BOMB and member.file_size > MAX_RATIO * max(1, member.compress_size):
        raise FileRefused("zip_bomb", place)


MAX_CONVERSATION = 64_000_000
"""Bytes of one conversation."""
MAX_DEPTH = 100
CHUNK = 1 << 20
BOM = b"\xef\xbb\xbf"
_OUTSIDE = re.compile(rb'["{}\[\]]')
_INSIDE = re.compile(rb'["\\]')
_BLANK = re.compile(rb"\s*")


def split_conversations(file: Readable, notes: Notes) -> Iterator[bytes]:
    """Yield each object of a JSON array, or the one object that the file is, as it stands there; `notes.conversation`
    is its number from 1.

    In memory is one object at a time. Raises FileRefused for anything else; what is in an object is not looked at, but
    for its depth.
    """
    scanner = _Scanner(notes)
    while chunk := file.read(CHUNK):
        yield from scanner.feed(chunk)
    scanner.end()


class _Scanner:
    """Finds where objects begin and end, whatever the pieces the file comes in."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._buffer = bytearray()
        self._at = 0  # what is before it was looked at
        self._begin: int | None = None  # of the object in the buffer
        self._depth = 0  # inside the object
        self._in_string = False
        self._is_array: bool | None = None  # None before the first sign
        self._is_over = False
        self._needs_comma = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        self._buffer += chunk
        while True:
            if self._begin is None and not self._skip_to_object():
                break
            end = self._find_end()
            if end is None:
                if len(self._buffer) - (self._begin or 0) > MAX_CONVERSATION:
                    raise self._notes.refuse("conversation_too_large")
                break
            found = bytes(self._buffer[self._begin : end])
            self._begin, self._needs_comma = None, True
            self._is_over = not self._is_array
            if len(found) > MAX_CONVERSATION:
                raise self._notes.refuse("conversation_too_large")
            yield found
        keep = self._at if self._begin is None else self._begin
        del self._buffer[:keep]
        self._at -= keep
        self._begin = None if self._begin is None else 0

    def end(self) -> None:
        """Raise FileRefused unless the file ended where it should."""
        if self._begin is not None or not self._is_over:
            raise self._notes.refuse("not_json")

    def _skip_to_object(self) -> bool:
        """Go on to the next object; return whether there is one in the buffer."""
        buffer = self._buffer
        if self._is_array is None and not self._at and buffer.startswith(BOM):
            self._at = len(BOM)
        while True:
            match = _BLANK.match(buffer, self._at)
            assert match is not None
            self._at = match.end()
            if self._at == len(buffer):
                return False
            sign = buffer[self._at]
            if self._is_over:
                raise self._notes.refuse("not_json")
            if self._is_array is None and sign in b"[{":
                self._is_array = sign == ord("[")
                if self._is_array:
                    self._at += 1
                    continue
            if self._is_array is None:
                raise self._notes.refuse("not_json")
            if sign == ord("]") and (self._needs_comma or not self._notes.conversation):
                self._at += 1
                self._is_over = True
            elif sign == ord(",") and self._needs_comma:
                self._at += 1
                self._needs_comma = False
            elif sign == ord("{") and not self._needs_comma:
                self._begin, self._depth, self._in_string = self._at, 0, False
                self._notes.conversation += 1
                return True
            else:
                self._notes.conversation += 1
                raise self._notes.refuse("not_json" if self._needs_comma else "no_object")

    def _find_end(self) -> int | None:
        """Return where the object ends, or None where the buffer does before it."""
        buffer, at, depth, in_string = self._buffer, self._at, self._depth, self._in_string
        length = len(buffer)
        end: int | None = None
        while True:
            match = (_INSIDE if in_string else _OUTSIDE).search(buffer, at)
            if match is None:
                at = length
                break
            sign = buffer[match.start()]
            at = match.end()
            if sign == 0x22:  # "
                in_string = not in_string
            elif sign == 0x5C:  # a backslash: the next sign means itself
                if at == length:
                    at -= 1
                    break
                at += 1
            elif sign in b"{[":
                depth += 1
                if depth > MAX_DEPTH:
                    raise self._notes.refuse("too_deep")
            else:
                depth -= 1
                if depth == 0:
                    end = at
                    break
        self._at, self._depth, self._in_string = at, depth, in_string
        return end
