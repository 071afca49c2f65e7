"""Copies the whole history from one database to another, and compares the two.

Both are read in the order of their keys, which is the same on every store, and only what differs is written: a copy
that was broken off goes on where it was, and one that is made again brings what has changed since.
"""

import datetime as dt
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
from django.apps import apps
from django.db.models import Model

PAGE_SIZE = 200
"""Rows read at once. One may have some hundred KB of text."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy did with the rows of one model."""

    added: int = 0
    changed: int = 0
    removed: int = 0


@dataclass(frozen=True, slots=True)
class Contents:
    """How many rows a database has of one model, and a hash of every field of each, in hexadecimal."""

    count: int
    digest: str


def list_stored_models() -> list[type[Model]]:
    return list(apps.get_app_config("history").get_models())


def count_strangers(model: type[Model], source: str, target: str) -> int:
    """Return how many rows the target has, and the source has not."""
    return sum(map(len, _strangers(model, source, target)))


def copy_rows(model: type[Model], source: str, target: str, *, remove_strangers: bool) -> Copied:
    """Write what the target has not, or has otherwise; `remove_strangers` removes what only the target has.

    Raises IntegrityError where a row of the target's own is in the way.
    """
    removed = added = changed = 0
    if remove_strangers:  # first: of two turns with one number, the one that is no more must go
        for keys in _strangers(model, source, target):
            removed += _rows(model, target).filter(pk__in=keys).delete()[0]
    for page in _pages(model, source):
        there = {row.pk: row for row in _rows(model, target).filter(pk__gte=page[0].pk, pk__lte=page[-1].pk)}
        new = [row for row in page if row.pk not in there]
        _rows(model, target).bulk_create(new)
        added += len(new)
        for row in page:
            if row.pk in there and _content(row) != _content(there[row.pk]):
                row.save(using=target, force_update=True)
                changed += 1
    return Copied(added, changed, removed)


def read_contents(model: type[Model], database: str) -> Contents:
    """Read all rows of a model."""
    digest, count = hashlib.blake2b(digest_size=16), 0
    for page in _pages(model, database):
        for row in page:
            digest.update(_content(row))
        count += len(page)
    return Contents(count, digest.hexdigest())


def _rows(model: type[Model], database: str) -> Any:
    return model._base_manager.using(database)


def _pages(model: type[Model], database: str, *fields: str) -> Iterator[list[Any]]:
    """Yield all rows, or only some fields of them, in the order of their keys."""
    rows, page = _rows(model, database).only(*fields).order_by("pk"), list[Any]()
    while page := list((rows.filter(pk__gt=page[-1].pk) if page else rows)[:PAGE_SIZE]):
        yield page


def _strangers(model: type[Model], source: str, target: str) -> Iterator[list[Any]]:
    """Yield the keys that only the target has, a page at a time."""
    for page in _pages(model, target, "pk"):
        keys = [row.pk for row in page]
        there = set(_rows(model, source).filter(pk__in=keys).values_list("pk", flat=True))
        yield [key for key in keys if key not in there]


def _content(row: Model) -> bytes:
    """Return the fields of a row as every store has them."""
    return msgspec.json.encode([_stored(getattr(row, field.attname)) for field in row._meta.concrete_fields])


def _stored(value: Any) -> Any:
    if isinstance(value, dt.datetime):  # MongoDB keeps milliseconds
        return int(value.timestamp() * 1000)
    return value.hex if isinstance(value, UUID) else value
