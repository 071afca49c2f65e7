"""The official SDKs: for the lists of models, and as a second way to stream answers.

`stream` does what the adapters do, at several times their cost. An operator names a provider in SDK_PROVIDERS when
its wire format has changed and its SDK supports that already; the tests compare the adapters with it.

The SDKs are imported when they are first used: together they take two seconds and 95 MB.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, TypeAlias

import msgspec
from django.conf import settings

from chat.llm.providers import anthropic_messages, gemini, openai_chat
from chat.llm.providers.base import Delta, Event, Finish, FinishReason, ModelRequest, Provider, TokenUsage
from chat.llm.providers.errors import (
    AuthenticationFailed,
    BadResponse,
    ConnectionFailed,
    ContentFiltered,
    NotReached,
    Overloaded,
    PermissionRefused,
    PromptTooLong,
    ProviderError,
    ProviderRateLimited,
    TimedOut,
    Truncated,
    error_from_status,
)
from chat.llm.providers.http import CONNECT_SECONDS
from chat.llm.providers.streaming import BodyOf, retry_after_of
from core.loops import PerLoop

LIST_TIMEOUT_SECONDS = 10

logger = logging.getLogger(__name__)

Closing: TypeAlias = Callable[[], Awaitable[None]]
Clients: TypeAlias = dict[tuple[str, str, str], tuple[Any, Closing]]

_clients: PerLoop[Clients] = PerLoop(dict)


async def stream(request: ModelRequest) -> AsyncGenerator[Event]:
    """Yield Deltas, then one Finish; raises ProviderError. Closing the iterator closes the connection."""
    events: asyncio.Queue[Event | ProviderError | None] = asyncio.Queue()
    task = asyncio.create_task(_pump(request, events))
    try:
        while True:
            text = reasoning = ""
            last = await events.get()
            while isinstance(last, Delta):  # whatever has arrived is one Delta
                text, reasoning = text + last.text, reasoning + last.reasoning
                if events.empty():
                    break
                last = events.get_nowait()
            text, reasoning = text.replace("\0", ""), reasoning.replace("\0", "")
            if text or reasoning:
                yield Delta(text, reasoning)
            if isinstance(last, ProviderError):
                raise last
            if isinstance(last, Finish):
                yield last
                return
            if last is None:
                raise Truncated
            await request.pace()
    finally:
        # The SDKs close a connection at once when the task that reads it is cancelled, and only then.
        task.cancel()
        await asyncio.wait([task])


async def list_models(provider: Provider) -> list[str]:
    """Return the ids of the provider's models, which costs nothing; raises ProviderError."""
    try:
        async with asyncio.timeout(LIST_TIMEOUT_SECONDS):
            client = await _client_of(provider)
            if provider.adapter == "gemini":
                return [(model.name or "").removeprefix("models/") async for model in await client.aio.models.list()]
            return [model.id async for model in client.models.list()]
    except TimeoutError as error:
        raise TimedOut from error
    except Exception as error:  # the SDKs' errors have no common class
        raise _error_of(error) from error


async def close_clients() -> None:
    """Close this event loop's clients."""
    for _client, close in (_clients.pop() or {}).values():
        with suppress(Exception):
            await close()


async def _pump(request: ModelRequest, events: "asyncio.Queue[Event | ProviderError | None]") -> None:
    """Read the SDK's events in a task of its own, which when it is cancelled is always waiting for the SDK."""
    try:
        async with aclosing(_STREAMS[request.provider.adapter](request)) as sdk_events:
            async for event in sdk_events:
                events.put_nowait(event)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001  what they raise has no common class: a panic of Rust's is no Exception
        events.put_nowait(_error_of(error))
    else:
        events.put_nowait(None)


# --- Clients ---------------------------------------------------------------------------------------------------------


async def _client_of(provider: Provider) -> Any:
    """Return this event loop's client: making one takes 30 ms, and it works in one loop only.

    The first client of an SDK imports it, which takes a second or more, in a thread.
    """
    clients = _clients.get()
    key = (provider.adapter, provider.base_url, provider.api_key)
    if key not in clients:
        new_client = await asyncio.to_thread(_CLIENTS[provider.adapter], provider)
        if key in clients:  # another task was faster
            await new_client[1]()
        else:
            clients[key] = new_client
    return clients[key][0]


def _openai_client(provider: Provider) -> tuple[Any, Closing]:
    import openai

    timeout = openai.Timeout(settings.STALL_SECONDS, connect=CONNECT_SECONDS)
    client = openai.AsyncOpenAI(
        api_key=provider.api_key or "none", base_url=provider.base_url, max_retries=0, timeout=timeout
    )
    return client, client.close


