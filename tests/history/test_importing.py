"""Conversations from elsewhere: what they become; nothing is doubled, whatever dies; what is refused, and where."""

import datetime as dt
import io
import json
import random
from pathlib import Path
from typing import IO, Any

import msgspec
import pytest
from celery.exceptions import Retry
from django.core.files.storage import storages
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone, translation
from pytest_django import Settings

from accounts.models import User
from config import settings as site
from core import rows
from history import access, deletion, trash
from history.folding import MAX_SEARCHED, fold, searched
from history.models import Conversation, Import, Turn, new_id
from history.queries import parse_query
from history.search import search_turns
from history.signals import conversation_deleted
from history.transfer import archive, extract, importing, states
from history.transfer.importing import begin_import
from history.transfer.refusals import place_words
from history.transfer.sweeping import repair_transfers
from tests.history import sources
from tests.history.carrying import everything, imported, tree_of, work_off
from tests.history.sources import (
    as_json,
    chatgpt,
    chatgpt_message,
    chatgpt_tree,
    claude,
    claude_list,
    claude_message,
    claude_tree,
    zipped,
)

pytestmark = [pytest.mark.stores, pytest.mark.usefixtures("catalog")]


@pytest.fixture(autouse=True)
def folder(settings: Settings, tmp_path: Path, catalog: None) -> Path:
    options = {**site.STORAGES["transfers"]["OPTIONS"], "location": tmp_path / "transfers"}
    settings.STORAGES = {**site.STORAGES, "transfers": {**site.STORAGES["transfers"], "OPTIONS": options}}
    assert storages["transfers"].location == str(tmp_path / "transfers")
    return tmp_path / "transfers"


@pytest.fixture
def child() -> None:
    """For tests that want the process that reads; the others read in their own, which is quicker."""


@pytest.fixture(autouse=True)
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(row: Import, *files: IO[bytes]) -> Any:
        importing.write_state(row, percent=50)
        source, made = (Path(f"/dev/fd/{file.fileno()}") for file in files)
        return extract.main(source, made, row.name)

    if "child" not in request.fixturenames:
        monkeypatch.setattr(importing, "_extract", read)


def only() -> Conversation:
    return Conversation.objects.get()


def test_a_tree_of_chatgpt(child: None, ana: User, folder: Path):
    row = imported(ana.pk, as_json(chatgpt_tree()))
    assert (row.status, row.source, row.imported, row.turns, row.known) == ("done", "chatgpt", 1, 6, 0)
    assert json.loads(row.left_out) == {"hidden": 1, "images": 1, "files": 1, "tools": 2}
    conversation = only()
    assert (conversation.title, conversation.titled_by, conversation.turn_count) == ("Saludos", "person", 6)
    assert conversation.updated_at == dt.datetime.fromtimestamp(sources.BEGUN + 100, dt.UTC)
    assert [place[2] for place in tree_of(conversation.pk)] == [None, None, 0, 0, 3, 4]
    questions = [question for question, _answer, _parent in tree_of(conversation.pk)]
    assert questions[:3] == ["¿Qué árbol es?", "¿Qué árbol es?", "Gracias"]
    assert questions[3].startswith("¿Y este?\n\n[")
    assert "hoja.png" in questions[3]
    turns = list(Turn.objects.order_by("seq"))
    assert [turn.status for turn in turns] == ["completed"] * 4 + ["stopped"] * 2
    assert (turns[0].answer, turns[0].reasoning, turns[0].model) == ("Un roble.", "Hojas\n\nSon de roble.", "o3")
    assert turns[3].answer.startswith("Así.\n\n[")
    assert {turn.cost_micros for turn in turns} == {None}
    assert conversation.leaf_id == turns[2].pk, "The branch that was shown, though others are younger."
    found = search_turns(ana.pk, parse_query("ROBLE arbol", dt.UTC)).rows
    assert [hit.turn.pk for hit in found] == [turns[0].pk]
    assert conversation.search_title == "saludos"
    assert list(folder.iterdir()) == []


