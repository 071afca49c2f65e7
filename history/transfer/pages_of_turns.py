"""Reads a conversation to be exported, a page of turns at a time, whatever its length."""

from collections.abc import Iterator
from uuid import UUID

from core import rows
from history.models import Conversation, Turn

PAGE_TURNS = 50


def iterate_tree(conversation: Conversation) -> Iterator[list[Turn]]:
    """Yield all turns in the order they were asked, one statement for each page."""
    after = 0
    while True:
        where = {"owner_id": conversation.owner_id, "conversation_id": conversation.pk, "seq__gt": after}
        page = rows.select(Turn, where, order_by="seq", limit=PAGE_TURNS)
        if page:
            yield page
        if len(page) < PAGE_TURNS:
            return
        after = page[-1].seq


def iterate_branch(conversation: Conversation) -> Iterator[list[Turn]]:
    """Yield the turns of the branch its owner has chosen, the first ones first: one statement for the tree's shape, and
    one for each page."""
    path = _list_branch(conversation)
    for start in range(0, len(path), PAGE_TURNS):
        wanted = tuple(path[start : start + PAGE_TURNS])
        where = {"owner_id": conversation.owner_id, "pk": wanted}
        yield rows.select(Turn, where, order_by="seq")


def _list_branch(conversation: Conversation) -> list[UUID]:
    turns = Turn.objects.filter(owner_id=conversation.owner_id, conversation_id=conversation.pk)
    parents: dict[UUID, UUID | None] = dict(turns.order_by("seq").values_list("pk", "parent_id"))
    leaf = conversation.leaf_id if conversation.leaf_id in parents else next(reversed(parents), None)
    path: list[UUID] = []
    while leaf is not None and leaf in parents and len(path) < len(parents):
        path.append(leaf)
        leaf = parents[leaf]
    return path[::-1]
