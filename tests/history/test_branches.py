"""Branches: what is shown of the chosen one, its siblings, and the choice of another."""

from functools import partial

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from core.errors import NotFound
from history import branches
from history.branches import Siblings
from history.models import Conversation, Turn, new_id
from history.signals import branch_chosen
from tests.billing.together import together
from tests.history.growing import ANA, BO, ask, ask_in_a_row, begin, unsaved

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]


def shown(conversation: Conversation, *, limit: int = 30, **window: Turn) -> list[Turn]:
    return branches.list_branch(conversation, limit=limit, **window).turns


def leaf(conversation: Conversation) -> Turn | None:
    return branches.find_branch_end(Conversation.objects.get(pk=conversation.pk)).leaf


def choose(conversation: Conversation, turn: Turn | None) -> None:
    branches.choose_branch(Conversation.objects.get(pk=conversation.pk), turn)
    conversation.refresh_from_db()


def two_branches() -> tuple[Conversation, Turn, list[Turn], list[Turn]]:
    """Return a conversation whose second question was edited, its root, and the turns of both branches below it."""
    conversation = begin()
    root = ask(conversation)
    first = ask_in_a_row(conversation, 2, after=root)
    second = ask_in_a_row(conversation, 3, after=root)
    return conversation, root, first, second


def test_the_branch_that_was_used_last_is_the_chosen_one():
    conversation, root, _first, second = two_branches()
    assert shown(conversation) == [root, *second]
    assert leaf(conversation) == second[-1]


def test_a_sibling_is_chosen_with_what_was_asked_last_below_it():
    conversation, root, first, second = two_branches()
    again = ask(conversation, after=first[0])
    choose(conversation, second[0])
    assert shown(conversation) == [root, *second]
    choose(conversation, first[0])
    assert shown(conversation) == [root, first[0], again]
    assert conversation.leaf_id == again.pk


def test_a_turn_of_the_chosen_branch_changes_nothing_and_tells_nobody():
    conversation, root, first, second = two_branches()
    last = second[-1].pk
    told: list[Conversation] = []
    hear = lambda conversation, **_signal: told.append(conversation)  # noqa: E731
    branch_chosen.connect(hear)
    for turn, leaf_id, count in (
        (root, None, 0),
        (second[1], None, 0),
        (first[0], first[1].pk, 1),
        (root, first[1].pk, 1),
    ):
        choose(conversation, turn)
        assert (conversation.leaf_id, len(told)) == (leaf_id, count)
    for _ in range(2):
        choose(conversation, None)
        assert (conversation.leaf_id, len(told)) == (last, 2)
    branch_chosen.disconnect(hear)


def test_a_new_turn_is_on_the_chosen_branch():
    conversation, root, first, _second = two_branches()
    choose(conversation, first[0])
    new = ask(conversation, after=first[1])
    conversation.refresh_from_db()
    assert conversation.leaf_id is None
    assert shown(conversation) == [root, *first, new]


def test_whoever_dies_between_a_turn_and_its_conversation_leaves_the_branch_chosen():
    conversation, root, first, _second = two_branches()
    choose(conversation, first[0])
    new = ask_in_a_row(conversation, 2, after=first[1])
    Conversation.objects.filter(pk=conversation.pk).update(leaf_id=first[1].pk)
    conversation.refresh_from_db()
    assert shown(conversation) == [root, *first, *new]
    assert leaf(conversation) == new[1]


def test_a_leaf_that_is_gone_or_of_another_conversation_is_the_turn_asked_last():
    conversation, _root, _first, second = two_branches()
    for leaf_id in (new_id(), ask(begin()).pk):
        Conversation.objects.filter(pk=conversation.pk).update(leaf_id=leaf_id)
        assert leaf(conversation) == second[-1]


def test_the_end_is_found_with_the_highest_number_whatever_branch_it_is_on():
    conversation, _root, first, second = two_branches()
    choose(conversation, first[0])
    assert branches.find_branch_end(conversation) == branches.End(first[1], second[-1].seq)
    assert branches.find_branch_end(begin()) == branches.End(None, 0)


def test_siblings_are_counted_in_the_order_they_were_asked():
    conversation, _root, first, second = two_branches()
    third = ask(conversation, after=first[0].parent_id)
    ids = (first[0].pk, second[0].pk, third.pk)
    branch = branches.list_branch(conversation, limit=30)
    assert branch.siblings == {third.pk: Siblings(ids, 3)}
    assert (branch.siblings[third.pk].previous, branch.siblings[third.pk].next) == (second[0].pk, None)
    assert branches.find_siblings(first[0]) == Siblings(ids, 1)
    assert branches.find_siblings(second[1]) is None
    other_root = ask(conversation)
    assert branches.list_branch(conversation, limit=30).siblings[other_root.pk].number == 2