def test_conversations_of_claude(ana: User):
    row = imported(
        ana.pk, zipped({"data/conversations.json": as_json(claude_tree(), claude_list()), "users.json": b"[]"})
    )
    assert (row.status, row.source, row.imported, row.turns) == ("done", "claude", 2, 6)
    newer, older = (Conversation.objects.get(title=title) for title in ("Un plan", "…"))
    assert [place[1:] for place in tree_of(newer.pk)] == [
        ("Empieza por el suelo.", None),
        ("En otoño.", None),
        ("De nada.", 1),
    ]
    assert "plano.pdf" in Turn.objects.filter(conversation_id=newer.pk).order_by("seq")[0].question
    assert tree_of(older.pk) == [("…", "Hola.", None), ("Uno", "", 0), ("Dos", "Tres", 1)]
    assert older.leaf_id is None, "The turn that was asked last."
    assert older.kept_since >= row.created_at > older.updated_at, "Kept as if it had been used now."


def test_split_files_are_one_export(ana: User):
    parts = {
        f"conversations-{number:03}.json": as_json(
            chatgpt({"q": (None, chatgpt_message("user", "hola"))}, f"c{number}")
        )
        for number in range(3)
    }
    assert imported(ana.pk, zipped(parts | {"chat.html": b"<html>"})).imported == 3


def test_what_is_here_already_is_left_as_it_is(ana: User, bo: User):
    data = as_json(chatgpt_tree(), chatgpt({"q": (None, chatgpt_message("user", "hola"))}, "c2"))
    assert imported(ana.pk, data).imported == 2
    [first, second] = Conversation.objects.order_by("-turn_count")
    access.rename_conversation(first, "Mío")
    Conversation.objects.filter(pk=second.pk).update(trashed_at=timezone.now())
    before = everything()
    row = imported(ana.pk, data)
    assert (row.imported, row.known, row.turns) == (0, 2, 0)
    assert everything() == before
    assert access.access_conversation(ana.pk, first.pk).title == "Mío"
    assert imported(bo.pk, data).imported == 2, "Another person's are others."
    deletion.delete_conversation(second)
    assert imported(ana.pk, data).imported == 1, "What was deleted for good comes back."
    for conversation in Conversation.objects.filter(owner_id=ana.pk):
        trash.trash_conversations(ana.pk, [conversation.pk])
        trash.delete_from_trash(ana.pk, [conversation.pk])
    assert imported(ana.pk, data).imported == 2, "Also where the sweep comes after it."
    deletion.finish_deletions()
    assert Conversation.objects.filter(owner_id=ana.pk, is_deleted=None).count() == 2
    assert Turn.objects.filter(owner_id=ana.pk).count() == before[1]


def test_what_is_imported_again_is_not_erased_by_who_was_erasing_it(ana: User):
    """The trash was emptied; while a sweep erases it, an import does so too, and writes the same ids once more."""
    data = as_json(chatgpt_tree())
    assert imported(ana.pk, data).imported == 1
    trash.trash_conversations(ana.pk, [only().pk])
    trash.delete_from_trash(ana.pk, [only().pk])

    def overtaken(**_signal: Any) -> bool:
        conversation_deleted.disconnect(overtaken)
        return imported(ana.pk, data).imported == 1

    conversation_deleted.connect(overtaken)
    deletion.finish_deletions()
    assert access.list_conversations(ana.pk).rows == [only()]
    assert everything() == (1, only().turn_count)


def test_an_id_of_a_turn_that_is_somebody_elses_takes_no_conversation_apart(ana: User, bo: User):
    data = as_json(chatgpt_tree(), chatgpt({"q": (None, chatgpt_message("user", "hola"))}, "c2"))
    assert imported(ana.pk, data).imported == 2
    first = Conversation.objects.get(turn_count=6)
    taken = Turn.objects.filter(conversation_id=first.pk).order_by("seq")[2]
    Conversation.objects.all().delete()
    Turn.objects.all().delete()
    taken.owner_id, taken.conversation_id = bo.pk, new_id()
    rows.insert(taken)
    row = imported(ana.pk, data)
    assert (row.status, row.imported, msgspec.json.decode(row.left_out)["taken"]) == ("done", 1, 1)
    assert (Turn.objects.filter(owner_id=ana.pk).count(), Turn.objects.filter(owner_id=bo.pk).count()) == (1, 1)


class Killed(BaseException):
    """What no handler catches: a process that is gone."""


