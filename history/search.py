"""Search one person's history."""

import unicodedata

from history.models import Turn


def fold(text: str) -> str:
    """Return the form text is searched in: case and accents do not count."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def search_turns(owner_id: int, query: str, *, limit: int = 20) -> list[Turn]:
    """Return the owner's turns that hold every word of `query`, newest first."""
    words = fold(query).split()
    if not words:
        return []
    rows = Turn.objects.filter(owner_id=owner_id)
    for word in words:
        rows = rows.filter(search_text__contains=word)
    return list(rows.order_by("-created_at")[:limit])
