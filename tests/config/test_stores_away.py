"""A database that is away or silent: everything answers 503 within seconds, and is back when the database is."""

import gc
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from django.db import OperationalError, connections
from django.test import Client

from accounts.models import User
from chat.turns.claiming import find_and_claim
from core.threads import in_thread
from history import access
from history.models import new_id
from tests.chat.live import page_of
from tests.fakes.silence import CountedWaits, SilentProxy

VENDOR = connections["history"].vendor  # of the database that is away

pytestmark = [
    pytest.mark.stores,
    pytest.mark.skipif(VENDOR == "sqlite", reason="needs STORES=postgresql, mongodb or production"),
    pytest.mark.django_db(transaction=True, databases=["default", "history"]),
]

ALIASES = ("default", "history") if VENDOR == "postgresql" else ("history",)
LIMITS = {"connect_timeout": 2}  # the least psycopg takes
if VENDOR == "mongodb":
    LIMITS = {
        "serverSelectionTimeoutMS": 1_000,
        "connectTimeoutMS": 1_000,
        "socketTimeoutMS": 1_000,
        "waitQueueTimeoutMS": 500,
    }


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, ana: User) -> Iterator[SilentProxy]:
    """The way to the database, which can fall silent; the limits are short."""
    with SilentProxy(target_of(connections["history"].settings_dict)) as proxy, monkeypatch.context() as patch:
        for alias in ALIASES:
            database = connections.settings[alias]
            patch.setitem(database, "OPTIONS", database["OPTIONS"] | LIMITS)
            patch.setitem(database, "HOST", "127.0.0.1")
            patch.setitem(database, "PORT", str(proxy.port))
        if VENDOR == "mongodb":
            patch.setitem(database, "HOST", f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true")
            patch.setattr("core.mongodb.base.DatabaseWrapper._gates", {})
        else:
            patch.setattr("core.postgresql.pool.STATEMENT_SECONDS", 1.0)
        forget_connections()
        yield proxy
    forget_connections()
    with warnings.catch_warnings(action="ignore"):  # pymongo leaves sockets of its monitors to the garbage collector
        gc.collect()


def target_of(database: dict[str, Any]) -> int | str:
    """Return the port or the path of the socket at which the database answers."""
    if VENDOR == "mongodb":
        return int(urlsplit(os.environ["MONGODB_URI"]).port or 0)
    port = database["PORT"] or 5432
    return int(port) if database["HOST"] else f"{database['OPTIONS']['host']}/.s.PGSQL.{port}"


def forget_connections() -> None:
    for alias in ALIASES:
        connections[alias].close()
        if VENDOR == "mongodb":
            connections[alias].connect()  # else it does not know the client that another thread made
        connections[alias].close_pool()


def at_once(count: int, request: Callable[[], int]) -> list[tuple[int, float]]:
    """Send so many requests at once, each in a thread of its own; return each one's status and seconds."""

    def send(_number: int) -> tuple[int, float]:
        begun = monotonic()
        try:
            return request(), monotonic() - begun
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as executor:
        return list(executor.map(send, range(count)))


def test_a_silent_database_costs_one_thread_a_second(
    store: SilentProxy, ana: User, api, monkeypatch: pytest.MonkeyPatch
):
    def request() -> int:
        status: int = api(ana).get("/api/v1/conversations").status_code
        return status

    assert {status for status, _seconds in at_once(4, request)} == {200}
    store.is_silent = True
    answers = at_once(50, request)
    assert {status for status, _seconds in answers} == {503}
    assert max(seconds for _status, seconds in answers) < 30
    at_once(1, request)
    waiting = CountedWaits(monkeypatch)
    begun = monotonic()
    answers = at_once(50, request)
    assert {status for status, _seconds in answers} == {503}
    assert waiting.refused
    assert waiting.let_through <= 3 + (monotonic() - begun)
    store.is_silent = False
    deadline = monotonic() + 20
    while at_once(1, request)[0][0] != 200:
        assert monotonic() < deadline
        sleep(0.1)


def test_a_database_that_is_away_is_a_503_on_a_page_and_in_the_api(store: SilentProxy, ana: User, api):
    page = Client()
    page.force_login(ana)
    store.__exit__()
    forget_connections()
    answer = api(ana).get("/api/v1/conversations")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert page.get("/").status_code == 503
    assert not page.get("/readyz").json()["history"]["ok"]
    assert page.get("/healthz").status_code == 200


async def test_a_database_that_is_away_rejects_a_question_as_unavailable(store: SilentProxy, ana: User):
    async with page_of(ana) as page:
        store.__exit__()
        await in_thread(forget_connections)
        await page.start()
        assert (await page.next("turn.rejected"))["code"] == "unavailable"


async def test_a_runner_takes_a_database_that_is_away_for_a_store_that_is_away(store: SilentProxy, ana: User):
    store.__exit__()

    def read(find: Callable[[UUID], object]) -> None:
        forget_connections()  # of the thread that this runs in
        find(new_id())

    for find in (partial(find_and_claim, may_run=True), access.find_conversation):
        with pytest.raises(OperationalError):
            await in_thread(read, find)
