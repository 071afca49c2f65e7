"""The adapter of OpenAI's chat completions, against a provider on the wire."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from pytest_django import Settings

from chat.llm.providers import http, openai_chat
from chat.llm.providers.base import Delta, Finish, Message, ModelRequest, Provider, TokenUsage
from chat.llm.providers.errors import NotReached, ProviderError
from chat.llm.providers.http import close_session
from chat.provider_registry import KNOWN_PROVIDERS
from testbed.provider import FakeProvider, expected_reasoning, expected_text
from tests.chat.wire import STREAM, answering, events, refusal

KEY = "sk-secret-of-the-house"
ASKED = (Message("system", "Be kind."), Message("user", "one two three"))


@pytest.fixture(autouse=True)
async def session() -> AsyncIterator[None]:
    yield
    await close_session()


def request_for(model: str, url: str, **fields: object) -> ModelRequest:
    served_by = Provider(slug="compatible", name="Fake", adapter="openai_chat", base_url=url, api_key=KEY)
    defaults = {"provider": served_by, "messages": ASKED, "max_output": 1_000}
    return ModelRequest(model=model, **(defaults | fields))


async def answer_of(request: ModelRequest) -> tuple[str, str, Finish]:
    text = reasoning = ""
    finish = None
    async for event in openai_chat.stream(request):
        if isinstance(event, Delta):
            assert finish is None, "A text came after the finish."
            text += event.text
            reasoning += event.reasoning
        else:
            finish = event
    assert finish is not None
    return text, reasoning, finish


async def failure_of(request: ModelRequest) -> tuple[str, ProviderError]:
    """Return the text that came before the error, and the error."""
    text = ""
    with pytest.raises(ProviderError) as caught:
        async for event in openai_chat.stream(request):
            text += event.text
    return text, caught.value


# --- Answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        "fake-5t-0ms",
        "fake-20t-2ms",
        "fake-20t-1ms-r10",
        "fake-20t-1ms-unicode",
        "fake-20t-1ms-crlf",
        "fake-20t-1ms-unicode-split",
        "fake-20t-1ms-unicode-split-crlf-r5",
        "fake-200t-0ms-p300",
    ],
)
async def test_text_and_reasoning_arrive_whole(provider: FakeProvider, model: str):
    text, reasoning, finish = await answer_of(request_for(model, provider.url))
    assert text == expected_text(model)
    assert reasoning == expected_reasoning(model)
    assert finish.reason == "stop"


async def test_usage_is_what_the_provider_counted(provider: FakeProvider):
    _, _, finish = await answer_of(request_for("fake-20t-0ms-r10", provider.url))
    assert finish.usage == TokenUsage(input=5, output=30, reasoning=10)


async def test_no_usage_is_none_and_not_zero(provider: FakeProvider):
    _, _, finish = await answer_of(request_for("fake-3t-0ms-nousage", provider.url))
    assert finish == Finish("stop", None)


@pytest.mark.parametrize(
    ("model", "reason"), [("fake-3t-0ms-length", "length"), ("fake-3t-0ms-filter", "content_filter")]
)
async def test_why_it_ended(provider: FakeProvider, model: str, reason: str):
    text, _, finish = await answer_of(request_for(model, provider.url))
    assert (text, finish.reason) == ("t0 t1 t2 ", reason)


@pytest.mark.parametrize("parameter", ["max_tokens", "max_completion_tokens"])
async def test_the_cap_is_sent_under_the_models_own_name(provider: FakeProvider, parameter: str):
    request = request_for("fake-20t-0ms", provider.url, max_output=4, max_tokens_parameter=parameter)
    text, _, finish = await answer_of(request)
    assert (text, finish.reason) == (expected_text("fake-20t-0ms", 4), "length")
    assert provider.requests[-1][parameter] == 4


async def test_what_is_sent_to_a_compatible_server(provider: FakeProvider):
    await answer_of(request_for("fake-1t-0ms", provider.url, cache_key="c", end_user="u"))
    assert provider.requests[-1] == {
        "model": "fake-1t-0ms",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "one two three"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 1_000,
    }


async def test_openai_gets_its_own_role_and_a_pseudonym(provider: FakeProvider):
    parameters = KNOWN_PROVIDERS["openai"].parameters
    openai = Provider("openai", "OpenAI", "openai_chat", provider.url, KEY, parameters=parameters)
    await answer_of(request_for("fake-1t-0ms", "", provider=openai, cache_key="conversation", end_user="somebody"))
    sent = provider.requests[-1]
    assert sent["messages"][0] == {"role": "developer", "content": "Be kind."}
    assert (sent["prompt_cache_key"], sent["safety_identifier"]) == ("conversation", "somebody")


async def test_the_key_goes_into_the_header_and_nowhere_without_one():
    async with answering(events(['{"choices":[{"finish_reason":"stop"}]}'])) as raw:
        await answer_of(request_for("m", raw.url))
        without = Provider(slug="demo", name="Demo", adapter="openai_chat", base_url=raw.url)
        await answer_of(request_for("m", raw.url, provider=without))
    assert f"Authorization: Bearer {KEY}\r\n".encode() in raw.heads[0]
    assert b"authorization" not in raw.heads[1].lower()


async def test_events_that_arrive_together_are_one_delta(provider: FakeProvider):
    deltas = [event async for event in openai_chat.stream(request_for("fake-200t-0ms", provider.url))]
    assert len(deltas) < 20


async def test_one_connection_serves_several_answers(provider: FakeProvider):
    async with asyncio.timeout(20):
        for _ in range(3):
            await answer_of(request_for("fake-2t-0ms", provider.url))
    assert provider.stats().finished == 3


# --- What only some providers send -----------------------------------------------------------------------------------


def chunk(**delta: object) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


FINISHED = '{"choices":[{"delta":{},"finish_reason":"stop"}]}'


async def answer_to(*datas: str) -> tuple[str, str, Finish]:
    async with answering(events(datas)) as raw:
        return await answer_of(request_for("m", raw.url))


async def test_cached_tokens_of_openai():
    usage = (
        '{"choices":[],"usage":{"prompt_tokens":100,"completion_tokens":7,'
        '"prompt_tokens_details":{"cached_tokens":60,"cache_write_tokens":30},'
        '"completion_tokens_details":{"reasoning_tokens":5}}}'
    )
    _, _, finish = await answer_to(chunk(content="x"), FINISHED, usage, "[DONE]")
    assert finish.usage == TokenUsage(input=100, output=7, cache_read=60, cache_write=30, reasoning=5)


async def test_cached_tokens_of_deepseek():
    usage = (
        '{"choices":[],"usage":{"prompt_tokens":100,"completion_tokens":7,'
        '"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36}}'
    )
    _, _, finish = await answer_to(FINISHED, usage, "[DONE]")
    assert finish.usage == TokenUsage(input=100, output=7, cache_read=64)


async def test_details_that_are_null_count_nothing():
    usage = (
        '{"usage":{"prompt_tokens":3,"completion_tokens":1,"prompt_tokens_details":null,'
        '"completion_tokens_details":{"reasoning_tokens":null}}}'
    )
    _, _, finish = await answer_to(FINISHED, usage)
    assert finish.usage == TokenUsage(input=3, output=1)


async def test_counts_below_zero_are_zero():
    _, _, finish = await answer_to(FINISHED, '{"usage":{"prompt_tokens":-3,"completion_tokens":-1}}')
    assert finish.usage == TokenUsage(input=0, output=0)


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_reasoning_under_either_name(name: str):
    text, reasoning, _ = await answer_to(chunk(**{name: "hm "}), chunk(content="x"), FINISHED)
    assert (text, reasoning) == ("x", "hm ")


async def test_a_refusal_is_text():
    text, _, _ = await answer_to(chunk(content=None, refusal="I would rather not."), FINISHED)
    assert text == "I would rather not."


async def test_nul_characters_are_removed():
    text, reasoning, _ = await answer_to(chunk(content="a\0b"), chunk(reasoning="c\0"), FINISHED)
    assert (text, reasoning) == ("ab", "c")


async def test_text_of_nothing_but_nul_is_no_delta():
    async with answering(events([chunk(content="\0"), FINISHED])) as raw:
        found = [event async for event in openai_chat.stream(request_for("m", raw.url))]
    assert set(found) == {Finish("stop", None)}


async def test_unknown_fields_and_finish_reasons_are_no_obstacle():
    text, _, finish = await answer_to(
        chunk(content="x", audio={"id": "a"}), '{"choices":[{"delta":null,"finish_reason":"eos"}],"new":[1]}'
    )
    assert (text, finish.reason) == ("x", "stop")


async def test_a_stream_without_its_last_blank_line_is_whole():
    async with answering(events([chunk(content="x"), FINISHED]).rstrip(b"\n")) as raw:
        text, _, finish = await answer_of(request_for("m", raw.url))
    assert (text, finish.reason) == ("x", "stop")


async def test_comments_of_a_proxy_are_ignored():
    async with answering(
        STREAM + b": OPENROUTER PROCESSING\n\n", events([chunk(content="x"), FINISHED])[len(STREAM) :]
    ) as raw:
        text, _, _ = await answer_of(request_for("m", raw.url))
    assert text == "x"


# --- Faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "code", "retryable"),
    [
        ("status-400", "bad_request", False),
        ("status-401", "authentication", False),
        ("status-402", "permission", False),
        ("status-403", "permission", False),
        ("status-404", "not_found", False),
        ("status-408", "timeout", True),
        ("status-409", "overloaded", True),
        ("status-413", "context_exceeded", False),
        ("status-418", "unknown", False),
        ("status-422", "bad_request", False),
        ("status-429", "rate_limited", True),
        ("status-500", "overloaded", True),
        ("status-503", "overloaded", True),
        ("status-529", "overloaded", True),
        ("context", "context_exceeded", False),
        ("quota", "permission", False),
        ("html-404", "not_found", False),
        ("html-502", "overloaded", True),
    ],
)
async def test_a_refusal_by_its_status_and_body(provider: FakeProvider, model: str, code: str, retryable: bool):
    text, error = await failure_of(request_for(model, provider.url))
    assert (text, error.code, error.retryable) == ("", code, retryable)
    assert error.status is not None


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("fake-9t-1ms-cut3", "connection"),
        ("fake-9t-1ms-cut0", "connection"),
        ("fake-9t-1ms-nofinish", "truncated"),
        ("fake-9t-1ms-rubbish3", "bad_response"),
        ("fake-9t-1ms-error3", "overloaded"),
        ("fake-9t-1ms-stall3", "timeout"),
    ],
)
async def test_an_answer_that_breaks_keeps_what_came(provider: FakeProvider, settings: Settings, model: str, code: str):
    settings.STALL_SECONDS = 0.2 if code == "timeout" else 10
    text, error = await failure_of(request_for(model, provider.url))
    assert error.code == code
    assert error.retryable
    assert error.status is None
    # Events of the same network read as the broken one may be lost with it, so this much at most.
    assert expected_text(model.replace("rubbish3", "cut3")).startswith(text)


async def test_silence_is_a_timeout(provider: FakeProvider, settings: Settings):
    settings.STALL_SECONDS = 0.1
    begun = time.monotonic()
    _, error = await failure_of(request_for("hang", provider.url))
    assert error.code == "timeout"
    assert time.monotonic() - begun < 10


async def test_a_refused_connection(provider: FakeProvider):
    async with answering() as raw:
        pass  # nobody listens there any more
    _, error = await failure_of(request_for("m", raw.url))
    assert (error.code, error.retryable) == ("connection", True)


async def test_a_host_that_does_not_exist():
    _, error = await failure_of(request_for("m", "http://127.0.0.1:1/v1"))
    assert error.code == "connection"
    assert isinstance(error, NotReached)


async def test_a_connection_that_takes_too_long_to_make(provider: FakeProvider, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "CONNECT_SECONDS", 1e-9)
    _, error = await failure_of(request_for("fake-3t-0ms", provider.url))
    assert isinstance(error, NotReached)


async def test_an_answer_that_is_not_http():
    async with answering(b"220 mail.example.com ESMTP\r\n") as raw:
        _, error = await failure_of(request_for("m", raw.url))
    assert error.code == "connection"


async def test_a_page_with_status_200_is_no_answer():
    page = b"<html>Please log in</html>"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(page)
    async with answering(head + page) as raw:
        _, error = await failure_of(request_for("m", raw.url))
    assert error.code == "truncated"


@pytest.mark.parametrize(
    ("stated", "code"),
    [
        ('{"code":"rate_limit_exceeded","message":"m"}', "rate_limited"),
        ('{"type":"timeout","message":"m"}', "timeout"),
        ('{"code":"context_length_exceeded"}', "context_exceeded"),
        ('{"type":"exceed_context_size_error"}', "context_exceeded"),
        ('{"message":"This model\'s maximum context length is 10 tokens"}', "context_exceeded"),
        ('{"message":"Request too large for m on tokens per min (TPM): Limit 1, Requested 9"}', "context_exceeded"),
        ('{"code":"content_filter"}', "content_filter"),
        ('{"code":"insufficient_quota"}', "permission"),
        ('{"code":502,"message":"Provider returned error"}', "overloaded"),
        ('"something broke"', "overloaded"),
    ],
)
async def test_an_error_event_inside_a_stream(stated: str, code: str):
    async with answering(events([chunk(content="x"), '{"error":%s}' % stated])) as raw:
        _, error = await failure_of(request_for("m", raw.url))
    assert error.code == code


@pytest.mark.parametrize(
    ("value", "seconds"), [("2", 2), ("0.5", 0.5), ("-3", 0), ("soon", None), ("", None), (None, None)]
)
async def test_retry_after_in_seconds(value: str | None, seconds: float | None):
    headers = {} if value is None else {"Retry_After": value}
    async with answering(refusal(429, b"{}", **headers)) as raw:
        _, error = await failure_of(request_for("m", raw.url))
    assert (error.code, error.retry_after) == ("rate_limited", seconds)


async def test_retry_after_as_a_date():
    """RFC 9110 allows both forms."""
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    async with answering(refusal(503, b"{}", Retry_After=when)) as raw:
        _, error = await failure_of(request_for("m", raw.url))
    assert 27 < error.retry_after <= 30


async def test_retry_after_of_the_fake_provider(provider: FakeProvider):
    _, error = await failure_of(request_for("status-429-retry2", provider.url))
    assert error.retry_after == 2


async def test_an_error_body_in_pieces_is_read_whole():
    """The kind of a 400 is in its body, and TCP may cut that anywhere."""
    whole = refusal(400, b'{"error":{"code":"context_length_exceeded","message":"too long"}}')
    async with answering(whole[:-40], whole[-40:], pause_seconds=0.05) as raw:
        _, error = await failure_of(request_for("m", raw.url))
    assert error.code == "context_exceeded"


async def test_an_error_body_without_end_does_not_fill_the_memory():
    endless = b"HTTP/1.1 500 Broken\r\nContent-Type: text/plain\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 300_000
    async with answering(endless, pause_seconds=60) as raw:
        async with asyncio.timeout(20):
            _, error = await failure_of(request_for("m", raw.url))
    assert error.code == "overloaded"


async def test_neither_key_nor_provider_text_leaks(provider: FakeProvider, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    private = (KEY, "Incorrect API key", "your current quota", "maximum context length", "nginx", "server had an error")
    for model in ("status-401", "quota", "context", "html-502", "fake-3t-0ms-error1", "fake-3t-0ms-rubbish1"):
        _, error = await failure_of(request_for(model, provider.url))
        said = f"{error} {error!r} {caplog.text} {request_for(model, provider.url)!r}"
        assert not [text for text in private if text in said]


# --- Closing ---------------------------------------------------------------------------------------------------------


async def test_closing_the_iterator_closes_the_connection(provider: FakeProvider):
    stream = openai_chat.stream(request_for("fake-500t-20ms", provider.url))
    assert (await anext(stream)).text
    begun = time.monotonic_ns()
    await stream.aclose()
    while not provider.stats().aborted:
        await asyncio.sleep(0.001)
        assert time.monotonic_ns() - begun < 5e9  # all of the answer takes ten


async def test_a_cancelled_reader_closes_the_connection(provider: FakeProvider):
    task = asyncio.create_task(answer_of(request_for("hang", provider.url)))
    while not provider.stats().active:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    begun = time.monotonic()
    while not provider.stats().aborted:
        await asyncio.sleep(0.001)
        assert time.monotonic() - begun < 5
