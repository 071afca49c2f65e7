"""What all wire formats over HTTP share: a POST, server-sent events, and the errors of a connection."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Any, TypeAlias

import aiohttp
import msgspec
from django.utils import timezone

from chat.llm.providers import http
from chat.llm.providers.base import Delta, Event, Finish, ModelRequest
from chat.llm.providers.errors import BadResponse, ConnectionFailed, NotReached, ProviderError, TimedOut, Truncated
from chat.llm.providers.sse import SseDecoder

MAX_ERROR_BODY_BYTES = 64 * 1024
MAX_SINGLE_WRITE_BYTES = 1024 * 1024
"""A longer body is written in parts, so that other answers are read in between."""

BodyOf: TypeAlias = Callable[[ModelRequest], dict[str, Any]]

NO_TEXT = ("", "")
"""The text and reasoning of an event that has neither."""


class Answer(ABC):
    """One answer as far as it was read. Each wire format says what its events mean, and how the answer ended."""

    __slots__ = ("error", "is_done")

    def __init__(self) -> None:
        self.error: ProviderError | None = None  # raised after the text before it
        self.is_done = False  # whatever follows is ignored

    @abstractmethod
    def read(self, event: bytes) -> tuple[str, str]:
        """Return the text and reasoning of one event; raises ProviderError if it is an error."""

    @abstractmethod
    def finish(self) -> Finish | None:
        """Return how the answer ended; None if that was not said."""

    @abstractmethod
    def error_of(self, status: int, body: Any, retry_after: float | None) -> ProviderError:
        """Return the error that a response with another status than 200 means; `body` is its JSON, None without any."""

    def read_all(self, events: list[bytes]) -> Delta | None:
        """Return the text and reasoning of the events before the first error as one Delta; None if there is none."""
        text = reasoning = ""
        for event in events:
            try:
                event_text, event_reasoning = self.read(event)
            except ProviderError as error:
                self.error = error
                break
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self.error = BadResponse()
                break
            text += event_text
            reasoning += event_reasoning
            if self.is_done:
                break
        text, reasoning = text.replace("\0", ""), reasoning.replace("\0", "")  # PostgreSQL stores no NUL
        return Delta(text, reasoning) if text or reasoning else None


async def stream_answer(
    answer: Answer, request: ModelRequest, url: str, *, headers: dict[str, str], body_of: BodyOf
) -> AsyncGenerator[Event]:
    """Yield one Delta per network read, however many events it held, then the Finish."""
    headers = {
        "Content-Type": "application/json",
        "Accept": "text/event-stream",
        "Accept-Encoding": "identity",
        **headers,
    }
    body = await _encode(request, body_of)
    try:
        async with http.session().post(url, data=body, headers=headers) as response:
            if response.status != 200:
                raise await _error_of(answer, response)
            decoder = SseDecoder()
            while not answer.is_done and (chunk := await response.content.readany()):
                delta = answer.read_all(decoder.feed(chunk))
                if delta:
                    yield delta
                if answer.error:
                    raise answer.error
                if delta and not answer.is_done:
                    await http.pause_reading(response, request.pace)
            if delta := answer.read_all(decoder.end()):
                yield delta
            if answer.error:
                raise answer.error
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise NotReached from error
    except TimeoutError as error:
        raise TimedOut from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise ConnectionFailed from error
    finish = answer.finish()
    if finish is None:
        raise Truncated
    yield finish


async def _encode(request: ModelRequest, body_of: BodyOf) -> bytes | BytesIO:
    """Return the body as JSON. Files are megabytes, and are encoded in a thread: other answers would wait."""

    def encode() -> bytes:
        return msgspec.json.encode(body_of(request))

    body = await asyncio.to_thread(encode) if request.has_files else encode()
    return body if len(body) < MAX_SINGLE_WRITE_BYTES else BytesIO(body)


async def _error_of(answer: Answer, response: aiohttp.ClientResponse) -> ProviderError:
    """Return the error of a response. Its body may have a more exact code; its text goes no further."""
    retry_after = retry_after_of(response.headers.get("Retry-After", ""))
    try:
        body = msgspec.json.decode(await _read_body(response))
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = None
    return answer.error_of(response.status, body, retry_after)


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    """Return the body of an error, or its beginning if the connection breaks: the status says enough."""
    body = b""
    try:
        while len(body) < MAX_ERROR_BODY_BYTES and (part := await response.content.readany()):
            body += part
    except (TimeoutError, aiohttp.ClientError, ConnectionError):
        pass
    return body


def retry_after_of(value: str) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110, 10.2.3), which is a number or a date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - timezone.now()).total_seconds())
    except (ValueError, TypeError):
        return None
