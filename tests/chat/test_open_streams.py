"""Open streams of the API: what they hold while they wait, and how many one person may have."""

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from django.core.signals import request_finished
from django.db import transaction

from accounts.models import User
from chat.api import open_streams
from chat.api.open_streams import MAX_STREAMS, one_more_stream
from chat.api.streams import event_stream
from chat.turns.runner import Runner
from core.redis_clients import sync_redis
from core.threads import in_thread
from history import access
from history.deletion import delete_conversation
from history.models import Turn, new_id
from history.progress import Outcome, close
from tests.chat.asking import aask, eventually
from tests.chat.http_streams import HttpStream, events_of, opened, request_of
from tests.chat.live import admission_for

pytestmark = pytest.mark.usefixtures("catalog", "redis")

STARTED = b"turn.started"


def request_threads() -> int:
    """Return how many threads work for requests, each with connections of its own."""
    return sum(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def becomes(find: Callable[[], int], most: int) -> None:
    """Wait until there are no more than so many."""

    async def look() -> bool:
        return find() <= most

    await eventually(look)


def asking(text: str = "say:hola", **fields: Any) -> tuple[str, dict[str, Any]]:
    return f"conversations/{new_id()}/turns", {"text": text, "model": "scripted"} | fields


async def is_answered(user: User, path: str, asked: dict[str, Any] | None = None) -> int:
    """Ask for something, go away when the answer begins, and return its status."""
    async with opened(user, path, asked) as answer:
        return answer.status


# --- What they hold ---------------------------------------------------------------------------------------------------


@pytest.mark.stores
async def test_open_streams_hold_no_connection_another_member_needs(carla: User, ana: User):
    """Of twenty, more than the pool has. One that waits for the document holds none either."""
    async with AsyncExitStack() as stack:
        for user in (carla, ana):
            turn = await aask(user)
            for _ in range(9):
                stream = await stack.enter_async_context(opened(user, events_of(turn.pk)))
                await stream.has(STARTED)
        for _ in range(2):
            await stack.enter_async_context(opened(carla, *asking()))
        async with asyncio.timeout(20):
            assert await is_answered(ana, "allowance") == 200


async def test_a_stream_that_waits_holds_neither_a_thread_nor_descriptors(carla: User):
    turn = await aask(carla)
    threads = request_threads()  # one, if other tests used Django's client
    async with AsyncExitStack() as stack:
        await (await stack.enter_async_context(opened(carla, events_of(turn.pk)))).has(STARTED)
        await becomes(request_threads, threads)
        files = descriptors()
        for number in range(12):
            path, asked = (events_of(turn.pk), None) if number % 2 else asking()
            await stack.enter_async_context(opened(carla, path, asked))
        await becomes(request_threads, threads)
        await becomes(descriptors, files + 12)  # a few of Redis, and of the threads that look at saved turns


async def test_a_stream_without_its_requests_thread_comes_to_its_end(carla: User, runner: Runner):
    turn = await aask(carla, "say:hola wait:0.1 say:mundo")
    finished: list[object] = []

    def count(sender: object, **_fields: object) -> None:
        finished.append(sender)

    request_finished.connect(count)
    try:
        stream = await request_of(carla, events_of(turn.pk))
        stream.begin()
        await stream.has(b"turn.completed")
        assert stream.task is not None
        await stream.task
        assert len(finished) == 1
        async with opened(carla, events_of(turn.pk)):
            pass
        assert len(finished) == 2
    finally:
        request_finished.disconnect(count)
    assert b"hola " in stream.body


async def test_a_request_that_is_over_leaves_no_descriptors_open(carla: User):
    """SQLite's connections are a request's own; they stayed until the garbage collector came by."""
    gc.disable()
    try:
        for _ in range(2):  # the first ones open what stays
            before = descriptors()
            for _ in range(10):
                assert await is_answered(carla, "conversations") == 200
        await becomes(descriptors, before + 3)
    finally:
        gc.enable()


@pytest.mark.parametrize("streams", [True, False])
async def test_a_stream_whose_turn_is_deleted_ends_in_words_and_not_in_an_error(carla: User, streams: bool):
    async with opened(carla, *asking(stream=streams)) as stream:
        turn = await in_thread(Turn.objects.get)
        conversation = await in_thread(access.access_conversation, carla.pk, turn.conversation_id)
        await in_thread(delete_conversation, conversation)
        assert stream.task is not None
        await asyncio.wait_for(stream.task, 15)
    assert stream.status == 200
    if not streams:
        assert stream.code == "not_found"


# --- How many ---------------------------------------------------------------------------------------------------------


async def test_one_person_has_only_so_many_streams_open(carla: User, ana: User):
    turn = await aask(carla)
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(opened(carla, events_of(turn.pk))) for _ in range(MAX_STREAMS)]
        async with opened(carla, events_of(turn.pk)) as more:
            await more.has(b"}")
            assert (more.status, more.code) == (429, "too_many_streams")
        assert await is_answered(ana, *asking(stream=True)) == 200
        await streams[0].leave()
        assert await is_answered(carla, events_of(turn.pk)) == 200


