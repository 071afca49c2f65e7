"""MongoDB's backend for Django, for servers that are away: what pymongo raises then is Django's OperationalError, as it
is with every other database, and only one caller a second waits for it."""

import inspect
from collections.abc import Callable
from functools import partial
from threading import Lock
from time import monotonic
from typing import Any, ClassVar, TypeVar

from django.db import OperationalError
from django_mongodb_backend import base
from pymongo.command_cursor import CommandCursor
from pymongo.errors import ConnectionFailure, WaitQueueTimeoutError
from pymongo.monitoring import ConnectionPoolListener

from core.gate import Gate
from core.metrics import watch_pool
from core.mongodb.schema import RepeatableSchemaEditor

T = TypeVar("T")


class DatabaseWrapper(base.DatabaseWrapper):
    SchemaEditorClass = RepeatableSchemaEditor
    _gates: ClassVar[dict[str, Gate]] = {}  # one for each database, for the life of the process
    _making_client = Lock()

    def check_database_version_supported(self) -> None:
        run_guarded(self._gate, super().check_database_version_supported)  # the first question to the server

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        with self._making_client:  # else threads that begin together make a client each, with threads of its own
            if self.alias not in self._connection_pools:
                use = PoolListener()
                conn_params = {**conn_params, "event_listeners": [use]}
                watch_pool(self.alias, use.read)
            return super().get_new_connection(conn_params)

    def get_collection(self, name: str, **options: Any) -> "Guarded":
        return Guarded(super().get_collection(name, **options), self._gate)

    @property
    def _gate(self) -> Gate:
        return self._gates.get(self.alias) or self._gates.setdefault(self.alias, Gate())


class PoolListener(ConnectionPoolListener):
    """Counts the connections that are in use, which pymongo tells nobody in another way."""

    def __init__(self) -> None:
        self._in_use, self._size = 0, 0

    def read(self) -> tuple[int, int]:
        return self._in_use, self._size

    def pool_created(self, event: Any) -> None:
        self._size = event.options.get("maxPoolSize", 100)

    def connection_checked_out(self, event: Any) -> None:
        self._in_use += 1

    def connection_checked_in(self, event: Any) -> None:
        self._in_use -= 1

    def _ignore(self, event: Any) -> None:
        """Of no interest."""

    pool_ready = pool_cleared = pool_closed = connection_created = connection_ready = connection_closed = _ignore
    connection_check_out_started = connection_check_out_failed = _ignore


class Guarded:
    """A collection or a cursor of pymongo whose methods raise OperationalError when no server answers. It stands in for
    the whole of either, since Django's compiler calls many of their methods."""

    def __init__(self, guarded: Any, gate: Gate) -> None:
        self._guarded, self._gate = guarded, gate

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._guarded, name)
        return partial(self._call, attribute) if inspect.ismethod(attribute) else attribute

    def __iter__(self) -> "Guarded":
        return self

    def __next__(self) -> Any:
        return self._call(self._guarded.next)

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = run_guarded(self._gate, method, *args, **kwargs)
        return Guarded(result, self._gate) if isinstance(result, CommandCursor) else result


def run_guarded(gate: Gate, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Return what `function` returns. Raises OperationalError where no server answers."""
    if gate.refuses():
        raise OperationalError("MongoDB did not answer a moment ago.")
    begun = monotonic()
    try:
        result = function(*args, **kwargs)
    except ConnectionFailure as error:
        if not isinstance(error, WaitQueueTimeoutError):  # which means that every connection is in use
            gate.fail(begun)
        raise OperationalError(f"MongoDB does not answer: {type(error).__name__}.") from error
    gate.open()
    return result
