"""Finds in a member's history, for the page, the palette and the API: one question, whoever asks it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from accounts.models import User
from chat.llm.catalog import list_offered
from core.errors import RateLimited
from history.access import Page
from history.folding import fold
from history.models import Conversation
from history.queries import Query, parse_query
from history.search import PAGE_SIZE, Hit, search_similar, search_titles, search_turns

SEARCH_LIMIT = ("search", 120)
"""What counts them, and how many a minute, by the API and on pages: each may read thousands of rows."""

TITLES = 5
"""How many conversations are found by their titles, beside the turns."""
MAX_AT_ONCE = 3
"""Searches of one person in a process. One may look through all that they have."""

_searching: Counter[int] = Counter()
_lock = Lock()


@dataclass(frozen=True, slots=True)
class Found:
    query: Query
    turns: Page[Hit]
    titles: Page[Conversation]
    similar: list[Hit]


def find_in_history(
    member: User,
    text: str,
    *,
    after: str | None = None,
    limit: int = PAGE_SIZE,
    titles: int = TITLES,
    with_similar: bool = False,
) -> Found:
    """Return the turns and the conversations that are as `text` says, conversations on the first page alone; and, where
    that has room for more turns, some that mean something similar, if wanted. Raises BadFilter, NotFound for an `after`
    that is none, and RateLimited while too many searches of theirs are on."""
    query = parse_query(text, member.zone)
    with _one_more_search(member.pk):
        turns = search_turns(member.pk, query, after=after, limit=limit, models_called=keys_of_models_called)
        if after is not None or query.is_empty:
            return Found(query, turns, Page([], None), [])
        similar = list[Hit]()
        if with_similar and turns.next is None:
            known = {hit.turn.pk for hit in turns.rows}
            similar = search_similar(member.pk, query, found=known, models_called=keys_of_models_called)
        return Found(query, turns, search_titles(member.pk, query, limit=titles), similar)


def find_titles(member: User, text: str, *, after: str | None = None, limit: int = PAGE_SIZE) -> Page[Conversation]:
    """Return the conversations whose titles are as `text` says. Raises as `find_in_history` does."""
    query = parse_query(text, member.zone)
    with _one_more_search(member.pk):
        return search_titles(member.pk, query, after=after, limit=limit)


@contextmanager
def _one_more_search(owner_id: int) -> Iterator[None]:
    with _lock:
        if _searching[owner_id] >= MAX_AT_ONCE:
            raise RateLimited(retry_after=1)
        _searching[owner_id] += 1
    try:
        yield
    finally:
        with _lock:
            _searching[owner_id] -= 1
            if not _searching[owner_id]:
                del _searching[owner_id]


def keys_of_models_called(name: str) -> set[str]:
    """Return the keys of the models on offer that people see under such a name, or a part of it."""
    wanted = fold(name)
    return {candidate.model.key for candidate in list_offered() if wanted in fold(str(candidate.model.label))}