def test_whatever_a_worker_dies_on_nothing_is_doubled_or_half(ana: User, monkeypatch: pytest.MonkeyPatch):
    """It dies at each write of the import in turn, and another goes on with it."""
    data = as_json(*(chatgpt_tree() | {"conversation_id": f"c{number}"} for number in range(3)))
    monkeypatch.setattr(importing, "TURNS_AT_ONCE", 4)
    left = 0

    def dying(function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            result = function(*arguments, **named)
            left -= 1
            if left == 0:
                raise Killed
            return result

        return call

    monkeypatch.setattr(importing, "write_state", dying(importing.write_state))
    monkeypatch.setattr(importing.rows, "insert", dying(importing.rows.insert))
    monkeypatch.setattr(type(Turn.objects.none()), "bulk_create", dying(type(Turn.objects.none()).bulk_create))
    row = begin_import(ana.pk, SimpleUploadedFile("conversations.json", data))
    deaths = 0
    for step in range(1, 100):
        left = step if Import.objects.get().status != "writing" else 1 + step % 9
        try:
            work_off(row)
        except Killed:
            deaths += 1
            for conversation in Conversation.objects.all():
                assert Turn.objects.filter(conversation_id=conversation.pk).count() == conversation.turn_count == 6
            # Those after it get on, or it would be given up.
            Import.objects.update(claimed_at=timezone.now() - states.CLAIM_LASTS, tries=0)
        else:
            break
    left = 0
    found = Import.objects.get()
    assert (found.status, found.done, found.imported + found.known) == ("done", 3, 3)
    assert everything() == (3, 18)
    assert deaths > 5


def test_one_that_kills_its_workers_is_given_up(ana: User, monkeypatch: pytest.MonkeyPatch):
    def kill(*_arguments: Any) -> None:
        raise Killed

    row = begin_import(ana.pk, SimpleUploadedFile("conversations.json", as_json(chatgpt_tree())))
    with monkeypatch.context() as patch:
        patch.setattr(importing.rows, "insert", kill)
        for _ in range(states.MAX_TRIES + 1):
            with pytest.raises(Killed):
                work_off(row)
            Import.objects.update(claimed_at=timezone.now() - states.CLAIM_LASTS)
        assert Turn.objects.exists()
    work_off(row)
    found = Import.objects.get()
    assert (found.status, found.error) == ("refused", "import_stuck")
    assert everything() == (0, 0), "Nothing half is left."


def test_two_workers_at_once_write_once(ana: User, monkeypatch: pytest.MonkeyPatch):
    """The second takes it from one who is slow and not dead; the first notices at its next write."""
    data = as_json(*(chatgpt_tree() | {"conversation_id": f"c{number}"} for number in range(3)))
    row = begin_import(ana.pk, SimpleUploadedFile("conversations.json", data))
    insert, is_first = importing._insert_turns, True

    def slow(turns: list[Turn]) -> None:
        nonlocal is_first
        insert(turns)
        if is_first:
            is_first = False
            Import.objects.update(claimed_at=timezone.now() - states.CLAIM_LASTS)
            work_off(row)

    monkeypatch.setattr(importing, "_insert_turns", slow)
    assert importing.go_on_with(row.pk)
    assert Import.objects.get().status == "done"
    assert everything() == (3, 18)


def test_a_portion_is_handed_on(ana: User, monkeypatch: pytest.MonkeyPatch):
    sent: list[Any] = []
    monkeypatch.setattr(importing.import_conversations, "delay", sent.append)
    monkeypatch.setattr(importing, "PORTION_SECONDS", 0)
    data = as_json(*(chatgpt_tree() | {"conversation_id": f"c{number}"} for number in range(2)))
    row = begin_import(ana.pk, SimpleUploadedFile("conversations.json", data))
    importing.import_conversations(str(row.pk))
    assert Import.objects.get().done == 1
    importing.import_conversations(str(row.pk))
    importing.import_conversations(str(row.pk))
    assert Import.objects.get().status == "done"
    assert sent == [str(row.pk)] * 3
    with importing._free, pytest.raises(Retry):
        importing.import_conversations(str(row.pk))


def message(**fields: Any) -> dict[str, Any]:
    return chatgpt({"m": (None, chatgpt_message("user", "hola") | fields)})


def with_mapping(mapping: Any) -> bytes:
    return as_json(chatgpt({"q": (None, chatgpt_message("user", "hola"))}), chatgpt({}, "c2") | {"mapping": mapping})


def locked() -> bytes:
    data = bytearray(zipped({"conversations.json": b"[]"}))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + at] |= 1
    return bytes(data)