def _anthropic_client(provider: Provider) -> tuple[Any, Closing]:
    import anthropic

    timeout = anthropic.Timeout(settings.STALL_SECONDS, connect=CONNECT_SECONDS)
    client = anthropic.AsyncAnthropic(
        api_key=provider.api_key, base_url=provider.base_url, max_retries=0, timeout=timeout
    )
    return client, client.close


def _gemini_client(provider: Provider) -> tuple[Any, Closing]:
    import httpx2
    from google import genai
    from google.genai import types

    base, _, version = provider.base_url.rstrip("/").rpartition("/")
    http = httpx2.AsyncClient()  # or it would use aiohttp if that is installed, with other errors
    timeout = round(settings.STALL_SECONDS * 1000)
    options = types.HttpOptions(base_url=base, api_version=version, timeout=timeout, httpx_async_client=http)
    return genai.Client(api_key=provider.api_key, http_options=options), http.aclose


_CLIENTS: dict[str, Callable[[Provider], tuple[Any, Closing]]] = {
    "openai_chat": _openai_client,
    "anthropic_messages": _anthropic_client,
    "gemini": _gemini_client,
}

# --- Answers ---------------------------------------------------------------------------------------------------------


async def _body(request: ModelRequest, body_of: BodyOf) -> dict[str, Any]:
    """Return what the adapter would send; with files it is made in a thread."""
    return await asyncio.to_thread(body_of, request) if request.has_files else body_of(request)


async def _stream_openai(request: ModelRequest) -> AsyncGenerator[Event]:
    finish_reason, usage = None, None
    instead: FinishReason | None = None
    client = await _client_of(request.provider)
    body = await _body(request, openai_chat.body_of)
    extra = {name: body.pop(name) for name in openai_chat.UNKNOWN_TO_SDK & body.keys()}  # the SDK does not know them
    answer = await client.chat.completions.create(**body, extra_body=extra)
    async with answer:
        async for chunk in answer:
            for choice in chunk.choices or ():
                finish_reason = choice.finish_reason or finish_reason
                if (delta := choice.delta) is not None:
                    refusal, calls = getattr(delta, "refusal", None), getattr(delta, "tool_calls", None)
                    if refusal or calls:
                        instead = "refusal" if refusal else "tool_call"
                    text = delta.content or refusal or ""
                    thought = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None) or ""
                    yield Delta(text, thought)
            if counts := chunk.usage:
                read, written = counts.prompt_tokens_details, counts.completion_tokens_details
                usage = TokenUsage(
                    input=max(0, counts.prompt_tokens),
                    output=max(0, counts.completion_tokens),
                    cache_read=(read and read.cached_tokens) or getattr(counts, "prompt_cache_hit_tokens", None) or 0,
                    cache_write=(read and getattr(read, "cache_write_tokens", None)) or 0,
                    reasoning=(written and written.reasoning_tokens) or 0,
                )
    if finish_reason:
        yield Finish(openai_chat.openai_finish_reason(finish_reason, instead), usage)


async def _stream_anthropic(request: ModelRequest) -> AsyncGenerator[Event]:
    stop_reason = None
    counts: dict[str, Any] = {}
    client = await _client_of(request.provider)
    answer = await client.messages.create(**await _body(request, anthropic_messages.body_of))
    async with answer:
        async for event in answer:
            match event.type:
                case "content_block_delta":
                    yield Delta(getattr(event.delta, "text", None) or "", getattr(event.delta, "thinking", None) or "")
                case "message_start":
                    counts |= event.message.usage.model_dump(exclude_none=True)
                case "message_delta":
                    counts |= event.usage.model_dump(exclude_none=True)
                    stop_reason = event.delta.stop_reason or stop_reason
    if stop_reason:
        read, written = counts.get("cache_read_input_tokens", 0), counts.get("cache_creation_input_tokens", 0)
        usage = TokenUsage(
            input=counts["input_tokens"] + read + written,
            output=counts["output_tokens"],
            cache_read=read,
            cache_write=written,
            reasoning=counts.get("output_tokens_details", {}).get("thinking_tokens", 0),
        )
        yield Finish(anthropic_messages.FINISH.get(stop_reason, "stop"), usage)


