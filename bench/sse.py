"""Reads server-sent events."""

import re

_BLANK_LINE = re.compile(rb"\r?\n\r?\n")


class EventReader:
    """Splits a body that arrives in pieces into events, each a name and data."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """Return the events that these bytes complete, without comments and empty events."""
        buffer = self._buffer + data if self._buffer else data
        *blocks, self._buffer = _BLANK_LINE.split(buffer) if b"\r" in buffer else buffer.split(b"\n\n")
        return [event for block in blocks if (event := _read(block))]


def _read(block: bytes) -> tuple[str, bytes] | None:
    if block.startswith(b"data: ") and b"\n" not in block:  # a shortcut for providers' events, of which there are many
        return "message", block[6:]
    name, parts = "message", []
    for line in block.splitlines():
        field, _, value = line.partition(b":")
        if field == b"data":
            parts.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.strip().decode()
    return (name, b"\n".join(parts)) if parts else None
