"""The branches of a conversation: which one its owner has chosen, what of it is shown, and how another is chosen.

A branch ends with a leaf. The chosen one is `Conversation.leaf_id`, or the turn that was asked last. Whoever adds a
turn below that leaf may die before the conversation says so, and the leaf may be erased: then the chosen branch is the
one that was used last below it, or of all. So the pointer leads to a leaf at any moment, whatever it holds.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db.models import Q

from core import rows
from core.errors import NotFound
from history import tree
from history.models import Conversation, Turn
from history.signals import branch_chosen
from history.temporary import is_temporary, list_temporary_turns

PAGE_MARGIN = 10
"""A page is read with so many turns more: those of other branches take places in it."""
LEAD = 4
"""How many turns are shown before one that somebody came for, where it is not on the last page."""


@dataclass(frozen=True, slots=True)
class Siblings:
    """The turns that follow the same turn, in the order they were asked, as that with `number` sees them, from 1."""

    ids: tuple[UUID, ...]
    number: int

    @property
    def previous(self) -> UUID | None:
        return self.ids[self.number - 2] if self.number > 1 else None

    @property
    def next(self) -> UUID | None:
        return self.ids[self.number] if self.number < len(self.ids) else None


@dataclass(frozen=True, slots=True)
class Branch:
    """Turns of one branch, oldest first, and whether it has earlier and later ones.

    `siblings` has, by a turn's id, those of a turn that has any. `pair` is the last turn and the one it is shown
    beside, in the order they were asked; None where there is none.
    """

    turns: list[Turn]
    has_earlier: bool
    has_later: bool
    siblings: dict[UUID, Siblings]
    pair: tuple[Turn, Turn] | None


@dataclass(frozen=True, slots=True)
class End:
    """Where a conversation goes on: the leaf of the chosen branch, None while it has no turn, and the highest number
    (`seq`) it had just before that was read."""

    leaf: Turn | None
    last_seq: int


def find_branch_end(conversation: Conversation) -> End:
    """Return where the conversation goes on.

    Of two that find the same end and write the next number, one is Overtaken: what the other has added after the
    highest number was read takes that, and what it added before is found below the leaf.
    """
    latest = tree.find_latest(conversation.owner_id, conversation.pk)
    return End(_find_chosen_leaf(conversation) or latest, latest.seq if latest else 0)


def list_branch(
    conversation: Conversation,
    *,
    limit: int,
    before: Turn | None = None,
    after: Turn | None = None,
    at: Turn | None = None,
) -> Branch:
    """Return the last `limit` turns of the chosen branch; with `before`, the turns that lead to that one; with `after`,
    those that follow it on the chosen branch; with `at`, those around it, if it is on the chosen branch.

    Takes one statement where nothing branches, and six at most.
    """
    if is_temporary(conversation.pk):
        return _list_unbranched(list_temporary_turns(conversation.pk), limit, before=before, after=after, at=at)
    if before is not None:
        page = tree.list_before(before, limit + PAGE_MARGIN)
        leaf = next((turn for turn in page if turn.pk == before.parent_id), None)
        if leaf is None and before.parent_id is not None:
            leaf = _find(conversation, before.parent_id)
        has_branches = True
    elif leaf := _find_chosen_leaf(conversation):
        page, has_branches = [leaf, *tree.list_before(leaf, limit + PAGE_MARGIN)], True
    else:
        newest = {"owner_id": conversation.owner_id, "conversation_id": conversation.pk}
        page = rows.select(Turn, newest, order_by="-seq", limit=limit + PAGE_MARGIN)
        leaf = page[0] if page else None
        has_branches = leaf is not None and not _is_linear_until(leaf)
    turns, has_later = _last_turns(leaf, page, limit + 1), False
    has_earlier, turns = len(turns) > limit, turns[-limit:]
    if after is not None or (at is not None and at.pk not in {turn.pk for turn in turns}):
        turns, has_earlier, has_later = _middle_turns(leaf, limit, after=after, at=at)
    if not has_branches or not turns:
        return Branch(turns, has_earlier, has_later, {}, None)
    families = _families_under(conversation, {turn.parent_id for turn in turns})
    pair = None if before is not None or has_later else _pair_of(conversation, turns[-1], families, page)
    return Branch(turns, has_earlier, has_later, _siblings_among(turns, families), pair)


def find_siblings(turn: Turn, *, is_latest: bool = False) -> Siblings | None:
    """Return the turns that follow the same turn as this one, and its place among them; None where it is alone. For
    the turn that was asked last, without a statement where nothing branches."""
    if is_temporary(turn.pk) or (is_latest and _is_linear_until(turn)):
        return None
    conversation = Conversation(pk=turn.conversation_id, owner_id=turn.owner_id)
    return _siblings_among([turn], _families_under(conversation, {turn.parent_id})).get(turn.pk)


def get_turn(conversation: Conversation, turn_id: UUID | str) -> Turn:
    """Return a turn of the conversation; raises NotFound, also for what is no id."""
    try:
        turn = _find(conversation, UUID(str(turn_id)))
    except ValueError as error:
        raise NotFound from error
    if turn is None:
        raise NotFound
    return turn


def choose_branch(conversation: Conversation, turn: Turn | None) -> None:
    """Choose the branch a turn of the conversation is on, as it was used last below that; None is the turn that was
    asked last. Where it is on the chosen branch, nothing changes."""
    if is_temporary(conversation.pk):
        return
    turn = turn or tree.find_latest(conversation.owner_id, conversation.pk)
    leaf = find_branch_end(conversation).leaf
    if turn is None or leaf is None or turn.pk == leaf.pk or turn.pk in list_path_ids(leaf):
        return
    leaf_id = _last_below(turn)
    there = {"pk": conversation.pk, "owner_id": conversation.owner_id, "is_deleted__isnull": True}
    if rows.update(Conversation, there, {"leaf_id": leaf_id}):
        conversation.leaf_id = leaf_id
        branch_chosen.send_robust(Conversation, conversation=conversation)


def _find_chosen_leaf(conversation: Conversation) -> Turn | None:
    """Return the leaf that was chosen, or else the one below it that was used last; None where none is chosen, and
    where it is gone."""
    if conversation.leaf_id is None:
        return None
    chosen_or_below = Q(pk=conversation.leaf_id) | Q(parent_id=conversation.leaf_id)
    found = Turn.objects.filter(chosen_or_below, owner_id=conversation.owner_id, conversation_id=conversation.pk)
    leaf, *below = found.order_by("seq") or (None,)  # a turn is asked before those below it
    if leaf is None or leaf.pk != conversation.leaf_id:
        return None
    return _find(conversation, _last_below(leaf)) if below else leaf


def _list_unbranched(
    turns: list[Turn], limit: int, *, before: Turn | None, after: Turn | None, at: Turn | None
) -> Branch:
    """Return of turns that all follow one another what `list_branch` returns."""
    place = next((place for place, turn in enumerate(turns) if at is not None and turn.pk == at.pk), len(turns))
    end = before.seq - 1 if before is not None else len(turns)
    start = max(0, end - limit)
    if after is not None:
        start = after.seq
    elif place < start:
        start = max(0, place - LEAD)
    end = min(end, start + limit)
    return Branch(turns[start:end], start > 0, end < len(turns) and before is None, {}, None)


def _find(conversation: Conversation, turn_id: UUID) -> Turn | None:
    if is_temporary(conversation.pk):
        return next((turn for turn in list_temporary_turns(conversation.pk) if turn.pk == turn_id), None)
    return rows.find(Turn, pk=turn_id, owner_id=conversation.owner_id, conversation_id=conversation.pk)


def _is_linear_until(turn: Turn) -> bool:
    """Return whether all turns that were asked before this one lead to it."""
    return turn.seq == turn.depth + 1


def _last_turns(leaf: Turn | None, page: Iterable[Turn], count: int) -> list[Turn]:
    """Return up to `count` turns that lead to the leaf and that one, oldest first. Those that are not in the page are
    read by two more statements."""
    known = {row.pk: row for row in page}
    path, turn = list[Turn](), leaf
    while turn is not None and len(path) < count:
        path.append(turn)
        turn = known.get(turn.parent_id) if turn.parent_id else None
    if path and len(path) < count and path[-1].parent_id is not None:
        ids = list_path_ids(path[-1])[:-1]
        path += _read(path[-1], ids[-(count - len(path)) :])[::-1]
    return path[::-1]


def _middle_turns(
    leaf: Turn | None, limit: int, *, after: Turn | None, at: Turn | None
) -> tuple[list[Turn], bool, bool]:
    """Return turns of a leaf's branch that follow one, or are around one; and whether it has earlier and later ones."""
    ids = list_path_ids(leaf) if leaf else []
    given = after or at
    if leaf is None or given is None or given.pk not in ids:
        return [], False, False
    place = ids.index(given.pk)
    start = place + 1 if after is not None else max(0, place - LEAD)
    return _read(leaf, ids[start : start + limit]), start > 0, start + limit < len(ids)


