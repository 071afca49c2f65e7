"""The socket: who is let in, what a turn looks like from a page, and what a wrong command is answered."""

import asyncio
import json
import re
from html.parser import HTMLParser
from typing import Any
from uuid import UUID

import pytest
from channels_redis.pubsub import RedisPubSubLoopLayer
from django.db import OperationalError
from django.utils import translation
from pytest_django import Settings
from redis.exceptions import ConnectionError as RedisConnectionError

from accounts.models import User
from billing.entitlements import period_of
from billing.errors import TooManyAtOnce
from billing.models import Plan
from chat.errors import BadCommand, BadEffort, BadText, FileNotUsable, TextTooLong, sentence_for
from chat.models import LanguageModel
from chat.socket.consumer import MAX_BAD_COMMANDS, MAX_WATCHED_TURNS, TurnConsumer
from chat.turns import notices, watching
from chat.turns.runner import Runner
from chat.turns.watching import hub
from core.errors import NotFound
from core.redis_clients import sync_redis
from core.threads import in_thread
from history import access
from history.models import Turn, new_id
from tests.chat.asking import aask, closed, saved, until
from tests.chat.conftest import Offer
from tests.chat.live import ENDS, OUR_ORIGIN, page_of, session_cookie, socket, ticket_for

pytestmark = pytest.mark.usefixtures("catalog", "redis")


def in_language_of(user: User, message: object) -> str:
    with translation.override(user.locale):
        return str(message)


def change_free(**fields: object) -> None:
    free = Plan.objects.get(key="free")
    for name, value in fields.items():
        setattr(free, name, value)
    free.save()


# --- Who is let in ----------------------------------------------------------------------------------------------------


async def test_a_ticket_opens_a_socket(ana: User):
    async with socket(ticket=await in_thread(ticket_for, ana)) as page:
        assert page.is_open


async def test_a_ticket_needs_no_origin(ana: User):
    async with socket(ticket=await in_thread(ticket_for, ana), origin=None) as page:
        assert page.is_open


async def test_a_session_opens_a_socket_from_our_own_pages(ana: User):
    async with socket(cookie=await in_thread(session_cookie, ana)) as page:
        assert page.is_open


async def test_a_page_of_somebody_who_is_no_longer_logged_in_is_told(ana: User, bo: User):
    of_ana = await in_thread(session_cookie, ana)
    async with socket(cookie=of_ana, path=f"/ws/?member={ana.pk}") as page:
        assert page.is_open
        assert page.closed_with is None
    for cookie in (await in_thread(session_cookie, bo), "sessionid=abcdefghijklmnopqrstuvwxyz012345"):
        async with socket(cookie=cookie, path=f"/ws/?member={ana.pk}") as page:
            assert page.closed_with == 4401
            assert not page.events


@pytest.mark.parametrize("host", ["localhost", "localhost:8443", "127.0.0.1:8000", "[::1]:8000"])
async def test_a_page_of_any_of_our_names_is_our_own(ana: User, host: str):
    async with socket(cookie=await in_thread(session_cookie, ana), origin=f"http://{host}", host=host) as page:
        assert page.is_open


async def test_a_page_at_the_sites_address_is_our_own_whatever_a_proxy_makes_of_the_host(ana: User, settings: Settings):
    settings.SITE_URL = "https://chat.example.com"
    for host in ("localhost", "internal:8000"):
        async with socket(cookie=await in_thread(session_cookie, ana), origin=settings.SITE_URL, host=host) as page:
            assert page.is_open


@pytest.mark.parametrize(
    ("origin", "proto", "is_trusted", "is_ours"),
    [
        ("https://localhost:8000", "https", True, True),
        ("http://localhost:8000", "https", True, False),
        ("https://localhost:8000", "http", True, False),
        ("https://localhost:8000", "https", False, False),
    ],
)
async def test_what_scheme_a_page_has_is_said_by_a_proxy_that_is_trusted(
    ana: User, settings: Settings, origin: str, proto: str, is_trusted: bool, is_ours: bool
):
    settings.SITE_URL = "https://chat.example.com"
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if is_trusted else None
    async with socket(cookie=await in_thread(session_cookie, ana), origin=origin, proto=proto) as page:
        assert page.is_open == is_ours


@pytest.mark.parametrize("kind", ["cookie", "ticket"])
@pytest.mark.parametrize(
    "origin",
    ["https://localhost:8000", "http://localhost:8001", "http://localhost", "http://127.0.0.1:8000"],
)
async def test_another_scheme_port_or_name_of_this_machine_is_a_foreign_page(ana: User, origin: str, kind: str):
    """Any program of the machine may serve a page at another port of its own."""
    grant = session_cookie if kind == "cookie" else ticket_for
    async with socket(**{kind: await in_thread(grant, ana)}, origin=origin) as page:
        assert not page.is_open


