"""Scripts that Redis runs in one step, each a `.lua` file beside the module that calls it.

A file begins by naming what it is given, which is what its caller passes by those names:

    local lease, log = KEYS[1], KEYS[2]
    local holder, lease_ms = ARGV[1], ARGV[2]

A long list of names may continue on the next line.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

from redis import Redis as SyncRedis
from redis.asyncio import Redis

Value: TypeAlias = str | bytes | int | float

_NAMES = re.compile(r"^local (\w[\w,\s]*?)\s=\s+((?:KEYS|ARGV)\[1\](?:,\s+\w+\[\d+\])*)$", re.MULTILINE)


class LuaScript:
    """One script. Names that are left out must be the last ones: the script sees nil for them."""

    def __init__(self, path: Path) -> None:
        self.source = path.read_text(encoding="utf-8")
        self.keys: tuple[str, ...] = ()
        self.arguments: tuple[str, ...] = ()
        for names, values in _NAMES.findall(self.source):
            table = values[:4]
            given = tuple(re.split(r",\s+", names))
            values = re.sub(r"\s+", " ", values)
            assert values == ", ".join(f"{table}[{at}]" for at in range(1, len(given) + 1)), f"{path}: {values}"
            if table == "KEYS":
                self.keys = given
            else:
                self.arguments = given
        self._registered: dict[type, Any] = {}  # redis-py's script for each class of client: it has the source's digest

    def __call__(self, redis: "SyncRedis | Redis", *more: Value, **named: Value) -> Any:
        """Run the script; `more` come after the named arguments. Awaitable with an asynchronous client."""
        keys, arguments = self._take(self.keys, named), self._take(self.arguments, named)
        assert not named, f"not of this script: {', '.join(named)}"
        assert not more or len(arguments) == len(self.arguments)
        script = self._registered.get(type(redis)) or self._register(redis)
        return script(keys, [*arguments, *more], redis)

    def _register(self, redis: "SyncRedis | Redis") -> Any:
        script: Any = redis.register_script(self.source)
        self._registered[type(redis)] = script
        script.registered_client = None  # every call names its own client: the first one may be closed by then
        return script

    def _take(self, names: Iterable[str], named: dict[str, Value]) -> list[Any]:
        """Return the values of `names` in order, and take them out of `named`."""
        taken: list[Any] = []
        left_out = ""
        for name in names:
            if name in named:
                assert not left_out, f"{left_out} is left out, but {name} comes after it"
                taken.append(named.pop(name))
            else:
                left_out = left_out or name
        return taken
