"""What beat repairs: every step may run twice, or beside anybody."""

import asyncio
import datetime as dt

import pytest
import redis as redis_client
from django.db import connections
from django.utils import timezone
from pytest_django import Settings
from redis.asyncio import Redis

from accounts.models import User
from billing import metering
from billing.models import Reservation, UsageRecord
from chat.models import LanguageModel
from chat.tasks import sweep_turns
from chat.turns import leases, log, queue, sweeping
from chat.turns.closing import can_continue
from chat.turns.log import Entry, EntryKind, encode_begun, encode_entry
from chat.turns.rescue import MAX_GENERATIONS
from chat.turns.sweeping import repair_turns, settle_unsettled
from core import sweeps
from core.redis_clients import sync_redis
from core.threads import in_thread
from history import progress
from history.models import Turn, new_id
from history.progress import Outcome
from tests.chat.asking import aask, ask, closed, eventually, is_held, period_of, record_of, reservation_of, saved
from tests.chat.conftest import running
from tests.chat.dying import grow_old
from tests.chat.writing import follow
from tests.services import STORES


def everything() -> list[object]:
    """All that a sweep may change."""
    return [
        *Turn.objects.order_by("pk").values(),
        *Reservation.objects.order_by("pk").values(),
        *UsageRecord.objects.order_by("pk").values(),
        sync_redis().xrange("turns"),
        sorted(key for key in sync_redis().scan_iter("turn:*")),
    ]


async def sweep_twice() -> None:
    """Sweep, and see that a second time changes nothing."""
    await repair_turns()
    before = await in_thread(everything)
    await repair_turns()
    assert await in_thread(everything) == before


