"""What an export of everything is made of: files that each app writes of what it keeps of a person, in pieces.

Whoever makes the export (history/transfer/exporting.py) asks for them with `signals.everything_taken_along`, and knows
no more of them than this.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPart:
    """A file in the zip. `about` says what it is, in the person's language; of many files in one folder, each has the
    folder as `listed_as`, and all have the same `about`. `pieces` is called when it is written."""

    name: str
    about: str
    pieces: Callable[[], Iterable[bytes]]
    listed_as: str = ""


def json_of(fields: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield a JSON object."""
    yield msgspec.json.format(_encode(fields), indent=1) + b"\n"


def json_of_all(found: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Yield a JSON array, an object a line; of what it is made of, one is in memory."""
    before = b"[\n"
    for fields in found:
        yield before + _encode(fields)
        before = b",\n"
    yield b"\n]\n" if before == b",\n" else b"[]\n"
