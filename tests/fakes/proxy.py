"""A TCP proxy that cuts: what a tunnel, a closed laptop or a changed network does to a connection."""

import asyncio
import itertools
import random
import socket
import struct
from contextlib import suppress

NO_LINGER = struct.pack("ii", 1, 0)  # close with a reset


class CuttingProxy:
    """`async with CuttingProxy(port) as proxy:` passes bytes on to `port`, from `proxy.port`, until they are cut. Of
    several ports each takes a connection in turn; one that takes none is passed over, as behind nginx. While `is_away`
    it takes none itself."""

    def __init__(self, *targets: int) -> None:
        self._orders = itertools.cycle([targets[first:] + targets[:first] for first in range(len(targets))])
        self.is_away = False
        self._connections: set[asyncio.Transport] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "CuttingProxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._server.close()
        self.cut(1.0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self, share: float, rng: random.Random | None = None) -> int:
        """Reset about `share` of the connections; return how many."""
        alive = [found for found in self._connections if not found.is_closing()]
        chosen = [found for found in alive if share >= 1 or (rng or random).random() < share]
        for transport in chosen:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            transport.abort()
        return len(chosen)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.is_away:
                raise ConnectionRefusedError
            far_reader, far_writer = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        self._connections.add(writer.transport)
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            self._connections.discard(writer.transport)
            far_writer.close()
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        *others, last = next(self._orders)
        for target in others:
            with suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", target)
        return await asyncio.open_connection("127.0.0.1", last)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
