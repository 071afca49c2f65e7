"""The load client's two kinds of connection: HTTP/1.1 and WebSocket, with little work for each read."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, cast
from urllib.parse import urlsplit

from bench.websocket import FrameReader, Opcode, accept_of, encode_frame, new_key
from testbed.http1 import Dechunker, Head

LOOPBACK = ("127.0.0.1", "localhost")
SLOW_BYTES_PER_SECOND = 1_000
# The smallest buffer the kernel gives, and segments as on Ethernet: with those of the loopback, of 64 KB, the sender's
# kernel would buffer megabytes, and the site would notice no delay.
SLOW_RECEIVE_BYTES = 2_048
SLOW_SEGMENT_BYTES = 1_400

Receive = Callable[[bytes], None]


class ConnectionFailedError(Exception):
    """`kind` is the kind of the failure, short enough to be counted by."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int
    path: str  # without a trailing slash

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse a URL; raises ValueError if it is not on this machine: a load is never put on another."""
        parts = urlsplit(url)
        if parts.hostname not in LOOPBACK:
            raise ValueError(f"not on this machine: {url}")
        return cls(parts.hostname, parts.port or 80, parts.path.rstrip("/"))

    @property
    def netloc(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes  # empty if it went to a callback as it arrived


def request_bytes(
    method: str, address: Address, path: str, body: bytes = b"", *, fields: dict[str, str] | None = None
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {address.netloc}"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    elif method == "POST":
        lines.append("Content-Length: 0")
    lines += [f"{name}: {value}" for name, value in (fields or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class HttpConnection(asyncio.Protocol):
    """An HTTP connection with one request at a time, opened when needed and kept open while the server does."""

    _transport: asyncio.Transport | None = None

    def __init__(self, address: Address) -> None:
        self._address = address
        self._receive: Receive | None = None
        self._answer: asyncio.Future[Response] | None = None
        self._buffer = b""
        self._ends_with_connection = False
        self._forget_response()

    async def open(self) -> None:
        """Connect, unless connected."""
        if self._transport is not None and not self._transport.is_closing():
            return
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self, self._address.host, self._address.port)
        except OSError as error:
            raise ConnectionFailedError(f"connect-{error.errno}") from error

    async def exchange(self, request: bytes, receive: Receive | None = None) -> Response:
        """Send a request. The body of a 200 goes to `receive`, if given, as it arrives; other bodies are returned."""
        if self._transport is None:
            raise ConnectionFailedError("closed")
        self._forget_response()
        self._receive = receive
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._status:
            head, blank, data = (self._buffer + data).partition(b"\r\n\r\n")
            if not blank:
                self._buffer = head
                return
            self._begin(Head.parse(head))
        self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._ends_with_connection and self._status:
            self._finish()
        elif self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionFailedError("closed"))

    def _forget_response(self) -> None:
        self._status = 0
        self._buffer = b""
        self._dechunker: Dechunker | None = None
        self._bytes_left = 0
        self._ends_with_connection = False

    def _begin(self, head: Head) -> None:
        self._status = int(head.start.split(" ", 2)[1])
        self._buffer = b""
        self._dechunker = Dechunker() if head.chunked else None
        self._bytes_left = head.content_length or 0
        self._ends_with_connection = not head.chunked and head.content_length is None and self._status != 204

    def _take(self, data: bytes) -> None:
        if self._dechunker is not None:
            data = self._dechunker.feed(data)
            over = self._dechunker.finished
        else:
            self._bytes_left -= len(data)
            over = self._bytes_left <= 0 and not self._ends_with_connection
        if data:
            if self._receive is not None and self._status == 200:
                self._receive(data)
            else:
                self._buffer += data
        if over:
            self._finish()

    def _finish(self) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_result(Response(self._status, self._buffer))


class SocketConnection(asyncio.Protocol):
    """A WebSocket that passes each text message to `receive`, and the reason of its end to `ended`."""

    _transport: asyncio.Transport

    def __init__(self, request: Callable[[str], bytes], receive: Receive, ended: Callable[[str], None]) -> None:
        self._request = request
        self._receive = receive
        self._ended = ended
        self._key = new_key()
        self._head: bytes | None = b""
        self._reader = FrameReader()
        self._reason = "ws-closed"
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, address: Address, path: str, receive: Receive, ended: Callable[[str], None]) -> Self:
        def handshake(key: str) -> bytes:
            fields = {"Upgrade": "websocket", "Connection": "Upgrade", "Origin": f"http://{address.netloc}"}
            fields |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key}
            return request_bytes("GET", address, path, fields=fields)

        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: cls(handshake, receive, ended), sock=await cls._connected(address)
            )
        except OSError as error:
            raise ConnectionFailedError(f"connect-{error.errno}") from error
        await connection._opened
        return connection

    @classmethod
    async def _connected(cls, address: Address) -> socket.socket:
        sock = socket.socket()
        try:
            sock.setblocking(False)
            cls._prepare(sock)
            await asyncio.get_running_loop().sock_connect(sock, (LOOPBACK[0], address.port))
        except BaseException:
            sock.close()
            raise
        return sock

    @classmethod
    def _prepare(cls, sock: socket.socket) -> None:
        """Set options before the socket is connected."""

    def send(self, payload: bytes, opcode: Opcode = Opcode.TEXT) -> None:
        self._transport.write(encode_frame(opcode, payload))

    def close(self) -> None:
        self.send(b"\x03\xe8", Opcode.CLOSE)  # 1000, as a page that is left
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request(self._key))

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            head, blank, data = (self._head + data).partition(b"\r\n\r\n")
            if not blank:
                self._head = head
                return
            self._head = None
            if not self._accept(Head.parse(head)):
                return
        for opcode, payload in self._reader.feed(data):
            if opcode == Opcode.TEXT:
                self._receive(payload)
            else:
                self._control(opcode, payload)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._opened.done():
            self._opened.set_exception(ConnectionFailedError(self._reason))
        self._ended(self._reason)

    def _accept(self, head: Head) -> bool:
        status = head.start.split(" ", 2)[1]
        if status == "101" and head.fields.get("sec-websocket-accept") == accept_of(self._key):
            self._opened.set_result(None)
            return True
        self._reason = f"ws-{status}"
        self._transport.abort()
        return False

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == Opcode.PING:
            self.send(payload, Opcode.PONG)
        elif opcode == Opcode.CLOSE:
            self._reason = f"ws-closed-{int.from_bytes(payload[:2], 'big')}"
            self._transport.close()


class SlowSocketConnection(SocketConnection):
    """A WebSocket that reads no more than SLOW_BYTES_PER_SECOND."""

    @classmethod
    def _prepare(cls, sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_RECEIVE_BYTES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SLOW_SEGMENT_BYTES)

    def data_received(self, data: bytes) -> None:
        self._transport.pause_reading()
        asyncio.get_running_loop().call_later(len(data) / SLOW_BYTES_PER_SECOND, self._resume_reading)
        super().data_received(data)

    def _resume_reading(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()