def list_path_ids(leaf: Turn) -> list[UUID]:
    """Return the ids of the turns that lead to the leaf and its own, the root first."""
    earlier = Turn.objects.filter(owner_id=leaf.owner_id, conversation_id=leaf.conversation_id, seq__lt=leaf.seq)
    parents = dict(earlier.values_list("pk", "parent_id")) if leaf.parent_id else {}
    path, parent_id = [leaf.pk], leaf.parent_id
    while parent_id in parents:
        path.append(parent_id)
        parent_id = parents.pop(parent_id)
    return path[::-1]


def _last_below(turn: Turn) -> UUID:
    """Return the id of the turn that was asked last of those below one, or its own: turns are asked after their
    parents, so one reading in their order finds all."""
    later = Turn.objects.filter(owner_id=turn.owner_id, conversation_id=turn.conversation_id, seq__gt=turn.seq)
    below, last = {turn.pk}, turn.pk
    for pk, parent_id in later.order_by("seq").values_list("pk", "parent_id"):
        if parent_id in below:
            below.add(pk)
            last = pk
    return last


def _read(of_conversation: Turn, ids: Sequence[UUID]) -> list[Turn]:
    """Return the turns in the order of their ids; those that are gone are left out."""
    if not ids:
        return []
    where = {"pk": tuple(ids), "owner_id": of_conversation.owner_id}
    found = {row.pk: row for row in rows.select(Turn, where)}
    return [found[pk] for pk in ids if pk in found]


