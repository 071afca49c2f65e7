"""One pooled HTTP session for each event loop: a connection, and its TLS handshake, serves many turns."""

from asyncio import ReadTransport
from collections.abc import Callable
from functools import partial
from io import BytesIO
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from django.conf import settings

from chat.llm.providers.base import Pace
from core.loops import PerLoop

CONNECT_SECONDS = 5


def session() -> aiohttp.ClientSession:
    """Return this loop's session. A read may be silent for STALL_SECONDS, then it raises."""
    if _sessions.get().closed:
        _sessions.pop()
    return _sessions.get()


class Sending:
    """Calls `note_sent` when all of a request's body has been given to its connection. It goes to the session as
    `trace_request_ctx`."""

    __slots__ = ("_left", "_note_sent")

    def __init__(self, body: bytes | BytesIO, note_sent: Callable[[], None]) -> None:
        self._left = len(body) if isinstance(body, bytes) else body.getbuffer().nbytes
        self._note_sent = note_sent

    def note_chunk(self, size: int) -> None:
        self._left -= size
        if self._left <= 0 < self._left + size:
            self._note_sent()


async def pause_reading(response: aiohttp.ClientResponse, pace: Pace) -> None:
    """Stop reading until `pace` returns: what the kernel holds by then is one read."""
    transport = cast("ReadTransport | None", response.connection and response.connection.transport)
    if transport is None or transport.is_closing():
        return
    transport.pause_reading()
    try:
        await pace()
    finally:
        transport.resume_reading()


async def close_session() -> None:
    if open_session := _sessions.pop():
        await open_session.close()


def take_buffered(response: aiohttp.ClientResponse) -> bytes:
    """Return what came before the connection broke and was not read: aiohttp raises before it."""
    parts = response.content._buffer
    buffered = b"".join(parts)
    parts.clear()
    return buffered


class _Protocol(ResponseHandler):
    """Ends a body whose chunks could not be read: aiohttp tells nobody who reads it, and they would wait for ever."""

    def connection_lost(self, exc: BaseException | None) -> None:
        body = self._payload
        super().connection_lost(exc)
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError())


class _Connector(aiohttp.TCPConnector):
    """Keeps connections, and drops one on which something came after its answer: aiohttp would take that for the answer
    to the next question, which may be another person's."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = partial(_Protocol, loop=self._loop)  # type: ignore[assignment]  # a partial is invariant

    async def _get(self, *arguments: Any) -> aiohttp.connector.Connection | None:
        while (kept := await super()._get(*arguments)) is not None:
            if kept.protocol is None or not kept.protocol.should_close:
                break
            kept.close()
        return kept


async def _note_chunk(
    _session: aiohttp.ClientSession, context: SimpleNamespace, sent: aiohttp.TraceRequestChunkSentParams
) -> None:
    if isinstance(sending := context.trace_request_ctx, Sending):
        sending.note_chunk(len(sent.chunk))


def _make_session() -> aiohttp.ClientSession:
    trace = aiohttp.TraceConfig()
    trace.on_request_chunk_sent.append(_note_chunk)
    return aiohttp.ClientSession(
        trace_configs=[trace],
        connector=_Connector(limit=0, keepalive_timeout=30),
        timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=settings.STALL_SECONDS),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),  # a provider's cookies would go with other people's questions
    )


_sessions = PerLoop(_make_session)
