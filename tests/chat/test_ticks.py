"""When a runner's writer flushes: a turn once a tick, at a phase of its own, and at once what is urgent.

The clock stands still unless a test moves it; the writer looks at it again within a tick.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from redis.asyncio import Redis

from accounts.models import User
from chat.turns import leases, log
from chat.turns import writer as writer_module
from chat.turns.log import EntryKind
from chat.turns.writer import SLOT_SECONDS, TICK_SECONDS
from tests.chat.asking import aask, eventually
from tests.chat.writing import Writing, writing


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.01  # in the middle of a slot

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(writer_module, "monotonic", clock)
    return clock


@asynccontextmanager
async def writing_together(redis: Redis, user: User, count: int) -> AsyncIterator[list[Writing]]:
    """Several turns of one writer."""
    async with AsyncExitStack() as stack:
        found = [await stack.enter_async_context(writing(redis, await aask(user))) for _ in range(count)]
        for it in found[1:]:
            it.writer = found[0].writer
            it.writer.open(it.live)
        yield found


@pytest.fixture
async def three(redis: Redis, carla: User, clock: Clock) -> AsyncIterator[list[Writing]]:
    """Two turns, and one that proves that the writer has looked."""
    async with writing_together(redis, carla, 3) as found:
        yield found


def say(it: Writing, *texts: str) -> None:
    """Say something that may wait."""
    for text in texts:
        it.live.add(EntryKind.TEXT, text)
        it.writer.schedule(it.live)


async def texts(it: Writing) -> list[str]:
    return [entry.text for entry in await log.read_log(it.redis, it.turn.pk) if entry.kind == EntryKind.TEXT]


async def arrives(*of: Writing) -> None:
    for it in of:
        await eventually(it.has_arrived)


async def look(witness: Writing) -> None:
    """Return when the writer has flushed everything that is due."""
    await witness.say_and_wait("!")


async def begin(*of: Writing) -> None:
    """Have each at its tick now."""
    for it in of:
        say(it, "0")
    clock = writer_module.monotonic
    assert isinstance(clock, Clock)
    clock.now += SLOT_SECONDS
    await arrives(*of)


# --- Once a tick ------------------------------------------------------------------------------------------------------


async def test_what_is_said_within_a_tick_is_one_entry(three: list[Writing], clock: Clock):
    one, _, witness = three
    await begin(one)
    for round_number in range(3):
        for number in range(30):
            say(one, f"{number} ")
            await asyncio.sleep(0)
        await look(witness)
        assert len(await texts(one)) == 1 + round_number, "It did not wait for its tick."
        clock.now += TICK_SECONDS + SLOT_SECONDS
        await arrives(one)
    assert await texts(one) == ["0", *["".join(f"{number} " for number in range(30))] * 3]


async def test_a_turn_is_due_once_however_often_it_speaks(three: list[Writing]):
    one = three[0]
    await begin(one)
    say(one, "a")
    slot = one.live.slot
    say(one, "b", "c")
    assert one.live.slot == slot is not None
    assert sum(lives.count(one.live) for lives in one.writer._slots.values()) == 1


async def test_a_turn_that_has_been_silent_waits_for_the_next_slot_only(three: list[Writing], clock: Clock):
    one = three[0]
    await begin(one)
    clock.now += 10 * TICK_SECONDS
    say(one, "a")
    clock.now += SLOT_SECONDS
    await arrives(one)
    assert await texts(one) == ["0", "a"]


async def test_a_turn_is_not_due_before_a_tick_is_over(three: list[Writing], clock: Clock):
    one = three[0]
    await begin(one)
    for _ in range(20):
        say(one, "a")
        assert one.live.slot is not None
        due = one.live.slot * SLOT_SECONDS
        assert one.live.ticked_at + TICK_SECONDS <= due + 1e-6
        assert due < one.live.ticked_at + TICK_SECONDS + SLOT_SECONDS + 1e-6
        clock.now = due + 1e-6
        await arrives(one)


async def test_under_load_a_tick_is_wider_and_has_an_end(three: list[Writing], monkeypatch: pytest.MonkeyPatch):
    one = three[0]
    await begin(one)
    for turns_weight, tick in (
        (writer_module.MAX_TICK_SECONDS, writer_module.MAX_TICK_SECONDS),
        (0, TICK_SECONDS),
    ):
        monkeypatch.setattr(writer_module, "TICK_SECONDS_PER_TURN", turns_weight)
        one.live.slot = None
        say(one, "a")
        assert one.live.slot is not None
        assert 0 <= one.live.slot * SLOT_SECONDS - one.live.ticked_at - tick + 1e-6 < SLOT_SECONDS + 2e-6


async def test_text_that_comes_while_a_flush_is_under_way_is_flushed_a_tick_later(three: list[Writing], clock: Clock):
    one, _, witness = three
    await begin(one)
    append = one.writer._append

    async def speaking(*args: object, **kwargs: object) -> object:
        if one.live.text.endswith("a"):
            say(one, "b")
        return await append(*args, **kwargs)

    one.writer._append = speaking  # type: ignore[assignment]
    say(one, "a")
    clock.now += TICK_SECONDS + SLOT_SECONDS
    await eventually(lambda: _has(one, ["0", "a"]))
    await look(witness)
    assert await texts(one) == ["0", "a"]
    clock.now += TICK_SECONDS + SLOT_SECONDS
    await arrives(one)
    assert await texts(one) == ["0", "a", "b"]


async def _has(it: Writing, expected: list[str]) -> bool:
    return await texts(it) == expected


# --- What is urgent ---------------------------------------------------------------------------------------------------


async def test_urgent_text_does_not_wait_and_takes_along_what_did(three: list[Writing]):
    one = three[0]
    await begin(one)
    say(one, "a", "b")
    await one.say_and_wait("c")
    assert await texts(one) == ["0", "abc"]


async def test_the_first_text_of_a_turn_does_not_wait(three: list[Writing]):
    await three[0].say_and_wait("a")
    assert await texts(three[0]) == ["a"]


async def test_what_is_urgent_for_one_is_not_for_another(three: list[Writing]):
    one, two, _ = three
    await begin(one, two)
    say(one, "a")
    await two.say_and_wait("b")
    assert await texts(one) == ["0"]


async def test_what_went_out_urgently_is_not_sent_at_its_tick_again(three: list[Writing], clock: Clock):
    one, _, witness = three
    await begin(one)
    say(one, "a")
    await one.say_and_wait("b")
    clock.now += TICK_SECONDS + SLOT_SECONDS
    await eventually(lambda: _is(lambda: one.live.slot is None))
    await look(witness)
    assert await texts(one) == ["0", "ab"]


async def _is(check: Callable[[], bool]) -> bool:
    return check()


# --- Phases -----------------------------------------------------------------------------------------------------------


async def test_two_turns_keep_phases_of_their_own(three: list[Writing], clock: Clock):
    one, two, witness = three
    await begin(one)
    await begin(two)
    apart = two.live.ticked_at - one.live.ticked_at
    assert apart == pytest.approx(SLOT_SECONDS)
    for number in range(1, 6):
        say(one, "a")
        say(two, "b")
        assert one.live.slot is not None
        assert two.live.slot == one.live.slot + 1
        clock.now = (one.live.slot + 0.5) * SLOT_SECONDS
        await arrives(one)
        await look(witness)
        assert len(await texts(two)) == number, "It was flushed at the tick of another."
        clock.now += SLOT_SECONDS
        await arrives(two)
        assert two.live.ticked_at - one.live.ticked_at == pytest.approx(apart)


async def test_turns_of_one_slot_share_a_script(three: list[Writing], clock: Clock):
    one, two, _ = three
    calls = []
    append = one.writer._append

    async def counting(*args: object, **kwargs: object) -> object:
        calls.append(kwargs)
        return await append(*args, **kwargs)

    one.writer._append = counting  # type: ignore[assignment]
    say(one, "a")
    say(two, "b")
    assert one.live.slot == two.live.slot
    clock.now += SLOT_SECONDS
    await arrives(one, two)
    assert len(calls) == 1


# --- Who rests --------------------------------------------------------------------------------------------------------


def rest(it: Writing, *, then: str = "") -> "asyncio.Task[None]":
    """Rest as the reader of the turn's provider does, and say something then."""

    async def read() -> None:
        await it.writer.next_tick(it.live)
        if then:
            say(it, then)

    return asyncio.create_task(read())


