"""Decodes server-sent events (WHATWG HTML, section 9.2), for streams of JSON."""

from chat.llm.providers.errors import BadResponse

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""A longer event, or more comments in a row, is an error, and must not fill the memory."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class SseDecoder:
    """Turns chunks of bytes, cut anywhere, into the data of whole events. Event names, ids and comments are dropped.

    A body that is JSON in place of a stream, such as an error's under the status 200, is one event.
    """

    __slots__ = ("_after_cr", "_data", "_has_begun", "_is_plain", "_json", "_rest", "_unread", "is_json")

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._unread = 0  # bytes since the last event
        self._json = b""
        self._has_begun = self.is_json = False
        self._after_cr = False  # a line feed that comes now belongs to the line before
        self._is_plain = False  # none of these three is to be thought of

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of every event that `chunk` completes; raises BadResponse for one that is too long."""
        if not self._is_plain:
            chunk = self._make_plain(chunk)
        size = len(chunk)
        if self._rest:
            chunk = self._rest + chunk
        lines = chunk.splitlines()  # of bytes: at LF, CR and CR LF
        if chunk.endswith(b"\n") or not lines:
            self._rest = b""
        elif chunk.endswith(b"\r"):
            self._rest, self._after_cr, self._is_plain = b"", True, False
        else:
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
        self._unread = len(self._rest) if events else self._unread + size
        if self._unread > MAX_EVENT_BYTES or len(self._json) > MAX_EVENT_BYTES:
            raise BadResponse
        return events

    def end(self) -> list[bytes]:
        """Return the last event if its closing blank line is missing, as some servers leave it out."""
        return [self._json] if self.is_json else self.feed(b"\n\n")

    def _make_plain(self, chunk: bytes) -> bytes:
        """Return the bytes to split."""
        if not self._has_begun:
            chunk = self._begin(chunk)
        if self._after_cr and chunk:
            chunk, self._after_cr = chunk.removeprefix(b"\n"), False
        if self.is_json:
            self._json, chunk = self._json + chunk, b""
        self._is_plain = self._has_begun and not (self.is_json or self._after_cr)
        return chunk

    def _begin(self, chunk: bytes) -> bytes:
        """Return the first bytes without a byte order mark; nothing while they could be half of one."""
        begun = self._rest + chunk
        if BYTE_ORDER_MARK.startswith(begun):
            self._rest = begun
            return b""
        begun, self._rest = begun.removeprefix(BYTE_ORDER_MARK).lstrip(), b""
        self._has_begun, self.is_json = bool(begun), begun.startswith((b"{", b"["))
        return begun
