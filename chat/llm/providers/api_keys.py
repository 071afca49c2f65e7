"""The API keys of the providers: several each, and new ones without a restart.

`OPENAI_API_KEY=k1,k2` in `.env` is read again when that file changes; so is the file that `OPENAI_API_KEY_FILE`
names, such as a mounted secret with a key a line. A variable of the real environment comes before `.env`, as for
every other setting; it cannot change while a process runs.
"""

import logging
import re
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import environ
from django.conf import settings

logger = logging.getLogger(__name__)

CHECK_INTERVAL_SECONDS = 1.0


class _WatchedFile:
    """The text of a file, read again when the file has changed, which is checked once a second."""

    _by_path: ClassVar[dict[Path, "_WatchedFile"]] = {}

    def __init__(self, path: Path) -> None:
        self._path = path
        self._checked_at = float("-inf")
        self._stamp: tuple[int, int, int] | None = None
        self.text: str | None = None  # None: it has never existed
        self.changed_ns = 0

    @classmethod
    def at(cls, path: Path) -> "_WatchedFile":
        watched = cls._by_path.get(path) or cls._by_path.setdefault(path, cls(path))
        watched.check()
        return watched

    def check(self) -> None:
        now = time.monotonic()
        if now - self._checked_at < CHECK_INTERVAL_SECONDS:
            return
        self._checked_at = now
        try:
            state = self._path.stat()
            stamp = (state.st_mtime_ns, state.st_size, state.st_ino)
            if stamp != self._stamp:
                self.text = self._path.read_text(encoding="utf-8")
                self._stamp, self.changed_ns = stamp, state.st_mtime_ns
        except (OSError, UnicodeDecodeError) as error:  # it may be half replaced: the last keys still hold
            if self._stamp is not None:
                logger.warning("Keys unreadable", extra={"file": str(self._path), "error": type(error).__name__})
            self._stamp = None


def api_keys_of(name: str) -> tuple[str, ...]:
    """Return the API keys that the setting `name` has now, in the operator's order, without duplicates."""
    if path := getattr(settings, f"{name}_FILE"):
        return _split(_WatchedFile.at(Path(path)).text or "")
    if name in settings.KEYS_IN_DOTENV:
        dotenv = _WatchedFile.at(settings.DOTENV)
        if dotenv.text is not None and dotenv.changed_ns != settings.DOTENV_CHANGED_NS:
            return _split(_parse_dotenv(dotenv.text).get(name, ""))
    return _split(getattr(settings, name))


@lru_cache(64)
def _split(keys: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for part in re.split(r"[,\n]", keys) if (key := part.strip())))


@lru_cache(1)
def _parse_dotenv(text: str) -> dict[str, str]:
    """Return the variables of `.env`, parsed as the settings parse it."""
    parser: Any = type("Parser", (environ.Env,), {"ENVIRON": {}})
    parser.read_env(_OpenFile(text))
    return dict(parser.ENVIRON)


class _OpenFile:
    """What django-environ takes for an open file."""

    def __init__(self, text: str) -> None:
        self.read = lambda: text
