"""Whatever is sent to any address of the site: no error of ours, and every refusal in its shape."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from pytest_django import Settings

from chat.pages import question_form
from core.threads import in_thread
from tests.fuzz.drawing import SAMPLES, draw_request
from tests.fuzz.judging import complaints_about, complaints_about_log
from tests.fuzz.people import Cast, new_cast
from tests.fuzz.sending import send, send_to, serving
from tests.fuzz.url_map import Door, WithMail, list_api_doors, list_doors

IS_SOAK = bool(os.environ.get("SOAK"))
SEED = int(os.environ.get("SEED", "20261124"))
REQUESTS = 10_000 if IS_SOAK else 500
WIRED_EVERY = 20
"""One request of so many goes through a real server."""
ONLY = os.environ.get("ONLY", "")
"""The number of one request, to send that alone."""
EACH_CAST = 25
"""Requests that find the same people: among them are some that log out, change a password or delete."""

pytestmark = pytest.mark.usefixtures("catalog", "redis")


@pytest.fixture(autouse=True)
def site(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.ROOT_URLCONF = WithMail
    monkeypatch.setattr(question_form, "READING_SECONDS", 0.0)  # no worker reads files here


def silence_console(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is logged is judged: thousands of lines that are as they should be need not be shown."""
    console = next(handler for handler in logging.root.handlers if type(handler) is logging.StreamHandler)
    monkeypatch.setattr(console, "level", logging.CRITICAL)


def doors_in_turn(random: Random) -> Iterator[Door]:
    """Yield every door before any comes again, those of the API three times as often as pages of the admin."""
    doors = list_doors()
    while True:
        round_of_all = [door for door in doors for _ in range(1 if door.is_admin else 3)]
        random.shuffle(round_of_all)
        yield from round_of_all


@pytest.mark.soak
@pytest.mark.timeout(3_600)
async def test_no_request_is_an_error_of_ours(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    silence_console(monkeypatch)
    complaints: list[str] = []
    statuses: Counter[int] = Counter()
    cast: Cast | None = None
    async with serving() as port:
        for number, door in zip(range(REQUESTS), doors_in_turn(Random(SEED)), strict=False):
            if ONLY and number != int(ONLY):
                continue
            if cast is None or number % EACH_CAST == 0:
                cast = await in_thread(new_cast)
            request = await in_thread(draw_request, Random(f"{SEED}:{number}"), door, cast)
            caplog.clear()
            try:
                answer = await (send(request) if number % WIRED_EVERY else send_to(port, request))
            except Exception as error:  # noqa: BLE001  what a server would log
                complaints.append(f"{number}: {error!r}\n    {request}")
                continue
            found = list(complaints_about_log(caplog.records))
            if answer is not None:
                statuses[answer.status] += 1
                found += complaints_about(request, answer)
            if found:
                complaints.append(f"{number}: {'; '.join(found)}\n    {request}\n    {answer}")
    print(f"seed {SEED}: {REQUESTS} requests, by status {sorted(statuses.items())}")
    assert not complaints, f"seed {SEED}: {len(complaints)} of {REQUESTS}\n" + "\n".join(complaints)


def test_every_route_of_the_api_that_takes_a_body_has_a_sample():
    """Else what is sent to it would be refused before its view reads a field."""
    taking = {door.route for door in list_api_doors() if set(door.methods) & {"POST", "PUT", "PATCH"}}
    assert taking == {route for route in SAMPLES if route.startswith("/api/")}
