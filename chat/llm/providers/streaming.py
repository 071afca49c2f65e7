"""What all wire formats over HTTP share: a POST, server-sent events, and the errors of a connection."""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping
from email.utils import parsedate_to_datetime
from io import BytesIO
from time import monotonic
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import aiohttp
import msgspec
from django.conf import settings
from django.utils import timezone

from chat.llm.providers import http
from chat.llm.providers.base import Delta, Event, Finish, ModelRequest, ToolCallPart
from chat.llm.providers.errors import (
    REDIRECTS,
    BadResponse,
    ConnectionFailed,
    NotReached,
    ProviderError,
    Redirected,
    TimedOut,
    Truncated,
)
from chat.llm.providers.sse import SseDecoder

MAX_ERROR_BODY_BYTES = 64 * 1024
MAX_SINGLE_WRITE_BYTES = 1024 * 1024
"""A longer body is written in parts, so that other answers are read in between."""
LARGE_READ_BYTES = 16 * 1024
"""So much without any text is no sign of life but a flood, and is read at the pace of text."""
END_SECONDS = 2.0
"""How long the usage and the end of the stream are waited for after the finish reason and the last text."""

BodyOf: TypeAlias = Callable[[ModelRequest], dict[str, Any]]

DONE = b"[DONE]"
"""The event that ends the streams of OpenAI and of some proxies."""
NO_TEXT = ("", "")
"""The text and reasoning of an event that has neither."""
UNREADABLE = (ValueError, RecursionError)
"""What decoders raise: msgspec's errors, Unicode's and JSON's are ValueErrors; what is nested too deep is neither."""

T = TypeVar("T")


def decode_odd(event: bytes, kind: type[T]) -> T:
    """Decode JSON that msgspec refuses and some send: with half of a surrogate pair, or with bytes that are not UTF-8.

    Raises BadResponse.
    """
    try:
        return msgspec.convert(json.loads(event.decode(errors="replace")), kind)
    except UNREADABLE as error:
        raise BadResponse from error


class Characters:
    """Makes whole characters of the texts of an answer.

    JavaScript cuts by UTF-16 units, so that the halves of an emoji may come in two events. They are joined; a half that
    stays alone becomes U+FFFD. Text, reasoning and the arguments of each call of a tool are joined each by themselves.
    """

    __slots__ = ("_call_halves", "_text_half", "_thought_half", "may_have_halves")

    def __init__(self, *, may_have_halves: bool = False) -> None:
        self.may_have_halves = may_have_halves  # else nothing is looked for
        self._text_half = self._thought_half = ""
        self._call_halves: dict[int, str] = {}

    def delta_of(self, text: str, reasoning: str, tool_calls: tuple[ToolCallPart, ...] = ()) -> Delta | None:
        """Return what has come as far as it can be shown; None if that is nothing."""
        text = text.replace("\0", "")  # PostgreSQL stores no NUL
        if reasoning:
            reasoning = reasoning.replace("\0", "")
        if self.may_have_halves:
            text, self._text_half = _join_halves(self._text_half + text)
            reasoning, self._thought_half = _join_halves(self._thought_half + reasoning)
        if tool_calls and (tool_calls := self._whole_parts(tool_calls)):
            return Delta(text, reasoning, tool_calls)
        return Delta(text, reasoning) if text or reasoning else None

    def _whole_parts(self, parts: tuple[ToolCallPart, ...]) -> tuple[ToolCallPart, ...]:
        """Return the parts, those that follow each other in one call as one. Ids and names are whole already."""
        whole: list[ToolCallPart] = []
        for part in parts:
            arguments = part.arguments.replace("\0", "")
            if self.may_have_halves:
                arguments, half = _join_halves(self._call_halves.pop(part.index, "") + arguments)
                if half:
                    self._call_halves[part.index] = half
            if whole and whole[-1].index == part.index:
                before = whole.pop()
                part = ToolCallPart(part.index, before.id, before.name + part.name, before.arguments + arguments)
            else:
                part = ToolCallPart(part.index, part.id, part.name, arguments)
            if part.id or part.name or part.arguments:
                whole.append(part)
        return tuple(whole)

    def rest(self) -> Delta | None:
        """Return the halves whose other half never came, at the end of the stream."""
        text, reasoning = ("\ufffd" if half else "" for half in (self._text_half, self._thought_half))
        parts = tuple(ToolCallPart(index, arguments="\ufffd") for index in self._call_halves)
        self._text_half = self._thought_half = ""
        self._call_halves = {}
        return Delta(text, reasoning, parts) if text or reasoning or parts else None


