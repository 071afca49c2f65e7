"""An upgrade: every process is stopped and started again, one after the other, while people are answered."""

import asyncio
import json
import os
import time
from collections import Counter
from typing import Any

import aiohttp
import pytest

from testbed.provider import expected_reasoning, expected_text
from tests.fakes.proxy import CuttingProxy
from tests.fakes.readers import LOST, Member, Shown, read_by_events, read_by_socket
from tests.processes.stores import TestedSite

IS_SOAK = bool(os.environ.get("SOAK"))
MODEL = "fake-100t-200ms" if IS_SOAK else "fake-300t-20ms-r20"
STREAMS = 300 if IS_SOAK else 9
RESTARTED = ("runner0", "runner1", "web0", "web1") if IS_SOAK else ("runner0", "web0")
OPEN = {"turns_per_hour": None, "turns_at_once": None, "credits_per_month": None}


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_processes_restart_one_after_the_other_and_no_answer_is_cut(site: TestedSite) -> None:
    people = await asyncio.to_thread(lambda: site.people(STREAMS, **OPEN))
    async with CuttingProxy(site.port(0), site.port(1)) as proxy:
        load = Load(people, proxy.port)
        reading = asyncio.create_task(load.run())
        await asyncio.sleep(2)
        took = {}
        for name in RESTARTED:
            begun = time.monotonic()
            await asyncio.to_thread(site.restart, name)
            took[name] = round(time.monotonic() - begun, 1)
        load.is_over = True
        await asyncio.wait_for(reading, 60)
    for complaint in load.complaints:
        print(complaint[:200])
    print(f"{len(load.answers)} answers {Counter(load.kinds)}; restarted in {took} s")
    assert load.complaints == []
    assert len(load.answers) >= 2 * STREAMS
    assert {(one.status, one.text, one.reasoning) for one in load.answers} == {
        ("completed", expected_text(MODEL), expected_reasoning(MODEL))
    }
    assert {one.gen for one in load.answers if one.gen} == {1}, "a provider was asked twice for one answer"


class Load:
    """Each of these people asks again and again: by socket, by event stream, or as a program."""

    def __init__(self, people: list[Member], port: int) -> None:
        self.is_over = False
        self.answers: list[Shown] = []
        self.kinds: list[str] = []
        self.complaints: list[str] = []
        self._people = [Member(one.access, lambda: port) for one in people]

    async def run(self) -> None:
        kinds = (self._by_socket, self._by_events, self._by_program)
        async with asyncio.TaskGroup() as group:
            for number, member in enumerate(self._people):
                group.create_task(self._ask_on(member, kinds[number % len(kinds)]))

    async def _ask_on(self, member: Member, ask: Any) -> None:
        while not self.is_over:
            shown = Shown()
            try:
                async with asyncio.timeout(60):
                    await ask(member, shown)
            except (*LOST, AssertionError) as error:
                self.complaints.append(f"{ask.__name__} {shown.turn_id} after {len(shown.text)}: {error!r}")
                continue
            self.complaints += [f"{ask.__name__}: {one}" for one in shown.complaints]
            self.answers.append(shown)
            self.kinds.append(ask.__name__)

    async def _by_socket(self, member: Member, shown: Shown) -> None:
        await read_by_socket(member, shown, asks={"model": MODEL, "text": "Hola"})

    async def _by_events(self, member: Member, shown: Shown) -> None:
        path = f"conversations/{shown.conversation_id}/turns"
        status, answer = await member.call("POST", path, turn_id=str(shown.turn_id), text="Hola", model=MODEL)
        assert status in (200, 201, 202), (status, answer)
        await read_by_events(member, shown)

    async def _by_program(self, member: Member, shown: Shown) -> None:
        """OpenAI's clients ask once: what is cut is lost."""
        question = {"model": MODEL, "messages": [{"role": "user", "content": "Hola"}], "stream": True}
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(headers=member.headers, timeout=timeout) as session:
            async with session.post(f"{member.base}/v1/chat/completions", json=question) as response:
                assert response.status == 200, (response.status, await response.text())
                async for line in response.content:
                    if line == b"data: [DONE]\n":
                        return
                    if line.startswith(b"data: "):
                        self._take_chunk(shown, json.loads(line.removeprefix(b"data: ")))
        raise EOFError("no [DONE]")

    def _take_chunk(self, shown: Shown, chunk: dict[str, Any]) -> None:
        assert "error" not in chunk, chunk
        for choice in chunk["choices"]:
            shown.text += choice["delta"].get("content") or ""
            shown.reasoning += choice["delta"].get("reasoning_content") or ""
            if choice["finish_reason"]:
                shown.last = {"type": "turn.completed"}
