"""Decodes server-sent events (WHATWG HTML, section 9.2), for streams of JSON."""

from chat.llm.providers.errors import BadResponse

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""A longer event, or more comments in a row, is an error, and must not fill the memory."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class SseDecoder:
    """Turns chunks of bytes, cut anywhere, into the data of whole events. Event names, ids and comments are dropped.

    A body that is JSON in place of a stream, such as an error's under the status 200, is one event.
    """

    __slots__ = ("_after_cr", "_data", "_has_begun", "_rest", "_unread", "is_json")

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._unread = 0  # bytes since the last event
        self._has_begun = self.is_json = False
        self._after_cr = False  # a line feed that comes now belongs to the line before

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of every event that `chunk` completes; raises BadResponse for one that is too long."""
        if not self._has_begun:
            chunk = self._begin(chunk)
        if self._after_cr or b"\r" in chunk:
            chunk = self._with_line_feeds(chunk)
        self._unread += len(chunk)
        self._rest += chunk
        lines: list[bytes] = []
        if not self.is_json:
            lines = self._rest.split(b"\n")
            self._rest = lines.pop()
        events: list[bytes] = []
        data = self._data
        for line in lines:
            if line.startswith(b"data:"):
                data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif not line and data:
                if event := data[0] if len(data) == 1 else b"\n".join(data):  # an event without data is none
                    events.append(event)
                data.clear()
        if events:
            self._unread = len(self._rest) + sum(map(len, data))
        if self._unread > MAX_EVENT_BYTES:
            raise BadResponse
        return events

    def end(self) -> list[bytes]:
        """Return the last event if its closing blank line is missing, as some servers leave it out."""
        if self.is_json:
            return [self._rest]
        return self.feed(b"\n\n")

    def _begin(self, chunk: bytes) -> bytes:
        """Return what is to be split of the first bytes; nothing while they could be half of a byte order mark."""
        begun = self._rest + chunk
        if BYTE_ORDER_MARK.startswith(begun):
            self._rest = begun
            return b""
        begun, self._rest = begun.removeprefix(BYTE_ORDER_MARK).lstrip(), b""
        self._has_begun, self.is_json = bool(begun), begun.startswith((b"{", b"["))
        return begun

    def _with_line_feeds(self, chunk: bytes) -> bytes:
        """Return the chunk with lines that end in a line feed, where they ended in CR LF or CR."""
        if self._after_cr:
            if not chunk:
                return chunk
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
