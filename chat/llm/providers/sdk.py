"""The official SDKs: for the lists of models, and as a second way to stream answers.

`stream` does what the adapters do, at several times their cost. An operator names a provider in SDK_PROVIDERS when
its wire format has changed and its SDK supports that already; the tests compare the adapters with it.

The SDKs are imported when they are first used: together they take two seconds and 95 MB.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from time import monotonic
from typing import Any, TypeAlias

import msgspec
from django.conf import settings

from chat.llm.providers import anthropic_messages, gemini, openai_chat, sdk_http
from chat.llm.providers.base import Delta, Event, Finish, FinishReason, ModelRequest, Provider, ToolCallPart
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
from chat.llm.providers.openai_chat import text_of, thought_of
from chat.llm.providers.sdk_http import Reading
from chat.llm.providers.streaming import BodyOf, Characters, Quiet, end_seconds, is_said, status_of
from chat.llm.providers.tool_calls import StreamedCalls
from core.loops import PerLoop

LIST_TIMEOUT_SECONDS = 10

logger = logging.getLogger(__name__)

Closing: TypeAlias = Callable[[], Awaitable[None]]
Clients: TypeAlias = dict[tuple[str, str, str], tuple[Any, Closing]]

_clients: PerLoop[Clients] = PerLoop(dict)


async def stream(request: ModelRequest) -> AsyncGenerator[Event]:
    """Yield Deltas and the Finish: see `Stream`."""
    events: asyncio.Queue[Event | ProviderError | None] = asyncio.Queue()
    characters, quiet = Characters(may_have_halves=True), Quiet(request)
    finish, ends_at = None, None
    task = asyncio.create_task(_pump(request, quiet, events))
    try:
        while True:
            text = reasoning = ""
            tool_calls: tuple[ToolCallPart, ...] = ()
            last = await _next(events, ends_at)
            while isinstance(last, Delta):  # whatever has arrived is one Delta
                text, reasoning = text + last.text, reasoning + last.reasoning
                tool_calls += last.tool_calls
                if events.empty():
                    break
                last = events.get_nowait()
            if isinstance(last, Finish):
                finish = last
            delta = characters.delta_of(text, reasoning, tool_calls)
            if delta:
                quiet.note_text()
                yield delta
            may_end = finish is not None and (delta is not None or ends_at is None)
            if may_end and finish:
                yield finish
            if last is None or isinstance(last, ProviderError):
                break
            if delta:
                await request.pace()
            if may_end:
                ends_at = monotonic() + end_seconds(said_before=ends_at is not None)
    finally:
        # The SDKs close a connection at once when the task that reads it is cancelled, and only then.
        task.cancel()
        await asyncio.wait([task])
    if delta := characters.rest():
        yield delta
    if finish is None:
        raise last or Truncated
    yield finish


async def list_models(provider: Provider) -> list[str]:
    """Return the ids of the provider's models, which costs nothing; raises ProviderError."""
    reading = Reading()
    sdk_http.reading.set(reading)
    try:
        async with asyncio.timeout(LIST_TIMEOUT_SECONDS):
            client = await _client_of(provider)
            if provider.adapter == "gemini":
                return [(model.name or "").removeprefix("models/") async for model in await client.aio.models.list()]
            return [model.id async for model in client.models.list()]
    except TimeoutError as error:
        raise TimedOut from error
    except Exception as error:  # the SDKs' errors have no common class
        raise _error_of(error, reading) from error


async def close_clients() -> None:
    """Close this event loop's clients."""
    for _client, close in (_clients.pop() or {}).values():
        with suppress(Exception):
            await close()


async def _pump(request: ModelRequest, quiet: Quiet, events: "asyncio.Queue[Event | ProviderError | None]") -> None:
    """Read the SDK's events in a task of its own, which when it is cancelled is always waiting for the SDK."""
    adapter = request.provider.adapter
    reading = Reading(_WRITERS[adapter], quiet, request.note_sent)
    sdk_http.reading.set(reading)
    try:
        async with aclosing(_STREAMS[adapter](request)) as sdk_events:
            async for event in sdk_events:
                events.put_nowait(event)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001  what they raise has no common class: a panic of Rust's is no Exception
        events.put_nowait(_error_of(error, reading))
    else:
        events.put_nowait(None)


async def _next(
    events: "asyncio.Queue[Event | ProviderError | None]", ends_at: float | None
) -> Event | ProviderError | None:
    """Return what comes next; None after that moment, when a connection was left open."""
    if ends_at is None:
        return await events.get()
    seconds = ends_at - monotonic()
    if seconds <= 0:  # there may always be more to read
        return None
    try:
        async with asyncio.timeout(seconds):
            return await events.get()
    except TimeoutError:
        return None


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

    http = sdk_http.make_client(settings.STALL_SECONDS)
    client = openai.AsyncOpenAI(
        api_key=provider.api_key or "none", base_url=provider.base_url, max_retries=0, http_client=http
    )
    return client, client.close


