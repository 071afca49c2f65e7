"""What is deleted: found by the sweep, whoever wrote it."""

from typing import Any

import pytest
from django.db import connections, transaction
from django.db.migrations.loader import MigrationLoader

from core import sweeps
from core.errors import NotFound
from history import access, deletion, tree
from history.models import Conversation, Turn
from tests.history.growing import ANA, ask, ask_in_a_row, begin
from tests.services import STORES

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]


@pytest.fixture
def old_conversation() -> Any:
    """The model as processes have it that were started before there were deletions (0004)."""
    state = MigrationLoader(connections["history"]).project_state(("history", "0003_route_files_price"))
    return state.apps.get_model("history", "Conversation")


def test_what_an_old_process_writes_after_the_migration_is_there_and_can_be_deleted(old_conversation: Any):
    written = old_conversation.objects.create(owner_id=ANA, title="hola")
    conversation = access.access_conversation(ANA, written.pk)
    assert access.list_conversations(ANA).rows == [conversation]
    turn = ask(conversation)
    assert access.access_turn(ANA, turn.pk) == turn
    assert access.title_conversation(conversation, "Saludos")
    assert tree.get_or_create_conversation(ANA, written.pk, title="") == conversation
    deletion.delete_conversation(conversation)
    assert access.list_conversations(ANA).rows == []
    assert not access.title_conversation(conversation, "Adiós")
    assert deletion.delete_history(ANA)
    assert not Conversation.objects.exists()


def test_an_old_process_deletes_a_person_s_whole_history(old_conversation: Any):
    old_conversation.objects.create(owner_id=ANA, title="hola")
    assert deletion.delete_history(ANA)


def test_who_is_titled_while_it_is_deleted_keeps_its_title(monkeypatch: pytest.MonkeyPatch):
    conversation = begin()
    monkeypatch.setattr(deletion, "erase_if_over", lambda *_, **__: False)
    deletion.delete_conversation(conversation)
    assert not access.title_conversation(conversation, "Adiós")
    with pytest.raises(NotFound):
        access.access_conversation(ANA, conversation.pk)


def test_the_sweep_for_deletions_reads_no_other_conversations():
    deleted = Conversation.objects.filter(is_deleted=True).order_by("created_at", "pk")
    Conversation.objects.bulk_create(Conversation(owner_id=ANA) for _ in range(200))
    if STORES == "postgresql":
        with transaction.atomic(using="history"), connections["history"].cursor() as cursor:
            cursor.execute("ANALYZE; SET LOCAL enable_seqscan = off")
            plan = deleted.explain()
    else:
        plan = deleted.explain()
    if STORES == "mongodb":
        indexes = connections["history"].get_collection(Conversation._meta.db_table).index_information()
        assert indexes["conversation_deleted"]["key"] == [("created_at", 1), ("_id", 1)]
    assert "conversation_deleted" in plan
    assert "TEMP B-TREE" not in plan
    assert "Sort" not in plan


def test_a_later_page_of_a_sweep_is_read_from_where_it_begins(monkeypatch: pytest.MonkeyPatch):
    if connections["history"].vendor != "sqlite":
        pytest.skip("of sqlite alone")
    plans, read = list[str](), sweeps._read_page

    def explained(found: Any) -> Any:
        plans.append(found.explain())
        return read(found)

    monkeypatch.setattr(sweeps, "PAGE_SIZE", 1)
    monkeypatch.setattr(sweeps, "_read_page", explained)
    turns = ask_in_a_row(begin(), 3)
    Turn.objects.update(status=Turn.Status.QUEUED)
    assert list(sweeps.iterate_pages(Turn.objects.filter(status=Turn.Status.QUEUED))) == [[turn] for turn in turns]
    assert "turn_open (status=? AND created_at>?)" in plans[1]
