"""Template tags of conversations."""

from typing import Any

from django import template
from django.utils.safestring import SafeString

from history.fragments import conversation_html
from history.models import Conversation

register = template.Library()


@register.simple_tag(takes_context=True)
def conversation_line(context: dict[str, Any], conversation: Conversation) -> SafeString:
    """Render a line of the sidebar; the page's own conversation is marked as current."""
    return conversation_html(conversation, is_current=conversation.pk == context.get("conversation_id"))
