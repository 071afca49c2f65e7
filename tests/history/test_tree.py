"""The tree of a conversation: every turn has its place, whoever writes at the same moment."""

from functools import partial
from typing import Any

import pytest
from django.db import IntegrityError, connections
from django.test.utils import CaptureQueriesContext

from core import rows
from core.errors import Conflict, NotFound
from history import progress, tree
from history.errors import Overtaken, ParentNotFinished
from history.models import Conversation, Turn, new_id, now
from tests.billing.together import together
from tests.history.growing import ANA, BO, ask, ask_in_a_row, begin, unsaved

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]


def path(leaf: Turn | None) -> list[Turn]:
    return list(tree.path_to_root(leaf))


def test_turns_are_numbered_in_the_order_they_are_added():
    conversation = begin()
    assert [ask(conversation).seq for _ in range(3)] == [1, 2, 3]


def test_every_conversation_has_numbers_of_its_own():
    ask(begin())
    assert ask(begin()).seq == 1


def test_a_turn_that_wants_a_number_gets_it_or_is_refused():
    conversation = begin()
    assert tree.add_turn(unsaved(conversation, seq=1)).seq == 1
    with pytest.raises(Overtaken):
        tree.add_turn(unsaved(conversation, seq=1))
    conversation.refresh_from_db()
    assert (Turn.objects.count(), conversation.turn_count) == (1, 1)


def test_of_turns_that_want_the_same_number_at_once_one_gets_it():
    conversation = begin()
    answers = together([partial(ask, conversation, seq=1) for _ in range(8)])
    assert sorted(type(answer).__name__ for answer in answers) == ["Overtaken"] * 7 + ["Turn"]
    assert Turn.objects.get().seq == 1


def test_adding_a_turn_is_counted_on_its_conversation():
    conversation = begin()
    before = conversation.updated_at
    ask_in_a_row(conversation, 2)
    conversation.refresh_from_db()
    assert conversation.turn_count == 2
    assert conversation.updated_at > before


def test_a_turn_is_found_by_the_words_of_its_question_at_once():
    assert ask(begin(), "¿Qué TAL?").search_text == "¿que tal?"


def test_adding_the_same_turn_again_returns_what_is_there():
    conversation = begin()
    turn = ask(conversation, "primera")
    again = tree.add_turn(unsaved(conversation, "otra cosa", id=turn.pk))
    assert (again.pk, again.seq, again.question) == (turn.pk, 1, "primera")
    assert Turn.objects.count() == 1
    conversation.refresh_from_db()
    assert conversation.turn_count == 1


def test_the_path_leads_from_a_turn_back_to_the_root():
    turns = ask_in_a_row(begin(), 4)
    assert path(turns[-1]) == turns[::-1]


def test_the_path_of_nothing_is_empty():
    assert path(None) == []


def test_the_path_of_a_root_is_the_root():
    turn = ask(begin())
    assert path(turn) == [turn]


def test_each_branch_has_a_path_of_its_own():
    conversation = begin()
    root = ask(conversation)
    first = ask(conversation, after=root)
    first_end = ask(conversation, after=first)
    edited = ask(conversation, after=root)
    edited_end = ask(conversation, after=edited)
    assert path(first_end) == [first_end, first, root]
    assert path(edited_end) == [edited_end, edited, root]


def test_a_second_root_is_a_path_of_its_own():
    conversation = begin()
    ask_in_a_row(conversation, 2)
    other = ask(conversation)
    assert path(other) == [other]


def test_a_path_of_many_pages_is_whole_and_takes_few_statements():
    conversation, turns = begin(), list[Turn]()
    for number in range(800):
        parent_id = turns[-1].pk if turns else None
        turns.append(unsaved(conversation, parent_id=parent_id, seq=number + 1, depth=number))
    Turn.objects.bulk_create(turns)
    with CaptureQueriesContext(connections["history"]) as statements:
        assert path(turns[-1]) == turns[::-1]
    assert len(statements) <= 5  # of 50, 51, 102, 204 and 392 turns; MongoDB's are not counted


