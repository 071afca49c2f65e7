"""A turn whose runner died: run again if nothing was shown, else closed with what its log says."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from django.db import OperationalError
from pytest_django import Settings
from redis.asyncio import Redis

from accounts.models import User
from billing import metering
from billing.models import Reservation
from chat.llm.pricing import Stamp, price_of, read_stamp
from chat.llm.providers import ADAPTERS
from chat.llm.providers.base import Delta, Event, Finish, ModelRequest
from chat.models import LanguageModel
from chat.turns import leases, log, presence
from chat.turns import runner as runner_module
from chat.turns import writer as writer_module
from chat.turns.closing import can_continue
from chat.turns.log import Entry, EntryKind, encode_begun, encode_entry, encode_outcome
from chat.turns.outcomes import priced_outcome
from chat.turns.queue import GROUP, QUEUE
from chat.turns.rescue import MAX_GENERATIONS, close_without_runner, outcome_from_log, read_remains
from chat.turns.runner import Runner
from chat.turns.stopping import stop_turn
from core.alerts import Alert, list_alerts
from core.redis_clients import sync_redis
from core.threads import in_thread
from history import progress
from history.models import Turn, new_id
from history.progress import Outcome
from testbed.provider import FakeProvider, expected_text
from tests.chat.asking import aask, closed, eventually, is_held, record_of, reservation_of, saved, until
from tests.chat.conftest import Offer, running
from tests.chat.dying import elsewhere, kill
from tests.chat.test_stamps import SCRIPTED, edit
from tests.chat.writing import follow

Die = Callable[..., Awaitable[Turn]]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    """Runners find the turns of dead ones at once."""
    settings.DRAIN_SECONDS = 5
    monkeypatch.setattr(leases, "LEASE_MS", 300)
    monkeypatch.setattr(runner_module, "RECLAIM_SECONDS", 0.05)


@pytest.fixture
def die(redis: Redis) -> Die:
    """Return a function with which a runner takes a turn, writes `entries` into its log, and is never seen again.

    With more `deaths` so many runners do, one after the other.
    """

    async def die(turn: Turn, *entries: tuple[EntryKind, str], deaths: int = 1, is_claimed: bool = True) -> Turn:
        if not await redis.exists(QUEUE) or not await redis.xinfo_groups(QUEUE):
            await redis.xgroup_create(QUEUE, GROUP, id="0", mkstream=True)
        await redis.xreadgroup(GROUP, "dead", {QUEUE: ">"})
        for _ in range(deaths):
            await presence.board_turn(redis, turn.pk, f"dead-{new_id()}")
            assert not is_claimed or await in_thread(progress.claim, turn)
        at = {EntryKind.TEXT: 0, EntryKind.REASONING: 0}
        for kind, text in entries:
            entry = Entry(turn.pk.bytes, kind, turn.gen, at.get(kind, 0), text)
            await redis.xadd(log.log_key(turn.pk), {b"e": encode_entry(entry)})
            if kind in at:
                at[kind] += len(text)
        return turn

    return die


async def scripted() -> LanguageModel:
    return await in_thread(LanguageModel.objects.get, key="scripted")


async def test_what_showed_nothing_runs_again(redis: Redis, carla: User, die: Die):
    turn = await die(await aask(carla, "say:hola"))
    async with running():
        turn = await closed(turn)
    assert (turn.status, turn.answer, turn.gen) == ("completed", "hola ", 2)
    assert await redis.xlen(QUEUE) == 0


async def test_who_answers_alone_is_nothing_that_was_shown(redis: Redis, carla: User, die: Die):
    begun = encode_begun(await scripted())
    turn = await die(await aask(carla, "say:hola"), (EntryKind.BEGUN, begun))
    async with running():
        assert (await closed(turn)).gen == 2


async def test_a_reader_of_the_dead_runner_gets_the_new_text(redis: Redis, carla: User, die: Die):
    turn = await die(await aask(carla, "say:hola"))
    async with running():
        reading = await follow(turn)
    assert (reading.text, reading.generations) == ("hola ", [2])


async def test_what_was_shown_is_kept_and_closed_as_interrupted(
    redis: Redis, carla: User, die: Die, offer: Offer, provider: FakeProvider
):
    model = await in_thread(offer, "fake-3t-0ms")
    turn = await die(
        await aask(carla, "hola", model="auto"),
        (EntryKind.BEGUN, encode_begun(model, "status-500", "overloaded")),
        (EntryKind.REASONING, "hm"),
        (EntryKind.TEXT, "hola "),
        (EntryKind.TEXT, "mun"),
    )
    async with running():
        turn = await closed(turn)
        reading = await follow(turn)
    assert (turn.status, turn.error, turn.gen) == ("interrupted", "runner_lost", 1)
    assert (turn.answer, turn.reasoning) == (reading.text, reading.reasoning) == ("hola mun", "hm")
    assert (turn.model, turn.provider, turn.usage_source) == ("fake-3t-0ms", "compatible", "estimated")
    assert (turn.instead_of, turn.instead_because) == ("status-500", "overloaded")
    assert (await in_thread(record_of, turn)).cost_micros == turn.cost_micros > 0
    assert can_continue(turn)
    assert provider.stats().started == 0
    assert await redis.xlen(QUEUE) == 0


async def test_how_long_it_thought_is_read_from_the_log(redis: Redis, carla: User):
    """By when its entries came. What an earlier generation thought is void."""
    turn = await aask(carla, "hola")

    async def add(gen: int, kind: EntryKind, text: str, at_ms: int) -> None:
        entry = encode_entry(Entry(turn.pk.bytes, kind, gen, 0, text))
        await redis.xadd(log.log_key(turn.pk), {b"e": entry}, id=f"{at_ms}-0")

    async def thought_ms() -> int:
        return (await in_thread(outcome_from_log, turn, await read_remains(redis, turn.pk))).reasoning_ms

    await add(1, EntryKind.REASONING, "old", 1_000)
    await add(2, EntryKind.BEGUN, encode_begun(await scripted()), 5_000)
    await add(2, EntryKind.REASONING, "hm", 6_000)
    assert await thought_ms() == 0
    await add(2, EntryKind.REASONING, "so", 6_700)
    assert await thought_ms() == 700
    await add(2, EntryKind.TEXT, "hola", 7_500)
    await add(2, EntryKind.TEXT, "mundo", 9_000)
    assert await thought_ms() == 1_500


async def test_a_turn_whose_runner_died_costs_what_it_did_when_it_began(
    redis: Redis, carla: User, olga: User, die: Die
):
    turn = await aask(carla, "hola")
    model = await in_thread(LanguageModel.objects.get, key="scripted")
    turn = await die(
        turn, (EntryKind.BEGUN, encode_begun(model, price=price_of(model))), (EntryKind.TEXT, "hola mundo")
    )
    await in_thread(edit, olga, input_price="500", markup_percent=900)
    async with running():
        turn = await closed(turn)
    assert (turn.status, turn.usage_source) == ("interrupted", "estimated")
    assert turn.cost_micros == turn.input_tokens + 2 * turn.output_tokens
    stamp = read_stamp(turn.price)
    assert stamp == Stamp(**SCRIPTED, markup_percent=0, as_of="", provider_micros=turn.cost_micros)
    assert (await in_thread(record_of, turn)).spent_micros == turn.cost_micros


async def test_who_answered_is_the_model_that_was_asked_for_if_the_log_does_not_say(
    redis: Redis, carla: User, die: Die
):
    turn = await die(await aask(carla, "hola"), (EntryKind.TEXT, "hola"))
    async with running():
        turn = await closed(turn)
    assert (turn.status, turn.model) == ("interrupted", "scripted")


async def test_an_answer_that_was_whole_is_completed_as_its_provider_counted(redis: Redis, carla: User, die: Die):
    model = await scripted()
    turn = await aask(carla, "hola")
    ended = Outcome("completed", "hola mundo", "hm", finish_reason="stop")
    outcome = priced_outcome(turn, ended, model=model)
    outcome = msgspec.structs.replace(
        outcome, input_tokens=12, output_tokens=34, usage_source="provider", cost_micros=80
    )
    turn = await die(
        turn,
        (EntryKind.BEGUN, encode_begun(model)),
        (EntryKind.REASONING, "hm"),
        (EntryKind.TEXT, "hola mundo"),
        (EntryKind.OUTCOME, encode_outcome(outcome)),
    )
    async with running():
        turn = await closed(turn)
    assert (turn.status, turn.error, turn.finish_reason) == ("completed", "", "stop")
    assert (turn.answer, turn.reasoning, turn.usage_source) == ("hola mundo", "hm", "provider")
    record = await in_thread(record_of, turn)
    assert (record.input_tokens, record.output_tokens, record.cost_micros) == (12, 34, 80)


async def test_an_answer_whose_middle_is_gone_is_closed_with_its_beginning(redis: Redis, carla: User, die: Die):
    """Its log says that it was whole, and lacks what Redis had lost before its runner wrote on."""
    model = await scripted()
    turn = await aask(carla, "hola")
    outcome = priced_outcome(turn, Outcome("completed", "hola mundo!", finish_reason="stop"), model=model)
    turn = await die(
        turn,
        (EntryKind.BEGUN, encode_begun(model)),
        (EntryKind.TEXT, "hola"),
        (EntryKind.TEXT, " mundo"),
        (EntryKind.TEXT, "!"),
        (EntryKind.OUTCOME, encode_outcome(outcome)),
    )
    middle, *_ = (await redis.xrange(log.log_key(turn.pk)))[2]
    await redis.xdel(log.log_key(turn.pk), middle)
    async with running():
        turn = await closed(turn)
    assert (turn.status, turn.error, turn.answer) == ("interrupted", "runner_lost", "hola")
    assert turn.usage_source == "estimated"
    assert (await in_thread(record_of, turn)).cost_micros == turn.cost_micros > 0


@pytest.mark.parametrize(
    "hostile",
    [
        {"output_tokens": 2**64 - 1},
        {"input_tokens": 3_000_000_000},
        {"cost_micros": 2**63},
        {"status": "streaming"},
        {"error": "x" * 41},
        {"price": "{"},
        {"price": '{"provider_micros": 18446744073709551615}'},
    ],
    ids=str,
)
async def test_an_outcome_that_no_row_can_hold_is_not_believed(
    redis: Redis, carla: User, die: Die, hostile: dict[str, Any]
):
    model = await scripted()
    turn = await aask(carla, "hola")
    ended = msgspec.to_builtins(priced_outcome(turn, Outcome("completed", "hola"), model=model))
    turn = await die(
        turn,
        (EntryKind.BEGUN, encode_begun(model)),
        (EntryKind.TEXT, "hola"),
        (EntryKind.OUTCOME, msgspec.json.encode(ended | hostile).decode()),
    )
    async with running():
        turn = await closed(turn)
    assert (turn.status, turn.error, turn.answer) == ("interrupted", "runner_lost", "hola")
    assert turn.usage_source == "estimated"
    assert (await in_thread(record_of, turn)).cost_micros == turn.cost_micros > 0


async def test_who_answers_is_not_believed_if_it_cannot_be_read(redis: Redis, carla: User, die: Die):
    turn = await die(await aask(carla, "hola"), (EntryKind.BEGUN, "{"), (EntryKind.TEXT, "hola"))
    async with running():
        turn = await closed(turn)
    assert (turn.status, turn.answer, turn.model) == ("interrupted", "hola", "scripted")


async def test_a_failure_that_was_not_saved_is_saved(redis: Redis, carla: User, die: Die):
    turn = await aask(carla, "hola")
    failed = encode_outcome(Outcome("failed", error="overloaded"))
    turn = await die(turn, (EntryKind.OUTCOME, failed))
    async with running():
        turn = await closed(turn)
    assert (turn.status, turn.error) == ("failed", "overloaded")
    assert (await in_thread(reservation_of, turn)).state == Reservation.State.RELEASED


async def test_an_answer_that_was_saved_and_not_announced_is_announced(redis: Redis, carla: User, die: Die):
    turn = await die(await aask(carla, "hola"), (EntryKind.TEXT, "hola"))
    await in_thread(progress.close, turn, Outcome("completed", answer="hola"))
    async with running():
        assert (await follow(turn)).text == "hola"

        async def is_done() -> bool:
            return not await redis.xlen(QUEUE)

        await eventually(is_done)
    assert (await in_thread(saved, turn)).status == "completed"
    await in_thread(metering.release, turn.pk)


@pytest.mark.parametrize("is_claimed", [True, False], ids=["claimed", "before they claimed it"])
async def test_what_two_runners_died_with_is_given_to_no_third(redis: Redis, carla: User, die: Die, is_claimed: bool):
    turn = await die(await aask(carla, "say:hola"), deaths=2, is_claimed=is_claimed)
    async with running():
        reading = await follow(turn)
        turn = await closed(turn)
    assert (turn.status, turn.error, turn.gen, turn.cost_micros) == ("failed", "given_up", 2 * is_claimed, None)
    assert (await in_thread(reservation_of, turn)).state == Reservation.State.RELEASED
    assert reading.text == ""
    assert await redis.xlen(QUEUE) == 0
    alert = await eventually(lambda: in_thread(alert_of_given_up))
    assert alert.fields == {"turn_id": str(turn.pk), "model": "scripted"}
    assert "hola" not in repr(alert)


def alert_of_given_up() -> Alert | None:
    return next((alert for alert in list_alerts() if alert.subject == "runners:given_up:scripted"), None)


async def test_what_one_runner_died_with_runs_again(redis: Redis, carla: User, die: Die):
    turn = await die(await aask(carla, "say:hola"))
    async with running():
        turn = await closed(turn)
    assert (turn.status, turn.gen) == ("completed", 2)
    assert not await redis.exists(presence.aboard_key(turn.pk))
    assert alert_of_given_up() is None


async def test_runners_that_were_told_to_stop_did_not_die(redis: Redis, carla: User, die: Die):
    """Two are killed while they drain, one without warning; the fourth answers."""
    turn = await aask(carla, "wait:0.5 say:hola")

    async def is_aboard() -> bool:
        return bool(await redis.exists(presence.aboard_key(turn.pk)))

    async def is_left() -> bool:
        return not await is_aboard()

    for _ in range(2):
        stopping, runner = asyncio.Event(), Runner()
        task = asyncio.create_task(runner.run(stopping))
        await eventually(is_aboard)
        stopping.set()
        await eventually(is_left)
        kill(runner, task)
    await die(await in_thread(saved, turn))
    async with running():
        turn = await closed(turn)
    assert (turn.status, turn.answer) == ("completed", "hola ")


async def test_a_runner_that_left_a_turn_for_later_did_not_die(
    redis: Redis, carla: User, die: Die, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> bool:
        raise OperationalError("away")

    turn = await die(await aask(carla, "say:hola"))
    with monkeypatch.context() as patch:
        patch.setattr(runner_module, "RETRY_PAUSES_SECONDS", ())
        patch.setattr(progress, "claim", fail)
        async with running() as runner:
            await eventually(lambda: redis.sismember(presence.aboard_key(turn.pk), runner.name))
            await until(lambda: not runner._tasks)
    async with running():
        assert (await closed(turn)).status == "completed"


async def test_a_turn_that_claims_too_often_ends_though_redis_forgot_who_died(redis: Redis, carla: User, die: Die):
    turn = await die(await aask(carla, "say:hola"), deaths=MAX_GENERATIONS)
    await redis.delete(presence.aboard_key(turn.pk))
    async with running():
        turn = await closed(turn)
    assert (turn.status, turn.error, turn.cost_micros) == ("failed", "runner_lost", None)


async def test_a_question_that_kills_its_runners_is_given_up_and_those_beside_it_are_answered(
    redis: Redis, carla: User, monkeypatch: pytest.MonkeyPatch
):
    """All six are silent when the first runner dies. The second runs those it had on board one by one."""
    asked: list[str] = []
    ours: list[tuple[Runner, asyncio.Task[None]]] = []

    async def stream(request: ModelRequest) -> AsyncGenerator[Event]:
        question = request.messages[-1].text
        asked.append(question)
        await asyncio.sleep(0.1)
        if question == "poison":
            kill(*ours.pop())
        await asyncio.sleep(0.2)
        yield Delta(question)
        yield Finish("stop", None)

    monkeypatch.setitem(ADAPTERS, "scripted", stream)
    monkeypatch.setattr(writer_module, "LEASE_MS", leases.LEASE_MS)
    monkeypatch.setattr(writer_module, "RENEW_SECONDS", 0.1)
    healthy = [await aask(carla, f"healthy {number}") for number in range(3)]
    poison = await aask(carla, "poison")
    healthy += [await aask(carla, f"healthy {number}") for number in range(3, 5)]
    died = 0
    while not (found := [await in_thread(saved, turn) for turn in (poison, *healthy)]) or any(
        turn.is_open for turn in found
    ):
        if not ours:
            died += 1
            runner = Runner()
            ours.append((runner, asyncio.create_task(runner.run(asyncio.Event()))))
        await asyncio.sleep(0.02)
    kill(*ours.pop())
    assert (found[0].status, found[0].error, found[0].cost_micros) == ("failed", "given_up", None)
    assert [(turn.status, turn.answer) for turn in found[1:]] == [("completed", f"healthy {n}") for n in range(5)]
    assert (asked.count("poison"), died) == (2, 3)
    assert await eventually(lambda: in_thread(alert_of_given_up))
    assert (await in_thread(reservation_of, poison)).state == Reservation.State.RELEASED


async def test_a_question_that_blocks_its_runners_is_given_up_and_those_beside_it_are_answered(
    redis: Redis, carla: User, monkeypatch: pytest.MonkeyPatch
):
    """The runner stands still for longer than its leases last, and another takes its turns: twice."""
    asked: list[str] = []
    turns: list[Turn] = []

    def take_all() -> None:
        for turn in map(saved, turns):
            if turn.is_open and progress.claim(turn):
                sync_redis().set(leases.lease_key(turn.pk), f"other:{turn.gen}", px=leases.LEASE_MS)

    async def stream(request: ModelRequest) -> AsyncGenerator[Event]:
        question = request.messages[-1].text
        asked.append(question)
        await asyncio.sleep(0.2)
        if question == "poison":
            time.sleep(0.5)  # noqa: ASYNC251
            elsewhere(take_all)
        await asyncio.sleep(0.2)
        yield Delta(question)
        yield Finish("stop", None)

    monkeypatch.setitem(ADAPTERS, "scripted", stream)
    monkeypatch.setattr(writer_module, "LEASE_MS", leases.LEASE_MS)
    monkeypatch.setattr(writer_module, "RENEW_SECONDS", 0.1)
    turns += [await aask(carla, question) for question in ("healthy 0", "poison", "healthy 1")]
    async with running():
        found = [await closed(turn) for turn in turns]
    assert [turn.status for turn in found] == ["completed", "failed", "completed"]
    assert found[1].error == "given_up"
    assert asked.count("poison") == 2
    assert asked.count("healthy 0") > 1  # it was lost, too


async def silent_suspects(carla: User, die: Die) -> list[Turn]:
    """Return two turns that a runner died with, and that will be silent for a minute."""
    return [await die(await aask(carla, "wait:60 say:hola")) for _ in range(2)]


async def generations(turns: list[Turn]) -> list[int]:
    return sorted([(await in_thread(saved, turn)).gen for turn in turns])


async def test_a_silent_turn_that_a_runner_died_with_keeps_another_waiting_for_a_short_time(
    redis: Redis, carla: User, die: Die, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runner_module, "MAX_SUSPECT_SECONDS", 0.5)
    turns = await silent_suspects(carla, die)

    async def are_both_run() -> bool:
        return await generations(turns) == [2, 2]

    async with running():
        await eventually(are_both_run)
        for turn in turns:
            await stop_turn(await in_thread(saved, turn))
            assert (await closed(turn)).status == "stopped"


async def test_a_turn_that_waits_for_another_has_a_lease_and_is_stopped_at_once(
    redis: Redis, carla: User, die: Die, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(runner_module, "MAX_SUSPECT_SECONDS", 60)
    monkeypatch.setattr(runner_module, "SUSPECT_SECONDS", 0.05)
    turns = await silent_suspects(carla, die)

    async def is_one_run() -> bool:
        return await generations(turns) == [1, 2]

    async def have_leases() -> bool:
        return len(await leases.find_holders(redis, [turn.pk for turn in turns])) == 2

    async with running() as runner:
        await eventually(is_one_run)
        await asyncio.sleep(2 * leases.LEASE_MS / 1_000)
        await eventually(have_leases)
        [waiting, other] = sorted([await in_thread(saved, turn) for turn in turns], key=lambda turn: turn.gen)
        aboard = await redis.smembers(presence.aboard_key(waiting.pk))
        assert runner.name.encode() not in aboard  # if it dies now, that was not with this turn
        await stop_turn(waiting)
        assert (await closed(waiting)).status == "stopped"
        assert (await in_thread(saved, other)).is_open
        await stop_turn(other)
        assert (await closed(other)).status == "stopped"


async def test_a_turn_that_waits_for_another_is_given_back_when_its_runner_stops(
    redis: Redis, carla: User, die: Die, monkeypatch: pytest.MonkeyPatch, settings: Settings
):
    """The next runner that looks may have it: nobody needs to wait until the entry is old again."""
    settings.DRAIN_SECONDS = 0.1
    monkeypatch.setattr(runner_module, "SUSPECT_SECONDS", 0.05)
    turns = await silent_suspects(carla, die)

    async def is_one_waiting() -> bool:
        holders = await leases.find_holders(redis, [turn.pk for turn in turns])
        return await generations(turns) == [1, 2] and len(holders) == 2

    async with running():
        await eventually(is_one_waiting)
        monkeypatch.setattr(leases, "LEASE_MS", 60_000)
    pending = await redis.xpending_range(QUEUE, GROUP, "-", "+", 10)
    assert [entry["time_since_delivered"] >= 60_000 for entry in pending] == [True, True]


async def test_a_turn_whose_runner_lives_is_left_alone(redis: Redis, carla: User, die: Die):
    turn = await die(await aask(carla, "say:hola"))
    await redis.set(leases.lease_key(turn.pk), "alive:1")
    async with running():
        for _ in range(20):
            await redis.pexpire(leases.lease_key(turn.pk), 5_000)
            assert (await in_thread(saved, turn)).gen == 1
        await redis.delete(leases.lease_key(turn.pk))
        assert (await closed(turn)).gen == 2


async def test_a_turn_that_was_erased_is_taken_out_of_the_queue(redis: Redis, carla: User, die: Die):
    turn = await die(await aask(carla, "say:hola"))
    await in_thread(Turn.objects.filter(pk=turn.pk).delete)
    async with running():

        async def is_done() -> bool:
            return not await redis.xlen(QUEUE)

        await eventually(is_done)
    assert await in_thread(is_held, turn)  # the sweep releases it
    await in_thread(metering.release, turn.pk)


async def test_several_deaths_at_once_are_all_taken_care_of(redis: Redis, carla: User, die: Die):
    turns = [await aask(carla, f"say:{number}") for number in range(6)]
    for number, turn in enumerate(turns):
        await die(turn, *([(EntryKind.TEXT, "begun")] if number % 2 else []))
    async with running(), running():
        found = [await closed(turn) for turn in turns]
    assert [turn.status for turn in found] == ["completed", "interrupted"] * 3
    assert [turn.answer for turn in found] == ["0 ", "begun", "2 ", "begun", "4 ", "begun"]


async def test_closing_takes_the_lease_that_a_slow_runner_could_renew(redis: Redis, carla: User, die: Die):
    turn = await die(await aask(carla, "say:hola"), (EntryKind.TEXT, "hola"))
    await redis.set(leases.lease_key(turn.pk), "slow:1")
    assert not await close_without_runner(redis, turn, Outcome("interrupted", answer="hola"), closer="me")
    assert (await in_thread(saved, turn)).status == "streaming"
    await redis.delete(leases.lease_key(turn.pk))
    assert await close_without_runner(redis, turn, Outcome("interrupted", answer="hola"), closer="me")
    assert (await in_thread(saved, turn)).status == "interrupted"


async def test_who_closes_too_late_tells_nobody_that_it_is_over(redis: Redis, carla: User, die: Die):
    """Another runner has claimed the turn meanwhile: it is being written."""
    turn = await die(await aask(carla, "say:hola"))
    stale = await in_thread(saved, turn)
    await in_thread(progress.claim, turn)
    assert not await close_without_runner(redis, stale, Outcome("interrupted"), closer="me")
    assert EntryKind.END not in [entry.kind for entry in await log.read_log(redis, turn.pk)]
    assert await redis.get(leases.lease_key(turn.pk)) is None
    await in_thread(Turn.objects.filter(pk=turn.pk).update, status="failed")


async def test_a_runner_that_dies_again_and_again_does_not_lose_the_turn(
    redis: Redis, carla: User, die: Die, offer: Offer, settings: Settings
):
    """The first dies silent, the second is drained in the middle: its text is kept."""
    model = await in_thread(offer, "fake-200t-10ms-f0")
    turn = await die(await aask(carla, "hola", model=model.key))
    settings.DRAIN_SECONDS = 0
    async with running():

        async def is_shown() -> bool:
            return bool(log.replay(await log.read_log(redis, turn.pk)).text)

        await eventually(is_shown)
    turn = await in_thread(saved, turn)
    assert (turn.status, turn.gen) == ("interrupted", 2)
    assert expected_text(model.key).startswith(turn.answer) != ""
