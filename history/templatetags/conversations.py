"""Template tags of conversations, and of what is taken along, for pages of other apps."""

from typing import Any

from django import template
from django.utils.safestring import SafeString

from history.fragments import conversation_html
from history.models import Conversation
from history.transfer.pages import transfers_of

register = template.Library()


@register.simple_tag(takes_context=True)
def conversation_line(context: dict[str, Any], conversation: Conversation) -> SafeString:
    """Render a line of a list; the page's own conversation is marked as current."""
    is_current = conversation.pk == context.get("conversation_id")
    return conversation_html(conversation, is_current=is_current, is_selectable=context.get("is_selectable", False))


@register.inclusion_tag("history/_transfers.html", takes_context=True)
def transfers_part(context: dict[str, Any]) -> dict[str, Any]:
    """Render the member's imports, and how they export everything."""
    request = context["request"]
    return {**transfers_of(request), "request": request, "csrf_token": context.get("csrf_token")}
