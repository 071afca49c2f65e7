"""Small tables that every request reads and only an operator changes: kept in the process, dropped when edited."""

import time
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar
from uuid import uuid4

from django.core.cache import cache
from django.db import transaction
from django.db.models import Model
from django.db.models.signals import post_delete, post_save
from redis.exceptions import RedisError

T = TypeVar("T")

RECHECK_SECONDS = 1.0


class CachedTable(Generic[T]):
    """The result of `load`, loaded again after any row of `models` changed.

    This process sees its own edits at once, every other process within RECHECK_SECONDS: a version in Redis tells.
    Edits that bypass `save()` and `delete()` call `changed()` themselves.
    """

    every: ClassVar[list["CachedTable[Any] | CachedForSeconds[Any]"]] = []

    def __init__(self, name: str, load: Callable[[], T], *models: type[Model]) -> None:
        self._key, self._load = f"kept:{name}", load
        self._value: T | None = None
        self._version: str | None = None
        self._checked = 0.0
        self._is_unpublished = False
        for model in models:
            for signal in (post_save, post_delete):
                signal.connect(self.changed, sender=model, dispatch_uid=f"{self._key}:{model.__name__}")
        CachedTable.every.append(self)

    def get(self) -> T:
        now, value = time.monotonic(), self._value  # another thread may forget it meanwhile
        if value is None or now - self._checked >= RECHECK_SECONDS:
            if self._is_unpublished:
                self._publish()
            version = self._read_version()
            if value is None or version != self._version:
                value = self._value = self._load()
            self._version, self._checked = version, now
        return value

    def changed(self, **_signal: Any) -> None:
        self.forget()
        transaction.on_commit(self._publish)  # before that, others would keep the old rows under the new version

    def _publish(self) -> None:
        self.forget()
        try:
            cache.set(self._key, uuid4().hex, timeout=None)
            self._is_unpublished = False
        except RedisError:
            self._is_unpublished = True  # nobody else can be told until Redis is back

    def forget(self) -> None:
        self._value = None

    def _read_version(self) -> str | None:
        try:
            version: str | None = cache.get(self._key)
        except RedisError:
            return self._version
        return version


class CachedForSeconds(Generic[T]):
    """The result of `load`, loaded again when it is older than `seconds`: for what changes without anybody's telling."""

    def __init__(self, load: Callable[[], T], *, seconds: float) -> None:
        self._load, self._seconds = load, seconds
        self._found: tuple[float, T] | None = None
        CachedTable.every.append(self)

    def get(self) -> T:
        found, now = self._found, time.monotonic()
        if found is None or now - found[0] >= self._seconds:
            found = self._found = (now, self._load())
        return found[1]

    def forget(self) -> None:
        self._found = None
