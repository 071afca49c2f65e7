"""What the page of the search shows, and the palette: where words were found, and how to get there."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from accounts.models import User
from chat.llm.catalog import find_model
from chat.pages.chat_page import turn_address
from chat.shown.finding import Found, find_in_history, find_titles
from core.errors import DomainError
from history.excerpts import Excerpt, Letters, excerpt_of
from history.models import Conversation
from history.search import Hit

QUESTION_LENGTH, ANSWER_LENGTH = 160, 280
"""Characters of the excerpts."""
SHORT_LENGTH = 90
"""Of the one the palette has place for."""


@dataclass(frozen=True, slots=True)
class ShownHit:
    """A turn that was found: its address, the name of its model, and parts of its texts. `answer` is None where nothing
    was found in it."""

    hit: Hit
    address: str
    model: str
    question: Excerpt
    answer: Excerpt | None


def results_context(member: User, text: str, *, after: str | None, is_titles: bool) -> dict[str, Any]:
    """Return the context of `chat/_results.html`; with `is_titles`, of all conversations found by title."""
    context: dict[str, Any] = {"q": text, "is_titles": is_titles, "is_first": after is None}
    try:
        if is_titles:
            titles = find_titles(member, text, after=after)
            return context | {"titles": titles.rows, "next": titles.next}
        found = find_in_history(member, text, after=after, with_similar=True)
    except DomainError as error:
        if error.status != 400:
            raise
        return context | {"mistake": error.message}
    return context | {
        "query": found.query,
        "groups": group_by_conversation(show(found.turns.rows, found.query.words)),
        "next": found.turns.next,
        "titles": found.titles.rows,
        "has_more_titles": found.titles.next is not None,
        "similar": show(found.similar, ()),
    }


def show(hits: Iterable[Hit], words: tuple[str, ...], *, length: int = ANSWER_LENGTH) -> list[ShownHit]:
    letters = Letters()
    return [_show(hit, words, length, letters) for hit in hits]


def group_by_conversation(shown: Iterable[ShownHit]) -> list[tuple[Conversation, list[ShownHit]]]:
    """Return what was found, in its order; what follows each other in one conversation is together."""
    groups = groupby(shown, lambda found: found.hit.conversation.pk)
    return [(rows[0].hit.conversation, rows) for rows in (list(group) for _pk, group in groups)]


def shortest(found: Found) -> list[tuple[ShownHit, Excerpt]]:
    """Return what was found with the one excerpt the palette shows: of the answer, where something is in it."""
    shown = show(found.turns.rows, found.query.words, length=SHORT_LENGTH)
    return [(row, row.answer or row.question) for row in shown]


def _show(hit: Hit, words: tuple[str, ...], length: int, letters: Letters) -> ShownHit:
    turn = hit.turn
    answer = excerpt_of(turn.answer, words, length, letters) if turn.answer else None
    model = find_model(turn.model) if turn.model else None
    return ShownHit(
        hit=hit,
        address=turn_address(turn),
        model=str(model.label) if model else turn.model,
        question=excerpt_of(turn.question, words, min(length, QUESTION_LENGTH), letters),
        answer=answer if answer is not None and answer.has_match else None,
    )
