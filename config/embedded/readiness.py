"""Readiness probes: whether a process on this machine answers yet."""

import asyncio
from collections.abc import Awaitable, Callable

PROBE_SECONDS = 2.0

Probe = Callable[[], Awaitable[bool]]


def answers(port: int, request: bytes = b"", expected: bytes = b"", *, host: str = "127.0.0.1") -> Probe:
    """Return a probe: the port takes a connection, and the answer to `request` begins with `expected`."""

    async def probe() -> bool:
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            return False
        try:
            writer.write(request)
            return await reader.readexactly(len(expected)) == expected
        except (OSError, asyncio.IncompleteReadError):
            return False
        finally:
            writer.close()

    return probe


def answers_http(port: int, path: str, *, host: str = "127.0.0.1", name: str = "localhost") -> Probe:
    """Return a probe: GET `path` is a 200."""
    request = f"GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
    return answers(port, request.encode(), b"HTTP/1.1 200", host=host)


async def wait_until_ready(probe: Probe) -> None:
    while not await _is_ready(probe):  # noqa: ASYNC110  another process sets no event here
        await asyncio.sleep(0.05)


async def _is_ready(probe: Probe) -> bool:
    try:
        return await asyncio.wait_for(probe(), PROBE_SECONDS)
    except TimeoutError:
        return False
