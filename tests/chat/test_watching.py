"""A reader's side of the log: exactly the text, whatever happens on the way."""

import asyncio
import time
from contextlib import aclosing
from uuid import UUID

import hypothesis
import msgspec
import pytest
import redis as redis_client
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from accounts.models import User
from chat.turns import ending, leases, log, watching
from chat.turns.log import Entry, EntryKind
from chat.turns.watching import MAX_BACKLOG_CHARACTERS, Place, Watcher, watch
from core.redis_clients import async_redis, close_async_redis, sync_redis
from core.threads import in_thread
from history.models import Turn, new_id
from history.progress import Outcome, claim, close
from tests.chat.asking import ask, eventually, until
from tests.chat.cutting import breakable_databases
from tests.chat.writing import Reading, Writing, follow, writing


@pytest.fixture
def turn(carla: User) -> Turn:
    return ask(carla)


def following(turn: Turn, reading: Reading | None = None) -> "asyncio.Task[Reading]":
    """Begin to read beside the test."""
    return asyncio.create_task(follow(turn, reading))


async def has(reading: Reading, text: str) -> None:
    """Wait until a reader has this text."""

    async def look() -> bool:
        return reading.text == text

    await eventually(look, seconds=20)


# --- One reader -------------------------------------------------------------------------------------------------------


async def test_a_reader_gets_the_text_as_it_is_written(redis: Redis, turn: Turn):
    reading = Reading()
    async with writing(redis, turn) as it:
        reader = following(turn, reading)
        await it.say_and_wait("hm", kind=EntryKind.REASONING)
        await it.say_and_wait("hola")
        await has(reading, "hola")
        await it.say_and_wait(" mundo")
        await has(reading, "hola mundo")
        assert not reader.done()
        await it.finish()
        await reader
    assert (reading.text, reading.reasoning, reading.generations) == ("hola mundo", "hm", [1])


async def test_live_text_takes_a_few_milliseconds(redis: Redis, turn: Turn):
    reading = Reading()
    async with writing(redis, turn) as it:
        reader = following(turn, reading)
        await it.say_and_wait("a")
        await has(reading, "a")
        waits = []
        for number in range(5):
            await asyncio.sleep(0.06)
            begun = time.monotonic()
            it.say("a")
            while len(reading.text) < number + 2:
                await asyncio.sleep(0)
            waits.append(time.monotonic() - begun)
        await it.finish()
        await reader
    assert min(waits) < 0.02


async def test_a_reader_that_comes_late_gets_everything(redis: Redis, turn: Turn):
    async with writing(redis, turn) as it:
        await it.say_and_wait("hola")
        reading = Reading()
        reader = following(turn, reading)
        await has(reading, "hola")
        await it.say_and_wait(" mundo")
        await it.finish()
        assert (await reader).text == "hola mundo"


async def test_a_reader_that_comes_back_gets_the_rest(redis: Redis, turn: Turn):
    async with writing(redis, turn) as it:
        await it.say_and_wait("hm ah", kind=EntryKind.REASONING)
        await it.say_and_wait("hola mundo")
        reading = Reading(gen=1, text="hola", reasoning="hm ah")
        reader = following(turn, reading)
        await has(reading, "hola mundo")
        await it.say_and_wait("!")
        await it.finish()
        await reader
    assert (reading.text, reading.generations) == ("hola mundo!", [])
    sent = "".join(entry.text for batch in reading.batches for entry in batch if entry.kind != EntryKind.END)
    assert sent == " mundo!"


async def test_a_reader_of_an_older_generation_starts_over(redis: Redis, turn: Turn):
    async with writing(redis, turn) as it:
        await it.say_and_wait("hola")
        await redis.delete(leases.lease_key(turn.pk))
        await it.say_and_wait(" mundo")
        reading = Reading(gen=1, text="hola")
        reader = following(turn, reading)
        await has(reading, "hola mundo")
        await it.finish()
        assert (await reader).generations == [2]


