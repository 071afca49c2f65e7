"""Conversations in order: pinned, archived, in folders; many at once, and undone."""

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext

from core import rows
from core.errors import Conflict, NotFound
from history import access, folders, order, trash, tree
from history.models import Conversation, Folder, new_id
from history.sidebar import read_sidebar
from tests.history.growing import ANA, BO, begin, unsaved

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]


def titles(found: Any) -> list[str]:
    return [row.title for row in found]


def listed(**where: Any) -> list[str]:
    return titles(access.list_conversations(ANA, **where).rows)


def do(act: str, *conversations: Conversation) -> order.Done:
    return order.do(ANA, act, {row.pk: None for row in conversations})


def undo(done: order.Done) -> order.Done:
    return order.do(ANA, *order.read_act(done.undo))


def test_the_sidebar_has_pins_then_folders_then_the_rest_by_date():
    cooking, travel = (folders.create_folder(ANA, name=name) for name in ("cocina", "Viajes"))
    folders.create_folder(BO, name="Ajena")
    for title in ("uno", "dos", "tres", "cuatro", "cinco", "seis"):
        begin(title=title)
    begin(BO, "ajena")
    one, two, three, four, *_ = Conversation.objects.filter(owner_id=ANA).order_by("created_at")
    do("pin", one)
    order.move(ANA, {two.pk: cooking.pk, one.pk: travel.pk})
    do("archive", three)
    do("trash", four)
    with CaptureQueriesContext(connections["history"]) as statements:
        found = read_sidebar(ANA, limit=1)
        lines = [(row.title, row.is_pinned, row.is_archived, row.folder_id) for row in found.pinned]
    assert lines == [("uno", True, None, travel.pk)]
    assert [folder.name for folder in found.folders] == ["cocina", "Viajes"]
    assert [folder.name for folder in folders.list_folders(ANA)] == ["cocina", "Viajes"]
    assert titles(found.loose.rows) == ["seis"]
    assert titles(access.list_loose(ANA, after=found.loose.next).rows) == ["cinco"]
    assert len(statements) <= (1 if rows.speaks_sql(Conversation) else 3)
    assert listed() == ["seis", "cinco", "dos", "uno"]
    assert listed(folder_id=cooking.pk) == ["dos"]
    assert listed(place="archive") == ["tres"]
    assert listed(place="trash") == ["cuatro"]
    # Whoever asks in an archived one uses it; what a program asks leaves it there.
    tree.add_turn(unsaved(three, is_completion=True))
    assert listed(place="archive") == ["tres"]
    tree.add_turn(unsaved(three))
    assert listed(place="archive") == []
    assert listed()[0] == "tres"


@pytest.mark.parametrize("act", ["pin", "archive", "trash"])
def test_what_is_done_to_many_is_undone_for_those_it_reached(act: str):
    first, second, foreign = begin(title="uno"), begin(title="dos"), begin(BO)
    before = do(act, first)
    done = do(act, first, second, foreign)
    assert (before.ids, done.ids) == ([first.pk], [second.pk])
    undo(done)
    place = {"archive": "archive", "trash": "trash"}.get(act, "list")
    assert "uno" in listed(place=place)
    assert listed() == (["dos", "uno"] if act == "pin" else ["dos"])
    foreign.refresh_from_db()
    assert not (foreign.is_pinned)
    assert not (foreign.is_archived)
    assert not (foreign.trashed_at)
    undo(before)
    assert listed() == ["dos", "uno"]
    assert do(act, foreign).undo == ""


def test_a_move_is_undone_to_where_each_was():
    old, other = folders.create_folder(ANA, name="a"), folders.create_folder(ANA, name="b")
    first, second = begin(title="uno"), begin(title="dos")
    order.move(ANA, {first.pk: old.pk})
    undo(order.move(ANA, {first.pk: other.pk, second.pk: other.pk}))
    assert (listed(folder_id=old.pk), listed(folder_id=other.pk)) == (["uno"], [])
    for foreign in (folders.create_folder(BO, name="c").pk, new_id()):
        with pytest.raises(NotFound):
            order.move(ANA, {first.pk: foreign})
    assert listed(folder_id=old.pk) == ["uno"]


@pytest.mark.parametrize("written", ["", "pin", "fly:1", "pin:x", "move:x=y", "erase:", "trash:" + "0" * 40])
def test_what_is_no_act_does_nothing(written: str):
    begin()
    try:
        assert order.do(ANA, *order.read_act(written)).ids == []
    except NotFound:
        pass
    assert len(listed()) == 1