async def _stream_gemini(request: ModelRequest) -> AsyncGenerator[Event]:
    client = await _client_of(request.provider)
    from google.genai import types
    from pydantic import TypeAdapter

    body = await _body(request, gemini.body_of)
    no_calls = {"automaticFunctionCalling": {"disable": True}}  # or it would log that we make none
    generation = {**body["generationConfig"], "systemInstruction": body.get("systemInstruction"), **no_calls}
    config = types.GenerateContentConfig.model_validate(generation)
    contents = body["contents"]
    if request.has_files:  # by JSON, or it would take base64 for the bytes themselves
        validate = TypeAdapter(list[types.Content]).validate_json
        contents = await asyncio.to_thread(lambda: validate(msgspec.json.encode(body["contents"])))
    reason, usage, calls_tool = None, None, False
    answer = await client.aio.models.generate_content_stream(model=request.model, contents=contents, config=config)
    async with aclosing(answer):
        async for chunk in answer:
            for candidate in chunk.candidates or ():
                if candidate.finish_reason:
                    reason = candidate.finish_reason.value
                for part in (candidate.content and candidate.content.parts) or ():
                    calls_tool = calls_tool or part.function_call is not None
                    yield Delta(reasoning=part.text or "") if part.thought else Delta(part.text or "")
            if chunk.prompt_feedback and chunk.prompt_feedback.block_reason:
                reason = "SAFETY"
            if counts := chunk.usage_metadata:
                thoughts = counts.thoughts_token_count or 0
                usage = TokenUsage(
                    input=counts.prompt_token_count or 0,
                    output=(counts.candidates_token_count or 0) + thoughts,
                    cache_read=counts.cached_content_token_count or 0,
                    reasoning=thoughts,
                )
    if reason:
        yield Finish(gemini.gemini_finish_reason(reason, calls_tool=calls_tool), usage)


_STREAMS: dict[str, Callable[[ModelRequest], AsyncGenerator[Event]]] = {
    "openai_chat": _stream_openai,
    "anthropic_messages": _stream_anthropic,
    "gemini": _stream_gemini,
}

ADAPTERS = frozenset(_STREAMS)

# --- Errors ----------------------------------------------------------------------------------------------------------

# By the name of the class: importing the classes would import all SDKs.
_ERROR_BY_CLASS: dict[str, type[ProviderError]] = {
    "APITimeoutError": TimedOut,
    "TimeoutException": TimedOut,
    "APIConnectionError": ConnectionFailed,
    "HTTPError": ConnectionFailed,
    "JSONDecodeError": BadResponse,
    "UnknownApiResponseError": BadResponse,
    "ValidationError": BadResponse,
}
_SDK_PACKAGES = frozenset(("openai", "anthropic", "google", "httpx2", "json", "pydantic", "pydantic_core"))
_TOO_LONG_PHRASES = (
    "prompt is too long",
    "maximum context length",
    "exceeds the maximum number of tokens",
    "request too large",
)


def _error_of(error: BaseException) -> ProviderError:
    """Return our error for one of an SDK: by its class, codes, status, and by phrases where there is no code."""
    if isinstance(error, ProviderError):
        return error
    if type(error).__module__.partition(".")[0] not in _SDK_PACKAGES:
        logger.error("An SDK broke", extra={"error": type(error).__name__})  # its text may be a provider's
        return BadResponse()
    if {type(error).__name__, type(error.__cause__).__name__} & {"ConnectError", "ConnectTimeout"}:
        return NotReached()
    for kind in type(error).__mro__:
        if error_class := _ERROR_BY_CLASS.get(kind.__name__):
            return error_class()
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    status = status if isinstance(status, int) and status >= 400 else None
    codes = {str(getattr(error, name, None)) for name in ("code", "type", "status")}
    message = str(getattr(error, "message", "")).lower()
    if codes & {"context_length_exceeded", "exceed_context_size_error"} or any(
        phrase in message for phrase in _TOO_LONG_PHRASES
    ):
        return PromptTooLong(status=status)
    if codes & {"insufficient_quota", "billing_error", "FAILED_PRECONDITION"} or "credit balance" in message:
        return PermissionRefused(status=status)
    if codes & {"content_filter", "content_policy_violation"}:
        return ContentFiltered(status=status)
    if "api key not valid" in message:
        return AuthenticationFailed(status=status)
    if status == 504 or codes & {"timeout", "timeout_error"}:
        return TimedOut(status=status)
    if status is not None:
        return error_from_status(status, retry_after=_retry_after_of(error))
    if any("rate_limit" in code for code in codes):
        return ProviderRateLimited()
    return Overloaded()  # an error event inside a stream


def _retry_after_of(error: BaseException) -> float | None:
    """Return the seconds to wait: by the header, or for Google by the body."""
    header = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    seconds = retry_after_of(header)
    details = getattr(error, "details", None)
    if seconds is None and isinstance(details, dict):
        return gemini.retry_delay_of(details.get("error"))
    return seconds
