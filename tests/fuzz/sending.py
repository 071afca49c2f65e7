"""Sends a request as it is: to the ASGI application, or over the wire to a server in front of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import unquote

import uvicorn

from config.asgi import application
from config.embedded import ports
from tests.fuzz.drawing import Request
from tests.fuzz.judging import Answer

CUT_SECONDS = 0.1
"""When the client goes away from an answer that is still being written."""
PATIENCE_SECONDS = 30
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


async def send(request: Request, *, cut_seconds: float = CUT_SECONDS) -> Answer:
    """Have the ASGI application answer, as a server would, to a client that goes away from an answer in parts after so
    long."""
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    half = len(request.body) // 2
    incoming.put_nowait({"type": "http.request", "body": request.body[:half], "more_body": True})
    incoming.put_nowait({"type": "http.request", "body": request.body[half:], "more_body": False})
    sent: list[dict[str, Any]] = []

    async def take(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and message.get("more_body"):
            asyncio.get_running_loop().call_later(cut_seconds, incoming.put_nowait, {"type": "http.disconnect"})

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": request.method,
        "path": unquote(request.path),
        "raw_path": request.path.encode(),
        "query_string": request.query,
        "root_path": "",
        "headers": list(request.headers),
        "client": (request.peer, 50_000),
        "server": ("127.0.0.1", 8000),
    }
    async with asyncio.timeout(PATIENCE_SECONDS):
        await application(scope, incoming.get, take)
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    """A server in this loop; its port."""
    port = ports.any_free_port()
    server = uvicorn.Server(uvicorn.Config(application, port=port, lifespan="off", log_config=None, access_log=False))
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not server.started:
            await asyncio.sleep(0.01)
    yield port
    server.should_exit = True
    await task


async def send_to(port: int, request: Request) -> Answer | None:
    """Return what the server answers; None where the request is no HTTP by its own judgement."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    target = request.path.encode() + (b"?" + request.query if request.query else b"")
    lines = [request.method.encode() + b" " + target + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in (*request.headers, (b"connection", b"close"))]
    writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + request.body)
    received, has_begun = bytearray(), False
    async with asyncio.timeout(PATIENCE_SECONDS):
        with suppress(TimeoutError, ConnectionError):  # of a stream that goes on, the beginning is enough
            while part := await asyncio.wait_for(reader.read(65_536), CUT_SECONDS if has_begun else None):
                has_begun = bytes(received + part) != CONTINUE
                received += part
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    head, _, body = bytes(received).removeprefix(CONTINUE).partition(b"\r\n\r\n")
    first, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    if "x-request-id" not in headers and body == b"Invalid HTTP request received.":
        return None
    return Answer(int(first.split()[1]), headers, _joined(body) if "transfer-encoding" in headers else body)


def _joined(body: bytes) -> bytes:
    """Return a body that came in chunks (RFC 9112, section 7.1)."""
    whole = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        whole, body = whole + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return whole
