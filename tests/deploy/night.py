"""Many read answer after answer through the gateway, while every process is restarted in turn, and three are killed."""

import asyncio
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from testbed.script import expected_text
from tests.deploy.machine import Machine
from tests.deploy.service_manager import Service
from tests.deploy.visitors import Reading, read_answer

WAYS = ("socket", "events", "program")
VICTIMS = ("web@1", "web@2", "runner@1", "runner@2", "worker", "beat")
PATIENCE_SECONDS = 120.0
SHORT_RELEASE = """systemctl restart tertulia-web@1
systemctl reload nginx
"""


class Night:
    def __init__(self, machine: Machine, model: str, people: list[str], seed: int) -> None:
        self._machine, self._model, self._people, self._rng = machine, model, people, random.Random(seed)
        self._readings: list[Reading] = []
        self._is_over = False

    async def run(self, release: str, *, kills: int) -> dict[str, Any]:
        """Return what happened. With an empty `release` less is restarted."""
        seconds = {}
        async with asyncio.TaskGroup() as group:
            for number, access in enumerate(self._people):
                group.create_task(self._keep_reading(WAYS[number % len(WAYS)], access))
            for name, part in (
                ("begin", self._until(lambda: all(one.text for one in self._readings[: len(self._people)]))),
                ("release", asyncio.to_thread(self._machine.run_script, release or SHORT_RELEASE)),
                ("kills", self._kill(kills)),
            ):
                since = time.monotonic()
                await part
                seconds[name] = round(time.monotonic() - since, 1)
                print(f"{name}: {seconds[name]} s, {len(self._readings)} readings", file=sys.stderr, flush=True)
            self._is_over = True
        return {
            "night_seconds": seconds,
            "killed": self._killed,
            "answers": {way: sum(one.way == way for one in self._readings) for way in WAYS},
            "connections": {way: sum(one.connections for one in self._readings if one.way == way) for way in WAYS},
            "asked_anew": sum(one.stopped for one in self._readings),
            "interrupted": sum(one.status == "interrupted" for one in self._readings),
            "wrong": [asdict(one) for one in self._readings if not self._is_right(one)],
            "read": {one.turn_id: [one.status, one.text] for one in self._readings if one.turn_id},
        }

    def _is_right(self, one: Reading) -> bool:
        """Return whether a reader has the whole answer; or, where a runner was killed under it, all it had written."""
        expected = expected_text(self._model)
        if one.status == "interrupted":
            lost_its_runner = one.ended_at > self._killed_at and any("runner" in name for name in self._killed)
            return lost_its_runner and one.complaints == [] and expected.startswith(one.text)
        return (one.status, one.text, one.complaints) == ("completed", expected, [])

    async def _keep_reading(self, way: str, access: str) -> None:
        while not self._is_over:
            reading = Reading(way)
            self._readings.append(reading)
            await read_answer(way, access, self._model, reading)

    async def _kill(self, count: int) -> None:
        """Kill so many with SIGKILL, any of them; return when each runs again."""
        self._killed = self._rng.sample(VICTIMS, count)
        self._killed_at = time.monotonic()
        killed = []
        for victim in self._killed:
            await asyncio.sleep(self._rng.uniform(0.1, 1.0))
            service = self._machine.manager.service(f"tertulia-{victim}")
            killed.append((service, service.pid))
            service.kill()
        await self._until(lambda: all(_is_back(*one) for one in killed))

    async def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, [asdict(one) for one in self._readings[:9]]
            await asyncio.sleep(0.1)


def _is_back(service: Service, former: int) -> bool:
    return service.pid not in (0, former)