async def test_a_host_that_is_not_ours_makes_no_page_our_own(ana: User):
    host = "evil.example"  # whose name leads here (DNS rebinding)
    async with socket(cookie=await in_thread(session_cookie, ana), origin=f"http://{host}", host=host) as page:
        assert not page.is_open


async def test_a_ticket_works_once(ana: User):
    ticket = await in_thread(ticket_for, ana)
    async with socket(ticket=ticket):
        async with socket(ticket=ticket) as second:
            assert not second.is_open


async def test_a_ticket_gets_old(ana: User):
    ticket = await in_thread(ticket_for, ana)
    assert 0 < sync_redis().ttl(f"ticket:{ticket}") <= 60


@pytest.mark.parametrize("ticket", ["nothing", "ñ", "*"])
async def test_a_ticket_nobody_issued_opens_nothing(ana: User, ticket: str):
    async with socket(ticket=ticket) as page:
        assert not page.is_open


async def test_a_wrong_ticket_does_not_fall_back_to_the_session(ana: User):
    async with socket(ticket="nothing", cookie=await in_thread(session_cookie, ana)) as page:
        assert not page.is_open


async def test_a_visitor_is_refused_before_the_socket_is_open(ana: User):
    async with socket() as page:
        assert (page.is_open, page.closed_with) == (False, 1000)


async def test_a_session_nobody_has_is_refused(ana: User):
    async with socket(cookie="sessionid=abcdefghijklmnopqrstuvwxyz012345") as page:
        assert not page.is_open


@pytest.mark.parametrize(
    "origin",
    [
        *("https://evil.example", "http://localhost.evil.example:8000", "http://evil.example/localhost", "null"),
        *("http://localhost@evil.example", "file://", "http://notlocalhost:8000"),
    ],
)
async def test_a_good_session_is_refused_to_a_foreign_page(ana: User, origin: str):
    async with socket(cookie=await in_thread(session_cookie, ana), origin=origin) as page:
        assert not page.is_open


async def test_a_good_ticket_is_refused_to_a_foreign_page(ana: User):
    async with socket(ticket=await in_thread(ticket_for, ana), origin="https://evil.example") as page:
        assert not page.is_open


@pytest.mark.parametrize("origin", ["http://[", "http://]evil", "http://[::1"])
async def test_an_origin_that_is_no_address_is_refused(ana: User, origin: str):
    async with socket(cookie=await in_thread(session_cookie, ana), origin=origin) as page:
        assert not page.is_open


async def test_a_session_without_an_origin_is_refused(ana: User):
    async with socket(cookie=await in_thread(session_cookie, ana), origin=None) as page:
        assert not page.is_open


async def test_a_ticket_of_somebody_suspended_meanwhile_is_refused(ana: User):
    ticket = await in_thread(ticket_for, ana)
    await in_thread(User.objects.filter(pk=ana.pk).update, is_active=False)
    async with socket(ticket=ticket) as page:
        assert not page.is_open


async def test_a_session_of_somebody_suspended_meanwhile_is_refused(ana: User):
    cookie = await in_thread(session_cookie, ana)
    await in_thread(User.objects.filter(pk=ana.pk).update, is_active=False)
    async with socket(cookie=cookie) as page:
        assert not page.is_open


async def test_notices_come_again_after_redis_forgot_who_listens(ana: User):
    async with page_of(ana) as page:
        sync_redis().client_kill_filter(_type="pubsub")
        async with asyncio.timeout(20):
            while not page.of("conversation.changed"):
                await in_thread(notices.send_notice, ana.pk, new_id())
                await asyncio.sleep(0.1)


async def test_notices_come_after_redis_was_away_when_the_first_socket_was_opened(
    ana: User, monkeypatch: pytest.MonkeyPatch
):
    new_channel, tries = RedisPubSubLoopLayer.new_channel, 0

    async def fail_once(layer: RedisPubSubLoopLayer) -> str:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise RedisConnectionError
        return str(await new_channel(layer))

    monkeypatch.setattr(RedisPubSubLoopLayer, "new_channel", fail_once)
    async with page_of(ana) as page, asyncio.timeout(20):
        while not page.of("conversation.changed"):
            await in_thread(notices.send_notice, ana.pk, new_id())
            await asyncio.sleep(0.1)


async def test_the_first_notice_after_the_connections_to_redis_were_cut_arrives(ana: User):
    async with page_of(ana) as page:
        await in_thread(notices.send_notice, ana.pk, new_id())
        await page.next("conversation.changed")
        sync_redis().client_kill_filter(_type="normal", skipme=True)
        await in_thread(notices.send_notice, ana.pk, new_id())
        await page.next("conversation.changed")