def queued(turn: Turn) -> int:
    """How often the turn is in the queue."""
    return [fields[b"turn"] for _, fields in sync_redis().xrange("turns")].count(turn.pk.bytes)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A streaming turn without a runner is an orphan at once."""
    monkeypatch.setattr(sweeping, "ORPHAN_SECONDS", 0)


# --- Queued turns -----------------------------------------------------------------------------------------------------


async def test_a_turn_without_a_queue_entry_gets_one(redis: Redis, carla: User):
    turn = await aask(carla)
    await redis.flushall()
    await in_thread(grow_old, turn, 11)
    await sweep_twice()
    assert queued(turn) == 1
    async with running():
        assert (await closed(turn)).status == "completed"


async def test_a_turn_that_could_not_be_queued_gets_an_entry(
    redis: Redis, carla: User, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        down = redis_client.Redis.from_url("redis://127.0.0.1:1/0")
        patch.setattr(queue, "sync_redis", lambda: down)
        turn = await aask(carla)
    assert queued(turn) == 0
    await in_thread(grow_old, turn, 11)
    await sweep_twice()
    assert queued(turn) == 1


async def test_a_turn_that_is_on_its_way_into_the_queue_is_left_alone(redis: Redis, carla: User):
    turn = await aask(carla)
    await redis.flushall()
    await sweep_twice()
    assert queued(turn) == 0


async def test_a_turn_that_has_its_queue_entry_is_left_alone(redis: Redis, carla: User):
    turn = await aask(carla)
    await in_thread(grow_old, turn, 200)
    await sweep_twice()
    assert queued(turn) == 1
    assert (await in_thread(saved, turn)).status == "queued"


async def test_a_turn_that_waited_too_long_failed_and_costs_nothing(redis: Redis, carla: User, settings: Settings):
    turn = await aask(carla)
    await in_thread(grow_old, turn, settings.QUEUE_SECONDS + 1)
    await sweep_twice()
    found = await in_thread(saved, turn)
    assert (found.status, found.error, found.cost_micros, found.gen) == ("failed", "queue_timeout", None, 0)
    assert (await in_thread(reservation_of, turn)).state == Reservation.State.RELEASED
    assert (await follow(turn)).text == ""
    async with running():

        async def is_taken() -> bool:
            return not await redis.xlen(queue.QUEUE)

        await eventually(is_taken)
    assert (await in_thread(saved, turn)).status == "failed"


# --- Streaming turns --------------------------------------------------------------------------------------------------


async def streaming(carla: User, text: str = "") -> Turn:
    """A turn whose runner died, and whose queue entry is gone."""
    turn = await aask(carla)
    await in_thread(progress.claim, turn)
    await in_thread(sync_redis().flushall)
    if text:
        model = await in_thread(LanguageModel.objects.get, key="scripted")
        for entry in (
            Entry(turn.pk.bytes, EntryKind.BEGUN, 1, 0, encode_begun(model)),
            Entry(turn.pk.bytes, EntryKind.TEXT, 1, 0, text),
        ):
            sync_redis().xadd(log.log_key(turn.pk), {b"e": encode_entry(entry)})
    return turn


async def test_a_turn_with_a_lease_is_left_alone(redis: Redis, carla: User, impatient: None):
    turn = await streaming(carla)
    await redis.set(leases.lease_key(turn.pk), "somebody:1")
    await sweep_twice()
    assert (await in_thread(saved, turn)).status == "streaming"


async def test_a_turn_is_an_orphan_only_after_a_while(redis: Redis, carla: User, monkeypatch: pytest.MonkeyPatch):
    turn = await streaming(carla, "hola")
    await sweep_twice()
    assert (await in_thread(saved, turn)).status == "streaming"
    monkeypatch.setattr(sweeping, "ORPHAN_SECONDS", 0)
    await sweep_twice()
    assert (await in_thread(saved, turn)).status == "interrupted"


async def test_a_lease_that_comes_back_starts_the_while_over(
    redis: Redis, carla: User, monkeypatch: pytest.MonkeyPatch
):
    turn = await streaming(carla, "hola")
    await repair_turns()
    await redis.set(leases.lease_key(turn.pk), "somebody:1")
    await repair_turns()
    await redis.delete(leases.lease_key(turn.pk))
    assert not await redis.exists(f"turn:{turn.pk}:orphan")
    await repair_turns()
    assert (await in_thread(saved, turn)).status == "streaming"


async def test_an_orphan_is_closed_with_its_text(redis: Redis, carla: User, impatient: None):
    turn = await streaming(carla, "hola")
    await sweep_twice()
    found = await in_thread(saved, turn)
    assert (found.status, found.error, found.answer, found.model) == ("interrupted", "runner_lost", "hola", "scripted")
    assert (await in_thread(record_of, turn)).cost_micros == found.cost_micros > 0
    assert (await in_thread(reservation_of, turn)).state == Reservation.State.SETTLED
    assert (await follow(turn)).text == "hola"


async def test_an_orphan_without_a_word_is_run_again(redis: Redis, carla: User, impatient: None):
    turn = await streaming(carla)
    await sweep_twice()
    assert (await in_thread(saved, turn)).status == "streaming"
    assert queued(turn) == 1
    async with running():
        found = await closed(turn)
    assert (found.status, found.answer, found.gen) == ("completed", "hola ", 2)


async def test_an_orphan_without_a_word_that_is_in_the_queue_is_not_put_there_again(
    redis: Redis, carla: User, impatient: None
):
    turn = await aask(carla)
    await in_thread(progress.claim, turn)
    await sweep_twice()
    assert (await in_thread(saved, turn)).status == "streaming"
    assert queued(turn) == 1


async def test_an_orphan_that_was_claimed_too_often_without_a_word_failed_and_costs_nothing(
    redis: Redis, carla: User, impatient: None
):
    turn = await streaming(carla)
    while turn.gen < MAX_GENERATIONS:
        await in_thread(progress.claim, turn)
    await sweep_twice()
    await check_failed_for_nothing(turn)


async def test_an_orphan_without_a_word_that_no_runner_takes_fails_in_the_end(
    redis: Redis, carla: User, impatient: None, settings: Settings
):
    turn = await streaming(carla)
    await repair_turns()
    settings.QUEUE_SECONDS = 0
    await asyncio.sleep(0.01)
    await repair_turns()
    await check_failed_for_nothing(turn)


async def check_failed_for_nothing(turn: Turn) -> None:
    found = await in_thread(saved, turn)
    assert (found.status, found.error, found.answer) == ("failed", "runner_lost", "")
    assert (found.cost_micros, can_continue(found)) == (None, False)
    assert (await in_thread(reservation_of, turn)).state == Reservation.State.RELEASED


async def test_an_orphan_is_seen_behind_many_turns_that_run(
    redis: Redis, carla: User, impatient: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sweeps, "PAGE_SIZE", 2)
    turns = [await aask(carla) for _ in range(5)]
    for turn in turns:
        await in_thread(progress.claim, turn)
        await redis.set(leases.lease_key(turn.pk), "somebody:1")
    await redis.delete(leases.lease_key(turns[-1].pk))
    while turns[-1].gen < MAX_GENERATIONS:
        await in_thread(progress.claim, turns[-1])
    await repair_turns()
    statuses = [(await in_thread(saved, turn)).status for turn in turns]
    assert statuses == ["streaming"] * 4 + ["failed"]


async def test_a_turn_that_runs_is_left_alone(redis: Redis, carla: User, impatient: None):
    async with running():
        turn = await aask(carla, "say:hola wait:0.3 say:mundo")
        for _ in range(5):
            await repair_turns()
        assert (await closed(turn)).answer == "hola mundo "


# --- Reservations -----------------------------------------------------------------------------------------------------


def test_a_reservation_of_a_turn_never_written_is_released(carla: User):
    key = new_id()
    metering.reserve(carla.pk, key, amount_micros=500)
    settle_unsettled()
    assert Reservation.objects.get(pk=key).state == Reservation.State.HELD  # the request may still be writing
    Reservation.objects.filter(pk=key).update(created_at=timezone.now() - dt.timedelta(seconds=46))
    for _ in range(2):
        settle_unsettled()
        assert Reservation.objects.get(pk=key).state == Reservation.State.RELEASED
        assert (period_of(carla).reserved_micros, period_of(carla).account.holds) == (0, 0)


def test_a_finished_turn_that_was_not_settled_is_settled(carla: User):
    turn = ask(carla)
    progress.claim(turn)
    progress.close(
        turn,
        Outcome(
            "completed",
            answer="x",
            model="scripted",
            input_tokens=5,
            output_tokens=6,
            cache_read_tokens=2,
            usage_source="provider",
            cost_micros=17,
        ),
    )
    grow_old(turn, 46)
    for _ in range(2):
        settle_unsettled()
        record = record_of(turn)
        assert (record.cost_micros, record.input_tokens, record.output_tokens) == (17, 5, 6)
        assert (record.cache_read_tokens, record.label, record.source) == (2, "scripted", "provider")
        assert period_of(carla).used_micros == 17


def test_a_finished_turn_that_used_nothing_is_released(carla: User):
    turn = ask(carla)
    progress.close(turn, Outcome("failed", error="queue_timeout"))
    grow_old(turn, 46)
    settle_unsettled()
    assert reservation_of(turn).state == Reservation.State.RELEASED


def test_a_turn_that_is_still_open_keeps_its_reservation(carla: User):
    waiting, written = ask(carla), ask(carla)
    progress.claim(written)
    for turn in (waiting, written):
        grow_old(turn, 3_600)
    settle_unsettled()
    assert {reservation_of(turn).state for turn in (waiting, written)} == {Reservation.State.HELD}


def test_work_that_was_done_after_all_is_paid(carla: User):
    """The sweep released the reservation of a turn whose row was lost while it ran."""
    turn = ask(carla)
    progress.claim(turn)
    grow_old(turn, 46)
    Turn.objects.filter(pk=turn.pk).delete()
    settle_unsettled()
    metering.settle(turn.pk, cost_micros=9, usage=metering.Usage(1, 4), label="scripted")
    assert period_of(carla).used_micros == 9


def test_a_reservation_whose_turn_is_gone_stays_while_a_runner_writes_it(carla: User):
    """Whatever took its row away: what the provider takes is settled when the runner ends."""
    turn = ask(carla)
    progress.claim(turn)
    grow_old(turn, 46)
    Turn.objects.filter(pk=turn.pk).delete()
    sync_redis().set(leases.lease_key(turn.pk), "somebody:1")
    settle_unsettled()
    assert reservation_of(turn).state == Reservation.State.HELD
    sync_redis().delete(leases.lease_key(turn.pk))
    settle_unsettled()
    assert reservation_of(turn).state == Reservation.State.RELEASED


def test_every_reservation_is_looked_at(carla: User, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sweeps, "PAGE_SIZE", 2)
    turns = [ask(carla) for _ in range(5)]
    progress.close(turns[-1], Outcome("failed", error="queue_timeout"))
    for turn in turns:
        grow_old(turn, 46)
    settle_unsettled()
    assert [is_held(turn) for turn in turns] == [True] * 4 + [False]
    for turn in turns[:4]:
        metering.release(turn.pk)


# --- One that is broken -----------------------------------------------------------------------------------------------


def break_log(turn: Turn) -> None:
    """Make a key that is no log in its place."""
    sync_redis().delete(log.log_key(turn.pk))
    sync_redis().set(log.log_key(turn.pk), b"no log")


async def test_one_bad_turn_in_the_queue_does_not_stop_the_next(redis: Redis, carla: User, settings: Settings):
    bad, good = await aask(carla), await aask(carla)
    for turn in (bad, good):
        await in_thread(grow_old, turn, settings.QUEUE_SECONDS + 1)
    await in_thread(break_log, bad)
    await repair_turns()
    assert (await in_thread(saved, good)).error == "queue_timeout"


async def test_one_bad_turn_that_is_written_does_not_stop_the_next(redis: Redis, carla: User, impatient: None):
    bad = await streaming(carla, "hola")
    good = await streaming(carla, "hola")
    await in_thread(break_log, bad)
    unsettled = await aask(carla)
    await in_thread(progress.close, unsettled, Outcome("failed", error="overloaded"))
    await in_thread(grow_old, unsettled, 46)
    await repair_turns()
    assert (await in_thread(saved, good)).status == "interrupted"
    assert not await in_thread(is_held, unsettled)
    await in_thread(Turn.objects.filter(pk=bad.pk).update, status="failed")
    await in_thread(metering.release, bad.pk)


def test_one_bad_reservation_does_not_stop_the_next(carla: User):
    bad, good = ask(carla), ask(carla)
    for turn, cost in ((bad, -9), (good, 9)):
        progress.claim(turn)
        progress.close(turn, Outcome("completed", answer="x", cost_micros=cost, usage_source="provider"))
        grow_old(turn, 46)
    settle_unsettled()
    assert (is_held(bad), record_of(good).cost_micros) == (True, 9)
    metering.release(bad.pk)


# --- Clocks that differ -----------------------------------------------------------------------------------------------


def date_by(turn: Turn, clock: dt.timedelta, *, age_seconds: float = 0) -> Turn:
    """Make a turn as old, by a clock that is so far ahead of the sweep's."""
    grow_old(turn, age_seconds)
    Turn.objects.filter(pk=turn.pk).update(created_at=timezone.now() + clock - dt.timedelta(seconds=age_seconds))
    Reservation.objects.filter(pk=turn.pk).update(created_at=timezone.now() + clock - dt.timedelta(seconds=age_seconds))
    return saved(turn)


