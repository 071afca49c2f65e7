"""Server-sent events as a reader sees them."""

import re

_BLANK_LINE = re.compile(rb"\r?\n\r?\n")


class EventReader:
    """Splits a body that arrives in pieces into events of a name and its data."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept = b""

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """The events that these bytes complete; comments and empty events are left out."""
        buffer = self._kept + data if self._kept else data
        *blocks, self._kept = _BLANK_LINE.split(buffer) if b"\r" in buffer else buffer.split(b"\n\n")
        return [event for block in blocks if (event := _read(block))]


def _read(block: bytes) -> tuple[str, bytes] | None:
    if block.startswith(b"data: ") and b"\n" not in block:  # a provider's event, of which there are many
        return "message", block[6:]
    name, parts = "message", []
    for line in block.splitlines():
        field, _, value = line.partition(b":")
        if field == b"data":
            parts.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.strip().decode()
    return (name, b"\n".join(parts)) if parts else None
