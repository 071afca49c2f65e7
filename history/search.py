"""Search one person's history."""

import sys
import unicodedata

from history.models import Turn

COMBINING = dict.fromkeys(sign for sign in range(sys.maxunicode + 1) if unicodedata.combining(chr(sign)))


def fold(text: str) -> str:
    """Return the form text is searched in: case and accents do not count."""
    # Decomposed before as well: the letter in a sign such as 𝑨 has a case only once it is taken out.
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return decomposed.translate(COMBINING)


MAX_WORDS = 20


def search_turns(owner_id: int, query: str, *, limit: int = 20) -> list[Turn]:
    """Return the owner's turns that hold every word of `query`, its first MOST_WORDS, newest first."""
    words = fold(query).replace("\0", "").split()[:MAX_WORDS]
    if not words:
        return []
    rows = Turn.objects.filter(owner_id=owner_id)
    for word in words:
        rows = rows.filter(search_text__contains=word)
    return list(rows.order_by("-created_at")[:limit])
