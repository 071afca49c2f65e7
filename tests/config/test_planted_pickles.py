"""Whoever can write to Redis plants data there, but no code: nothing that reads from it unpickles."""

import asyncio
import json
import pickle
from base64 import b64encode
from pathlib import Path

import pytest
from channels.layers import get_channel_layer
from django.core.cache import cache
from django.test import Client
from kombu.exceptions import ContentDisallowed

from accounts.models import User
from config.celery import app
from core.redis_clients import sync_redis
from core.threads import in_thread


class Planted:
    """Its pickle makes a folder where it is read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.mkdir, (self._folder,)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A folder that is there once the planted code has run."""
    return tmp_path / "ran"


@pytest.fixture
def planted(trace: Path) -> bytes:
    code = pickle.dumps(Planted(trace))
    pickle.loads(code)
    assert trace.exists()  # what is planted would do it
    trace.rmdir()
    return code


def test_a_pickle_in_the_cache_is_nothing(planted: bytes, trace: Path):
    cache.set("word", "hola")
    sync_redis().set(cache.make_key("word"), planted)
    assert cache.get("word") is None
    assert cache.get("word", "adios") == "adios"
    assert cache.get_many(["word"]) == {"word": None}
    assert not trace.exists()


@pytest.mark.parametrize("is_pickle", [True, False])
def test_what_is_no_session_of_ours_is_nobodys(ana: User, planted: bytes, trace: Path, is_pickle: bool):
    browser = Client()
    browser.force_login(ana)
    assert browser.get("/").context["user"] == ana
    [key] = sync_redis().keys("*sessions.cache*")
    sync_redis().set(key, planted if is_pickle else b'["no session"]')
    assert browser.get("/").context["user"].is_anonymous
    assert not trace.exists()


def test_a_task_that_is_a_pickle_is_refused(planted: bytes, trace: Path):
    message = {
        "body": b64encode(planted).decode(),
        "content-type": "application/x-python-serialize",
        "content-encoding": "binary",
        "headers": {"task": "chat.tasks.sweep_turns", "id": "1"},
        "properties": {
            "body_encoding": "base64",
            "delivery_tag": "1",
            "delivery_info": {"exchange": "", "routing_key": "celery"},
        },
    }
    sync_redis().lpush("celery", json.dumps(message))
    with app.connection_for_read() as connection:
        tasks = connection.SimpleQueue("celery", accept=app.conf.accept_content)
        with pytest.raises(ContentDisallowed):
            tasks.get(timeout=10).payload  # noqa: B018  it is decoded when it is asked for
        tasks.close()
    assert not trace.exists()


async def test_a_notice_that_is_a_pickle_is_not_unpickled(planted: bytes, trace: Path):
    layer = get_channel_layer()
    channel = await layer.new_channel()
    sync_redis().publish(channel, planted)
    with pytest.raises(ValueError):
        await asyncio.wait_for(layer.receive(channel), 10)
    await layer.flush()
    assert not await in_thread(trace.exists)


def test_the_cache_keeps_what_json_can():
    for value in (0, 7, -1, True, "ñ", 1.5, [1, "a"], {"a": {"b": []}}):
        cache.set("value", value)
        assert cache.get("value") == value
    cache.set("count", 1)
    assert (cache.incr("count"), cache.get("count")) == (2, 2)
    with pytest.raises(TypeError):
        cache.set("value", object())
