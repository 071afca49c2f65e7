"""Whatever is sent to any address of the site: no error of ours, and every refusal in its shape."""

import asyncio
import logging
import os
from collections.abc import Iterator
from random import Random
from typing import Any
from urllib.parse import unquote

import pytest
from pytest_django import Settings

from chat.pages import question_form
from config.asgi import application
from core.threads import in_thread
from tests.fuzz.drawing import SAMPLES, Request, draw_request
from tests.fuzz.judging import Answer, complaints_about, complaints_about_log
from tests.fuzz.people import Cast, new_cast
from tests.fuzz.url_map import Door, WithMail, list_api_doors, list_doors

IS_SOAK = bool(os.environ.get("SOAK"))
SEED = int(os.environ.get("SEED", "20261124"))
REQUESTS = 10_000 if IS_SOAK else 500
ONLY = os.environ.get("ONLY", "")
"""The number of one request, to send that alone."""
EACH_CAST = 25
"""Requests that find the same people: among them are some that log out, change a password or delete."""
CUT_SECONDS = 0.1
"""When the client goes away from an answer that is still being written."""

pytestmark = pytest.mark.usefixtures("catalog", "redis")


@pytest.fixture(autouse=True)
def site(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.ROOT_URLCONF = WithMail
    monkeypatch.setattr(question_form, "READING_SECONDS", 0.0)  # no worker reads files here


def doors_in_turn(random: Random) -> Iterator[Door]:
    """Yield every door before any comes again, those of the API three times as often as pages of the admin."""
    doors = list_doors()
    while True:
        round_of_all = [door for door in doors for _ in range(1 if door.is_admin else 3)]
        random.shuffle(round_of_all)
        yield from round_of_all


async def send(request: Request) -> Answer:
    """Have the ASGI application answer, as a server would."""
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    half = len(request.body) // 2
    incoming.put_nowait({"type": "http.request", "body": request.body[:half], "more_body": True})
    incoming.put_nowait({"type": "http.request", "body": request.body[half:], "more_body": False})
    sent: list[dict[str, Any]] = []

    async def take(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and message.get("more_body"):
            asyncio.get_running_loop().call_later(CUT_SECONDS, incoming.put_nowait, {"type": "http.disconnect"})

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": request.method,
        "path": unquote(request.path),
        "raw_path": request.path.encode(),
        "query_string": request.query,
        "root_path": "",
        "headers": list(request.headers),
        "client": (request.peer, 50_000),
        "server": ("127.0.0.1", 8000),
    }
    async with asyncio.timeout(30):
        await application(scope, incoming.get, take)
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))


@pytest.mark.soak
@pytest.mark.timeout(3_600)
async def test_no_request_is_an_error_of_ours(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    console = next(handler for handler in logging.root.handlers if type(handler) is logging.StreamHandler)
    monkeypatch.setattr(console, "level", logging.CRITICAL)
    doors = doors_in_turn(Random(SEED))
    complaints: list[str] = []
    statuses: dict[int, int] = {}
    cast: Cast | None = None
    for number, door in zip(range(REQUESTS), doors, strict=False):
        if ONLY and number != int(ONLY):
            continue
        if cast is None or number % EACH_CAST == 0:
            cast = await in_thread(new_cast)
        request = await in_thread(draw_request, Random(f"{SEED}:{number}"), door, cast)
        caplog.clear()
        try:
            answer = await send(request)
        except Exception as error:  # noqa: BLE001  what a server would log
            complaints.append(f"{number}: {error!r}\n    {request}")
            continue
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
        found = [*complaints_about(request, answer), *complaints_about_log(caplog.records)]
        if found:
            complaints.append(f"{number}: {'; '.join(found)}\n    {request}\n    {answer.status} {answer.body[:200]!r}")
    print(f"seed {SEED}: {REQUESTS} requests, by status {dict(sorted(statuses.items()))}")
    assert not complaints, f"seed {SEED}: {len(complaints)} of {REQUESTS}\n" + "\n".join(complaints)


def test_every_route_of_the_api_that_takes_a_body_has_a_sample():
    """Else what is sent to it would be refused before its view reads a field."""
    taking = {door.route for door in list_api_doors() if set(door.methods) & {"POST", "PUT", "PATCH"}}
    assert taking == {route for route in SAMPLES if route.startswith("/api/")}
