"""Django's PostgreSQL backend, for servers that restart, fall silent, or stand behind PgBouncer.

A connection that was cut is noticed before it is used, at the price of one system call. A statement whose connection is
cut while it runs is repeated where nothing can have been written. `OPTIONS["schema"]` names the schema of a database
whose tables are not in `public`: their names are written with it, since PgBouncer takes no `search_path`.
"""

import datetime as dt
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, ClassVar, TypeVar

import psycopg
from django.apps import apps
from django.db import OperationalError, router
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.postgresql import base, introspection, operations, schema
from django.db.backends.postgresql.psycopg_any import BaseTzLoader
from django.db.backends.utils import CursorWrapper
from django.db.migrations.recorder import MigrationRecorder
from psycopg.pq import TransactionStatus

from core.metrics import watch_pool
from core.postgresql.pool import Pool, PooledConnection, StatementAnswer, StatementTimeout

T = TypeVar("T")

GOOD_BYES = ("57P01", "57P02", "57P03")
"""What a server says before it cuts: it is told to, another process crashed, it is starting."""


class DatabaseOperations(operations.DatabaseOperations):
    def quote_name(self, name: str) -> str:
        quoted: str = super().quote_name(name)
        schema_name = self.connection.settings_dict["OPTIONS"].get("schema")
        if schema_name and name in _tables_of(self.connection.alias):
            return f'"{schema_name}".{quoted}'
        return quoted


class DatabaseIntrospection(introspection.DatabaseIntrospection):
    def get_table_list(self, cursor: Any) -> list[Any]:
        schema_name = self.connection.settings_dict["OPTIONS"].get("schema")
        if not schema_name:
            return super().get_table_list(cursor)
        cursor.execute("SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = %s", [schema_name])
        return [introspection.TableInfo(name, "t", None) for (name,) in cursor.fetchall()]


class DatabaseSchemaEditor(schema.DatabaseSchemaEditor):
    def __enter__(self) -> "DatabaseSchemaEditor":
        super().__enter__()
        schema_name = self.connection.settings_dict["OPTIONS"].get("schema")
        if schema_name and self.atomic_migration and not self.collect_sql:
            # For the names of indexes and of tables that are no more. It ends with the transaction.
            self.execute(f'SET LOCAL search_path TO "{schema_name}"', None)
        return self


class RepeatingCursor(CursorWrapper):
    """Django's cursor, whose statements are repeated where they may be."""

    def _execute(self, sql: Any, params: Any, *context: Any) -> Any:
        def execute() -> Any:
            return super(RepeatingCursor, self)._execute(sql, params, *context)  # type: ignore[misc]

        def renew() -> None:
            self.cursor = self.db.create_cursor()

        return self.db.repeat_if_cut(sql, execute, renew)