AHEAD = sweeps.MAX_CLOCK_DIFFERENCE


async def test_a_clock_that_is_behind_makes_no_turn_queued_twice(redis: Redis, carla: User):
    turn = await aask(carla)
    await redis.flushall()  # as if it were still on its way
    await in_thread(date_by, turn, -AHEAD, age_seconds=4)
    await sweep_twice()
    assert queued(turn) == 0


async def test_a_clock_that_is_ahead_keeps_a_lost_turn_out_of_the_queue_for_that_long(redis: Redis, carla: User):
    turn = await aask(carla)
    await redis.flushall()
    await in_thread(date_by, turn, AHEAD, age_seconds=sweeping.QUEUED_GRACE.total_seconds())
    await sweep_twice()
    assert queued(turn) == 0
    await in_thread(date_by, turn, AHEAD, age_seconds=sweeping.QUEUED_GRACE.total_seconds() + AHEAD.seconds + 1)
    await sweep_twice()
    assert queued(turn) == 1


def test_a_clock_that_is_behind_takes_no_reservation_from_who_still_writes_the_turn(carla: User):
    key = new_id()
    metering.reserve(carla.pk, key, amount_micros=500)
    Reservation.objects.filter(pk=key).update(created_at=timezone.now() - AHEAD - dt.timedelta(seconds=39))
    settle_unsettled()
    assert Reservation.objects.get(pk=key).state == Reservation.State.HELD
    metering.release(key)


