"""Sessions in the cache, which is Redis, that do not end because Redis is away. Where one ends, that is announced."""

from collections.abc import Sequence
from typing import Any

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends import cache
from django.contrib.sessions.backends.base import UpdateError
from django.core.cache import cache as store

from accounts.signals import access_revoked
from core.redis_clients import JsonSerializer, sync_redis

KEY_CHARACTERS = 32


class SessionStore(cache.SessionStore):
    def _validate_session_key(self, key: str | None) -> bool:
        """Return whether a key can be one of ours. Django's own would ask Redis for a cookie of any length."""
        return key is not None and len(key) == KEY_CHARACTERS and key.isascii() and key.isalnum()

    def load(self) -> dict[str, Any]:
        """Return what the session holds. Raises RedisError: Django's own takes any error for the end of the session,
        and has the browser's cookie deleted."""
        found: Any = self._cache.get(self.cache_key)  # type: ignore[attr-defined]  # the stubs lack it
        if isinstance(found, dict):
            return found
        self._session_key = None
        return {}

    def save(self, must_create: bool = False) -> None:
        """Keep what the session holds, if it has not ended. Django's own asks first and writes then: a request that
        ran beside a log-out would bring the session back."""
        if self.session_key is None or must_create:
            super().save(must_create)
            return
        data = JsonSerializer().dumps(self._get_session())  # type: ignore[attr-defined]  # the stubs lack it
        if not sync_redis().set(_key_of(self.session_key), data, ex=self.get_expiry_age(), xx=True):
            raise UpdateError

    def flush(self) -> None:
        """End the session, as every log-out does."""
        user_id = self.get(SESSION_KEY)
        super().flush()
        if user_id is not None:
            access_revoked.send_robust(type(self), user_id=int(user_id))


def find_ended(session_keys: Sequence[str]) -> set[str]:
    """Return which of these sessions are over. One round trip; raises RedisError."""
    pipeline = sync_redis().pipeline(transaction=False)
    for key in session_keys:
        pipeline.exists(_key_of(key))
    return {key for key, is_there in zip(session_keys, pipeline.execute(), strict=True) if not is_there}


def _key_of(session_key: str) -> str:
    return store.make_key(SessionStore.cache_key_prefix + session_key)