def _anthropic_client(provider: Provider) -> tuple[Any, Closing]:
    import anthropic

    http = sdk_http.make_client(settings.STALL_SECONDS)
    client = anthropic.AsyncAnthropic(
        api_key=provider.api_key, base_url=provider.base_url, max_retries=0, http_client=http
    )
    return client, client.close


def _gemini_client(provider: Provider) -> tuple[Any, Closing]:
    from google import genai
    from google.genai import types

    base, _, version = provider.base_url.rstrip("/").rpartition("/")
    http = sdk_http.make_client(settings.STALL_SECONDS)  # without one it would use aiohttp, with other errors
    tls = {"verify": sdk_http.tls_context(), "ssl": sdk_http.tls_context()}  # for clients that it makes and nobody uses
    options = types.HttpOptions(
        base_url=base,
        api_version=version,
        timeout=round(settings.STALL_SECONDS * 1000),
        httpx_async_client=http,
        client_args=tls,
        async_client_args=tls,
    )
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


def _plain(model: Any) -> Any:
    """Return an SDK's object as its JSON was, whatever its type is."""
    return model.model_dump(warnings=False) if hasattr(model, "model_dump") else model


async def _stream_openai(request: ModelRequest) -> AsyncGenerator[Event]:
    finish_reason, usage = None, None
    instead: FinishReason | None = None
    has_text, offers_tools, streamed = False, bool(request.options.tools), StreamedCalls()
    client = await _client_of(request.provider)
    body = await _body(request, openai_chat.body_of)
    extra = {name: body.pop(name) for name in openai_chat.UNKNOWN_TO_SDK & body.keys()}  # the SDK does not know them
    answer = await client.chat.completions.create(**body, extra_body=extra)
    async with answer:
        async for chunk in answer:
            for choice in chunk.choices or ():
                if choice.index:  # another answer to the same question
                    continue
                if choice.finish_reason:
                    finish_reason = str(choice.finish_reason)
                if (delta := choice.delta) is not None:
                    refusal, calls = text_of(getattr(delta, "refusal", None)), getattr(delta, "tool_calls", None)
                    calls = list(map(_plain, calls)) if isinstance(calls, list) else calls
                    parts: list[ToolCallPart] = []
                    if refusal and has_text and instead != "refusal":
                        refusal = f"\n\n{refusal}"  # a paragraph of its own
                    if refusal or (calls and is_said(calls)):
                        instead = "refusal" if refusal else "tool_call"
                        parts = streamed.read(calls) if offers_tools and calls else []
                    thought = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
                    has_text = has_text or bool(delta.content)
                    yield Delta(text_of(delta.content) or refusal, thought_of(thought), tuple(parts))
            if chunk.usage is not None:
                usage = openai_chat.openai_usage(_plain(chunk.usage))
            if finish_reason:
                reason = openai_chat.openai_finish_reason(finish_reason, instead, offers_tools=offers_tools)
                yield Finish(reason, usage)


async def _stream_anthropic(request: ModelRequest) -> AsyncGenerator[Event]:
    counting, calls = anthropic_messages.Counting(), anthropic_messages.BlockCalls()
    offers_tools = bool(request.options.tools)
    client = await _client_of(request.provider)
    answer = await client.messages.create(**await _body(request, anthropic_messages.body_of))
    async with answer:
        async for event in answer:
            match event.type:
                case "content_block_delta":
                    delta = event.delta
                    parts = calls.go_on(getattr(delta, "partial_json", None)) if offers_tools else []
                    text, thought = (text_of(getattr(delta, name, None)) for name in ("text", "thinking"))
                    yield Delta(text, thought, tuple(parts))
                case "content_block_start" if offers_tools:
                    block = getattr(event, "content_block", None)
                    fields = (getattr(block, name, None) for name in ("type", "id", "name", "input"))
                    yield Delta(tool_calls=tuple(calls.begin(*fields)))
                case "content_block_stop" if offers_tools:
                    yield Delta(tool_calls=tuple(calls.end()))
                case "message_start":
                    counting.begin(_plain(event.message.usage))
                case "message_delta":
                    counting.go_on(_plain(event.usage))
                    if reason := event.delta.stop_reason:
                        yield Finish(anthropic_messages.FINISH.get(reason, "stop"), counting.usage())


