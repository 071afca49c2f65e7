"""Values a process loads once and keeps: a `CachedTable` until its rows change, a `CachedValue` for some seconds."""

import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from uuid import uuid4
from weakref import WeakSet

from django.core.cache import cache
from django.db import transaction
from django.db.models import Model
from django.db.models.signals import post_delete, post_save
from redis.exceptions import RedisError

T = TypeVar("T")

RECHECK_SECONDS = 1.0

_all: "WeakSet[CachedTable[Any] | CachedValue[Any]]" = WeakSet()


class CachedTable(Generic[T]):
    """The result of `load`, loaded again after a row of `models` changed: for small tables that only operators edit.

    This process sees its own edits at once, every other one within RECHECK_SECONDS: a version in Redis says that there
    was one. Edits that bypass `save()` and `delete()` call `changed()` themselves.
    """

    def __init__(self, name: str, load: Callable[[], T], *models: type[Model]) -> None:
        self._key, self._load = f"kept:{name}", load
        self._value: T | None = None
        self._version: str | None = None
        self._checked_at = 0.0
        self._is_unpublished = False
        for model in models:
            for signal in (post_save, post_delete):
                signal.connect(self.changed, sender=model, dispatch_uid=f"{self._key}:{model.__name__}")
        _all.add(self)

    def get(self) -> T:
        now, value = time.monotonic(), self._value  # another thread may forget it meanwhile
        if value is None or now - self._checked_at >= RECHECK_SECONDS:
            if self._is_unpublished:
                self._publish()
            version = self._read_version()
            if value is None or version != self._version:
                value = self._value = self._load()
            self._version, self._checked_at = version, now
        return value

    def changed(self, **_signal: Any) -> None:
        """Load again here, and in every other process once the edit is committed."""
        self.forget()
        transaction.on_commit(self._publish)  # before that, others would keep the old rows under the new version

    def forget(self) -> None:
        self._value = None

    def _publish(self) -> None:
        """Write a new version to Redis; while Redis is away, `get` tries again."""
        self.forget()
        try:
            cache.set(self._key, uuid4().hex, timeout=None)
            self._is_unpublished = False
        except RedisError:
            self._is_unpublished = True

    def _read_version(self) -> str | None:
        try:
            version: str | None = cache.get(self._key)
        except RedisError:
            return self._version
        return version


class CachedValue(Generic[T]):
    """The result of `load`, loaded again once it is older than `seconds`: for what changes without an edit of ours."""

    def __init__(self, load: Callable[[], T], *, seconds: float) -> None:
        self._load, self._seconds = load, seconds
        self._loaded: tuple[float, T] | None = None
        _all.add(self)

    def get(self) -> T:
        loaded, now = self._loaded, time.monotonic()  # another thread may forget it meanwhile
        if loaded is None or now - loaded[0] >= self._seconds:
            loaded = self._loaded = (now, self._load())
        return loaded[1]

    def forget(self) -> None:
        self._loaded = None


def forget_everything() -> None:
    """Forget what this process has cached, so that a test begins with nothing."""
    for cached in list(_all):
        cached.forget()
