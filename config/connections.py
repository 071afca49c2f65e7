"""What one connection may take of a web process. uvicorn keeps all that a client sends of a head, and waits for ever
for who sends or reads too slowly; here both have limits, and nobody keeps another out with many connections.

An event stream or a socket may stay as long as it likes: only who makes the server wait has to hurry.
"""

import asyncio
import select
import socket
from http import HTTPStatus
from typing import Any

import uvicorn
from django.conf import settings
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import DATA_OPCODES, Frame

from accounts.http import network_of
from core.loops import PerLoop

HEAD_BYTES = 65_536
"""The request line and headers of one request, or its trailers."""
HEAD_SECONDS = 10.0
WINDOW_SECONDS = 20.0
BYTES_A_SECOND = 500
"""The least a client must send of a body, or take of an answer, on the average of a window."""
MAX_PIPELINED = 16
"""Requests that may wait behind another one of the same connection."""
MAX_PARTS = 1_000
"""Frames of one message of a socket. An empty one costs memory, too."""
CHUNKS_AT_ONCE, BYTES_A_CHUNK = 1_000, 100
"""Pieces in which a body may come: so many, and one more for so many bytes. A chunk of one byte costs as much as one of
64 KB, and 40,000 are read at once."""
PIECE_BYTES = 4_096
"""What a socket parses at once: the server reads 256 KB, in which 40,000 frames may be."""
FRAMES_AT_ONCE = 2_000
FRAMES_A_SECOND = 100
"""Frames of one socket that end no message, such as pings: so many at any time, and after that so many a second. The
application reads messages at its own pace; these are read at the client's, and each costs as much to parse."""
MAX_CONNECTIONS = 4_000
"""Of one process. One more takes the place of the one whose client has kept the server waiting longest, in the network
with the most that do: a crowd of them makes room from its own. Behind a proxy all are of one network."""
LOOK_SECONDS = 1.0
LINGER_SECONDS = 1.0
"""How long what still comes is thrown away after a refusal: who hangs up at once takes the answer back."""
ENDING_SECONDS = 1.0
"""For how long a process that was told to end waits for the request of a connection that is there: who has just sent
one would get no answer, and a proxy sends no POST twice."""


ACCEPTING_SECONDS = 0.5
"""For how long it accepts, before that, whoever has come already: the system resets them when the port is closed."""


class TooMuch(Exception):
    """A client sends more than it may."""


