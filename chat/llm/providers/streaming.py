"""What every wire format over HTTP shares: a POST, server-sent events, and the errors of a connection."""

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
from chat.llm.providers.errors import BadResponse, ConnectionFailed, ProviderError, TimedOut, Truncated
from chat.llm.providers.sse import SseDecoder

MAX_ERROR_BODY_BYTES = 64 * 1024  # bytes

MAX_SINGLE_WRITE_BYTES = 1024 * 1024  # bytes; more is written piece by piece, and others have their turn in between

BodyOf: TypeAlias = Callable[[ModelRequest], dict[str, Any]]

NO_TEXT = ("", "")
"""What an event without text adds."""


class Answer(ABC):
    """What was read of one answer so far. A wire format says what an event means, and how the answer ended."""

    __slots__ = ("error", "is_done")

    def __init__(self) -> None:
        self.error: ProviderError | None = None  # to be raised once the text before it is out
        self.is_done = False  # nothing of interest comes after

    @abstractmethod
    def read(self, event: bytes) -> tuple[str, str]:
        """Return the text and reasoning one event adds; raises ProviderError for one that is an error."""

    @abstractmethod
    def finish(self) -> Finish | None:
        """Return how the answer ended; None if its end is missing."""

    @abstractmethod
    def refusal(self, status: int, stated: Any, retry_after: float | None) -> ProviderError:
        """Return the error an HTTP status other than 200 means; `stated` is its JSON body, None if it has none."""

    def take(self, events: list[bytes]) -> Delta | None:
        """Return the text and reasoning of several events, up to a faulty one, as one Delta; None without any."""
        text = reasoning = ""
        for event in events:
            try:
                more, thought = self.read(event)
            except ProviderError as error:
                self.error = error
                break
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self.error = BadResponse()
                break
            text += more
            reasoning += thought
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
                raise await _refusal(answer, response)
            decoder = SseDecoder()
            while not answer.is_done and (chunk := await response.content.readany()):
                delta = answer.take(decoder.feed(chunk))
                if delta:
                    yield delta
                if answer.error:
                    raise answer.error
                if delta and not answer.is_done:
                    await http.pause_reading(response, request.pace)
            if delta := answer.take(decoder.end()):
                yield delta
            if answer.error:
                raise answer.error
    except TimeoutError as error:
        raise TimedOut from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise ConnectionFailed from error
    finish = answer.finish()
    if finish is None:
        raise Truncated
    yield finish


async def _encode(request: ModelRequest, body_of: BodyOf) -> bytes | BytesIO:
    """Return the body as JSON. Files are megabytes: encoding them would hold up every other answer."""

    def encode() -> bytes:
        return msgspec.json.encode(body_of(request))

    body = await asyncio.to_thread(encode) if request.has_files else encode()
    return body if len(body) < MAX_SINGLE_WRITE_BYTES else BytesIO(body)


async def _refusal(answer: Answer, response: aiohttp.ClientResponse) -> ProviderError:
    """Return the error a status other than 200 means. The body may name it better; its text goes nowhere."""
    retry_after = retry_after_of(response.headers.get("Retry-After", ""))
    body = await _read_body(response)
    try:
        stated = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        stated = None
    return answer.refusal(response.status, stated, retry_after)


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    """Return an error's body, or what came of it: its status says enough."""
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
