"""A Redis that takes connections and says nothing: nobody waits for it for long."""

from collections.abc import Iterator
from time import monotonic, sleep
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.core.cache import caches
from django.test import Client

from accounts.models import User
from core import redis_clients
from tests.fakes.silence import SilentProxy


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[SilentProxy]:
    """The way to Redis, which can fall silent."""
    with SilentProxy(urlsplit(settings.REDIS_URL).port or 0) as proxy, monkeypatch.context() as patch:
        address = f"redis://127.0.0.1:{proxy.port}/0"
        patch.setattr(settings, "REDIS_URL", address)
        patch.setitem(settings.CACHES["default"], "LOCATION", address)
        patch.setitem(redis_clients.SYNC_OPTIONS, "socket_timeout", 1)
        patch.setitem(settings.CACHES["default"]["OPTIONS"], "socket_timeout", 1)
        forget_clients()
        yield proxy
    forget_clients()


def forget_clients() -> None:
    redis_clients.sync_redis.cache_clear()
    if hasattr(caches._connections, "default"):
        del caches["default"]


def test_a_silent_redis_keeps_nobody_waiting_for_long_and_logs_nobody_out(silence: SilentProxy, ana: User):
    page = Client()
    page.force_login(ana)
    silence.is_silent = True
    begun = monotonic()
    assert page.get("/").status_code == 503
    assert page.get("/healthz").status_code == 200
    form = {"login": "ana@example.com", "password": "una clave larga"}
    assert Client().post("/accounts/login/", form).status_code == 503
    assert not page.get("/readyz").json()["redis"]["ok"]
    assert monotonic() - begun < 12  # each of them was 5 s or more
    silence.is_silent = False
    deadline = monotonic() + 5
    while page.get("/").status_code != 200:
        assert monotonic() < deadline
        sleep(0.1)
    assert page.get("/").context["user"] == ana