class DatabaseWrapper(base.DatabaseWrapper):
    ops_class = DatabaseOperations
    introspection_class = DatabaseIntrospection
    SchemaEditorClass = DatabaseSchemaEditor
    _pools: ClassVar[dict[str, Pool]] = {}  # one for each database, for the life of the process

    @property
    def pool(self) -> Pool | None:
        """The pool in place of psycopg's. Django's backend opens it, takes connections from it and gives them back."""
        if self.alias == NO_DB_ALIAS:
            return None
        if self.alias not in self._pools:
            size = self.settings_dict["OPTIONS"]["pool"]["max_size"]
            pool = self._pools.setdefault(self.alias, Pool(self._make_connection, size))
            watch_pool(self.alias, pool.use)
        return self._pools[self.alias]

    def close_pool(self) -> None:
        if pool := self._pools.pop(self.alias, None):
            pool.close()

    def get_connection_params(self) -> dict[str, Any]:
        params: dict[str, Any] = super().get_connection_params()
        params.pop("schema", None)
        return params

    def ensure_connection(self) -> None:
        """Django calls this before a statement and before a transaction."""
        if isinstance(self.connection, PooledConnection) and not self.in_atomic_block and self.connection.is_cut():
            self.close()
        super().ensure_connection()

    def close_if_unusable_or_obsolete(self) -> None:
        """Give the connection back, to a pool that judges it by itself. Django's way asks the connection first, and so
        replaces one that was cut, or fails where the work is already done."""
        self.close()

    def make_cursor(self, cursor: Any) -> CursorWrapper:
        return RepeatingCursor(cursor, self)

    def execute_directly(self, statement: str, parameters: Sequence[Any]) -> StatementAnswer:
        """Run a statement on this thread's connection, past every cursor; errors are Django's. For core/rows.py."""
        connection: PooledConnection = self.connection
        is_at_rest = connection.pgconn.transaction_status == TransactionStatus.IDLE
        try:
            return connection.run(statement, parameters)
        except psycopg.Error:  # only now: entering `wrap_database_errors` costs something each time
            try:
                with self.wrap_database_errors:
                    raise
            except OperationalError as error:
                if not self._may_repeat(statement, is_at_rest) or not self._was_cut(error):
                    raise
        self._renew_connection()
        with self.wrap_database_errors:
            return self.connection.run(statement, parameters)  # type: ignore[no-any-return]

    def repeat_if_cut(self, sql: Any, execute: Callable[[], T], renew: Callable[[], None]) -> T:
        """Run `execute`; if its connection is cut and nothing can have been written, run it once more on another one,
        after `renew`."""
        if self.pool is None:
            return execute()
        is_at_rest = self.connection.pgconn.transaction_status == TransactionStatus.IDLE
        try:
            return execute()
        except OperationalError as error:
            if not self._may_repeat(sql, is_at_rest) or not self._was_cut(error):
                raise
        self._renew_connection()
        renew()
        return execute()

    def _may_repeat(self, sql: Any, is_at_rest: bool) -> bool:
        """Return whether a statement that began in that state has written nothing, whatever became of it: nothing is
        written by a SELECT, nor by the first statement of a transaction before its COMMIT."""
        return is_at_rest and (self.in_atomic_block or (isinstance(sql, str) and sql.startswith("SELECT")))

    def _was_cut(self, error: OperationalError) -> bool:
        cause = error.__cause__
        if not isinstance(cause, psycopg.Error) or isinstance(cause, StatementTimeout):
            return False
        return cause.sqlstate in GOOD_BYES or self.connection.closed

    def _renew_connection(self) -> None:
        """Take another connection, within the same transaction of Django's if there is one."""
        cut, self.connection = self.connection, None
        cut._pool.putconn(cut)
        try:
            with self.wrap_database_errors:
                self.connection = self.get_new_connection(None)
                self.connection.autocommit = self.autocommit
        except OperationalError:
            self.closed_in_transaction = self.needs_rollback = self.in_atomic_block  # as after `close`
            raise

    def _make_connection(self) -> PooledConnection:
        connection = PooledConnection.connect(**self.get_connection_params() | {"autocommit": True})
        self._configure_connection(connection)  # type: ignore[attr-defined]  # the stubs lack it
        if self.timezone is dt.UTC:
            connection.adapters.register_loader("timestamptz", UtcLoader)
        return connection


class UtcLoader(BaseTzLoader):  # type: ignore[misc]  # the stubs lack it
    """Reads a moment as Django's loader does, in a tenth of the time: Python knows the form in which it comes."""

    timezone = dt.UTC

    def load(self, data: Any) -> dt.datetime:
        with suppress(ValueError):  # such as a year before Christ
            return dt.datetime.fromisoformat(str(data, "ascii"))
        return super().load(data)  # type: ignore[no-any-return]


@cache
def _tables_of(alias: str) -> frozenset[str]:
    """Return the names of the tables in this database."""
    models = apps.get_models(include_auto_created=True)
    names = {model._meta.db_table for model in models if router.allow_migrate_model(alias, model)}
    return frozenset({*names, MigrationRecorder.Migration._meta.db_table})
