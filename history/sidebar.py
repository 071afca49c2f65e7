"""What the sidebar lists: pinned conversations, folders, and the rest by date; by one statement where that is SQL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connections, router
from django.db.models import BooleanField, F, QuerySet, Value
from django.db.models.functions import Cast

from core import rows
from history import access
from history.access import Page
from history.folders import MAX_FOLDERS, by_name
from history.models import THERE, Conversation, Folder

MAX_PINNED = 50
_COLUMNS = ("pk", "title", "updated_at", "is_pinned", "is_archived", "folder_id")
"""All that a line shows: each other field would be a statement of its own."""


@dataclass(frozen=True, slots=True)
class Sidebar:
    """Conversations last used first, folders by name."""

    pinned: list[Conversation]
    folders: list[Folder]
    loose: Page[Conversation]


def read_sidebar(owner_id: int, *, limit: int) -> Sidebar:
    """Return the owner's sidebar, with the first `limit` conversations that are neither pinned nor in a folder."""
    of_owner = Conversation.objects.filter(owner_id=owner_id, is_archived=None, **THERE)
    pinned = of_owner.filter(is_pinned=True).order_by("-updated_at", "-pk")[:MAX_PINNED]
    loose = of_owner.filter(folder_id=None, is_pinned=None).order_by("-updated_at", "-pk")[: limit + 1]
    folders = Folder.objects.filter(owner_id=owner_id).order_by("name")[:MAX_FOLDERS]
    if not rows.speaks_sql(Conversation):
        return _sidebar(list(pinned), list(folders.only("pk", "name")), list(loose), limit)
    # A folder is told apart from a conversation by being in itself.
    no_mark = Cast(Value(None), BooleanField())
    as_rows = folders.values("pk", "name", "created_at", pin=no_mark, archive=no_mark, itself=F("pk"))
    found = _select_all([loose.values(*_COLUMNS), pinned.values(*_COLUMNS), as_rows])
    return _sidebar(
        [row for row in found if row.is_pinned],
        [Folder(pk=row.pk, name=row.title) for row in found if row.folder_id == row.pk],
        [row for row in found if not row.is_pinned and row.folder_id is None],
        limit,
    )


def _sidebar(pinned: list[Conversation], folders: list[Folder], loose: list[Conversation], limit: int) -> Sidebar:
    for found in (pinned, loose):
        found.sort(key=lambda row: (row.updated_at, row.pk), reverse=True)
    folders.sort(key=by_name)
    return Sidebar(pinned, folders, access.page_of(loose, limit))


def _select_all(parts: Sequence["QuerySet[Any, Any]"]) -> list[Conversation]:
    """Return the rows of several statements by one. Django's `union` cannot limit its parts on SQLite."""
    alias = router.db_for_read(Conversation)
    compiled = [part.query.get_compiler(alias, connections[alias]).as_sql() for part in parts]
    union = " UNION ALL ".join(f"SELECT * FROM ({statement}) AS part{at}" for at, (statement, _) in enumerate(compiled))  # noqa: S608
    values = [value for _, of_part in compiled for value in of_part]
    return list(Conversation.objects.raw(union, values, translations={"pk": "_id"}))