class ReadingPace:
    """How a client takes what it is sent: whether it has made the server wait for a whole window."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._left = 0

    def begin(self) -> None:
        """Forget the past: the client has taken enough."""
        self._since = None

    def is_too_slow(self, now: float, left: int) -> bool:
        """Return whether it is, with so many bytes left to send, while nothing is added to them."""
        if self._since is None or not left:
            self._since, self._left = now, left
        elif now - self._since >= WINDOW_SECONDS:
            taken, self._since, self._left = self._left - left, now, left
            return taken < WINDOW_SECONDS * BYTES_A_SECOND
        return False


class ConnectionWatch:
    """Looks at all connections of a loop again and again."""

    def __init__(self) -> None:
        self.connections: set[ClientConnection | ClientSocket] = set()
        self._waiting: dict[str, dict[ClientConnection, None]] = {}
        """Where the client has to do something now, by network, in the order in which that began."""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: "ClientConnection | ClientSocket") -> None:
        self.connections.add(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def wait_for(self, client: "ClientConnection") -> None:
        self._waiting.setdefault(client.network, {})[client] = None

    def wait_no_more_for(self, client: "ClientConnection") -> None:
        neighbours = self._waiting.get(client.network, {})
        neighbours.pop(client, None)
        if not neighbours:
            self._waiting.pop(client.network, None)

    def has_room(self) -> bool:
        """Return whether there may be one more connection, if need be in the place of one that waits for its client."""
        if len(self.connections) < MAX_CONNECTIONS:
            return True
        if not self._waiting:
            return False
        crowd = max(self._waiting.values(), key=len)
        longest = next(iter(crowd))
        longest.leave()
        longest.transport.abort()
        return True

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(LOOK_SECONDS, self._look) if self.connections else None
        now = loop.time()
        for connection in tuple(self.connections):
            connection.look(now)


_watches = PerLoop(ConnectionWatch)


class ClientConnection(HttpToolsProtocol):
    """A connection on which requests come."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.network = network_of(self.client[0] if self.client else "")
        self._watch = _watches.get()
        self._reading = ReadingPace()
        self._receiving: str | None = "head"  # or "body"; None between two requests
        self._since = self.loop.time()  # when that began, or this window of it
        self._received = 0  # of the body, in this window
        self._loose_bytes = 0  # came since there was a head, or a piece of a body
        self._head_bytes = 0
        self._is_refused = False
        self._is_last = False  # the process ends: one more answer at most
        self._running: RequestResponseCycle | None = None
        if self._watch.has_room():
            self._watch.add(self)
            self._watch.wait_for(self)
        else:
            self._is_refused = True
            self._answer(503)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()
        self._disconnect()
        super().connection_lost(exc)

    def leave(self) -> None:
        """Be watched no more."""
        self._watch.connections.discard(self)
        self._watch.wait_no_more_for(self)

    # --- What comes --------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._loose_bytes += len(data)
        if self._is_refused:
            if self._loose_bytes > 16 * HEAD_BYTES:
                self.transport.abort()
            return
        if not self._is_answering:
            self._await_head()
        super().data_received(data)
        if self._loose_bytes > HEAD_BYTES and not self._is_refused:
            self.refuse(431)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise TooMuch
        self._head_bytes = 0
        self._await_head()
        super().on_message_begin()

    def _await_head(self) -> None:
        if self._receiving is None:
            self._receiving, self._since = "head", self.loop.time()

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES:
            raise TooMuch

    def on_headers_complete(self) -> None:
        self._loose_bytes = 0
        self._receiving, self._since, self._received = "body", self.loop.time(), 0
        self._chunks_left: float = CHUNKS_AT_ONCE
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._loose_bytes = 0
        self._received += len(body)
        self._chunks_left += len(body) / BYTES_A_CHUNK - 1
        if self._chunks_left < 0:
            raise TooMuch
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._loose_bytes = 0
        self._receiving = None
        self._watch.wait_no_more_for(self)
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser did not take, for one of our reasons or one of its own."""
        self.refuse(431 if self._head_bytes > HEAD_BYTES else 400)

    def handle_websocket_upgrade(self) -> None:
        if self._is_last:
            self.refuse(503)
            return
        self.leave()
        super().handle_websocket_upgrade()

    # --- What goes ---------------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.pipeline and self in self._watch.connections:
            self._watch.wait_for(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading.begin()
        self._watch.wait_for(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._receiving is None and self._is_answering:
            self._watch.wait_no_more_for(self)

    @property
    def _is_answering(self) -> bool:
        return self._running is not None and not self._running.response_complete

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        if self._is_last:
            cycle.keep_alive = False
        super()._start_asgi_task(cycle, app)

    def _disconnect(self) -> None:
        """Tell the application that nobody reads its answer. uvicorn tells the last request of the connection alone."""
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()

    def refuse(self, status: int) -> None:
        """Hang up; with a status alone for an answer, where none has begun."""
        self._is_refused = True
        self._unset_keepalive_if_required()
        if self.pipeline or (self._is_answering and self._running.response_started):  # type: ignore[union-attr]
            self.transport.abort()
            return
        self._disconnect()
        self._answer(status)
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _answer(self, status: int) -> None:
        self.transport.write(STATUS_LINE[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")

    def look(self, now: float) -> None:
        """Hang up if the client is too slow."""
        if self.flow.write_paused or self.transport.is_closing():
            if self._reading.is_too_slow(now, self.transport.get_write_buffer_size()):
                self.transport.abort()
        elif self._is_refused:
            return
        elif self.flow.read_paused:  # it may not send
            self._since, self._received = now, 0
        elif self._receiving == "head" and now - self._since >= HEAD_SECONDS:
            self.refuse(408)
        elif self._receiving == "body" and now - self._since >= WINDOW_SECONDS:
            if self._received < WINDOW_SECONDS * BYTES_A_SECOND:
                self.refuse(408)
            self._since, self._received = now, 0

    def shutdown(self) -> None:
        """End with the answer that runs, or the one whose request is on its way, within DRAIN_SECONDS.

        uvicorn breaks off later what is not over then, with a traceback.
        """
        if self.pipeline or self._is_answering:
            super().shutdown()
        else:
            self._is_last = True
            self.loop.call_later(min(ENDING_SECONDS, settings.DRAIN_SECONDS), self._close_unless_asked)
        self.loop.call_later(settings.DRAIN_SECONDS, self.transport.close)

    def _close_unless_asked(self) -> None:
        if not self._is_answering:
            self.transport.close()


class ClientSocket(WebSocketsSansIOProtocol):
    """A WebSocket, from its handshake on."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._watch = _watches.get()
        self._watch.add(self)
        self._reading = ReadingPace()
        self._unread = b""  # came with a message that the application has not taken yet
        self._counted_until = 0.0  # when all frames so far are forgotten: the generic cell rate algorithm

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.connections.discard(self)
        self._unread = b""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.handshake_initiated:
            self._parse_in_pieces(self._unread + data)
        else:
            self._shake_hands(data)

    def _parse_in_pieces(self, data: bytes) -> None:
        """Parse until there is a message, which comes first; keep the rest."""
        if not self.handshake_complete:  # nobody was let in, and may send yet
            self.transport.abort()
            return
        at = 0
        while at < len(data) and not self.read_paused and not self.transport.is_closing():
            super().data_received(data[at : at + PIECE_BYTES])
            at += PIECE_BYTES
        self._unread = data[at:] if self.read_paused else b""

    async def receive(self) -> Any:
        message = await super().receive()
        if self._unread and not self.read_paused:
            self._parse_in_pieces(self._unread)
        return message

    def handle_events(self) -> None:
        now, events = self.loop.time(), self.conn.events
        # Once it was closed from here, uvicorn takes messages for nobody until the client has closed it, too.
        count = len(events) if self.close_sent else sum(not _ends_message(event) for event in events)
        self._counted_until = max(self._counted_until, now) + count / FRAMES_A_SECOND
        if self._counted_until - now > FRAMES_AT_ONCE / FRAMES_A_SECOND:
            self.transport.abort()
        else:
            super().handle_events()

    def _shake_hands(self, data: bytes) -> None:
        super().data_received(data)
        if not self.handshake_initiated and not self.transport.is_closing():
            # The whole handshake comes at once, and was refused: uvicorn would wait for another one.
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def handle_cont(self, event: Any) -> None:
        if len(self.frames) >= MAX_PARTS:
            self.transport.abort()
            return
        super().handle_cont(event)

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.conn.data_to_send()  # dropped: who does not read wants no answers, and they would pile up

    def shutdown(self) -> None:
        """Send the client elsewhere: with 1012, or 503 where it is not let in yet."""
        if not self.handshake_complete and self.initial_response is None:
            self.conn.send_response(self.conn.reject(HTTPStatus.SERVICE_UNAVAILABLE, "This process ends.\n"))
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reading.begin()

    def look(self, now: float) -> None:
        """Hang up if the client is too slow."""
        waits = not self.writable.is_set() or self.transport.is_closing()
        if waits and self._reading.is_too_slow(now, self.transport.get_write_buffer_size()):
            self.transport.abort()


class WebServer(uvicorn.Server):
    """A server that closes its port when nobody waits to be accepted: they are many after its loop stood still."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._accept_waiting()
        await super().shutdown(sockets)

    async def _accept_waiting(self) -> None:
        loop, rounds = asyncio.get_running_loop(), 0
        deadline = loop.time() + ACCEPTING_SECONDS
        while rounds < 3 and loop.time() < deadline:  # after it is accepted, a connection is made in a later round
            await asyncio.sleep(0)
            rounds = 0 if self._has_waiting() else rounds + 1

    def _has_waiting(self) -> bool:
        waiting = select.poll()
        for listener in (one for server in self.servers for one in server.sockets):
            waiting.register(listener.fileno(), select.POLLIN)
        return bool(waiting.poll(0))


def _ends_message(event: object) -> bool:
    return isinstance(event, Frame) and event.fin and event.opcode in DATA_OPCODES
