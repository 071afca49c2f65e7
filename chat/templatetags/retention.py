"""The notice of what is about to go, on pages of other apps: they do not know of plans."""

from typing import Any

from django import template
from django.conf import settings

from chat.turns.retention import find_notice

register = template.Library()


@register.inclusion_tag("chat/_history_notice.html", takes_context=True)
def history_notice(context: dict[str, Any]) -> dict[str, Any]:
    return {"notice": find_notice(context["request"].user), "trash_days": settings.TRASH_DAYS}