async def test_as_many_streams_at_once_as_one_may_have_are_opened(carla: User):
    turn = await aask(carla)
    streams = [await request_of(carla, events_of(turn.pk)) for _ in range(MAX_STREAMS + 4)]
    assert await statuses(streams) == [200] * MAX_STREAMS + [429] * 4


async def statuses(streams: list[HttpStream]) -> list[int]:
    """Send all requests at once, and leave when all are answered; return their statuses in order."""
    for stream in streams:
        stream.begin()
    for stream in streams:
        await stream.has()
    for stream in streams:
        await stream.leave()
    return sorted(stream.status for stream in streams)


@pytest.mark.parametrize("streams", [True, False])
async def test_a_question_whose_answer_would_be_one_stream_too_many_is_not_opened(carla: User, streams: bool):
    async with AsyncExitStack() as stack:
        for number in range(MAX_STREAMS):  # documents that are waited for count like streams
            await stack.enter_async_context(opened(carla, *asking(stream=number % 2 == 0)))
        turns = await in_thread(Turn.objects.count)
        queued = sync_redis().xlen("turns")
        async with opened(carla, *asking(stream=streams)) as more:
            await more.has(b"}")
            assert (more.status, more.code) == (429, "too_many_streams")
        assert (await in_thread(Turn.objects.count), sync_redis().xlen("turns")) == (turns, queued)


# --- A stream that is over gives its place back, whatever way it ended --------------------------------------------


async def leave(user: User) -> None:
    """Read a while, then go away."""
    async with opened(user, events_of((await aask(user)).pk)) as stream:
        await stream.has(STARTED)


async def leave_before_the_first_byte(user: User) -> None:
    """Go away while the server cannot send: the answer is there, its content was never asked for."""
    stream = await request_of(user, events_of((await aask(user)).pk))
    stream.is_stuck = True
    stream.begin()
    await stream.has()
    await stream.leave()


async def ask_in_vain(user: User) -> None:
    async with opened(user, *asking(model="gpt-0")) as stream:
        assert stream.status == 404


async def break_off(user: User) -> None:
    """Follow a turn whose end cannot be told, as it was deleted."""
    turn = await aask(user)
    await in_thread(close, turn, Outcome("stopped"))
    with one_more_stream(await in_thread(admission_for, user)) as stream:
        response = event_stream(turn, None, stream)
    await in_thread(Turn.objects.filter(pk=turn.pk).delete)
    async for _part in response:
        pass


async def be_answered(user: User) -> None:
    turn = await aask(user)
    await in_thread(close, turn, Outcome("stopped"))
    stream = await request_of(user, events_of(turn.pk))
    stream.begin()
    assert stream.task is not None
    await stream.task
    assert b"turn.stopped" in stream.body


@pytest.mark.parametrize("way", [leave, leave_before_the_first_byte, ask_in_vain, break_off, be_answered])
async def test_a_stream_that_is_over_makes_room(carla: User, way: Callable[[User], Awaitable[None]]):
    await asyncio.gather(*(way(carla) for _ in range(MAX_STREAMS)))
    assert await is_answered(carla, events_of((await aask(carla)).pk)) == 200


async def test_a_client_that_went_away_while_its_request_was_looked_at_keeps_no_place_for_long(
    carla: User, monkeypatch: pytest.MonkeyPatch
):
    """Django drops the answer then, and closes nothing."""
    turn = await aask(carla)
    gone = [await request_of(carla, *asking()) for _ in range(MAX_STREAMS)]
    later = [await request_of(carla, events_of(turn.pk)) for _ in range(MAX_STREAMS)]
    async with written_by_somebody_else():
        for stream in gone:
            stream.begin()
        await asyncio.sleep(0.3)  # until they wait for the database
        for stream in gone:
            stream.hang_up()
    await asyncio.wait([stream.task for stream in gone if stream.task], timeout=10)
    monkeypatch.setattr(open_streams, "UNBEGUN_SECONDS", 0)
    assert await statuses(later) == [200] * MAX_STREAMS


@asynccontextmanager
async def written_by_somebody_else() -> AsyncIterator[None]:
    """Let every question wait for SQLite's write lock."""
    has_begun, may_end = threading.Event(), threading.Event()

    def write() -> None:
        with transaction.atomic():
            has_begun.set()
            may_end.wait(10)

    writing = asyncio.create_task(in_thread(write))
    while not has_begun.is_set():
        await asyncio.sleep(0.005)
    try:
        yield
    finally:
        may_end.set()
        await writing
