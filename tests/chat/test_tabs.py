"""Several pages of one person: what one asks for is told to the others, once and in order, and nobody is left over."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import AsyncMock
from uuid import UUID

import pytest
from django.test import AsyncClient, Client

from accounts.api.views import tokens_for
from accounts.models import User
from chat.socket.consumer import MAX_WATCHED_TURNS, TurnConsumer
from chat.turns.log import Entry, EntryKind
from chat.turns.runner import Runner
from chat.turns.watching import hub
from core.threads import in_thread
from history.models import Turn, new_id
from tests.chat.asking import aask, closed, eventually, saved
from tests.chat.live import ENDS, Page, page_of

pytestmark = pytest.mark.usefixtures("catalog", "redis")

TOLD = ["turn.started", "conversation.changed", "turn.completed", "allowance.changed"]
Ask = Callable[[User, str], Awaitable[UUID]]


# --- Ways to ask ------------------------------------------------------------------------------------------------------


async def by_socket(user: User, text: str) -> UUID:
    """Ask from a page that stays until it has the answer."""
    async with page_of(user) as page:
        turn_id = await page.start(text)
        await page.ended()
    return turn_id


async def by_api(user: User, text: str) -> UUID:
    token = (await in_thread(tokens_for, user))["access"]
    answer = await AsyncClient().post(
        f"/api/v1/conversations/{new_id()}/turns",
        data=json.dumps({"text": text, "model": "scripted"}),
        content_type="application/json",
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.status_code == 200
    return UUID(json.loads(b"".join([part async for part in answer.streaming_content]))["id"])


async def by_form(user: User, text: str) -> UUID:
    """Ask from a page without JavaScript."""
    turn_id = new_id()

    def post() -> int:
        browser = Client()
        browser.force_login(user)
        fields = {"text": text, "model": "scripted", "turn_id": str(turn_id)}
        return browser.post(f"/c/{new_id()}/", fields).status_code

    assert await in_thread(post) in (302, 303)
    return turn_id


any_way = pytest.mark.parametrize("ask", [by_socket, by_api, by_form], ids=lambda ask: ask.__name__)


async def told(page: Page) -> list[dict[str, Any]]:
    """Return everything a page was told, once it was told of an end."""
    await page.ended()
    return await page.settled()


# --- What another page is told ----------------------------------------------------------------------------------------


@any_way
async def test_an_open_page_is_told_of_a_turn_and_its_end_once_and_in_order(ana: User, runner: Runner, ask: Ask):
    async with page_of(ana) as page:
        turn_id = await ask(ana, "say:hola wait:0.1 say:mundo")
        events = await told(page)
    turn = await in_thread(saved, turn_id)
    assert [event["type"] for event in events] == TOLD
    started, changed, end, _ = events
    assert started["turn_id"] == end["turn_id"] == str(turn_id)
    assert started["conversation_id"] == changed["conversation_id"] == str(turn.conversation_id)
    assert f'href="/c/{turn.conversation_id}/"' in changed["html"]
    assert "hola mundo" in end["html"]


@any_way
async def test_every_open_page_is_told_and_nobody_elses(ana: User, bo: User, runner: Runner, ask: Ask):
    async with page_of(ana) as one, page_of(ana) as two, page_of(bo) as foreign:
        await ask(ana, "say:hola")
        for page in (one, two):
            assert [event["type"] for event in await told(page)] == TOLD
        assert await foreign.settled() == []


async def test_a_turn_that_waits_is_told_before_anybody_runs_it(ana: User):
    async with page_of(ana) as page:
        turn_id = await by_form(ana, "say:hola")
        started = await page.next("turn.started")
        await page.next("conversation.changed")
        assert page.of(*ENDS) == []
    assert started["turn_id"] == str(turn_id)
    assert 'data-status="queued"' in started["html"]


async def test_several_turns_are_each_told_in_order(carla: User, runner: Runner):
    async with page_of(carla) as page:
        turns = [await aask(carla, "say:hola wait:0.05 say:mundo") for _ in range(5)]
        for turn in turns:
            await closed(turn)
        for _ in turns:
            await page.ended()
        events = await page.settled()
    for turn in turns:
        own = [event["type"] for event in events if event.get("turn_id") == str(turn.pk)]
        assert own == ["turn.started", "turn.completed"]
    assert [event["type"] for event in events].count("conversation.changed") == 5


async def test_a_page_is_told_of_a_stop_elsewhere(ana: User, runner: Runner):
    async with page_of(ana) as page, page_of(ana) as other:
        turn_id = await page.start("say:hola wait:20 say:mundo")
        await page.next("turn.delta")
        await other.next("conversation.changed")
        await other.send("turn.stop", turn_id=turn_id)
        assert (await page.ended())["type"] == "turn.stopped"
        assert (await other.ended())["type"] == "turn.stopped"
        await other.settled()
        assert len(other.of(*ENDS)) == 1


async def test_a_page_that_follows_a_turn_it_was_told_of_gets_its_end_once(ana: User, runner: Runner):
    async with page_of(ana) as page:
        turn = await aask(ana, "say:hola wait:0.4 say:mundo")
        await page.next("conversation.changed")
        await page.send("turn.watch", turn_id=turn.pk)
        await page.ended()
        await page.settled()
        assert len(page.of(*ENDS)) == 1
        assert "".join(event["text"] for event in page.of("turn.delta")) == "hola mundo "


# --- What the page that asks is told ----------------------------------------------------------------------------------


async def test_the_page_that_asks_is_told_once(ana: User, runner: Runner):
    async with page_of(ana) as page, page_of(ana) as other:
        await page.start("say:hola")
        assert [event["type"] for event in await told(page)] == [*TOLD[:2], "turn.delta", *TOLD[2:]]
        assert [event["type"] for event in await told(other)] == TOLD


async def test_a_page_that_asks_many_things_at_once_is_told_once_of_each(carla: User, runner: Runner):
    async with page_of(carla) as page:
        asked = [await page.start("say:hola wait:0.05 say:mundo") for _ in range(8)]
        for _ in asked:
            await page.ended()
        events = await page.settled()
    for turn_id in asked:
        own = [event["type"] for event in events if event.get("turn_id") == str(turn_id)]
        assert [kind for kind in own if kind != "turn.delta"] == ["turn.started", "turn.completed"]


# --- The same question again ------------------------------------------------------------------------------------------


async def test_a_question_asked_again_is_answered_from_its_log(ana: User, runner: Runner):
    ids = {"turn_id": new_id(), "conversation_id": new_id()}
    async with page_of(ana) as page:
        await page.start("think:hm say:hola wait:0.1 say:mundo", **ids)
        await page.ended()
    turn = await in_thread(saved, ids["turn_id"])
    await in_thread(Turn.objects.filter(pk=turn.pk).update, answer="not this", reasoning="nor this")
    async with page_of(ana) as page:
        await page.start("think:hm say:hola wait:0.1 say:mundo", **ids)
        events = await told(page)
    assert [event["type"] for event in events if event["type"] not in ("turn.delta", "turn.reasoning")] == [
        *("turn.started", "turn.completed", "allowance.changed"),
    ]
    assert "".join(event["text"] for event in events if event["type"] == "turn.delta") == "hola mundo "
    assert "".join(event["text"] for event in events if event["type"] == "turn.reasoning") == "hm "


async def test_a_question_asked_again_while_it_is_answered_starts_over_and_ends_once(ana: User, runner: Runner):
    async with page_of(ana) as page:
        ids = {"turn_id": new_id(), "conversation_id": new_id()}
        await page.start("say:hola wait:0.5 say:mundo", **ids)
        await page.next("turn.delta")
        await page.start("say:hola wait:0.5 say:mundo", **ids)
        events = await told(page)
    assert [event["at"] for event in events if event["type"] == "turn.delta"] == [0, 0, 5]
    assert len([event for event in events if event["type"] in ENDS]) == 1
    assert await in_thread(Turn.objects.count) == 1


async def test_a_question_asked_again_by_another_page_is_told_to_both_once(ana: User, runner: Runner):
    async with page_of(ana) as page, page_of(ana) as other:
        ids = {"turn_id": new_id(), "conversation_id": new_id()}
        await page.start("say:hola wait:0.5 say:mundo", **ids)
        await page.next("turn.delta")
        await other.start("say:hola wait:0.5 say:mundo", **ids)
        for one in (page, other):
            await told(one)
            assert len(one.of(*ENDS)) == 1
            assert "".join(event["text"] for event in one.of("turn.delta")) == "hola mundo "


# --- Nobody is left over ----------------------------------------------------------------------------------------------


async def test_a_page_that_leaves_listens_no_more(ana: User, bo: User):
    async with page_of(bo):
        async with page_of(ana), page_of(ana):
            # Each page for its turns, and for each person one that hears of log-outs.
            assert {owner: len(listeners) for owner, listeners in hub()._listeners.items()} == {ana.pk: 3, bo.pk: 2}
        assert list(hub()._listeners) == [bo.pk]
    assert hub()._listeners == {}


async def test_a_page_that_leaves_while_it_follows_turns_leaves_nothing(carla: User, runner: Runner):
    async with page_of(carla) as page:
        for _ in range(3):
            await page.start("say:hola wait:20")
        for _ in range(3):
            await page.next("turn.delta")
        assert len(hub()._watchers) == 3
    await eventually(nobody_watches)
    assert hub()._listeners == {}


async def test_a_page_that_leaves_at_once_leaves_nothing(carla: User, runner: Runner):
    for _ in range(10):
        async with page_of(carla) as page:
            await page.start("say:hola")
    await eventually(nobody_watches)
    assert hub()._listeners == {}


async def test_a_question_that_may_not_be_followed_is_refused_before_it_is_opened(carla: User):
    turns = [await aask(carla) for _ in range(MAX_WATCHED_TURNS)]
    async with page_of(carla) as page:
        for turn in turns:
            await page.send("turn.watch", turn_id=turn.pk)
        asked = await page.start()
        assert (await page.next("turn.rejected"))["turn_id"] == str(asked)
        assert page.of("turn.started") == []
        assert not await in_thread(Turn.objects.filter(pk=asked).exists)
        assert asked.bytes not in hub()._watchers
    await eventually(nobody_watches)


async def test_a_question_that_is_refused_leaves_nothing_behind(ana: User):
    async with page_of(ana) as page:
        await page.start("")
        await page.next("turn.rejected")
        assert hub()._watchers == {}


async def nobody_watches() -> bool:
    return hub()._watchers == {}


def consumer_of(user: User) -> TurnConsumer:
    """A socket nobody is connected to."""
    consumer = TurnConsumer()
    consumer.user = user
    consumer.watching, consumer.opening, consumer.announced, consumer.background = {}, set(), set(), set()
    consumer.announcing = asyncio.Lock()
    consumer.base_send = consumer.send = AsyncMock()
    return consumer


async def test_a_relay_that_is_cancelled_before_it_starts_leaves_no_watcher(ana: User):
    consumer, turn = consumer_of(ana), await aask(ana)
    watcher = await hub().add_new(turn.pk)
    consumer.watch(turn, watcher=watcher)
    task = consumer.watching[turn.pk]
    task.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(0)
    assert task.cancelled()
    assert (hub()._watchers, consumer.watching) == ({}, {})


async def test_a_relay_that_is_replaced_before_it_starts_leaves_no_watcher(ana: User):
    consumer, turn = consumer_of(ana), await aask(ana)
    consumer.watch(turn, watcher=await hub().add_new(turn.pk))
    replaced = consumer.watching[turn.pk]
    consumer.watch(turn)
    task = consumer.watching[turn.pk]
    await asyncio.wait({replaced})
    await asyncio.sleep(0)
    assert consumer.watching == {turn.pk: task}
    assert len(hub()._watchers[turn.pk.bytes]) == 1
    task.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(0)
    assert (hub()._watchers, consumer.watching) == ({}, {})


async def test_an_end_that_is_heard_twice_is_told_once(ana: User):
    consumer, turn = consumer_of(ana), await aask(ana)
    consumer.announced.add(turn.pk)
    for _ in range(2):
        consumer.on_news(Entry(turn.pk.bytes, EntryKind.END, 1, text=str(ana.pk)))
    assert len(consumer.background) == 1
    await asyncio.wait(consumer.background)
    assert consumer.announced == set()


async def test_a_listener_that_left_is_told_nothing(carla: User):
    left: list[Entry] = []
    stays: list[Entry] = []
    for heard in (left, stays):
        await hub().listen(carla.pk, heard.append)
    hub().unlisten(carla.pk, left.append)
    hub().unlisten(carla.pk, left.append)
    turn = await aask(carla)

    async def was_told() -> bool:
        return [(entry.kind, entry.turn) for entry in stays] == [(EntryKind.OPENED, turn.pk.bytes)]

    await eventually(was_told)
    assert left == []
    hub().unlisten(carla.pk, stays.append)
    assert hub()._listeners == {}
