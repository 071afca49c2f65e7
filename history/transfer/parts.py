"""What the history has of a person beside their conversations, for an export of everything."""

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.export_parts import ExportPart, json_of_all
from core.sweeps import iterate_pages
from history.folders import list_folders
from history.models import Import
from history.sharing import list_shares, token_of

_FOLDER = ("id", "name", "model", "instructions", "created_at")
_SHARE = (
    *("id", "conversation_id", "until_id", "title", "author", "is_for_members", "turn_count"),
    *("created_at", "updated_at", "expires_at", "taken_down_at", "takedown_reason"),
)
_IMPORT = ("id", "name", "status", "source", "size", "imported", "known", "turns", "created_at", "finished_at")


def parts_of_history(owner_id: int) -> Iterator[ExportPart]:
    yield ExportPart(
        name="folders.json",
        about=_("Your folders, with their models and instructions."),
        pieces=lambda: json_of_all(_fields(folder, _FOLDER) for folder in list_folders(owner_id)),
    )
    yield ExportPart(
        name="shares.json",
        about=_("What you share, with its links. Its text is that of the conversations."),
        pieces=lambda: json_of_all(
            {**_fields(share, _SHARE), "url": settings.SITE_URL + reverse("shared", args=[token_of(share)])}
            for share in list_shares(owner_id)
        ),
    )
    yield ExportPart(
        name="imports.json",
        about=_("What you have imported."),
        pieces=lambda: json_of_all(
            _fields(one, _IMPORT)
            for page in iterate_pages(Import.objects.filter(owner_id=owner_id).exclude(status=Import.Status.ERASED))
            for one in page
        ),
    )


def _fields(row: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}
