"""A runner's side of the log."""

import asyncio
import threading
import time
from contextlib import aclosing

import hypothesis
import pytest
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from accounts.models import User
from billing import metering
from chat.turns import leases, log
from chat.turns import writer as writer_module
from chat.turns.log import Entry, EntryKind, encode_entry
from chat.turns.writer import LiveText
from core.threads import in_thread
from history import progress
from history.models import Turn, new_id
from tests.chat.asking import ask, eventually, saved, until
from tests.chat.relay import relayed_redis
from tests.chat.writing import Writing, writing


@pytest.fixture
def turn(carla: User) -> Turn:
    return ask(carla)


async def texts(redis: Redis, turn: Turn) -> list[Entry]:
    return [
        entry for entry in await log.read_log(redis, turn.pk) if entry.kind in (EntryKind.TEXT, EntryKind.REASONING)
    ]


async def arrives(writing: Writing) -> None:
    await eventually(writing.has_arrived, seconds=20)


async def test_text_reaches_the_log(redis: Redis, turn: Turn):
    async with writing(redis, turn) as it:
        await it.say_and_wait("hola")
        await it.say_and_wait(" mundo")
    assert await texts(redis, turn) == [
        Entry(turn.pk.bytes, EntryKind.TEXT, 1, 0, "hola"),
        Entry(turn.pk.bytes, EntryKind.TEXT, 1, 4, " mundo"),
    ]


async def test_reasoning_has_offsets_of_its_own(redis: Redis, turn: Turn):
    async with writing(redis, turn) as it:
        await it.say_and_wait("hm ", kind=EntryKind.REASONING)
        await it.say_and_wait("ah", kind=EntryKind.REASONING)
        await it.say_and_wait("hola")
    assert [(entry.kind, entry.at, entry.text) for entry in await texts(redis, turn)] == [
        (EntryKind.REASONING, 0, "hm "),
        (EntryKind.REASONING, 3, "ah"),
        (EntryKind.TEXT, 0, "hola"),
    ]


async def test_offsets_are_in_characters(redis: Redis, turn: Turn):
    async with writing(redis, turn) as it:
        await it.say_and_wait("ñ😀")
        await it.say_and_wait("!")
    assert [entry.at for entry in await texts(redis, turn)] == [0, 2]


async def test_the_first_token_does_not_wait_and_the_others_share_a_tick(redis: Redis, turn: Turn):
    async with writing(redis, turn) as it:
        await it.say_and_wait("0 ")
        begun = time.monotonic()
        for number in range(1, 81):
            it.live.add(EntryKind.TEXT, f"{number} ")
            it.writer.schedule(it.live)
            await asyncio.sleep(0.005)
        await arrives(it)
        ticks = (time.monotonic() - begun) / writer_module.TICK_SECONDS
    assert len(await texts(redis, turn)) <= ticks + 3


async def test_who_answers_is_noted_once_and_first(redis: Redis, turn: Turn):
    async with writing(redis, turn) as it:
        it.live.begun = "who"
        await it.say_and_wait("hola")
        await it.say_and_wait("!")
    kinds = [entry.kind for entry in await log.read_log(redis, turn.pk)]
    assert kinds == [EntryKind.BEGUN, EntryKind.TEXT, EntryKind.TEXT]


async def test_the_outcome_is_the_last_entry_and_known_to_be_there(redis: Redis, turn: Turn):
    async with writing(redis, turn) as it:
        it.say("hola")
        it.live.outcome = "how"
        it.writer.schedule(it.live, urgently=True)
        await until(lambda: it.live.outcome_logged.done())
        entries = await log.read_log(redis, turn.pk)
        assert [(entry.kind, entry.text) for entry in entries] == [(EntryKind.TEXT, "hola"), (EntryKind.OUTCOME, "how")]
        it.writer.schedule(it.live, urgently=True)
        await asyncio.sleep(0.1)
    assert await log.read_log(redis, turn.pk) == entries


async def test_many_turns_share_a_script_and_not_a_fate(redis: Redis, carla: User):
    turns = [await in_thread(ask, carla) for _ in range(3)]
    async with (
        writing(redis, turns[0]) as first,
        writing(redis, turns[1]) as second,
        writing(redis, turns[2]) as third,
    ):
        for other in (second, third):
            other.writer.close(other.live)
            first.writer.open(other.live)
            other.writer = first.writer
        await redis.set(leases.lease_key(turns[1].pk), "runner-b:2")
        for it in (first, second, third):
            it.say("hola")
        await arrives(first)
        await arrives(third)
        await until(lambda: second.live.is_lost)
        assert not first.live.is_lost
        assert not third.live.is_lost
    assert await texts(redis, turns[1]) == []


