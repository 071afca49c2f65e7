"""Searches one person's history."""

from core.unicode import COMBINING_SIGNS, normalise
from history.models import Conversation, Turn

MAX_WORDS = 20
MAX_TITLES = 500
"""How many of a person's conversations, the last used, are looked at for a title."""
_WITHOUT_SIGNS = dict.fromkeys(map(ord, COMBINING_SIGNS))


def fold(text: str) -> str:
    """Return the text without case and accents, the form in which it is searched."""
    # Decomposed before as well: a sign such as 𝑨 has a lower case only as the plain letter it is made of.
    if text.isascii():
        return text.lower()
    decomposed = normalise("NFKD", normalise("NFKD", text).casefold())
    return decomposed.translate(_WITHOUT_SIGNS)


def search_turns(owner_id: int, query: str, *, limit: int = 20) -> list[Turn]:
    """Return the owner's turns that contain every one of the first MAX_WORDS words of `query`, newest first."""
    words = fold(query).replace("\0", "").split()[:MAX_WORDS]
    if not words:
        return []
    rows = Turn.objects.filter(owner_id=owner_id)
    for word in words:
        rows = rows.filter(search_text__contains=word)
    found = list(rows.order_by("-created_at")[:limit])
    conversations = Conversation.objects.filter(pk__in={turn.conversation_id for turn in found}, is_deleted=None)
    there = set(conversations.values_list("pk", flat=True)) if found else set()
    return [turn for turn in found if turn.conversation_id in there]


def search_titles(owner_id: int, query: str, *, limit: int = 10) -> list[Conversation]:
    """Return the owner's conversations whose titles contain every word of `query`, last used first."""
    words = fold(query).split()[:MAX_WORDS]
    rows = Conversation.objects.filter(owner_id=owner_id, is_deleted=None).only("pk", "title")
    latest = rows.order_by("-updated_at", "-pk")[: MAX_TITLES if words else limit]
    return [row for row in latest if all(word in fold(row.title) for word in words)][:limit]