def _join_halves(text: str) -> tuple[str, str]:
    """Return the text in whole characters, and the first half of one at its end, whose other half may come."""
    half = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
    whole = text[:-1] if half else text
    return whole.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"), half


class Quiet:
    """How long a provider has given signs of life, such as comments, and no text."""

    __slots__ = ("_note_life", "_since")

    def __init__(self, request: ModelRequest) -> None:
        self._note_life = request.note_life
        self._since: float | None = None

    def note_life(self) -> None:
        """Note a read without text; raises TimedOut when there was no other for LOADING_SECONDS."""
        now = monotonic()
        if self._since is None:
            self._since = now
        elif now - self._since > settings.LOADING_SECONDS:
            raise TimedOut
        self._note_life()

    def note_text(self) -> None:
        self._since = None


class Answer(ABC, Generic[T]):
    """One answer as far as it was read. Each wire format says what its events mean, and how the answer ended."""

    __slots__ = ("characters", "error", "is_done", "offers_tools", "reason", "tool_calls")

    decoder: ClassVar[msgspec.json.Decoder[Any]]

    def __init__(self, *, offers_tools: bool = False) -> None:
        self.characters = Characters()
        self.offers_tools = offers_tools  # else calls of them are not read
        self.tool_calls: list[ToolCallPart] = []  # read, and not in a Delta yet
        self.reason: str | None = None  # why it ended, in the provider's word; what still comes is its usage
        self.error: ProviderError | None = None  # raised after the text before it
        self.is_done = False  # whatever follows is ignored

    @abstractmethod
    def read(self, event: T) -> tuple[str, str]:
        """Return the text and reasoning of one event, and note its calls of tools; raises ProviderError if it is an
        error."""

    @abstractmethod
    def finish(self) -> Finish | None:
        """Return how the answer ended; None if that was not said."""

    @abstractmethod
    def error_of(self, status: int, body: Any, retry_after: float | None) -> ProviderError:
        """Return the error that a response with another status than 200 means; `body` is its JSON, None without any."""

    def read_all(self, events: list[bytes]) -> Delta | None:
        """Return what the events before the first error say as one Delta; None if that is nothing."""
        text = reasoning = ""
        decode = self.decoder.decode
        for event in events:
            try:
                try:
                    decoded = decode(event)
                except UNREADABLE:
                    if event == DONE:
                        self.is_done = True
                        break
                    self.characters.may_have_halves = True
                    decoded = decode_odd(event, self.decoder.type)
                event_text, event_reasoning = self.read(decoded)
            except ProviderError as error:
                if self.reason is not None:
                    continue  # the answer is whole, and its usage may still come
                self.error = error
                break
            text += event_text
            reasoning += event_reasoning
            if self.is_done:
                break
        if self.tool_calls:
            parts, self.tool_calls = tuple(self.tool_calls), []
            return self.characters.delta_of(text, reasoning, parts)
        return self.characters.delta_of(text, reasoning)


