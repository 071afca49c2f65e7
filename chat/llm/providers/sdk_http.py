"""The HTTP client that each SDK is given. It follows nobody elsewhere, and what an SDK reads of a stream is plain.

The SDKs take comments, line ends, a byte order mark, bytes that are not UTF-8 and a JSON body in place of a stream each
in its own way, and have no limit. So a stream goes through our decoder, and is written again in its plainest form.
"""

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from itertools import takewhile
from typing import Any

import msgspec

from chat.llm.providers.base import no_notice
from chat.llm.providers.errors import REDIRECTS, BadResponse, Redirected, error_from_status
from chat.llm.providers.http import CONNECT_SECONDS
from chat.llm.providers.sse import SseDecoder
from chat.llm.providers.streaming import (
    DONE,
    MAX_ERROR_BODY_BYTES,
    UNREADABLE,
    Quiet,
    decode_odd,
    is_compressed,
    is_said,
    retry_after_of,
)

MAX_EVENT_BYTES = 64 * 1024
"""An SDK makes an object of each `{}`, and no other answer is read meanwhile: 64 KB of them take Anthropic's two
seconds, and the others' half a second."""
MAX_LIST_BYTES = 4 * 1024 * 1024
MAX_LIST_OBJECTS = 20_000
"""Of a list of models; OpenRouter's is about 1 MB with a few thousand."""
MARKS = 0x10_0000
"""Added to the code of half a character, it makes a private one of the last plane, which nobody writes."""

_ESCAPES = re.compile(rb"\\\\|\\u[Dd][89ABab]..\\u[Dd][C-Fc-f]..|\\u([Dd][89A-Fa-f]..)")
_MARKED_HALF = re.compile("[\U0010d800-\U0010dfff]")


@dataclass(slots=True)
class Reading:
    """What a task reads by an SDK, and of its response the status and the seconds to wait, once it is there.

    `write` makes of an event's data what the SDK gets to read; without it the response is no stream. `note_sent` is
    called when the request has been sent.
    """

    write: Callable[[bytes], bytes] | None = None
    quiet: Quiet | None = None
    note_sent: Callable[[], None] = no_notice
    status: int = 0
    retry_after: float | None = None


reading: ContextVar[Reading] = ContextVar("reading")
"""Set by each task before it asks an SDK."""


