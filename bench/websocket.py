"""The client's side of the WebSocket protocol (RFC 6455), without compression."""

import base64
import hashlib
import os
import struct
from enum import IntEnum

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Opcode(IntEnum):
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


def new_key() -> str:
    return base64.b64encode(os.urandom(16)).decode()


def accept_of(key: str) -> str:
    """Return the server's answer to a key in the handshake."""
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def encode_frame(opcode: Opcode, payload: bytes) -> bytes:
    """Return a message as one frame, masked as a client's must be."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 65_536:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    mask = os.urandom(4)
    pattern = (mask * (size // 4 + 1))[:size]
    masked = int.from_bytes(payload, "big") ^ int.from_bytes(pattern, "big")
    return head + mask + masked.to_bytes(size, "big")


def head_bytes(size: int) -> int:
    """Return the length of the head of a server's frame, which has no mask, by the size of its payload."""
    return 2 if size < 126 else 4 if size < 65_536 else 10


class FrameReader:
    """Joins frames into messages. Control frames may come between the parts of a message."""

    __slots__ = ("_buffer", "_parts")

    def __init__(self) -> None:
        self._buffer = b""
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the messages that these bytes complete, each with its opcode."""
        buffer = self._buffer + data if self._buffer else data
        messages: list[tuple[int, bytes]] = []
        at = 0
        while (span := _payload_span(buffer, at)) and span[1] <= len(buffer):
            first, payload, at = buffer[at], buffer[span[0] : span[1]], span[1]
            if message := self._complete(first, payload):
                messages.append(message)
        self._buffer = buffer[at:]
        return messages

    def _complete(self, first: int, payload: bytes) -> tuple[int, bytes] | None:
        opcode, final = first & 0x0F, first & 0x80
        if opcode >= Opcode.CLOSE or (final and opcode != Opcode.CONTINUATION):
            return opcode, payload
        self._parts.append(payload)
        if not final:
            return None
        whole, self._parts = b"".join(self._parts), []
        return Opcode.TEXT, whole


def _payload_span(buffer: bytes, at: int) -> tuple[int, int] | None:
    """Return start and end of the payload of the frame at `at`; None while its head is incomplete."""
    available = len(buffer) - at
    if available < 2:
        return None
    size = buffer[at + 1] & 0x7F
    if size < 126:
        start = at + 2
    elif size == 126 and available >= 4:
        size, start = struct.unpack_from("!H", buffer, at + 2)[0], at + 4
    elif size == 127 and available >= 10:
        size, start = struct.unpack_from("!Q", buffer, at + 2)[0], at + 10
    else:
        return None
    return start, start + size
