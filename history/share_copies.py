"""Copies what a share shows into somebody's own conversations, where they can go on with it."""

import uuid
from collections.abc import Sequence
from uuid import UUID

from django.db import IntegrityError

from core import rows
from core.errors import Conflict, NotFound, Unavailable
from history import sharing
from history.errors import ShareGone
from history.folding import searched, titled
from history.models import Conversation, ShareCopy, SharedPage, SharedTurn, TitledBy, Turn, now
from history.share_erasure import WRITING, abandon_copy
from history.temporary import check_kept
from history.tree import first_words_of

PORTION = 100


def copy_share(share: SharedPage, owner_id: int, conversation_id: UUID) -> Conversation:
    """Return the owner's copy of the share as a new conversation; the same id again returns the same copy.

    Its turns cost nothing, have their answers and no files, and name their models as people know them. Raises Conflict
    for an id that is in use, ShareGone if the share is revoked meanwhile: nothing of it is left then; and what
    `check_kept` raises.
    """
    check_kept(conversation_id)
    if (existing := _find_copied(owner_id, conversation_id)) is not None:
        return existing
    copy = _begin(share, owner_id, conversation_id)
    parent_id, depth = None, 0
    while portion := sharing.list_shared_turns(share, start=depth, limit=PORTION):
        if now() - copy.created_at > WRITING:  # the sweep takes it for abandoned soon
            raise Unavailable
        turns = []
        for shared in portion:
            turns.append(_turn_of(shared, copy, parent_id, depth))
            parent_id, depth = turns[-1].pk, depth + 1
        _write(copy, turns)
    written = Turn.objects.filter(owner_id=owner_id, conversation_id=conversation_id).count()
    current = rows.find(SharedPage, pk=share.pk)
    is_whole = written == depth == share.turn_count
    if not is_whole or current is None or current.edition != share.edition or not sharing.is_shown(current):
        abandon_copy(copy)
        raise ShareGone
    return _finish(copy, share, depth)


def _find_copied(owner_id: int, conversation_id: UUID) -> Conversation | None:
    """Return the conversation that has the id; raises Conflict for somebody else's, NotFound for one that is in
    the trash or deleted."""
    existing = rows.find(Conversation, pk=conversation_id)
    if existing is not None and existing.owner_id != owner_id:
        raise Conflict
    if existing is not None and (existing.is_deleted or existing.trashed_at):
        raise NotFound
    return existing


def _begin(share: SharedPage, owner_id: int, conversation_id: UUID) -> ShareCopy:
    """Mark the copy as begun, or go on with the one that another request has begun."""
    assert share.edition is not None
    copy = ShareCopy(pk=conversation_id, owner_id=owner_id, edition=share.edition)
    try:
        rows.insert(copy)
    except IntegrityError:
        begun = rows.find(ShareCopy, pk=conversation_id)
        if begun is None or (begun.owner_id, begun.edition) != (owner_id, share.edition):
            raise Conflict from None
        return begun
    return copy


def _write(copy: ShareCopy, turns: Sequence[Turn]) -> None:
    """Write those of the turns that are not there yet."""
    of_copy = Turn.objects.filter(owner_id=copy.owner_id, conversation_id=copy.pk)
    there = set(of_copy.filter(pk__in=[turn.pk for turn in turns]).values_list("pk", flat=True))
    missing = [turn for turn in turns if turn.pk not in there]
    try:
        Turn.objects.bulk_create(missing)
    except IntegrityError:  # the same request, at the same time
        for turn in missing:
            try:
                rows.insert(turn)
            except IntegrityError:
                if rows.find(Turn, pk=turn.pk, owner_id=copy.owner_id, conversation_id=copy.pk) is None:
                    raise Conflict from None


def _finish(copy: ShareCopy, share: SharedPage, turn_count: int) -> Conversation:
    """Let the copy be seen."""
    conversation = Conversation(
        pk=copy.pk,
        owner_id=copy.owner_id,
        **titled(share.title or first_words_of(_first_question(share))),
        titled_by=TitledBy.PERSON,
        turn_count=turn_count,
    )
    try:
        rows.insert(conversation)
    except IntegrityError:
        existing = _find_copied(copy.owner_id, copy.pk)
        if existing is None:
            raise Conflict from None
        conversation = existing
    ShareCopy.objects.filter(pk=copy.pk).delete()
    return conversation


def _first_question(share: SharedPage) -> str:
    first = sharing.list_shared_turns(share, limit=1)
    return first[0].question if first else ""


def _turn_of(shared: SharedTurn, copy: ShareCopy, parent_id: UUID | None, depth: int) -> Turn:
    return Turn(
        # Of the copy and the place alone: whoever writes it again writes the same.
        pk=uuid.uuid5(copy.pk, f"{copy.owner_id}:{copy.edition}:{shared.position}"),
        owner_id=copy.owner_id,
        conversation_id=copy.pk,
        parent_id=parent_id,
        seq=depth + 1,
        depth=depth,
        status=Turn.Status.COMPLETED,
        question=shared.question,
        answer=shared.answer,
        search_text=searched(f"{shared.question}\n{shared.answer}"),
        requested_model=shared.model or "–",
        model=shared.model,
        max_output=0,
        max_cost_micros=0,
        cost_micros=0,
        completed_at=copy.created_at,
    )
