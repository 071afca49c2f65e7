"""Who answers when somebody fails: retry and failover before the first token, never after it."""

import importlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from pytest_django import Settings

from chat.llm import dispatch
from chat.llm.breaker import breakers, close_breakers
from chat.llm.catalog import Candidate
from chat.llm.dispatch import AnswerRequest, AnswerStarted
from chat.llm.providers import sdk
from chat.llm.providers.base import Delta, Finish, Message, Provider
from chat.llm.providers.errors import ProviderError
from chat.llm.providers.http import close_session
from chat.models import LanguageModel
from core.redis_clients import close_async_redis
from testbed.provider import FakeProvider, expected_reasoning, expected_text
from tests.chat.asking import eventually
from tests.chat.wire import STREAM, RawProvider, answering, events

PROMPT = AnswerRequest(messages=(Message("user", "one two three"),), max_output=100)


@pytest.fixture(autouse=True)
async def session() -> AsyncIterator[None]:
    yield
    await close_breakers()
    await close_session()
    await close_async_redis()


def candidates(provider: FakeProvider | RawProvider, *names: str, reasons: bool = False) -> list[Candidate]:
    served_by = Provider(slug="compatible", name="Fake", adapter="openai_chat", base_url=provider.url)
    return [
        Candidate(LanguageModel(key=name, provider_model=name, reasons=reasons, context_window=8_000), served_by)
        for name in names
    ]


async def answer(
    candidates: list[Candidate], prompt: AnswerRequest = PROMPT
) -> tuple[list[str], str, ProviderError | None]:
    """Return who said they answer, the text, and the error if there was one."""
    who, text, error = [], "", None
    try:
        async for event in dispatch.answer_with_failover(candidates, prompt):
            match event:
                case AnswerStarted():
                    who.append(event.candidate.model.key)
                case Delta():
                    text += event.text
    except ProviderError as caught:
        error = caught
    await breakers().flush()
    return who, text, error


def asked(provider: FakeProvider) -> list[str]:
    return [request["model"] for request in provider.requests]


async def test_the_first_event_says_who_answers(provider: FakeProvider):
    found = [event async for event in dispatch.answer_with_failover(candidates(provider, "fake-3t-0ms"), PROMPT)]
    assert isinstance(found[0], AnswerStarted)
    assert found[0].candidate.model.key == "fake-3t-0ms"
    assert isinstance(found[-1], Finish)
    assert sum(isinstance(event, AnswerStarted) for event in found) == 1


async def test_an_effort_is_told_only_to_models_that_know_the_word(provider: FakeProvider):
    """A failover goes to a model with other levels, or with none: it answers as hard as it thinks by itself."""
    first, second, third = candidates(provider, "status-401", "status-403", "fake-3t-0ms")
    first.model.efforts, second.model.efforts, third.model.efforts = "low high", "none max", "high"
    who, _, _ = await answer([first, second, third], replace(PROMPT, effort="high"))
    assert who == ["fake-3t-0ms"]
    assert [request.get("reasoning_effort") for request in provider.requests] == ["high", None, "high"]


async def test_no_model_is_ever_told_a_temperature(provider: FakeProvider):
    """OpenAI's gpt-6 and Claude refuse it."""
    await answer(candidates(provider, "fake-3t-0ms"))
    assert not {"temperature", "top_p", "top_k"} & provider.requests[-1].keys()


async def test_the_first_candidate_answers(provider: FakeProvider):
    who, text, error = await answer(candidates(provider, "fake-3t-0ms", "fake-4t-0ms"))
    assert (who, text, error) == (["fake-3t-0ms"], expected_text("fake-3t-0ms"), None)
    assert asked(provider) == ["fake-3t-0ms"]


async def test_a_moment_of_weakness_is_retried_with_the_same_model(provider: FakeProvider):
    who, text, error = await answer(candidates(provider, "fake-3t-0ms-flaky1", "fake-4t-0ms"))
    assert (who, text, error) == (["fake-3t-0ms-flaky1"], "t0 t1 t2 ", None)
    assert asked(provider) == ["fake-3t-0ms-flaky1"] * 2


async def test_a_model_that_fails_twice_is_replaced(provider: FakeProvider):
    who, text, error = await answer(candidates(provider, "fake-3t-0ms-flaky2", "fake-4t-0ms"))
    assert (who, text, error) == (["fake-4t-0ms"], expected_text("fake-4t-0ms"), None)
    assert asked(provider) == ["fake-3t-0ms-flaky2", "fake-3t-0ms-flaky2", "fake-4t-0ms"]


async def test_a_model_alone_that_fails_twice_is_the_error(provider: FakeProvider):
    who, _, error = await answer(candidates(provider, "status-500"))
    assert (who, error.code) == ([], "overloaded")
    assert asked(provider) == ["status-500"] * 2


