"""What a person does to put conversations in order, one or many at once, and what undoes it.

An act names conversations that are the person's; those that are not, or not there any more, are left out.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from core.errors import NotFound
from history import folders, trash
from history.models import THERE, Conversation
from history.signals import conversations_changed

MAX_AT_ONCE = 200
"""Conversations of one act: a page of the list, and more."""


@dataclass(frozen=True, slots=True)
class Done:
    """What was done: the conversations it reached, and the act with their ids that undoes it; empty if nothing does."""

    act: str
    ids: list[UUID]
    undo: str = ""


def do(owner_id: int, act: str, places: Mapping[UUID, UUID | None]) -> Done:
    """Do something to conversations of the owner; `places` are their ids, with the folders they are to be moved to.

    Raises NotFound for an act there is not, for a folder that is not theirs, and where nothing of what is to be erased
    is in the trash any more.
    """
    if act == "move":
        return move(owner_id, places)
    if act not in _ACTS:
        raise NotFound
    return _ACTS[act](owner_id, list(places))


def read_act(written: str) -> tuple[str, dict[UUID, UUID | None]]:
    """Return the act and the ids of what was written as `Done.undo` is; raises NotFound if it cannot be read."""
    act, _, items = written.partition(":")
    pairs = [item.partition("=") for item in items.split(",") if item]
    try:
        return act, {UUID(pk): UUID(folder) if folder else None for pk, _, folder in pairs[:MAX_AT_ONCE]}
    except ValueError as error:
        raise NotFound from error


def move(owner_id: int, places: Mapping[UUID, UUID | None]) -> Done:
    """Move conversations of the owner to folders; None is no folder. Raises NotFound for a folder that is not there."""
    before = dict(Conversation.objects.filter(owner_id=owner_id, pk__in=places, **THERE).values_list("pk", "folder_id"))
    by_folder: dict[UUID | None, list[UUID]] = defaultdict(list)
    for pk, was in before.items():
        if was != places[pk]:
            by_folder[places[pk]].append(pk)
    for folder_id in set(places.values()) - {None}:
        folders.access_folder(owner_id, folder_id)
    for folder_id, ids in by_folder.items():
        _there(owner_id, ids).update(folder_id=folder_id)
        if folder_id is not None:
            folders.leave_if_deleted(owner_id, folder_id)
    moved = [pk for ids in by_folder.values() for pk in ids]
    _announce(owner_id, moved)
    return Done("move", moved, _written("move", [f"{pk}={before[pk] or ''}" for pk in moved]))


def _trash(owner_id: int, ids: Sequence[UUID]) -> Done:
    done = trash.trash_conversations(owner_id, ids)
    return Done("trash", done, _written("restore", done))


def _restore(owner_id: int, ids: Sequence[UUID]) -> Done:
    return Done("restore", trash.restore_conversations(owner_id, ids))


def _erase(owner_id: int, ids: Sequence[UUID]) -> Done:
    erased = trash.delete_from_trash(owner_id, ids)
    if not erased:
        raise NotFound
    return Done("erase", erased)


def _mark(act: str, field: str, value: bool | None, opposite: str) -> Callable[[int, Sequence[UUID]], Done]:
    """Return what gives conversations a mark, or takes it away."""

    def mark(owner_id: int, ids: Sequence[UUID]) -> Done:
        others = _there(owner_id, ids).filter(**{field: None if value else True})
        done = list(others.values_list("pk", flat=True))
        others.update(**{field: value})
        _announce(owner_id, done)
        return Done(act, done, _written(opposite, done))

    return mark


_ACTS: dict[str, Callable[[int, Sequence[UUID]], Done]] = {
    "trash": _trash,
    "restore": _restore,
    "erase": _erase,
    "pin": _mark("pin", "is_pinned", True, "unpin"),
    "unpin": _mark("unpin", "is_pinned", None, "pin"),
    "archive": _mark("archive", "is_archived", True, "unarchive"),
    "unarchive": _mark("unarchive", "is_archived", None, "archive"),
}


def _there(owner_id: int, ids: Sequence[UUID]) -> Any:
    return Conversation.objects.filter(owner_id=owner_id, pk__in=ids, **THERE)


def _written(act: str, items: Sequence[object]) -> str:
    return f"{act}:{','.join(map(str, items))}" if items else ""


def _announce(owner_id: int, conversation_ids: list[UUID]) -> None:
    if conversation_ids:
        conversations_changed.send_robust(Conversation, owner_id=owner_id, conversation_ids=conversation_ids)
