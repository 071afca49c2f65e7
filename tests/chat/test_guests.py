"""Sockets and streams that are open when what let their reader in is over."""

import asyncio
import datetime as dt
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient
from rest_framework_simplejwt.tokens import RefreshToken

from accounts.admission import Admission, admission_by_key, admission_by_token, list_ended
from accounts.keys import KeyTerms, make_key, revoke_key
from accounts.models import ApiKey, User
from accounts.tokens import begin_family, end_family, renew
from chat.socket import authentication
from chat.socket.tickets import issue_ticket
from chat.turns import guests
from chat.turns.runner import Runner
from chat.turns.watching import hub
from core.redis_clients import sync_redis
from core.threads import in_thread
from history.models import Turn
from tests.chat.asking import aask, until
from tests.chat.http_streams import HttpStream, events_of, opened
from tests.chat.live import Page, admission_for, page_of, session_cookie, socket, ticket_for

pytestmark = pytest.mark.usefixtures("catalog", "redis")

PASSWORD = "otra clave larga"


def change_password(user: User) -> None:
    user.set_password(PASSWORD)
    user.save()


def suspend(user: User) -> None:
    user.is_active = False
    user.save()


def log_out_everywhere(user: User) -> None:
    access = str(begin_family(user).access_token)
    answer = APIClient().post("/api/v1/auth/logout-everywhere", HTTP_AUTHORIZATION=f"Bearer {access}")
    assert answer.status_code == 204


def delete(user: User) -> None:
    user.delete()


WAYS = [change_password, log_out_everywhere, suspend, delete]


