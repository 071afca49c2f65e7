"""A way to Redis that can break: a relay on the loopback interface."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import redis.asyncio
from django.conf import settings
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


class Relay:
    """Passes bytes both ways, until it is told otherwise.

    `is_down`: connections break and new ones are refused. `is_deaf`: what is sent arrives, its answer does not: the
    connection breaks instead. `is_deaf_after`: it is, as soon as this is sent.
    """

    def __init__(self) -> None:
        self.is_down = self.is_deaf = False
        self.is_deaf_after = b""
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.target = urlsplit(settings.REDIS_URL)

    async def serve(self) -> asyncio.Server:
        return await asyncio.start_server(self._connected, "127.0.0.1", 0)

    def break_down(self) -> None:
        self.is_down = True
        self.cut()

    def cut(self) -> None:
        for writer in list(self._open):
            writer.close()

    async def close(self) -> None:
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        if not self.is_down:
            up_reader, up_writer = await asyncio.open_connection(self.target.hostname, self.target.port)
            self._open.add(up_writer)
            await asyncio.gather(self._pass(reader, up_writer), self._answer(up_reader, writer))
            up_writer.close()
            self._open.discard(up_writer)
        writer.close()
        self._open.discard(writer)
        self._tasks.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if self.is_deaf_after and self.is_deaf_after in data:
                    self.is_deaf, self.is_deaf_after = True, b""
                writer.write(data)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while (data := await reader.read(65_536)) and not self.is_deaf:
                writer.write(data)
        writer.close()


@asynccontextmanager
async def relayed_redis() -> AsyncIterator[tuple[Relay, Redis]]:
    """A relay, and a client that goes through it and, as the program's own, does not retry."""
    relay = Relay()
    server = await relay.serve()
    port = server.sockets[0].getsockname()[1]
    url = settings.REDIS_URL.replace(f":{relay.target.port}/", f":{port}/")
    client = redis.asyncio.Redis.from_url(url, socket_timeout=2, retry=Retry(NoBackoff(), 0))
    try:
        yield relay, client
    finally:
        await client.aclose(close_connection_pool=True)
        server.close()
        await relay.close()
