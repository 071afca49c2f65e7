"""The tree of a conversation's turns: starts it, adds to it, and walks back to its root."""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils import timezone

from core import rows
from core.errors import Conflict, NotFound
from history.errors import Overtaken, ParentNotFinished
from history.folding import searched, titled
from history.models import THERE, Conversation, TitledBy, Turn
from history.temporary import (
    add_temporary_turn,
    check_kept,
    find_temporary_turns,
    is_temporary,
    list_temporary_turns,
)

TITLE_CHARACTERS = 60
READ_CHARACTERS = 1_000
"""Of a question, for its title: the patterns take quadratic time."""
LINE_MARKS = re.compile(r"^[ \t]*(?:(?:```|~~~).*$|#{1,6}[ \t]+|(?:>[ \t]?)+)", re.MULTILINE)
"""Fences, and what begins headings and quotes."""
EMPHASIS = re.compile(r"(\*\*|`)(?=\S)(.+?)(?<=\S)\1")
MAX_ATTEMPTS = 20
FIRST_PAGE = 50
"""How many turns of a path are read at first."""


def start_conversation(turn: Turn, *, folder_id: UUID | None = None) -> tuple[Conversation, Turn]:
    """Write a new conversation and its first turn; return both.

    If another request has created the conversation meanwhile, the turn is added to it, as `add_turn` does. Raises
    Conflict if it is another person's, NotFound while it is being deleted.
    """
    if rows.speaks_sql(Turn):
        conversation = Conversation(
            pk=turn.conversation_id,
            owner_id=turn.owner_id,
            turn_count=1,
            folder_id=folder_id,
            **titled(first_words_of(turn.question)),
        )
        wanted_seq, turn.seq, turn.search_text = turn.seq, 1, searched(turn.question)
        with suppress(IntegrityError), transaction.atomic(using="history"):  # one commit instead of three
            rows.insert(conversation)
            rows.insert(turn)
            return conversation, turn
        turn.seq = wanted_seq
    conversation = get_or_create_conversation(
        turn.owner_id, turn.conversation_id, title=first_words_of(turn.question), folder_id=folder_id
    )
    added = add_turn(turn)
    if added.conversation_id != turn.conversation_id:  # the turn's id is in use elsewhere: nothing begins with it
        Conversation.objects.filter(pk=conversation.pk, owner_id=conversation.owner_id, turn_count=0).delete()
    return conversation, added


def get_or_create_conversation(
    owner_id: int,
    conversation_id: UUID,
    *,
    title: str,
    titled_by: TitledBy = TitledBy.WORDS,
    folder_id: UUID | None = None,
) -> Conversation:
    """Return the owner's conversation, created if the id is new.

    Raises Conflict if it is somebody else's, NotFound while it is in the trash or being deleted, IdOfOtherKind for one
    that only a temporary conversation can have.
    """
    check_kept(conversation_id)
    try:
        conversation = Conversation(
            pk=conversation_id,
            owner_id=owner_id,
            titled_by=titled_by,
            folder_id=folder_id,
            **titled(title_from(title)),
        )
        rows.insert(conversation)
    except IntegrityError as error:
        existing = rows.find(Conversation, pk=conversation_id, owner_id=owner_id)
        if existing is None:
            raise Conflict from error
        if existing.is_deleted or existing.trashed_at:
            raise NotFound from error
        return existing
    return conversation


def title_from_question(conversation: Conversation, question: str) -> None:
    """Give a conversation that was created without a title the first words of its question."""
    title = first_words_of(question)
    untitled = {"pk": conversation.pk, "title": "", "titled_by": TitledBy.WORDS}
    if rows.update(Conversation, untitled, titled(title)):
        conversation.title = title


def first_words_of(text: str) -> str:
    """Return the first words of a question, without the marks of Markdown, as a title."""
    text = text.lstrip()[:READ_CHARACTERS]
    return title_from(EMPHASIS.sub(r"\2", LINE_MARKS.sub("", text))) or title_from(text)


def title_from(text: str) -> str:
    """Return the text as one line, cut after a word if it is too long for a title."""
    line = " ".join(text.split())
    if len(line) <= TITLE_CHARACTERS:
        return line
    return line[:TITLE_CHARACTERS].rsplit(" ", 1)[0] + "…"


