"""Searches one person's history: their turns, and the titles of their conversations, newest first; and what means
something similar."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from django.conf import settings
from django.db.models import Q, QuerySet

from core import rows
from history import embeddings
from history.access import Page, list_there, page_of, read_cursor, rows_after, write_cursor
from history.errors import BadFilter, unknown_folder
from history.folding import fold
from history.matching import Candidates, newest_matching, read_newest
from history.models import THERE, Conversation, Folder, Turn
from history.queries import Query

T = TypeVar("T", Turn, Conversation)

PAGE_SIZE = 20
SIMILAR = 5
MAX_COMPARED = 10_000
"""Turns of an owner that are compared: 4 MB, read for each search."""
MOST_AT_ONCE = 100
"""How many rows are read at once where many that were found are in the trash. One may have a megabyte of text."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A turn that was found, and its conversation."""

    turn: Turn
    conversation: Conversation


def search_turns(
    owner_id: int,
    query: Query,
    *,
    after: str | None = None,
    limit: int = PAGE_SIZE,
    models_called: Callable[[str], Collection[str]] = lambda _name: (),
) -> Page[Hit]:
    """Return the owner's turns that are as `query` says, the newest first; of an empty one, none.

    `models_called` returns the keys of the models that have a name. Conversations that are deleted or in the trash have
    nothing that is found; archived ones have. Raises BadFilter for a folder the owner has not.
    """
    if query.is_empty:
        return Page([], None)
    turns = _turns_as(query, owner_id, models_called)
    hits: list[Hit] = []
    gone: set[UUID] = set()
    size, is_last = limit + 1, False
    while len(hits) <= limit and not is_last:
        # The rest of what is in the trash is not read: it may be all there is.
        there = turns.exclude(conversation_id__in=gone) if gone else turns
        page = _newest(there, owner_id, "search_text", "created_at", query, after=after, limit=size)
        is_last = len(page) < size
        matching = [turn for turn in page if _has_all(turn.search_text, query.words)]
        found = _with_conversations(owner_id, matching)
        hits += found
        gone = {turn.conversation_id for turn in matching} - {hit.turn.conversation_id for hit in found}
        if page:
            after, size = write_cursor(page[-1].created_at, page[-1].pk), min(4 * size, MOST_AT_ONCE)
    last = hits[limit - 1].turn if len(hits) > limit else None
    return Page(hits[:limit], write_cursor(last.created_at, last.pk) if last else None)


def search_similar(
    owner_id: int,
    query: Query,
    *,
    found: Collection[UUID] = (),
    models_called: Callable[[str], Collection[str]] = lambda _name: (),
) -> list[Hit]:
    """Return the owner's turns that mean most nearly what the words of `query` do, and are as its filters say: up to
    SIMILAR, each of another conversation, none of those in `found`. Of the newest MAX_COMPARED turns, those that are
    embedded yet are compared; without words, or while search by meaning is off, none."""
    if not query.words or not embeddings.is_on():
        return []
    candidates = Candidates(_turns_as(query, owner_id, models_called), owner_id, "search_text", "created_at")
    newest = read_newest(candidates, ("embedded_by", "embedding", "pk", "conversation_id"), MAX_COMPARED)
    compared = [row for row in newest if row[0] == embeddings.EDITION]
    ranked = embeddings.most_similar(query.written, [row[1] for row in compared])
    nearest: dict[UUID, UUID] = {}
    for start in range(0, len(ranked), MOST_AT_ONCE):
        some = (compared[place] for place in ranked[start : start + MOST_AT_ONCE])
        keys = [(_as_uuid(pk), _as_uuid(conversation_id)) for _edition, _embedding, pk, conversation_id in some]
        there = {row.pk for row in list_there(owner_id, list({conversation_id for _pk, conversation_id in keys}))}
        for pk, conversation_id in keys:
            if conversation_id in there and pk not in found:
                nearest.setdefault(conversation_id, pk)
        if len(nearest) >= SIMILAR:
            break
    turns = Turn.objects.filter(owner_id=owner_id, pk__in=list(nearest.values())[:SIMILAR])
    hits = {hit.conversation.pk: hit for hit in _with_conversations(owner_id, list(turns))}
    return [hits[conversation_id] for conversation_id in nearest if conversation_id in hits]


