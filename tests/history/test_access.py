"""What somebody may see of the history: theirs, all of it, and nothing else."""

import datetime as dt

import pytest
from django.db import connections
from django.utils import timezone

from core.errors import NotFound
from history import access, deletion
from history.models import Conversation, Turn, new_id
from tests.history.growing import ANA, BO, ask, ask_in_a_row, begin

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]


def pages(owner_id: int, limit: int) -> list[list[Conversation]]:
    """Follow the cursors to the end; return what is on each page."""
    found, after = [], None
    while True:
        page = access.list_conversations(owner_id, after=after, limit=limit)
        found.append(page.rows)
        if page.next is None:
            return found
        after = page.next


def used(conversation: Conversation, moment: dt.datetime) -> Conversation:
    Conversation.objects.filter(pk=conversation.pk).update(updated_at=moment)
    return conversation


def test_your_conversation_is_yours():
    conversation = begin()
    assert access.access_conversation(ANA, conversation.pk) == conversation


def test_your_turn_is_yours():
    turn = ask(begin())
    assert access.access_turn(ANA, turn.pk) == turn


def refusal(of, owner_id: int, pk) -> tuple:
    with pytest.raises(NotFound) as refused:
        of(owner_id, pk)
    return type(refused.value), refused.value.code, str(refused.value.message), refused.value.status


def test_a_missing_and_a_foreign_conversation_look_the_same():
    foreign = begin(BO)
    missing = refusal(access.access_conversation, ANA, new_id())
    assert refusal(access.access_conversation, ANA, foreign.pk) == missing


def test_a_missing_and_a_foreign_turn_look_the_same():
    foreign = ask(begin(BO))
    assert refusal(access.access_turn, ANA, foreign.pk) == refusal(access.access_turn, ANA, new_id())


def test_those_who_check_themselves_find_whoever_owns_it():
    turn = ask(begin(BO))
    assert access.find_turn(turn.pk) == turn
    assert access.find_conversation(turn.conversation_id).owner_id == BO
    assert access.find_turn(new_id()) is None
    assert access.find_conversation(new_id()) is None


def test_conversations_are_listed_last_used_first():
    first, second, third = begin(), begin(), begin()
    ask(first)
    assert access.list_conversations(ANA).rows == [first, third, second]


def test_only_your_conversations_are_listed():
    begin(BO)
    mine = begin()
    assert access.list_conversations(ANA).rows == [mine]


def test_without_conversations_there_is_one_empty_page():
    assert pages(ANA, 3) == [[]]


@pytest.mark.parametrize("count", [2, 3, 4, 6, 7])
def test_pages_hold_every_conversation_once(count):
    begun = [begin() for _ in range(count)]
    begin(BO)
    found = pages(ANA, 3)
    assert [row for page in found for row in page] == begun[::-1]
    assert all(len(page) == 3 for page in found[:-1])
    assert found[-1]


def test_pages_hold_every_conversation_once_when_all_were_used_at_the_same_moment():
    moment = timezone.now()
    begun = {used(begin(), moment).pk for _ in range(11)}
    found = [row.pk for page in pages(ANA, 3) for row in page]
    assert len(found) == 11
    assert set(found) == begun


def test_pages_hold_every_conversation_once_when_moments_differ_by_microseconds():
    moment = timezone.now().replace(microsecond=500_000)
    begun = {used(begin(), moment + dt.timedelta(microseconds=300 * n)).pk for n in range(11)}
    found = [row.pk for page in pages(ANA, 2) for row in page]
    assert len(found) == 11
    assert set(found) == begun


def test_a_conversation_used_while_somebody_pages_hides_no_other():
    begun = [begin() for _ in range(6)]
    first = access.list_conversations(ANA, limit=3)
    ask(begun[0])  # the oldest becomes the newest
    rest = access.list_conversations(ANA, after=first.next, limit=3)
    assert [*first.rows, *rest.rows] == begun[:0:-1]


def test_a_later_page_is_read_from_where_it_begins():
    if connections["history"].vendor != "sqlite":
        pytest.skip("of sqlite alone")
    cursor = access.write_cursor(timezone.now(), new_id())
    listed = access.rows_after(Conversation.objects.filter(owner_id=ANA), "updated_at", cursor)
    assert "conversation_recent (owner_id=? AND updated_at<?)" in listed.order_by("-updated_at", "-pk").explain()


SOMEBODYS = "0193a1b0-0000-7000-8000-000000000001"


@pytest.mark.parametrize(
    "cursor", ["x", "~", "2026-11-24~x", "x~y", f"yesterday~{SOMEBODYS}", f"2026-11-24T00:00:00+00:00~{SOMEBODYS}~3"]
)
def test_a_cursor_that_is_not_ours_leads_nowhere(cursor):
    with pytest.raises(NotFound):
        access.list_conversations(ANA, after=cursor)


@pytest.mark.parametrize(
    "moment",
    ["2026-11-24", "2026-11-24T00:00:00", "0001-01-01T00:00:00+14:00", "0001-01-01T00:00Z", "9999-12-31T23:59Z"],
)
def test_a_cursor_with_a_moment_that_is_not_ours_leads_nowhere(moment):
    with pytest.raises(NotFound):
        access.list_conversations(ANA, after=f"{moment}~{new_id()}")


def test_turns_are_listed_in_the_order_they_were_asked():
    conversation = begin()
    turns = ask_in_a_row(conversation, 3)
    page = access.list_turns(conversation)
    assert (page.rows, page.next) == (turns, None)


def test_pages_hold_every_turn_once():
    conversation = begin()
    turns = ask_in_a_row(conversation, 7)
    ask(begin())
    first = access.list_turns(conversation, limit=3)
    second = access.list_turns(conversation, after=int(first.next), limit=3)
    third = access.list_turns(conversation, after=int(second.next), limit=3)
    assert [first.rows, second.rows, third.rows] == [turns[:3], turns[3:6], turns[6:]]
    assert third.next is None


def test_a_last_page_that_is_full_is_the_last():
    conversation = begin()
    ask_in_a_row(conversation, 3)
    assert access.list_turns(conversation, limit=3).next is None


def test_a_renamed_conversation_keeps_its_place():
    first, second = begin(), begin()
    access.rename_conversation(first, "Otro nombre")
    rows = access.list_conversations(ANA).rows
    assert [(row.pk, row.title) for row in rows] == [(second.pk, "Saludos"), (first.pk, "Otro nombre")]


def test_renaming_does_not_undo_what_happened_meanwhile():
    conversation = begin()
    ask(begin(conversation_id=conversation.pk))
    access.rename_conversation(conversation, "Otro nombre")
    assert Conversation.objects.get().turn_count == 1


def test_deleting_a_conversation_deletes_its_turns_and_no_others():
    conversation, other = begin(), begin()
    ask_in_a_row(conversation, 3)
    kept = ask(other)
    deletion.delete_conversation(conversation)
    assert list(Turn.objects.all()) == [kept]
    assert list(Conversation.objects.all()) == [other]
