"""Every wire format by both transports against a mock server of somebody else's making (PyPI `llmock`)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import astuple, replace

import pytest
from llmock.pytest_plugin import LLMock
from pytest_django import Settings

from chat.llm.providers import ADAPTERS, sdk
from chat.llm.providers.base import File, Message, ModelRequest, Provider
from chat.llm.providers.errors import ProviderError
from chat.llm.providers.http import close_session
from chat.llm.smoke import tiny_pdf, tiny_png
from tests.chat.reading import Read, read

SERVED = {
    "openai_chat": ("openai", "gpt-4o", ""),
    "anthropic_messages": ("anthropic", "claude-sonnet-4-6", ""),
    "gemini": ("gemini", "gemini-2.5-pro", "/v1beta"),
}
"""By adapter: what the server calls the provider, a model of it that it knows, and the version in the address."""

FAULTS: dict[str, Callable[[LLMock], LLMock]] = {
    "connection": lambda server: server.disconnect(after_chunks=2, times=None),
    "truncated": lambda server: server.truncate(after_chunks=2, times=None),
    "timeout": lambda server: server.stall(after_chunks=2, seconds=5, times=None),
    # The third event of Anthropic's is a ping, which its SDK does not read: for us a ping that is rubbish is rubbish.
    "bad_response": lambda server: server.corrupt(after_chunks=3, times=None),
}
STATUSES = {
    401: "authentication",
    403: "permission",
    404: "not_found",
    429: "rate_limited",
    500: "overloaded",
    503: "overloaded",
    529: "overloaded",
}


@pytest.fixture(autouse=True)
async def session(settings: Settings) -> AsyncIterator[None]:
    settings.STALL_SECONDS = 1
    yield
    await close_session()
    await sdk.close_clients()


@pytest.fixture(params=SERVED)
def request_for(request: pytest.FixtureRequest, llmock: LLMock) -> ModelRequest:
    adapter: str = request.param
    name, model, version = SERVED[adapter]
    served_by = Provider(name, name, adapter, llmock.base_url(name) + version, "sk-of-the-house")
    messages = (Message("system", "Be kind."), Message("user", "Tell me about the sea."))
    return ModelRequest(provider=served_by, model=model, messages=messages, max_output=200)


async def both(request: ModelRequest) -> tuple[Read, Read]:
    return await read(ADAPTERS[request.provider.adapter](request)), await read(sdk.stream(request))


async def test_an_answer_reads_the_same(llmock: LLMock, request_for: ModelRequest):
    llmock.reply("El mar es ancho, salado y azul 🌊, y nunca está quieto.", times=None)
    ours, theirs = await both(request_for)
    assert astuple(ours) == astuple(theirs)
    assert (ours.text, ours.finish, ours.error) == (
        "El mar es ancho, salado y azul 🌊, y nunca está quieto.",
        "stop",
        "",
    )
    assert ours.usage is not None
    assert min(ours.usage[:2]) > 0


async def test_a_picture_and_a_pdf_are_taken(llmock: LLMock, request_for: ModelRequest):
    llmock.reply("A dot, and nothing else.", times=None)
    files = (File("image", "image/png", "dot.png", tiny_png()), File("pdf", "application/pdf", "one.pdf", tiny_pdf()))
    asked = replace(request_for, messages=(Message("user", "What is this?", files),))
    ours, theirs = await both(asked)
    assert astuple(ours) == astuple(theirs)
    assert (ours.text, ours.finish, ours.error) == ("A dot, and nothing else.", "stop", "")


async def test_a_reader_that_is_cancelled_is_heard_of(llmock: LLMock, request_for: ModelRequest):
    """By whoever waits for the answer's end: nothing is left running."""
    llmock.reply("word " * 200, times=None).pace(20)
    for stream in (ADAPTERS[request_for.provider.adapter], sdk.stream):
        before = asyncio.all_tasks()
        events = stream(request_for)
        await anext(events)
        await events.aclose()
        assert asyncio.all_tasks() == before


@pytest.mark.parametrize("code", FAULTS)
async def test_a_fault_in_the_middle_reads_the_same(llmock: LLMock, request_for: ModelRequest, code: str):
    llmock.pace(20)
    FAULTS[code](llmock)
    ours, theirs = await both(request_for)
    assert ours.error == theirs.error == code
    assert theirs.text.startswith(ours.text)


@pytest.mark.parametrize(("status", "code"), STATUSES.items())
async def test_a_refusal_reads_the_same(llmock: LLMock, request_for: ModelRequest, status: int, code: str):
    llmock.fail(status, times=None)
    ours, theirs = await both(request_for)
    assert ours.error == theirs.error == code
    assert ours.text == theirs.text == ""


async def test_both_hear_when_to_come_back(llmock: LLMock, request_for: ModelRequest):
    llmock.rate_limit(times=None, retry_after=7)
    for stream in (ADAPTERS[request_for.provider.adapter], sdk.stream):
        with pytest.raises(ProviderError) as caught:
            await anext(stream(request_for))
        assert (caught.value.code, caught.value.retry_after) == ("rate_limited", 7)


async def test_the_models_a_provider_has(llmock: LLMock, request_for: ModelRequest):
    assert request_for.model in await sdk.list_models(request_for.provider)


async def test_a_list_that_is_refused_is_one_of_our_errors(llmock: LLMock, request_for: ModelRequest):
    llmock.fail(401, times=None)
    with pytest.raises(ProviderError) as caught:
        await sdk.list_models(request_for.provider)
    assert caught.value.code == "authentication"
