"""SQLite as it is read for a backup and written by a restore: each row as a list in MessagePack, after its length."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import msgspec
from django.db import connections, transaction

from config.backups.manifest import Table

LENGTH_BYTES = 4


class SqliteSnapshot:
    """All tables as they were at one moment."""

    vendor = "sqlite"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def migrations(self) -> list[tuple[str, str]]:
        return self._connection.execute("SELECT app, name FROM django_migrations ORDER BY 1, 2").fetchall()

    def tables(self) -> list[Table]:
        found = self._connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY 1"
        ).fetchall()
        return [Table(name, self._columns(name)) for (name,) in found]

    def sequences(self) -> dict[str, int]:
        return dict(self._connection.execute("SELECT name, seq FROM sqlite_sequence"))

    def rows(self, table: Table) -> Iterator[bytes]:
        encoder = msgspec.msgpack.Encoder()
        for row in self._connection.execute(f"SELECT {_columns(table)} FROM {_quoted(table.name)}"):  # noqa: S608
            data = encoder.encode(row)
            yield len(data).to_bytes(LENGTH_BYTES) + data

    def _columns(self, table: str) -> list[str]:
        return [column[1] for column in self._connection.execute(f"PRAGMA table_info({_quoted(table)})")]


class SqliteTarget:
    """Where rows are written, within one transaction."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def empty(self, tables: Iterable[Table]) -> None:
        for table in tables:
            self._cursor.execute(f"DELETE FROM {_quoted(table.name)}")  # noqa: S608

    def load(self, table: Table, parts: Iterable[bytes]) -> None:
        places = ", ".join(["%s"] * len(table.columns))
        statement = f"INSERT INTO {_quoted(table.name)} ({_columns(table)}) VALUES ({places})"  # noqa: S608
        decoder = msgspec.msgpack.Decoder(list[Any])
        for part in parts:
            self._cursor.executemany(statement, [decoder.decode(row[LENGTH_BYTES:]) for row in split_part(part)])

    def set_sequences(self, last: dict[str, int]) -> None:
        self._cursor.execute("DELETE FROM sqlite_sequence")
        self._cursor.executemany("INSERT INTO sqlite_sequence (name, seq) VALUES (%s, %s)", list(last.items()))


@contextmanager
def snapshot(alias: str) -> Iterator[SqliteSnapshot]:
    """Read everything as it is now, for as long as this takes: with a write-ahead log writers are not kept waiting."""
    name = connections[alias].settings_dict["NAME"]
    with closing(sqlite3.connect(f"file:{name}?mode=ro", uri=True, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # fixes what it sees
        yield SqliteSnapshot(connection)


@contextmanager
def loading(alias: str) -> Iterator[SqliteTarget]:
    """Write in one transaction; foreign keys are checked at its end."""
    connection = connections[alias]
    with connection.constraint_checks_disabled(), transaction.atomic(using=alias), connection.cursor() as cursor:
        yield SqliteTarget(cursor)
        connection.check_constraints()


def split_part(part: bytes) -> Iterator[bytes]:
    """Give the rows of a part."""
    begin = 0
    while begin < len(part):
        end = begin + LENGTH_BYTES + int.from_bytes(part[begin : begin + LENGTH_BYTES])
        yield part[begin:end]
        begin = end


def _columns(table: Table) -> str:
    return ", ".join(map(_quoted, table.columns))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
