"""Is the process up; can it serve."""

import time

import pytest
from django.test import Client

from chat.turns import presence
from core.redis_clients import sync_redis

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]


@pytest.fixture
def visitor():
    return Client()


def runner_seen(*, seconds_ago: float = 0) -> None:
    sync_redis().zadd(presence.ALIVE_KEY, {"a-runner": time.time() - seconds_ago})


def test_a_process_that_answers_is_up(visitor):
    answer = visitor.get("/healthz")
    assert (answer.status_code, answer.content) == (200, b"ok\n")


def test_a_process_is_up_whatever_else_is_down(visitor, settings):
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert visitor.get("/healthz").status_code == 200


def test_a_site_with_all_its_parts_is_ready(visitor):
    runner_seen()
    answer = visitor.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["ready"] is True


def test_each_part_is_named_with_its_time(visitor):
    runner_seen()
    body = visitor.get("/readyz").json()
    assert set(body) == {"ready", "database", "history", "redis", "runner"}
    for name in ("database", "history", "redis", "runner"):
        assert body[name]["ok"] is True
        assert 0 <= body[name]["ms"] < 5_000


def failing(body: dict) -> list[str]:
    return [name for name, part in body.items() if name != "ready" and not part["ok"]]


def test_without_a_runner_a_site_is_not_ready(visitor):
    answer = visitor.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["ready"] is False
    assert failing(answer.json()) == ["runner"]


def test_a_runner_that_was_not_heard_of_lately_does_not_count(visitor):
    runner_seen(seconds_ago=presence.ALIVE_SECONDS + 1)
    assert failing(visitor.get("/readyz").json()) == ["runner"]


def test_without_redis_a_site_is_not_ready(visitor, settings):
    runner_seen()
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    answer = visitor.get("/readyz")
    assert answer.status_code == 503
    assert failing(answer.json()) == ["redis"]


def test_what_is_wrong_is_not_told_to_strangers(visitor, settings):
    settings.REDIS_URL = "redis://user:secret@127.0.0.1:1/0"
    answer = visitor.get("/readyz").content.decode()
    assert "secret" not in answer
    assert "127.0.0.1" not in answer


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_can_be_asked_with_head_and_not_changed(visitor, path):
    runner_seen()
    assert visitor.head(path).status_code == 200
    assert visitor.post(path).status_code == 405
