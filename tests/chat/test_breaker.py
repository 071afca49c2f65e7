"""When a breaker opens, who may try, and when it closes: for all runners, and without effect while Redis is away."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from chat.llm import breaker
from chat.llm.breaker import (
    LAST_RESORT,
    OPEN_BREAKERS,
    Breakers,
    OpenBreaker,
    Report,
    api_key_digest,
    breaker_id,
    may_be_the_questions,
    split_breaker_id,
    verdict_on,
)
from chat.llm.health.counters import Probe, save_probe
from chat.llm.providers import errors
from chat.llm.providers.base import Provider
from chat.llm.providers.errors import ProviderError
from core.threads import in_thread
from tests.chat.relay import relayed_redis

ONE = "openai:0a0b0c0d:llama3:8b"


@pytest.fixture
async def ours(redis: Redis) -> AsyncIterator[Breakers]:
    """A runner's breakers."""
    found = Breakers()
    yield found
    await found.flush()


@pytest.fixture
async def theirs(redis: Redis) -> AsyncIterator[Breakers]:
    """Another runner's."""
    found = Breakers()
    yield found
    await found.flush()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Breakers open for half a second, and runners look each time."""
    monkeypatch.setattr(breaker, "FIRST_OPEN_MS", 500)
    monkeypatch.setattr(breaker, "MAX_OPEN_MS", 1_500)
    monkeypatch.setattr(breaker, "FRESH_SECONDS", 0)
    monkeypatch.setattr(breaker, "GRACE_SECONDS", 0)


async def entry(redis: Redis) -> list[str]:
    """Return what Redis has of the breaker: when its time ends, how often it opened, its last failure and its code."""
    value: Any = await redis.hget(OPEN_BREAKERS, ONE)
    return list(value.decode().split(" "))


async def tell(breakers: Breakers, *verdicts: str, **fields: Any) -> None:
    """Report one after the other."""
    for verdict in verdicts:
        breakers.report(Report(ONE, verdict, **({"code": "overloaded"} | fields)))  # type: ignore[arg-type]
    await breakers.flush()


async def opened(breakers: Breakers) -> OpenBreaker | None:
    await breakers.refresh()
    return breakers.find_open(ONE)


async def seen(breakers: Breakers) -> OpenBreaker:
    found = await opened(breakers)
    assert found is not None
    return found


# --- Opening --------------------------------------------------------------------------------------------------------


async def test_four_failures_in_a_row_leave_it_closed_the_fifth_opens_it(ours: Breakers):
    await tell(ours, *["failure"] * 4)
    assert await opened(ours) is None
    await tell(ours, "failure")
    found = await seen(ours)
    assert (found.times_opened, found.code) == (1, "overloaded")
    assert 20 < found.seconds_left <= 30


async def test_an_answer_between_begins_the_row_anew(ours: Breakers):
    await tell(ours, *["failure"] * 4, "success", *["failure"] * 4)
    assert await opened(ours) is None


async def test_half_of_ten_within_a_minute_opens_it(ours: Breakers):
    await tell(ours, *["failure", "success"] * 4)
    assert await opened(ours) is None  # four of eight are too few to say
    await tell(ours, "success", "failure")
    assert await opened(ours) is not None


async def test_less_than_half_leaves_it_closed(ours: Breakers):
    await tell(ours, *["failure", "success", "success"] * 20)
    assert await opened(ours) is None


async def test_what_failed_longer_ago_than_the_window_is_forgotten(ours: Breakers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(breaker, "SLOT_MS", 50)
    await tell(ours, *["failure", "success"] * 4)
    await asyncio.sleep(0.4)
    await tell(ours, *["success", "failure"] * 4)
    assert await opened(ours) is None


async def test_every_runner_knows_at_once_or_in_a_moment(ours: Breakers, theirs: Breakers):
    await theirs.refresh()
    await tell(ours, *["failure"] * 3)
    await tell(theirs, *["failure"] * 2)  # five together
    assert theirs.find_open(ONE) is not None
    assert await opened(ours) is None  # as of a moment ago
    await asyncio.sleep(breaker.FRESH_SECONDS)
    assert await opened(ours) is not None


async def test_a_refused_key_opens_it_at_once(ours: Breakers):
    await tell(ours, "unusable", code="authentication")
    assert (await seen(ours)).code == "authentication"


async def test_what_is_nobodys_fault_never_counts(ours: Breakers, redis: Redis):
    await tell(ours, *["neutral"] * 50)
    assert await opened(ours) is None
    assert await redis.keys("breaker:*") == []


async def test_models_and_keys_have_breakers_of_their_own(ours: Breakers):
    await tell(ours, *["failure"] * 5)
    for other in ("openai:0a0b0c0d:other", "openai:ffffffff:llama3:8b", "deepseek:0a0b0c0d:llama3:8b"):
        assert ours.find_open(other) is None
    assert split_breaker_id(ONE) == ("openai", "0a0b0c0d", "llama3:8b")


def test_a_breaker_is_not_named_after_its_key():
    provider = Provider("openai", "OpenAI", "openai_chat", "", api_key="sk-secret")
    assert breaker_id(provider, "m") == f"openai:{api_key_digest('sk-secret')}:m"
    assert "secret" not in breaker_id(provider, "m")
    assert api_key_digest("sk-secret") != api_key_digest("sk-other")


# --- Half-open ------------------------------------------------------------------------------------------------------


async def test_one_at_a_time_may_try_and_an_answer_closes_it(ours: Breakers, theirs: Breakers, short: None):
    await tell(ours, *["failure"] * 5)
    assert await ours.claim_trial(ONE, timeout_seconds=1) is None  # not yet
    await asyncio.sleep(0.51)
    assert (await seen(ours)).seconds_left <= 0
    trials = await asyncio.gather(*(one.claim_trial(ONE, timeout_seconds=60) for one in (ours, theirs) * 10))
    [trial] = [trial for trial in trials if trial is not None]
    await tell(ours, "success", trial=trial)
    assert await opened(ours) is None
    assert await opened(theirs) is None
    assert await theirs.claim_trial(ONE, timeout_seconds=1) == ""


async def test_a_trial_that_fails_opens_it_for_twice_as_long_up_to_a_limit(ours: Breakers, redis: Redis, short: None):
    await tell(ours, *["failure"] * 5)
    lasted = []
    for _ in range(4):
        ends, _times, failed, _code = await entry(redis)
        lasted.append(int(ends) - int(failed))
        await asyncio.sleep(max(0, (await seen(ours)).seconds_left) + 0.01)
        trial = await ours.claim_trial(ONE, timeout_seconds=1)
        assert trial
        await tell(ours, "failure", trial=trial)
    assert lasted == [500, 1_000, 1_500, 1_500]
    assert (await seen(ours)).times_opened == 5


async def test_failures_of_those_who_were_under_way_do_not_lengthen_it(ours: Breakers, redis: Redis):
    await tell(ours, *["failure"] * 5)
    before = await entry(redis)
    await asyncio.sleep(0.01)
    await tell(ours, *["failure"] * 20)
    after = await entry(redis)
    assert after[:2] == before[:2]  # its end, and how often it opened
    assert int(after[2]) > int(before[2])  # but the last failure is later


async def test_an_answer_that_had_begun_before_does_not_close_it(ours: Breakers):
    await tell(ours, *["failure"] * 5, "success")
    assert await opened(ours) is not None


async def test_a_trial_that_was_stopped_leaves_the_next_one_its_turn(ours: Breakers, theirs: Breakers, short: None):
    await tell(ours, *["failure"] * 5)
    await asyncio.sleep(0.51)
    trial = await ours.claim_trial(ONE, timeout_seconds=60)
    assert trial
    assert await theirs.claim_trial(ONE, timeout_seconds=60) is None
    await tell(ours, "neutral", trial=trial)
    assert await theirs.claim_trial(ONE, timeout_seconds=60)


async def test_the_trial_of_a_runner_that_died_ends_by_itself(
    ours: Breakers, theirs: Breakers, short: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(breaker, "TRIAL_GRACE_SECONDS", 0.05)
    await tell(ours, *["failure"] * 5)
    await asyncio.sleep(0.51)
    assert await ours.claim_trial(ONE, timeout_seconds=0.05)
    assert await theirs.claim_trial(ONE, timeout_seconds=0.05) is None
    await asyncio.sleep(0.12)
    assert await theirs.claim_trial(ONE, timeout_seconds=0.05)


async def test_a_last_resort_closes_it_when_it_works_and_changes_nothing_else(ours: Breakers):
    await tell(ours, *["failure"] * 5)
    await tell(ours, "failure", trial=LAST_RESORT)
    assert (await seen(ours)).times_opened == 1
    await tell(ours, "success", trial=LAST_RESORT)
    assert await opened(ours) is None


# --- Pauses ---------------------------------------------------------------------------------------------------------


async def test_a_key_rests_as_long_as_its_provider_said_and_needs_no_trial(ours: Breakers, short: None):
    await tell(ours, "pause", code="rate_limited", pause_ms=150)
    found = await seen(ours)
    assert (found.times_opened, found.code, found.seconds_left <= 0.15) == (0, "rate_limited", True)
    await asyncio.sleep(0.16)
    assert await opened(ours) is None


async def test_a_shorter_rest_does_not_end_a_longer_one(ours: Breakers):
    await tell(ours, "pause", code="rate_limited", pause_ms=60_000)
    await tell(ours, "pause", code="rate_limited", pause_ms=1_000)
    assert (await seen(ours)).seconds_left > 50


async def test_what_is_over_is_cleared_away(ours: Breakers, redis: Redis, short: None):
    await tell(ours, "pause", code="rate_limited", pause_ms=10)
    await asyncio.sleep(0.02)
    ours.report(Report("openai:00:other", "success"))
    await ours.flush()
    assert await redis.hlen(OPEN_BREAKERS) == 0


@pytest.mark.parametrize(
    ("error", "has_begun", "verdict"),
    [
        (errors.Overloaded(status=503), False, ("failure", 0)),
        (errors.Overloaded(), True, ("failure", 0)),
        (errors.TimedOut(), False, ("failure", 0)),
        (errors.ConnectionFailed(), True, ("failure", 0)),
        (errors.Truncated(), False, ("failure", 0)),
        (errors.Truncated(), True, ("neutral", 0)),
        (errors.ProviderRateLimited(status=429), False, ("failure", 0)),
        (errors.ProviderRateLimited(retry_after=2.5), False, ("pause", 2_500)),
        (errors.ProviderRateLimited(retry_after=1e6), False, ("pause", 3_600_000)),
        (errors.AuthenticationFailed(), False, ("unusable", 0)),
        (errors.PermissionRefused(), False, ("unusable", 0)),
        (errors.ModelNotFound(), False, ("unusable", 0)),
        (errors.BadRequest(), False, ("neutral", 0)),
        (errors.ContentFiltered(), False, ("neutral", 0)),
        (errors.PromptTooLong(), False, ("neutral", 0)),
    ],
)
def test_what_an_error_says_of_a_breaker(error: ProviderError, has_begun: bool, verdict: tuple[str, int]):
    assert verdict_on(error, has_begun=has_begun) == verdict


# --- What a question did ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "may_be"),
    [
        (errors.NotReached(), False),
        (errors.AuthenticationFailed(status=401), False),
        (errors.PermissionRefused(status=402), False),
        (errors.ProviderRateLimited(status=429), False),
        (errors.Overloaded(status=502), False),
        (errors.Overloaded(status=503), False),
        (errors.Overloaded(status=529), False),
        (errors.Overloaded(status=500), True),
        (errors.Overloaded(), True),
        (errors.TimedOut(), True),
        (errors.TimedOut(status=504), True),
        (errors.ConnectionFailed(), True),
        (errors.BadResponse(), True),
        (errors.Truncated(), True),
        (errors.PermissionRefused(status=403), True),
        (errors.ModelNotFound(status=404), True),
    ],
    ids=repr,
)
def test_what_may_be_the_questions_fault(error: ProviderError, may_be: bool):
    assert may_be_the_questions(error) == may_be


async def test_what_fails_again_and_again_for_one_person_opens_nothing(ours: Breakers):
    await tell(ours, *["failure"] * 20, asker="carla")
    assert await opened(ours) is None
    await tell(ours, *["failure"] * 4)
    assert await opened(ours) is not None  # it was one of five


async def test_what_fails_for_one_person_while_others_are_answered_opens_nothing(ours: Breakers):
    for _ in range(20):
        await tell(ours, "failure", asker="carla")
        await tell(ours, "success")
    assert await opened(ours) is None


async def test_what_fails_for_five_people_opens_it(ours: Breakers):
    for number in range(5):
        assert await opened(ours) is None
        await tell(ours, "failure", asker=f"person {number}")
    assert await opened(ours) is not None


@pytest.mark.parametrize(
    ("code", "seconds_ago", "opens"),
    [("timeout", 10, True), ("timeout", 400, False), ("", 10, False), ("permission", 10, False)],
)
async def test_what_the_probe_confirms_is_no_questions_fault(
    ours: Breakers, redis: Redis, code: str, seconds_ago: float, opens: bool
):
    await in_thread(save_probe, "openai", Probe(code, time.time() - seconds_ago))
    await tell(ours, *["failure"] * 5, asker="carla")
    assert (await opened(ours) is not None) == opens


async def test_a_refusal_that_a_second_person_meets_opens_it(ours: Breakers):
    await tell(ours, *["unusable"] * 3, asker="carla", code="permission")
    assert await opened(ours) is None
    await tell(ours, "unusable", asker="ana", code="permission")
    assert (await seen(ours)).code == "permission"


# --- Redis ----------------------------------------------------------------------------------------------------------


async def test_a_busy_runner_seldom_asks_redis(ours: Breakers, redis: Redis):
    before = (await redis.info("stats"))["total_commands_processed"]
    for _ in range(200):
        await ours.refresh()
    assert (await redis.info("stats"))["total_commands_processed"] - before < 10


async def test_outcomes_that_come_together_are_told_together(ours: Breakers, redis: Redis):
    async def calls() -> int:
        commands = await redis.info("commandstats")
        return sum(commands.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))

    await tell(ours, "success")
    before = await calls()
    await tell(ours, *["success"] * 300)
    assert await calls() - before <= 2


async def test_without_redis_everybody_is_asked_and_nobody_waits_long(
    ours: Breakers, redis: Redis, monkeypatch: pytest.MonkeyPatch
):
    await tell(ours, *["failure"] * 5)
    async with relayed_redis() as (relay, client):
        monkeypatch.setattr(breaker, "async_redis", lambda: client)
        relay.break_down()
        begun = time.monotonic()
        ours._read_at = float("-inf")
        assert await opened(ours) is None
        assert await ours.claim_trial(ONE, timeout_seconds=1) == ""
        await tell(ours, "failure")
        assert time.monotonic() - begun < 10


async def test_a_redis_that_does_not_answer_is_not_waited_for(ours: Breakers, monkeypatch: pytest.MonkeyPatch):
    async def hang(self: Breakers) -> None:
        await asyncio.sleep(15)

    monkeypatch.setattr(Breakers, "_read", hang)
    begun = time.monotonic()
    await ours.refresh()
    assert time.monotonic() - begun < 10
    assert ours._reading is not None
    ours._reading.cancel()