def bomb() -> bytes:
    data = bytearray(zipped({"conversations.json": b"[" + b" " * 60_000_000 + b"]"}))
    return bytes(data)


def liar() -> bytes:
    """Return a zip whose directory says that a file is shorter than it is."""
    data = bytearray(zipped({"conversations.json": as_json(chatgpt_tree())}))
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (20).to_bytes(4, "little")
    return bytes(data)


NODE = {"message": chatgpt_message("user", "hola"), "children": []}
DEEP = b'[{"mapping": ' + b"[" * 5_000 + b"]" * 5_000 + b"}]"
REFUSED: list[tuple[str, bytes, str, str]] = [
    ("empty list", b"[]", "zip_nothing", "conversations.json"),
    ("no json", b"hello", "not_json", "conversations.json"),
    ("cut off", as_json(chatgpt_tree())[:-200], "not_json", "conversations.json: conversation 1"),
    ("more after the end", as_json(chatgpt_tree()) + b"x", "not_json", "conversation 1"),
    ("bytes that are no text", b'[{"mapping": {"\xff": {}}}]', "not_json", "conversation 1"),
    ("numbers", b"[1, 2]", "no_object", "conversation 1"),
    ("something else", as_json({"posts": []}), "unknown_source", "conversation 1"),
    ("two sources", as_json(claude_tree(), chatgpt_tree()), "mixed", "conversation 2"),
    ("twice", as_json(claude_tree(), claude_tree()), "duplicate_id", "conversation 2"),
    ("no id", as_json(chatgpt_tree() | {"conversation_id": None, "id": None}), "missing_id", "conversation 1"),
    ("wrong type", with_mapping([]), "wrong_shape", "conversation 2: Expected"),
    ("wrong role", as_json(message(author={"role": 7})), "wrong_shape", "conversation 1, message “m”: Expected"),
    ("endless time", as_json(message()).replace(b"1700000000.0", b"1e999"), "wrong_shape", "conversation 1"),
    (
        "circle",
        with_mapping({"a": {**NODE, "parent": "b"}, "b": {**NODE, "parent": "a"}}),
        "cycle",
        "conversation 2, message “a”",
    ),
    ("own parent", with_mapping({"a": {**NODE, "parent": "a"}}), "cycle", "message “a”"),
    ("no parent", with_mapping({"abc": {**NODE, "parent": "z"}}), "missing_parent", "conversation 2, message “abc”"),
    (
        "same message",
        as_json(claude([claude_message("m1", "human", "a"), claude_message("m1", "human", "b")])),
        "duplicate_id",
        "message “m1”",
    ),
    (
        "no parent at Claude's",
        as_json(claude([claude_message("m1", "human", "a", parent_message_uuid="gone")])),
        "missing_parent",
        "message “m1”",
    ),
    ("deep", DEEP, "too_deep", "conversation 1"),
    (
        "own, from later",
        as_json({"format": "tertulia.conversation", "version": 2, "id": "x", "turns": []}),
        "unknown_version",
        "1",
    ),
    ("zip without", zipped({"readme.txt": b"hi"}), "zip_nothing", "export.zip"),
    ("zip in a zip", zipped({"inner.zip": zipped({"conversations.json": b"[]"})}), "zip_nested", "export.zip"),
    ("zip cut off", zipped({"conversations.json": as_json(chatgpt_tree())})[:-30], "zip_broken", "export.zip"),
    ("locked zip", locked(), "zip_encrypted", "conversations.json"),
    ("zip bomb", bomb(), "zip_bomb", "conversations.json"),
    ("lying zip", liar(), "zip_broken", "conversations.json"),
]