async def test_a_clock_that_is_ahead_hides_no_orphan(redis: Redis, carla: User, impatient: None):
    turn = await streaming(carla, "hola")
    await in_thread(Turn.objects.filter(pk=turn.pk).update, started_at=timezone.now() + AHEAD)
    await sweep_twice()
    assert (await in_thread(saved, turn)).status == "interrupted"


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_clock_that_jumps_by_an_hour_ends_no_answer(redis: Redis, carla: User, hours: int):
    async with running():
        turn = await aask(carla, "say:hola wait:1.5 say:mundo")

        async def is_shown() -> bool:
            return bool((await log.replay_log(redis, turn.pk)).text)

        await eventually(is_shown)
        jumped = dt.timedelta(hours=-hours)  # what was dated before is as old as that
        await in_thread(Turn.objects.filter(pk=turn.pk).update, started_at=timezone.now() + jumped)
        await in_thread(date_by, turn, jumped)
        await repair_turns()
        found = await closed(turn)
    assert (found.status, found.answer, found.gen) == ("completed", "hola mundo ", 1)
    assert (await in_thread(record_of, turn)).cost_micros == found.cost_micros > 0


async def test_a_clock_that_jumps_by_an_hour_ends_what_waits_in_line_for_nothing(redis: Redis, carla: User):
    turn = await aask(carla)
    await in_thread(date_by, turn, dt.timedelta(hours=-1))
    await sweep_twice()
    found = await in_thread(saved, turn)
    assert (found.status, found.error) == ("failed", "queue_timeout")
    assert not await in_thread(is_held, turn)