def search_titles(
    owner_id: int, query: Query, *, after: str | None = None, limit: int = PAGE_SIZE
) -> Page[Conversation]:
    """Return the owner's conversations whose titles have the words of `query`, last used first; of an empty one, the
    last. `after` and `before` are about when something was asked in them; none has a model or a file of its own."""
    if query.models or query.has_file or (not query.words and not query.is_empty):
        return Page([], None)
    there = Conversation.objects.filter(owner_id=owner_id, **THERE)
    if query.after:
        there = there.filter(updated_at__gte=query.after)
    if query.before:
        there = there.filter(created_at__lt=query.before)
    if query.folders:
        there = there.filter(folder_id__in=_folder_ids(owner_id, query.folders))
    found: list[Conversation] = []
    size, is_last = limit + 1, False
    while len(found) <= limit and not is_last:
        page = _newest(there, owner_id, "search_title", "updated_at", query, after=after, limit=size)
        is_last = len(page) < size
        found += [row for row in page if _has_all(fold(row.title), query.words)]
        if page:
            after = write_cursor(page[-1].updated_at, page[-1].pk)
    return page_of(found, limit)


def _turns_as(query: Query, owner_id: int, models_called: Callable[[str], Collection[str]]) -> "QuerySet[Turn, Turn]":
    """Return the owner's turns that are as the filters say."""
    turns = Turn.objects.filter(owner_id=owner_id)
    if query.models:
        turns = turns.filter(_of_models(query.models, models_called))
    if query.has_file:
        turns = turns.filter(attachments__gt="")
    if query.after:
        turns = turns.filter(created_at__gte=query.after)
    if query.before:
        turns = turns.filter(created_at__lt=query.before)
    if query.folders:
        turns = turns.filter(conversation_id__in=_conversations_in(owner_id, query.folders))
    return turns


def _newest(
    candidates: "QuerySet[T, T]",
    owner_id: int,
    column: str,
    moment: str,
    query: Query,
    *,
    after: str | None,
    limit: int,
) -> list[T]:
    up_to = None
    if after:
        up_to, _pk = read_cursor(after)
        candidates = rows_after(candidates, moment, after)
    atlas_index = settings.MONGODB_SEARCH_INDEX if column == "search_text" else ""
    return newest_matching(Candidates(candidates, owner_id, column, moment, up_to, atlas_index), query.words, limit)


def _with_conversations(owner_id: int, turns: list[Turn]) -> list[Hit]:
    """Return the turns whose conversations are there."""
    if not turns:
        return []
    by_id = {row.pk: row for row in list_there(owner_id, list({turn.conversation_id for turn in turns}))}
    return [Hit(turn, by_id[turn.conversation_id]) for turn in turns if turn.conversation_id in by_id]


def _as_uuid(key: Any) -> UUID:
    return key if isinstance(key, UUID) else UUID(key)


def _has_all(folded: str, words: tuple[str, ...]) -> bool:
    return all(word in folded for word in words)


def _of_models(names: tuple[str, ...], models_called: Callable[[str], Collection[str]]) -> Q:
    """Return the condition that one of the models answered, or was asked where none has answered yet."""
    condition = Q()
    for name in names:
        keys = list(models_called(name))
        condition |= Q(model__icontains=name) | Q(model="", requested_model__icontains=name)
        condition |= Q(model__in=keys) | Q(model="", requested_model__in=keys)
    return condition


def _folder_ids(owner_id: int, names: tuple[str, ...]) -> list[UUID]:
    """Return the ids of the owner's folders that have one of the names; raises BadFilter for a name that none has."""
    wanted = {fold(name): name for name in names}
    found = [row for row in Folder.objects.filter(owner_id=owner_id) if fold(row.name).strip() in wanted]
    for missing in wanted.keys() - {fold(row.name).strip() for row in found}:
        raise BadFilter(unknown_folder(wanted[missing]))
    return [row.pk for row in found]


def _conversations_in(owner_id: int, names: tuple[str, ...]) -> "list[UUID] | QuerySet[Conversation, UUID]":
    """Return the ids of the conversations in the folders: as a subquery, where the store has those."""
    there = Conversation.objects.filter(owner_id=owner_id, folder_id__in=_folder_ids(owner_id, names))
    ids = there.values_list("pk", flat=True)
    return ids if rows.speaks_sql(Conversation) else list(ids)