async def test_a_socket_that_breaks_in_the_middle_leaves_nothing_behind(ana: User, monkeypatch: pytest.MonkeyPatch):
    """A server says so by raising when something is sent, and no word of a disconnection may come any more."""

    async def gone(_consumer: TurnConsumer, _event: Any) -> None:
        raise OSError

    async with page_of(ana) as page:
        assert ana.pk in hub()._listeners
        monkeypatch.setattr(TurnConsumer, "send_event", gone)
        await page.send_text("no command")
        await until(lambda: page._task.done())
        assert isinstance(page._task.exception(), OSError)
        assert ana.pk not in hub()._listeners


# --- One turn ---------------------------------------------------------------------------------------------------------


async def test_a_question_is_confirmed_with_its_place_and_its_html(ana: User, runner: Runner):
    async with page_of(ana) as page:
        conversation_id = new_id()
        turn_id = await page.start("say:hola", conversation_id=conversation_id)
        started = await page.next("turn.started")
    assert {name: value for name, value in started.items() if name != "html"} == {
        "type": "turn.started",
        "turn_id": str(turn_id),
        "conversation_id": str(conversation_id),
        "parent_id": None,
        "beside_id": None,
        "seq": 1,
        "model": "scripted",
        "route": "",
    }
    assert f'id="turn-{turn_id}"' in started["html"]
    assert "say:hola" in started["html"]


async def test_the_text_comes_in_order_with_its_offsets(ana: User, runner: Runner):
    async with page_of(ana) as page:
        turn_id = await page.start("think:hm think:ya say:¡ñ wait:0.1 say:😀 wait:0.1 say:fin")
        await page.ended()
        for kind, whole in (("turn.reasoning", "hm ya "), ("turn.delta", "¡ñ 😀 fin ")):
            text = ""
            for event in page.of(kind):
                assert event == {
                    "type": kind,
                    "turn_id": str(turn_id),
                    "gen": 1,
                    "at": len(text),
                    "text": event["text"],
                }
                text += event["text"]
            assert text == whole
        assert len(page.of("turn.delta")) == 3