def test_a_path_is_whole_where_branches_alternate():
    conversation = begin()
    branches = [[ask(conversation)], [ask(conversation)]]
    for number in range(110):
        branch = branches[number % 2]
        branch.append(ask(conversation, after=branch[-1]))
    for branch in branches:
        assert path(branch[-1]) == branch[::-1]


def test_an_old_branch_taken_up_again_leads_back_over_the_gap():
    conversation = begin()
    old = ask_in_a_row(conversation, 3)
    ask_in_a_row(conversation, 70)
    taken_up = ask_in_a_row(conversation, 3, after=old[-1])
    assert path(taken_up[-1]) == [*taken_up[::-1], *old[::-1]]


def test_a_path_may_be_left_early():
    turns = ask_in_a_row(begin(), 5)
    walk = tree.path_to_root(turns[-1])
    assert [next(walk), next(walk)] == [turns[4], turns[3]]


def test_a_path_ends_where_a_turn_is_missing():
    conversation = begin()
    orphan = ask(conversation, after=new_id())
    assert path(orphan) == [orphan]


def test_a_path_never_leads_to_somebody_elses_turn():
    foreign = ask(begin(BO))
    mine = ask(begin(ANA), after=foreign)
    assert path(mine) == [mine]


def test_the_latest_turn_is_the_one_added_last_whatever_its_branch():
    conversation = begin()
    root, _ = ask_in_a_row(conversation, 2)
    edited = ask(conversation, after=root)
    assert tree.find_latest(ANA, conversation.pk) == edited


def test_an_empty_conversation_has_no_latest_turn():
    assert tree.find_latest(ANA, begin().pk) is None


def test_a_finished_turn_can_be_continued():
    conversation = begin()
    turn = ask(conversation)
    assert tree.find_parent(ANA, conversation.pk, turn.pk) == turn


@pytest.mark.parametrize("status", ["stopped", "failed", "interrupted"])
def test_a_turn_that_ended_badly_can_be_continued(status):
    conversation = begin()
    turn = ask(conversation, status=status)
    assert tree.find_parent(ANA, conversation.pk, turn.pk) == turn


@pytest.mark.parametrize("status", ["queued", "streaming"])
def test_a_turn_that_is_being_written_cannot_be_continued(status):
    conversation = begin()
    turn = ask(conversation, status=status)
    with pytest.raises(ParentNotFinished):
        tree.find_parent(ANA, conversation.pk, turn.pk)


def test_somebody_elses_turn_cannot_be_continued():
    conversation = begin(BO)
    turn = ask(conversation)
    with pytest.raises(NotFound):
        tree.find_parent(ANA, conversation.pk, turn.pk)


def test_a_turn_of_another_conversation_cannot_be_continued():
    turn = ask(begin())
    with pytest.raises(NotFound):
        tree.find_parent(ANA, begin().pk, turn.pk)


def test_a_conversation_begins_with_the_first_line_of_its_question():
    assert begin(title="  Hola,\n ¿qué tal? ").title == "Hola, ¿qué tal?"


def test_a_long_title_is_cut_at_a_word():
    title = begin(title="palabra " * 20).title
    assert title == "palabra palabra palabra palabra palabra palabra palabra…"


def test_a_title_without_spaces_is_cut_too():
    assert begin(title="x" * 500).title == "x" * 60 + "…"


def test_opening_a_conversation_again_changes_nothing():
    conversation = begin(title="Primera")
    assert begin(title="Segunda", conversation_id=conversation.pk).title == "Primera"
    assert Conversation.objects.count() == 1


def test_somebody_elses_conversation_cannot_be_opened():
    conversation = begin(BO)
    with pytest.raises(Conflict):
        begin(ANA, conversation_id=conversation.pk)
    assert Conversation.objects.get().owner_id == BO