async def test_at_most_three_attempts(provider: FakeProvider):
    who, _, error = await answer(candidates(provider, "status-500", "status-503", "status-502", "fake-3t-0ms"))
    assert (who, error.status) == ([], 502)
    assert asked(provider) == ["status-500", "status-503", "status-502"]


async def test_nobody_is_asked_twice_while_others_would_not_be_asked_at_all(provider: FakeProvider):
    who, _, error = await answer(candidates(provider, "status-500", "status-503", "fake-3t-0ms"))
    assert (who, error) == (["fake-3t-0ms"], None)
    assert asked(provider) == ["status-500", "status-503", "fake-3t-0ms"]


async def test_three_who_refuse_at_once_are_all_attempts(provider: FakeProvider):
    names = ("status-401", "status-403", "status-404", "fake-3t-0ms")
    _, _, error = await answer(candidates(provider, *names))
    assert error.code == "not_found"
    assert asked(provider) == list(names[:3])


@pytest.mark.parametrize("refusal", ["status-401", "status-403", "status-404", "quota", "html-404"])
async def test_what_waiting_does_not_help_is_not_retried(provider: FakeProvider, refusal: str):
    begun = time.monotonic()
    who, text, _ = await answer(candidates(provider, refusal, "fake-2t-0ms-f0"))
    assert (who, text) == (["fake-2t-0ms-f0"], "t0 t1 ")
    assert asked(provider) == [refusal, "fake-2t-0ms-f0"]
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(("refusal", "code"), [("status-400", "bad_request"), ("context", "context_exceeded")])
async def test_a_question_nobody_should_be_asked_again(provider: FakeProvider, refusal: str, code: str):
    who, _, error = await answer(candidates(provider, refusal, "fake-2t-0ms"))
    assert (who, error.code) == ([], code)
    assert asked(provider) == [refusal]


async def test_filtered_content_is_not_offered_to_another_model(provider: FakeProvider):
    """Neither as an error nor as a finish reason."""
    scripted = Provider(slug="scripted", name="Scripted", adapter="scripted", base_url="")
    model = LanguageModel(key="scripted", provider_model="scripted")
    prompt = AnswerRequest(messages=(Message("user", "fail:content_filter"),), max_output=100)
    with pytest.raises(ProviderError) as caught:
        async for _ in dispatch.answer_with_failover(
            [Candidate(model, scripted), *candidates(provider, "fake-2t-0ms")], prompt
        ):
            pass
    assert caught.value.code == "content_filter"
    who, _, _ = await answer(candidates(provider, "fake-2t-0ms-filter", "fake-3t-0ms"))
    assert (who, asked(provider)) == (["fake-2t-0ms-filter"], ["fake-2t-0ms-filter"])


async def test_a_short_retry_after_is_waited_for(provider: FakeProvider):
    begun = time.monotonic()
    _, _, error = await answer(candidates(provider, "status-429-retry1"))
    assert error.code == "rate_limited"
    assert time.monotonic() - begun >= 1
    assert asked(provider) == ["status-429-retry1"] * 2


async def test_a_long_retry_after_is_not_waited_for(provider: FakeProvider):
    begun = time.monotonic()
    who, _, error = await answer(candidates(provider, "status-429-retry6", "fake-2t-0ms-f0"))
    assert (who, error) == (["fake-2t-0ms-f0"], None)
    _, _, error = await answer(candidates(provider, "status-429-retry6"))
    assert (error.code, 5 < error.retry_after <= 6) == ("rate_limited", True)
    assert asked(provider) == ["status-429-retry6", "fake-2t-0ms-f0"]
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("fault", ["cut2", "error2", "rubbish2"])
async def test_after_the_first_token_nobody_else_is_asked(provider: FakeProvider, fault: str):
    broken = f"fake-9t-20ms-{fault}"
    who, text, error = await answer(candidates(provider, broken, "fake-4t-0ms"))
    assert (who, asked(provider)) == ([broken], [broken])
    assert text.startswith("t0 ")
    assert error.retryable


async def test_reasoning_counts_as_the_first_token(provider: FakeProvider):
    broken = "fake-9t-5ms-r2-cut0"
    who, text, error = await answer(candidates(provider, broken, "fake-4t-0ms"))
    assert (who, text, error.code) == ([broken], "", "connection")
    assert asked(provider) == [broken]
    assert expected_reasoning(broken)


async def test_what_breaks_before_the_first_token_is_retried(provider: FakeProvider):
    broken = "fake-9t-1ms-nofinish-cut0"
    who, _, _ = await answer(candidates(provider, broken, "fake-2t-0ms"))
    assert who == ["fake-2t-0ms"]
    assert asked(provider) == [broken, broken, "fake-2t-0ms"]


