"""A member's first minutes, on every store."""

import asyncio
import json
import time

import pytest
from uuid_utils.compat import uuid7

from testbed.provider import expected_text
from tests.fakes.readers import Member, Shown, read_by_events, read_by_socket
from tests.processes.stores import TestedSite

OPEN = {"turns_per_hour": None, "turns_at_once": None, "credits_per_month": None}

pytestmark = pytest.mark.stores


async def ask(member: Member, shown: Shown, model: str, text: str = "¿Qué tal?") -> None:
    await read_by_socket(member, shown, asks={"model": model, "text": text})


async def test_a_question_over_the_socket_is_answered_saved_and_metered(site: TestedSite) -> None:
    [member] = site.people(1)
    shown = Shown()
    await ask(member, shown, "fake-20t-5ms")
    assert (shown.status, shown.text, shown.complaints) == ("completed", expected_text("fake-20t-5ms"), [])
    assert shown.last is not None
    assert shown.last["usage"]["output"] == 20
    status, saved = await member.call("GET", f"turns/{shown.turn_id}")
    assert (status, saved["answer"]) == (200, shown.text)
    _, allowance = await member.call("GET", "allowance")
    assert allowance["used"] == pytest.approx(saved["cost_micros"] / 1000)
    assert allowance["reserved"] == 0


async def test_an_event_stream_shows_what_the_socket_shows(site: TestedSite) -> None:
    [member] = site.people(1)
    by_socket, by_events = Shown(), Shown()
    by_events.turn_id = by_socket.turn_id
    asking = asyncio.create_task(ask(member, by_socket, "fake-300t-20ms-r20"))
    while not by_socket.reasoning:
        await asyncio.sleep(0.05)
    await asyncio.gather(asking, read_by_events(member, by_events))
    assert by_events.text == by_socket.text == expected_text("fake-300t-20ms-r20")
    assert by_events.reasoning == by_socket.reasoning
    assert not by_events.complaints + by_socket.complaints


async def test_without_stream_the_answer_comes_whole(site: TestedSite) -> None:
    [member] = site.people(1)
    shown = Shown()
    status, turn = await member.call(
        "POST", f"conversations/{shown.conversation_id}/turns", text="Hola", model="fake-20t-5ms"
    )
    assert (status, turn["status"], turn["answer"]) == (200, "completed", expected_text("fake-20t-5ms"))
    _, page = await member.call("GET", f"conversations/{shown.conversation_id}/turns")
    assert [row["id"] for row in page["results"]] == [turn["id"]]
    _, conversations = await member.call("GET", "conversations")
    assert conversations["results"][0]["title"] == "Hola"
    _, found = await member.call("GET", "search?q=HÓLA")
    assert [row["id"] for row in found["results"]] == [turn["id"]]


async def test_the_other_tab_in_another_process_sees_the_turn(site: TestedSite) -> None:
    [member] = site.people(1)
    other = Member(member.access, lambda: site.port(1))
    async with other.socket() as tab:
        shown = Shown()
        await ask(member, shown, "fake-20t-5ms")
        seen: dict[str, dict[str, object]] = {}
        while not {"turn.started", "conversation.changed", "turn.completed", "allowance.changed"} <= seen.keys():
            event = json.loads(await asyncio.wait_for(tab.recv(), 10))
            seen[event["type"]] = event
    assert seen["turn.started"]["turn_id"] == seen["turn.completed"]["turn_id"] == str(shown.turn_id)


async def test_stop_reaches_the_provider_at_once(site: TestedSite) -> None:
    [member] = site.people(1)
    shown = Shown()
    asking = asyncio.create_task(ask(member, shown, "fake-600t-10ms-unicode"))
    while len(shown.text) < 100:
        await asyncio.sleep(0.02)
    asked_at = time.monotonic_ns()
    status, _ = await member.call("POST", f"turns/{shown.turn_id}/stop")
    await asking
    taken_ms = (site.provider.stats().last_abort_ns - asked_at) / 1e6
    print(f"stop to closed connection: {taken_ms:.0f} ms")
    assert (status, shown.status) == (202, "stopped")
    assert 0 < taken_ms < 3_000  # the whole answer takes six seconds; the bench has the budget
    _, saved = await member.call("GET", f"turns/{shown.turn_id}")
    assert saved["answer"] == shown.text
    assert saved["usage"]["source"] == "estimated"
    assert saved["cost_micros"] > 0


async def test_200_sends_against_an_allowance_for_50_admit_exactly_50(site: TestedSite) -> None:
    model = "fake-300t-200ms"  # a minute: none is settled, and so gives room back, before all have asked
    [prober] = site.people(1, **OPEN)
    assert await start(prober, probe := str(uuid7()), model) == "turn.started"
    micros = round((await prober.call("GET", "allowance"))[1]["reserved"] * 1000)
    [member] = site.people(1, **{**OPEN, "credits_per_month": -(-50 * micros // 1000)})
    turn_ids = [str(uuid7()) for _ in range(200)]
    answers = await asyncio.gather(*(start(member, turn_id, model) for turn_id in turn_ids))
    admitted = [turn_id for turn_id, answer in zip(turn_ids, answers, strict=True) if answer == "turn.started"]
    for asker, turn_id in [(prober, probe), *((member, turn_id) for turn_id in admitted)]:
        await asker.call("POST", f"turns/{turn_id}/stop")
    assert (len(admitted), answers.count("allowance_used_up")) == (50, 150)


async def start(member: Member, turn_id: str, model: str) -> str:
    """Send one question over a socket of its own; return what came of it: an event's type, or a refusal's code."""
    async with member.socket() as socket:
        command = {"type": "turn.start", "turn_id": turn_id, "conversation_id": str(uuid7())}
        await socket.send(json.dumps({**command, "model": model, "text": "¿Qué tal?"}))
        while (event := json.loads(await socket.recv())).get("turn_id") != turn_id:
            pass  # of the other tabs
        return str(event.get("code", event["type"]))
