"""A pool of PostgreSQL connections in which whoever needs a connection makes it, and gets the error if that fails.

psycopg's own pool hands out connections that were cut, connects in threads of its own with growing pauses, and tells
those who wait nothing but that they waited too long.
"""

import logging
import select
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from threading import BoundedSemaphore
from time import monotonic
from typing import Any

import psycopg
from psycopg import errors, generators
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ExecStatus, TransactionStatus

from core.gate import Gate

logger = logging.getLogger(__name__)

CHECKOUT_SECONDS = 5.0  # how long a thread waits when every connection is in use
IDLE_SECONDS = 600.0  # a connection nobody needed for so long is closed
STATEMENT_SECONDS = 15.0  # the longest a statement may take, from here: a server that is frozen stops nothing itself
CANCEL_SECONDS = 1.0


MAX_STATEMENTS = 1_000
"""Texts of statements that are kept as the server takes them."""


class StatementTimeout(psycopg.OperationalError):
    """A statement was not answered in time. Nobody knows what became of it; the connection is closed."""


class StatementAnswer:
    """What a statement returned, and how many rows it read or changed."""

    __slots__ = ("_rows", "rowcount")

    def __init__(self, rows: list[tuple[Any, ...]], rowcount: int) -> None:
        self._rows = rows
        self.rowcount = rowcount

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._rows


class PooledConnection(psycopg.Connection[Any]):
    """A connection on which no statement takes longer than `statement_seconds`; None: for ever, as migrations may."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.statement_seconds: float | None = STATEMENT_SECONDS
        self._poll: select.poll | None = None
        self._transformer: Any = None  # psycopg's own type is that of its protocol

    def run(self, statement: str, parameters: Sequence[Any]) -> StatementAnswer:
        """Run one statement with "%s" for each parameter and return its answer. Raises what `execute` does.

        A cursor takes twice the processor for it, and Django's, which writes the parameters into the text, three times.
        Nothing is prepared: the server parses the text each time, so that a PgBouncer may stand between. To be bound, a
        parameter must stand where its type is plain, beside a column.
        """
        transformer = self._transformer
        if transformer is None:
            transformer = self._transformer = Transformer(self)
        values = transformer.dump_sequence(parameters, (PyFormat.AUTO,) * len(parameters))
        with self.lock:
            if not self._autocommit and self.pgconn.transaction_status == TransactionStatus.IDLE:
                self.wait(self._start_query())
            self._check_connection_ok()
            self.pgconn.send_query_params(_numbered(statement), values, transformer.types, transformer.formats)
            results = self.wait(generators.execute(self.pgconn))
            result = results[-1]
            if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
                raise errors.error_from_result(result, encoding=self.pgconn._encoding)
            transformer.set_pgresult(result)
            rows = transformer.load_rows(0, result.ntuples, tuple)
            transformer.set_pgresult(None)
        return StatementAnswer(rows, result.command_tuples or 0)

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        limit = self.statement_seconds if timeout is None else timeout
        begun = monotonic()
        try:
            return super().wait(gen, interval, limit)
        except psycopg.OperationalError as error:
            if timeout is not None or limit is None or error.sqlstate or monotonic() - begun < limit:
                raise
            with suppress(psycopg.Error):
                self.cancel_safe(timeout=CANCEL_SECONDS)
            self.close()
            raise StatementTimeout(f"No answer after {limit:g} s.") from error

    def is_cut(self) -> bool:
        """Return whether the server has closed this connection or said good-bye, without asking it: between two
        statements it has nothing else to say."""
        if self.closed:
            return True
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.pgconn.socket, select.POLLIN)
        return bool(self._poll.poll(0))


class Pool:
    """At most `size` connections, each made by `connect` when it is needed."""

    def __init__(self, connect: Callable[[], PooledConnection], size: int) -> None:
        self._connect = connect
        self._idle: deque[tuple[PooledConnection, float]] = deque()  # the one used last is used next
        self._free, self._size = BoundedSemaphore(size), size
        self._gate = Gate()

    def getconn(self) -> PooledConnection:
        """Return a connection that is alive. Raises psycopg.OperationalError."""
        if not self._free.acquire(timeout=CHECKOUT_SECONDS):
            raise psycopg.OperationalError(f"Every connection was in use for {CHECKOUT_SECONDS:g} s.")
        try:
            connection = self._find_idle() or self._make()
        except BaseException:
            self._free.release()
            raise
        pooled: Any = connection
        pooled._pool = self  # where Django's backend looks when it is returned
        return connection

    def putconn(self, connection: PooledConnection) -> None:
        """Take a connection back; one that is not at rest is closed."""
        connection._pool = None
        try:
            if connection.pgconn.transaction_status == TransactionStatus.IDLE:
                self._idle.append((connection, monotonic()))
            else:
                connection.close()
        finally:
            self._free.release()
        self._close_unused()

    def use(self) -> tuple[int, int]:
        """Return how many connections are in use, and how many may be."""
        return self._size - self._free._value, self._size

    def open(self) -> None:
        """Nothing: Django's backend calls it before every `getconn`."""

    def close(self) -> None:
        """Close the connections nobody uses."""
        with suppress(IndexError):
            while True:
                self._idle.popleft()[0].close()

    def _find_idle(self) -> PooledConnection | None:
        with suppress(IndexError):  # another thread may take the last one
            while True:
                connection, _since = self._idle.pop()
                if not connection.is_cut():
                    return connection
                connection.close()
        return None

    def _make(self) -> PooledConnection:
        if self._gate.refuses():
            raise psycopg.OperationalError("The database did not answer a moment ago.")
        begun = monotonic()
        try:
            connection = self._connect()
        except psycopg.Error as error:
            self._gate.fail(begun)
            logger.warning("Database unreachable", extra={"error": type(error).__name__})
            raise
        self._gate.open()
        return connection

    def _close_unused(self) -> None:
        with suppress(IndexError):
            if monotonic() - self._idle[0][1] > IDLE_SECONDS:
                self._idle.popleft()[0].close()


@lru_cache(MAX_STATEMENTS)
def _numbered(statement: str) -> bytes:
    """Return the statement as the server takes it, with $1, $2 … for "%s"."""
    first, *others = statement.split("%s")
    return "".join([first, *(f"${number}{part}" for number, part in enumerate(others, 1))]).encode()
