"""A member's first minutes, on every store."""

import asyncio
import json
import time
from collections import Counter
from contextlib import suppress

import pytest
from uuid_utils.compat import uuid7

from bench.websocket import Opcode, encode_frame, new_key
from chat.socket.shares import COMMANDS_A_SECOND, COMMANDS_AT_ONCE, MAX_SOCKETS
from core.errors import Unavailable
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


async def test_five_long_prompts_stopped_before_the_first_word_are_paid_and_a_provider_that_dies_is_not(
    site: TestedSite,
) -> None:
    """A provider is paid for the prompts it was sent: by who stopped them, or by the site where it broke off itself."""
    fields = {"provider": "compatible", "context_window": 32_000, "max_output": 1_000, "input_price": 1_000_000}
    fields |= {"output_price": 1_000_000, "position": 900, "tier": "strong"}
    silent, dying = ({"key": key, "provider_model": key, **fields} for key in ("hang", "fake-9t-5ms-cut0"))
    site.offer(silent, dying)
    [member] = site.people(1, **{**OPEN, "credits_per_month": 1_000})
    text = "palabra " * 3_900
    spent = site.ledger()["spent"].get("compatible", 0)
    costs = []
    for _ in range(5):
        shown, before = Shown(), site.provider.stats().started
        asking = asyncio.create_task(ask(member, shown, "hang", text))
        async with asyncio.timeout(20):
            while site.provider.stats().started == before:
                await asyncio.sleep(0.02)
            for _ in range(2):
                await member.call("POST", f"turns/{shown.turn_id}/stop")
            await asking
        assert (shown.status, shown.text) == ("stopped", "")
        assert shown.last
        assert "the charge is for reading it." in shown.last["cost_detail"]
        costs.append(shown.last["cost_micros"])
    assert min(costs) > len(text) // 4
    assert (await member.call("GET", "allowance"))[1]["used"] * 1_000 == sum(costs)

    shown = Shown()
    await ask(member, shown, "fake-9t-5ms-cut0", text)
    assert (shown.status, shown.last and shown.last["cost_micros"]) == ("failed", None)
    allowance = (await member.call("GET", "allowance"))[1]
    assert (allowance["used"] * 1_000, allowance["reserved"]) == (sum(costs), 0)
    ledger = site.ledger()
    assert ledger["unbalanced"] == []
    assert ledger["spent"]["compatible"] - spent in (sum(costs) + costs[0], sum(costs) + 2 * costs[0])
    site.offer(*({**model, "enabled": False} for model in (silent, dying)))


async def test_200_sends_against_an_allowance_for_50_admit_exactly_50(site: TestedSite) -> None:
    model = "fake-300t-200ms"  # a minute: none is settled, and so gives room back, before all have asked
    [prober] = site.people(1, **OPEN)
    assert await start(prober, [probe := str(uuid7())], model) == {probe: "turn.started"}
    micros = round((await prober.call("GET", "allowance"))[1]["reserved"] * 1000)
    [member] = site.people(1, **{**OPEN, "credits_per_month": -(-50 * micros // 1000)})
    turn_ids = [str(uuid7()) for _ in range(200)]
    tabs = (start(member, turn_ids[number::MAX_SOCKETS], model) for number in range(MAX_SOCKETS))
    answers = {turn_id: answer for tab in await asyncio.gather(*tabs) for turn_id, answer in tab.items()}
    admitted = [turn_id for turn_id, answer in answers.items() if answer == "turn.started"]
    for asker, turn_id in [(prober, probe), *((member, turn_id) for turn_id in admitted)]:
        await asker.call("POST", f"turns/{turn_id}/stop")
    assert Counter(answers.values()) == {"turn.started": 50, "allowance_used_up": 150}


async def start(member: Member, turn_ids: list[str], model: str) -> dict[str, str]:
    """Send questions over a socket of their own; return what came of each: an event's type, or a refusal's code.

    What a slow store refused for the moment is sent again, as a page does.
    """
    common = {"type": "turn.start", "model": model, "text": "¿Qué tal?"}
    commands = {
        turn_id: json.dumps({**common, "turn_id": turn_id, "conversation_id": str(uuid7())}) for turn_id in turn_ids
    }
    found: dict[str, str] = {}
    async with member.socket() as socket:
        for command in commands.values():
            await socket.send(command)
        while len(found) < len(commands):
            event = json.loads(await socket.recv())
            turn_id, came = event.get("turn_id"), event.get("code", event["type"])
            if turn_id not in commands:
                continue  # it is of another tab
            if came == Unavailable.code:
                await socket.send(commands[turn_id])
            else:
                found.setdefault(turn_id, came)
    return found


async def test_600_sockets_of_one_member_keep_nobody_else_from_asking(site: TestedSite) -> None:
    """The attack that filled the line of a process: each socket repeats a question that is refused."""
    hostile, other = site.people(2)
    [session] = site.create_sessions([hostile.access])
    host = f"127.0.0.1:{site.port()}"
    fields = {
        "Host": host,
        "Origin": f"http://{host}",
        "Cookie": f"sessionid={session}",
        "Sec-WebSocket-Key": new_key(),
    }
    fields |= {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    lines = ["GET /ws/ HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "\r\n"]
    refused = {"type": "turn.start", "turn_id": str(uuid7()), "conversation_id": str(uuid7()), "text": ""}
    statuses: list[bytes] = []
    answers = 0

    async def attack() -> None:
        nonlocal answers
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port())
        try:
            writer.write("\r\n".join(lines).encode())
            statuses.append((await reader.readuntil(b"\r\n\r\n")).split()[1])
            writer.write(encode_frame(Opcode.TEXT, json.dumps(refused).encode()) * 500)
            with suppress(asyncio.IncompleteReadError):  # it was refused
                while await reader.readuntil(b"text_empty"):
                    answers += 1
        finally:
            writer.close()

    begun = time.monotonic()
    attacking = [asyncio.create_task(attack()) for _ in range(600)]
    while len(statuses) < len(attacking):
        await asyncio.sleep(0.05)
    shown = Shown()
    await ask(other, shown, "fake-20t-5ms")
    seconds = time.monotonic() - begun
    for task in attacking:
        task.cancel()
    await asyncio.wait(attacking)
    assert (shown.status, shown.complaints, shown.connections) == ("completed", [], 1)
    assert (statuses.count(b"101"), statuses.count(b"429")) == (MAX_SOCKETS, 600 - MAX_SOCKETS)
    assert answers <= COMMANDS_AT_ONCE + COMMANDS_A_SECOND * seconds