async def test_two_readers_do_not_disturb_each_other(redis: Redis, turn: Turn):
    async with writing(redis, turn) as it:
        first = following(turn)
        await it.say_and_wait("hola")
        second = following(turn)
        gone = following(turn)
        await it.say_and_wait(" mundo")
        gone.cancel()
        await it.say_and_wait("!")
        await it.finish()
        assert (await first).text == (await second).text == "hola mundo!"
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_readers_of_two_turns_get_their_own(redis: Redis, carla: User):
    turns = [await in_thread(ask, carla) for _ in range(2)]
    async with writing(redis, turns[0]) as one, writing(redis, turns[1]) as two:
        readers = [following(turn) for turn in turns]
        one.say("uno")
        two.say("dos")
        await one.say_and_wait(" uno")
        await two.say_and_wait(" dos")
        await one.finish()
        await two.finish()
        assert [(await reader).text for reader in readers] == ["uno uno", "dos dos"]


async def test_nobody_is_left_in_the_hub(redis: Redis, turn: Turn):
    async with writing(redis, turn) as it:
        reader = following(turn)
        gone = following(turn)
        await it.say_and_wait("hola")
        gone.cancel()
        await it.finish()
        await reader
        await asyncio.wait({gone})
    assert watching.hub()._watchers == {}