def find_parent(owner_id: int, conversation_id: UUID, parent_id: UUID) -> Turn:
    """Return the turn that a new one continues; raises NotFound, or ParentNotFinished while it is being written."""
    if is_temporary(parent_id):
        parent = find_temporary_turns([parent_id]).get(parent_id)
    else:
        parent = rows.find(Turn, pk=parent_id, owner_id=owner_id, conversation_id=conversation_id)
    if parent is None or (parent.owner_id, parent.conversation_id) != (owner_id, conversation_id):
        raise NotFound
    return check_finished(parent)


def check_finished(turn: Turn) -> Turn:
    """Return the turn; raises ParentNotFinished while it is being written."""
    if turn.is_open:
        raise ParentNotFinished
    return turn


def find_latest(owner_id: int, conversation_id: UUID) -> Turn | None:
    """Return the turn that was asked last in the conversation."""
    if is_temporary(conversation_id):
        return next(reversed(list_temporary_turns(conversation_id)), None)
    of_conversation = {"owner_id": owner_id, "conversation_id": conversation_id}
    return next(iter(rows.select(Turn, of_conversation, order_by="-seq", limit=1)), None)


def path_to_root(leaf: Turn | None) -> Iterator[Turn]:
    """Yield the turns from `leaf` back to the root. They are read in pages, each as long as what was yielded before: a
    long path takes few statements, and a caller that stops early has read twice as much at most."""
    turn = leaf
    page: dict[UUID, Turn] = {}
    yielded = 0
    while turn is not None:
        yield turn
        yielded += 1
        if turn.parent_id is None:
            return
        if turn.parent_id not in page:
            page = {row.pk: row for row in list_before(turn, max(FIRST_PAGE, yielded))}
            # A parent beyond the page is read by its id: an old branch was continued much later.
            if turn.parent_id not in page:
                page = {row.pk: row for row in rows.select(Turn, {"pk": turn.parent_id, "owner_id": turn.owner_id})}
        turn = page.get(turn.parent_id)


def list_before(turn: Turn, limit: int) -> list[Turn]:
    """Return the conversation's turns that were asked before one, on whatever branch, the latest first."""
    if is_temporary(turn.conversation_id):
        turns = list_temporary_turns(turn.conversation_id)
        return [earlier for earlier in reversed(turns) if earlier.seq < turn.seq][:limit]
    earlier = {"owner_id": turn.owner_id, "conversation_id": turn.conversation_id, "seq__lt": turn.seq}
    return rows.select(Turn, earlier, order_by="-seq", limit=limit)


def add_turn(turn: Turn) -> Turn:
    """Write a new turn at the end of its conversation and return it; if its id exists, return the turn that has it. The
    branch it is on is the chosen one from then on; that of a turn asked beside another is the other's. A conversation
    that its owner asks in is in use, and comes out of the archive; what a program asks in one leaves it there.

    A unique constraint on `seq` keeps two writers from taking the same number, on every database. A caller that wants
    to continue the last turn it has read sets `seq`: raises Overtaken if that number is taken. Without one (0) the turn
    gets the next that is free. Raises NotFound, with nothing left of the turn, when the conversation was deleted
    or put into the trash meanwhile, and what `add_temporary_turn` does.
    """
    if is_temporary(turn.conversation_id):
        return add_temporary_turn(turn)
    is_continuing = bool(turn.seq)
    turn.search_text = searched(turn.question)
    for _ in range(MAX_ATTEMPTS):
        turn.seq = turn.seq or _last_seq(turn) + 1
        try:
            rows.insert(turn)
            break
        except IntegrityError:
            existing = rows.find(Turn, pk=turn.pk)
            if existing is not None:
                return existing
            if is_continuing:
                raise Overtaken from None
            turn.seq = 0
    else:
        raise Conflict
    there = {"pk": turn.conversation_id} | THERE
    used: dict[str, Any] = {"updated_at": timezone.now(), "leaf_id": turn.beside_id}
    if not turn.is_completion:
        used["is_archived"] = None
    if not rows.update(Conversation, there, used, plus={"turn_count": 1}):
        take_back(turn)
        raise NotFound
    return turn


def take_back(turn: Turn) -> None:
    """Erase a turn that was just written, unless somebody has begun or closed it: it is theirs then."""
    Turn.objects.filter(pk=turn.pk, status=Turn.Status.QUEUED, gen=0).delete()


def _last_seq(turn: Turn) -> int:
    latest = find_latest(turn.owner_id, turn.conversation_id)
    return latest.seq if latest else 0