def test_a_conversation_opened_by_many_at_once_is_begun_once():
    conversation_id = new_id()
    answers = together([partial(begin, conversation_id=conversation_id)] * 12)
    assert {answer.pk for answer in answers} == {conversation_id}


def test_turns_added_at_once_all_get_a_number_of_their_own():
    conversation = begin()
    added = together([partial(ask, conversation) for _ in range(12)])
    assert sorted(turn.seq for turn in added) == list(range(1, 13))
    conversation.refresh_from_db()
    assert conversation.turn_count == 12


def test_the_same_turn_added_by_many_at_once_is_there_once():
    conversation = begin()
    turn_id = new_id()
    added = together([partial(ask, conversation, id=turn_id) for _ in range(12)])
    assert {(turn.pk, turn.seq) for turn in added} == {(turn_id, 1)}
    assert Turn.objects.count() == 1
    conversation.refresh_from_db()
    assert conversation.turn_count == 1


def test_the_database_refuses_a_number_that_is_taken():
    conversation = begin()
    ask(conversation)
    with pytest.raises(IntegrityError):
        unsaved(conversation, seq=1).save(force_insert=True)
    assert Turn.objects.count() == 1


def test_the_database_refuses_an_id_that_is_taken():
    turn = ask(begin())
    with pytest.raises(IntegrityError):
        unsaved(begin(), id=turn.pk, seq=9).save(force_insert=True)


# --- A conversation and its first turn in one go ----------------------------------------------------------------------


def first(owner_id: int = ANA, question: str = "¿Qué TAL?", **fields: Any) -> Turn:
    """Return the unsaved first turn of a conversation that is not there yet."""
    of_nobody = Conversation(pk=new_id(), owner_id=owner_id)
    return unsaved(of_nobody, question, **fields)


def test_a_conversation_begins_with_its_first_turn():
    turn = first()
    conversation, written = tree.start_conversation(turn)
    assert written is turn
    found = Conversation.objects.get()
    assert (found, found.owner_id, found.title, found.turn_count) == (conversation, ANA, "¿Qué TAL?", 1)
    saved = Turn.objects.get()
    assert (saved, saved.seq, saved.search_text) == (turn, 1, "¿que tal?")
    assert saved.conversation_id == conversation.pk


def test_the_conversation_that_is_returned_is_the_one_that_is_kept():
    conversation, _ = tree.start_conversation(first())
    found = Conversation.objects.get()
    assert (conversation.title, conversation.owner_id, conversation.created_at) == (
        *(found.title, found.owner_id, found.created_at),
    )


def test_a_conversation_somebody_has_begun_meanwhile_gets_the_turn_too():
    earlier = first()
    tree.start_conversation(earlier)
    later = first(question="otra", conversation_id=earlier.conversation_id)
    conversation, written = tree.start_conversation(later)
    assert (written, written.seq) == (later, 2)
    assert (conversation.pk, conversation.title) == (earlier.conversation_id, "¿Qué TAL?")
    assert Conversation.objects.get().turn_count == 2


def test_a_turn_that_wants_to_be_the_first_of_a_conversation_is_or_is_refused():
    for _ in range(5):
        conversation_id = new_id()
        turns = [first(conversation_id=conversation_id, seq=1) for _ in range(4)]
        answers = together([partial(tree.start_conversation, turn) for turn in turns])
        assert sorted(type(answer).__name__ for answer in answers) == ["Overtaken"] * 3 + ["tuple"]
        assert Turn.objects.get(conversation_id=conversation_id).seq == 1


def test_the_same_turn_begun_again_is_what_is_there():
    turn = first()
    tree.start_conversation(turn)
    again = first(question="otra", id=turn.pk, conversation_id=turn.conversation_id)
    _, written = tree.start_conversation(again)
    assert written is not again
    assert (written.pk, written.seq, written.question) == (turn.pk, 1, "¿Qué TAL?")
    assert (Turn.objects.count(), Conversation.objects.get().turn_count) == (1, 1)


