"""The HTML of a conversation's line in the sidebar: the same in a page and over the socket."""

from django.utils.safestring import SafeString

from core.compiled_fragments import CompiledFragment
from history.models import Conversation

_line = CompiledFragment("history/_conversation.html", "conversation", "id", "title")


def conversation_html(conversation: Conversation, *, is_current: bool = False) -> SafeString:
    values = {"id": str(conversation.pk), "title": conversation.title}
    return _line.fill(values, {"is_current": is_current})
