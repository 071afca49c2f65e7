"""Turns, run: a runner beside the test, a provider on the wire."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from copy import copy
from typing import Any
from uuid import UUID

import pytest
from django.db import OperationalError
from pytest_django import Settings
from redis.asyncio import Redis

from accounts.models import User
from billing.models import Plan, Reservation, UsageRecord
from chat.llm.dispatch import AnswerEvent, AnswerStarted
from chat.llm.providers import ADAPTERS
from chat.llm.providers.base import Delta, Event, Finish, ModelRequest
from chat.llm.providers.http import close_session
from chat.models import LanguageModel
from chat.turns import answering, claiming, ending, leases, log, needs, presence, queue
from chat.turns import runner as runner_module
from chat.turns import writer as writer_module
from chat.turns.closing import can_continue
from chat.turns.leases import Taken
from chat.turns.log import EntryKind
from chat.turns.runner import Runner
from chat.turns.sent_requests import SentRequests
from chat.turns.stopping import stop_turn
from chat.turns.writer import LiveText, LogWriter
from core import redis_clients
from core.alerts import list_alerts
from core.redis_clients import async_redis, close_async_redis, sync_redis
from core.threads import in_thread
from history import access, deletion, progress
from history.models import Turn, new_id
from testbed.provider import FakeProvider, expected_reasoning, expected_text
from tests.chat.asking import (
    PATIENCE_SECONDS,
    aask,
    ask,
    closed,
    eventually,
    is_held,
    period_of,
    record_of,
    reservation_of,
    saved,
    until,
)
from tests.chat.conftest import Offer
from tests.chat.conftest import running as a_runner
from tests.chat.cutting import breakable_databases
from tests.chat.relay import relayed_redis
from tests.chat.writing import follow


async def shown(turn: Turn, *, at_least: int = 1) -> str:
    """Wait until the log has so many characters; return its text."""

    async def look() -> str:
        text = log.replay(await log.read_log(async_redis(), turn.pk)).text
        return text if len(text) >= at_least else ""

    return await eventually(look)


async def queue_is_empty(redis: Redis) -> None:
    async def look() -> bool:
        return not await redis.xlen(queue.QUEUE)

    await eventually(look, seconds=3)


# --- An answer --------------------------------------------------------------------------------------------------------


async def test_a_turn_is_answered_saved_and_paid(redis: Redis, runner: Runner, carla: User, offer: Offer):
    model = await in_thread(offer, "fake-20t-5ms-r5")
    turn = await closed(await aask(carla, "¿Cuántos?", model=model.key))
    assert (turn.status, turn.error, turn.finish_reason) == ("completed", "", "stop")
    assert (turn.answer, turn.reasoning) == (expected_text(model.key), expected_reasoning(model.key))
    assert (turn.model, turn.provider, turn.gen) == (model.key, "compatible", 1)
    assert (turn.output_tokens, turn.reasoning_tokens, turn.usage_source) == (25, 5, "provider")
    assert turn.cost_micros == turn.input_tokens + 2 * 25
    assert turn.created_at < turn.started_at < turn.first_token_at < turn.completed_at
    assert "t19" in turn.search_text
    assert "¿cuantos?" in turn.search_text


async def test_how_long_it_thought_ends_with_the_first_text(redis: Redis, runner: Runner, carla: User):
    turn = await closed(await aask(carla, "wait:0.05 think:hm wait:0.1 think:so wait:0.1 say:a wait:1 think:b say:c"))
    assert 195 <= turn.reasoning_ms < 1_000


async def test_what_only_thought_thought_until_its_end(redis: Redis, runner: Runner, carla: User):
    turn = await closed(await aask(carla, "think:hm wait:0.1 fail:overloaded"))
    assert (turn.status, turn.error) == ("interrupted", "overloaded")
    assert 95 <= turn.reasoning_ms < 2_000


async def test_what_did_not_think_thought_for_no_time(redis: Redis, runner: Runner, carla: User):
    assert (await closed(await aask(carla, "say:a wait:0.05 think:late say:b"))).reasoning_ms == 0


async def test_the_effort_that_was_asked_for_reaches_the_provider(
    redis: Redis, runner: Runner, carla: User, offer: Offer, provider: FakeProvider
):
    model = await in_thread(offer, "fake-3t-0ms", efforts="low high")
    await closed(await aask(carla, "hola", model=model.key, effort="high"))
    await closed(await aask(carla, "hola", model=model.key))
    assert [request.get("reasoning_effort") for request in provider.requests] == ["high", None]


async def test_what_was_used_is_recorded_once(redis: Redis, runner: Runner, carla: User):
    turn = await closed(await aask(carla, "say:hola usage:12/34"))
    record = await in_thread(record_of, turn)
    assert (record.input_tokens, record.output_tokens, record.source, record.label) == (12, 34, "provider", "scripted")
    assert record.cost_micros == turn.cost_micros == 12 + 68
    period = await in_thread(period_of, carla)
    assert (period.used_micros, period.reserved_micros, period.account.holds) == (80, 0, 0)
    assert (await in_thread(reservation_of, turn)).state == Reservation.State.SETTLED


async def test_what_is_not_reported_is_estimated(redis: Redis, runner: Runner, carla: User):
    turn = await closed(await aask(carla, "think:hm say:hola"))
    assert (turn.status, turn.usage_source) == ("completed", "estimated")
    assert (turn.output_tokens, turn.reasoning_tokens) == (10 + 9, 9)
    assert turn.cost_micros == turn.input_tokens + 2 * 19
    assert (await in_thread(record_of, turn)).source == "estimated"


@pytest.mark.parametrize("tokens", [3_000_000_000, 2**64 - 1, -1])
async def test_a_count_that_nobody_can_believe_is_estimated(redis: Redis, runner: Runner, carla: User, tokens: int):
    """No column holds it: the turn could never be saved."""
    for usage in (f"{tokens}/6", f"5/{tokens}"):
        turn = await closed(await aask(carla, f"say:hola usage:{usage}"))
        assert (turn.status, turn.answer, turn.usage_source) == ("completed", "hola ", "estimated")
        assert (turn.output_tokens, turn.cost_micros) == (10, turn.input_tokens + 2 * 10)
        record = await in_thread(record_of, turn)
        assert (record.source, record.output_tokens, record.cost_micros) == ("estimated", 10, turn.cost_micros)


async def test_an_empty_answer_that_nobody_counted_costs_nothing(redis: Redis, runner: Runner, carla: User):
    turn = await closed(await aask(carla, "nothing"))
    assert (turn.status, turn.answer, turn.cost_micros, turn.usage_source) == ("failed", "", None, "")
    assert (await in_thread(reservation_of, turn)).state == Reservation.State.RELEASED


async def test_nothing_is_left_behind(redis: Redis, runner: Runner, carla: User):
    turn = await closed(await aask(carla, "say:hola"))
    await queue_is_empty(redis)
    assert not await redis.exists(leases.lease_key(turn.pk), queue.queued_key(turn.pk))
    kinds = [entry.kind for entry in await log.read_log(redis, turn.pk)]
    assert kinds == [EntryKind.BEGUN, EntryKind.TEXT, EntryKind.OUTCOME, EntryKind.END]
    assert 0 < await redis.ttl(log.log_key(turn.pk)) <= ending.KEPT_AFTER_END_SECONDS


async def test_the_path_is_sent_with_the_question(
    redis: Redis, runner: Runner, carla: User, offer: Offer, provider: FakeProvider
):
    model = await in_thread(offer, "fake-2t-0ms")
    first = await closed(await aask(carla, "one", model=model.key))
    second = await closed(await aask(carla, "two", model=model.key, conversation_id=first.conversation_id))
    assert second.parent_id == first.pk
    sent = provider.requests[-1]
    assert [message["content"] for message in sent["messages"][1:]] == ["one", "t0 t1 ", "two"]
    assert sent["max_tokens"] == 1_000


async def test_answers_run_beside_each_other(redis: Redis, runner: Runner, carla: User):
    begun = time.monotonic()
    turns = [await aask(carla, "say:a wait:1 say:b") for _ in range(5)]
    for turn in turns:
        assert (await closed(turn)).answer == "a b "
    assert time.monotonic() - begun < 5


async def test_a_full_runner_takes_the_next_turn_when_one_is_over(
    redis: Redis, settings: Settings, runner: Runner, carla: User
):
    settings.RUNNER_CAPACITY = 1
    turns = [await aask(carla, f"say:{number} wait:0.05") for number in range(3)]
    for number, turn in enumerate(turns):
        assert (await closed(turn)).answer == f"{number} "


async def test_a_turn_asked_while_no_runner_was_there_waits_for_one(redis: Redis, carla: User, settings: Settings):
    turn = await aask(carla, "say:hola")
    async with a_runner():
        assert (await closed(turn)).status == "completed"


async def take_long_ago(redis: Redis) -> None:
    """Another runner takes all that is in the queue, and has had it for a minute."""
    await redis.xgroup_create(queue.QUEUE, queue.GROUP, id="0", mkstream=True)
    [[_stream, entries]] = await redis.xreadgroup(queue.GROUP, "another", {queue.QUEUE: ">"})
    await redis.xclaim(queue.QUEUE, queue.GROUP, "another", 0, [entry for entry, _ in entries], idle=60_000)


async def test_a_runner_takes_over_no_more_than_it_has_room_for(
    redis: Redis, carla: User, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    settings.RUNNER_CAPACITY = 2
    monkeypatch.setattr(runner_module, "RECLAIM_SECONDS", 0.01)
    turns = [await aask(carla, "wait:0.05 say:hola") for _ in range(6)]
    await take_long_ago(redis)
    async with a_runner() as runner:
        most = 0
        for turn in turns:
            while (await in_thread(saved, turn)).is_open:
                most = max(most, len(runner._tasks))
        assert most <= 2
    assert {(await in_thread(saved, turn)).status for turn in turns} == {"completed"}


async def test_turns_that_run_elsewhere_are_not_read(redis: Redis, carla: User, monkeypatch: pytest.MonkeyPatch):
    """A thousand of them would keep the loop from its tokens."""
    monkeypatch.setattr(runner_module, "RECLAIM_SECONDS", 0.01)
    for _ in range(3):
        key = new_id()
        await redis.xadd(queue.QUEUE, {b"turn": key.bytes})
        await redis.set(leases.lease_key(key), "somebody:1")
    await take_long_ago(redis)
    with breakable_databases() as databases:
        databases.is_away = True
        async with a_runner() as runner:
            for _ in range(20):
                await asyncio.sleep(0.005)
                assert not runner._tasks
    assert await redis.xlen(queue.QUEUE) == 3


# --- What nobody can read ---------------------------------------------------------------------------------------------


async def alert_times(subject: str) -> int:
    found = await in_thread(list_alerts)
    return sum(alert.times for alert in found if alert.subject == subject)


@pytest.mark.parametrize("fields", [{b"turn": b"short"}, {b"other": b"x"}], ids=["short", "nothing"])
async def test_a_malformed_entry_of_the_queue_is_dropped_and_the_next_turn_is_run(
    redis: Redis, carla: User, fields: dict[bytes, bytes]
):
    await redis.xadd(queue.QUEUE, fields)
    turn = await aask(carla, "say:hola")
    async with a_runner():
        assert (await closed(turn)).status == "completed"
        await queue_is_empty(redis)
    assert (await redis.xpending(queue.QUEUE, queue.GROUP))["pending"] == 0
    await eventually(lambda: alert_times("redis:queue"))


async def test_a_malformed_request_to_stop_is_dropped(redis: Redis, runner: Runner, carla: User):
    await closed(await aask(carla, "say:hola"))
    await redis.publish(leases.STOP_REQUESTS, b"short")
    turn = await aask(carla, "say:hola wait:5")
    await shown(turn)
    await stop_turn(await in_thread(saved, turn))
    assert (await closed(turn)).status == "stopped"
    await eventually(lambda: alert_times("redis:stop"))


async def test_a_loop_that_breaks_does_not_end_the_others(
    redis: Redis, carla: User, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(runner_module, "RETRY_SECONDS", 0.01)
    announce, errors = presence.announce_runner, [KeyError("?")]

    async def break_once(*args: Any) -> None:
        if errors:
            raise errors.pop()
        await announce(*args)

    monkeypatch.setattr(presence, "announce_runner", break_once)
    async with a_runner():
        assert (await closed(await aask(carla, "say:hola"))).status == "completed"
        await eventually(lambda: redis.exists(presence.ALIVE_KEY))
    assert any(record.exc_info for record in caplog.records if record.message == "Loop broke")


async def test_two_runners_share_the_turns(redis: Redis, carla: User):
    async with a_runner(), a_runner():
        turns = [await aask(carla, "say:hola") for _ in range(10)]
        assert [(await closed(turn)).gen for turn in turns] == [1] * 10


async def test_auto_goes_on_to_the_next_model(redis: Redis, runner: Runner, carla: User, offer: Offer):
    await in_thread(LanguageModel.objects.filter(key="scripted").delete)  # of another provider, it would be the next
    await in_thread(offer, "status-401", position=1)
    await in_thread(offer, "fake-3t-0ms", position=2)
    turn = await closed(await aask(carla, "hola", model="auto"))
    assert (turn.requested_model, turn.model, turn.answer) == ("auto", "fake-3t-0ms", "t0 t1 t2 ")
    assert (await in_thread(record_of, turn)).label == "fake-3t-0ms"


async def test_a_reader_follows_a_whole_turn(redis: Redis, runner: Runner, carla: User, offer: Offer):
    model = await in_thread(offer, "fake-50t-5ms-r5-unicode-split")
    turn = await aask(carla, "hola", model=model.key)
    reading = await follow(turn)
    assert (reading.text, reading.reasoning) == (expected_text(model.key), expected_reasoning(model.key))
    assert (await in_thread(saved, turn)).answer == reading.text


async def test_a_provider_that_ignores_its_cap_is_cut_off(
    redis: Redis, runner: Runner, carla: User, settings: Settings
):
    settings.MAX_TOKENS = 10
    turn = await closed(await aask(carla, f"say:{'x' * 300} say:{'y' * 300} wait:5 say:z"))
    assert (turn.status, turn.finish_reason, turn.usage_source) == ("completed", "length", "estimated")
    assert turn.answer == "x" * 300 + " " + "y" * 19
    assert turn.output_tokens == 10
    assert can_continue(turn)


# --- Stop -------------------------------------------------------------------------------------------------------------


async def test_stop_keeps_and_settles_what_was_shown(
    redis: Redis, runner: Runner, carla: User, offer: Offer, provider: FakeProvider
):
    model = await in_thread(offer, "fake-500t-20ms-f0")
    turn = await aask(carla, "hola", model=model.key)
    await shown(turn, at_least=9)
    await stop_turn(await in_thread(saved, turn))
    turn = await closed(turn)
    assert (turn.status, turn.error, turn.finish_reason) == ("stopped", "", "")
    assert expected_text(model.key).startswith(turn.answer)
    assert len(turn.answer) >= 9
    assert turn.usage_source == "estimated"
    assert 0 < turn.cost_micros == (await in_thread(record_of, turn)).cost_micros
    assert can_continue(turn)
    assert (await follow(turn)).text == turn.answer


async def test_the_provider_notices_a_stop_within_200_ms(
    redis: Redis, runner: Runner, carla: User, offer: Offer, provider: FakeProvider
):
    model = await in_thread(offer, "fake-500t-20ms-f0")
    latencies = []
    for count in range(1, 6):
        turn = await aask(carla, "hola", model=model.key)
        await shown(turn)
        found = await in_thread(saved, turn)
        begun = time.monotonic_ns()
        await stop_turn(found)
        while provider.stats().aborted < count:
            await asyncio.sleep(0.002)
            assert time.monotonic_ns() - begun < 2e9
        latencies.append((provider.stats().last_abort_ns - begun) / 1e6)
        await closed(turn)
    print(f"\nfrom stop to the provider's closed connection, ms: {', '.join(f'{ms:.1f}' for ms in sorted(latencies))}")
    assert max(latencies) < 200


async def test_stop_before_it_is_claimed(redis: Redis, carla: User):
    turn = await aask(carla, "say:hola")
    await stop_turn(turn)
    found = await in_thread(saved, turn)
    assert (found.status, found.answer, found.cost_micros, found.gen) == ("stopped", "", None, 0)
    assert (await in_thread(reservation_of, turn)).state == Reservation.State.RELEASED
    assert (await follow(turn)).text == ""
    async with a_runner():
        await queue_is_empty(redis)
    assert (await in_thread(saved, turn)).gen == 0


async def test_stop_that_comes_before_the_provider_is_asked(
    redis: Redis, carla: User, offer: Offer, provider: FakeProvider
):
    """The request is found by its key: nobody listened when it was told."""
    model = await in_thread(offer, "fake-20t-5ms")
    turn = await aask(carla, "hola", model=model.key)
    await leases.request_stop(redis, turn.pk)
    async with a_runner():
        turn = await closed(turn)
    assert (turn.status, turn.answer, turn.cost_micros) == ("stopped", "", None)
    assert provider.stats().started == 0


async def test_stop_while_the_provider_is_silent(
    redis: Redis, runner: Runner, carla: User, offer: Offer, provider: FakeProvider
):
    turn = await aask(carla, "hola", model=(await in_thread(offer, "hang")).key)
    await until(lambda: provider.stats().started == 1)
    await stop_turn(turn)
    stopped = await closed(turn)
    assert (stopped.status, stopped.cost_micros, can_continue(stopped)) == ("stopped", turn.input_tokens, False)


async def test_stop_of_a_finished_turn_changes_nothing(redis: Redis, runner: Runner, carla: User):
    turn = await closed(await aask(carla, "say:hola"))
    await stop_turn(turn)
    again = await in_thread(saved, turn)
    assert (again.status, again.completed_at) == ("completed", turn.completed_at)


async def test_two_stops_are_one(redis: Redis, runner: Runner, carla: User):
    turn = await aask(carla, "say:hola wait:5")
    await shown(turn)
    found = await in_thread(saved, turn)
    await asyncio.gather(stop_turn(found), stop_turn(found))
    assert (await closed(turn)).status == "stopped"


@pytest.mark.parametrize("order", [("stop", "lose"), ("lose", "stop")], ids=" and ".join)
async def test_a_stopped_turn_that_is_lost_too_may_clean_up(
    redis: Redis, carla: User, monkeypatch: pytest.MonkeyPatch, order: tuple[str, str]
):
    """A provider's connection is closed while the asking ends: that must not be cut short."""
    turn = await aask(carla, "hola")
    claimed = await in_thread(claiming.claim_turn, turn)
    live, writer = LiveText(turn, "runner-a"), LogWriter(redis)
    is_asked, may_clean_up, is_clean = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def stream(*_: object) -> AsyncGenerator[AnswerEvent]:
        try:
            is_asked.set()
            await asyncio.Event().wait()
            yield AnswerStarted(claimed.candidates[0])
        finally:
            await may_clean_up.wait()
            is_clean.set()

    monkeypatch.setattr(answering, "_stream", stream)
    sent = SentRequests(redis, turn, live.runner)
    answer = asyncio.create_task(answering.answer_turn(claimed, live, writer, sent))
    await is_asked.wait()
    for what in order:
        if what == "stop":
            claimed.stop("request")
        else:
            live.mark_lost()
        await asyncio.sleep(0.01)
    may_clean_up.set()
    assert not await answer
    assert is_clean.is_set()


