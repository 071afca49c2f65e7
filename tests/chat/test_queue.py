"""More questions than can be answered at once: who waits knows its place, and who cannot wait is told so at once."""

import asyncio
import time
from functools import partial

import pytest
from redis.asyncio import Redis

from accounts.models import User
from billing.errors import TooManyAtOnce
from billing.models import Plan, Reservation
from chat.errors import QueueFull
from chat.turns import limits, queue, watching
from chat.turns.log import EntryKind
from chat.turns.opening import open_turn
from chat.turns.queue import GROUP, OPENING, QUEUE
from chat.turns.watching import Place, watch
from core.redis_clients import sync_redis
from core.threads import in_thread
from history.models import Conversation, Turn, new_id
from tests.billing.together import together
from tests.chat.asking import ask, period_of, question
from tests.chat.live import page_of
from tests.chat.writing import writing


@pytest.fixture
async def group(redis: Redis) -> None:
    await redis.xgroup_create(QUEUE, GROUP, id="0", mkstream=True)


async def test_each_turn_has_its_place(redis: Redis, group: None, carla: User):
    turns = [await in_thread(ask, carla) for _ in range(3)]
    assert await queue.queue_positions(redis) == {turn.pk: place for place, turn in enumerate(turns, 1)}


async def test_a_turn_that_a_runner_has_taken_is_not_in_line(redis: Redis, group: None, carla: User):
    turns = [await in_thread(ask, carla) for _ in range(3)]
    await redis.xreadgroup(GROUP, "runner", {QUEUE: ">"}, count=2)
    assert await queue.queue_positions(redis) == {turns[2].pk: 1}


async def test_a_reader_is_told_its_place_until_its_text_comes(
    redis: Redis, group: None, carla: User, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watching, "CHECK_SECONDS", 0.02)
    other = await in_thread(ask, carla)
    turn = await in_thread(ask, carla)
    told: list[tuple[int, int]] = []

    async def read() -> None:
        async for entries in watch(turn, Place()):
            told.extend((entry.kind, entry.at) for entry in entries)

    reader = asyncio.create_task(read())
    await until_told(told, (EntryKind.WAITING, 2))
    await redis.xreadgroup(GROUP, "runner", {QUEUE: ">"}, count=1)
    await until_told(told, (EntryKind.WAITING, 1))
    await redis.xreadgroup(GROUP, "runner", {QUEUE: ">"}, count=1)
    await until_told(told, (EntryKind.WAITING, 0))
    async with writing(redis, turn) as it:
        await it.say_and_wait("hola")
        await asyncio.sleep(0.1)  # who has text is told no place
        await it.finish()
        await reader
    assert [kind for kind, _at in told] == [EntryKind.WAITING] * 3 + [EntryKind.TEXT, EntryKind.END]
    assert other.pk != turn.pk


async def until_told(told: list[tuple[int, int]], entry: tuple[int, int]) -> None:
    async with asyncio.timeout(20):
        while entry not in told:
            await asyncio.sleep(0.01)


async def test_a_full_line_takes_nobody_in_and_costs_nothing(redis: Redis, group: None, carla: User, settings):
    settings.QUEUE_LIMIT = 2
    known = [await in_thread(ask, carla) for _ in range(2)]
    before = await in_thread(period_of, carla)
    refused = question("hola")
    with pytest.raises(QueueFull) as refusal:
        await in_thread(open_turn, carla.pk, refused)
    assert refusal.value.status == 503
    assert 5 <= (refusal.value.retry_after or 0) <= 20
    after = await in_thread(period_of, carla)
    assert (after.reserved_micros, after.account.holds) == (before.reserved_micros, before.account.holds)
    assert await in_thread(Turn.objects.count) == await in_thread(Conversation.objects.count) == len(known)
    assert not await in_thread(Reservation.objects.filter(pk=refused.turn_id).exists)


async def test_a_question_that_is_known_is_answered_by_a_full_line_too(
    redis: Redis, group: None, carla: User, settings
):
    asked = question("hola")
    opened = await in_thread(open_turn, carla.pk, asked)
    settings.QUEUE_LIMIT = 1
    again = await in_thread(open_turn, carla.pk, asked)
    assert (again.turn.pk, again.is_new) == (opened.turn.pk, False)


async def test_there_is_room_again_when_runners_have_taken_some(redis: Redis, group: None, carla: User, settings):
    settings.QUEUE_LIMIT = 1
    await in_thread(ask, carla)
    with pytest.raises(QueueFull):
        await in_thread(ask, carla)
    await redis.xreadgroup(GROUP, "runner", {QUEUE: ">"}, count=1)
    await in_thread(ask, carla)


async def test_what_another_process_has_queued_a_moment_ago_counts(redis: Redis, group: None, carla: User, settings):
    settings.QUEUE_LIMIT = 3
    await in_thread(ask, carla)
    for _ in range(2):
        await redis.xadd(QUEUE, {"turn": new_id().bytes})
    with pytest.raises(QueueFull):
        await in_thread(ask, carla)