@pytest.mark.parametrize(("data", "code", "place"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_is_broken_or_hostile_is_refused_with_its_place(
    data: bytes, code: str, place: str, ana: User, folder: Path
):
    """What stands before it, though it is right, is not imported either."""
    row = imported(ana.pk, data, "export.zip" if data.startswith(b"PK") else "conversations.json")
    assert (row.status, row.error) == ("refused", code)
    with translation.override("en"):
        assert place in place_words(row.place)
    assert everything() == (0, 0)
    assert list(folder.iterdir()) == []


def test_what_can_be_mended_is_imported(ana: User):
    """Half signs, NUL, dates of no time, a byte order mark, and escaped backslashes, which are no escapes."""
    odd = json.dumps("a\0b \ud83d \\ud800 😀", ensure_ascii=True)
    text = as_json(
        chatgpt({"q": (None, chatgpt_message("user", "ODD")), "a": ("q", chatgpt_message("assistant", "sí"))})
    )
    data = b"\xef\xbb\xbf" + text.replace(b'"ODD"', odd.encode()).replace(b"1700000000.0", b"9e15")
    assert imported(ana.pk, data).imported == 1
    turn = Turn.objects.get()
    assert turn.question == "ab \ufffd \\ud800 😀"
    assert abs(turn.created_at - timezone.now()) < dt.timedelta(minutes=5)
    assert only().title == "Saludos"


def test_a_file_that_takes_too_long_is_refused(child: None, ana: User, settings: Settings):
    settings.IMPORT_SECONDS = 0
    assert imported(ana.pk, as_json(chatgpt_tree())).error == "too_slow"


def test_a_text_that_is_too_long_is_cut_and_said_to_be(ana: User):
    data = as_json(chatgpt({"q": (None, chatgpt_message("user", "a" * 500_000))}))
    assert json.loads(imported(ana.pk, data).left_out) == {"cut": 1}
    assert len(Turn.objects.get().question) == 400_000


def test_a_text_that_becomes_eighteen_times_as_long_to_be_searched_is_searched_so_far(ana: User):
    """A file of a kilobyte would fill the memory of whoever opens its page."""
    sign = "\ufdfa"
    long = chatgpt_message("user", sign * 400_000), chatgpt_message("assistant", sign * 400_000)
    row = imported(ana.pk, as_json(chatgpt({"q": (None, long[0]), "a": ("q", long[1])})))
    assert (row.status, row.imported) == ("done", 1)
    turn = Turn.objects.get()
    assert (len(turn.question), len(turn.answer), len(turn.search_text)) == (400_000, 400_000, MAX_SEARCHED)
    assert turn.search_text.startswith(fold(sign) * 2)
    assert [len(searched(sign * count)) for count in (10, 1_000)] == [180, 5_000], "Of many short ones, too."


def test_one_conversation_has_a_limit(ana: User, monkeypatch: pytest.MonkeyPatch):
    """In the process that reads, which does not know this one's limits: called here."""
    monkeypatch.setattr(archive, "MAX_CONVERSATION", 100)
    with pytest.raises(archive.FileRefused, match="conversation_too_large"):
        list(archive.split_conversations(io.BytesIO(as_json(chatgpt_tree())), archive.Notes("a.json")))


def test_a_conversation_has_so_many_turns(ana: User, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(extract, "MAX_TURNS_OF_ONE", 2)
    row = imported(ana.pk, as_json(chatgpt_tree()))
    assert (row.error, place_words(row.place)) == ("conversation_too_large", "conversations.json: conversación 1")
    assert not Turn.objects.exists()


def test_a_file_is_split_wherever_its_pieces_end(monkeypatch: pytest.MonkeyPatch):
    texts = ['{"a":"}]\\\\"}', '{"b":{"c":["\\"{",{}]}}', '{"d":"é\\u00e9"}', "{}"]
    draw = random.Random(3)
    for _ in range(200):
        blank = draw.choice(["", " ", "\n\t"])
        data = f"{blank}[{blank}{f'{blank},{blank}'.join(texts)}{blank}]{blank}".encode()
        monkeypatch.setattr(archive, "CHUNK", draw.randint(1, 12))
        assert [one.decode() for one in archive.split_conversations(io.BytesIO(data), archive.Notes())] == texts


def test_one_import_at_a_time_and_so_many_a_day(api: Any, ana: User, bo: User, client: Client, settings: Settings):
    def send(user: User, data: bytes = b"[]") -> Any:
        return api(user).post("/api/v1/imports", {"file": SimpleUploadedFile("a.json", data)}, format="multipart")

    begun = send(ana)
    assert (begun.status_code, begun.json()["status"]) == (202, "uploaded")
    refused = send(ana)
    assert (refused.status_code, refused.json()["code"]) == (409, "transfer_running")
    address = f"/api/v1/imports/{begun.json()['id']}"
    assert api(bo).get(address).status_code == 404
    work_off(Import.objects.get())
    found = api(ana).get(address).json()
    assert (found["status"], found["error"]["code"], found["error"]["place"]) == ("refused", "zip_nothing", "a.json")
    assert [one["id"] for one in api(ana).get("/api/v1/imports").json()["results"]] == [begun.json()["id"]]
    assert api(bo).get("/api/v1/imports").json()["results"] == []
    settings.IMPORTED_BYTES_PER_DAY = 100
    assert send(ana, as_json(chatgpt_tree())).status_code == 202
    work_off(Import.objects.get(status=Import.Status.UPLOADED))
    assert Import.objects.get(status=Import.Status.DONE).imported == 1
    assert send(ana).status_code == 429
    settings.IMPORTED_BYTES_PER_DAY, settings.IMPORTS_PER_DAY = 10**9, 2
    assert send(ana).status_code == 429
    settings.IMPORT_BYTES = 10
    assert send(bo, b"x" * 11).status_code == 413
    assert api(bo).post("/api/v1/imports", {}, format="multipart").json()["code"] == "import_missing"
    client.force_login(bo)
    page = client.post("/settings/import-export/", {"file": SimpleUploadedFile("a.json", b"x" * 11)})
    assert page.status_code == 413
    assert "conversations.json" in page.content.decode()


def test_the_page_says_what_came_of_it(ana: User, client: Client):
    client.force_login(ana)
    address = "/settings/import-export/"
    upload = SimpleUploadedFile("mi export.json", as_json(chatgpt_tree(), {**chatgpt({}), "conversation_id": "empty"}))
    assert client.post(address, {"file": upload}).status_code == 302
    page = client.get(address).content.decode()
    assert "http-equiv" in page, "Without scripts it reloads."
    assert "230\xa0MB" in page
    assert 'hx-trigger="every 1s"' in page
    work_off(Import.objects.get())
    page = client.get(f"{address}progress/", headers={"HX-Request": "true"}).content.decode()
    assert "hx-trigger" not in page
    assert "mi export.json" in page
    assert "ChatGPT" in page
    assert page.count("<li>") == 5, "Each kind of what was left out."


def test_what_lost_its_task_is_sent_again(ana: User, monkeypatch: pytest.MonkeyPatch):
    row = begin_import(ana.pk, SimpleUploadedFile("a.json", b"[]"))
    sent: list[Any] = []
    monkeypatch.setattr(importing.import_conversations, "delay", sent.append)
    repair_transfers()
    assert sent == [], "It may be waiting."
    Import.objects.update(created_at=timezone.now() - dt.timedelta(minutes=1))
    repair_transfers()
    assert sent == [str(row.pk)]


def test_an_upload_that_died_is_refused(ana: User, monkeypatch: pytest.MonkeyPatch):
    def kill(*_arguments: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("django.core.files.storage.FileSystemStorage.save", kill)
        with pytest.raises(Killed):
            begin_import(ana.pk, SimpleUploadedFile("a.json", b"[]"))
    row = Import.objects.get()
    work_off(row)
    assert Import.objects.get().status == "uploaded", "It may still come."
    Import.objects.update(claimed_at=timezone.now() - states.CLAIM_LASTS)
    work_off(row)
    assert Import.objects.get().error == "import_gone"


def test_who_is_erased_meanwhile_gets_nothing(ana: User, monkeypatch: pytest.MonkeyPatch):
    data = as_json(*(chatgpt_tree() | {"conversation_id": f"c{number}"} for number in range(3)))
    row = begin_import(ana.pk, SimpleUploadedFile("a.json", data))
    insert = importing._insert_turns

    def erase(turns: list[Turn]) -> None:
        insert(turns)
        states.erase_transfers_of(ana.pk)

    monkeypatch.setattr(importing, "_insert_turns", erase)
    work_off(row)
    assert not Import.objects.exists()
    assert Conversation.objects.count() == 1, "The one that was being written: closing an account goes on for minutes."
