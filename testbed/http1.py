"""The part of HTTP/1.1 that the fake provider and the load client share: heads, and bodies in chunks."""

from dataclasses import dataclass

MAX_HEAD_BYTES = 65_536


class MalformedError(ValueError):
    """The other side does not speak HTTP/1.1."""


@dataclass(frozen=True, slots=True)
class Head:
    """A start line and its header fields, whose names are in lower case."""

    start: str
    fields: dict[str, str]

    @classmethod
    def parse(cls, raw: bytes) -> "Head":
        """Parse what comes before the blank line."""
        start, *lines = raw.decode("latin-1").split("\r\n")
        fields = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise MalformedError(line)
            fields[name.strip().lower()] = value.strip()
        return cls(start, fields)

    @property
    def chunked(self) -> bool:
        return self.fields.get("transfer-encoding", "").lower().endswith("chunked")

    @property
    def content_length(self) -> int | None:
        length = self.fields.get("content-length")
        if length is None:
            return None
        if not (length.isascii() and length.isdigit()):
            raise MalformedError(length)
        return int(length)

    @property
    def closes(self) -> bool:
        return self.fields.get("connection", "").lower() == "close"


class Dechunker:
    """Decodes a chunked body (RFC 9112 §7.1) that arrives in pieces of any size."""

    __slots__ = ("_after_data", "_in_trailer", "_buffer", "_chunk_bytes_left", "finished")

    def __init__(self) -> None:
        self.finished = False
        self._buffer = b""
        self._chunk_bytes_left = 0
        self._after_data = False
        self._in_trailer = False

    @property
    def rest(self) -> bytes:
        """The bytes after the end of the body."""
        return self._buffer if self.finished else b""

    def feed(self, data: bytes) -> bytes:
        """Return the part of the body in these bytes; sets `finished` at its end."""
        buffer = self._buffer + data if self._buffer else data
        pieces: list[bytes] = []
        at = 0
        while not self.finished:
            if self._chunk_bytes_left:
                piece = buffer[at : at + self._chunk_bytes_left]
                pieces.append(piece)
                at += len(piece)
                self._chunk_bytes_left -= len(piece)
                if self._chunk_bytes_left:
                    break
                self._after_data = True
            line_start = at + 2 if self._after_data else at
            line_end = buffer.find(b"\r\n", line_start)
            if line_end < 0:
                break
            self._read_line(buffer[line_start:line_end])
            at = line_end + 2
        self._buffer = buffer[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_line(self, line: bytes) -> None:
        if self._in_trailer:
            self.finished = not line
            return
        try:
            self._chunk_bytes_left = int(line.partition(b";")[0], 16)
        except ValueError as error:
            raise MalformedError(repr(line[:40])) from error
        self._after_data = False
        self._in_trailer = self._chunk_bytes_left == 0


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