# --- Faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("status-400", "bad_request"),
        ("status-401", "authentication"),
        ("status-403", "permission"),
        ("status-404", "not_found"),
        ("status-429-retry9", "rate_limited"),
        ("context", "context_exceeded"),
        ("quota", "permission"),
        ("html-502", "overloaded"),
        ("hang", "timeout"),
        ("fake-0t-0ms-nofinish", "truncated"),
        ("fake-5t-0ms-cut0", "connection"),
        ("fake-5t-0ms-rubbish0", "bad_response"),
    ],
)
async def test_what_showed_nothing_failed_and_costs_nothing(
    redis: Redis, runner: Runner, carla: User, offer: Offer, settings: Settings, script: str, code: str
):
    settings.FIRST_TOKEN_SECONDS = 0.5 if script == "hang" else 10
    turn = await closed(await aask(carla, "hola", model=(await in_thread(offer, script)).key))
    assert (turn.status, turn.error, turn.answer) == ("failed", code, "")
    assert (turn.cost_micros, turn.usage_source, can_continue(turn)) == (None, "", False)
    assert (await in_thread(reservation_of, turn)).state == Reservation.State.RELEASED
    assert await in_thread(record_of, turn) is None
    assert (await follow(turn)).text == ""


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("fake-20t-10ms-f0-cut9", "connection"),
        ("fake-20t-10ms-f0-stall9", "timeout"),
        ("fake-20t-10ms-f0-error9", "overloaded"),
        ("fake-20t-10ms-f0-rubbish9", "bad_response"),
        ("fake-20t-10ms-f0-nofinish", "truncated"),
    ],
)
async def test_what_broke_off_is_kept_and_settled_by_estimate(
    redis: Redis, runner: Runner, carla: User, offer: Offer, settings: Settings, script: str, code: str
):
    settings.STALL_SECONDS = 0.3 if code == "timeout" else 10
    turn = await closed(await aask(carla, "hola", model=(await in_thread(offer, script)).key))
    assert (turn.status, turn.error) == ("interrupted", code)
    assert turn.answer
    assert expected_text("fake-20t-10ms-f0").startswith(turn.answer)
    assert turn.usage_source == "estimated"
    assert 0 < turn.cost_micros == (await in_thread(record_of, turn)).cost_micros
    assert can_continue(turn)
    assert (await follow(turn)).text == turn.answer