async def rests(it: Writing) -> None:
    await eventually(lambda: _is(lambda: it.live.tick_waiter is not None and not it.live.tick_waiter.done()))


async def test_who_rests_wakes_at_the_tick_of_its_turn(three: list[Writing], clock: Clock):
    one, two, witness = three
    await begin(one)
    await begin(two)
    first, second = rest(one), rest(two)
    await rests(two)
    await look(witness)
    assert not first.done()
    assert one.live.slot is not None
    clock.now = (one.live.slot + 0.5) * SLOT_SECONDS
    await asyncio.wait_for(first, 10)
    await look(witness)
    assert not second.done(), "It woke at the tick of another."
    clock.now += SLOT_SECONDS
    await asyncio.wait_for(second, 10)


async def test_what_is_read_at_a_tick_is_flushed_with_it(three: list[Writing], clock: Clock):
    one = three[0]
    await begin(one)
    resting = rest(one, then="a")
    await rests(one)
    clock.now += TICK_SECONDS + SLOT_SECONDS
    await asyncio.wait_for(resting, 10)
    await arrives(one)
    assert await texts(one) == ["0", "a"]


async def test_who_rests_while_there_is_something_to_flush_keeps_its_tick(three: list[Writing], clock: Clock):
    one = three[0]
    await begin(one)
    say(one, "a")
    slot = one.live.slot
    resting = rest(one, then="b")
    await rests(one)
    assert one.live.slot == slot
    clock.now += TICK_SECONDS + SLOT_SECONDS
    await asyncio.wait_for(resting, 10)
    await arrives(one)
    assert await texts(one) == ["0", "ab"]


