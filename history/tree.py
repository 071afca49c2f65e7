"""The tree of a conversation: add a turn, walk back to the root."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils import timezone

from core import rows
from core.errors import Conflict, NotFound
from history.errors import ParentNotFinished
from history.models import Conversation, TitledBy, Turn
from history.search import fold

TITLE_CHARACTERS = 60
ATTEMPTS = 20
PAGE_MARGIN = 10
"""Turns of other branches a page may hold before a second one is read."""


@dataclass(frozen=True, slots=True)
class Path:
    """Turns of one branch, oldest first, and whether it has earlier ones.

    `beside` has, by a turn's id, the answers its question got before, latest first; only those that were read anyway.
    """

    turns: list[Turn]
    has_earlier: bool
    beside: dict[UUID, list[Turn]]


def begin_conversation(turn: Turn) -> tuple[Conversation, Turn]:
    """Write the first turn of a new conversation, and that conversation; return both.

    Where somebody else has begun it meanwhile, the turn is added to theirs. Raises Conflict if it is another person's.
    """
    if rows.speaks_sql(Turn):
        conversation = Conversation(
            pk=turn.conversation_id, owner_id=turn.owner_id, title=title_from(turn.question), turn_count=1
        )
        turn.seq, turn.search_text = 1, fold(turn.question)
        with suppress(IntegrityError), transaction.atomic(using="history"):  # one commit instead of three
            rows.insert(conversation)
            rows.insert(turn)
            return conversation, turn
    conversation = open_conversation(turn.owner_id, turn.conversation_id, title=turn.question)
    return conversation, add_turn(turn)


def open_conversation(
    owner_id: int, conversation_id: UUID, *, title: str, titled_by: TitledBy = TitledBy.WORDS
) -> Conversation:
    """Return the owner's conversation, begun now if the id is new; raises Conflict if it is somebody else's."""
    try:
        conversation = Conversation(pk=conversation_id, owner_id=owner_id, title=title_from(title), titled_by=titled_by)
        rows.insert(conversation)
    except IntegrityError as error:
        found = rows.find(Conversation, pk=conversation_id, owner_id=owner_id)
        if found is None:
            raise Conflict from error
        return found
    return conversation


def title_by_words(conversation: Conversation, question: str) -> None:
    """Give a conversation that was begun without a title the first words of its first question."""
    title = title_from(question)
    if rows.update(Conversation, {"pk": conversation.pk, "title": "", "titled_by": TitledBy.WORDS}, {"title": title}):
        conversation.title = title


def title_from(text: str) -> str:
    """Return the first line of a question, cut at a word."""
    line = " ".join(text.split())
    if len(line) <= TITLE_CHARACTERS:
        return line
    return line[:TITLE_CHARACTERS].rsplit(" ", 1)[0] + "…"


def find_parent(owner_id: int, conversation_id: UUID, parent_id: UUID) -> Turn:
    """Return the turn a new one continues; raises NotFound, or ParentNotFinished while it is being written."""
    parent = rows.find(Turn, pk=parent_id, owner_id=owner_id, conversation_id=conversation_id)
    if parent is None:
        raise NotFound
    return check_finished(parent)


def check_finished(turn: Turn) -> Turn:
    """Return the turn; raises ParentNotFinished while it is being written."""
    if turn.is_open:
        raise ParentNotFinished
    return turn


def find_latest(owner_id: int, conversation_id: UUID) -> Turn | None:
    """Return the turn asked last in the conversation."""
    of_conversation = {"owner_id": owner_id, "conversation_id": conversation_id}
    return next(iter(rows.select(Turn, of_conversation, order_by="-seq", limit=1)), None)


def path_to(leaf: Turn | None, known: Iterable[Turn] = ()) -> Iterator[Turn]:
    """Yield the turns from `leaf` back to the root, read in pages bounded by `seq`: a caller may stop early.

    `known` are turns the caller has read already.
    """
    turn = leaf
    page = {row.pk: row for row in known}
    while turn is not None:
        yield turn
        if turn.parent_id is None:
            return
        if turn.parent_id not in page:
            page = {row.pk: row for row in _before(turn)}
            # A parent beyond the page (a long-abandoned branch was taken up again) is fetched by its id.
            if turn.parent_id not in page:
                page = {row.pk: row for row in rows.select(Turn, {"pk": turn.parent_id, "owner_id": turn.owner_id})}
        turn = page.get(turn.parent_id)


def list_path(conversation: Conversation, *, before: Turn | None = None, limit: int) -> Path:
    """Return the last `limit` turns of the branch that was used last.

    With `before`, the turns that lead to that one instead. One statement, unless the branch was abandoned for long.
    """
    if before is None:
        newest = {"owner_id": conversation.owner_id, "conversation_id": conversation.pk}
        page = rows.select(Turn, newest, order_by="-seq", limit=limit + PAGE_MARGIN)
        leaf = page[0] if page else None
    else:
        page = _before(before, limit + PAGE_MARGIN)
        leaf = next((turn for turn in page if turn.pk == before.parent_id), None)
        if leaf is None and before.parent_id is not None:
            leaf = rows.find(Turn, pk=before.parent_id, owner_id=before.owner_id)
    found = list(islice(path_to(leaf, page), limit + 1))
    turns = found[:limit][::-1]
    return Path(turns, len(found) > limit, _beside(turns, page))


def add_turn(turn: Turn) -> Turn:
    """Write a new turn at the end of its conversation and return it; the same id again returns what is there.

    `seq` is taken by insertion under a unique constraint: two writers cannot get the same, on any database. A caller
    that has just seen the last turn may set it; it is only the first guess.
    """
    turn.search_text = fold(turn.question)
    for _ in range(ATTEMPTS):
        turn.seq = turn.seq or _last_seq(turn) + 1
        try:
            rows.insert(turn)
            break
        except IntegrityError:
            existing = rows.find(Turn, pk=turn.pk)
            if existing is not None:
                return existing
            turn.seq = 0
    else:
        raise Conflict
    rows.update(Conversation, {"pk": turn.conversation_id}, {"updated_at": timezone.now()}, plus={"turn_count": 1})
    return turn


def _beside(turns: list[Turn], page: list[Turn]) -> dict[UUID, list[Turn]]:
    shown = {turn.pk for turn in turns}
    answered: dict[tuple[UUID | None, str], list[Turn]] = {}
    for row in page:
        if row.pk not in shown and row.answer:
            answered.setdefault((row.parent_id, row.question), []).append(row)
    return {
        turn.pk: answered[turn.parent_id, turn.question]
        for turn in turns
        if (turn.parent_id, turn.question) in answered
    }


def _last_seq(turn: Turn) -> int:
    latest = find_latest(turn.owner_id, turn.conversation_id)
    return latest.seq if latest else 0


def _before(turn: Turn, limit: int = 50) -> list[Turn]:
    earlier = {"owner_id": turn.owner_id, "conversation_id": turn.conversation_id, "seq__lt": turn.seq}
    return rows.select(Turn, earlier, order_by="-seq", limit=limit)
