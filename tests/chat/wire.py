"""A provider that answers with the very bytes a test gives it."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@dataclass
class RawProvider:
    """Where it listens, what it answers, and the heads of the requests it got."""

    url: str
    pieces: tuple[bytes, ...]
    heads: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def answering(*pieces: bytes, pause_seconds: float = 0.0, stays_open: bool = False) -> AsyncIterator[RawProvider]:
    """Serve on the loopback interface: to every request these pieces, with a pause between them, and the end.

    A connection that stays open may bring more requests.
    """
    is_over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await answer(reader, writer)
                if not stays_open:
                    break
        writer.close()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        raw.heads.append(head)
        if stays_open:
            [length] = re.findall(rb"(?i)content-length: (\d+)", head)
            await reader.readexactly(int(length))
        for piece in raw.pieces:
            writer.write(piece)
            with suppress(TimeoutError):
                await asyncio.wait_for(is_over.wait(), pause_seconds)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    raw = RawProvider(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", pieces)
    try:
        yield raw
    finally:
        is_over.set()
        server.close()
        await asyncio.sleep(0.01)  # connections are closed in the loop's next rounds


def refusal(status: int, body: bytes, **headers: str) -> bytes:
    """An HTTP answer with a JSON body; underscores in the names of headers are hyphens."""
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} Refused\r\n{head}\r\n".encode() + body


def events(datas: Iterable[str]) -> bytes:
    """A whole stream with these events."""
    return STREAM + b"".join(b"data: " + data.encode() + b"\n\n" for data in datas)
