"""The pages the palette leads to. Conversations and models come from where others list them, too."""

from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

PAGES: dict[str, Promise] = {
    "home": _("New chat"),
    "search": _("Search"),
    "conversations": _("Conversations"),
    "dashboard": _("Overview"),
    "billing": _("Plan"),
    "usage": _("Usage"),
    "payments": _("Payments"),
    "pricing": _("Plans and prices"),
    "profile": _("Settings"),
    "shares": _("Shared links"),
    "keys": _("API keys"),
    "shortcuts": _("Keyboard shortcuts"),
    "status": _("Status"),
}
"""The names of their URLs, and what people call them."""
STAFF_PAGES: dict[str, Promise] = {"admin:index": _("Administration")}


def list_pages(*, is_staff: bool) -> list[tuple[str, str]]:
    """Return the address and the title of each page."""
    pages = PAGES | STAFF_PAGES if is_staff else PAGES
    return [(reverse(name), str(title)) for name, title in pages.items()]
