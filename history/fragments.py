"""The HTML of a conversation's line in the sidebar: the same in a page and over the socket."""

from django.utils.safestring import SafeString

from core.compiled_fragments import CompiledFragment
from history.models import Conversation

_line = CompiledFragment("history/_conversation.html", "conversation", "id", "title", "place", "used_at")


def conversation_html(
    conversation: Conversation, *, is_current: bool = False, is_selectable: bool = False
) -> SafeString:
    """Return the line, with where the sidebar has its place: `archive`, `pinned`, a folder's id, or by `used_at`."""
    is_pinned, is_archived = bool(conversation.is_pinned), bool(conversation.is_archived)
    values = {
        "id": str(conversation.pk),
        "title": conversation.title,
        "place": "archive" if is_archived else "pinned" if is_pinned else str(conversation.folder_id or "list"),
        "used_at": conversation.updated_at.isoformat(),
    }
    flags = {
        "is_current": is_current,
        "is_selectable": is_selectable,
        "is_pinned": is_pinned,
        "is_archived": is_archived,
    }
    return _line.fill(values, flags)
