"""Is the process up; can it serve."""

import time

import pytest
import redis
from django.test import AsyncClient, Client

from chat.turns import delivery, ending, presence, watching
from config import health
from core.loops import serve_on_this_loop
from core.redis_clients import GatedPool, close_async_redis, sync_redis

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]


@pytest.fixture
def visitor():
    return Client()


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question is asked anew."""
    monkeypatch.setattr(health, "SHARED_SECONDS", 0)


@pytest.fixture
def redis_away(monkeypatch: pytest.MonkeyPatch) -> None:
    client = redis.Redis(connection_pool=GatedPool.from_url("redis://user:secret@127.0.0.1:1/0"))
    for module in (health, presence):
        monkeypatch.setattr(module, "sync_redis", lambda: client)

    async def not_delivered() -> None:
        raise redis.ConnectionError

    monkeypatch.setattr(health, "prove_delivery", not_delivered)


def runner_seen(*, seconds_ago: float = 0) -> None:
    sync_redis().zadd(presence.ALIVE_KEY, {"a-runner": time.time() - seconds_ago})


def test_a_process_that_answers_is_up(visitor):
    answer = visitor.get("/healthz")
    assert (answer.status_code, answer.content) == (200, b"ok\n")


@pytest.mark.usefixtures("redis_away")
def test_a_process_is_up_whatever_else_is_down(visitor):
    assert visitor.get("/healthz").status_code == 200


def test_a_site_with_all_its_parts_is_ready(visitor):
    runner_seen()
    answer = visitor.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["ready"] is True
    assert not sync_redis().keys("turn:*")  # it leaves nothing behind: monitors ask for ever


def test_each_part_is_named_with_its_time(visitor):
    runner_seen()
    body = visitor.get("/readyz").json()
    assert set(body) == {"ready", "database", "history", "redis", "runner", "delivery"}
    for name in ("database", "history", "redis", "runner", "delivery"):
        assert body[name]["ok"] is True
        assert 0 <= body[name]["ms"] < 5_000


def failing(body: dict) -> list[str]:
    return [name for name, part in body.items() if name != "ready" and not part["ok"]]


def test_without_a_runner_a_site_is_not_ready(visitor):
    answer = visitor.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["ready"] is False
    assert failing(answer.json()) == ["runner"]


@pytest.mark.parametrize("seconds_ago", [presence.ALIVE_SECONDS + 1, -3_600])
def test_a_runner_that_was_not_heard_of_lately_does_not_count(visitor, seconds_ago: float):
    """Nor does one that was heard by a clock that ran an hour ahead, and was set back."""
    runner_seen(seconds_ago=seconds_ago)
    assert failing(visitor.get("/readyz").json()) == ["runner"]


@pytest.mark.usefixtures("redis_away")
def test_without_redis_a_site_is_not_ready(visitor):
    answer = visitor.get("/readyz")
    assert answer.status_code == 503
    assert failing(answer.json()) == ["redis", "runner", "delivery"]


@pytest.mark.usefixtures("redis_away")
def test_what_is_wrong_is_not_told_to_strangers(visitor):
    answer = visitor.get("/readyz").content.decode()
    assert "secret" not in answer
    assert "127.0.0.1" not in answer


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_can_be_asked_with_head_and_not_changed(visitor, path):
    runner_seen()
    assert visitor.head(path).status_code == 200
    assert visitor.post(path).status_code == 405


def test_a_site_whose_words_do_not_come_to_readers_is_not_ready(visitor, monkeypatch):
    """Every port answers, and no reader would see a token."""
    runner_seen()
    monkeypatch.setattr(delivery, "DELIVERY_SECONDS", 0.1)
    monkeypatch.setattr(ending, "WAKE_UPS", "another channel")
    assert failing(visitor.get("/readyz").json()) == ["delivery"]


async def test_who_asks_again_and_again_makes_no_connections(monkeypatch):
    """As a web process answers: with one loop, and its subscription."""
    serve_on_this_loop()
    visitor = AsyncClient()
    await visitor.get("/readyz")
    before = sync_redis().info("stats")["total_connections_received"]
    for _ in range(20):
        assert (await visitor.get("/readyz")).json()["delivery"]["ok"]
    assert sync_redis().info("stats")["total_connections_received"] == before
    await close_async_redis()


def test_a_process_without_readers_keeps_no_loop_of_a_proof():
    before = set(watching._hubs._made)
    for _ in range(2):
        health._deliver()
    assert not set(watching._hubs._made) - before


def test_who_asks_again_within_a_second_gets_the_same_report(visitor, monkeypatch):
    runner_seen()
    monkeypatch.setattr(health, "_reported_at", float("-inf"))
    monkeypatch.setattr(health, "SHARED_SECONDS", 1_000)
    first = visitor.get("/readyz")
    sync_redis().delete(presence.ALIVE_KEY)
    assert visitor.get("/readyz").content == first.content
    monkeypatch.setattr(health, "SHARED_SECONDS", 0)
    assert visitor.get("/readyz").status_code == 503
