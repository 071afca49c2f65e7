"""Reads a conversation to be exported, a page of turns at a time, whatever its length."""

from collections.abc import Iterator

from core import rows
from history.branches import find_branch_end, list_path_ids
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
    """Yield the turns of the branch its owner has chosen, the first ones first: at most three statements for the shape
    of the tree, and one for each page."""
    leaf = find_branch_end(conversation).leaf
    path = list_path_ids(leaf) if leaf else []
    for start in range(0, len(path), PAGE_TURNS):
        wanted = tuple(path[start : start + PAGE_TURNS])
        where = {"owner_id": conversation.owner_id, "pk": wanted}
        yield rows.select(Turn, where, order_by="seq")