async def _stream_gemini(request: ModelRequest) -> AsyncGenerator[Event]:
    client = await _client_of(request.provider)
    from google.genai import types
    from pydantic import TypeAdapter

    body = await _body(request, gemini.body_of)
    once = {
        "automaticContinuation": False,  # or it would ask again, on a word of the provider's
        "automaticFunctionCalling": {"disable": True},  # or it would log that we make none
    }
    around = {name: body.get(name) for name in ("systemInstruction", "tools", "toolConfig")}
    config = types.GenerateContentConfig.model_validate({**body["generationConfig"], **around, **once})
    contents = body["contents"]
    if request.has_files or any(message.tool_calls for message in request.messages):
        # By JSON, or it would take base64 for the bytes themselves.
        validate = TypeAdapter(list[types.Content]).validate_json
        contents = await asyncio.to_thread(lambda: validate(msgspec.json.encode(body["contents"])))
    reason, usage, calls_tool = None, None, False
    offers_tools, streamed = bool(request.options.tools), StreamedCalls()
    answer = await client.aio.models.generate_content_stream(model=request.model, contents=contents, config=config)
    async with aclosing(answer):
        async for chunk in answer:
            for candidate in chunk.candidates or ():
                if candidate.index:  # another answer to the same question
                    continue
                if candidate.finish_reason:
                    reason = candidate.finish_reason.value
                for part in (candidate.content and candidate.content.parts) or ():
                    text = sdk_http.with_halves(part.text or "")
                    yield Delta(reasoning=text) if part.thought else Delta(text)
                    if part.function_call is not None:
                        calls_tool = True
                        if offers_tools:
                            yield Delta(tool_calls=_gemini_call(streamed, part.function_call))
            if chunk.prompt_feedback and chunk.prompt_feedback.block_reason:
                reason = "SAFETY"
            if chunk.usage_metadata:
                usage = gemini.gemini_usage(chunk.usage_metadata.model_dump(by_alias=True, exclude_unset=True))
            if reason:
                finish = gemini.gemini_finish_reason(reason, calls_tool=calls_tool, offers_tools=offers_tools)
                yield Finish(finish, usage)


def _gemini_call(streamed: StreamedCalls, call: Any) -> tuple[ToolCallPart, ...]:
    words = {name: sdk_http.with_halves(value) for name in ("id", "name") if (value := getattr(call, name))}
    parts = gemini.whole_call(streamed, words | {"args": call.args})
    return tuple(replace(part, arguments=sdk_http.with_halves(part.arguments)) for part in parts)


_STREAMS: dict[str, Callable[[ModelRequest], AsyncGenerator[Event]]] = {
    "openai_chat": _stream_openai,
    "anthropic_messages": _stream_anthropic,
    "gemini": _stream_gemini,
}

_WRITERS: dict[str, Callable[[bytes], bytes]] = {
    "openai_chat": sdk_http.as_data,
    "anthropic_messages": sdk_http.as_named_data,
    "gemini": sdk_http.as_marked_data,
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


def _error_of(error: BaseException, reading: Reading) -> ProviderError:
    """Return our error for one of an SDK: by its class, codes, status, and by phrases where there is no code."""
    for raised in (error, error.__cause__):  # Anthropic's SDK wraps what our client raises
        if isinstance(raised, ProviderError):
            return raised
    if type(error).__module__.partition(".")[0] not in _SDK_PACKAGES:
        if reading.status >= 400:  # it could not read the body
            return error_from_status(reading.status, retry_after=reading.retry_after)
        logger.error("An SDK broke", extra={"error": type(error).__name__})  # its text may be a provider's
        return BadResponse()
    if {type(error).__name__, type(error.__cause__).__name__} & {"ConnectError", "ConnectTimeout"}:
        return NotReached()
    for kind in type(error).__mro__:
        if error_class := _ERROR_BY_CLASS.get(kind.__name__):
            return error_class()
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    status = status if isinstance(status, int) and status >= 400 else None
    codes = {code for name in ("code", "type", "status") if isinstance(code := getattr(error, name, None), str)}
    status = status or next(filter(None, map(status_of, codes)), None)
    message = getattr(error, "message", "")
    message = message.lower() if isinstance(message, str) else ""
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
        return error_from_status(status, retry_after=_retry_after_of(error, reading))
    if any("rate_limit" in code for code in codes):
        return ProviderRateLimited()
    return Overloaded()  # an error event inside a stream


def _retry_after_of(error: BaseException, reading: Reading) -> float | None:
    """Return the seconds to wait: by the header, or for Google by the body."""
    details = getattr(error, "details", None)
    if reading.retry_after is None and isinstance(details, dict):
        return gemini.retry_delay_of(details.get("error"))
    return reading.retry_after
