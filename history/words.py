"""What a person is told after an act, by how many conversations it reached."""

from typing import Any

from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

_DONE: dict[str, Any] = {
    "trash": ngettext_lazy("The conversation is in the trash.", "%(count)d conversations are in the trash.", "count"),
    "restore": ngettext_lazy("The conversation is back.", "%(count)d conversations are back.", "count"),
    "erase": ngettext_lazy(
        "The conversation is deleted for good.", "%(count)d conversations are deleted for good.", "count"
    ),
    "pin": ngettext_lazy("The conversation is pinned.", "%(count)d conversations are pinned.", "count"),
    "unpin": ngettext_lazy(
        "The conversation is not pinned any more.", "%(count)d conversations are not pinned any more.", "count"
    ),
    "archive": ngettext_lazy(
        "The conversation is in the archive.", "%(count)d conversations are in the archive.", "count"
    ),
    "unarchive": ngettext_lazy(
        "The conversation is in the list again.", "%(count)d conversations are in the list again.", "count"
    ),
    "move": ngettext_lazy("The conversation was moved.", "%(count)d conversations were moved.", "count"),
}
NOTHING = _("Nothing was changed.")


def sentence_of(act: str, count: int) -> str:
    """Return what is said after an act that reached so many conversations."""
    return str(_DONE[act] % {"count": count}) if count else str(NOTHING)
