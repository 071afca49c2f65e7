"""What nobody of ours has written into Redis: it stops no other turn, and no turn for ever."""

import asyncio
from datetime import timedelta

import msgspec
import pytest
from redis.asyncio import Redis

from accounts.models import User
from billing import metering
from chat.llm.breaker import OPEN_BREAKERS, PROBES, Breakers, Report
from chat.turns import leases, log, sweeping
from chat.turns.leases import Taken, take_lease
from chat.turns.log import Entry, EntryKind, encode_entries, encode_entry
from chat.turns.queue import QUEUE
from chat.turns.runner import Runner
from chat.turns.sent_requests import SentRequest, read_sent, read_unanswered, sent_key
from chat.turns.sweeping import repair_turns
from core.threads import in_thread
from history import progress
from history.models import Turn, new_id
from tests.chat.asking import aask, is_held, saved
from tests.chat.conftest import running
from tests.chat.writing import follow, writing

pytestmark = pytest.mark.usefixtures("catalog")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep waits for nobody."""
    monkeypatch.setattr(sweeping, "ORPHAN_SECONDS", 0)
    monkeypatch.setattr(sweeping, "HELD_GRACE", timedelta(0))


async def left_by_a_dead_runner(redis: Redis, user: User, *rows: dict[bytes, bytes]) -> Turn:
    """A turn whose runner died after it had shown something, and more rows in its log."""
    turn = await aask(user)
    assert await in_thread(progress.claim, turn)
    shown = encode_entry(Entry(turn.pk.bytes, EntryKind.TEXT, turn.gen, 0, "hola"))
    for row in ({b"e": shown}, *rows):
        await redis.xadd(log.log_key(turn.pk), row)
    return turn


async def test_a_lease_that_is_no_text_keeps_no_other_turn_from_its_end(redis: Redis, carla: User, at_once: None):
    hostile = await left_by_a_dead_runner(redis, carla)
    turn = await left_by_a_dead_runner(redis, carla)
    await redis.set(leases.lease_key(hostile.pk), b"\xff\xfe")
    await repair_turns()
    assert (await in_thread(saved, turn)).status == "interrupted"
    await redis.delete(leases.lease_key(hostile.pk))
    await repair_turns()


@pytest.mark.stores
@pytest.mark.parametrize(
    "row",
    [
        {b"e": b"\xc1"},
        {b"x": b"y"},
        {b"e": encode_entry(Entry(b"0" * 16, EntryKind.TEXT, 1, 4, "\0"))},
        {b"e": encode_entry(Entry(b"0" * 16, EntryKind.BEGUN, 1, 0, '["scripted", "scripted", "' + "x" * 300 + '"]'))},
    ],
    ids=["no entry", "another field", "a NUL", "a name too long"],
)
async def test_a_log_that_cannot_be_read_or_saved_ends_with_its_turn(
    redis: Redis, carla: User, at_once: None, row: dict[bytes, bytes]
):
    turn = await left_by_a_dead_runner(redis, carla, row)
    await repair_turns()
    await repair_turns()
    found = await in_thread(saved, turn)
    assert (found.is_open, await in_thread(is_held, turn)) == (False, False)


async def test_a_log_that_is_none_is_dropped_and_its_turn_runs_again(redis: Redis, carla: User, at_once: None):
    turn = await left_by_a_dead_runner(redis, carla)
    await redis.delete(log.log_key(turn.pk))
    await redis.set(log.log_key(turn.pk), b"no log")
    await repair_turns()
    async with running():
        while (await in_thread(saved, turn)).is_open:
            await asyncio.sleep(0.02)
    assert (await in_thread(saved, turn)).status == "completed"


async def test_a_queue_that_is_none_is_asked_for_seldom(redis: Redis, runner: Runner):
    await redis.delete(QUEUE)
    await redis.set(QUEUE, b"no queue")
    await redis.config_resetstat()
    await asyncio.sleep(1)
    assert (await redis.info("commandstats")).get("cmdstat_xreadgroup", {"calls": 0})["calls"] < 10
    await redis.delete(QUEUE)


async def test_an_entry_that_nobody_can_deliver_keeps_no_reader_waiting(
    redis: Redis, carla: User, caplog: pytest.LogCaptureFixture
):
    """It comes in one message with what another turn's reader waits for."""
    turn = await aask(carla)
    hostile = Entry(b"0" * 16, EntryKind.END, 1, 0, "nobody")
    async with writing(redis, turn) as it:
        reader = asyncio.create_task(follow(turn))
        await it.say_and_wait("hola")
        text = Entry(turn.pk.bytes, EntryKind.TEXT, 1, 4, " mundo")
        await redis.publish(log.WAKE_UPS, encode_entries([hostile, text]))
        await redis.publish(log.WAKE_UPS, encode_entries([Entry(turn.pk.bytes, EntryKind.END, 1, 10, str(carla.pk))]))
        assert (await reader).text == "hola mundo"
    assert "Live text broke" not in [record.message for record in caplog.records]


async def test_a_mark_without_an_end_does_not_make_an_orphan_old(redis: Redis, carla: User):
    turn = await aask(carla)
    assert await in_thread(progress.claim, turn)
    await redis.set(f"turn:{turn.pk}:orphan", b"1")
    await repair_turns()
    assert (await in_thread(saved, turn)).is_open
    await in_thread(metering.release, turn.pk)


async def test_who_claimed_a_turn_and_slept_does_not_empty_the_log_of_its_end(redis: Redis, carla: User):
    turn = await aask(carla)
    end = encode_entry(Entry(turn.pk.bytes, EntryKind.END, 2))
    await redis.xadd(log.log_key(turn.pk), {b"e": end})
    assert await take_lease(redis, turn.pk, "slept:1", empties_log=True) == Taken.NO
    assert await redis.xlen(log.log_key(turn.pk)) == 1
    assert not await redis.exists(leases.lease_key(turn.pk))
    await in_thread(metering.release, turn.pk)


async def test_a_breaker_that_nobody_of_ours_opened_keeps_none_from_opening(redis: Redis):
    ours, one = Breakers(), "openai:0a0b0c0d:llama3:8b"
    rubbish = {"x": "y", one: "rubbish", b"\xff:\xff:\xff": "1 1 1 timeout", "a:b:c": f"{'9' * 400} 1 1 timeout"}
    await redis.hset(OPEN_BREAKERS, mapping=rubbish)
    await redis.hset(PROBES, "openai", "[")
    await ours.refresh()
    assert ours.find_open(one) is None
    assert await ours.claim_trial(one, timeout_seconds=1) == "", "it is closed"
    for asker in ("ana", "bo"):
        ours.report(Report(one, "unusable", "permission", asker=asker))
        await ours.flush()
    found = ours.find_open(one)
    assert found is not None
    assert (found.code, found.times_opened) == ("permission", 1)
    assert {b"x"} & {*await redis.hkeys(OPEN_BREAKERS)} == set()


async def test_notes_of_requests_that_nobody_can_read_are_passed_over(redis: Redis):
    turn_id = new_id()
    key = sent_key(turn_id)
    await redis.set(key, b"none of ours")
    assert await read_sent(redis, turn_id) == []
    assert not await redis.exists(key)
    without_price = msgspec.msgpack.encode(SentRequest("1", "runner", "model", "provider", price="{"))
    await redis.hset(key, mapping={"a": b"rubbish", "b": without_price})
    assert await read_sent(redis, turn_id) == []
    assert read_unanswered("rubbish") == []
