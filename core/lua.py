"""Scripts that Redis runs in one step, each a `.lua` file beside the module that calls it.

A file begins by naming what it is given, which is what its caller passes by those names:

    local lease, log = KEYS[1], KEYS[2]
    local holder, lease_ms = ARGV[1], ARGV[2]

A long list of names may continue on the next line.
"""

import re
from collections.abc import Callable, Sequence
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
        keys, arguments = self._arrange(named)
        assert not more or len(arguments) == len(self.arguments)
        script = self._registered.get(type(redis)) or self._register(redis)
        return script(keys, [*arguments, *more], redis)

    def _register(self, redis: "SyncRedis | Redis") -> Any:
        script: Any = redis.register_script(self.source)
        self._registered[type(redis)] = script
        script.registered_client = None  # every call names its own client: the first one may be closed by then
        return script

    def bind(self, redis: "SyncRedis | Redis", **named: Value) -> Callable[[Sequence[Value]], Any]:
        """Return the script registered once, with its keys and its first arguments: for one that is called very often.

        A call passes the remaining arguments in their order, without names.
        """
        keys, arguments = self._arrange(named)
        run = redis.register_script(self.source)
        return lambda more: run(keys, [*arguments, *more])

    def _arrange(self, named: dict[str, Value]) -> tuple[list[Any], list[Any]]:
        """Return keys and arguments in the order of the script."""
        keys, arguments = _in_order(self.keys, named), _in_order(self.arguments, named)
        if len(keys) + len(arguments) < len(named):
            unknown = named.keys() - {*self.keys, *self.arguments}
            raise AssertionError(f"not of this script: {', '.join(unknown)}")
        return keys, arguments


def _in_order(names: Sequence[str], named: dict[str, Value]) -> list[Any]:
    """Return the values of `names` without those at the end that are left out."""
    values = [named.get(name) for name in names]
    while values and values[-1] is None:
        values.pop()
    assert None not in values, f"left out, but a name after it is not: {names[values.index(None)]}"
    return values
