"""The providers' keys: several each, and others tomorrow, without a restart.

`OPENAI_API_KEY=k1,k2` in `.env` is read again when that file changes, and so is the file `OPENAI_API_KEY_FILE` names: a
mounted secret, a key a line. A variable of the real environment wins over `.env`, as every other does; it cannot change
while a process runs.
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


class _Watched:
    """A file's text, read again when the file changed; looked at once a second."""

    every: ClassVar[dict[Path, "_Watched"]] = {}

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looked_at = float("-inf")
        self._stamp: tuple[int, int, int] | None = None
        self.text: str | None = None  # None: it was never there
        self.changed_ns = 0

    @classmethod
    def at(cls, path: Path) -> "_Watched":
        found = cls.every.get(path) or cls.every.setdefault(path, cls(path))
        found.look()
        return found

    def look(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < CHECK_INTERVAL_SECONDS:
            return
        self._looked_at = now
        try:
            state = self._path.stat()
            stamp = (state.st_mtime_ns, state.st_size, state.st_ino)
            if stamp != self._stamp:
                self.text = self._path.read_text(encoding="utf-8")
                self._stamp, self.changed_ns = stamp, state.st_mtime_ns
        except (OSError, UnicodeDecodeError) as error:  # while it is being replaced: the keys we know still hold
            if self._stamp is not None:
                logger.warning("Keys unreadable", extra={"file": str(self._path), "error": type(error).__name__})
            self._stamp = None


def api_keys_of(name: str) -> tuple[str, ...]:
    """Return the keys the setting `name` holds now, in the operator's order, each once."""
    if path := getattr(settings, f"{name}_FILE"):
        return _split(_Watched.at(Path(path)).text or "")
    if name in settings.KEYS_IN_DOTENV:
        found = _Watched.at(settings.DOTENV)
        if found.text is not None and found.changed_ns != settings.DOTENV_CHANGED_NS:
            return _split(_parse(found.text).get(name, ""))
    return _split(getattr(settings, name))


@lru_cache(64)
def _split(keys: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for part in re.split(r"[,\n]", keys) if (key := part.strip())))


@lru_cache(1)
def _parse(text: str) -> dict[str, str]:
    """Return what `.env` says, read as the settings read it."""
    parser: Any = type("Parser", (environ.Env,), {"ENVIRON": {}})
    parser.read_env(_Text(text))
    return dict(parser.ENVIRON)


class _Text:
    """What django-environ takes for an open file."""

    def __init__(self, text: str) -> None:
        self.read = lambda: text
