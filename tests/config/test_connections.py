"""A client that sends too much, too slowly or too often, or reads too slowly, against the server as it is."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from pytest_django import Settings

from bench.websocket import Opcode, encode_frame, new_key
from config import connections
from config.connections import ClientConnection, ClientSocket, WebServer
from config.management.commands.run_web import allow_open_files
from tests.chat.asking import until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SOCKET = b"GET /ws/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
LARGE = 8_000_000


class App:
    """An application that answers at once, with as many bytes as the path says; `/stream` ends with `stop_streams`."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.streams = 0
        self.is_open = True  # for sockets; else they wait
        self.stop_streams = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope["path"])
        if scope["type"] == "websocket":
            await self.talk(receive, send)
        elif scope["path"] == "/stream":
            await self.stream(receive, send)
        else:
            while (message := await receive())["type"] == "http.request" and message["more_body"]:
                pass
            if message["type"] == "http.request":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"x" * int(scope["path"].strip("/") or 2)})

    async def talk(self, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] != "websocket.disconnect":
            if message["type"] == "websocket.connect":
                if self.is_open:
                    await send({"type": "websocket.accept"})
            elif message["text"] == "close":
                await send({"type": "websocket.close"})
            else:
                await send({"type": "websocket.send", "bytes": b"x" * int(message["text"])})

    async def stream(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        self.streams += 1
        try:
            receiving = asyncio.create_task(receive_until_left(receive))
            ending = asyncio.create_task(self.stop_streams.wait())
            await asyncio.wait((receiving, ending), return_when=asyncio.FIRST_COMPLETED)
            receiving.cancel()
            await send({"type": "http.response.body", "body": b""})
        finally:
            self.streams -= 1


async def receive_until_left(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Client:
    server: uvicorn.Server

    def __init__(self, port: int) -> None:
        self.app = App()
        self.port = port
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self, *, sender: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection; it is closed in the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(sender, 0))
        self._writers.append(writer)
        return reader, writer

    def leave(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def ask(self, data: bytes) -> int:
        """Send these bytes and no more; return the status of the first answer, 0 if the server hung up without one."""
        reader, writer = await self.open()
        writer.write(data)
        status = await status_in(reader)
        writer.close()
        return status


async def status_in(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(20):
        with suppress(ConnectionError):
            line = await reader.readline()
            return int(line.split()[1]) if line else 0
    return 0


async def is_cut(reader: asyncio.StreamReader) -> bool:
    """Wait for the server to hang up."""
    async with asyncio.timeout(20):
        with suppress(ConnectionError):
            while await reader.read(65_536):
                pass
    return True


@asynccontextmanager
async def serving() -> AsyncIterator[Client]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = Client(listener.getsockname()[1])
        options: dict[str, Any] = {"http": ClientConnection, "ws": ClientSocket, "lifespan": "off", "log_config": None}
        server = WebServer(uvicorn.Config(client.app, timeout_graceful_shutdown=5, **options))
        client.server = server
        running = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started)
        try:
            yield client
        finally:
            server.should_exit = True
            await running


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with serving() as client:
        yield client
        client.leave()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is over twenty times as soon."""
    for name in ("HEAD_SECONDS", "WINDOW_SECONDS", "LOOK_SECONDS", "LINGER_SECONDS"):
        monkeypatch.setattr(connections, name, getattr(connections, name) / 20)
    monkeypatch.setattr(connections, "BYTES_A_SECOND", 10_000)  # a byte now and then is too little


async def trickle(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send a byte now and then until the server hangs up."""
    with suppress(ConnectionError):
        while not writer.is_closing():
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(0.05)


# --- Too much --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [GET[:-2], SOCKET])
@pytest.mark.parametrize("header", [b"X: " + b"a" * 70_000 + b"\r\n", b"X: " + b"a" * 200 + b"\r\n"])
async def test_headers_that_are_too_long_are_refused_with_431(client: Client, first: bytes, header: bytes):
    head = first + header * (70_000 // len(header) + 1)
    assert await client.ask(head + b"\r\n") == 431  # whole
    assert await client.ask(head) == 431  # and while they come
    assert client.app.seen == []


async def test_a_hundred_megabytes_of_headers_are_not_read(client: Client):
    _reader, writer = await client.open()
    writer.write(GET[:-2])
    sent = 0
    with suppress(ConnectionError):
        while sent < 100:
            writer.write(b"X: " + b"a" * 1_000_000)
            await writer.drain()
            sent += 1
    writer.close()
    assert sent < 30  # the kernel's buffers take some
    assert await client.ask(GET) == 200


async def test_headers_below_the_limit_are_read(client: Client):
    assert await client.ask(GET[:-2] + b"X: " + b"a" * 60_000 + b"\r\n\r\n") == 200


async def test_an_address_that_is_too_long_is_refused(client: Client):
    assert await client.ask(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n") == 431


async def test_trailers_after_a_body_are_limited_like_headers(client: Client):
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n"
    assert await client.ask(head + (b"X: " + b"a" * 200 + b"\r\n") * 400) == 431
    assert await client.ask(head + b"X: " + b"a" * 600_000) == 431
    assert await client.ask(head + b"X: a\r\n\r\n") == 200


async def test_a_chunked_body_of_small_pieces_is_not_taken_for_headers(client: Client):
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    piece = b"64\r\n" + b"a" * 100 + b"\r\n"
    assert await client.ask(head + piece * 3_000 + b"0\r\n\r\n") == 200


async def test_a_body_comes_in_so_many_pieces_at_most(client: Client):
    """From one connection, chunks of a byte made everybody wait for seven seconds."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert await client.ask(head + b"1\r\na\r\n" * 900 + b"0\r\n\r\n") == 200
    assert await client.ask(head + b"1\r\na\r\n" * 1_100) == 400


@pytest.mark.parametrize(
    ("header", "status"),
    [(b"X: " + b"a" * 9_000 + b"\r\n", 431), (b"X: a\r\n" * 200, 431), (b"Sec-WebSocket-Key: a\r\n", 400)],
)
async def test_a_handshake_that_is_refused_does_not_keep_its_connection(client: Client, header: bytes, status: int):
    reader, writer = await client.open()
    writer.write(SOCKET + header + b"\r\n")
    assert await status_in(reader) == status
    assert await is_cut(reader)


async def test_who_asks_again_and_again_without_waiting_is_cut_off(client: Client):
    reader, writer = await client.open()
    writer.write(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n" + GET * 5_000)
    assert await is_cut(reader)
    writer.close()
    await until(lambda: not client.app.streams)
    assert client.app.seen == ["/stream"]


async def test_a_few_requests_at_once_are_answered_in_turn(client: Client):
    reader, writer = await client.open()
    writer.write(GET * 5)
    for _ in range(5):
        assert (await reader.readuntil(b"0\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_the_stream_of_who_left_ends_also_behind_another_request(client: Client):
    _reader, writer = await client.open()
    writer.write(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
    await until(lambda: client.app.streams == 1)
    writer.transport.abort()
    await until(lambda: not client.app.streams)


async def open_socket(client: Client, *, is_let_in: bool = True) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await client.open()
    writer.write(SOCKET + f"Sec-WebSocket-Key: {new_key()}\r\n\r\n".encode())
    if is_let_in:
        assert (await reader.readuntil(b"\r\n\r\n")).split()[1] == b"101"
    return reader, writer


async def test_a_message_of_a_socket_comes_in_so_many_parts_at_most(client: Client):
    reader, writer = await open_socket(client)
    empty = b"\x00" + encode_frame(Opcode.TEXT, b"")[1:]  # a part, and not the last one
    writer.write(b"\x01" + empty[1:] + empty * 2_000)
    assert await is_cut(reader)


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG])
async def test_who_floods_a_socket_with_frames_that_are_no_messages_is_cut_off(client: Client, opcode: Opcode):
    """Forty thousand fit into what the server reads at once, and take it half a second."""
    reader, writer = await open_socket(client)
    writer.write(encode_frame(opcode, b"") * 40_000)
    assert await is_cut(reader)


async def test_who_floods_a_socket_that_was_closed_is_cut_off(client: Client):
    """Within ten seconds one is expected to close it, too, and what comes meanwhile is for nobody."""
    reader, writer = await open_socket(client)
    writer.write(encode_frame(Opcode.TEXT, b"close"))
    async with asyncio.timeout(20):
        assert (await reader.readexactly(2))[0] == 0x88
    begun = asyncio.get_running_loop().time()
    writer.write(encode_frame(Opcode.TEXT, b"1") * 40_000)
    assert await is_cut(reader)
    assert asyncio.get_running_loop().time() - begun < 5


async def test_the_frames_of_a_quiet_socket_are_forgotten(client: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "FRAMES_AT_ONCE", 5)
    monkeypatch.setattr(connections, "FRAMES_A_SECOND", 50)
    reader, writer = await open_socket(client)
    for _ in range(20):
        writer.write(encode_frame(Opcode.PING, b"x"))
        async with asyncio.timeout(20):
            assert await reader.readexactly(3) == b"\x8a\x01x"
        await asyncio.sleep(0.05)


async def test_messages_that_come_together_are_read_one_after_another(client: Client):
    """Beyond a few, they stay as they came until the application has taken the others."""
    count = 3 * connections.PIECE_BYTES
    reader, writer = await open_socket(client)
    writer.write(encode_frame(Opcode.TEXT, b"1") * count)
    async with asyncio.timeout(20):
        assert await reader.readexactly(3 * count) == b"\x82\x01x" * count


async def test_who_sends_before_the_socket_is_open_is_cut_off(client: Client):
    """It waits in a line, for nobody knows yet whose it is."""
    client.app.is_open = False
    reader, writer = await client.open()
    writer.write(SOCKET + f"Sec-WebSocket-Key: {new_key()}\r\n\r\n".encode())
    await until(lambda: bool(client.app.seen))
    writer.write(encode_frame(Opcode.PING, b""))
    assert await is_cut(reader)


async def test_pings_of_who_does_not_read_the_answers_pile_up_nothing(client: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "FRAMES_AT_ONCE", 1_000_000)
    _reader, writer = await open_socket(client)
    transport = next(iter(connections._watches.get().connections)).transport
    writer.transport.pause_reading()
    ping = encode_frame(Opcode.PING, b"x" * 125) * 1_000
    for _ in range(120):  # 15 MB
        writer.write(ping)
        await writer.drain()
    assert transport.get_write_buffer_size() < 1_000_000


# --- Too slow --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nX: ", b"\r\n"])
async def test_a_head_that_does_not_come_is_not_waited_for(client: Client, sent: bytes, *, is_first: bool):
    reader, writer = await client.open()
    if not is_first:
        writer.write(GET)
        await reader.readuntil(b"0\r\n\r\n")
    writer.write(sent)
    trickling = asyncio.create_task(trickle(writer, b"\r\n" if sent == b"\r\n" else b"a"))
    assert await status_in(reader) == 408
    assert await is_cut(reader)
    await asyncio.wait([trickling])


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("kind", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
async def test_a_body_that_comes_too_slowly_is_not_waited_for(client: Client, kind: str):
    reader, writer = await client.open()
    writer.write(f"POST / HTTP/1.1\r\nHost: a\r\n{kind}\r\n\r\n".encode())
    trickling = asyncio.create_task(trickle(writer, b"1\r\na\r\n"))
    assert await status_in(reader) == 408
    assert await is_cut(reader)
    await asyncio.wait([trickling])


@pytest.mark.usefixtures("hurried")
async def test_a_body_may_take_its_time_if_it_comes(client: Client):
    reader, writer = await client.open()
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(40):  # two seconds and more: two windows
        writer.write(b"x" * 2_500)
        await asyncio.sleep(0.06)
    assert await status_in(reader) == 200


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("closes", [b"", b"Connection: close\r\n"])
async def test_who_does_not_take_an_answer_is_cut_off(client: Client, closes: bytes):
    _reader, writer = await client.open()
    writer.transport.pause_reading()
    writer.write(f"GET /{LARGE} HTTP/1.1\r\nHost: a\r\n".encode() + closes + b"\r\n")
    await until(lambda: bool(client.app.seen))
    await until(lambda: not connections._watches.get().connections)


@pytest.mark.usefixtures("hurried")
async def test_who_does_not_read_a_socket_is_cut_off(client: Client):
    _reader, writer = await open_socket(client)
    writer.transport.pause_reading()
    writer.write(encode_frame(Opcode.TEXT, str(LARGE).encode()))
    await until(lambda: not connections._watches.get().connections)


@pytest.mark.usefixtures("hurried")
async def test_a_large_answer_may_take_its_time_if_it_is_read(client: Client):
    reader, writer = await client.open()
    writer.write(f"GET /{LARGE} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    size = 0
    while part := await reader.read(200_000):
        size += len(part)
        await asyncio.sleep(0.05)
    assert size > LARGE


@pytest.mark.usefixtures("hurried")
async def test_streams_and_sockets_may_stay(client: Client):
    reader, writer = await client.open()
    writer.write(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
    await reader.readuntil(b"begun")
    talking, speaker = await open_socket(client)
    await asyncio.sleep(2)  # everything else would be over
    speaker.write(encode_frame(Opcode.TEXT, b"2"))
    assert await talking.readexactly(4) == b"\x82\x02xx"
    assert client.app.streams == 1


# --- Too many --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", GET[:-2], b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"])
async def test_who_keeps_the_server_waiting_keeps_nobody_out(
    client: Client, sent: bytes, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 20)
    slow = [await client.open() for _ in range(60)]
    for _reader, writer in slow:
        writer.write(sent)
    await until(lambda: len(connections._watches.get().connections) <= 20)
    for _ in range(30):
        assert await client.ask(GET) == 200
    assert len(connections._watches.get().connections) <= 20


async def test_a_crowd_of_one_network_takes_no_place_of_another(client: Client, monkeypatch: pytest.MonkeyPatch):
    """Else nobody could upload a file while somebody opens connections all the time."""
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 20)
    reader, writer = await client.open(sender="127.0.0.2")
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
    await until(lambda: bool(client.app.seen))
    for _ in range(60):
        await client.open()
    await until(lambda: len(connections._watches.get().connections) == 20)
    writer.write(b"b")
    assert await status_in(reader) == 200


async def test_who_reads_slowly_makes_room_too(client: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 5)
    slow = [await client.open() for _ in range(5)]
    for _reader, writer in slow:
        writer.transport.pause_reading()
        writer.write(f"GET /{LARGE} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    await until(lambda: len(client.app.seen) == 5)
    assert await client.ask(GET) == 200


async def test_streams_and_sockets_make_no_room_and_more_is_refused(client: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 2)
    _reader, speaker = await open_socket(client)
    reader, writer = await client.open()
    writer.write(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
    await reader.readuntil(b"begun")
    assert await client.ask(b"") == 503
    writer.close()
    await until(lambda: not client.app.streams)
    assert await client.ask(GET) == 200


def test_a_process_may_open_as_many_files_as_it_needs(monkeypatch: pytest.MonkeyPatch):
    changed: list[tuple[int, int]] = []
    for limits, wanted in [((1_024, 524_288), 4_500), ((1_024, 2_000), 2_000), ((1_024, -1), 4_500)]:
        monkeypatch.setattr("resource.getrlimit", lambda _kind, limits=limits: limits)
        monkeypatch.setattr("resource.setrlimit", lambda _kind, limits: changed.append(limits))
        allow_open_files(4_500)
        assert changed.pop() == (wanted, limits[1])
    monkeypatch.setattr("resource.getrlimit", lambda _kind: (20_000, 20_000))
    allow_open_files(4_500)
    assert changed == []


# --- The end ---------------------------------------------------------------------------------------------------------


async def test_who_came_before_the_port_is_closed_is_answered(client: Client):
    """The system has accepted them and kept what they sent, and the server has not seen them yet."""
    waiting = [socket.create_connection(("127.0.0.1", client.port)) for _ in range(30)]
    for one in waiting:
        one.sendall(GET)
    ending = asyncio.create_task(client.server.shutdown())
    await asyncio.sleep(0)
    statuses = []
    for one in waiting:
        one.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=one)
        statuses.append(await status_in(reader))
        writer.close()
    await ending
    assert statuses == [200] * 30


async def test_a_process_that_ends_finishes_what_it_has_begun_to_answer_and_what_is_just_sent(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
):
    settings.DRAIN_SECONDS = 20
    monkeypatch.setattr(connections, "ENDING_SECONDS", 0.5)
    begun = asyncio.get_running_loop().time()
    async with serving() as client:
        stream, late, idle = [await client.open() for _ in range(3)]
        stream[1].write(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        await stream[0].readuntil(b"begun")
        sockets = [await open_socket(client) for _ in range(5)]
        client.app.is_open = False
        shaking_hands = await open_socket(client, is_let_in=False)
        await until(lambda: client.app.seen.count("/ws/") == 6)
        client.server.should_exit = True
        for reader, _writer in sockets:
            assert await reader.read() == b"\x88\x02\x03\xf4"  # closed with 1012: service restart
        assert await status_in(shaking_hands[0]) == 503
        with pytest.raises(ConnectionError):
            await client.open()
        late[1].write(GET)
        answer = await late[0].read()
        assert b"\r\nconnection: close\r\n" in answer
        assert answer.endswith(b"\r\nxx\r\n0\r\n\r\n")
        assert await idle[0].read() == b""
        assert client.app.streams == 1, "it was broken off"
        client.app.stop_streams.set()
        assert (await stream[0].read()).endswith(b"\r\n0\r\n\r\n")
        client.leave()
    assert asyncio.get_running_loop().time() - begun < 10


async def test_a_process_that_ends_breaks_off_in_the_end_what_does_not_without_a_traceback(
    caplog: pytest.LogCaptureFixture, settings: Settings
):
    settings.DRAIN_SECONDS = 0.2
    with caplog.at_level(logging.WARNING, "uvicorn.error"):
        async with serving() as client:
            opened = [await client.open() for _ in range(5)]
            for reader, writer in opened:
                writer.write(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
                await reader.readuntil(b"begun")
            for _ in range(5):
                await open_socket(client)
        assert client.app.streams == 0
        client.leave()
    assert caplog.records == []


def test_a_client_that_has_taken_all_is_measured_anew():
    pace = connections.ReadingPace()
    assert not pace.is_too_slow(0, left=LARGE)
    assert not pace.is_too_slow(connections.WINDOW_SECONDS, left=0)
    assert not pace.is_too_slow(connections.WINDOW_SECONDS + 1, left=LARGE)
    pace.begin()
    assert not pace.is_too_slow(3 * connections.WINDOW_SECONDS, left=LARGE)
    assert pace.is_too_slow(4 * connections.WINDOW_SECONDS, left=LARGE)


async def test_all_connections_of_a_loop_have_one_timer():
    watch, connection = connections.ConnectionWatch(), connections.ClientSocket.__new__(connections.ClientSocket)
    watch.add(connection)
    timer = watch._timer
    watch.add(connection)
    assert watch._timer is timer is not None
    timer.cancel()