async def test_a_log_that_is_none_costs_the_others_of_its_script_nothing(redis: Redis, carla: User):
    turns = [await in_thread(ask, carla) for _ in range(2)]
    async with writing(redis, turns[0]) as first, writing(redis, turns[1]) as second:
        second.writer.close(second.live)
        first.writer.open(second.live)
        second.writer = first.writer
        await redis.set(log.log_key(turns[0].pk), b"no log")
        for it in (first, second):
            it.say("hola")
        await until(lambda: first.live.gen == 2 and not first.live.is_unsent)
        await arrives(first)
        await arrives(second)
        assert second.live.gen == 1


async def test_an_idle_turn_keeps_its_lease(redis: Redis, turn: Turn, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer_module, "RENEW_SECONDS", 0.1)
    async with writing(redis, turn) as it:
        await it.say_and_wait("hola")
        await redis.pexpire(leases.lease_key(turn.pk), 400)
        await asyncio.sleep(0.5)
        assert await redis.pttl(leases.lease_key(turn.pk)) > 10_000
    assert len(await texts(redis, turn)) == 1


async def test_a_turn_that_another_runner_has_is_lost(redis: Redis, turn: Turn):
    async with writing(redis, turn) as it:
        await it.say_and_wait("hola")
        await redis.set(leases.lease_key(turn.pk), "runner-b:2")
        it.say(" mundo")
        await until(lambda: it.live.is_lost)
        it.say("!")
        await asyncio.sleep(0.1)
    assert [entry.text for entry in await texts(redis, turn)] == ["hola"]
    assert (await in_thread(saved, turn)).gen == 1


async def test_a_lease_that_ran_out_is_taken_again_under_the_next_generation(redis: Redis, turn: Turn):
    async with writing(redis, turn) as it:
        await it.say_and_wait("hola")
        await redis.delete(leases.lease_key(turn.pk))
        await it.say_and_wait(" mundo")
        await it.say_and_wait("!")
    found = await texts(redis, turn)
    assert [(entry.gen, entry.at, entry.text) for entry in found] == [(2, 0, "hola mundo"), (2, 10, "!")]
    assert (await in_thread(saved, turn)).gen == 2


async def test_an_emptied_redis_gets_the_whole_text_again(redis: Redis, turn: Turn):
    async with writing(redis, turn) as it:
        it.live.begun = "who"
        await it.say_and_wait("hm", kind=EntryKind.REASONING)
        await it.say_and_wait("hola")
        await redis.flushall()
        await it.say_and_wait(" mundo")
    entries = await log.read_log(redis, turn.pk)
    assert [(entry.kind, entry.gen, entry.at, entry.text) for entry in entries] == [
        (EntryKind.BEGUN, 2, 0, "who"),
        (EntryKind.REASONING, 2, 0, "hm"),
        (EntryKind.TEXT, 2, 0, "hola mundo"),
    ]


async def test_a_turn_whose_claim_takes_long_keeps_no_other_turns_text(redis: Redis, turn: Turn, carla: User):
    """Its database is slow, or silent."""
    slow, is_over = await in_thread(ask, carla), threading.Event()
    claim = progress.claim

    def claim_slowly(claimed: Turn) -> bool:
        if claimed.pk == slow.pk and claimed.gen:
            is_over.wait(20)
        return claim(claimed)

    async with writing(redis, turn) as it:
        await in_thread(claim, slow)
        live = LiveText(slow, "runner-a")
        assert await leases.take_lease(redis, slow.pk, live.holder, empties_log=True)
        it.writer.open(live)
        live.is_uncertain = True
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(progress, "claim", claim_slowly)
            it.writer.schedule(live, urgently=True)
            await until(lambda: live.is_rewriting)
            await it.say_and_wait("hola")
            is_over.set()
            await until(lambda: not live.is_uncertain)
    await in_thread(metering.release, slow.pk)


async def test_an_idle_turn_notices_an_emptied_redis(redis: Redis, turn: Turn, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer_module, "RENEW_SECONDS", 0.1)
    async with writing(redis, turn) as it:
        await it.say_and_wait("hola")
        await redis.flushall()
        await arrives(it)


async def test_a_lease_that_ran_out_and_a_turn_that_is_taken_is_lost(redis: Redis, turn: Turn):
    """Another runner claimed it in the database, and has not taken the lease yet."""
    async with writing(redis, turn) as it:
        await it.say_and_wait("hola")
        await redis.delete(leases.lease_key(turn.pk))
        await in_thread(Turn.objects.filter(pk=turn.pk).update, gen=2)
        it.say(" mundo")
        await until(lambda: it.live.is_lost)
    assert [entry.text for entry in await texts(redis, turn)] == ["hola"]


