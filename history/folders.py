"""Folders: made, changed, deleted. Nothing but the id in a conversation says that it is in one.

So an id may stay of a folder that is gone, if two processes met and one died: such a conversation is in no folder, and
the list of all has it.
"""

from typing import Any
from uuid import UUID

from django.db import IntegrityError
from django.utils.translation import gettext_lazy as _

from core import rows
from core.errors import Conflict, NotFound
from history.models import Conversation, Folder
from history.signals import conversations_changed
from history.trash import trash_folder

MAX_FOLDERS = 100


class TooManyFolders(Conflict):
    code = "too_many_folders"
    message = _("You have as many folders as there can be. Delete one first.")


def list_folders(owner_id: int) -> list[Folder]:
    """Return the owner's folders, by name."""
    found = rows.select(Folder, {"owner_id": owner_id}, order_by="name", limit=MAX_FOLDERS)
    return sorted(found, key=by_name)


def by_name(folder: Folder) -> tuple[str, UUID]:
    """Return what folders are sorted by; each database has an order of its own."""
    return folder.name.casefold(), folder.pk


def find_folder(owner_id: int, folder_id: UUID | None) -> Folder | None:
    """Return the owner's folder; None without an id, and where there is none of that id."""
    return rows.find(Folder, pk=folder_id, owner_id=owner_id) if folder_id else None


def access_folder(owner_id: int, folder_id: UUID | None) -> Folder:
    """Return the owner's folder; raises NotFound."""
    folder = find_folder(owner_id, folder_id)
    if folder is None:
        raise NotFound
    return folder


def create_folder(owner_id: int, **fields: Any) -> Folder:
    """Make a folder of `name`, `model` and `instructions`, and an `id` where the client chose one; made again, it is
    the same. Raises TooManyFolders, and Conflict for an id that is somebody else's."""
    folder = Folder(owner_id=owner_id, **fields)
    try:
        rows.insert(folder)
    except IntegrityError as error:
        existing = find_folder(owner_id, folder.pk)
        if existing is None:
            raise Conflict from error
        return existing
    # Counted with this one: of two at once, none slips through.
    if Folder.objects.filter(owner_id=owner_id).count() > MAX_FOLDERS:
        Folder.objects.filter(pk=folder.pk).delete()
        raise TooManyFolders
    _announce(owner_id)
    return folder


def change_folder(folder: Folder, **fields: Any) -> None:
    """Change `name`, `model` or `instructions`; raises NotFound if it was deleted meanwhile."""
    if fields and not rows.update(Folder, {"pk": folder.pk, "owner_id": folder.owner_id}, fields):
        raise NotFound
    for name, value in fields.items():
        setattr(folder, name, value)
    _announce(folder.owner_id)


def delete_folder(folder: Folder, *, with_conversations: bool = False) -> None:
    """Delete a folder. Its conversations stay, in no folder; or go into the trash.

    The row goes when they are out of it, so that who dies meanwhile may do it again; then those leave it that were
    moved there meanwhile (`leave_if_deleted`).
    """
    if with_conversations:
        trash_folder(folder.owner_id, folder.pk)
    _empty(folder.owner_id, folder.pk)
    Folder.objects.filter(pk=folder.pk, owner_id=folder.owner_id).delete()
    _empty(folder.owner_id, folder.pk)
    _announce(folder.owner_id)


def leave_if_deleted(owner_id: int, folder_id: UUID) -> None:
    """Take conversations out of a folder again that was deleted while they were moved there."""
    if find_folder(owner_id, folder_id) is None:
        _empty(owner_id, folder_id)


def _empty(owner_id: int, folder_id: UUID) -> None:
    Conversation.objects.filter(owner_id=owner_id, folder_id=folder_id).update(folder_id=None)


def _announce(owner_id: int) -> None:
    conversations_changed.send_robust(Folder, owner_id=owner_id, conversation_ids=[])
