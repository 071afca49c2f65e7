"""Who is asked when a provider has several keys, and when a breaker is open; and that the operator is told."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import aiohttp.web
import pytest
from pytest_django import Settings
from redis.asyncio import Redis

from chat.llm import breaker, dispatch
from chat.llm.breaker import OPEN_BREAKERS, api_key_digest, breaker_id, breakers
from chat.llm.catalog import Candidate
from chat.llm.dispatch import AnswerRequest, AnswerStarted
from chat.llm.providers.base import Delta, Message, Provider
from chat.llm.providers.errors import ProviderError
from chat.models import LanguageModel
from core import alerts
from testbed.provider import FakeProvider, expected_text
from tests.chat.asking import eventually
from tests.chat.wire import STREAM, answering

ANSWER = 'data: {"choices":[{"delta":{"content":"hi"}}]}\n\ndata: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'


class Doorman:
    """A provider that looks at the key: `sk-429-2` is told to wait 2 s, `sk-401` refused, any other answered."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []

    async def answer(self, request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        key = request.headers["Authorization"].removeprefix("Bearer ")
        self.asked.append(key)
        match key.split("-")[1:]:
            case ["429", seconds]:
                return aiohttp.web.Response(status=429, headers={"Retry-After": seconds})
            case [status] if status.isdecimal():
                return aiohttp.web.Response(status=int(status))
        return aiohttp.web.Response(text=ANSWER, content_type="text/event-stream")


@pytest.fixture
async def doorman(redis: Redis) -> AsyncIterator[Doorman]:
    found = Doorman()
    app = aiohttp.web.Application()
    app.router.add_post("/chat/completions", found.answer)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


@pytest.fixture(autouse=True)
def looks_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "FRESH_SECONDS", 0)


def candidate(url: str, name: str = "m", *keys: str, window: int = 8_000) -> Candidate:
    keys = keys or ("",)
    served_by = Provider("compatible", "Fake", "openai_chat", url, keys[0], keys)
    return Candidate(
        LanguageModel(key=name, provider="compatible", provider_model=name, context_window=window), served_by
    )


async def answer(
    *candidates: Candidate, cache_key: str = "", question: str = "one two three", end_user: str = ""
) -> tuple[AnswerStarted | None, str, ProviderError | None]:
    """Return who answered, the text, and the error if there was one, once everything is reported."""
    who, text, error = None, "", None
    messages = (Message("user", question),)
    prompt = AnswerRequest(messages=messages, max_output=100, cache_key=cache_key, end_user=end_user)
    try:
        async for event in dispatch.answer_with_failover(list(candidates), prompt):
            match event:
                case AnswerStarted():
                    who = event
                case Delta():
                    text += event.text
    except ProviderError as caught:
        error = caught
    await breakers().flush()
    return who, text, error


def asked(provider: FakeProvider) -> list[str]:
    return [request["model"] for request in provider.requests]


async def trip(candidate: Candidate, times: int = 5) -> None:
    for _ in range(times):
        breakers().report(breaker.Report(breaker_id(candidate.provider, candidate.model.key), "failure", "overloaded"))
    await breakers().flush()


# --- Keys -----------------------------------------------------------------------------------------------------------


async def test_a_key_that_was_told_to_wait_is_followed_by_the_next(doorman: Doorman):
    served = candidate(doorman.url, "m", "sk-429-60", "sk-good")
    begun = time.monotonic()
    who, text, _ = await answer(served)
    assert (who, text, doorman.asked) == (AnswerStarted(served), "hi", ["sk-429-60", "sk-good"])
    who, text, _ = await answer(served)
    assert (text, doorman.asked[2:]) == ("hi", ["sk-good"])  # the first one is skipped
    assert time.monotonic() - begun < 10


async def test_a_key_that_is_refused_is_followed_by_the_next_and_not_asked_again(doorman: Doorman):
    served = candidate(doorman.url, "m", "sk-401", "sk-good")
    for _ in range(3):
        assert (await answer(served))[1] == "hi"
    assert doorman.asked == ["sk-401", *["sk-good"] * 3]


async def test_a_key_without_rights_is_asked_until_a_second_person_meets_it(doorman: Doorman):
    """The first one may have asked what a filter in front of the model refuses."""
    served = candidate(doorman.url, "m", "sk-403", "sk-good")
    for person in ("carla", "carla", "ana", "bo"):
        assert (await answer(served, end_user=person))[1] == "hi"
    assert doorman.asked == [*["sk-403", "sk-good"] * 3, "sk-good"]


