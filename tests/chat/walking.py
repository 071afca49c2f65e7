"""Walks everything that is kept anywhere: every table of both databases, also those that no model knows, every key of
Redis, and every file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.files.storage import storages
from django.db import connections, models

from accounts.models import User
from core.redis_clients import sync_redis

OWNER_COLUMNS = ("owner_id", "user_id", "by_id", "staff_id")
DATABASE_FILE = ".sqlite3"
"""Somewhere in their names: those of workers, and of logs that SQLite keeps, end with more."""
"""Read as tables."""


def every_row() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row of each table or collection, with its place."""
    for alias in ("default", "history"):
        connection = connections[alias]
        if connection.vendor not in ("sqlite", "postgresql"):
            for name in connection.database.list_collection_names():
                for document in connection.database[name].find():
                    yield f"{alias}.{name}", dict(document)
            continue
        with connection.cursor() as cursor:
            for name in connection.introspection.table_names(cursor):
                cursor.execute(f"SELECT * FROM {connection.ops.quote_name(name)}")
                columns = [column[0] for column in cursor.description]
                for row in cursor.fetchall():
                    yield f"{alias}.{name}", dict(zip(columns, row, strict=True))


def every_key() -> Iterator[tuple[str, str]]:
    """Yield each key of Redis with its value."""
    redis = sync_redis()
    for key in redis.scan_iter():
        match redis.type(key):
            case b"string":
                value: Any = redis.get(key)
            case b"hash":
                value = redis.hgetall(key)
            case b"list":
                value = redis.lrange(key, 0, -1)
            case b"set":
                value = redis.smembers(key)
            case b"zset":
                value = redis.zrange(key, 0, -1, withscores=True)
            case b"stream":
                value = redis.xrange(key)
            case kind:
                raise AssertionError(f"{key!r} is a {kind!r}: nobody can look into it.")
        yield repr(key), repr(value)


def every_file() -> Iterator[tuple[str, bytes]]:
    """Yield each file under DATA_DIR and in the storages, but those of databases."""
    folders = {Path(settings.DATA_DIR), *(Path(storages[name].location) for name in ("attachments", "transfers"))}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and DATABASE_FILE not in path.name:
                yield str(path.relative_to(folder)), path.read_bytes()


def owner_columns() -> set[tuple[str, str]]:
    """Return the tables and columns in which the id of a user is, by what their models say: relations to the user, and
    numbers that are called an owner's."""
    found = set()
    for model in apps.get_models(include_auto_created=True):
        for field in model._meta.concrete_fields:
            is_relation = isinstance(field, models.ForeignKey) and field.related_model is User
            if is_relation or field.attname in OWNER_COLUMNS:
                found.add((model._meta.db_table, field.column))
    return found


def traces_of(user_id: int, *secrets: str) -> list[str]:
    """Return where the user's id is in an owner's column, or the key or name of something in Redis and in the storages;
    and where one of the secrets is, in anything."""
    owners, found = owner_columns(), []
    for place, row in every_row():
        table = place.partition(".")[2]
        for column, value in row.items():
            is_owners = (table, column) in owners or column in OWNER_COLUMNS
            if is_owners and str(value) == str(user_id):
                found.append(f"{place}.{column}: id")
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else repr(value)
            found += [f"{place}.{column}: {secret}" for secret in secrets if secret in text]
    for key, value in every_key():
        found += [f"{key}: {secret}" for secret in (str(user_id), *secrets) if secret in key + value]
    for name, data in every_file():
        found += [f"{name}: {one}" for one in (str(user_id), *secrets) if one in name or one.encode() in data]
    return found
