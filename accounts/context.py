"""The template variables of every page."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest

from accounts.models import User
from accounts.social_providers import list_social_providers

THEME_COOKIE = "theme"


def page_context(request: HttpRequest) -> dict[str, Any]:
    return {
        "site_name": settings.SITE_NAME,
        "theme": theme_of(request),
        "who_may_join": settings.SIGN_UP,
        "social_providers": list_social_providers,  # called where a page shows them
    }


def theme_of(request: HttpRequest) -> str:
    """Return the theme last chosen in this browser, else the member's, else the system's."""
    chosen = request.COOKIES.get(THEME_COOKIE, "")
    if chosen in User.Theme.values:
        return chosen
    user = getattr(request, "user", None)
    return user.theme if isinstance(user, User) else User.Theme.SYSTEM
