"""The two databases, whatever they are: read at one moment, and written."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Protocol

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, connections

from config.backups import mongodb, postgresql, sqlite
from config.backups.digests import Digest
from config.backups.errors import BackupError
from config.backups.manifest import Database, Table
from config.database_routers import HISTORY

ALIASES = (DEFAULT_DB_ALIAS, HISTORY)
"""Money first: of a turn that is asked meanwhile there may be the text without the bill, never the bill alone."""
PART_BYTES = 1_048_576
VENDORS: dict[str, ModuleType] = {"mongodb": mongodb, "postgresql": postgresql, "sqlite": sqlite}
ELSEWHERE = "django_migrations"
"""A restore migrates, which writes it."""


class StoreSnapshot(Protocol):
    vendor: str

    def migrations(self) -> list[tuple[str, str]]: ...
    def tables(self) -> list[Table]: ...
    def sequences(self) -> dict[str, int]: ...
    def rows(self, table: Table) -> Iterator[bytes]: ...


class StoreTarget(Protocol):
    def empty(self, tables: Iterable[Table]) -> None: ...
    def load(self, table: Table, parts: Iterable[bytes]) -> None: ...
    def set_sequences(self, last: dict[str, int]) -> None: ...


def snapshot(alias: str) -> AbstractContextManager[StoreSnapshot]:
    found: AbstractContextManager[StoreSnapshot] = _module(vendor_of(alias)).snapshot(alias)
    return found


def loading(alias: str) -> AbstractContextManager[StoreTarget]:
    found: AbstractContextManager[StoreTarget] = _module(vendor_of(alias)).loading(alias)
    return found


def vendor_of(alias: str) -> str:
    return connections[alias].vendor


def split_part(vendor: str, part: bytes) -> Iterator[bytes]:
    """Give the rows of a part of a table."""
    rows: Iterator[bytes] = _module(vendor).split_part(part)
    return rows


def describe_database(found: StoreSnapshot) -> Database:
    return Database(found.vendor, found.migrations(), list_tables(found), found.sequences())


def list_tables(found: StoreSnapshot) -> list[Table]:
    """Return the tables of this site's apps, in the order in which they are read; others may be beside them."""
    ours = ("django_", *(f"{app.label}_" for app in apps.get_app_configs()))
    return [table for table in found.tables() if table.name.startswith(ours) and table.name != ELSEWHERE]


def parts_of(rows: Iterator[bytes], digest: Digest) -> Iterator[bytes]:
    """Give the rows in parts of about PART_BYTES, and count them."""
    part = bytearray()
    for row in rows:
        digest.add(row)
        part += row
        if len(part) >= PART_BYTES:
            yield bytes(part)
            part.clear()
    if part:
        yield bytes(part)


def _module(vendor: str) -> ModuleType:
    if vendor not in VENDORS:
        raise BackupError(f"There is no backup of a database of the kind {vendor}.")
    return VENDORS[vendor]
