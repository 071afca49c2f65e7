"""Template tags of conversations."""

from typing import Any

from django import template
from django.utils.safestring import SafeString

from history.fragments import conversation_html
from history.models import Conversation

register = template.Library()


@register.simple_tag(takes_context=True)
def conversation_line(context: dict[str, Any], conversation: Conversation) -> SafeString:
    """Render a line of a list; the page's own conversation is marked as current."""
    is_current = conversation.pk == context.get("conversation_id")
    return conversation_html(conversation, is_current=is_current, is_selectable=context.get("is_selectable", False))
