"""Beside a hostile crowd another member is answered as usual: `make soak` has the crowd of the promise."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import pytest
from uuid_utils.compat import uuid7

from chat.socket.shares import MAX_SOCKETS
from testbed.site import ROOT
from tests.fakes.readers import Member
from tests.processes.stores import TestedSite

SOAK = bool(os.environ.get("SOAK"))
MEMBERS = 30 if SOAK else 5
"""Hostile ones, each with as many sockets as a member may have."""
COMMANDS_A_SECOND = 2_000 if SOAK else 500
LOG_INS = 100 if SOAK else 20
QUESTIONS = 60 if SOAK else 10
TIMES = 2.0 if SOAK else 6.0
"""How much longer a first token may take. Beside other tests on few cores little can be told from one run."""
MAX_MB = 300
SLOW = 1_000

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")


@contextmanager
def attacked(site: TestedSite, **attack: Any) -> Iterator[dict[str, Any]]:
    """Attack the first web process meanwhile; what came of it is in the report afterwards."""
    command = [sys.executable, "-m", "tests.fakes.attackers"]
    report: dict[str, Any] = {}
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as attacker:
        assert attacker.stdin is not None
        attacker.stdin.write(json.dumps({"port": site.port(), **attack}) + "\n")
        attacker.stdin.flush()
        try:
            yield report
        finally:
            printed, _ = attacker.communicate(timeout=30)
    report |= json.loads(printed)


async def first_tokens(member: Member, questions: int) -> list[float]:
    """Ask over one socket, again and again; return the seconds until each first token."""
    taken = []
    async with member.socket() as socket:
        for _ in range(questions):
            command = {"type": "turn.start", "turn_id": str(uuid7()), "conversation_id": str(uuid7()), "text": "Hola"}
            begun, first = time.monotonic(), 0.0
            await socket.send(json.dumps({**command, "model": "fake-20t-5ms"}))
            while (event := json.loads(await socket.recv()))["type"] != "allowance.changed":
                assert event["type"] != "turn.rejected", event
                if event["type"] == "turn.delta" and not first:
                    first = time.monotonic()
            taken.append(first - begun)
            await asyncio.sleep(0.1)
    return taken


def resident_mb(site: TestedSite, name: str) -> float:
    status = Path(f"/proc/{site.pid('web0')}/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024 / 1e6


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_beside_a_hostile_crowd_a_member_is_answered_as_usual(site: TestedSite) -> None:
    [member] = site.people(1, turns_per_hour=None, turns_at_once=None, credits_per_month=None)
    sessions = site.create_sessions(site.create_members(MEMBERS))
    await first_tokens(member, 5)
    usual = await first_tokens(member, QUESTIONS)
    attack = {"sessions": sessions, "sockets": MAX_SOCKETS, "commands_a_second": COMMANDS_A_SECOND, "log_ins": LOG_INS}
    with attacked(site, **attack) as report:
        await asyncio.sleep(1)
        beside = await first_tokens(member, QUESTIONS)
    usual += await first_tokens(member, QUESTIONS)
    largest = resident_mb(site, "VmHWM")
    print(
        f"first token {median(usual) * 1000:.0f} ms, beside the crowd {median(beside) * 1000:.0f} ms "
        f"(longest {max(beside) * 1000:.0f}); web process at most {largest:.0f} MB; {report}"
    )
    assert report["handshakes"]["101"] >= MEMBERS * MAX_SOCKETS
    assert report["commands"] > COMMANDS_A_SECOND
    assert report["log_ins"]["429"] > LOG_INS / 2
    assert median(beside) < TIMES * median(usual)
    assert largest < MAX_MB


async def test_a_thousand_slow_connections_keep_nobody_out(site: TestedSite) -> None:
    """They send a piece of a head, or of a body, and no more."""
    [member] = site.people(1)
    starts = [b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"POST /api/v1/auth/login HTTP/1.1\r\nContent-Length: 99\r\n\r\n{"]
    before = resident_mb(site, "VmRSS")
    opened = []
    try:
        for number in range(SLOW):
            _reader, writer = await asyncio.open_connection("127.0.0.1", site.port())
            writer.write(starts[number % 2])
            opened.append(writer)
        await first_tokens(member, 1)
        async with aiohttp.ClientSession() as http, http.get(f"{member.base}/healthz") as answer:
            assert answer.status == 200
        assert resident_mb(site, "VmRSS") < before + 60
    finally:
        for writer in opened:
            writer.transport.abort()