def test_a_conversation_that_never_branches_is_read_by_one_statement_and_any_other_by_six():
    conversation = begin()
    turns = ask_in_a_row(conversation, 45)

    def count(**window: Turn) -> int:
        with CaptureQueriesContext(connections["history"]) as statements:
            assert len(shown(conversation, **window)) == 30
        return len(statements)

    if connections["history"].vendor == "mongodb":
        pytest.skip("Its statements are not counted.")
    assert count() == 1
    edited = ask(conversation, after=turns[38], beside_id=turns[39].pk)
    other = turns[-1]
    for _ in range(40):  # of two branches that grow at the same time one is not in a page
        edited, other = ask(conversation, after=edited), ask(conversation, after=other)
    assert count() <= 6
    choose(conversation, other)
    assert count() <= 6
    assert count(before=edited) <= 6
    assert count(at=turns[3]) <= 6


def test_a_turn_far_up_is_shown_among_its_neighbours():
    conversation = begin()
    turns = ask_in_a_row(conversation, 60)
    branch = branches.list_branch(conversation, limit=10, at=turns[20])
    assert branch.turns == turns[16:26]
    assert (branch.has_earlier, branch.has_later) == (True, True)
    branch = branches.list_branch(conversation, limit=10, after=turns[52])
    assert (branch.turns, branch.has_earlier, branch.has_later) == (turns[53:], True, False)
    assert shown(conversation, limit=10, at=turns[55]) == turns[50:]
    branch = branches.list_branch(conversation, limit=10, at=turns[0])
    assert (branch.turns, branch.has_earlier, branch.has_later) == (turns[:10], False, True)
    assert shown(conversation, after=ask(begin())) == []


def test_a_pair_stands_together_at_the_end_of_its_branch_alone():
    conversation = begin()
    root = ask(conversation)
    first = ask(conversation, after=root)
    second = ask(conversation, after=root, beside_id=first.pk)
    assert branches.list_branch(conversation, limit=30).pair == (first, second)
    conversation.refresh_from_db()
    assert conversation.leaf_id == first.pk  # it was the first choice
    choose(conversation, second)
    branch = branches.list_branch(conversation, limit=30)
    assert (branch.turns[-1], branch.pair) == (second, (first, second))
    ask(conversation, after=first)
    conversation.refresh_from_db()
    assert branches.list_branch(conversation, limit=30).pair is None


def test_a_branch_is_shown_whole_where_branches_alternate():
    conversation = begin()
    ends = [ask(conversation), ask(conversation)]
    walks = [[end] for end in ends]
    for number in range(110):
        walk = walks[number % 2]
        walk.append(ask(conversation, after=walk[-1]))
    for walk in walks:
        choose(conversation, walk[-1])
        assert shown(conversation) == walk[-30:]
        assert shown(conversation, before=walk[-30]) == walk[:-30]


def test_five_thousand_turns_are_read_and_switched():
    conversation = begin()
    rows, parent = [], None
    for number in range(5_000):
        turn = unsaved(conversation, parent_id=parent, seq=number + 1, depth=number)
        rows.append(turn)
        parent = turn.pk
    Turn.objects.bulk_create(rows, batch_size=500)
    assert shown(conversation) == rows[-30:]
    edited = ask(conversation, after=rows[9])
    assert shown(conversation)[-1] == edited
    choose(conversation, rows[10])
    assert conversation.leaf_id == rows[-1].pk
    assert shown(conversation, at=rows[100])[branches.LEAD] == rows[100]


def test_a_turn_of_another_conversation_or_owner_is_not_found():
    conversation = begin()
    for turn_id in (ask(begin()).pk, ask(begin(BO)).pk, new_id(), "no id"):
        with pytest.raises(NotFound):
            branches.get_turn(conversation, turn_id)


def test_of_many_that_choose_and_ask_at_once_the_leaf_is_valid():
    for _ in range(3):
        conversation, root, first, second = two_branches()
        together(
            [
                *(partial(choose, conversation, turn) for turn in (first[0], second[0], first[1])),
                *(partial(ask, conversation, after=turn) for turn in (root, first[1], second[-1])),
            ]
        )
        end = leaf(conversation)
        assert end is not None
        assert not Turn.objects.filter(parent_id=end.pk).exists()
        assert Turn.objects.filter(owner_id=ANA, conversation_id=conversation.pk).count() == 9