async def test_reasoning_alone_is_something_that_was_shown(redis: Redis, runner: Runner, carla: User, offer: Offer):
    script = "fake-20t-10ms-f0-r9-cut0"
    turn = await closed(await aask(carla, "hola", model=(await in_thread(offer, script)).key))
    assert (turn.status, turn.error, turn.answer) == ("interrupted", "connection", "")
    assert turn.reasoning.startswith("r0 ")
    assert turn.cost_micros > 0
    assert not can_continue(turn)


async def test_a_filtered_answer_is_interrupted_and_paid_as_reported(
    redis: Redis, runner: Runner, carla: User, offer: Offer
):
    turn = await closed(await aask(carla, "hola", model=(await in_thread(offer, "fake-5t-0ms-filter")).key))
    assert (turn.status, turn.error, turn.finish_reason) == ("interrupted", "content_filter", "content_filter")
    assert (turn.answer, turn.usage_source, turn.output_tokens) == ("t0 t1 t2 t3 t4 ", "provider", 5)
    assert not can_continue(turn)


async def test_a_question_that_is_filtered_failed(redis: Redis, runner: Runner, carla: User, offer: Offer):
    turn = await closed(await aask(carla, "hola", model=(await in_thread(offer, "fake-0t-0ms-filter")).key))
    assert (turn.status, turn.error, turn.answer) == ("failed", "content_filter", "")
    assert (turn.usage_source, turn.output_tokens) == ("provider", 0)
    assert (await in_thread(record_of, turn)).cost_micros == turn.cost_micros
    turn = await closed(await aask(carla, "fail:content_filter"))
    assert (turn.status, turn.error, turn.cost_micros) == ("failed", "content_filter", None)


