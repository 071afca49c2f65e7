"""Decodes server-sent events (WHATWG HTML, section 9.2), for streams of JSON."""

from chat.llm.providers.errors import BadResponse

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""A longer event is an error, and must not fill the memory."""


class SseDecoder:
    """Turns chunks of bytes, cut anywhere, into the data of whole events. Event names, ids and comments are dropped."""

    __slots__ = ("_data", "_rest", "_size")

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0  # bytes in _data

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of every event that `chunk` completes; raises BadResponse for one that is too long."""
        lines = (self._rest + chunk if self._rest else chunk).split(b"\n")
        self._rest = lines.pop()
        events: list[bytes] = []
        data = self._data
        for line in lines:
            if line.endswith(b"\r"):
                line = line[:-1]
            if line.startswith(b"data:"):
                data.append(line[6:] if line.startswith(b"data: ") else line[5:])
                self._size += len(line)
            elif not line and data:
                if event := data[0] if len(data) == 1 else b"\n".join(data):  # an event without data is none
                    events.append(event)
                data.clear()
                self._size = 0
        if self._size + len(self._rest) > MAX_EVENT_BYTES:
            raise BadResponse
        return events

    def end(self) -> list[bytes]:
        """Return the last event if its closing blank line is missing, as some servers leave it out."""
        return self.feed(b"\n\n")
