"""The official SDK as the oracle: against the same provider it reads the same text, usage, finish and kind of error."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import astuple, replace

import pytest
from pytest_django import Settings

from chat.llm.providers import ADAPTERS, openai_chat, sdk
from chat.llm.providers.base import Delta, Event, Message, ModelRequest, Provider
from chat.llm.providers.errors import NotReached
from chat.llm.providers.http import close_session
from testbed.provider import FakeProvider, Script, expected_reasoning, expected_text
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
    "status-529",
    "html-502",
    "html-404",
    "context",
    "quota",
    "no-such-model",
)


WHOLE_IN_ALL = (
    "fake-1t-0ms",
    "fake-20t-1ms-r10",
    "fake-800t-0ms",
    "fake-20t-0ms-unicode",
    "fake-20t-1ms-unicode-split-r4",
    "fake-20t-1ms-crlf-split",
)
BROKEN_IN_ALL = {
    "fake-9t-1ms-nofinish": "truncated",
    "fake-9t-1ms-error4": "overloaded",
    "fake-9t-1ms-rubbish4": "bad_response",
    "fake-9t-1ms-cut4": "connection",
    "fake-9t-1ms-cut0": "connection",
    "fake-9t-1ms-stall4": "timeout",
    "hang": "timeout",
    "status-400": "bad_request",
    "status-401": "authentication",
    "status-403": "permission",
    "status-404": "not_found",
    "status-429": "rate_limited",
    "status-500": "overloaded",
    "status-503": "overloaded",
    "status-529": "overloaded",
    "html-502": "overloaded",
    "no-such-model": "not_found",
}


@pytest.fixture(autouse=True)
async def session(settings: Settings) -> AsyncIterator[None]:
    settings.STALL_SECONDS = STALL_SECONDS
    yield
    await close_session()
    await sdk.close_clients()


def request_for(model: str, url: str) -> ModelRequest:
    served_by = Provider(slug="compatible", name="Fake", adapter="openai_chat", base_url=url, api_key="k")
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


async def test_an_sdk_says_that_a_provider_could_not_be_reached(served_by: Provider):
    for provider in (served_by, request_for("m", "").provider):
        request = replace(request_for("m", ""), provider=replace(provider, base_url="http://127.0.0.1:1/v1"))
        with pytest.raises(NotReached):
            await anext(sdk.stream(request))


async def test_an_sdk_that_panics_is_an_answer_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch):
    """What Rust's panics become is no Exception; nobody would wait for the answer's end any more."""

    class PanicException(BaseException):
        pass

    async def panic(_request: ModelRequest) -> AsyncGenerator[Event]:
        yield Delta("hi")
        raise PanicException

    monkeypatch.setitem(sdk._STREAMS, "openai_chat", panic)
    found = await by_sdk("any", "")
    assert (found.text, found.error) == ("hi", "bad_response")


DIALECTS = {"anthropic_messages": "", "gemini": "/v1beta"}
"""By adapter: what follows the provider's address."""


@pytest.fixture(params=DIALECTS)
def served_by(request: pytest.FixtureRequest, provider: FakeProvider) -> Provider:
    root = provider.url.removesuffix("/v1")
    return Provider(
        slug="other", name="Fake", adapter=request.param, base_url=root + DIALECTS[request.param], api_key="k"
    )


async def both(served_by: Provider, model: str) -> tuple[Read, Read]:
    request = replace(request_for(model, ""), provider=served_by, max_output=1_000)
    return await read(ADAPTERS[served_by.adapter](request)), await read(sdk.stream(request))


@pytest.mark.parametrize("model", WHOLE_IN_ALL)
async def test_a_whole_answer_reads_the_same_in_every_format(served_by: Provider, model: str):
    ours, theirs = await both(served_by, model)
    assert astuple(ours) == astuple(theirs)
    assert (ours.text, ours.reasoning, ours.error) == (expected_text(model), expected_reasoning(model), "")
    tokens = Script.parse(model).tokens + Script.parse(model).reasoning
    assert ours.usage == (3, tokens, 0, 0, Script.parse(model).reasoning)


@pytest.mark.parametrize(("model", "code"), BROKEN_IN_ALL.items())
async def test_a_fault_is_the_same_error_in_every_format(served_by: Provider, model: str, code: str):
    ours, theirs = await both(served_by, model)
    assert ours.error == theirs.error == code
    assert theirs.text.startswith(ours.text)


@pytest.mark.parametrize(
    ("model", "finish"), [("fake-3t-0ms-length", "length"), ("fake-3t-0ms-filter", "content_filter")]
)
async def test_why_it_ended_reads_the_same_in_every_format(served_by: Provider, model: str, finish: str):
    ours, theirs = await both(served_by, model)
    assert astuple(ours) == astuple(theirs)
    if (served_by.adapter, finish) == ("anthropic_messages", "content_filter"):
        finish = "refusal"  # it has no other word for a filter
    assert (ours.text, ours.finish) == ("t0 t1 t2 ", finish)


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
