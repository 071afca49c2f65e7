"""OpenAI's chat completions: OpenAI, DeepSeek, Ollama, vLLM, llama.cpp, OpenRouter and the like.

https://platform.openai.com/docs/api-reference/chat/create
"""

import logging
from collections.abc import AsyncGenerator, Iterable
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import msgspec
from django.utils import timezone

from chat.llm.providers import http
from chat.llm.providers.base import Delta, Event, Finish, ModelRequest, TokenUsage
from chat.llm.providers.errors import (
    BadResponse,
    ConnectionFailed,
    ContentFiltered,
    Overloaded,
    PermissionRefused,
    PromptTooLong,
    ProviderError,
    ProviderRateLimited,
    TimedOut,
    Truncated,
    from_status,
)
from chat.llm.providers.sse import SseDecoder

logger = logging.getLogger(__name__)

LONGEST_ERROR_BODY = 64 * 1024  # bytes


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None  # DeepSeek, llama.cpp, vLLM
    reasoning: str | None = None  # OpenRouter, newer vLLM
    refusal: str | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _InputDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None
    prompt_cache_hit_tokens: int | None = None  # DeepSeek


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode

_FINISH = {"stop": "stop", "tool_calls": "stop", "length": "length", "content_filter": "content_filter"}


async def stream(request: ModelRequest) -> AsyncGenerator[Event]:
    """Yield one Delta per network read, however many events it held, then the Finish."""
    answer = _Answer()
    try:
        async with http.session().post(
            f"{request.provider.base_url.rstrip('/')}/chat/completions",
            data=msgspec.json.encode(_body(request)),
            headers=_headers(request),
        ) as response:
            if response.status != 200:
                raise await _refusal(response)
            decoder = SseDecoder()
            while not answer.is_done and (chunk := await response.content.readany()):
                delta = answer.take(decoder.feed(chunk))
                if delta:
                    yield delta
                if answer.error:
                    raise answer.error
                if delta and not answer.is_done:
                    await http.rest(response, request.pace)
            if delta := answer.take(decoder.end()):
                yield delta
            if answer.error:
                raise answer.error
    except TimeoutError as error:
        raise TimedOut from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise ConnectionFailed from error
    yield answer.finish()


class _Answer:
    """What was read of one answer so far."""

    __slots__ = ("error", "is_done", "reason", "usage")

    def __init__(self) -> None:
        self.error: ProviderError | None = None  # to be raised once the text before it is out
        self.is_done = False
        self.reason: str | None = None
        self.usage: _Usage | None = None

    def take(self, events: list[bytes]) -> Delta | None:
        """Return the text and reasoning of several events, up to a faulty one, as one Delta; None without any."""
        text = reasoning = ""
        for event in events:
            if event == b"[DONE]":
                self.is_done = True
                break
            try:
                chunk = _decode(event)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self.error = BadResponse()
                break
            if chunk.error:
                self.error = _stated_error(chunk.error, status=None)
                break
            if chunk.usage is not None:
                self.usage = chunk.usage
            for choice in chunk.choices or ():
                if choice.finish_reason:
                    self.reason = choice.finish_reason
                if (delta := choice.delta) is not None:
                    text += delta.content or delta.refusal or ""
                    reasoning += delta.reasoning_content or delta.reasoning or ""
        text, reasoning = text.replace("\0", ""), reasoning.replace("\0", "")  # PostgreSQL stores no NUL
        return Delta(text, reasoning) if text or reasoning else None

    def finish(self) -> Finish:
        if self.reason is None:
            raise Truncated
        reason = _FINISH.get(self.reason, "stop")
        return Finish(reason, _usage(self.usage) if self.usage else None)  # type: ignore[arg-type]


def _usage(usage: _Usage) -> TokenUsage:
    cached = (usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens) or 0
    written = (usage.prompt_tokens_details and usage.prompt_tokens_details.cache_write_tokens) or 0
    reasoning = (usage.completion_tokens_details and usage.completion_tokens_details.reasoning_tokens) or 0
    return TokenUsage(
        input=max(0, usage.prompt_tokens),
        output=max(0, usage.completion_tokens),
        cache_read=max(0, cached or usage.prompt_cache_hit_tokens or 0),
        cache_write=max(0, written),
        reasoning=max(0, reasoning),
    )


def _body(request: ModelRequest) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [
            {
                "role": request.provider.system_role if message.role == "system" else message.role,
                "content": message.text,
            }
            for message in request.messages
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        request.max_tokens_parameter: request.max_output,
    }
    if request.provider.key == "openai":
        body |= {"prompt_cache_key": request.cache_key, "safety_identifier": request.end_user}
    return body


def _headers(request: ModelRequest) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream", "Accept-Encoding": "identity"}
    if request.provider.api_key:
        headers["Authorization"] = f"Bearer {request.provider.api_key}"
    return headers


async def _refusal(response: aiohttp.ClientResponse) -> ProviderError:
    """Return the error a status other than 200 means. The body may name it better; its text goes nowhere."""
    retry_after = _retry_after(response.headers.get("Retry-After", ""))
    body = await _read_body(response)
    try:
        stated = msgspec.json.decode(body)
        error = stated.get("error") if isinstance(stated, dict) else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = None
    return _stated_error(error, status=response.status, retry_after=retry_after)


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    """Return an error's body, or what came of it: its status says enough."""
    body = b""
    try:
        while len(body) < LONGEST_ERROR_BODY and (part := await response.content.readany()):
            body += part
    except (TimeoutError, aiohttp.ClientError, ConnectionError):
        pass
    return body


def _stated_error(error: Any, *, status: int | None, retry_after: float | None = None) -> ProviderError:
    """Return the error an OpenAI error object (`code`, `type`, `message`) means, with the HTTP status if it had one."""
    stated = error if isinstance(error, dict) else {}
    names = {str(stated.get("code", "")), str(stated.get("type", ""))}
    message = str(stated.get("message", "")).lower()
    if names & {"context_length_exceeded", "exceed_context_size_error"} or "maximum context length" in message:
        return PromptTooLong(status=status)
    if "insufficient_quota" in names:  # ours is unpaid: waiting does not help
        return PermissionRefused(status=status)
    if names & {"content_filter", "content_policy_violation"}:
        return ContentFiltered(status=status)
    if status is not None:
        return from_status(status, retry_after=retry_after)
    return _from_names(names)


def _from_names(names: Iterable[str]) -> ProviderError:
    """Return the error an event inside a stream means: there is no status to go by."""
    joined = " ".join(names)
    for mark, kind in (("rate_limit", ProviderRateLimited), ("timeout", TimedOut)):
        if mark in joined:
            return kind()
    return Overloaded()


def _retry_after(value: str) -> float | None:
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