# --- Two at once ------------------------------------------------------------------------------------------------------


async def test_sweeps_beside_each_other_do_it_once(redis: Redis, carla: User, impatient: None):
    turn = await streaming(carla, "hola")
    late = await aask(carla)
    await in_thread(grow_old, late, 400)
    await asyncio.gather(*(repair_turns() for _ in range(4)))
    assert (await in_thread(saved, turn)).status == "interrupted"
    assert (await in_thread(saved, late)).error == "queue_timeout"
    assert await in_thread(UsageRecord.objects.count) == 1


def test_the_task_sweeps(carla: User):
    turn = grow_old(ask(carla), 400)
    sweep_turns()
    assert saved(turn).error == "queue_timeout"


@pytest.mark.stores
@pytest.mark.skipif(STORES not in ("mongodb", "production"), reason="only a document may have a field of any type")
async def test_a_row_that_cannot_be_read_keeps_no_other_from_its_repair(redis: Redis, carla: User):
    hostile, turn = await aask(carla), await aask(carla)
    for one in (hostile, turn):
        await in_thread(grow_old, one, 60)
    await redis.delete("turns", *(queue.queued_key(one.pk) for one in (hostile, turn)))

    def spoil(gen: object) -> None:
        turns = connections["history"].get_collection(Turn._meta.db_table)
        turns.update_one({"_id": hostile.pk.hex}, {"$set": {"gen": gen}})

    await in_thread(spoil, "many")
    try:
        await repair_turns()
        assert await redis.xlen("turns") == 1
    finally:
        await in_thread(spoil, 0)
