"""The official SDK as the oracle: against the same provider it reads the same text, usage, finish and kind of error."""

import json
from collections.abc import AsyncIterator
from dataclasses import astuple

import pytest
from pytest_django import Settings

from bench.provider import FakeProvider
from chat.llm.providers import openai_chat, sdk
from chat.llm.providers.base import Message, ModelRequest, Provider
from chat.llm.providers.http import close_session
from tests.chat.reading import Read, read
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


@pytest.fixture(autouse=True)
async def session(settings: Settings) -> AsyncIterator[None]:
    settings.STALL_SECONDS = STALL_SECONDS
    yield
    await close_session()
    await sdk.close_clients()


def request_for(model: str, url: str) -> ModelRequest:
    served_by = Provider(key="compatible", name="Fake", adapter="openai_chat", base_url=url, api_key="k")
    return ModelRequest(provider=served_by, model=model, messages=(Message("user", ASKED),), max_output=100)


async def by_adapter(model: str, url: str) -> Read:
    return await read(openai_chat.stream(request_for(model, url)))


async def by_sdk(model: str, url: str) -> Read:
    return await read(sdk.stream(request_for(model, url)))


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
    assert ours.usage == (100, 9, 64, 0, 4)


async def test_nobody_listens():
    async with answering() as raw:
        pass
    assert (await by_adapter("m", raw.url)).error == (await by_sdk("m", raw.url)).error == "connection"