async def test_a_turn_that_is_closed_meanwhile_is_lost(redis: Redis, turn: Turn):
    async with writing(redis, turn) as it:
        await it.say_and_wait("hola")
        await redis.delete(leases.lease_key(turn.pk))
        await in_thread(Turn.objects.filter(pk=turn.pk).update, status="interrupted")
        it.say(" mundo")
        await until(lambda: it.live.is_lost)


# --- A Redis that comes back a second behind -------------------------------------------------------------------------


class Snapshot:
    """What Redis had of a turn at some moment, and has again after a failover or a crash between two syncs."""

    def __init__(self, log: bytes | None, lease: bytes | None) -> None:
        self.log, self.lease = log, lease

    @classmethod
    async def take(cls, redis: Redis, turn: Turn) -> "Snapshot":
        return cls(await redis.dump(log.log_key(turn.pk)), await redis.get(leases.lease_key(turn.pk)))

    async def restore(self, redis: Redis, turn: Turn) -> None:
        async with redis.pipeline(transaction=True) as pipeline:
            pipeline.delete(log.log_key(turn.pk), leases.lease_key(turn.pk))
            if self.log:
                pipeline.restore(log.log_key(turn.pk), 60_000, self.log)
            if self.lease:
                pipeline.set(leases.lease_key(turn.pk), self.lease, px=leases.LEASE_MS)
            await pipeline.execute()


async def check_whole(redis: Redis, it: Writing) -> None:
    """The log is the whole text, of one generation, without a hole."""
    entries = await texts(redis, it.turn)
    assert {entry.gen for entry in entries} == {it.live.gen}
    at = {EntryKind.TEXT: 0, EntryKind.REASONING: 0}
    for entry in entries:
        assert entry.at == at[EntryKind(entry.kind)], "A hole, or something twice."
        at[EntryKind(entry.kind)] += len(entry.text)
    assert at == {EntryKind.TEXT: len(it.live.text), EntryKind.REASONING: len(it.live.reasoning)}


async def test_nothing_is_appended_after_a_gap(redis: Redis, turn: Turn):
    async with writing(redis, turn) as it:
        await it.say_and_wait("hola")
        behind = await Snapshot.take(redis, turn)
        await it.say_and_wait(" mundo")
        await behind.restore(redis, turn)
        await it.say_and_wait("!")
        await check_whole(redis, it)
        await it.say_and_wait("?")
    assert [(entry.gen, entry.text) for entry in await texts(redis, turn)] == [(2, "hola mundo!"), (2, "?")]
    assert (await in_thread(saved, turn)).gen == 2


async def test_a_silent_turn_writes_again_what_redis_lost(redis: Redis, turn: Turn, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer_module, "RENEW_SECONDS", 0.1)
    async with writing(redis, turn) as it:
        await it.say_and_wait("hola")
        behind = await Snapshot.take(redis, turn)
        await it.say_and_wait(" mundo")
        await behind.restore(redis, turn)
        await arrives(it)
        await check_whole(redis, it)


async def test_an_older_lease_of_ours_does_not_lose_the_turn(redis: Redis, turn: Turn):
    """Redis is back from before the text was written again under the next generation."""
    async with writing(redis, turn) as it:
        await it.say_and_wait("hola")
        behind = await Snapshot.take(redis, turn)
        await redis.delete(leases.lease_key(turn.pk))
        await it.say_and_wait(" mundo")
        await behind.restore(redis, turn)
        assert behind.lease == b"runner-a:1"
        await it.say_and_wait("!")
        assert not it.live.is_lost
        await check_whole(redis, it)
    assert (await in_thread(saved, turn)).gen == 3