def test_somebody_elses_conversation_cannot_be_begun():
    theirs = first(BO)
    tree.start_conversation(theirs)
    before = Conversation.objects.values().get()
    with pytest.raises(Conflict):
        tree.start_conversation(first(ANA, conversation_id=theirs.conversation_id))
    assert Conversation.objects.values().get() == before
    assert Turn.objects.get() == theirs


def test_two_that_begin_a_conversation_at_once_are_both_there():
    for _ in range(10):
        conversation_id = new_id()
        turns = [first(question=question, conversation_id=conversation_id) for question in ("uno", "dos")]
        answers = together([partial(tree.start_conversation, turn) for turn in turns])
        assert {conversation.pk for conversation, _ in answers} == {conversation_id}
        assert [written for _, written in answers] == turns
        found = Turn.objects.filter(conversation_id=conversation_id)
        assert sorted(found.values_list("seq", flat=True)) == [1, 2]
        conversation = Conversation.objects.get(pk=conversation_id)
        assert (conversation.turn_count, conversation.title in ("uno", "dos")) == (2, True)


def test_many_that_begin_a_conversation_at_once_are_all_there():
    conversation_id = new_id()
    answers = together([partial(tree.start_conversation, first(conversation_id=conversation_id)) for _ in range(10)])
    assert sorted(written.seq for _, written in answers) == list(range(1, 11))
    assert Turn.objects.count() == Conversation.objects.get().turn_count == 10


def test_the_same_turn_begun_by_many_at_once_is_there_once():
    turn_id, conversation_id = new_id(), new_id()
    turns = [first(id=turn_id, conversation_id=conversation_id) for _ in range(10)]
    answers = together([partial(tree.start_conversation, turn) for turn in turns])
    assert {(written.pk, written.seq) for _, written in answers} == {(turn_id, 1)}
    assert sum(written is turn for turn, (_, written) in zip(turns, answers, strict=True)) == 1
    assert (Turn.objects.count(), Conversation.objects.get().turn_count) == (1, 1)


def test_two_people_that_begin_the_same_conversation_at_once_do_not_share_it():
    for _ in range(10):
        conversation_id = new_id()
        turns = [first(owner_id, conversation_id=conversation_id) for owner_id in (ANA, BO)]
        answers = together([partial(tree.start_conversation, turn) for turn in turns])
        refused = [answer for answer in answers if isinstance(answer, Exception)]
        assert [type(error) for error in refused] == [Conflict]
        found = Turn.objects.get(conversation_id=conversation_id)
        conversation = Conversation.objects.get(pk=conversation_id)
        assert (found.owner_id, found.seq, conversation.turn_count) == (conversation.owner_id, 1, 1)


def test_the_id_of_a_turn_of_another_conversation_begins_nothing_of_its_own():
    """Its turn is returned, for the caller to look at."""
    turn = first()
    tree.start_conversation(turn)
    _, written = tree.start_conversation(first(id=turn.pk))
    assert (written, written.conversation_id) == (turn, turn.conversation_id)
    assert (Turn.objects.count(), Conversation.objects.count()) == (1, 1)


def test_a_turn_that_somebody_has_begun_to_write_is_not_undone(monkeypatch: pytest.MonkeyPatch):
    conversation, insert = begin(), rows.insert

    def begun_meanwhile(row: Turn) -> None:
        insert(row)
        assert progress.claim(Turn.objects.get(pk=row.pk))
        Conversation.objects.filter(pk=conversation.pk).update(trashed_at=now())

    monkeypatch.setattr(rows, "insert", begun_meanwhile)
    with pytest.raises(NotFound):
        ask(conversation, status=Turn.Status.QUEUED)
    assert Turn.objects.get().status == Turn.Status.STREAMING  # its runner stops and closes it
