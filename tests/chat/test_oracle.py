"""The official SDK as the oracle: against the same provider it reads the same text, usage, finish and kind of error."""

import json
from collections.abc import AsyncIterator
from dataclasses import astuple, dataclass
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from pytest_django import Settings

from bench.provider import FakeProvider
from chat.llm.providers import openai_chat
from chat.llm.providers.base import Delta, Finish, Message, ModelRequest, Provider
from chat.llm.providers.errors import ProviderError
from chat.llm.providers.http import close_session
from tests.chat.wire import answering, events

STALL_SECONDS = 0.3
ASKED = "one two three"

WHOLE = (
    "fake-0t-0ms",
    "fake-1t-0ms",
    "fake-20t-1ms",
    "fake-200t-0ms",
    "fake-5t-0ms-r20",
    "fake-0t-0ms-r3",
    "fake-20t-0ms-unicode",
    "fake-20t-1ms-unicode-split-r4",
    "fake-20t-1ms-crlf",
    "fake-20t-1ms-crlf-split",
    "fake-50t-0ms-p200",
    "fake-5t-0ms-nousage",
    "fake-5t-0ms-length",
    "fake-5t-0ms-filter",
    "fake-200t-0ms-r50",  # capped below
)
BROKEN = (
    "fake-9t-1ms-nofinish",
    "fake-9t-1ms-error4",
    "fake-9t-1ms-rubbish4",
    "fake-9t-1ms-cut4",
    "fake-9t-1ms-cut0",
    "fake-9t-1ms-stall4",
    "hang",
    "status-400",
    "status-401",
    "status-403",
    "status-404",
    "status-408",
    "status-422",
    "status-429",
    "status-500",
    "status-503",
    "html-502",
    "html-404",
    "context",
    "quota",
    "no-such-model",
)


@dataclass
class Read:
    """What one of the two made of an answer. `usage` is input, output, cached, reasoning."""

    text: str = ""
    reasoning: str = ""
    finish: str | None = None
    usage: tuple[int, int, int, int] | None = None
    error: str = ""


@pytest.fixture(autouse=True)
async def session(settings: Settings) -> AsyncIterator[None]:
    settings.STALL_SECONDS = STALL_SECONDS
    yield
    await close_session()


async def by_adapter(model: str, url: str) -> Read:
    read = Read()
    served_by = Provider(key="compatible", name="Fake", adapter="openai_chat", base_url=url, api_key="k")
    request = ModelRequest(provider=served_by, model=model, messages=(Message("user", ASKED),), max_output=100)
    try:
        async for event in openai_chat.stream(request):
            match event:
                case Delta():
                    read.text += event.text
                    read.reasoning += event.reasoning
                case Finish(reason, usage):
                    read.finish = reason
                    read.usage = usage and (usage.input, usage.output, usage.cache_read, usage.reasoning)
    except ProviderError as error:
        read.error = error.code
    return read


async def by_sdk(model: str, url: str) -> Read:
    read = Read()
    timeout = httpx2.Timeout(STALL_SECONDS)
    async with AsyncOpenAI(api_key="k", base_url=url, max_retries=0, timeout=timeout) as client:
        try:
            stream = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": ASKED}],
                stream=True,
                stream_options={"include_usage": True},
                max_tokens=100,
            )
            async with stream:
                async for chunk in stream:
                    take(read, chunk)
        except (openai.OpenAIError, httpx2.HTTPError, json.JSONDecodeError) as error:
            read.error = kind_of(error)
    if not read.error and read.finish is None:
        read.error = "truncated"  # the SDK raises nothing
    return read


def take(read: Read, chunk: Any) -> None:
    for choice in chunk.choices:
        read.text += choice.delta.content or ""
        read.reasoning += getattr(choice.delta, "reasoning_content", None) or ""
        read.finish = choice.finish_reason or read.finish
    if usage := chunk.usage:
        read.usage = (
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.prompt_tokens_details.cached_tokens,
            usage.completion_tokens_details.reasoning_tokens,
        )


def kind_of(error: Exception) -> str:
    """Return our code for what the SDK raised, by its types and OpenAI's error codes."""
    code = getattr(error, "code", None)
    match error:
        case json.JSONDecodeError():
            return "bad_response"
        case openai.APITimeoutError() | httpx2.TimeoutException():
            return "timeout"
        case openai.APIConnectionError() | httpx2.HTTPError():
            return "connection"
        case openai.APIStatusError() if code in ("context_length_exceeded", "insufficient_quota"):
            return {"context_length_exceeded": "context_exceeded", "insufficient_quota": "permission"}[code]
        case openai.APIStatusError(status_code=408):
            return "timeout"
        case openai.AuthenticationError():
            return "authentication"
        case openai.PermissionDeniedError():
            return "permission"
        case openai.NotFoundError():
            return "not_found"
        case openai.RateLimitError():
            return "rate_limited"
        case openai.BadRequestError() | openai.UnprocessableEntityError():
            return "bad_request"
        case openai.InternalServerError():
            return "overloaded"
    return "overloaded"  # an error event inside a stream, of a server in trouble


@pytest.mark.parametrize("model", WHOLE)
async def test_a_whole_answer_reads_as_the_sdk_reads_it(provider: FakeProvider, model: str):
    ours, theirs = await by_adapter(model, provider.url), await by_sdk(model, provider.url)
    assert astuple(ours) == astuple(theirs)
    assert not ours.error


@pytest.mark.parametrize("model", BROKEN)
async def test_a_fault_is_the_kind_of_error_the_sdk_raises(provider: FakeProvider, model: str):
    ours, theirs = await by_adapter(model, provider.url), await by_sdk(model, provider.url)
    assert ours.error == theirs.error != ""
    assert theirs.text.startswith(ours.text)


async def test_cached_tokens_read_as_the_sdk_reads_them():
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 9,
        "total_tokens": 109,
        "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 0},
    }
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}
    last = {**base, "choices": [], "usage": usage}
    async with answering(events([json.dumps({**base, "choices": [choice]}), json.dumps(last), "[DONE]"])) as raw:
        ours, theirs = await by_adapter("m", raw.url), await by_sdk("m", raw.url)
    assert astuple(ours) == astuple(theirs)
    assert ours.usage == (100, 9, 64, 4)


async def test_nobody_listens():
    async with answering() as raw:
        pass
    assert (await by_adapter("m", raw.url)).error == (await by_sdk("m", raw.url)).error == "connection"
