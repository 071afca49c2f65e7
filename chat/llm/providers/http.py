"""One pooled HTTP session per running event loop: a connection, and its TLS handshake, serves many turns."""

import asyncio
from typing import cast
from weakref import WeakKeyDictionary

import aiohttp
from django.conf import settings

from chat.llm.providers.base import Pace

CONNECT_SECONDS = 5

_sessions: "WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession]" = WeakKeyDictionary()


def session() -> aiohttp.ClientSession:
    """Return this loop's session. A read may be silent for STALL_SECONDS, then it raises."""
    loop = asyncio.get_running_loop()
    found = _sessions.get(loop)
    if found is None or found.closed:
        found = _sessions[loop] = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=settings.STALL_SECONDS),
            auto_decompress=False,
        )
    return found


async def rest(response: aiohttp.ClientResponse, pace: Pace) -> None:
    """Leave what arrives to the kernel until the next beat of `pace`: one read then takes all of it."""
    transport = cast("asyncio.ReadTransport | None", response.connection and response.connection.transport)
    if transport is None or transport.is_closing():
        return
    transport.pause_reading()
    try:
        await pace()
    finally:
        transport.resume_reading()


async def close_session() -> None:
    found = _sessions.pop(asyncio.get_running_loop(), None)
    if found is not None:
        await found.close()