@given(steps=st.lists(st.sampled_from(["say", "think", "go back", "lose the lease", "restart empty"]), max_size=7))
@hypothesis.settings(max_examples=12, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_whatever_redis_forgets_the_log_ends_as_the_whole_text_of_one_generation(carla: User, steps: list[str]):
    asyncio.run(write_through(ask(carla), steps))


async def write_through(turn: Turn, steps: list[str]) -> None:
    redis = Redis.from_url(settings.REDIS_URL)
    snapshots = [Snapshot(None, None)]
    async with aclosing(redis), writing(redis, turn) as it:
        for number, step in enumerate([*steps, "say"]):
            match step:
                case "go back":
                    await snapshots[len(snapshots) // 2].restore(redis, turn)
                case "lose the lease":
                    await redis.delete(leases.lease_key(turn.pk))
                case "restart empty":
                    await Snapshot(None, None).restore(redis, turn)
                case _:
                    kind = EntryKind.TEXT if step == "say" else EntryKind.REASONING
                    await it.say_and_wait(f"{step}{number} ", kind=kind)
                    await check_whole(redis, it)
                    snapshots.append(await Snapshot.take(redis, turn))
        assert not it.live.is_lost


async def test_an_unreachable_redis_is_waited_for(redis: Redis, turn: Turn):
    async with relayed_redis() as (relay, through), writing(through, turn) as it:
        await it.say_and_wait("hola")
        relay.break_down()
        it.say(" mundo")
        await asyncio.sleep(0.6)
        it.say("!")
        assert not it.live.is_lost
        relay.is_down = False
        it.redis = redis
        await arrives(it)
        await it.say_and_wait("?")
    assert [(entry.gen, entry.text) for entry in await texts(redis, turn)] == [(2, "hola mundo!"), (2, "?")]
    assert (await in_thread(saved, turn)).gen == 2


async def test_an_append_whose_answer_is_lost_is_not_there_twice(redis: Redis, turn: Turn):
    """It arrived, and nobody said so: written again under the same generation it would be read twice."""
    async with relayed_redis() as (relay, through), writing(through, turn) as it:
        it.redis = redis
        await it.say_and_wait("hola")
        relay.is_deaf = True
        it.say(" mundo")
        await arrives(it)  # it is in the log
        await asyncio.sleep(0.1)
        relay.is_deaf = False
        await it.say_and_wait("!")
    found = await texts(redis, turn)
    assert "".join(entry.text for entry in found) == "hola mundo!"
    assert {entry.gen for entry in found} == {2}


@pytest.mark.parametrize("rounds", range(3))
async def test_a_writer_that_is_cancelled_when_text_arrives_is_cancelled(redis: Redis, rounds: int):
    """A runner that stops would wait for it for ever."""
    live = writer_module.LiveText(Turn(pk=new_id()), "runner-a")
    writer = writer_module.LogWriter(redis)
    task = asyncio.create_task(writer.run())
    for _ in range(3):
        await asyncio.sleep(0)
    writer.schedule(live)
    for _ in range(rounds):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=5)
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
    assert done


async def test_what_was_lost_before_does_not_take_the_turn_from_its_next_generation(redis: Redis, turn: Turn):
    """A refusal that comes late, when this runner has taken the turn again."""
    async with writing(redis, turn) as it:
        earlier = LiveText(turn, "runner-a")
        it.writer.open(earlier)
        it.writer.open(it.live)
        it.writer._lose(earlier)
        assert earlier.is_lost
        await redis.delete(leases.lease_key(turn.pk))
        await it.say_and_wait("hola")  # under a new lease: it is still written


async def test_what_was_saved_without_redis_is_not_written_again(
    redis: Redis, turn: Turn, monkeypatch: pytest.MonkeyPatch
):
    """Redis goes away when the next generation is claimed and its lease is not, and is back after the end."""
    monkeypatch.setattr(writer_module, "RETRY_SECONDS", 0.01)
    is_tried, is_over = asyncio.Event(), asyncio.Event()

    async def refuse(*_: object, **__: object) -> None:
        is_tried.set()
        await is_over.wait()
        raise ConnectionError

    async with writing(redis, turn) as it:
        await it.say_and_wait("hola")
        with monkeypatch.context() as away:
            away.setattr(writer_module, "take_lease", refuse)
            await redis.delete(leases.lease_key(turn.pk))
            it.say(" mundo")
            await is_tried.wait()
            await it.finish()
        is_over.set()
        await asyncio.sleep(0.2)
        assert (await log.read_log(redis, turn.pk))[-1].kind == EntryKind.END
        assert not await redis.exists(leases.lease_key(turn.pk))


async def test_what_cannot_be_encoded_is_dropped_and_the_end_is_written(
    redis: Redis, turn: Turn, monkeypatch: pytest.MonkeyPatch
):
    async with writing(redis, turn) as it:
        await it.say_and_wait("good ")

        def fail(entry: Entry) -> bytes:
            if "bad" in entry.text:
                raise ValueError
            return encode_entry(entry)

        monkeypatch.setattr(writer_module, "encode_entry", fail)
        it.say("bad")
        await asyncio.wait((it.live.broken,), timeout=20)
        assert it.live.text == "good "
        await it.say_and_wait("end")