def without_notice(way: Callable[[User], None], user: User) -> None:
    """Do it where Redis loses the notification."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sync_redis(), "publish", lambda *_args: 0)
        way(user)


async def is_untouched(page: Page) -> bool:
    await page.settled()
    return page.closed_with is None


async def is_hung_up_on(page: Page) -> None:
    """Sooner than somebody would ask without a notice."""
    async with asyncio.timeout(10):
        assert await page.closing() == 4401


async def ends(stream: HttpStream) -> None:
    assert stream.task is not None
    await asyncio.wait_for(stream.task, 10)


# --- By notice --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_what_is_open_ends_with_what_let_it_in_and_nobody_elses_does(
    ana: User, bo: User, way: Callable[[User], None]
):
    turn = await aask(ana)
    cookie = await in_thread(session_cookie, ana)
    async with page_of(ana) as by_ticket, socket(cookie=cookie) as by_session, page_of(bo) as other:
        async with opened(ana, events_of(turn.pk)) as stream:
            await stream.has(b"turn.started")
            await in_thread(way, ana)
            await is_hung_up_on(by_ticket)
            await is_hung_up_on(by_session)
            await ends(stream)
        assert await is_untouched(other)
        async with socket(cookie=cookie) as again:
            assert not again.is_open


async def test_a_session_that_logs_out_takes_its_socket_along_and_no_other(ana: User):
    cookie = await in_thread(session_cookie, ana)
    browser = Client()
    browser.cookies["sessionid"] = cookie.partition("=")[2]
    elsewhere = await in_thread(session_cookie, ana)
    async with socket(cookie=cookie) as page, socket(cookie=elsewhere) as other, page_of(ana) as program:
        await in_thread(browser.post, "/accounts/logout/")
        await is_hung_up_on(page)
        assert await is_untouched(other)
        assert await is_untouched(program)


async def test_a_log_in_of_the_api_that_ends_takes_what_it_opened_along_and_nothing_else(ana: User):
    turn = await aask(ana)
    refresh = await in_thread(begin_family, ana)
    ticket = await in_thread(issue_ticket, admission_by_token(refresh.access_token))
    async with socket(ticket=ticket) as page, page_of(ana) as other:
        stream = HttpStream(str(refresh.access_token), events_of(turn.pk))
        stream.begin()
        await stream.has(b"turn.started")
        await in_thread(end_family, refresh)
        await is_hung_up_on(page)
        await ends(stream)
        assert await is_untouched(other)


def key_of(user: User) -> tuple[ApiKey, str]:
    terms = KeyTerms(name="Job", scopes=("chat", "history"))
    return make_key(user, terms, peer="", key_id=uuid4())


def revoke(key: ApiKey) -> None:
    revoke_key(key, peer="")


async def test_a_key_that_is_revoked_takes_its_streams_along_and_nothing_else(ana: User):
    turn = await aask(ana)
    (key, secret), (_, other_secret) = await in_thread(key_of, ana), await in_thread(key_of, ana)
    stream, other = HttpStream(secret, events_of(turn.pk)), HttpStream(other_secret, events_of(turn.pk))
    async with page_of(ana) as page:
        for one in (stream, other):
            one.begin()
            await one.has(b"turn.started")
        begun = time.monotonic()
        await in_thread(revoke, key)
        await ends(stream)
        assert time.monotonic() - begun < 1
        assert await is_untouched(page)
        assert other.task is not None
        assert not other.task.done()
        await in_thread(change_password, ana)
        await ends(other)


async def test_a_log_out_everywhere_leaves_the_streams_of_keys(ana: User):
    turn = await aask(ana)
    _key, secret = await in_thread(key_of, ana)
    stream = HttpStream(secret, events_of(turn.pk))
    stream.begin()
    await stream.has(b"turn.started")
    async with page_of(ana) as page:
        await in_thread(log_out_everywhere, ana)
        await is_hung_up_on(page)
    assert stream.task is not None
    assert not stream.task.done()
    await in_thread(delete, ana)
    await ends(stream)


async def test_a_revoked_key_is_found_out_without_a_notice(ana: User):
    key, _secret = await in_thread(key_of, ana)
    admission = admission_by_key(key)
    assert await in_thread(list_ended, {admission}) == set()
    await in_thread(without_notice, lambda _user: revoke(key), ana)
    assert await in_thread(list_ended, {admission}) == {admission}


async def test_a_token_that_is_renewed_leaves_open_what_is_open(ana: User):
    refresh = await in_thread(begin_family, ana)
    async with socket(ticket=await in_thread(issue_ticket, admission_by_token(refresh.access_token))) as page:
        await in_thread(renew, RefreshToken(str(refresh)))
        assert await is_untouched(page)


async def test_a_document_that_is_awaited_says_that_its_reader_was_logged_out(ana: User):
    turn = await aask(ana)
    path = f"conversations/{turn.conversation_id}/turns"
    asked = {"text": "say:hola", "model": "scripted", "turn_id": turn.pk}
    async with opened(ana, path, asked) as stream:
        await in_thread(log_out_everywhere, ana)
        await ends(stream)
        assert stream.code == "access_ended"


async def test_live_text_stops_where_its_reader_is_shut_out(ana: User, runner: Runner):
    async with page_of(ana) as page:
        await page.start("say:hola wait:0.05 " * 40)
        await page.next("turn.delta")
        await in_thread(log_out_everywhere, ana)
        await is_hung_up_on(page)
        await page.start()
        await asyncio.sleep(0.5)
        assert page.closed_with == 4401  # not for another reason, as when more is sent after that
        assert await in_thread(Turn.objects.count) == 1


async def test_a_notice_that_comes_while_they_are_let_in_is_not_missed(ana: User):
    admission = await in_thread(admission_for, ana)
    await in_thread(change_password, ana)
    is_over = asyncio.Event()
    await guests.guests().admit(admission, is_over.set)
    await asyncio.wait_for(is_over.wait(), 10)


# --- Without a notice -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_a_revocation_that_nobody_told_is_found_by_asking(
    ana: User, bo: User, way: Callable[[User], None], monkeypatch: pytest.MonkeyPatch
):
    assert guests.RECHECK_SECONDS <= 45
    monkeypatch.setattr(guests, "RECHECK_SECONDS", 0.3)
    turn = await aask(ana)
    async with page_of(ana) as page, page_of(bo) as other, opened(ana, events_of(turn.pk)) as stream:
        await stream.has(b"turn.started")
        await in_thread(without_notice, way, ana)
        assert await page.closing() == 4401
        await ends(stream)
        assert await is_untouched(other)


async def test_guests_stay_while_nobody_knows_and_are_asked_again(ana: User, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guests, "RECHECK_SECONDS", 0.1)
    ask, failures = guests.list_ended, 3

    def list_ended(admissions: Any) -> set[Admission]:
        nonlocal failures
        if failures:
            failures -= 1
            raise OperationalError
        return ask(admissions)

    monkeypatch.setattr(guests, "list_ended", list_ended)
    async with page_of(ana) as page:
        await in_thread(without_notice, suspend, ana)
        assert await page.closing() == 4401
        assert failures == 0


@pytest.mark.parametrize("way", [*WAYS, pytest.param("session", id="a lost session")])
async def test_a_question_is_not_asked_for_somebody_who_was_shut_out(ana: User, way: Any):
    async with socket(cookie=await in_thread(session_cookie, ana)) as page:
        if way == "session":
            await in_thread(sync_redis().flushall)
        else:
            await in_thread(without_notice, way, ana)
        await page.start()
        assert await page.closing() == 4401
        assert await in_thread(Turn.objects.count) == 0


async def test_guests_of_a_process_are_asked_together(ana: User, bo: User, django_assert_num_queries: Any):
    """However many there are: a person, a family and a session cost no statement each."""
    admissions = {await in_thread(admission_for, user) for user in (ana, bo) for _ in range(5)}

    def count() -> None:
        with django_assert_num_queries(2):
            assert list_ended(admissions) == set()

    await in_thread(count)


# --- The age of a token -----------------------------------------------------------------------------------------------


async def test_a_tickets_socket_ends_with_its_tokens_life(ana: User):
    admission = replace(await in_thread(admission_for, ana), expires_at=timezone.now() + dt.timedelta(seconds=1))
    async with socket(ticket=await in_thread(issue_ticket, admission)) as page:
        assert page.is_open
        assert await page.closing() == 4401


async def test_a_token_that_expires_while_its_socket_has_to_wait_opens_nothing(
    ana: User, monkeypatch: pytest.MonkeyPatch
):
    expired = replace(await in_thread(admission_for, ana), expires_at=timezone.now())
    # It was good when it was read.
    monkeypatch.setattr(authentication, "find_socket_user", lambda _scope: (ana, expired))
    async with socket() as page:
        assert await page.closing() == 4401
    assert not page.is_open


async def test_a_token_that_expires_while_the_machine_sleeps_or_its_clock_is_set_ends_its_socket_too(
    ana: User, monkeypatch: pytest.MonkeyPatch
):
    """Its timer counts only what the machine was awake."""
    monkeypatch.setattr(guests, "RECHECK_SECONDS", 0.1)
    admission = replace(await in_thread(admission_for, ana), expires_at=timezone.now() + dt.timedelta(minutes=1))
    async with socket(ticket=await in_thread(issue_ticket, admission)) as page, page_of(ana) as other:
        later = timezone.now() + dt.timedelta(minutes=2)
        monkeypatch.setattr("accounts.admission.timezone", SimpleNamespace(now=lambda: later))
        assert await page.closing() == 4401
        assert await is_untouched(other)


@pytest.mark.parametrize("planted", [b"\xff", b"null", b"{}", b'{"user_id": 1}', b"[" * 2_000])
async def test_a_ticket_that_nobody_of_ours_wrote_opens_nothing(ana: User, planted: bytes):
    ticket = await in_thread(ticket_for, ana)
    await in_thread(sync_redis().set, f"ticket:{ticket}", planted)
    async with socket(ticket=ticket) as page:
        assert not page.is_open


async def test_a_ticket_of_a_token_that_expired_opens_nothing(ana: User):
    admission = replace(await in_thread(admission_for, ana), expires_at=timezone.now())
    async with socket(ticket=await in_thread(issue_ticket, admission)) as page:
        assert not page.is_open


async def test_a_ticket_is_void_when_what_it_was_asked_for_with_is(ana: User):
    ticket = await in_thread(ticket_for, ana)
    await in_thread(change_password, ana)
    async with socket(ticket=ticket) as page:
        assert not page.is_open


async def test_a_stream_may_outlive_its_token_for_as_long_as_the_answer_takes(ana: User, runner: Runner):
    token = (await in_thread(begin_family, ana)).access_token
    token.set_exp(lifetime=dt.timedelta(seconds=2))
    turn = await aask(ana, "say:hola wait:2.2 say:mundo")
    stream = HttpStream(str(token), events_of(turn.pk))
    stream.begin()
    await ends(stream)
    assert b"turn.completed" in stream.body


async def test_who_comes_while_others_are_asked_is_asked_after_them_with_all_who_come(
    ana: User, monkeypatch: pytest.MonkeyPatch
):
    asked: list[set[Admission]] = []
    go_on = threading.Event()

    def ask(admissions: set[Admission]) -> set[Admission]:
        asked.append(admissions)
        assert go_on.wait(20)
        return {one for one in admissions if one.family == "ended"}

    monkeypatch.setattr(guests, "list_ended", ask)
    base = replace(await in_thread(admission_for, ana), expires_at=None)
    admissions = [replace(base, family=f"family-{number}") for number in range(8)] + [replace(base, family="ended")]
    shut_out: list[str] = []
    here = []
    for one in admissions:
        here.append(await guests.guests().admit(one, partial(shut_out.append, str(one.family))))
        await until(lambda: asked)  # the first is asked alone
    go_on.set()
    await until(lambda: shut_out)
    assert (asked, shut_out) == ([{admissions[0]}, {*admissions[1:]}], ["ended"])
    for guest in here:
        guests.guests().dismiss(guest)


# --- What is left -----------------------------------------------------------------------------------------------------


async def test_who_left_is_not_asked_about_any_more(ana: User):
    turn = await aask(ana)
    async with page_of(ana), opened(ana, events_of(turn.pk)):
        assert len(guests.guests()._guests[ana.pk]) == 2
        assert [task.get_coro().__name__ for task in asyncio.all_tasks()].count("_keep_asking") == 1
    await until(lambda: not guests.guests()._guests and not hub()._listeners)