async def test_a_page_hears_something_while_a_model_thinks(ana: User, runner: Runner, monkeypatch: pytest.MonkeyPatch):
    """A page takes a connection that is silent for 20 s for dead, and a model may think for 90."""
    monkeypatch.setattr(watching, "SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(watching, "CHECK_SECONDS", 0.05)
    async with page_of(ana) as page:
        await page.start("wait:0.8 say:hola")
        assert await page.next("keep_alive", "turn.delta") == {"type": "keep_alive"}
        assert await page.next("keep_alive", "turn.delta") == {"type": "keep_alive"}
        await page.ended()


async def test_the_end_says_what_was_used_and_what_it_cost(ana: User, runner: Runner):
    async with page_of(ana) as page:
        turn_id = await page.start("think:hm say:hola usage:10/3")
        end = await page.ended()
    html = end.pop("html")
    assert end == {
        "type": "turn.completed",
        "turn_id": str(turn_id),
        "usage": {
            "input": 10,
            "cache_read": 0,
            "cache_write": 0,
            "output": 3,
            "reasoning": 0,
            "source": "provider",
        },
        "cost_micros": 16,
        "cost_detail": "",
        "from_cache": False,
        "code": "",
        "detail": "",
        "can_continue": False,
    }
    assert 'data-status="completed"' in html
    assert "<p>hola</p>" in html


async def test_the_events_of_a_turn_come_in_order_and_once(ana: User, runner: Runner):
    async with page_of(ana) as page:
        await page.start("think:hm wait:0.1 say:hola")
        await page.ended()
        kinds = [event["type"] for event in await page.settled()]
    assert kinds == [
        *("turn.started", "conversation.changed", "turn.reasoning", "turn.delta"),
        *("turn.completed", "allowance.changed"),
    ]


async def test_after_the_end_the_allowance_is_what_is_left(ana: User, runner: Runner):
    async with page_of(ana) as page:
        await page.start("say:hola usage:960/20")
        await page.next("turn.completed")
        changed = await page.next("allowance.changed")
    period = await in_thread(period_of, ana.pk)
    assert changed == {
        "type": "allowance.changed",
        "used": 1.0,
        "allowance": 500,
        "resets_at": period.period_end.isoformat(),
        "packs": [],
    }


async def test_a_new_conversation_is_shown_in_the_list(ana: User, runner: Runner):
    async with page_of(ana) as page:
        conversation_id = new_id()
        await page.start("say:hola ¿qué & tal?", conversation_id=conversation_id)
        changed = await page.next("conversation.changed")
    assert changed["conversation_id"] == str(conversation_id)
    assert f'href="/c/{conversation_id}/"' in changed["html"]
    assert "say:hola ¿qué &amp; tal?" in changed["html"]


async def test_a_following_question_continues_the_last_turn(ana: User, runner: Runner):
    async with page_of(ana) as page:
        conversation_id = new_id()
        first = await page.start("say:uno", conversation_id=conversation_id)
        await page.ended()
        await page.start("say:dos", conversation_id=conversation_id)
        started = await page.next("turn.started")
        await page.ended()
    assert (started["parent_id"], started["seq"]) == (str(first), 2)


async def test_a_parent_of_null_begins_a_new_branch(ana: User, runner: Runner):
    async with page_of(ana) as page:
        conversation_id = new_id()
        await page.start("say:uno", conversation_id=conversation_id)
        await page.ended()
        await page.start("say:dos", conversation_id=conversation_id, parent_id=None)
        started = await page.next("turn.started")
        await page.ended()
    assert (started["parent_id"], started["seq"]) == (None, 2)


async def test_a_stop_ends_the_turn_and_keeps_its_text(ana: User, runner: Runner):
    async with page_of(ana) as page:
        turn_id = await page.start("say:hola wait:20 say:adios")
        await page.next("turn.delta")
        await page.send("turn.stop", turn_id=turn_id)
        end = await page.ended()
    assert (end["type"], end["can_continue"], end["code"]) == ("turn.stopped", True, "")
    assert end["usage"]["source"] == "estimated"
    assert "hola" in end["html"]


async def test_stopping_what_is_over_changes_nothing(ana: User, runner: Runner):
    async with page_of(ana) as page:
        turn_id = await page.start()
        await page.ended()
        count = len(page.events)
        await page.send("turn.stop", turn_id=turn_id)
        assert len(await page.settled()) == count


async def test_a_turn_goes_on_without_its_page(ana: User, runner: Runner):
    async with page_of(ana) as page:
        turn_id = await page.start("say:hola wait:0.3 say:adios")
        await page.next("turn.delta")
    turn = await closed(await in_thread(saved, turn_id))
    assert (turn.status, turn.answer) == ("completed", "hola adios ")


# --- Coming back ------------------------------------------------------------------------------------------------------


async def test_who_comes_back_gets_exactly_the_rest(ana: User, runner: Runner):
    async with page_of(ana) as page:
        turn_id = await page.start("think:hm say:hola wait:0.5 say:mundo")
        first = await page.next("turn.delta")
    async with page_of(ana) as page:
        at = len(first["text"])
        await page.send("turn.watch", turn_id=turn_id, gen=first["gen"], at=at, reasoning_at=3)
        await page.ended()
        assert [(event["at"], event["text"]) for event in page.of("turn.delta")] == [(at, "mundo ")]
        assert page.of("turn.reasoning") == []


async def test_who_comes_back_in_the_middle_of_a_word_gets_the_rest_of_it(ana: User, runner: Runner):
    async with page_of(ana) as page:
        turn_id = await page.start("say:hola wait:0.5 say:mundo")
        await page.next("turn.delta")
    async with page_of(ana) as page:
        await page.send("turn.watch", turn_id=turn_id, gen=1, at=2)
        await page.ended()
        assert "".join(event["text"] for event in page.of("turn.delta")) == "la mundo "


async def test_who_has_nothing_gets_everything(ana: User, runner: Runner):
    async with page_of(ana) as page:
        turn_id = await page.start("think:hm say:hola wait:0.3 say:mundo")
        await page.next("turn.delta")
    async with page_of(ana) as page:
        await page.send("turn.watch", turn_id=turn_id)
        await page.ended()
        assert "".join(event["text"] for event in page.of("turn.delta")) == "hola mundo "
        assert "".join(event["text"] for event in page.of("turn.reasoning")) == "hm "


async def test_a_place_of_another_generation_means_everything(ana: User, runner: Runner):
    turn = await closed(await aask(ana, "say:hola say:mundo"))
    async with page_of(ana) as page:
        await page.send("turn.watch", turn_id=turn.pk, gen=0, at=5)
        await page.ended()
        assert "".join(event["text"] for event in page.of("turn.delta")) == "hola mundo "


@pytest.mark.parametrize("place", [{"gen": 1, "at": -3}, {"gen": 1, "reasoning_at": -1}, {"gen": -1}])
async def test_a_place_before_the_start_is_the_start_or_a_mistake(ana: User, runner: Runner, place: dict[str, int]):
    turn = await closed(await aask(ana, "think:hm say:hola say:mundo"))
    async with page_of(ana) as page:
        await page.send("turn.watch", turn_id=turn.pk, **place)
        answer = await page.next("turn.rejected", *ENDS)
        if answer["type"] == "turn.rejected":
            assert answer["code"] == "bad_command"
        else:
            assert [(event["at"], event["text"]) for event in page.of("turn.delta")] == [(0, "hola mundo ")]
            assert [(event["at"], event["text"]) for event in page.of("turn.reasoning")] == [(0, "hm ")]


async def test_a_place_of_a_generation_to_come_means_everything(ana: User, runner: Runner):
    turn = await aask(ana, "say:hola wait:0.3 say:mundo")
    async with page_of(ana) as page:
        await page.send("turn.watch", turn_id=turn.pk, gen=99, at=5)
        await page.ended()
        assert "".join(event["text"] for event in page.of("turn.delta")) == "hola mundo "


async def test_a_place_beyond_the_end_has_nothing_to_come_but_the_end(ana: User, runner: Runner):
    turn = await aask(ana, "say:hola wait:0.3 say:mundo")
    async with page_of(ana) as page:
        await page.send("turn.watch", turn_id=turn.pk, gen=1, at=10**30)
        assert (await page.ended())["type"] == "turn.completed"


async def test_a_finished_turn_without_a_log_is_told_from_the_saved_one(ana: User, runner: Runner):
    turn = await closed(await aask(ana, "think:hm say:hola"))
    sync_redis().flushall()
    async with page_of(ana) as page:
        await page.send("turn.watch", turn_id=turn.pk)
        end = await page.ended()
        assert [event["text"] for event in page.of("turn.delta")] == ["hola "]
        assert [event["text"] for event in page.of("turn.reasoning")] == ["hm "]
    assert end["type"] == "turn.completed"


async def test_watching_twice_starts_over_and_ends_once(ana: User, runner: Runner):
    async with page_of(ana) as page:
        turn_id = await page.start("say:hola wait:0.4 say:mundo")
        await page.next("turn.delta")
        await page.send("turn.watch", turn_id=turn_id)
        await page.ended()
        await page.settled()
        assert len(page.of(*ENDS)) == 1
        assert [event["at"] for event in page.of("turn.delta")] == [0, 0, 5]


async def test_one_page_follows_only_so_many_turns(carla: User):
    turns = [await aask(carla) for _ in range(MAX_WATCHED_TURNS + 1)]
    async with page_of(carla) as page:
        for turn in turns:
            await page.send("turn.watch", turn_id=turn.pk)
        rejected = await page.next("turn.rejected")
    assert (rejected["turn_id"], rejected["code"]) == (str(turns[-1].pk), "rate_limited")


# --- Other pages ------------------------------------------------------------------------------------------------------


async def test_another_page_of_the_person_sees_the_turn_begin_and_end_once(ana: User, runner: Runner):
    async with page_of(ana) as page, page_of(ana) as other:
        turn_id = await page.start("say:hola wait:0.2 say:mundo")
        await page.ended()
        await other.ended()
        events = await other.settled()
    assert [event["type"] for event in events] == [
        *("turn.started", "conversation.changed", "turn.completed", "allowance.changed")
    ]
    assert {event["turn_id"] for event in events if "turn_id" in event} == {str(turn_id)}
    assert "hola mundo" in events[2]["html"]


async def test_the_page_that_asked_sees_the_turn_begin_and_end_once(ana: User, runner: Runner):
    async with page_of(ana) as page, page_of(ana):
        await page.start("say:hola wait:0.2 say:mundo")
        await page.ended()
        await page.settled()
        assert len(page.of("turn.started")) == len(page.of("turn.completed")) == 1


async def test_nobody_else_sees_anything(ana: User, bo: User, runner: Runner):
    async with page_of(ana) as page, page_of(bo) as other:
        await page.start()
        await page.ended()
        assert await other.settled() == []


async def test_a_conversation_that_got_another_name_is_shown(ana: User):
    turn = await aask(ana)
    async with page_of(ana) as page:
        conversation = await in_thread(access.access_conversation, ana.pk, turn.conversation_id)
        await in_thread(access.rename_conversation, conversation, "Otro <nombre>")
        await in_thread(notices.send_notice, ana.pk, conversation.pk)
        assert "Otro &lt;nombre&gt;" in (await page.next("conversation.changed"))["html"]


async def test_a_conversation_that_is_gone_is_shown_as_nothing(ana: User, bo: User):
    foreign = await aask(bo)
    async with page_of(ana) as page:
        for conversation_id in (new_id(), foreign.conversation_id):
            await in_thread(notices.send_notice, ana.pk, conversation_id)
            changed = await page.next("conversation.changed")
            assert changed == {
                "type": "conversation.changed",
                "conversation_id": str(conversation_id),
                "html": "",
                "leaf_id": None,
            }


# --- What is refused --------------------------------------------------------------------------------------------------

WRONG = [
    "",
    "{",
    "[]",
    "null",
    '"turn.start"',
    "{}",
    '{"type": "turn.dance"}',
    '{"type": "turn.start"}',
    '{"type": "turn.stop", "turn_id": "7"}',
    '{"type": "turn.watch", "turn_id": null}',
    '{"type": "turn.start", "turn_id": "%s", "conversation_id": "%s", "text": 7}' % (new_id(), new_id()),
    '{"type": "turn.start", "turn_id": "%s", "conversation_id": "%s", "text": "\\ud800"}' % (new_id(), new_id()),
    '{"type": "turn.watch", "turn_id": "%s", "at": "much"}' % new_id(),
    '{"type": "turn.watch", "turn_id": "%s", "at": 1e400}' % new_id(),
    "[" * 5_000,
]


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:40])
async def test_what_is_no_command_is_rejected_and_the_socket_goes_on(ana: User, runner: Runner, text: str):
    async with page_of(ana) as page:
        await page.send_text(text)
        rejected = await page.next("turn.rejected")
        assert rejected == {
            "type": "turn.rejected",
            "turn_id": None,
            "code": "bad_command",
            "detail": in_language_of(ana, BadCommand.message),
            "retry_after": None,
        }
        await page.start()
        assert (await page.ended())["type"] == "turn.completed"


