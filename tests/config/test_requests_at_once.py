"""A process works on so many requests at once, and one network never has all the places."""

import asyncio
import json
from typing import Any

import pytest

from config import requests_at_once
from config.requests_at_once import limit_requests
from core.fair_line import FairLine
from core.loops import PerLoop


class Crowd:
    """Requests at once to an application that works until it is told to end."""

    def __init__(self) -> None:
        self.working = 0
        self.may_answer, self.may_end = asyncio.Event(), asyncio.Event()
        self.app = limit_requests(self.answer)
        self.tasks: list[asyncio.Task[list[dict[str, Any]]]] = []

    async def answer(self, _scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        self.working += 1
        await self.may_answer.wait()
        self.working -= 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await self.may_end.wait()
        await send({"type": "http.response.body", "body": b""})

    def ask(self, network: str, *, pieces: tuple[bool, ...] = (False,)) -> "asyncio.Task[list[dict[str, Any]]]":
        """Send a request whose body comes in these pieces: whether there is more after each."""
        self.tasks.append(asyncio.create_task(self._ask(network, list(pieces))))
        return self.tasks[-1]

    async def _ask(self, network: str, pieces: list[bool]) -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not pieces:
                await asyncio.Event().wait()
            return {"type": "http.request", "body": b"a", "more_body": pieces.pop(0)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.app({"type": "http", "client": (network, 1), "headers": []}, receive, send)
        return sent


@pytest.fixture
async def crowd(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(requests_at_once, "_lines", PerLoop(lambda: FairLine(3, 2, 4)))
    crowd = Crowd()
    yield crowd
    for task in crowd.tasks:
        task.cancel()
    await asyncio.gather(*crowd.tasks, return_exceptions=True)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_network_leaves_a_place_for_another(crowd: Crowd):
    for _ in range(5):
        crowd.ask("203.0.113.9")
    await settled()
    assert crowd.working == 2
    crowd.ask("198.51.100.7")
    await settled()
    assert crowd.working == 3
    crowd.may_answer.set()
    crowd.may_end.set()
    assert [(await task)[0]["status"] for task in crowd.tasks] == [200] * 6


async def test_addresses_of_one_ipv6_network_are_one(crowd: Crowd):
    for number in range(5):
        crowd.ask(f"2001:db8::{number}")
    await settled()
    assert crowd.working == 2


async def test_a_body_that_does_not_come_takes_no_place(crowd: Crowd):
    for _ in range(5):
        crowd.ask("203.0.113.9", pieces=(True,))
    crowd.ask("203.0.113.9", pieces=(True, False))
    await settled()
    assert crowd.working == 1


async def test_an_answer_that_goes_on_keeps_no_place(crowd: Crowd):
    crowd.may_answer.set()
    for _ in range(5):
        crowd.ask("203.0.113.9")
    await settled()
    assert (crowd.working, sum(task.done() for task in crowd.tasks)) == (0, 0)


async def test_a_request_that_is_broken_off_gives_its_place_back(crowd: Crowd):
    first = [crowd.ask("203.0.113.9") for _ in range(2)]
    crowd.ask("203.0.113.9")
    await settled()
    for task in first:
        task.cancel()
    await asyncio.wait(first)
    crowd.working = 0
    crowd.ask("203.0.113.9")
    await settled()
    assert crowd.working == 1  # and the one that waited works since


async def test_who_comes_when_too_many_wait_is_told_so_at_once(crowd: Crowd):
    for _ in range(6):
        crowd.ask("203.0.113.9")
    await settled()
    start, body = await crowd.ask("203.0.113.9")
    assert (start["status"], dict(start["headers"])[b"retry-after"]) == (429, b"1")
    assert json.loads(body["body"])["code"] == "rate_limited"