async def test_what_waits_is_counted_before_any_runner_came_and_after_entries_were_deleted(
    redis: Redis, carla: User, settings
):
    settings.QUEUE_LIMIT = 3
    entries = [await redis.xadd(QUEUE, {"turn": new_id().bytes}) for _ in range(5)]
    with pytest.raises(QueueFull):
        await in_thread(ask, carla)
    await redis.xgroup_create(QUEUE, GROUP, id="0")
    await redis.xreadgroup(GROUP, "runner", {QUEUE: ">"}, count=1)
    await redis.xdel(QUEUE, entries[2])
    assert (await redis.xinfo_groups(QUEUE))[0]["lag"] is None
    with pytest.raises(QueueFull):
        await in_thread(ask, carla)
    await redis.xdel(QUEUE, entries[3])
    await in_thread(ask, carla)


def test_of_many_at_once_as_many_are_opened_as_the_queue_has_room_for(ana: User, settings):
    settings.QUEUE_LIMIT = 5
    free = Plan.objects.get(key="free")
    free.turns_at_once = None
    free.save()
    found = together([partial(ask, ana) for _ in range(15)])
    assert sorted(type(one).__name__ for one in found) == ["QueueFull"] * 10 + ["Turn"] * 5
    assert (Turn.objects.count(), sync_redis().xlen(QUEUE), sync_redis().zcard(OPENING)) == (5, 5, 0)
    settings.QUEUE_LIMIT = 500
    assert open_turn(ana.pk, question()).limit.remaining == 20 - 6  # those that were refused are not counted


def test_what_is_being_opened_counts_until_its_process_must_have_died(monkeypatch: pytest.MonkeyPatch, settings):
    settings.QUEUE_LIMIT = 1
    count = partial(limits.count_question, 1, turns_per_hour=None)
    with monkeypatch.context() as patch:
        patch.setattr(limits, "OPENING_SECONDS", 0)
        count(new_id())
    count(new_id())
    with pytest.raises(QueueFull):
        count(new_id())


def test_a_question_that_is_refused_leaves_its_place_in_the_queue(ana: User):
    ask(ana)
    with pytest.raises(TooManyAtOnce):
        ask(ana)
    assert sync_redis().zcard(OPENING) == 0


async def test_a_process_that_opens_all_it_can_refuses_at_once(
    redis: Redis, carla: User, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(queue, "MAX_OPENING", 0)
    async with page_of(carla) as page:
        begun = time.monotonic()
        turn_id = await page.start()
        refused = await page.next("turn.rejected")
        assert time.monotonic() - begun < 4
    assert (refused["turn_id"], refused["code"]) == (str(turn_id), "queue_full")
    assert 5 <= refused["retry_after"] <= 20
    assert await in_thread(Turn.objects.count) == 0


async def test_one_person_holds_only_a_few_places_of_a_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(queue, "MAX_OPENING", 3)
    limit = queue.OpeningLimit()
    is_done = asyncio.Event()
    inside: list[int] = []

    async def open_one(owner_id: int) -> None:
        async with limit.slot(owner_id):
            inside.append(owner_id)
            await is_done.wait()

    asking = [asyncio.create_task(open_one(1)) for _ in range(100)]
    await asyncio.sleep(0)
    asking.append(asyncio.create_task(open_one(2)))
    await asyncio.sleep(0)
    assert not asking[-1].done()  # it waits for a slot, or has it
    is_done.set()
    await asyncio.gather(*asking)  # nobody was refused
    assert inside.index(2) <= queue.OPENING_EACH
    assert len(inside) == 101


async def test_who_asks_again_and_again_is_behind_who_does_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(queue, "OPENED_AT_ONCE", 1)
    limit, opened, may_go_on = queue.OpeningLimit(), list[int](), asyncio.Semaphore(0)

    async def open_again_and_again(owner_id: int, times: int) -> None:
        for _ in range(times):
            async with limit.slot(owner_id):
                await may_go_on.acquire()
                opened.append(owner_id)

    asking = [asyncio.create_task(open_again_and_again(owner_id, 20)) for owner_id in range(30)]
    for _ in range(60):  # everybody has been there, and waits again
        may_go_on.release()
        await asyncio.sleep(0.001)
    asking.append(asyncio.create_task(open_again_and_again(99, 1)))
    await asyncio.sleep(0.001)
    before = len(opened)
    for _ in range(600):
        may_go_on.release()
    await asyncio.gather(*asking)
    assert opened.index(99) <= before + 1  # after the one that was being opened


async def test_a_question_that_is_taken_back_keeps_no_slot(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(queue, "OPENED_AT_ONCE", 1)
    limit = queue.OpeningLimit()

    async def open_one(owner_id: int) -> None:
        async with limit.slot(owner_id):
            await asyncio.sleep(0)

    for steps in range(6):  # of waiting, having just got it, and having it
        async with limit.slot(1):
            taken_back = asyncio.create_task(open_one(2))
            await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)
        taken_back.cancel()
        await asyncio.wait([taken_back])
        async with asyncio.timeout(5):
            await open_one(3)
    assert (limit._free, limit._waiting) == (1, [])


async def test_questions_that_are_taken_back_together_keep_no_slot(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(queue, "OPENED_AT_ONCE", 1)
    limit = queue.OpeningLimit()

    async def open_one(owner_id: int) -> None:
        async with limit.slot(owner_id):
            await asyncio.Event().wait()

    asking = [asyncio.create_task(open_one(1)) for _ in range(2)]  # one has the slot, the other waits for it
    await asyncio.sleep(0.01)
    for task in asking:  # as when their page is closed
        task.cancel()
    await asyncio.wait(asking)
    assert (limit._free, limit._waiting) == (1, [])
