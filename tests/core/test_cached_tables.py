"""Small tables kept in the process."""

import pytest
from django.core.cache import cache
from redis.exceptions import ConnectionError as RedisAway

from core import cached_tables
from core.cached_tables import CachedTable

pytestmark = pytest.mark.django_db(transaction=True)  # an edit is told when it is committed


class Loads:
    """What the database would give: how often it was asked."""

    def __init__(self):
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        return self.count


@pytest.fixture
def kept(request):
    kept = CachedTable(request.node.name, Loads())
    yield kept
    CachedTable.every.remove(kept)


@pytest.fixture
def looked_at_always(monkeypatch):
    monkeypatch.setattr(cached_tables, "RECHECK_SECONDS", 0)


def test_what_is_kept_is_loaded_once(kept):
    assert [kept.get(), kept.get(), kept.get()] == [1, 1, 1]


def test_what_is_kept_is_loaded_once_however_often_redis_is_asked(kept, looked_at_always):
    assert [kept.get(), kept.get(), kept.get()] == [1, 1, 1]


def test_what_changed_here_is_loaded_again_at_once(kept):
    kept.get()
    kept.changed()
    assert [kept.get(), kept.get()] == [2, 2]


def test_what_changed_in_another_process_is_loaded_again(kept, looked_at_always):
    elsewhere = CachedTable(kept._key.removeprefix("kept:"), Loads())
    CachedTable.every.remove(elsewhere)
    kept.get()
    elsewhere.changed()
    assert [kept.get(), kept.get()] == [2, 2]


def test_redis_is_asked_once_a_second_at_most(kept, monkeypatch):
    kept.get()
    monkeypatch.setattr(cache, "get", lambda *_args, **_kwargs: pytest.fail("Redis was asked."))
    assert kept.get() == 1


def test_without_redis_what_is_kept_stays(kept, looked_at_always, monkeypatch):
    kept.get()

    def away(*_args, **_kwargs):
        raise RedisAway

    monkeypatch.setattr(cache, "get", away)
    monkeypatch.setattr(cache, "set", away)
    assert kept.get() == 1
    kept.changed()
    assert kept.get() == 2


def test_an_edit_made_without_redis_is_told_when_it_is_back(kept, looked_at_always, monkeypatch):
    def away(*_args, **_kwargs):
        raise RedisAway

    before = cache.get(kept._key)
    with monkeypatch.context() as without:
        without.setattr(cache, "set", away)
        kept.changed()
    assert cache.get(kept._key) == before
    kept.get()
    assert cache.get(kept._key) != before
