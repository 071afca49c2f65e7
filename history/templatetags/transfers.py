"""A template tag of what comes in and goes out, for pages of other apps."""

from typing import Any

from django import template

from history.transfer.pages import transfers_of

register = template.Library()


@register.inclusion_tag("history/_transfers.html", takes_context=True)
def transfers_part(context: dict[str, Any]) -> dict[str, Any]:
    """Render the member's imports, and how they export everything."""
    request = context["request"]
    return {**transfers_of(request), "request": request, "csrf_token": context.get("csrf_token")}
