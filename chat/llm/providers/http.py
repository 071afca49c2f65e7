"""One pooled HTTP session per running event loop: a connection, and its TLS handshake, serves many turns."""

import asyncio
from weakref import WeakKeyDictionary

import aiohttp
from django.conf import settings

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


async def close_session() -> None:
    found = _sessions.pop(asyncio.get_running_loop(), None)
    if found is not None:
        await found.close()