async def test_a_weakness_of_the_provider_is_not_tried_with_every_key(doorman: Doorman):
    _, _, error = await answer(candidate(doorman.url, "m", "sk-500", "sk-good"))
    assert (error.code, doorman.asked) == ("overloaded", ["sk-500"] * 2)


async def test_a_model_alone_may_try_three_keys_and_one_with_others_behind_it_two(doorman: Doorman):
    keys = ("sk-401", "sk-403", "sk-good")
    assert (await answer(candidate(doorman.url, "alone", *keys)))[1] == "hi"
    assert doorman.asked == list(keys)
    doorman.asked.clear()
    other = candidate(doorman.url, "other", "sk-other")
    who, text, _ = await answer(candidate(doorman.url, "first", *keys), other)
    assert (who.candidate, who.instead_because, text) == (other, "permission", "hi")
    assert doorman.asked == ["sk-401", "sk-403", "sk-other"]


async def test_a_conversation_keeps_its_key_and_conversations_spread(doorman: Doorman):
    served = candidate(doorman.url, "m", *(f"sk-k{number}" for number in range(4)))
    for conversation in range(40):
        for _ in range(2):
            await answer(served, cache_key=f"c{conversation}")
    assert doorman.asked[::2] == doorman.asked[1::2]
    assert len(set(doorman.asked)) == 4


# --- Breakers -------------------------------------------------------------------------------------------------------


async def test_who_rests_is_passed_over_and_the_answer_says_why(redis: Redis, provider: FakeProvider):
    first, second = candidate(provider.url, "status-500"), candidate(provider.url, "fake-3t-0ms")
    await trip(first)
    who, text, _ = await answer(first, second)
    assert who == AnswerStarted(second, instead_of=first, instead_because="overloaded")
    assert (text, asked(provider)) == (expected_text("fake-3t-0ms"), ["fake-3t-0ms"])


async def test_failures_open_it_for_the_turns_after(redis: Redis, provider: FakeProvider):
    first, second = candidate(provider.url, "status-503"), candidate(provider.url, "fake-2t-0ms-f0")
    for _ in range(5):
        assert (await answer(first, second))[1] == "t0 t1 "
    assert asked(provider).count("status-503") == 5
    assert (await redis.hkeys(OPEN_BREAKERS)) == [breaker_id(first.provider, "status-503").encode()]


