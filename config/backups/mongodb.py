"""MongoDB as it is read for a backup and written by a restore: each document as the server has it, in BSON.

There is no snapshot of a collection that is as old as a backup may take, so each is read while people write. It is read
in the order of insertion, and those first whose documents name documents of the others: what a document names was
written before it, and so is read, too.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from django.apps import apps
from django.db import connections

from config.backups.manifest import Table

READ_AT_ONCE = 100
"""Documents; one may have some hundred KB of text."""
LENGTH_BYTES = 4


class MongodbSnapshot:
    vendor = "mongodb"

    def __init__(self, database: Any) -> None:
        self._database = database

    def migrations(self) -> list[tuple[str, str]]:
        found = self._database["django_migrations"].find({}, {"app": 1, "name": 1})
        return sorted((row["app"], row["name"]) for row in found)

    def tables(self) -> list[Table]:
        """What is named is defined before what names it."""
        models = apps.get_app_config("history").get_models()
        defined = [model._meta.db_table for model in models]
        others = sorted({*self._database.list_collection_names()} - {*defined})
        return [Table(name, []) for name in [*others, *reversed(defined)]]

    def sequences(self) -> dict[str, int]:
        return {}

    def rows(self, table: Table) -> Iterator[bytes]:
        cursor = _collection(self._database, table).find({}, hint=[("$natural", 1)], batch_size=READ_AT_ONCE)
        for document in cursor:
            yield document.raw


class MongodbTarget:
    def __init__(self, database: Any) -> None:
        self._database = database

    def empty(self, tables: Iterable[Table]) -> None:
        for table in tables:  # not dropped: that would take their indexes
            self._database[table.name].delete_many({})

    def load(self, table: Table, parts: Iterable[bytes]) -> None:
        for part in parts:
            documents = [RawBSONDocument(document) for document in split_part(part)]
            _collection(self._database, table).insert_many(documents, ordered=False)

    def set_sequences(self, last: dict[str, int]) -> None:
        """Nothing: every key is a UUID."""


@contextmanager
def snapshot(alias: str) -> Iterator[MongodbSnapshot]:
    yield MongodbSnapshot(_database(alias))


@contextmanager
def loading(alias: str) -> Iterator[MongodbTarget]:
    yield MongodbTarget(_database(alias))


def split_part(part: bytes) -> Iterator[bytes]:
    """Give the documents of a part: each begins with its own length."""
    begin = 0
    while begin < len(part):
        end = begin + int.from_bytes(part[begin : begin + LENGTH_BYTES], "little")
        yield part[begin:end]
        begin = end


def _database(alias: str) -> Any:
    connection: Any = connections[alias]
    connection.ensure_connection()
    return connection.database


def _collection(database: Any, table: Table) -> Any:
    return database[table.name].with_options(codec_options=CodecOptions(document_class=RawBSONDocument))
