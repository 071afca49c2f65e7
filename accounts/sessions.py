"""Sessions in the cache, which is Redis, that do not end because Redis is away."""

from typing import Any

from django.contrib.sessions.backends import cache


class SessionStore(cache.SessionStore):
    def load(self) -> dict[str, Any]:
        """Return what the session holds. Raises RedisError: Django's own takes any error for the end of the session,
        and has the browser's cookie deleted."""
        found: Any = self._cache.get(self.cache_key)  # type: ignore[attr-defined]  # the stubs lack it
        if isinstance(found, dict):
            return found
        self._session_key = None
        return {}