async def test_silence_is_told_by_an_empty_list(redis: Redis, turn: Turn, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watching, "SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(watching, "CHECK_SECONDS", 0.01)
    async with writing(redis, turn) as it:
        reading = Reading()
        reader = following(turn, reading)
        await it.say_and_wait("hola")
        await asyncio.sleep(0.35)
        assert reading.batches.count([]) in (2, 3, 4)
        await it.say_and_wait(" mundo")
        await it.finish()
        assert (await reader).text == "hola mundo"


@pytest.mark.parametrize("rounds", range(5))
async def test_a_reader_that_is_cancelled_when_text_arrives_is_cancelled(rounds: int):
    """A page that asks for a turn again would get its text twice."""
    watcher = Watcher(new_id(), Place())
    watcher.has_gap = False
    task = asyncio.create_task(watcher.wait())
    for _ in range(3):
        await asyncio.sleep(0)
    watcher.mark_gap()
    for _ in range(rounds):
        await asyncio.sleep(0)
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()


async def test_a_reader_that_is_cancelled_while_it_reads_the_log_is_cancelled(redis: Redis, turn: Turn):
    """Before Python 3.12 redis-py may lose that, and a client that went away would be read for to the end."""
    async with writing(redis, turn) as it:
        await it.say_and_wait("hola")
        for rounds in range(40):
            reader = following(turn)
            for _ in range(rounds):
                await asyncio.sleep(0)
            reader.cancel()
            await asyncio.wait({reader}, timeout=5)
            assert reader.done(), f"after {rounds} rounds of the loop"
    assert watching.hub()._watchers == {}


# --- Something is lost ------------------------------------------------------------------------------------------------


async def test_an_emptied_redis_costs_a_reader_nothing(redis: Redis, turn: Turn):
    reading = Reading()
    async with writing(redis, turn) as it:
        reader = following(turn, reading)
        await it.say_and_wait("hola")
        await has(reading, "hola")
        await redis.flushall()
        await it.say_and_wait(" mundo")
        await has(reading, "hola mundo")
        await it.finish()
        await reader
    assert (reading.text, reading.generations) == ("hola mundo", [1, 2])


async def test_a_lost_subscription_costs_a_reader_nothing(redis: Redis, turn: Turn):
    reading = Reading()
    async with writing(redis, turn) as it:
        reader = following(turn, reading)
        await it.say_and_wait("hola")
        await has(reading, "hola")
        await redis.client_kill_filter(_type="pubsub")
        await it.say_and_wait(" mundo")  # nobody is told of it
        await has(reading, "hola mundo")
        await it.finish()
        await reader
    assert (reading.text, reading.generations) == ("hola mundo", [1])


async def test_a_lost_subscription_does_not_lose_the_end(redis: Redis, turn: Turn):
    reading = Reading()
    async with writing(redis, turn) as it:
        reader = following(turn, reading)
        await it.say_and_wait("hola")
        await has(reading, "hola")
        await redis.client_kill_filter(_type="pubsub")
        await it.finish()
        assert (await reader).text == "hola"


async def test_an_end_that_is_never_told_is_found_in_the_database(
    redis: Redis, turn: Turn, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watching, "SILENCE_SECONDS", 0.1)
    async with writing(redis, turn) as it:
        reader = following(turn)
        await it.say_and_wait("hola")
        it.live.add(EntryKind.TEXT, " mundo")
        await it.save()
        assert (await reader).text == "hola mundo"


async def test_a_missing_tail_is_taken_from_the_saved_turn(redis: Redis, turn: Turn):
    """The end says how long the answer is."""
    async with writing(redis, turn) as it:
        reading = Reading()
        reader = following(turn, reading)
        await it.say_and_wait("hola")
        await has(reading, "hola")
        it.live.add(EntryKind.TEXT, " mundo")  # shown to nobody
        await it.finish()
        assert (await reader).text == "hola mundo"
        assert (await follow(turn)).text == "hola mundo"
    assert reading.generations == [1]


async def test_a_log_that_expired_is_served_from_the_saved_turn(redis: Redis, turn: Turn):
    async with writing(redis, turn) as it:
        it.say("hm", kind=EntryKind.REASONING)
        await it.say_and_wait("hola mundo")
        await it.finish()
    await redis.delete(log.log_key(turn.pk))
    reading = await follow(turn)
    assert (reading.text, reading.reasoning) == ("hola mundo", "hm")
    rest = await follow(turn, Reading(gen=1, text="hola", reasoning="hm"))
    assert (rest.text, rest.generations) == ("hola mundo", [])
    again = await follow(turn, Reading(gen=1, text="hola mundo", reasoning="hm"))
    assert sum(len(batch) for batch in again.batches) == 1


async def test_a_reader_without_redis_gets_the_saved_turn(redis: Redis, turn: Turn, monkeypatch: pytest.MonkeyPatch):
    async with writing(redis, turn) as it:
        await it.say_and_wait("hola")
        await it.finish()
    down = redis_client.asyncio.Redis.from_url("redis://127.0.0.1:1/0")
    monkeypatch.setattr(watching, "async_redis", lambda: down)
    monkeypatch.setattr(watching, "RETRY_SECONDS", 0.05)
    assert (await follow(turn)).text == "hola"
    await down.aclose(close_connection_pool=True)


async def test_a_turn_that_failed_before_its_first_word_has_an_end(redis: Redis, turn: Turn):
    reader = following(turn)
    await asyncio.sleep(0.05)
    await in_thread(claim, turn)
    await in_thread(close, turn, Outcome("failed", error="overloaded"))
    await ending.end_log(redis, turn.pk, gen=turn.gen)
    assert (await reader).text == ""


async def test_a_turn_that_was_stopped_while_it_waited_has_an_end(redis: Redis, turn: Turn):
    reader = following(turn)
    await asyncio.sleep(0.05)
    await in_thread(close, turn, Outcome("stopped"))
    await ending.end_log(redis, turn.pk, gen=0)
    assert (await reader).text == ""


async def test_a_reader_whose_model_thinks_reads_on_while_the_database_is_away(
    redis: Redis, turn: Turn, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watching, "SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(watching, "CHECK_SECONDS", 0.05)
    reading = Reading()
    with breakable_databases() as databases:
        async with writing(redis, turn) as it:
            reader = following(turn, reading)
            await it.say_and_wait("hola")
            databases.is_away = True
            await asyncio.sleep(0.5)
            it.say(" mundo")
            await has(reading, "hola mundo")
            databases.is_away = False
            await it.finish()
            await reader


# --- A hole in the log: Redis came back without the log's tail, and the runner went on ----------------------------


async def say_with_a_hole(it: Writing) -> None:
    """Leave a log whose middle is gone, though its writer goes on as if it were whole."""
    await it.say_and_wait("hola")
    await it.say_and_wait(" mundo")
    await it.redis.xdel(log.log_key(it.turn.pk), (await it.redis.xrevrange(log.log_key(it.turn.pk), count=1))[0][0])
    it.live.log_length -= 1  # else it would write the whole text again
    it.say("!")


async def readings(redis: Redis) -> int:
    """Return how often a log was read, from either end."""
    found = await redis.info("commandstats")
    return sum(found.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("xrange", "xrevrange"))


async def test_a_hole_is_not_read_over_and_over(redis: Redis, turn: Turn):
    reading = Reading()
    async with writing(redis, turn) as it:
        await say_with_a_hole(it)
        before = await readings(redis)
        reader = following(turn, reading)
        await has(reading, "hola")
        for _ in range(20):
            it.say("!")  # is no news: it comes after the hole
            await asyncio.sleep(0.02)
        assert await readings(redis) - before < 20  # it was thousands
        reader.cancel()
        await asyncio.wait({reader}, timeout=5)
        assert reader.cancelled()


async def test_a_reader_before_a_hole_gets_the_next_generation_at_once(
    redis: Redis, turn: Turn, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watching, "RETRY_SECONDS", 60)
    monkeypatch.setattr(watching, "SILENCE_SECONDS", 60)
    reading = Reading()
    async with writing(redis, turn) as it:
        await say_with_a_hole(it)
        reader = following(turn, reading)
        await has(reading, "hola")
        await redis.delete(leases.lease_key(turn.pk))
        it.say("!")  # the runner writes it all under the next generation
        await has(reading, "hola mundo!!")
        await it.finish()
        await reader
    assert reading.generations == [1, 2]


async def test_a_reader_before_a_hole_gets_the_end_at_once(redis: Redis, turn: Turn, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watching, "RETRY_SECONDS", 60)
    monkeypatch.setattr(watching, "SILENCE_SECONDS", 60)
    reading = Reading()
    async with writing(redis, turn) as it:
        await say_with_a_hole(it)
        reader = following(turn, reading)
        await has(reading, "hola")
        await it.finish()
        assert (await reader).text == "hola mundo!"


async def test_a_reader_before_a_hole_reads_again_when_redis_was_away(
    redis: Redis, turn: Turn, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watching, "SILENCE_SECONDS", 60)
    reading = Reading()
    async with writing(redis, turn) as it:
        await say_with_a_hole(it)
        reader = following(turn, reading)
        await has(reading, "hola")
        (watcher,) = watching.hub()._watchers[turn.pk.bytes]
        await until(lambda: watcher._pause_seconds > 0)
        watcher._reads_at += 60
        await redis.delete(log.log_key(turn.pk))
        await it.save()
        await redis.client_kill_filter(_type="pubsub")
        await ending.end_log(redis, turn.pk, gen=it.live.gen, characters=len(it.live.text), holder=it.live.holder)
        assert (await reader).text == "hola mundo!"


async def test_a_reader_before_a_hole_looks_at_the_saved_turn(
    redis: Redis, turn: Turn, monkeypatch: pytest.MonkeyPatch
):
    """Whatever comes after the hole: it is no sign that the reader gets something."""
    monkeypatch.setattr(watching, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(watching, "CHECK_SECONDS", 0.05)
    reading = Reading()
    async with writing(redis, turn) as it:
        await say_with_a_hole(it)
        reader = following(turn, reading)
        await has(reading, "hola")
        await it.save()
        while not reader.done():
            it.say("?")
            await asyncio.sleep(0.02)
        assert (await reader).text == "hola mundo!"


# --- After Redis was away, everybody reads what is missing, and not all at once -----------------------------------


async def fill(it: Writing, entries: int) -> None:
    """Make the log long, quicker than its writer would."""
    for _ in range(entries):
        it.live.add(EntryKind.TEXT, "x" * 100)
        pending = it.live.take_pending()
        it.live.mark_sent(pending)
        for entry in pending:
            await it.redis.xadd(log.log_key(it.turn.pk), {"e": log.encode_entry(entry)})


async def test_who_lost_the_subscription_reads_only_what_is_missing(redis: Redis, turn: Turn):
    reading = Reading()
    async with writing(redis, turn) as it:
        await fill(it, 1_000)
        reader = following(turn, reading)
        await has(reading, it.live.text)
        before = (await redis.info("stats"))["total_net_output_bytes"]
        await redis.client_kill_filter(_type="pubsub")
        it.say(" and more")
        await has(reading, it.live.text)
        read = (await redis.info("stats"))["total_net_output_bytes"] - before
        await it.finish()
        await reader
    assert read < 20_000  # the log has more than 100,000


async def test_after_redis_was_away_not_everybody_reads_at_once(redis: Redis, turn: Turn):
    async with writing(redis, turn) as it, redis.monitor() as monitor:
        await it.say_and_wait("hola")
        readings = [Reading() for _ in range(150)]
        readers = [following(turn, reading) for reading in readings]
        for reading in readings:
            await has(reading, "hola")
        await redis.client_kill_filter(_type="pubsub")
        await redis.echo("killed")
        for _ in range(12):  # beyond the new subscription, while all of them read
            it.say(" mundo")
            await asyncio.sleep(0.07)
        for reading in readings:
            await has(reading, it.live.text)
        await redis.echo("over")
        await it.finish()
        await asyncio.gather(*readers)
        while (await monitor.next_command())["command"] != "ECHO killed":
            pass
        times = []
        while (command := await monitor.next_command())["command"] != "ECHO over":
            if command["command"].startswith(("XREVRANGE", "XRANGE")):
                times.append(command["time"])
    assert len(times) == len(readings)  # one page each
    assert times[-1] - times[0] > 0.25  # within 0.3 s, at random


# --- A reader that does not keep up -----------------------------------------------------------------------------------


async def write_much(it: Writing, *, kilobytes: int) -> str:
    for number in range(kilobytes):
        it.live.add(EntryKind.TEXT, str(number % 10) * 1_000)
        it.writer.schedule(it.live)
        if number % 5 == 0:
            await asyncio.sleep(0.005)
    await eventually(it.has_arrived, seconds=10)
    return it.live.text


async def test_a_slow_reader_gets_everything_and_holds_little(redis: Redis, turn: Turn):
    reading = Reading()
    async with writing(redis, turn) as it:
        await it.say_and_wait("begin ")
        async with asyncio.timeout(40), aclosing(watch(turn, None)) as batches:
            reading.take(await anext(batches))
            whole = await write_much(it, kilobytes=400)
            await it.finish()
            async for entries in batches:
                reading.take(entries)
                await asyncio.sleep(0.01)
    assert reading.text == whole
    longest_entry = max(len(entry.text) for batch in reading.batches for entry in batch)
    longest_batch = max(sum(len(entry.text) for entry in batch) for batch in reading.batches)
    assert longest_batch <= MAX_BACKLOG_CHARACTERS + longest_entry < 200_000


# --- Any order --------------------------------------------------------------------------------------------------------

TURN = new_id()
STEPS = (
    *("say", "think", "say", "deliver", "deliver", "lose", "drop", "repeat"),
    *("begin to read", "read", "take", "begin anew"),
)


class World:
    """One turn's log, the messages on their way to one watcher, and what its reader has made of them.

    A log's reader sees the log as it was when it was read; messages come in order, late, twice or not at all.
    """

    def __init__(self, place: Place | None = None) -> None:
        self.gen = 1
        self.text = self.reasoning = ""
        self.log: list[Entry] = []
        self.coming: list[Entry] = []
        self.came: list[Entry] = []
        self.read: list[Entry] | None = None
        self.watcher = Watcher(TURN, place or Place())
        self.reading = Reading()

    def append(self, entry: Entry) -> None:
        self.log.append(entry)
        self.coming.append(entry)

    def say(self, text: str) -> None:
        self.append(Entry(TURN.bytes, EntryKind.TEXT, self.gen, len(self.text), text))
        self.text += text

    def think(self, text: str) -> None:
        self.append(Entry(TURN.bytes, EntryKind.REASONING, self.gen, len(self.reasoning), text))
        self.reasoning += text

    def begin_anew(self) -> None:
        """Redis was emptied: the whole text under the next generation."""
        self.gen += 1
        self.log = []
        for kind, text in ((EntryKind.REASONING, self.reasoning), (EntryKind.TEXT, self.text)):
            if text:
                self.append(Entry(TURN.bytes, kind, self.gen, 0, text))

    def end(self) -> None:
        self.append(Entry(TURN.bytes, EntryKind.END, self.gen, len(self.text)))

    def deliver(self) -> None:
        if self.coming:
            entry = self.coming.pop(0)
            self.came.append(entry)
            self.watcher.receive(entry)

    def lose(self) -> None:
        """The subscription broke: what is coming is lost, and the watcher is told so when it is up again."""
        if self.coming:
            self.coming.clear()
            self.watcher.mark_gap()

    def drop(self) -> None:
        """A message is lost, and nobody notices. Only of text: of reasoning, the end says no length."""
        if self.coming and self.coming[0].kind == EntryKind.TEXT:
            del self.coming[0]

    def lose_tail(self) -> None:
        """Redis comes back without the log's tail."""
        del self.log[-3:]

    def begin_to_read(self) -> None:
        if self.watcher.has_gap and self.read is None:
            self.watcher.start_reading_log()
            self.read = tail_of(self.log, self.watcher)

    def finish_reading(self) -> None:
        if self.read is not None:
            self.watcher.receive_log(self.read)
            self.read = None

    def take(self) -> None:
        self.reading.take(self.watcher.deliver())

    def settle(self) -> None:
        """Let everything that is on its way arrive, and read whatever gap there is."""
        for _ in range(100):
            if self.watcher.is_ended:
                break
            self.begin_to_read()
            self.finish_reading()
            self.deliver()
            self.take()
        self.take()


def tail_of(entries: list[Entry], watcher: Watcher) -> list[Entry]:
    """Return what the watcher reads of a log."""
    known = [] if watcher.reads_whole_log else [n for n, entry in enumerate(entries) if watcher.has(entry)]
    return entries[max(known, default=0) :]


def saved_as(world: World) -> Turn:
    return Turn(pk=TURN, gen=world.gen, answer=world.text, reasoning=world.reasoning, status="completed", owner_id=1)


def play(world: World, steps: list[str], data: st.DataObject) -> None:
    for step in steps:
        match step:
            case "say":
                world.say(data.draw(st.text("aé😀", min_size=1, max_size=4)))
            case "think":
                world.think(data.draw(st.text("hm", min_size=1, max_size=4)))
            case "deliver":
                world.deliver()
            case "lose":
                world.lose()
            case "drop":
                world.drop()
            case "repeat" if world.came:
                world.watcher.receive(data.draw(st.sampled_from(world.came)))
            case "begin to read":
                world.begin_to_read()
            case "read":
                world.finish_reading()
            case "take":
                world.take()
            case "begin anew":
                world.begin_anew()
            case "lose tail":
                world.lose_tail()


@hypothesis.settings(max_examples=300)
@given(st.lists(st.sampled_from(STEPS), max_size=40), st.data())
def test_any_order_of_messages_and_readings_gives_exactly_the_text(steps: list[str], data: st.DataObject):
    world = World()
    play(world, steps, data)
    world.end()
    world.settle()
    assert (world.reading.is_over, world.reading.text, world.reading.reasoning) == (True, world.text, world.reasoning)


@hypothesis.settings(max_examples=300)
@given(st.lists(st.sampled_from((*STEPS, "lose tail")), max_size=40), st.data())
def test_any_order_and_a_silent_end_give_exactly_the_text(steps: list[str], data: st.DataObject):
    """Nothing of the rest arrives, and no end: the watcher looks at the saved turn."""
    world = World()
    play(world, steps, data)
    if not world.watcher.is_ended:
        world.watcher.receive_saved(saved_as(world))
    world.take()
    assert (world.reading.is_over, world.reading.text, world.reading.reasoning) == (True, world.text, world.reasoning)


@hypothesis.settings(max_examples=300)
@given(st.lists(st.sampled_from(STEPS), max_size=40), st.data())
def test_a_reader_that_comes_back_in_any_order_gets_the_rest(steps: list[str], data: st.DataObject):
    world = World()
    half = data.draw(st.integers(0, len(steps)))
    play(world, steps[:half], data)
    world.take()
    world.watcher = Watcher(TURN, world.reading.place)
    world.read = None
    world.came = []
    play(world, steps[half:], data)
    world.end()
    world.settle()
    assert (world.reading.is_over, world.reading.text, world.reading.reasoning) == (True, world.text, world.reasoning)


ENTRIES = st.tuples(st.sampled_from((EntryKind.TEXT, EntryKind.REASONING)), st.integers(1, 3))


@hypothesis.settings(max_examples=100)
@given(st.lists(ENTRIES, max_size=120), st.data())
def test_the_tail_of_a_log_gives_what_the_whole_log_gives(parts: list[tuple[EntryKind, int]], data: st.DataObject):
    """To a reader who has, in order, everything up to some point, and lost some generations before."""
    world = World()
    world.gen = data.draw(st.integers(1, 2))
    for kind, length in parts:
        (world.say if kind == EntryKind.TEXT else world.think)("x" * length)
    place = reading_of(world.log[: data.draw(st.integers(0, len(parts)))]).place
    place.gen = data.draw(st.sampled_from((place.gen, 1))) if place.gen else 0
    by_tail, by_whole = Watcher(TURN, msgspec.structs.replace(place)), Watcher(TURN, msgspec.structs.replace(place))
    tail = read_tail(world.log, by_tail)
    assert tail == world.log[len(world.log) - len(tail) :]
    for watcher, entries in ((by_tail, tail), (by_whole, world.log)):
        watcher.start_reading_log()
        watcher.receive_log(entries)
    assert by_tail.deliver() == by_whole.deliver()
    assert (by_tail.place, by_tail.has_gap) == (by_whole.place, by_whole.has_gap)
    assert len(tail) <= max(0, len(world.log) - len(reading_entries(world.log, place))) + 1


def reading_of(entries: list[Entry]) -> Reading:
    reading = Reading()
    reading.take(entries)
    return reading


def reading_entries(entries: list[Entry], place: Place) -> list[Entry]:
    """Return what of a log a reader at this place has to its end."""
    watcher = Watcher(TURN, place)
    return [entry for entry in entries if watcher.has(entry)]


def read_tail(entries: list[Entry], watcher: Watcher) -> list[Entry]:
    """Return what is read of a log in Redis."""

    async def read() -> list[Entry]:
        client = async_redis()
        try:
            return await log.read_log_tail(client, TURN, watcher.has)
        finally:
            await close_async_redis()

    pipe = sync_redis().pipeline()
    pipe.delete(log.log_key(TURN))
    for entry in entries:
        pipe.xadd(log.log_key(TURN), {"e": log.encode_entry(entry)})
    pipe.execute()
    return asyncio.run(read())


async def test_an_end_that_comes_while_the_saved_turn_is_read_comes_once(
    redis: Redis, turn: Turn, monkeypatch: pytest.MonkeyPatch
):
    """After a silence the reader looks at the saved turn, which is saved and ended just then."""
    monkeypatch.setattr(watching, "SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(watching, "CHECK_SECONDS", 0.02)
    find_saved = watching._find_saved
    async with writing(redis, turn) as it:
        await it.say_and_wait("hola")

        async def find_while_it_ends(turn_id: UUID) -> Turn | None:
            (watcher,) = watching.hub()._watchers[turn_id.bytes]
            if not watcher.is_ended:
                await it.finish()
            while not watcher.is_ended:
                await asyncio.sleep(0.005)
            return await find_saved(turn_id)

        monkeypatch.setattr(watching, "_find_saved", find_while_it_ends)
        reading = await follow(turn)
    ends = [entry for batch in reading.batches for entry in batch if entry.kind == EntryKind.END]
    assert (reading.text, len(ends)) == ("hola", 1)


def test_the_end_of_a_generation_whose_text_was_lost_is_a_gap():
    """The runner died, Redis was emptied, and another runner wrote another answer, of which no message arrived."""
    world = World()
    world.begin_to_read()
    world.finish_reading()
    world.say("a long first answer")
    world.deliver()
    world.gen, world.text, world.log = 2, "another", []
    world.append(Entry(TURN.bytes, EntryKind.TEXT, 2, 0, "another"))
    world.coming.clear()
    world.end()
    world.settle()
    assert (world.reading.is_over, world.reading.text) == (True, "another")


def test_an_end_counts_the_tools_that_are_called():
    watcher = Watcher(TURN, Place())
    watcher.start_reading_log()
    watcher.receive_log([])
    for kind in (EntryKind.TEXT, EntryKind.TOOL_CALLS):
        watcher.receive(Entry(TURN.bytes, kind, 1, 0, "hola"))
    watcher.receive(Entry(TURN.bytes, EntryKind.END, 1, 9))
    assert (watcher.has_gap, watcher.is_ended) == (True, False)
    watcher.start_reading_log()
    watcher.receive_log([Entry(TURN.bytes, EntryKind.END, 1, 8)])
    assert (watcher.has_gap, watcher.is_ended) == (False, True)


def test_a_subscription_that_breaks_while_the_log_is_read_leaves_a_gap():
    """What was published between the reading and the new subscription is in neither."""
    world = World()
    world.begin_to_read()
    world.think("hm")
    world.lose()
    world.finish_reading()
    world.end()
    world.settle()
    assert (world.reading.is_over, world.reading.reasoning) == (True, "hm")


def test_what_comes_in_while_the_log_is_read_is_kept():
    world = World()
    world.begin_to_read()
    world.think("hm")
    world.deliver()
    world.finish_reading()
    world.end()
    world.settle()
    assert (world.reading.is_over, world.reading.reasoning) == (True, "hm")


def test_a_late_message_of_an_earlier_generation_is_dropped():
    """Another runner writes another answer; the first one's last words come after its first ones."""
    world = World()
    world.begin_to_read()
    world.finish_reading()
    world.say("first")
    late = Entry(TURN.bytes, EntryKind.TEXT, 1, 2, "xyz")
    world.deliver()
    world.gen, world.text, world.log = 2, "", []
    world.say("an")
    world.deliver()
    world.watcher.receive(late)
    world.say("other")
    world.end()
    world.settle()
    assert (world.reading.is_over, world.reading.text) == (True, "another")
