"""The log's scripts: who may append, and what a log adds up to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from chat.turns import ending, leases, log, queue
from chat.turns.ending import KEPT_AFTER_END_SECONDS
from chat.turns.leases import LEASE_MS
from chat.turns.log import (
    APPEND,
    KEPT_WHILE_OPEN_SECONDS,
    RENEWED,
    WAKE_UPS,
    Append,
    Entry,
    EntryKind,
    decode_entries,
    encode_appends,
    encode_entry,
    replay,
)
from history.models import new_id

TURN = new_id()


def text(gen: int, at: int, what: str) -> Entry:
    return Entry(TURN.bytes, EntryKind.TEXT, gen, at, what)


async def append(redis: Redis, holder: str, *entries: Entry, after: int | None = None) -> int:
    """Append to a log that must have `after` entries: by default, as many as it has."""
    if after is None:
        after = await redis.xlen(log.log_key(TURN))
    appends = [Append(leases.lease_key(TURN), log.log_key(TURN), holder, True, after, len(entries))]
    run = APPEND.bind(redis, lease_ms=LEASE_MS, log_seconds=KEPT_WHILE_OPEN_SECONDS, channel=WAKE_UPS)
    (answer,) = await run([encode_appends(appends), *map(encode_entry, entries)])
    return answer


# --- The lease --------------------------------------------------------------------------------------------------------


async def test_the_holder_of_the_lease_appends(redis: Redis):
    assert await leases.take_lease(redis, TURN, "a:1")
    assert await append(redis, "a:1", text(1, 0, "hola"), text(1, 4, " mundo")) == RENEWED
    assert await log.read_log(redis, TURN) == [text(1, 0, "hola"), text(1, 4, " mundo")]
    assert 0 < await redis.ttl(log.log_key(TURN)) <= KEPT_WHILE_OPEN_SECONDS


async def test_nobody_appends_without_a_lease(redis: Redis):
    assert await append(redis, "a:1", text(1, 0, "hola")) == -1
    assert await log.read_log(redis, TURN) == []


async def test_nobody_appends_under_the_lease_of_another(redis: Redis):
    await leases.take_lease(redis, TURN, "b:2")
    assert await append(redis, "a:1", text(1, 0, "hola")) == 0
    assert await append(redis, "b:1", text(1, 0, "hola")) == -1
    assert await log.read_log(redis, TURN) == []


async def test_nobody_appends_to_a_log_that_is_not_as_they_left_it(redis: Redis):
    await leases.take_lease(redis, TURN, "a:1")
    await append(redis, "a:1", text(1, 0, "hola"))
    for after in (0, 2):
        assert await append(redis, "a:1", text(1, 10, "!"), after=after) == -2
        assert await append(redis, "a:1", after=after) == -2
    assert await log.read_log(redis, TURN) == [text(1, 0, "hola")]


async def test_what_is_refused_is_not_told_to_anybody(redis: Redis):
    async with redis.pubsub() as subscription:
        await subscription.subscribe(WAKE_UPS)
        await append(redis, "a:1", text(1, 0, "refused"))
        await leases.take_lease(redis, TURN, "a:1")
        await append(redis, "a:1", text(1, 0, "hola"), text(1, 4, "!"))
        told = await told_by(subscription)
    assert told == [[text(1, 0, "hola"), text(1, 4, "!")]]


async def told_by(subscription: PubSub) -> list[list[Entry]]:
    """Return what every reader was told so far."""
    told = []
    while message := await subscription.get_message(timeout=0.2):
        if message["type"] == "message":
            told.append(decode_entries(message["data"]))
    return told


async def test_appending_renews_the_lease(redis: Redis):
    await leases.take_lease(redis, TURN, "a:1")
    await redis.pexpire(leases.lease_key(TURN), 500)
    assert await append(redis, "a:1") == RENEWED
    assert await redis.pttl(leases.lease_key(TURN)) > 10_000


async def test_a_lease_is_taken_when_it_is_free(redis: Redis):
    assert await leases.take_lease(redis, TURN, "a:1")
    assert not await leases.take_lease(redis, TURN, "b:1")
    assert await redis.get(leases.lease_key(TURN)) == b"a:1"
    assert 0 < await redis.pttl(leases.lease_key(TURN)) <= LEASE_MS


async def test_a_lease_taken_twice_by_the_same_holder_is_taken(redis: Redis):
    """The answer to a first try may have been lost."""
    assert await leases.take_lease(redis, TURN, "a:1")
    assert await leases.take_lease(redis, TURN, "a:1")


async def test_a_lease_is_taken_from_an_earlier_self(redis: Redis):
    await leases.take_lease(redis, TURN, "a:1")
    assert await leases.take_lease(redis, TURN, "a:10")
    assert not await leases.take_lease(redis, TURN, "b:11")
    assert not await leases.take_lease(redis, TURN, "aa:11")
    assert not await leases.take_lease(redis, TURN, "a:9")  # a command that was late
    assert await redis.get(leases.lease_key(TURN)) == b"a:10"


async def test_a_new_generation_empties_the_log(redis: Redis):
    await leases.take_lease(redis, TURN, "a:1")
    await append(redis, "a:1", text(1, 0, "hola"))
    await leases.take_lease(redis, TURN, "a:2")
    assert await log.read_log(redis, TURN) != []
    await leases.take_lease(redis, TURN, "a:2", empties_log=True)
    assert await log.read_log(redis, TURN) == []


# --- The end ----------------------------------------------------------------------------------------------------------


async def test_the_end_drops_lease_mark_and_queue_entry(redis: Redis):
    await redis.xgroup_create(queue.QUEUE, queue.GROUP, id="0", mkstream=True)
    entry = await redis.xadd(queue.QUEUE, {b"turn": TURN.bytes})
    await redis.xreadgroup(queue.GROUP, "a", {queue.QUEUE: ">"})
    await redis.set(queue.queued_key(TURN), b"1")
    await leases.take_lease(redis, TURN, "a:1")
    await append(redis, "a:1", text(1, 0, "hola"))
    await ending.end_log(redis, TURN, gen=1, characters=4, holder="a:1", queue_entry=entry)
    assert await log.read_log(redis, TURN) == [text(1, 0, "hola"), Entry(TURN.bytes, EntryKind.END, 1, 4)]
    assert await redis.exists(leases.lease_key(TURN), queue.queued_key(TURN)) == 0
    assert (await redis.xpending(queue.QUEUE, queue.GROUP))["pending"] == await redis.xlen(queue.QUEUE) == 0
    assert 0 < await redis.ttl(log.log_key(TURN)) <= KEPT_AFTER_END_SECONDS


async def test_the_end_is_told_once(redis: Redis):
    async with redis.pubsub() as subscription:
        await subscription.subscribe(WAKE_UPS)
        await ending.end_log(redis, TURN, gen=1, characters=4)
        await ending.end_log(redis, TURN, gen=1, characters=4)
        told = await told_by(subscription)
    assert told == [[Entry(TURN.bytes, EntryKind.END, 1, 4)]]
    assert len(await log.read_log(redis, TURN)) == 1


async def test_the_end_leaves_the_lease_of_another(redis: Redis):
    await leases.take_lease(redis, TURN, "b:2")
    await ending.end_log(redis, TURN, gen=1, holder="a:1")
    assert await redis.get(leases.lease_key(TURN)) == b"b:2"


# --- What a log adds up to --------------------------------------------------------------------------------------------


def test_an_empty_log_is_nothing():
    assert not replay([]).was_shown
    assert replay([]).gen == 0


def test_texts_and_notes_are_put_together():
    entries = [
        Entry(TURN.bytes, EntryKind.BEGUN, 1, 0, "who"),
        Entry(TURN.bytes, EntryKind.REASONING, 1, 0, "hm"),
        text(1, 0, "hola"),
        text(1, 4, " mundo"),
        Entry(TURN.bytes, EntryKind.OUTCOME, 1, 0, "how"),
        Entry(TURN.bytes, EntryKind.END, 1, 10),
    ]
    found = replay(entries)
    assert (found.gen, found.begun, found.reasoning, found.text) == (1, "who", "hm", "hola mundo")
    assert (found.outcome, found.is_ended, found.was_shown) == ("how", True, True)


def test_a_later_generation_voids_the_earlier_one():
    found = replay([text(1, 0, "old"), Entry(TURN.bytes, EntryKind.OUTCOME, 1, 0, "how"), text(2, 0, "new")])
    assert (found.gen, found.text, found.outcome) == (2, "new", "")


def test_the_end_of_an_earlier_generation_voids_nothing():
    assert replay([text(2, 0, "new"), Entry(TURN.bytes, EntryKind.END, 3, 3)]).text == "new"


@pytest.mark.parametrize("kind", [EntryKind.TEXT, EntryKind.REASONING])
def test_what_comes_after_a_hole_counts_for_nothing(kind: EntryKind):
    """Not even that the answer is whole: what is missing was never read again."""
    entries = [
        Entry(TURN.bytes, EntryKind.BEGUN, 1, 0, "who"),
        Entry(TURN.bytes, kind, 1, 0, "hola"),
        Entry(TURN.bytes, kind, 1, 10, "!"),
        text(1, 0, "other"),
        Entry(TURN.bytes, EntryKind.OUTCOME, 1, 0, "how"),
        Entry(TURN.bytes, EntryKind.END, 1, 11),
    ]
    found = replay(entries)
    assert ((found.text or found.reasoning), found.begun, found.outcome) == ("hola", "who", "")
    assert found.is_ended


def test_a_generation_after_one_with_a_hole_is_whole():
    outcome = Entry(TURN.bytes, EntryKind.OUTCOME, 2, 0, "how")
    found = replay([text(1, 0, "ho"), text(1, 9, "x"), text(2, 0, "hola"), outcome])
    assert (found.text, found.outcome) == ("hola", "how")


@given(st.lists(st.text(min_size=1, max_size=5), max_size=8), st.data())
def test_an_entry_that_is_there_twice_counts_once(parts: list[str], data: st.DataObject):
    entries, at = [], 0
    for part in parts:
        entry = text(1, at, part)
        entries += [entry] * data.draw(st.integers(1, 2))
        at += len(part)
    assert replay(entries).text == "".join(parts)