async def test_an_answer_that_is_too_long_is_complete_and_can_go_on(
    redis: Redis, runner: Runner, carla: User, offer: Offer
):
    turn = await closed(await aask(carla, "hola", model=(await in_thread(offer, "fake-5t-0ms-length")).key))
    assert (turn.status, turn.finish_reason, turn.error, can_continue(turn)) == ("completed", "length", "", True)


async def test_a_turn_has_a_longest_time(redis: Redis, runner: Runner, carla: User, settings: Settings):
    settings.TURN_SECONDS = 0.3
    turn = await closed(await aask(carla, "say:hola wait:5 say:tarde"))
    assert (turn.status, turn.error, turn.answer) == ("interrupted", "timeout", "hola ")


async def test_our_own_mistake_is_an_internal_error(
    redis: Redis, runner: Runner, carla: User, caplog: pytest.LogCaptureFixture
):
    turn = await closed(await aask(carla, "fail:no-such-error"))
    assert (turn.status, turn.error) == ("failed", "internal_error")
    assert any(record.exc_info for record in caplog.records if record.message == "Turn broke")


async def test_nothing_private_is_logged(
    redis: Redis, runner: Runner, carla: User, offer: Offer, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("DEBUG")
    for script in ("status-401", "fake-5t-10ms-f0-error2", "fake-3t-0ms"):
        await closed(await aask(carla, "my darkest secret", model=(await in_thread(offer, script)).key))
    logged = " ".join(str(vars(record)) for record in caplog.records if record.name.startswith(("chat", "history")))
    for private in ("darkest", "t0 t1", "sk-secret-of-the-house", "Incorrect API key"):
        assert private not in logged


# --- What one turn does to the others ---------------------------------------------------------------------------------


async def odd(request: ModelRequest) -> AsyncGenerator[Event]:
    """A provider whose answer to an odd question nobody can write, or whose library wants to end the process."""
    match request.messages[-1].text:
        case "surrogate":
            yield Delta("a")
            await asyncio.sleep(0.1)
            yield Delta("b\ud83d", "h\ude00")
        case "no text":
            yield Delta("a")
            await asyncio.sleep(0.1)
            yield Delta(["b"])  # type: ignore[arg-type]
            await asyncio.sleep(60)
        case "no text at all":
            yield Delta(["b"])  # type: ignore[arg-type]
        case "exit":
            yield Delta("a")
            await asyncio.sleep(0.1)
            raise SystemExit
        case _:
            for number in range(6):
                yield Delta(f"{number} ")
                await asyncio.sleep(0.05)
    yield Finish("stop", None)


@pytest.mark.parametrize(
    ("question", "status", "error", "answer"),
    [
        ("surrogate", "completed", "", "ab\ufffd"),
        ("no text", "interrupted", "internal_error", "a"),
        ("no text at all", "failed", "internal_error", ""),
        ("exit", "interrupted", "internal_error", "a"),
    ],
)
async def test_what_is_wrong_with_one_answer_is_no_others_affair(
    redis: Redis,
    runner: Runner,
    carla: User,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    question: str,
    status: str,
    error: str,
    answer: str,
):
    monkeypatch.setitem(ADAPTERS, "scripted", odd)
    turns = [await aask(carla, text) for text in ("one", question, "two")]
    reading = await follow(turns[1])
    one, wrong, two = [await closed(turn) for turn in turns]
    assert (wrong.status, wrong.error, wrong.answer) == (status, error, answer)
    assert reading.text == answer
    for healthy in (one, two):
        assert (healthy.status, healthy.answer, healthy.gen) == ("completed", "0 1 2 3 4 5 ", 1)
    assert "Loop broke" not in [record.message for record in caplog.records]
    assert (wrong.gen, wrong.cost_micros is None) == (1, not answer)


async def test_a_library_that_ends_the_process_while_a_turn_is_claimed_does_not(
    redis: Redis, runner: Runner, carla: User, monkeypatch: pytest.MonkeyPatch
):
    claim = progress.claim

    def leave(turn: Turn) -> bool:
        if turn.question == "poison":
            raise SystemExit
        return claim(turn)

    monkeypatch.setattr(progress, "claim", leave)
    poison = await aask(carla, "poison")
    assert (await closed(await aask(carla, "say:hola"))).status == "completed"
    assert not await redis.exists(presence.aboard_key(poison.pk))
    await stop_turn(await in_thread(saved, poison))


# --- While it waited --------------------------------------------------------------------------------------------------


async def test_a_model_that_is_switched_off_while_the_turn_waits(redis: Redis, carla: User, offer: Offer):
    model = await in_thread(offer, "fake-3t-0ms")
    turn = await aask(carla, "hola", model=model.key)
    model.enabled = False
    await in_thread(model.save)
    async with a_runner():
        turn = await closed(turn)
        await queue_is_empty(redis)
    assert (turn.status, turn.error, turn.cost_micros) == ("failed", "not_found", None)
    assert (await in_thread(reservation_of, turn)).state == Reservation.State.RELEASED
    assert (await follow(turn)).text == ""


async def test_a_plan_that_shrinks_while_the_turn_waits(redis: Redis, carla: User):
    def shrink() -> None:
        LanguageModel.objects.get(key="scripted")
        plan = Plan.objects.get(key="open")
        plan.best_tier = "demo"
        plan.save()

    turn = await aask(carla, "say:hola")
    await in_thread(shrink)
    async with a_runner():
        assert (await closed(turn)).status == "failed"


async def test_a_window_that_shrinks_while_the_turn_waits(redis: Redis, carla: User, offer: Offer):
    model = await in_thread(offer, "fake-3t-0ms", max_output=100)
    turn = await aask(carla, "x" * 12_000, model=model.key)
    model.context_window = 600
    await in_thread(model.save)
    async with a_runner():
        turn = await closed(turn)
    assert (turn.status, turn.error) == ("failed", "context_exceeded")


# --- Deleted meanwhile ------------------------------------------------------------------------------------------------


def delete(turn: Turn) -> None:
    deletion.delete_conversation(access.access_conversation(turn.owner_id, turn.conversation_id))


async def test_a_conversation_deleted_while_its_turn_runs_is_paid(
    redis: Redis, runner: Runner, carla: User, monkeypatch: pytest.MonkeyPatch
):
    turn = await aask(carla, "say:hola wait:0.3 say:mundo usage:5/6")
    await shown(turn)
    await in_thread(delete, turn)

    async def is_settled() -> bool:
        return not await in_thread(is_held, turn)

    await eventually(is_settled)
    record = await in_thread(record_of, turn)
    assert record.cost_micros == turn.input_tokens + 2 * record.output_tokens
    assert not await in_thread(Turn.objects.filter(pk=turn.pk).exists)


async def test_a_conversation_deleted_while_its_turn_runs_is_paid_though_redis_is_emptied(
    redis: Redis, runner: Runner, carla: User
):
    turn = await aask(carla, "say:hola wait:0.2 say:mundo wait:5")
    await shown(turn)
    await in_thread(delete, turn)
    await redis.flushall()
    await eventually(lambda: in_thread(record_of, turn))
    assert not await in_thread(is_held, turn)


async def test_a_conversation_deleted_while_its_turn_waits_costs_nothing(redis: Redis, carla: User):
    turn = await aask(carla, "say:hola")
    await in_thread(delete, turn)
    async with a_runner():
        await queue_is_empty(redis)
    assert await in_thread(record_of, turn) is None


# --- Another runner ---------------------------------------------------------------------------------------------------


async def test_a_turn_that_is_lost_is_no_longer_asked_for(
    redis: Redis, runner: Runner, carla: User, offer: Offer, provider: FakeProvider
):
    turn = await aask(carla, "hola", model=(await in_thread(offer, "fake-500t-10ms-f0")).key)
    await shown(turn)
    await redis.set(leases.lease_key(turn.pk), "another:2")

    async def is_closed() -> bool:
        return bool(provider.stats().aborted)

    await eventually(is_closed, seconds=2)
    await asyncio.sleep(0.1)
    found = await in_thread(saved, turn)
    assert (found.status, found.gen, found.answer) == ("streaming", 1, "")
    assert await in_thread(is_held, turn)
    await in_thread(Turn.objects.filter(pk=turn.pk).update, status="failed")


# --- Stores that are away ---------------------------------------------------------------------------------------------


async def test_an_emptied_redis_costs_an_answer_nothing(redis: Redis, runner: Runner, carla: User, offer: Offer):
    turn = await aask(carla, "hola", model=(await in_thread(offer, "fake-60t-10ms-f0")).key)
    reader = asyncio.create_task(follow(turn))
    await shown(turn, at_least=30)
    await redis.flushall()
    found = await closed(turn)
    assert (found.status, found.answer, found.gen) == ("completed", expected_text("fake-60t-10ms"), 2)
    assert (await reader).text == found.answer
    assert (await closed(await aask(carla, "say:hola"))).status == "completed"


@pytest.fixture
async def relayed(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    """Everything asynchronous in this loop reaches Redis through a relay."""
    async with relayed_redis() as (relay, client):
        redis_clients._clients.replace(client)
        yield relay
        await close_session()
        await close_async_redis()


async def test_redis_away_in_the_middle_costs_an_answer_nothing(relayed, carla: User, offer: Offer):
    async with a_runner():
        turn = await aask(carla, "hola", model=(await in_thread(offer, "fake-60t-10ms-f0")).key)
        reader = asyncio.create_task(follow(turn, seconds=15))
        await shown(turn, at_least=30)
        relayed.break_down()
        await asyncio.sleep(0.3)
        relayed.is_down = False
        found = await closed(turn)
        assert (found.status, found.answer) == ("completed", expected_text("fake-60t-10ms"))
        assert (await reader).text == found.answer


async def test_redis_away_at_the_end_does_not_keep_an_answer_from_being_saved(
    relayed, carla: User, monkeypatch: pytest.MonkeyPatch, settings: Settings
):
    monkeypatch.setattr(answering, "FLUSH_PATIENCE_SECONDS", 0.3)
    async with a_runner():
        turn = await aask(carla, "say:hola wait:0.3 say:mundo usage:5/6")
        await shown(turn)
        relayed.break_down()
        found = await closed(turn)
        assert (found.status, found.answer, found.cost_micros) == ("completed", "hola mundo ", 17)
        relayed.is_down = False


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner tries again sooner than it would."""
    monkeypatch.setattr(runner_module, "RETRY_PAUSES_SECONDS", (0.02, 0.05, 0.1))


@pytest.mark.stores
async def test_a_turn_is_run_wherever_its_database_connection_breaks_before_it_shows_something(
    redis: Redis, carla: User, offer: Offer, soon: None
):
    """While it is read, while its prompt is made, while it is claimed: it is tried again, and soon."""
    with breakable_databases() as databases:
        for statements in range(20):
            turn = await aask(carla, "say:hola wait:0.05")
            databases.cuts, databases.cut_after = 0, statements
            async with a_runner():
                assert await shown(turn) == "hola "
                databases.cut_after = None
                found = await closed(turn)
            assert (found.status, found.answer) == ("completed", "hola ")
            if not databases.cuts:
                break
    assert statements >= 3, "Nothing was cut: reading, pricing and claiming are three."


async def test_a_turn_is_run_when_its_databases_are_back(redis: Redis, carla: User, soon: None):
    turn = await aask(carla, "say:hola")
    with breakable_databases() as databases:
        databases.is_away = True
        async with a_runner():
            await asyncio.sleep(0.1)
            databases.is_away = False
            found = await closed(turn)
    assert (found.status, found.answer, found.gen) == ("completed", "hola ", 1)


async def test_a_turn_is_run_though_nobody_said_that_its_lease_was_taken(relayed, carla: User, soon: None):
    async with a_runner():
        turn = await aask(carla, "say:hola")
        await closed(turn)
        later = new_id()
        relayed.is_deaf_after = leases.lease_key(later).encode()
        turn = await aask(carla, "say:hola", turn_id=later)
        await until(lambda: relayed.is_deaf)
        await asyncio.sleep(0.01)
        relayed.is_deaf = False
        found = await closed(turn)
    assert (found.status, found.answer, found.gen) == ("completed", "hola ", 2)


async def test_an_answer_that_waits_for_the_history_is_kept_as_long_as_that_takes(
    redis: Redis, carla: User, soon: None, monkeypatch: pytest.MonkeyPatch
):
    """Its log would be gone after an hour."""
    monkeypatch.setattr(answering, "SAVE_PAUSES_SECONDS", ())
    monkeypatch.setattr(runner_module, "RETRY_PAUSES_SECONDS", (0.02,))
    monkeypatch.setattr(leases, "LEASE_MS", 300)
    monkeypatch.setattr(runner_module, "RECLAIM_SECONDS", 0.05)
    with breakable_databases() as databases:
        async with a_runner():
            turn = await aask(carla, "say:hola wait:0.1 say:mundo")
            await shown(turn)
            databases.is_away = True
            await asyncio.sleep(0.2)

            async def is_kept() -> bool:
                return await redis.ttl(log.log_key(turn.pk)) > 200

            for _ in range(2):  # by each try
                await redis.expire(log.log_key(turn.pk), 100)
                await eventually(is_kept, seconds=5)
            databases.is_away = False
            found = await closed(turn)
    assert (found.status, found.answer, found.gen) == ("completed", "hola mundo ", 1)


async def test_a_database_that_is_away_for_a_moment_is_waited_for(
    redis: Redis, runner: Runner, carla: User, monkeypatch: pytest.MonkeyPatch
):
    close, failures = progress.close, [OperationalError("database is locked")] * 2
    monkeypatch.setattr(answering, "SAVE_PAUSES_SECONDS", (0.05, 0.05, 0.05))

    def close_later(*args: object) -> bool:
        if failures:
            raise failures.pop()
        return close(*args)

    monkeypatch.setattr(progress, "close", close_later)
    turn = await closed(await aask(carla, "say:hola usage:5/6"))
    assert (turn.status, turn.answer, turn.cost_micros) == ("completed", "hola ", 17)


async def test_a_rewrite_on_its_way_does_not_empty_a_log_that_has_ended(
    redis: Redis, runner: Runner, carla: User, monkeypatch: pytest.MonkeyPatch
):
    """Redis is slow when the lease is taken again, and the answer is over meanwhile."""
    is_tried, may_go_on = asyncio.Event(), asyncio.Event()

    async def take_slowly(*args: Any, **kwargs: Any) -> Taken:
        is_tried.set()
        await may_go_on.wait()
        return await leases.take_lease(*args, **kwargs)

    monkeypatch.setattr(answering, "FLUSH_PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(writer_module, "take_lease", take_slowly)
    turn = await aask(carla, "say:hola wait:0.1 say:mundo usage:5/6")
    await shown(turn)
    await redis.delete(leases.lease_key(turn.pk))
    await is_tried.wait()
    await asyncio.sleep(0.3)  # it is over, and was waited for
    may_go_on.set()
    found = await closed(turn)
    await queue_is_empty(redis)
    await asyncio.sleep(0.05)
    assert (found.status, found.answer, found.gen, found.cost_micros) == ("completed", "hola mundo ", 2, 17)
    assert (await log.read_log(redis, turn.pk))[-1].kind == EntryKind.END
    assert not await redis.exists(leases.lease_key(turn.pk))


async def test_an_answer_is_saved_though_it_is_claimed_again_meanwhile(
    redis: Redis, runner: Runner, carla: User, monkeypatch: pytest.MonkeyPatch
):
    """The history is slow to say that the next generation is ours; saved under the one before, it would be lost."""
    claim, is_claimed, may_go_on = progress.claim, threading.Event(), threading.Event()

    def claim_slowly(turn: Turn) -> bool:
        if turn.gen == 0:
            return claim(turn)
        unseen = copy(turn)
        is_ours = claim(unseen)
        is_claimed.set()
        may_go_on.wait(PATIENCE_SECONDS)
        turn.__dict__.update(unseen.__dict__)
        return is_ours

    monkeypatch.setattr(answering, "FLUSH_PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(progress, "claim", claim_slowly)
    turn = await aask(carla, "say:hola wait:0.5 say:mundo usage:5/6")
    await shown(turn)
    await redis.delete(leases.lease_key(turn.pk))
    await until(is_claimed.is_set)
    await asyncio.sleep(0.3)
    may_go_on.set()
    found = await closed(turn)
    assert (found.status, found.answer, found.gen, found.cost_micros) == ("completed", "hola mundo ", 2, 17)


async def test_a_write_that_fails_for_good_is_paid_and_left_to_others(
    redis: Redis, runner: Runner, carla: User, monkeypatch: pytest.MonkeyPatch
):
    def fail(*args: object) -> bool:
        raise OperationalError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(answering, "SAVE_PAUSES_SECONDS", ())
        patch.setattr(progress, "close", fail)
        turn = await aask(carla, "say:hola usage:5/6")

        async def is_settled() -> bool:
            return not await in_thread(is_held, turn)

        await eventually(is_settled)
        await asyncio.sleep(0.1)
    assert (await in_thread(saved, turn)).status == "streaming"
    assert (await in_thread(record_of, turn)).cost_micros == 17
    assert await redis.xlen(queue.QUEUE) == 1
    assert EntryKind.OUTCOME in [entry.kind for entry in await log.read_log(redis, turn.pk)]
    await in_thread(Turn.objects.filter(pk=turn.pk).update, status="failed")


# --- The end of a runner ----------------------------------------------------------------------------------------------


async def test_a_runner_that_stops_finishes_what_it_has(redis: Redis, carla: User, settings: Settings):
    settings.DRAIN_SECONDS = 5
    async with a_runner():
        turn = await aask(carla, "say:hola wait:0.3 say:mundo")
        await shown(turn)
    found = await in_thread(saved, turn)
    assert (found.status, found.answer) == ("completed", "hola mundo ")


async def test_a_runner_that_stops_takes_nothing_new(redis: Redis, carla: User, settings: Settings):
    settings.DRAIN_SECONDS = 5
    stopping = asyncio.Event()
    task = asyncio.create_task(Runner().run(stopping))
    running_one = await aask(carla, "say:hola wait:0.4")
    await shown(running_one)
    stopping.set()
    await asyncio.sleep(0)
    late = await aask(carla, "say:tarde")
    await task
    assert (await in_thread(saved, running_one)).status == "completed"
    assert (await in_thread(saved, late)).status == "queued"


async def test_what_redis_gave_a_runner_while_it_stopped_does_not_wait(redis: Redis, carla: User, settings: Settings):
    settings.DRAIN_SECONDS = 5
    runner, stopping = Runner(), asyncio.Event()
    await redis.xgroup_create(queue.QUEUE, queue.GROUP, id="0", mkstream=True)
    turn = await aask(carla, "say:hola")
    await redis.xreadgroup(queue.GROUP, runner.name, {queue.QUEUE: ">"})
    stopping.set()
    await runner.run(stopping)
    assert (await in_thread(saved, turn)).status == "completed"


async def test_a_turn_that_needs_more_than_a_runner_knows_is_left_to_one_that_does(
    redis: Redis, carla: User, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runner_module, "RECLAIM_SECONDS", 0.1)
    turn = await aask(carla, "say:hola")
    await in_thread(Turn.objects.filter(pk=turn.pk).update, needs=needs.KNOWN + 1)
    async with a_runner():
        other = await aask(carla, "say:hola")
        assert (await closed(other)).status == "completed"
        await asyncio.sleep(0.3)
        found = await in_thread(saved, turn)
        assert (found.status, found.gen) == ("queued", 0)
        assert await redis.smembers(presence.aboard_key(turn.pk)) == set(), "it did not die with this"
    monkeypatch.setattr(needs, "KNOWN", needs.KNOWN + 1)
    async with a_runner():
        assert (await closed(turn)).status == "completed"


async def test_what_is_not_finished_in_time_is_interrupted_with_its_text(redis: Redis, carla: User, settings: Settings):
    settings.DRAIN_SECONDS = 0.1
    begun = time.monotonic()
    async with a_runner():
        turn = await aask(carla, "say:hola wait:30 say:mundo")
        await shown(turn)
    assert time.monotonic() - begun < 20
    found = await in_thread(saved, turn)
    assert (found.status, found.error, found.answer) == ("interrupted", "runner_lost", "hola ")
    assert found.usage_source == "estimated"
    assert (await in_thread(record_of, turn)).cost_micros == found.cost_micros > 0
    assert (await follow(turn)).text == "hola "


async def test_what_showed_nothing_is_left_to_the_next_runner(
    redis: Redis, carla: User, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    settings.DRAIN_SECONDS = 0.1
    monkeypatch.setattr(runner_module, "RECLAIM_SECONDS", 0.1)
    async with a_runner():
        turn = await aask(carla, "wait:0.3 say:hola")

        async def is_claimed() -> bool:
            return (await in_thread(saved, turn)).gen == 1

        await eventually(is_claimed)
    assert (await in_thread(saved, turn)).status == "streaming"
    settings.DRAIN_SECONDS = 5
    async with a_runner():
        found = await closed(turn)
    assert (found.status, found.answer, found.gen) == ("completed", "hola ", 2)


async def test_a_runner_that_is_stopped_at_any_moment_ends(redis: Redis):
    """Also while a command is being sent, when Python 3.11 may lose a cancellation."""
    for rounds in range(24):
        stopping = asyncio.Event()
        task = asyncio.create_task(Runner().run(stopping))
        for _ in range(rounds):
            await asyncio.sleep(0)
        stopping.set()
        await asyncio.wait({task}, timeout=10)
        has_ended = task.done()
        while not task.done():
            for one in asyncio.all_tasks() - {asyncio.current_task()}:
                one.cancel()
            await asyncio.wait({task}, timeout=0.1)
        assert has_ended, f"It hangs when it is stopped after {rounds} rounds."


async def test_a_runner_says_that_it_lives(redis: Redis):
    with pytest.raises(presence.NoRunner):
        await asyncio.to_thread(presence.require_runner)
    async with a_runner():

        async def is_alive() -> bool:
            with suppress(presence.NoRunner):
                await asyncio.to_thread(presence.require_runner)
                return True
            return False

        await eventually(is_alive, seconds=2)
    with pytest.raises(presence.NoRunner):
        await asyncio.to_thread(presence.require_runner)


@pytest.mark.parametrize("wrong_seconds", [-3_600, 3_600])
async def test_a_runner_lives_by_the_clock_of_redis(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, wrong_seconds: float
):
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + wrong_seconds)
        await presence.announce_runner(redis, "one")
    await asyncio.to_thread(presence.require_runner)
    seconds, _ = await redis.time()
    await redis.zadd(presence.ALIVE_KEY, {"one": seconds - presence.ALIVE_SECONDS - 1})
    with pytest.raises(presence.NoRunner):
        await asyncio.to_thread(presence.require_runner)


async def test_runners_that_are_long_gone_are_forgotten(redis: Redis, monkeypatch: pytest.MonkeyPatch):
    await redis.xgroup_create(queue.QUEUE, queue.GROUP, id="0", mkstream=True)
    await redis.xgroup_createconsumer(queue.QUEUE, queue.GROUP, "gone")
    monkeypatch.setattr(runner_module, "DEAD_CONSUMER_MS", -1)
    async with a_runner():

        async def is_forgotten() -> bool:
            names = [consumer["name"] for consumer in await redis.xinfo_consumers(queue.QUEUE, queue.GROUP)]
            return b"gone" not in names

        await eventually(is_forgotten, seconds=2)


def test_the_ledger_adds_up_after_all_of_it(carla: User, queue_length: Callable[[], int]):
    """The fixture `ledger_balances` looks after every test of this folder; this one shows that it looks."""
    turn = ask(carla)
    assert queue_length() == 1
    assert UsageRecord.objects.count() == 0
    assert period_of(carla).reserved_micros == reservation_of(turn).amount_micros > 0
    sync_redis().flushall()


async def test_a_turn_that_two_loops_want_to_start_is_started_once(redis: Redis, monkeypatch: pytest.MonkeyPatch):
    """Both wait for room: one has read it from the queue, the other has reclaimed it."""
    runner, handled, turn_id = Runner(), [], new_id()
    release = asyncio.Event()

    async def handle(turn_id: UUID, _entry: bytes, _request_id: str) -> None:
        handled.append(turn_id)
        await release.wait()

    monkeypatch.setattr(runner, "_handle", handle)
    runner._has_room.clear()
    loops = [asyncio.create_task(runner._start(turn_id, b"1-0", "")) for _ in range(2)]
    await asyncio.sleep(0)
    runner._has_room.set()
    await asyncio.gather(*loops)
    await asyncio.sleep(0)
    release.set()
    await asyncio.gather(*runner._tasks.values())
    assert handled == [turn_id]
