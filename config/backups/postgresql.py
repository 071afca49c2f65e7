"""PostgreSQL as it is read for a backup and written by a restore: COPY, in its text format, a row a line."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connections
from psycopg import sql

from config.backups.manifest import Table

Connection = psycopg.Connection[Any]

# So that a value is always written in the same way, and no limit ends what takes long.
SESSION = (
    "SET LOCAL DateStyle = 'ISO, YMD'",
    "SET LOCAL IntervalStyle = 'postgres'",
    "SET LOCAL TimeZone = 'UTC'",
    "SET LOCAL extra_float_digits = 1",
    "SET LOCAL bytea_output = 'hex'",
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL idle_in_transaction_session_timeout = 0",
)
FOREIGN_KEYS = (
    "SELECT relname, conname, pg_get_constraintdef(pg_constraint.oid) FROM pg_constraint"
    " JOIN pg_class ON pg_class.oid = conrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace"
    " WHERE contype = 'f' AND nspname = %s"
)
SEQUENCES = (
    "SELECT table_name, pg_get_serial_sequence(format('%%I.%%I', table_schema, table_name), column_name)"
    " FROM information_schema.columns WHERE table_schema = %s AND is_identity = 'YES'"
)


class PostgresqlSnapshot:
    """All tables as they were at one moment."""

    vendor = "postgresql"

    def __init__(self, connection: Connection, schema: str) -> None:
        self._connection, self._schema = connection, schema

    def migrations(self) -> list[tuple[str, str]]:
        query = sql.SQL("SELECT app, name FROM {} ORDER BY 1, 2").format(self._name("django_migrations"))
        return self._connection.execute(query).fetchall()

    def tables(self) -> list[Table]:
        found = self._connection.execute(
            "SELECT table_name, array_agg(column_name::text ORDER BY ordinal_position) FROM information_schema.columns"
            " JOIN pg_catalog.pg_tables ON schemaname = table_schema AND tablename = table_name"
            " WHERE table_schema = %s AND is_generated = 'NEVER' GROUP BY 1 ORDER BY 1",
            [self._schema],
        )
        return [Table(*row) for row in found]

    def sequences(self) -> dict[str, int]:
        found = {}
        for table, sequence in self._connection.execute(SEQUENCES, [self._schema]).fetchall():
            query = sql.SQL("SELECT last_value FROM {} WHERE is_called").format(_qualified(sequence))
            for (last,) in self._connection.execute(query):
                found[table] = last
        return found

    def rows(self, table: Table) -> Iterator[bytes]:
        statement = sql.SQL("COPY {} ({}) TO STDOUT").format(self._name(table.name), _columns(table))
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            for row in copy:  # the server sends one at a time
                yield bytes(row)

    def _name(self, table: str) -> sql.Identifier:
        return sql.Identifier(self._schema, table)


class PostgresqlTarget:
    """Where rows are written, within one transaction."""

    def __init__(self, connection: Connection, schema: str) -> None:
        self._connection, self._schema = connection, schema

    def empty(self, tables: Iterable[Table]) -> None:
        names = sql.SQL(", ").join(self._name(table.name) for table in tables)
        self._connection.execute(sql.SQL("TRUNCATE {}").format(names))

    def load(self, table: Table, parts: Iterable[bytes]) -> None:
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(self._name(table.name), _columns(table))
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            for part in parts:
                copy.write(part)

    def set_sequences(self, last: dict[str, int]) -> None:
        for table, sequence in self._connection.execute(SEQUENCES, [self._schema]).fetchall():
            if table in last:
                self._connection.execute("SELECT setval(%s::regclass, %s)", [sequence, last[table]])

    def _name(self, table: str) -> sql.Identifier:
        return sql.Identifier(self._schema, table)


@contextmanager
def snapshot(alias: str) -> Iterator[PostgresqlSnapshot]:
    """Read everything as it is now, for as long as this takes: writers are not kept waiting."""
    with _connect(alias) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        with connection.transaction():
            yield PostgresqlSnapshot(connection, _begin(alias, connection))


@contextmanager
def loading(alias: str) -> Iterator[PostgresqlTarget]:
    """Write in one transaction.

    Foreign keys are taken away and made again at its end, each checked by one query: otherwise the server would
    remember a check for each row until then.
    """
    with _connect(alias) as connection, connection.transaction():
        schema = _begin(alias, connection)
        keys = [
            (sql.Identifier(schema, table), sql.Identifier(name), sql.SQL(definition))
            for table, name, definition in connection.execute(FOREIGN_KEYS, [schema])
        ]
        for table, name, _definition in keys:
            connection.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(table, name))
        yield PostgresqlTarget(connection, schema)
        for table, name, definition in keys:
            connection.execute(sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(table, name, definition))


def split_part(part: bytes) -> Iterator[bytes]:
    """Give the rows of a part: a line feed within a value is written in another way."""
    return (line + b"\n" for line in part.split(b"\n")[:-1])


@contextmanager
def _connect(alias: str) -> Iterator[Connection]:
    """A connection of its own: those of the pool end a statement after some seconds."""
    with psycopg.connect(**connections[alias].get_connection_params()) as connection:
        connection.autocommit = True
        yield connection


def _begin(alias: str, connection: Connection) -> str:
    """Prepare the transaction, which fixes what it sees; return the name of the schema."""
    for statement in SESSION:
        connection.execute(statement)
    named = connections[alias].settings_dict["OPTIONS"].get("schema")
    (current,) = connection.execute("SELECT current_schema()").fetchone() or ("public",)
    return str(named or current)


def _columns(table: Table) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, table.columns))


def _qualified(sequence: str) -> sql.SQL:
    """The name of a sequence, which the server has quoted already."""
    return sql.SQL(sequence)