async def test_a_binary_frame_is_rejected_and_the_socket_goes_on(ana: User, runner: Runner):
    async with page_of(ana) as page:
        await page.send_bytes(b"\x00\xff")
        assert (await page.next("turn.rejected"))["code"] == "bad_command"
        await page.start()
        assert (await page.ended())["type"] == "turn.completed"


async def test_who_makes_too_many_mistakes_is_hung_up_on(ana: User):
    async with page_of(ana) as page:
        for _ in range(MAX_BAD_COMMANDS - 1):
            await page.send_text("nonsense")
        await page.settled()  # asks for a turn of nobody's: the last mistake that is borne
        assert page.closed_with is None
        await page.send_text("nonsense")
        assert await page.closing() == 1008


async def test_a_command_behind_the_last_mistake_is_not_taken(ana: User):
    """It may have come with the mistakes, before the socket was closed."""
    async with page_of(ana) as page:
        for _ in range(MAX_BAD_COMMANDS + 1):
            await page.send_text("nonsense")
        turn_id = await page.start()
        assert await page.closing() == 1008
    assert await in_thread(access.find_turn, turn_id) is None


@pytest.mark.parametrize("kind", ["turn.stop", "turn.watch"])
async def test_who_guesses_ids_is_hung_up_on_as_one_who_sends_rubbish(ana: User, bo: User, kind: str):
    turn = await aask(bo)
    async with page_of(ana) as page:
        for _ in range(MAX_BAD_COMMANDS // 2):
            await page.send(kind, turn_id=turn.pk)
            await page.send(kind, turn_id=new_id())
        for _ in range(MAX_BAD_COMMANDS):
            assert (await page.next("turn.rejected"))["code"] == "not_found"
        assert page.closed_with is None
        await page.send(kind, turn_id=turn.pk)
        assert await page.closing() == 1008


@pytest.mark.parametrize("deep", ["[" * 100_000, '{"type":"turn.stop","x":' + "[" * 100_000])
async def test_a_command_that_is_nested_too_deeply_is_a_mistake_like_any(
    ana: User, deep: str, caplog: pytest.LogCaptureFixture
):
    async with page_of(ana) as page:
        await page.send_text(deep)
        assert (await page.next("turn.rejected"))["code"] == "bad_command"
    assert not caplog.records


async def test_what_is_refused_for_a_good_reason_is_no_mistake(ana: User):
    async with page_of(ana) as page:
        for _ in range(MAX_BAD_COMMANDS + 5):
            await page.start("")
        await page.settled()
        assert page.closed_with is None


async def assert_rejected(user: User, code: str, message: object, text: str = "say:hola", **fields: object) -> None:
    """Ask; the refusal names the turn and the reason in the person's language, and nothing was begun."""
    before = await in_thread(Turn.objects.count)
    async with page_of(user) as page:
        turn_id = await page.start(text, **fields)
        rejected = await page.next("turn.rejected")
        assert await page.settled() == [rejected]
    assert (rejected["turn_id"], rejected["code"]) == (str(turn_id), code)
    assert rejected["detail"] == in_language_of(user, message)
    assert await in_thread(Turn.objects.count) == before


async def test_a_very_long_question_is_refused(ana: User):
    await assert_rejected(ana, "text_too_long", TextTooLong.message, "x" * 200_000)


@pytest.mark.parametrize("text", ["", "  \n\t ", "\0"])
async def test_an_empty_question_is_refused(ana: User, text: str):
    await assert_rejected(ana, "text_empty", BadText.message, text)


async def test_an_attachment_that_is_not_there_is_refused(ana: User):
    await assert_rejected(ana, "file_not_usable", FileNotUsable.message, attachments=[str(new_id())])


async def test_an_effort_nobody_knows_is_refused(ana: User):
    await assert_rejected(ana, "bad_effort", BadEffort.message, effort="enormous")


@pytest.mark.parametrize("effort", ["high", "", None])
async def test_an_effort_is_kept_with_the_turn(ana: User, runner: Runner, effort: str | None):
    def teach() -> None:
        scripted = LanguageModel.objects.get(key="scripted")
        scripted.efforts = "low high"
        scripted.save()

    await in_thread(teach)
    async with page_of(ana) as page:
        await page.start(effort=effort)
        await page.ended()
    assert (await in_thread(Turn.objects.get)).effort == (effort or "")


async def test_an_empty_list_of_attachments_is_none(ana: User, runner: Runner):
    async with page_of(ana) as page:
        await page.start(attachments=[])
        assert (await page.ended())["type"] == "turn.completed"


async def test_a_second_answer_at_once_is_refused_on_free(ana: User):
    await aask(ana)
    await assert_rejected(ana, "too_many_at_once", TooManyAtOnce.message)


async def test_a_foreign_conversation_is_refused(ana: User, bo: User):
    theirs = await aask(bo)
    await assert_rejected(ana, "not_found", NotFound.message, conversation_id=theirs.conversation_id)


@pytest.mark.parametrize("command", ["turn.watch", "turn.stop"])
async def test_a_foreign_and_a_missing_turn_are_refused_alike(ana: User, bo: User, command: str):
    theirs = await aask(bo)
    async with page_of(ana) as page:
        for turn_id in (theirs.pk, new_id()):
            await page.send(command, turn_id=turn_id)
            assert await page.next("turn.rejected") == {
                "type": "turn.rejected",
                "turn_id": str(turn_id),
                "code": "not_found",
                "detail": in_language_of(ana, NotFound.message),
                "retry_after": None,
            }
    assert (await in_thread(saved, theirs)).is_open


async def test_a_program_whose_plan_lost_the_api_asks_no_more(ana: User, runner: Runner):
    """On a socket that was open before, too."""
    async with page_of(ana) as page:
        await page.start("say:hola")
        await page.ended()
        await in_thread(change_free, has_api=False)
        await page.start("say:hola")
        assert (await page.next("turn.rejected"))["code"] == "api_not_in_plan"
    async with socket(cookie=await in_thread(session_cookie, ana)) as page:
        await page.start("say:hola")
        await page.ended()


async def test_a_used_up_allowance_is_refused_with_the_time_to_wait(ana: User):
    await in_thread(change_free, credits_per_month=0)
    async with page_of(ana) as page:
        await page.start()
        rejected = await page.next("turn.rejected")
    assert rejected["code"] == "allowance_used_up"
    assert 0 < rejected["retry_after"] <= 31 * 24 * 3600


async def test_asking_too_often_is_refused_with_the_time_to_wait(ana: User, runner: Runner):
    await in_thread(change_free, turns_per_hour=1)
    async with page_of(ana) as page:
        await page.start()
        await page.ended()
        await page.start()
        rejected = await page.next("turn.rejected")
    assert rejected["code"] == "rate_limited"
    assert 3_500 < rejected["retry_after"] <= 3_600


@pytest.mark.parametrize("locale", ["es", "en", "pt-br"])
async def test_a_refusal_speaks_the_persons_language(ana: User, locale: str):
    await in_thread(User.objects.filter(pk=ana.pk).update, locale=locale)
    await ana.arefresh_from_db()
    await assert_rejected(ana, "text_empty", BadText.message, "")


async def test_an_error_of_ours_is_told_without_its_reason(ana: User, monkeypatch: pytest.MonkeyPatch):
    def fail(*_args: object) -> None:
        raise RuntimeError("the key is sk-secret")

    monkeypatch.setattr("chat.socket.consumer.open_turn", fail)
    async with page_of(ana) as page:
        await page.start()
        rejected = await page.next("turn.rejected")
        await page.settled()
        assert page.closed_with is None
    assert rejected["code"] == "unavailable"
    assert "secret" not in json.dumps(rejected)


@pytest.mark.parametrize("error", [OperationalError("down"), RedisConnectionError("down")])
async def test_a_store_that_is_away_is_no_error_of_ours(
    ana: User, runner: Runner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
):
    def fail(*_args: object) -> None:
        raise error

    async with page_of(ana) as page:
        with monkeypatch.context() as patch:
            patch.setattr("chat.socket.consumer.open_turn", fail)
            await page.start()
            rejected = await page.next("turn.rejected")
        with monkeypatch.context() as patch:
            patch.setattr("chat.socket.consumer.render_ended", fail)
            await page.start()
            await page.closing()
        assert page.closed_with == 1011  # it comes again, and goes on where it was
    assert (rejected["code"], rejected["retry_after"]) == ("unavailable", 5)
    said = [record for record in caplog.records if record.name == "chat.socket.consumer"]
    assert [(record.levelname, record.getMessage()) for record in said] == [("WARNING", "Store unreachable")] * 2


async def test_the_same_question_again_is_one_turn(ana: User, runner: Runner):
    async with page_of(ana) as page:
        ids = {"turn_id": new_id(), "conversation_id": new_id()}
        await page.start(**ids)
        first = await page.next("turn.started")
        await page.ended()
        await page.start(**ids)
        second = await page.next("turn.started")
        await page.ended()
    assert (first["turn_id"], first["seq"]) == (second["turn_id"], second["seq"])
    assert await in_thread(Turn.objects.count) == 1


async def test_the_same_question_again_from_a_page_that_came_back_is_one_turn(ana: User, runner: Runner):
    ids = {"turn_id": new_id(), "conversation_id": new_id()}
    async with page_of(ana) as page:
        await page.start("say:hola wait:0.4 say:mundo", **ids)
        await page.next("turn.delta")
    async with page_of(ana) as page:
        await page.start("say:hola wait:0.4 say:mundo", **ids)
        await page.ended()
        assert "".join(event["text"] for event in page.of("turn.delta")) == "hola mundo "
    assert await in_thread(Turn.objects.count) == 1


# --- A turn that failed -----------------------------------------------------------------------------------------------


async def test_a_turn_that_failed_says_why_and_what_to_do(ana: User, runner: Runner):
    async with page_of(ana) as page:
        await page.start("fail:bad_request")
        end = await page.ended()
    assert (end["type"], end["code"], end["usage"], end["cost_micros"]) == ("turn.failed", "bad_request", None, None)
    with translation.override(ana.locale):
        assert end["detail"] == sentence_for("bad_request")
    assert end["can_continue"] is False


async def test_a_turn_that_broke_off_can_be_continued(ana: User, runner: Runner):
    async with page_of(ana) as page:
        await page.start("say:hola fail:connection")
        end = await page.ended()
    assert (end["type"], end["code"], end["can_continue"]) == ("turn.interrupted", "connection", True)


@pytest.mark.parametrize("model", ["status-400", "status-401", "context", "quota"])
async def test_no_word_of_a_provider_reaches_the_page(ana: User, runner: Runner, offer: Offer, model: str):
    await in_thread(offer, model)
    async with page_of(ana) as page:
        await page.start("hola", model=model)
        end = await page.ended()
        said = json.dumps(page.events).lower()
    assert end["type"] == "turn.failed"
    for word in ("invalid_request", "billing details", "maximum context", "incorrect api key", "sk-secret"):
        assert word not in said


# --- Hostile text -----------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """What a browser would build: the tags, their attributes, and the text in between."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _value in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = [
    "<script>alert(1)</script>",
    "<img/src=x/onerror=alert(1)>",
    "</div></article><script>alert(1)</script>",
    '"><svg/onload=alert(1)>',
    "{{turn.pk}}{%debug%}",
    "\u202eabc\u202c",
    "\u2066abc",
]


