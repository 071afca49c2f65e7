"""Small tables cached in the process."""

import pytest
from django.core.cache import cache
from redis.exceptions import ConnectionError as RedisAway

from core import caching
from core.caching import CachedTable

pytestmark = pytest.mark.django_db(transaction=True)  # an edit is told when it is committed


class Loads:
    """What the database would give: how often it was asked."""

    def __init__(self):
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        return self.count


@pytest.fixture
def table(request):
    return CachedTable(request.node.name, Loads())


@pytest.fixture
def looked_at_always(monkeypatch):
    monkeypatch.setattr(caching, "RECHECK_SECONDS", 0)


def test_what_is_kept_is_loaded_once(table):
    assert [table.get(), table.get(), table.get()] == [1, 1, 1]


def test_what_is_kept_is_loaded_once_however_often_redis_is_asked(table, looked_at_always):
    assert [table.get(), table.get(), table.get()] == [1, 1, 1]


def test_what_changed_here_is_loaded_again_at_once(table):
    table.get()
    table.changed()
    assert [table.get(), table.get()] == [2, 2]


def test_what_changed_in_another_process_is_loaded_again(table, looked_at_always):
    elsewhere = CachedTable(table._key.removeprefix("kept:"), Loads())
    table.get()
    elsewhere.changed()
    assert [table.get(), table.get()] == [2, 2]


def test_redis_is_asked_once_a_second_at_most(table, monkeypatch):
    table.get()
    monkeypatch.setattr(cache, "get", lambda *_args, **_kwargs: pytest.fail("Redis was asked."))
    assert table.get() == 1


def test_without_redis_what_is_kept_stays(table, looked_at_always, monkeypatch):
    table.get()

    def away(*_args, **_kwargs):
        raise RedisAway

    monkeypatch.setattr(cache, "get", away)
    monkeypatch.setattr(cache, "set", away)
    assert table.get() == 1
    table.changed()
    assert table.get() == 2


def test_an_edit_made_without_redis_is_told_when_it_is_back(table, looked_at_always, monkeypatch):
    def away(*_args, **_kwargs):
        raise RedisAway

    before = cache.get(table._key)
    with monkeypatch.context() as without:
        without.setattr(cache, "set", away)
        table.changed()
    assert cache.get(table._key) == before
    table.get()
    assert cache.get(table._key) != before