def make_client(timeout_seconds: float) -> Any:
    """Return an `httpx2.AsyncClient`."""
    import httpx2

    return httpx2.AsyncClient(
        verify=tls_context(),
        timeout=httpx2.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
        # None is kept: what comes after an answer, it would take for the answer to the next question.
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        headers={"Accept-Encoding": "identity"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # they would go with other people's questions
        follow_redirects=False,
        event_hooks={"request": [_watch], "response": [_receive]},
    )


@cache
def tls_context() -> Any:
    """Return the one that all clients share: to read the certificates takes 30 ms."""
    import httpx2

    return httpx2.create_ssl_context()


async def _watch(request: Any) -> None:
    """Have it noted when all of a request has been sent."""
    note_sent = reading.get().note_sent

    async def trace(event: str, _info: dict[str, Any]) -> None:
        if event == "http11.send_request_body.complete":
            note_sent()

    request.extensions = {**request.extensions, "trace": trace}


async def _receive(response: Any) -> None:
    """Look at a response before its SDK does. Raises what a redirect and a compressed body mean."""
    current = reading.get()
    current.status = response.status_code
    current.retry_after = retry_after_of(response.headers.get("Retry-After", ""))
    if current.status in REDIRECTS:
        raise Redirected(status=current.status)
    if is_compressed(response.headers):
        if current.status == 200:
            raise BadResponse
        raise error_from_status(current.status, retry_after=current.retry_after)
    if current.status != 200:
        parts = _beginning(response.stream)
    elif current.write is not None and current.quiet is not None:
        parts = _plain_events(response.stream, current.write, current.quiet)
    else:
        parts = _whole_list(response.stream)
    response.stream = _stream_class()(parts, response.stream)


@cache
def _stream_class() -> Any:
    """Return the class of a response's body, which httpx2 wants derived from its own. Importing that takes 0.1 s."""
    import httpx2

    class Stream(httpx2.AsyncByteStream):
        def __init__(self, parts: AsyncGenerator[bytes], source: Any) -> None:
            self._parts = parts
            self._source = source

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self._parts

        async def aclose(self) -> None:
            """Close both. An SDK that is cancelled leaves what it reads to the garbage collector, and may close this
            while that is being read: then it ends with its source."""
            with suppress(RuntimeError):
                await self._parts.aclose()
            await self._source.aclose()

    return Stream


async def _beginning(source: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Yield as much of an error's body as is read of one, or what came before its connection broke."""
    import httpx2

    size = 0
    try:
        async for part in source:
            yield part
            if (size := size + len(part)) > MAX_ERROR_BODY_BYTES:
                return
    except httpx2.TransportError:
        return


async def _whole_list(source: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Yield a list of models; raises BadResponse for one that is too long."""
    size = objects = 0
    async for part in source:
        size, objects = size + len(part), objects + part.count(b"{") + part.count(b"[")
        if size > MAX_LIST_BYTES or objects > MAX_LIST_OBJECTS:
            raise BadResponse
        yield part


async def _plain_events(
    source: AsyncIterator[bytes], write: Callable[[bytes], bytes], quiet: Quiet
) -> AsyncGenerator[bytes]:
    """Yield the events of a stream as its SDK reads them. Raises ProviderError."""
    decoder = SseDecoder()
    async for chunk in source:
        quiet.note_life()
        if events := decoder.feed(chunk):
            short = list(takewhile(_is_short, events))
            yield b"".join(map(write, short))
            if len(short) < len(events):
                raise BadResponse
    for event in decoder.end():
        if not _is_short(event) or (decoder.is_json and not is_said(decode_odd(event, dict).get("error"))):
            raise BadResponse  # the latter is a whole answer, which nobody asked for
        yield write(event)


def _is_short(event: bytes) -> bool:
    return len(event) <= MAX_EVENT_BYTES


# --- Events as the SDKs read them ------------------------------------------------------------------------------------


class _Typed(msgspec.Struct):
    type: str = ""


_decode_type = msgspec.json.Decoder(_Typed).decode


def as_data(event: bytes) -> bytes:
    """Return an event as OpenAI's SDK reads it."""
    if b'"error"' in event:
        event = _without_empty_error(event)
    if not event.isascii():
        event = event.decode(errors="replace").encode()
    return b"data: " + b"\ndata: ".join(event.splitlines()) + b"\n\n"


def _without_empty_error(event: bytes) -> bytes:
    """Return an event without an error that says nothing, which the SDK takes for one."""
    try:
        fields = decode_odd(event, dict)
    except BadResponse:
        return event
    if not fields.get("error") or is_said(fields["error"]):
        return event
    return json.dumps({**fields, "error": None}).encode()


def as_named_data(event: bytes) -> bytes:
    """Return an event as Anthropic's SDK reads it: it ignores those without a name, which is their type."""
    try:
        name = _decode_type(event).type
    except UNREADABLE:
        name = ""  # the SDK reads it all the same, if it can
    return b"event: " + (name.encode() if name.isidentifier() else b"unknown") + b"\n" + as_data(event)


def as_marked_data(event: bytes) -> bytes:
    """Return an event as Google's SDK reads it: it refuses half a character, which is marked with a private one."""
    if event == DONE:
        return b""
    return as_data(_ESCAPES.sub(_mark, event) if b"\\uD" in event or b"\\ud" in event else event)


def _mark(escape: re.Match[bytes]) -> bytes:
    return escape[0] if escape[1] is None else chr(MARKS + int(escape[1], 16)).encode()


def with_halves(text: str) -> str:
    """Return a text of Google's SDK with the halves of characters that were marked."""
    return _MARKED_HALF.sub(lambda half: chr(ord(half[0]) - MARKS), text)