async def stream_answer(
    answer: Answer[Any], request: ModelRequest, url: str, *, headers: dict[str, str], body_of: BodyOf
) -> AsyncGenerator[Event]:
    """Yield one Delta per network read, however many events it held, and the Finish: see `Stream`."""
    headers = {
        "Content-Type": "application/json",
        "Accept": "text/event-stream",
        "Accept-Encoding": "identity",
        **headers,
    }
    body = await _encode(request, body_of)
    sending = http.Sending(body, request.note_sent)
    try:
        async with http.session().post(
            url, data=body, headers=headers, allow_redirects=False, trace_request_ctx=sending
        ) as response:
            if response.status != 200:
                raise await _error_of(answer, response)
            if is_compressed(response.headers):
                raise BadResponse
            decoder, quiet, ends_at = SseDecoder(), Quiet(request), None
            while not (answer.is_done or answer.error):
                try:
                    chunk = await (response.content.readany() if ends_at is None else _read_until(ends_at, response))
                except (aiohttp.ClientError, ConnectionError):
                    if not (chunk := http.take_buffered(response)):
                        raise
                if not chunk:
                    break
                try:
                    events = decoder.feed(chunk)
                except BadResponse:
                    if answer.reason is None:
                        raise
                    answer.is_done = True
                    break
                delta = answer.read_all(events)
                if delta:
                    quiet.note_text()
                    yield delta
                elif ends_at is None:
                    quiet.note_life()
                may_end = answer.reason is not None and (delta is not None or ends_at is None)
                if may_end and not answer.is_done and (finish := answer.finish()):
                    yield finish
                if (delta or len(chunk) > LARGE_READ_BYTES) and not (answer.is_done or answer.error):
                    await http.pause_reading(response, request.pace)
                if may_end:
                    ends_at = monotonic() + end_seconds(said_before=ends_at is not None)
            if not (answer.is_done or answer.error):
                delta = answer.read_all(decoder.end())
                if decoder.is_json:
                    raise answer.error or BadResponse  # a whole answer, which nobody asked for
                if delta:
                    yield delta
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise NotReached from error
    except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
        if answer.reason is None:
            raise (TimedOut if isinstance(error, TimeoutError) else ConnectionFailed) from error
    if delta := answer.characters.rest():
        yield delta
    if answer.error:
        raise answer.error
    finish = answer.finish()
    if finish is None:
        raise Truncated
    yield finish


def end_seconds(*, said_before: bool) -> float:
    """Return how long an answer with a finish reason is read on. Text after the reason says that it means nothing."""
    stall_seconds: float = settings.STALL_SECONDS
    return stall_seconds if said_before else END_SECONDS


async def _read_until(ends_at: float, response: aiohttp.ClientResponse) -> bytes:
    """Return the next bytes; none after that moment, when a connection was left open."""
    seconds = ends_at - monotonic()
    if seconds <= 0:  # there may always be more to read
        return b""
    try:
        async with asyncio.timeout(seconds):
            return await response.content.readany()
    except TimeoutError:
        return b""


async def _encode(request: ModelRequest, body_of: BodyOf) -> bytes | BytesIO:
    """Return the body as JSON. Files are megabytes, and are encoded in a thread: other answers would wait."""

    def encode() -> bytes:
        return msgspec.json.encode(body_of(request))

    body = await asyncio.to_thread(encode) if request.has_files else encode()
    return body if len(body) < MAX_SINGLE_WRITE_BYTES else BytesIO(body)


async def _error_of(answer: Answer[Any], response: aiohttp.ClientResponse) -> ProviderError:
    """Return the error of a response. Its body may have a more exact code; its text goes no further."""
    if response.status in REDIRECTS:
        return Redirected(status=response.status)
    retry_after = retry_after_of(response.headers.get("Retry-After", ""))
    try:
        body = None if is_compressed(response.headers) else msgspec.json.decode(await _read_body(response))
    except UNREADABLE:
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


def is_compressed(headers: Mapping[str, str]) -> bool:
    """Return whether a body is compressed, though nobody asked for that. It is not read: it may become gigabytes."""
    return headers.get("Content-Encoding", "identity").lower() not in ("identity", "")


def retry_after_of(value: str) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110, 10.2.3), which is a number or a date."""
    if not value:
        return None
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(value) - timezone.now()).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None


def is_said(value: Any) -> bool:
    """Return whether an error or a list of tool calls says anything: some send an empty one beside each text."""
    parts = value if isinstance(value, list) else [value]
    return any(any(part.values()) if isinstance(part, dict) else part for part in parts)


def words_of(error: Any, *names: str) -> tuple[str, ...]:
    """Return what an error object says under these names: words, or numbers; empty for anything else."""
    fields = error if isinstance(error, dict) else {}
    found = (fields.get(name) for name in names)
    return tuple(value if isinstance(value, str) else str(value) if type(value) is int else "" for value in found)


def status_of(code: str) -> int | None:
    """Return the HTTP status of an error inside a stream, where its code is one."""
    return int(code) if len(code) == 3 and code.isdecimal() and int(code) >= 400 else None