@pytest.mark.parametrize("with_conversations", [True, False])
def test_a_folder_is_deleted_and_its_conversations_stay_or_go_into_the_trash(with_conversations: bool):
    folder = folders.create_folder(ANA, name="Cocina")
    inside, outside = begin(title="dentro"), begin(title="fuera")
    order.move(ANA, {inside.pk: folder.pk})
    folders.delete_folder(folder, with_conversations=with_conversations)
    assert listed() == (["fuera"] if with_conversations else ["fuera", "dentro"])
    trash.restore_conversations(ANA, [inside.pk])
    assert titles(read_sidebar(ANA, limit=9).loose.rows) == ["fuera", "dentro"]
    assert not Folder.objects.exists()
    assert outside.folder_id is None


def test_what_is_moved_into_a_folder_while_that_is_deleted_is_in_none(monkeypatch: pytest.MonkeyPatch):
    folder, conversation = folders.create_folder(ANA, name="Cocina"), begin(title="uno")
    access_folder = folders.access_folder

    def overtaken(*arguments: Any) -> Folder:
        found = access_folder(*arguments)
        folders.delete_folder(found)
        return found

    monkeypatch.setattr(folders, "access_folder", overtaken)
    order.move(ANA, {conversation.pk: folder.pk})
    conversation.refresh_from_db()
    assert conversation.folder_id is None


def test_what_somebody_moves_there_and_dies_is_in_no_folder_either(monkeypatch: pytest.MonkeyPatch):
    folder, conversation, empty = folders.create_folder(ANA, name="Cocina"), begin(title="uno"), folders._empty

    def overtaken(*arguments: Any) -> None:
        empty(*arguments)
        monkeypatch.setattr(folders, "_empty", empty)
        Conversation.objects.filter(pk=conversation.pk).update(folder_id=folder.pk)

    monkeypatch.setattr(folders, "_empty", overtaken)
    folders.delete_folder(folder)
    conversation.refresh_from_db()
    assert conversation.folder_id is None


def just_before_an_insertion(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    """Have another request do something just before this one writes a row."""
    insert = rows.insert

    def overtaken(row: Any) -> None:
        monkeypatch.setattr(rows, "insert", insert)
        act()
        insert(row)

    monkeypatch.setattr(rows, "insert", overtaken)


def test_there_are_only_so_many_folders(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folders, "MAX_FOLDERS", 1)
    just_before_an_insertion(monkeypatch, lambda: folders.create_folder(ANA, name="a"))
    for name in "bc":
        with pytest.raises(folders.TooManyFolders):
            folders.create_folder(ANA, name=name)
    (folder,) = folders.list_folders(ANA)
    assert folder.name == "a"
    assert folders.create_folder(ANA, id=folder.pk, name="a") == folder


def test_a_folder_that_is_made_twice_at_once_is_one(monkeypatch: pytest.MonkeyPatch):
    fields = {"id": new_id(), "name": "a"}
    just_before_an_insertion(monkeypatch, lambda: folders.create_folder(ANA, **fields))
    assert [folders.create_folder(ANA, **fields)] == folders.list_folders(ANA)
    with pytest.raises(Conflict):
        folders.create_folder(BO, **fields)


def test_only_what_is_in_the_trash_is_deleted_for_good_and_said_to_be():
    trashed, kept = begin(), begin()
    do("trash", trashed)
    assert do("erase", trashed, kept).ids == [trashed.pk]
    with pytest.raises(NotFound):
        do("erase", trashed, kept)


def test_ten_thousand_conversations_take_as_many_statements_as_ten():
    Conversation.objects.bulk_create([Conversation(owner_id=ANA, title=str(n)) for n in range(10)])

    def statements() -> int:
        with CaptureQueriesContext(connections["history"]) as captured:
            page = access.list_conversations(ANA)
            loose = read_sidebar(ANA, limit=20).loose
            access.list_loose(ANA, after=loose.next)
            access.list_conversations(ANA, "trash")
            assert len(page.rows) <= access.PAGE_SIZE
        return len(captured)

    few = statements()
    Conversation.objects.bulk_create(
        [Conversation(owner_id=ANA, title=str(n)) for n in range(10_000)], batch_size=1_000
    )
    assert statements() == few
    seen, after = 0, None
    for _ in range(3):
        page = access.list_conversations(ANA, after=after)
        seen, after = seen + len(page.rows), page.next
    assert (seen, bool(after)) == (3 * access.PAGE_SIZE, True)
