"""A Redis that takes connections and says nothing: of all threads one a second waits for it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep
from urllib.parse import urlsplit

import pytest
import redis
from django.conf import settings
from django.core.cache import caches
from django.db import connections
from django.test import Client

from accounts.models import User
from core import redis_clients
from core.redis_clients import GatedPool, sync_redis
from core.threads import in_thread
from tests.chat.live import session_cookie, socket
from tests.fakes.silence import CountedWaits, SilentProxy

LIMIT_SECONDS = 0.6


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[SilentProxy]:
    """The way to Redis, which can fall silent."""
    port = urlsplit(settings.REDIS_URL).port or 0
    with SilentProxy(port) as proxy, monkeypatch.context() as patch:
        patch.setattr(settings, "REDIS_URL", settings.REDIS_URL.replace(f":{port}/", f":{proxy.port}/"))
        for options in (redis_clients.SYNC_OPTIONS, redis_clients.SYNC_POOL_OPTIONS):
            patch.setitem(options, "socket_timeout", LIMIT_SECONDS)
        sync_redis.cache_clear()
        yield proxy
    sync_redis.cache_clear()


def ask_at_once(page: Client, count: int = 20) -> set[int]:
    """Ask for a page so often at once, each in a thread of its own; return the statuses."""

    def ask(_number: int) -> int:
        try:
            return Client(headers={"cookie": cookie}).get("/").status_code
        finally:
            connections.close_all()

    cookie = f"sessionid={page.cookies['sessionid'].value}"
    with ThreadPoolExecutor(count) as executor:
        return set(executor.map(ask, range(count)))


def test_a_silent_redis_costs_one_thread_a_second_and_logs_nobody_out(
    silence: SilentProxy, ana: User, monkeypatch: pytest.MonkeyPatch
):
    page = Client()
    page.force_login(ana)
    silence.is_silent = True
    assert ask_at_once(page) == {503}
    waiting = CountedWaits(monkeypatch)
    begun = monotonic()
    assert ask_at_once(page) == {503}
    assert waiting.refused
    assert waiting.let_through <= 3 + (monotonic() - begun)
    assert page.get("/healthz").status_code == 200
    silence.is_silent = False
    deadline = monotonic() + 20
    while page.get("/").status_code != 200:
        assert monotonic() < deadline
        sleep(0.1)
    assert page.get("/").context["user"] == ana


def test_the_cache_of_every_thread_uses_the_connections_of_the_process():
    caches["default"].set("word", "hola")
    before = sync_redis().info("stats")["total_connections_received"]
    with ThreadPoolExecutor(1) as executor:  # Django makes a cache for each thread and each request
        assert executor.submit(lambda: caches["default"].get("word")).result() == "hola"
    assert sync_redis().info("stats")["total_connections_received"] == before


def test_a_redis_that_refuses_the_first_connection_is_an_error_of_redis_and_no_other():
    closed = GatedPool.from_url("redis://127.0.0.1:1/0", **redis_clients.SYNC_POOL_OPTIONS)
    with pytest.raises(redis.ConnectionError):
        redis.Redis(connection_pool=closed).ping()


async def test_a_socket_is_told_to_try_again_and_not_that_its_session_is_over(silence: SilentProxy, ana: User):
    cookie = await in_thread(session_cookie, ana)
    silence.is_silent = True
    async with socket(cookie=cookie) as page:
        assert (page.is_open, page.closed_with, page.denied_with) == (False, None, 503)


def test_a_pool_whose_connections_are_all_in_use_is_not_a_redis_that_is_away(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("core.gate.SILENT_SECONDS", 0)
    few = GatedPool.from_url(settings.REDIS_URL, max_connections=1, timeout=0.05)
    held = few.get_connection()
    for _ in range(2):
        with pytest.raises(redis.ConnectionError, match="No connection available"):
            few.get_connection()
    few.release(held)
    few.disconnect()