async def test_who_rests_on_a_turn_that_is_closed_wakes(three: list[Writing], clock: Clock):
    one, _, witness = three
    await begin(one)
    say(one, "lost")
    resting = rest(one)
    await rests(one)
    one.writer.close(one.live)
    clock.now += TICK_SECONDS + SLOT_SECONDS
    await asyncio.wait_for(resting, 10)
    await look(witness)
    assert await texts(one) == ["0"]
    assert one.live.slot is None


async def test_who_rests_on_a_turn_that_is_lost_wakes(three: list[Writing], clock: Clock):
    one = three[0]
    await begin(one)
    resting = rest(one)
    await rests(one)
    await one.redis.set(leases.lease_key(one.turn.pk), "runner-b:2")
    one.say("a")
    await eventually(lambda: _is(lambda: one.live.is_lost))
    clock.now += TICK_SECONDS + SLOT_SECONDS
    await asyncio.wait_for(resting, 10)


async def test_who_is_cancelled_while_resting_is_in_nobodys_way(three: list[Writing], clock: Clock):
    one, two, _ = three
    await begin(one, two)
    resting = rest(one)
    await rests(one)
    resting.cancel()
    await asyncio.wait({resting})
    assert resting.cancelled()
    say(two, "b")
    clock.now += TICK_SECONDS + SLOT_SECONDS
    await arrives(two)
    assert one.live.tick_waiter is not None
    assert one.live.tick_waiter.done()
    again = rest(one, then="a")
    await rests(one)
    clock.now += TICK_SECONDS + SLOT_SECONDS
    await asyncio.wait_for(again, 10)
    await arrives(one)


async def test_a_writer_whose_turns_are_over_has_nothing_left(three: list[Writing], clock: Clock):
    writer = three[0].writer
    await begin(*three)
    resting = [rest(it, then="a") for it in three]
    await rests(three[2])
    clock.now += TICK_SECONDS + SLOT_SECONDS
    await asyncio.wait(resting, timeout=10)
    await arrives(*three)
    for it in three:
        writer.close(it.live)
    clock.now += TICK_SECONDS + SLOT_SECONDS
    await eventually(lambda: _is(lambda: not writer._slots))
    assert (writer._live, writer._urgent) == ({}, [])
    assert not any(it.live.is_dirty for it in three)
