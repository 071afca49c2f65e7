"""What a person's open tabs learn of changes made elsewhere."""

from uuid import UUID

import pytest
from redis.asyncio import Redis

from accounts.models import User
from core.threads import in_thread
from history import access, deletion, folders, order, tree
from history.models import Conversation, new_id
from tests.chat.live import page_of

pytestmark = pytest.mark.usefixtures("catalog", "redis")


async def begun(user: User) -> Conversation:
    return await in_thread(tree.get_or_create_conversation, user.pk, new_id(), title="Recetas")


async def test_another_title_reaches_the_open_tabs(ana: User, bo: User):
    conversation = await begun(ana)
    async with page_of(ana) as page, page_of(bo) as other:
        await in_thread(access.rename_conversation, conversation, "Viajes")
        changed = await page.next("conversation.changed")
        assert await other.settled() == []
    assert changed["conversation_id"] == str(conversation.pk)
    assert "Viajes" in changed["html"]


async def test_a_deletion_reaches_the_open_tabs(ana: User):
    conversation = await begun(ana)
    async with page_of(ana) as page:
        await in_thread(deletion.delete_conversation, conversation)
        changed = await page.next("conversation.changed")
    assert (changed["conversation_id"], changed["html"]) == (str(conversation.pk), "")


async def test_another_place_reaches_the_open_tabs_one_by_one_or_as_another_list(ana: User, bo: User):
    some = [await begun(ana) for _ in range(6)]
    async with page_of(ana) as page, page_of(bo) as other:
        await in_thread(lambda: order.do(ana.pk, "pin", {some[0].pk: None}))
        changed = await page.next("conversation.changed")
        assert 'data-place="pinned"' in changed["html"]
        await in_thread(lambda: order.do(ana.pk, "trash", {row.pk: None for row in some}))
        assert await page.next("list.changed") == {"type": "list.changed"}
        await in_thread(lambda: folders.create_folder(ana.pk, name="Cocina"))
        await page.next("list.changed")
        assert await other.settled() == []


async def test_a_page_that_follows_a_turn_learns_that_it_is_deleted_though_the_notice_got_lost(
    ana: User, monkeypatch: pytest.MonkeyPatch
):
    async with page_of(ana) as page:
        await page.start()
        started = await page.next("turn.started")
        await page.next("conversation.changed")
        monkeypatch.setattr("chat.turns.notices.send_notice", lambda *_lost: None)
        conversation = await in_thread(access.find_conversation, UUID(started["conversation_id"]))
        await in_thread(deletion.delete_conversation, conversation)
        changed = await page.next("conversation.changed")
    assert (changed["conversation_id"], changed["html"]) == (started["conversation_id"], "")


async def test_somebody_suspended_is_hung_up_on(ana: User, bo: User):
    async with page_of(ana) as page, page_of(bo) as other:
        ana.is_active = False
        await in_thread(ana.save)
        assert await page.closing() == 4401
        await other.settled()
        assert other.closed_with is None


async def test_a_change_is_made_also_when_nobody_can_be_told(ana: User, redis: Redis, monkeypatch: pytest.MonkeyPatch):
    def fail(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("chat.turns.notices.get_channel_layer", fail)
    conversation = await begun(ana)
    await in_thread(access.rename_conversation, conversation, "Viajes")
    assert (await in_thread(access.find_conversation, conversation.pk)).title == "Viajes"