Family = list[tuple[UUID, UUID | None]]
"""The ids of turns that follow the same turn, in the order they were asked, each with its `beside_id`."""


def _families_under(conversation: Conversation, parent_ids: set[UUID | None]) -> dict[UUID | None, Family]:
    """Return the turns that follow each of these."""
    of_conversation = {"owner_id": conversation.owner_id, "conversation_id": conversation.pk}
    names = ("pk", "parent_id", "beside_id")
    if len(parent_ids) == 1:  # on the way of a turn
        [parent_id] = parent_ids
        below: rows.Where = {"parent_id__isnull": True} if parent_id is None else {"parent_id": parent_id}
        found = rows.select_values(Turn, names, {**of_conversation, **below}, order_by="seq")
    else:
        where = Q(parent_id__in=parent_ids - {None})
        if None in parent_ids:
            where |= Q(parent_id=None)
        found = list(Turn.objects.filter(where, **of_conversation).order_by("seq").values_list(*names))
    families: dict[UUID | None, Family] = {}
    for pk, parent_id, beside_id in found:
        families.setdefault(parent_id, []).append((pk, beside_id))
    return families


def _siblings_among(turns: Iterable[Turn], families: dict[UUID | None, Family]) -> dict[UUID, Siblings]:
    found: dict[UUID, Siblings] = {}
    for turn in turns:
        ids = tuple(pk for pk, _beside_id in families.get(turn.parent_id, ()))
        if len(ids) > 1 and turn.pk in ids:
            found[turn.pk] = Siblings(ids, ids.index(turn.pk) + 1)
    return found


def _pair_of(
    conversation: Conversation, turn: Turn, families: dict[UUID | None, Family], page: Iterable[Turn]
) -> tuple[Turn, Turn] | None:
    """Return the turn and the one it is shown beside: it was asked beside that, or that beside it."""
    family = families.get(turn.parent_id, ())
    others = [pk for pk, beside_id in family if pk == turn.beside_id or (beside_id == turn.pk and pk != turn.pk)]
    if not others:
        return None
    other = next((row for row in page if row.pk == others[-1]), None) or _find(conversation, others[-1])
    if other is None:
        return None
    first, second = sorted((turn, other), key=lambda each: each.seq)
    return first, second
