"""What one member's sockets may take of a process: as many as they like to open keep nobody else from it."""

import asyncio
import json
from contextlib import AsyncExitStack
from threading import Event
from typing import Any
from uuid import UUID

import pytest
from django.utils import translation

from accounts.models import User
from chat.errors import TooManySockets
from chat.socket import authentication, consumer, shares
from chat.socket.shares import Share, take_share
from chat.turns import notices
from chat.turns.runner import Runner
from chat.turns.watching import hub
from core.fair_line import FairLine
from core.loops import PerLoop
from core.threads import in_thread
from history.models import new_id
from tests.chat.asking import aask, until
from tests.chat.live import page_of, session_cookie, socket

pytestmark = pytest.mark.usefixtures("catalog", "redis")


@pytest.fixture
def due(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """What lets commands that must wait go on; time alone does not."""
    due = asyncio.Event()
    monkeypatch.setattr(shares, "COMMANDS_A_SECOND", 0.001)

    async def wait(_seconds: float) -> None:
        await due.wait()

    monkeypatch.setattr(shares, "sleep", wait)
    return due


# --- Sockets ----------------------------------------------------------------------------------------------------------


async def test_a_person_has_so_many_sockets_and_is_told_why_not_more(
    ana: User, bo: User, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shares, "MAX_SOCKETS", 3)
    cookie = await in_thread(session_cookie, ana)
    async with AsyncExitStack() as stack:
        first, *_others = [await stack.enter_async_context(page_of(ana)) for _ in range(3)]
        async with socket(cookie=cookie) as page:
            assert (page.is_open, page.closed_with, page.denied_with) == (False, None, 429)
            with translation.override(ana.locale):
                assert page.denial == {
                    "code": "too_many_sockets",
                    "detail": str(TooManySockets.message),
                    "request_id": "",
                }
        async with page_of(bo):
            pass
        await first.leave()
        async with socket(cookie=cookie) as page:
            assert page.is_open


async def test_a_socket_that_is_refused_leaves_nothing_behind(ana: User, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shares, "MAX_SOCKETS", 1)
    async with page_of(ana):
        [before] = hub()._listeners.values()
        before = set(before)
        async with socket(), socket(cookie=await in_thread(session_cookie, ana)) as page:
            assert page.denied_with == 429
        assert list(hub()._listeners.values()) == [before]


async def test_handshakes_of_one_network_come_in_one_after_the_other(ana: User, monkeypatch: pytest.MonkeyPatch):
    """Else a crowd of them would be before every question in the line for the threads."""
    monkeypatch.setattr(authentication, "_lines", PerLoop(lambda: FairLine(2, 1, 1)))
    find, asking, may_go_on = authentication.find_socket_user, [], Event()

    def find_slowly(scope: dict[str, Any]) -> Any:
        asking.append(scope)
        may_go_on.wait(20)
        return find(scope)

    monkeypatch.setattr(authentication, "find_socket_user", find_slowly)
    cookie = await in_thread(session_cookie, ana)

    async def open_socket() -> tuple[bool, int | None]:
        async with socket(cookie=cookie) as page:
            return page.is_open, page.denied_with

    opening = [asyncio.create_task(open_socket()) for _ in range(2)]
    await until(lambda: bool(asking))
    await asyncio.sleep(0.1)
    assert len(asking) == 1
    assert await open_socket() == (False, 429)  # no more than so many wait
    may_go_on.set()
    assert await asyncio.gather(*opening) == [(True, None)] * 2


# --- Commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["refused", "known", "missing", "unreadable"])
async def test_commands_beyond_a_persons_share_wait_whatever_they_come_to(
    ana: User, bo: User, due: asyncio.Event, monkeypatch: pytest.MonkeyPatch, kind: str
):
    monkeypatch.setattr(shares, "COMMANDS_AT_ONCE", 5)
    turn = await aask(ana)
    commands: dict[str, dict[str, Any]] = {
        "refused": {"type": "turn.start", "turn_id": new_id(), "conversation_id": new_id(), "text": ""},
        "known": {
            "type": "turn.start",
            "turn_id": turn.pk,
            "conversation_id": turn.conversation_id,
            "text": turn.question,
            "model": "scripted",
        },
        "missing": {"type": "turn.stop", "turn_id": new_id()},
        "unreadable": {},
    }
    command = json.dumps(commands[kind], default=str)
    answers = ("turn.rejected", "turn.started")
    async with page_of(ana) as page, page_of(ana), page_of(bo) as other:  # each socket was a command, too
        for _ in range(10):
            await page.send_text(command)
            await other.send_text(command)
        await until(lambda: (len(page.of(*answers)), len(other.of(*answers))) == (3, 4))
        await asyncio.sleep(0.2)
        assert (len(page.of(*answers)), len(other.of(*answers))) == (3, 4)
        due.set()
        await until(lambda: (len(page.of(*answers)), len(other.of(*answers))) == (10, 10))


async def test_who_comes_back_has_used_up_the_same_share(
    ana: User, due: asyncio.Event, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shares, "COMMANDS_AT_ONCE", 3)
    async with page_of(ana) as page:
        for _ in range(2):
            await page.start("")
            await page.next("turn.rejected")
    share = take_share(ana.pk)
    waiting = asyncio.create_task(share.pace())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    due.set()
    await waiting
    share.leave()


async def test_a_share_is_forgotten_when_nothing_of_it_is_used(ana: User, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shares, "COMMANDS_A_SECOND", 100)
    async with page_of(ana):
        assert set(shares._shares.get()) == {ana.pk}
    await until(lambda: not shares._shares.get())


async def test_who_comes_back_before_a_share_is_forgotten_keeps_it_longer(ana: User):
    share = take_share(ana.pk)
    share.leave()
    assert take_share(ana.pk) is share
    await share.pace()
    share.leave()
    share._forget()  # as after the first time
    assert shares._shares.get() == {ana.pk: share}


# --- What all of them are told ----------------------------------------------------------------------------------------


async def test_what_all_tabs_are_told_is_rendered_once(ana: User, runner: Runner, monkeypatch: pytest.MonkeyPatch):
    rendered: list[str] = []

    def count(render: Any) -> Any:
        def counting(user: User, subject_id: UUID) -> Any:
            rendered.append(render.__name__)
            return render(user, subject_id)

        return counting

    for name in ("render_started", "render_ended", "render_conversation"):
        monkeypatch.setattr(consumer, name, count(getattr(consumer, name)))
    async with AsyncExitStack() as stack:
        tabs = [await stack.enter_async_context(page_of(ana)) for _ in range(5)]
        turn = await aask(ana, "say:hola")
        for tab in tabs:
            assert (await tab.ended())["turn_id"] == str(turn.pk)
        assert rendered == ["render_started", "render_ended"]
        await in_thread(notices.send_notice, ana.pk, turn.conversation_id)
        for tab in tabs:
            await tab.next("conversation.changed")
        assert rendered == ["render_started", "render_ended", "render_conversation"]


async def test_what_changes_while_it_is_rendered_is_rendered_again(ana: User):
    share, titles, may_end = Share(ana.pk), ["old"], Event()

    def render(_user: User, _subject_id: UUID) -> str:
        title = titles[-1]
        may_end.wait(20)
        return title

    subject_id = new_id()
    first = asyncio.create_task(share.render(render, ana, subject_id))
    await asyncio.sleep(0.1)
    titles.append("new")
    second = asyncio.create_task(share.render(render, ana, subject_id))
    third = asyncio.create_task(share.render(render, ana, subject_id))
    await asyncio.sleep(0.1)
    third.cancel()  # one that leaves takes it from nobody
    may_end.set()
    assert (await first, await second) == ("old", "new")