async def fragments_of(user: User, text: str) -> tuple[UUID, list[Reader]]:
    """Ask for this text; return the turn, and every fragment of HTML its page was sent."""
    async with page_of(user) as page:
        turn_id = await page.start(f"say:{text}")
        while (await page.ended())["turn_id"] != str(turn_id):
            pass
        # Those of this question: word of an earlier one may still be on its way.
        [conversation_id] = {
            e["conversation_id"] for e in page.events if e.get("turn_id") == str(turn_id) and "seq" in e
        }
        ours = {str(turn_id), conversation_id}
        return turn_id, [
            Reader(event["html"])
            for event in page.events
            if event.get("html") and ours & {event.get("turn_id"), event.get("conversation_id")}
        ]


@pytest.mark.parametrize("text", HOSTILE)
async def test_hostile_text_is_kept_as_it_is_and_shown_as_text(ana: User, runner: Runner, text: str):
    _, usual = await fragments_of(ana, "hola")
    turn_id, shown = await fragments_of(ana, text)
    assert len(shown) == len(usual) == 3
    for found, harmless in zip(shown, usual, strict=True):
        assert found.tags <= harmless.tags
        assert found.attributes <= harmless.attributes
        assert text in found.text
    assert shown[-1].text.count(text) == 2
    turn = await in_thread(saved, turn_id)
    assert (turn.question, turn.answer) == (f"say:{text}", f"{text} ")


async def test_marks_of_direction_turn_nothing_outside_their_own_text(ana: User, runner: Runner):
    """`dir=auto` isolates: what an unclosed mark turns around ends with the element."""
    async with page_of(ana) as page:
        await page.start("say:\u202eabc")
        html = (await page.ended())["html"]
    assert '<div class="question-text" dir="auto"' in html
    assert re.search(r'<div class="answer prose"\s+dir="auto"', html)


def test_our_own_origin_is_the_sites(settings: Settings):
    assert settings.SITE_URL == OUR_ORIGIN