async def test_one_turn_tries_and_closes_it(redis: Redis, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(breaker, "FIRST_OPEN_MS", 50)
    first, second = candidate(provider.url, "fake-3t-0ms"), candidate(provider.url, "fake-4t-0ms")
    await trip(first)
    assert (await answer(first, second))[0].candidate is second
    time.sleep(0.06)  # noqa: ASYNC251
    assert (await answer(first, second))[0] == AnswerStarted(first)
    assert await redis.hlen(OPEN_BREAKERS) == 0


async def test_a_trial_that_somebody_stops_is_given_back(
    redis: Redis, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(breaker, "FIRST_OPEN_MS", 1)
    first = candidate(provider.url, "fake-900t-5ms")
    await trip(first)
    prompt = AnswerRequest(messages=(Message("user", "x"),), max_output=100)
    async with aclosing(dispatch.answer_with_failover([first], prompt)) as events:
        async for _ in events:
            break
    await breakers().flush()
    assert await redis.keys("breaker:*:trial") == []


async def test_a_trial_that_is_stopped_before_it_showed_anything_is_given_back(
    redis: Redis, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(breaker, "FIRST_OPEN_MS", 1)
    only = candidate(provider.url, "hang")
    await trip(only)
    asking = asyncio.create_task(answer(only))

    async def is_trying() -> bool:
        return bool(await redis.keys("breaker:*:trial"))

    await eventually(is_trying)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await breakers().flush()
    assert await redis.keys("breaker:*:trial") == []
    assert await redis.hlen(OPEN_BREAKERS) == 1


@pytest.mark.parametrize("name", ["context", "status-400", "fake-2t-0ms-filter"])
async def test_what_is_not_the_providers_fault_opens_nothing(redis: Redis, provider: FakeProvider, name: str):
    for _ in range(12):
        await answer(candidate(provider.url, name))
    assert await redis.hlen(OPEN_BREAKERS) == 0


POISON = ("status-500", "status-404", "fake-5t-0ms-rubbish0", "fake-0t-0ms-nofinish", "fake-5t-1ms-f0-cut2", "hang")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """What failed is tried again at once, and nobody is waited for."""
    monkeypatch.setattr(dispatch.random, "uniform", lambda *_: 0.0)
    settings.FIRST_TOKEN_SECONDS = 0.05


@pytest.mark.parametrize("name", POISON)
async def test_one_persons_questions_take_a_model_from_nobody(
    redis: Redis, provider: FakeProvider, hasty: None, name: str
):
    """And who asks them is answered by the next candidate."""
    model, next_one = candidate(provider.url, name), candidate(provider.url, "fake-2t-0ms-f0")
    for number in range(1, 13):
        started, text, _ = await answer(
            model, next_one, end_user="carla", cache_key=f"conversation {number}", question=f"and {number}?"
        )
        assert started.candidate is model or text == "t0 t1 "
        assert asked(provider).count(name) <= 2 * number
        assert await redis.hlen(OPEN_BREAKERS) == 0


@pytest.mark.parametrize("name", ["status-503", "status-429", "html-502", "nobody"])
async def test_a_provider_that_is_down_is_passed_over_as_soon_as_one_person_met_it_five_times(
    redis: Redis, provider: FakeProvider, hasty: None, name: str
):
    model = candidate("http://127.0.0.1:1" if name == "nobody" else provider.url, name)
    for attempts in (2, 4):
        await answer(model, end_user="carla", cache_key="conversation")
        assert await redis.hlen(OPEN_BREAKERS) == 0, attempts
    await answer(model, end_user="carla", cache_key="conversation")
    assert await redis.hkeys(OPEN_BREAKERS) == [breaker_id(model.provider, name).encode()]


async def test_the_same_question_of_five_people_says_that_the_provider_is_ill(
    redis: Redis, provider: FakeProvider, hasty: None
):
    model = candidate(provider.url, "status-500")
    for number in range(5):
        assert await redis.hlen(OPEN_BREAKERS) == 0
        await answer(model, end_user=f"person {number}", cache_key=f"conversation {number}")
    assert await redis.hlen(OPEN_BREAKERS) == 1


async def test_what_is_stopped_opens_nothing(redis: Redis, provider: FakeProvider):
    prompt = AnswerRequest(messages=(Message("user", "x"),), max_output=100)
    for _ in range(12):
        async with aclosing(
            dispatch.answer_with_failover([candidate(provider.url, "fake-900t-5ms")], prompt)
        ) as events:
            async for _event in events:
                break
    await breakers().flush()
    assert await redis.hlen(OPEN_BREAKERS) == 0


async def test_with_everybody_resting_the_one_that_failed_longest_ago_is_tried(redis: Redis, provider: FakeProvider):
    first, second, third = (candidate(provider.url, f"fake-{n}t-0ms-f0") for n in (2, 3, 4))
    await trip(second)
    await trip(first)
    await trip(third)
    who, text, _ = await answer(first, second, third)
    assert who == AnswerStarted(second, instead_of=first, instead_because="overloaded")
    assert (text, asked(provider)) == ("t0 t1 t2 ", ["fake-3t-0ms-f0"])
    assert (await answer(second))[0] == AnswerStarted(second)  # it is closed again


async def test_a_named_model_that_rests_is_tried_once(redis: Redis, provider: FakeProvider):
    only = candidate(provider.url, "status-500")
    await trip(only)
    _, _, error = await answer(only)
    assert (error.code, asked(provider)) == ("overloaded", ["status-500"])


async def test_a_last_resort_gets_less_time(redis: Redis, provider: FakeProvider, settings: Settings):
    settings.FIRST_TOKEN_SECONDS = 3
    only = candidate(provider.url, "hang")
    await trip(only)
    begun = time.monotonic()
    _, _, error = await answer(only)
    assert (error.code, asked(provider)) == ("timeout", ["hang"])
    assert time.monotonic() - begun < 3


async def test_signs_of_life_give_no_trial_more_time(redis: Redis, settings: Settings):
    """Its claim would end before it, and everybody would wait for a provider that only says that it is alive."""
    settings.FIRST_TOKEN_SECONDS = 3
    async with answering(STREAM, *[b": LOADING\n\n"] * 300, pause_seconds=0.1) as raw:
        only = candidate(raw.url, "m")
        await trip(only)
        begun = time.monotonic()
        _, _, error = await answer(only)
    assert error.code == "timeout"
    assert time.monotonic() - begun < 15


async def test_a_refused_key_is_the_last_of_last_resorts(doorman: Doorman):
    served = candidate(doorman.url, "m", "sk-401", "sk-500")
    await answer(served)
    await trip(Candidate(served.model, served.provider.with_each_api_key()[1]))
    doorman.asked.clear()
    await answer(served)
    assert doorman.asked == ["sk-500"]


async def test_whose_every_key_was_told_to_wait_says_when_to_come_back(doorman: Doorman):
    served = candidate(doorman.url, "m", "sk-429-60", "sk-429-40")
    await answer(served)
    doorman.asked.clear()
    begun = time.monotonic()
    _, _, error = await answer(served)
    assert (error.code, 38 < error.retry_after <= 40, doorman.asked) == ("rate_limited", True, [])
    assert time.monotonic() - begun < 5


async def test_who_was_not_told_to_wait_is_tried_before_who_was(redis: Redis, provider: FakeProvider):
    first, second = candidate(provider.url, "fake-3t-0ms-f0"), candidate(provider.url, "fake-2t-0ms-f0")
    breakers().report(breaker.Report(breaker_id(first.provider, first.model.key), "pause", "rate_limited", 60_000))
    await trip(second)
    assert (await answer(first, second))[0] == AnswerStarted(second, instead_of=first, instead_because="rate_limited")
    assert asked(provider) == ["fake-2t-0ms-f0"]


async def test_a_short_rest_is_waited_for(redis: Redis, provider: FakeProvider):
    only = candidate(provider.url, "fake-2t-0ms-f0")
    breakers().report(breaker.Report(breaker_id(only.provider, only.model.key), "pause", "rate_limited", 300))
    await breakers().flush()
    begun = time.monotonic()
    assert (await answer(only))[1] == "t0 t1 "
    assert 0.2 < time.monotonic() - begun < 5


async def test_who_could_not_read_it_is_why(redis: Redis, provider: FakeProvider):
    first, second = candidate(provider.url, "context"), candidate(provider.url, "fake-2t-0ms-f0", window=32_000)
    assert (await answer(first, second))[0] == AnswerStarted(
        second, instead_of=first, instead_because="context_exceeded"
    )


# --- The operator ---------------------------------------------------------------------------------------------------


async def test_a_refused_key_is_an_alert_without_the_key(doorman: Doorman):
    await answer(candidate(doorman.url, "m", "sk-401", "sk-good"))

    async def told() -> list[alerts.Alert]:
        return alerts.list_alerts()

    [alert] = await eventually(told)
    assert alert.subject == f"compatible:authentication:{api_key_digest('sk-401')}"
    assert alert.fields["key"] == api_key_digest("sk-401")
    assert "sk-401" not in repr(alert)


async def test_a_provider_that_sends_us_elsewhere_is_an_alert_and_is_left_alone(
    doorman: Doorman, provider: FakeProvider
):
    sent_on, other = candidate(doorman.url, "m", "sk-307"), candidate(provider.url, "fake-2t-0ms-f0")
    for _ in range(2):
        started = (await answer(sent_on, other))[0]
        assert started == AnswerStarted(other, instead_of=sent_on, instead_because="redirected")
    assert doorman.asked == ["sk-307"]

    async def told() -> list[alerts.Alert]:
        return alerts.list_alerts()

    [alert] = await eventually(told)
    assert alert.subject == f"compatible:redirected:{api_key_digest('sk-307')}"


async def test_a_refusal_is_an_alert_when_a_second_person_meets_it(doorman: Doorman):
    def told() -> list[str]:
        alerts._thread.submit(lambda: None).result()
        return [alert.subject for alert in alerts.list_alerts()]

    served = candidate(doorman.url, "m", "sk-403")
    for question in ("one", "two", "three"):
        await answer(served, end_user="carla", question=question)
    assert told() == []
    await answer(served, end_user="ana")
    assert told() == [f"compatible:m:permission:{api_key_digest('sk-403')}"]


async def test_an_overloaded_provider_is_no_alert(redis: Redis, provider: FakeProvider):
    await answer(candidate(provider.url, "status-503"))
    alerts._thread.submit(lambda: None).result()
    assert alerts.list_alerts() == []