async def test_an_empty_answer_that_says_so_is_an_answer(provider: FakeProvider):
    who, text, error = await answer(candidates(provider, "fake-0t-0ms", "fake-2t-0ms"))
    assert (who, text, error) == (["fake-0t-0ms"], "", None)


async def test_no_sign_of_life_is_a_timeout(provider: FakeProvider, settings: Settings):
    settings.FIRST_TOKEN_SECONDS = 0.5
    begun = time.monotonic()
    who, text, _ = await answer(candidates(provider, "hang", "fake-2t-0ms-f0"))
    assert (who, text) == (["fake-2t-0ms-f0"], "t0 t1 ")
    assert asked(provider) == ["hang", "hang", "fake-2t-0ms-f0"]
    assert time.monotonic() - begun < 10
    _, _, error = await answer(candidates(provider, "hang"))
    assert error.code == "timeout"


async def test_the_deadline_is_for_the_first_token_alone(provider: FakeProvider, settings: Settings):
    settings.FIRST_TOKEN_SECONDS = 0.5
    _, text, error = await answer(candidates(provider, "fake-4t-200ms-f0"))
    assert (text, error) == ("t0 t1 t2 t3 ", None)


async def test_a_model_that_thinks_gets_more_time(provider: FakeProvider, settings: Settings):
    settings.FIRST_TOKEN_SECONDS = 0.4
    _, text, error = await answer(candidates(provider, "fake-2t-0ms-f500", reasons=True))
    assert (text, error) == ("t0 t1 ", None)


@pytest.mark.parametrize("by", ["fast", "sdk"])
async def test_comments_are_signs_of_life_for_so_long(settings: Settings, by: str):
    """OpenRouter sends them for minutes while a model is loading."""
    settings.SDK_PROVIDERS = ["compatible"] if by == "sdk" else []
    importlib.import_module("openai")  # which takes longer than the first token may
    settings.FIRST_TOKEN_SECONDS, settings.LOADING_SECONDS = 0.9, 2
    comments = [STREAM, *[b": OPENROUTER PROCESSING\n\n"] * 15]
    said = events(['{"choices":[{"delta":{"content":"hola"},"finish_reason":"stop"}]}', "[DONE]"]).removeprefix(STREAM)
    async with answering(*comments, said, pause_seconds=0.08) as raw:
        [candidate] = candidates(raw, "m")
        assert (await answer([candidate]))[1:] == ("hola", None)
        raw.pieces = (*comments, *comments, *comments)
        begun = time.monotonic()
        who, text, error = await answer([candidate])
    assert (who, text, error.code) == ([], "", "timeout")
    assert time.monotonic() - begun > 2
    await sdk.close_clients()


async def test_an_abandoned_attempt_closes_its_connection(provider: FakeProvider, settings: Settings):
    settings.FIRST_TOKEN_SECONDS = 0.1
    await answer(candidates(provider, "hang"))

    async def all_closed() -> bool:
        stats = provider.stats()
        return (stats.active, stats.aborted) == (0, 2)

    await eventually(all_closed)


async def test_failures_are_logged_by_code_alone(provider: FakeProvider, caplog: pytest.LogCaptureFixture):
    await answer(candidates(provider, "status-401"))
    (record,) = [record for record in caplog.records if record.name == "chat.llm.dispatch"]
    assert (record.message, record.model, record.code, record.status) == (
        "Provider failed",
        "status-401",
        "authentication",
        401,
    )
    assert "Incorrect API key" not in str(vars(record))


async def test_who_stands_in_says_for_whom(provider: FakeProvider):
    pair = candidates(provider, "status-500", "fake-3t-0ms")
    found = [event async for event in dispatch.answer_with_failover(pair, PROMPT)]
    assert found[0] == AnswerStarted(pair[1], instead_of=pair[0], instead_because="overloaded")


async def test_what_one_cannot_read_goes_only_to_one_that_reads_more(provider: FakeProvider):
    pair = candidates(provider, "context", "fake-3t-0ms", "fake-4t-0ms")
    for candidate, window in zip(pair, (8_000, 8_000, 32_000), strict=True):
        candidate.model.context_window = window
    who, text, error = await answer(pair)
    assert (who, text, error) == (["fake-4t-0ms"], expected_text("fake-4t-0ms"), None)
    assert asked(provider) == ["context", "fake-4t-0ms"]


async def test_what_nobody_can_read_is_the_error(provider: FakeProvider):
    pair = candidates(provider, "context", "fake-3t-0ms")
    for candidate in pair:
        candidate.model.context_window = 8_000
    who, _, error = await answer(pair)
    assert (who, error.code) == ([], "context_exceeded")
    assert asked(provider) == ["context"]
