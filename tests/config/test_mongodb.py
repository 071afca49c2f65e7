"""What the history relies on when it lives in MongoDB: its indexes exist, and a unique one really holds."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from django.db import IntegrityError, connections

from history import tree
from history.models import Conversation, Turn, new_id
from tests.history.growing import ANA, BO, ask, begin, unsaved
from tests.services import STORES

pytestmark = [
    pytest.mark.stores,
    pytest.mark.skipif(STORES != "mongodb", reason="needs STORES=mongodb"),
    pytest.mark.django_db(transaction=True, databases=["default", "history"]),
]


def indexes_of(collection: str) -> dict[str, Any]:
    """Return each index by its name: its keys in order, and whether it is unique."""
    connection = connections["history"]
    found = connection.database[collection].index_information()
    return {name: (list(map(tuple, index["key"])), index.get("unique", False)) for name, index in found.items()}


def test_the_history_is_in_mongodb():
    assert connections["history"].vendor == "mongodb"
    assert connections["default"].vendor == "sqlite"


def test_every_page_of_turns_has_its_index():
    indexes = indexes_of("history_turn")
    assert indexes["turn_page"] == ([("owner_id", 1), ("conversation_id", 1), ("seq", 1)], False)
    assert indexes["turn_open"] == ([("status", 1), ("created_at", 1)], False)


def test_the_list_of_conversations_has_its_index():
    assert indexes_of("history_conversation")["conversation_recent"] == ([("owner_id", 1), ("updated_at", -1)], False)


def test_the_order_of_turns_has_a_unique_index():
    assert indexes_of("history_turn")["one_seq"] == ([("conversation_id", 1), ("seq", 1)], True)


def test_rows_are_kept_under_their_own_ids():
    turn = ask(begin())
    database = connections["history"].database
    assert database["history_turn"].count_documents({}) == 1
    assert "id" not in database["history_turn"].find_one()
    assert Turn.objects.get(pk=turn.pk).pk == turn.pk


def test_two_turns_cannot_have_one_place():
    conversation = begin()
    unsaved(conversation, seq=1).save(force_insert=True)
    with pytest.raises(IntegrityError):
        unsaved(conversation, seq=1).save(force_insert=True)
    assert Turn.objects.count() == 1


def test_a_turn_cannot_be_moved_to_a_taken_place():
    conversation = begin()
    ask(conversation)
    second = ask(conversation)
    with pytest.raises(IntegrityError):
        Turn.objects.filter(pk=second.pk).update(seq=1)
    assert Turn.objects.get(pk=second.pk).seq == 2


def test_the_same_place_in_another_conversation_is_another_one():
    for conversation in (begin(), begin()):
        unsaved(conversation, seq=1).save(force_insert=True)
    assert Turn.objects.count() == 2


def test_two_turns_cannot_have_one_id():
    conversation, turn_id = begin(), new_id()
    unsaved(conversation, pk=turn_id, seq=1).save(force_insert=True)
    with pytest.raises(IntegrityError):
        unsaved(conversation, pk=turn_id, seq=2).save(force_insert=True)


def test_two_people_cannot_have_one_conversation():
    conversation = begin(ANA)
    with pytest.raises(IntegrityError):
        Conversation(pk=conversation.pk, owner_id=BO).save(force_insert=True)
    assert Conversation.objects.get().owner_id == ANA


def test_turns_written_at_once_get_a_place_each():
    conversation = begin()
    ready = Barrier(6)

    def write(number: int) -> int:
        ready.wait(10)
        try:
            seq: int = tree.add_turn(unsaved(conversation, f"pregunta {number}")).seq
        finally:
            connections["history"].close()
        return seq

    with ThreadPoolExecutor(6) as pool:
        places = list(pool.map(write, range(6)))
    assert sorted(places) == [1, 2, 3, 4, 5, 6]
    assert Conversation.objects.get().turn_count == 6
