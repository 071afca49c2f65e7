"""What is taken along: one conversation in three forms, and everything in a zip, for its owner alone."""

import asyncio
import datetime as dt
import io
import json
import re
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.files import File
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from accounts import closure, limits
from accounts.models import User
from config import settings as site
from core.errors import RateLimited
from history import deletion
from history.models import Conversation, Export, Import, Turn
from history.transfer import exporting, importing, states, streams
from history.transfer.pages_of_turns import PAGE_TURNS, iterate_branch, iterate_tree
from history.transfer.sweeping import repair_transfers
from tests.history.carrying import body_of, everything, imported, json_of, text_of, tree_of, work_off
from tests.history.growing import ANA, ask, begin, unsaved
from tests.history.sources import as_json, chatgpt_tree
from tests.services import STORES

pytestmark = [pytest.mark.stores, pytest.mark.usefixtures("catalog")]

TABLE = "| a | b |\n|---|---|\n| 1 | 2 |\n\n$$x^2$$\n\n```python\nprint('hola')\n```\n"
FILES = json.dumps([{"id": "x", "kind": "pdf", "name": "informe.pdf", "media_type": "application/pdf", "size": 9}])


@pytest.fixture(autouse=True)
def folder(settings: Settings, tmp_path: Path, catalog: None) -> Path:
    options = {**site.STORAGES["transfers"]["OPTIONS"], "location": tmp_path / "transfers"}
    settings.STORAGES = {**site.STORAGES, "transfers": {**site.STORAGES["transfers"], "OPTIONS": options}}
    assert storages["transfers"].location == str(tmp_path / "transfers")
    return tmp_path / "transfers"


def grown(owner_id: int, title: str = "Árboles & <b>") -> tuple[Conversation, list[Turn]]:
    """Return a conversation of two branches; the one that is shown is the older one."""
    conversation = begin(owner_id, title)
    fields: dict[str, Any] = {"model": "gpt-x", "usage_source": "provider", "input_tokens": 7, "cost_micros": 5}
    first = ask(conversation, "uno <i>", answer=TABLE, attachments=FILES, **fields)
    shown = ask(conversation, "dos", after=first, answer="2")
    other = ask(conversation, "dos, de otro modo", after=first, answer="zwei")
    Conversation.objects.filter(pk=conversation.pk).update(leaf_id=shown.pk)
    conversation.refresh_from_db()
    return conversation, [first, shown, other]


def test_one_conversation_in_three_forms(api: Any, ana: User, bo: User, client: Client):
    conversation, (first, shown, other) = grown(ana.pk)
    address = f"/api/v1/conversations/{conversation.pk}/export"
    found = json_of(api(ana).get(address))
    assert (found["format"], found["version"], found["leaf_id"]) == ("tertulia.conversation", 1, str(shown.pk))
    assert [turn["id"] for turn in found["turns"]] == [str(turn.pk) for turn in (first, shown, other)]
    assert [turn["parent_id"] for turn in found["turns"]] == [None, str(first.pk), str(first.pk)]
    [whole, *_rest] = found["turns"]
    assert (whole["usage"]["input"], whole["cost_micros"], whole["model"]) == (7, 5, "gpt-x")
    assert whole["attachments"] == [{"name": "informe.pdf", "kind": "pdf", "media_type": "application/pdf", "size": 9}]

    client.force_login(ana)
    page = f"/c/{conversation.pk}/export/"
    menu = client.get(page).content.decode()
    for form in ("markdown", "json", "print"):
        assert f"{page}{form}/" in menu
    markdown = client.get(f"{page}markdown/")
    assert 'attachment; filename="arboles-b.md"' in markdown["Content-Disposition"]
    text = text_of(markdown)
    assert TABLE in text
    assert "informe.pdf" in text
    assert text.index("uno <i>") < text.index("dos")
    assert "de otro modo" not in text
    html = text_of(client.get(f"{page}print/"))
    assert "<script" not in html
    assert "uno &lt;i&gt;" in html
    assert "Árboles &amp; &lt;b&gt;" in html
    assert all(part in html for part in ("<math", "<table", "informe.pdf", "</html>"))
    assert "de otro modo" not in html

    assert client.get(f"{page}docx/").status_code == 404
    client.force_login(bo)
    for form in ("", "markdown/", "json/", "print/"):
        assert client.get(page + form).status_code == 404
    assert api(bo).get(address).status_code == 404


def test_a_long_conversation_is_read_a_page_at_a_time():
    conversation = begin(ANA)
    turns = [unsaved(conversation, f"pregunta {number}", seq=number + 1, depth=number) for number in range(220)]
    for before, turn in zip(turns, turns[1:], strict=False):
        turn.parent_id = before.pk
    Turn.objects.bulk_create(turns)
    pages = -(-len(turns) // PAGE_TURNS)
    for iterate, extra in ((iterate_tree, 0), (iterate_branch, 2)):
        if STORES == "mongodb":
            found = list(iterate(conversation))
        else:
            with CaptureQueriesContext(connections["history"]) as statements:
                found = list(iterate(conversation))
            assert len(statements) == pages + extra
        assert max(map(len, found)) <= PAGE_TURNS
        assert [turn.seq for page in found for turn in page] == list(range(1, 221))


async def test_however_many_are_taken_along_one_thread_makes_them(monkeypatch: pytest.MonkeyPatch):
    """Sockets need the others: two prints held both that SQLite has."""
    inside = most = 0

    def parts() -> Iterator[str]:
        nonlocal inside, most
        for number in range(3):
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1
            yield str(number)

    async def read(owner_id: int) -> str:
        response = streams.conversation_response(Conversation(owner_id=owner_id), "print")
        return "".join([part.decode() async for part in response])  # type: ignore[union-attr]  # asynchronous

    monkeypatch.setattr(streams, "write", lambda *_of: parts())
    monkeypatch.setattr(streams, "MOST_WAITING", 4)
    *hers, other = await asyncio.gather(*map(read, [ANA] * 9 + [ANA + 1]), return_exceptions=True)
    assert [one for one in hers if not isinstance(one, RateLimited)] == ["012"] * 4
    assert other == "012"
    assert most == 1


def test_an_exported_conversation_is_the_same_elsewhere(api: Any, ana: User, bo: User):
    conversation, turns = grown(ana.pk)
    data = body_of(api(ana).get(f"/api/v1/conversations/{conversation.pk}/export"))
    assert imported(ana.pk, data).known == 1, "It is still there."
    assert imported(bo.pk, data).imported == 1
    copy = Conversation.objects.get(owner_id=bo.pk)
    noted = tree_of(copy.pk)
    assert [answer for _question, answer, _parent in noted] == [turn.answer for turn in turns]
    assert [parent for _question, _answer, parent in noted] == [None, 0, 0]
    assert "informe.pdf" in noted[0][0]
    assert Turn.objects.get(pk=copy.leaf_id).answer == "2"
    assert (copy.title, copy.created_at) == (conversation.title, conversation.created_at)
    assert imported(bo.pk, data).known == 1


def test_everything_in_a_zip(
    api: Any,
    ana: User,
    bo: User,
    client: Client,
    settings: Settings,
    mailoutbox: Any,
    monkeypatch: pytest.MonkeyPatch,
):
    mine = [grown(ana.pk)[0], begin(ana.pk, "Vacía")]
    deleted, trashed = begin(ana.pk, "Borrada"), begin(ana.pk, "En la papelera")
    deletion.delete_conversation(deleted)
    Conversation.objects.filter(pk=trashed.pk).update(trashed_at=timezone.now())
    grown(bo.pk, "De Bo")
    begun = api(ana).post("/api/v1/exports")
    assert (begun.status_code, begun.json()["status"]) == (202, "waiting")
    address = f"/api/v1/exports/{begun.json()['id']}"
    assert (again := api(ana).post("/api/v1/exports")).status_code == 409
    assert again.json()["code"] == "transfer_running"
    assert api(ana).get(f"{address}/content").status_code == 404
    [row] = Export.objects.all()
    exporting.make_export(row.pk)
    ready = api(ana).get(address).json()
    assert (ready["status"], ready["done"], ready["total"]) == ("ready", 2, 2)
    with zipfile.ZipFile(io.BytesIO(body_of(api(ana).get(f"{address}/content")))) as archive:
        index = json.loads(archive.read("index.json"))["conversations"]
        assert {entry["id"] for entry in index} == {str(one.pk) for one in mine}
        whole = next(entry for entry in index if entry["turn_count"])
        assert len(json.loads(archive.read(whole["file"]))["turns"]) == 3
    monkeypatch.setitem(limits.PER_HOUR, limits.Act.EXPORT, 1)
    assert api(ana).post("/api/v1/exports").status_code == 429
    assert Export.objects.get() == row
    for stranger in (f"{address}", f"{address}/content"):
        assert api(bo).get(stranger).status_code == 404
    client.force_login(ana)
    link = f"/settings/import-export/{row.pk}/"
    assert link in client.get("/settings/import-export/").content.decode()
    answer = client.get(link)
    assert re.search(r'filename="\w+-20\d\d-\d\d-\d\d\.zip"', answer["Content-Disposition"])
    zip_bytes = body_of(answer)
    assert imported(bo.pk, zip_bytes, "conversations.zip").imported == 1
    client.force_login(bo)
    assert client.get(link).status_code == 404

    Export.objects.update(finished_at=timezone.now() - dt.timedelta(days=settings.EXPORT_DAYS, minutes=1))
    repair_transfers()
    assert not Export.objects.exists()
    assert not storages["transfers"].exists(f"{row.key}/zip")


def test_an_export_whose_worker_died_is_made_by_another(ana: User, monkeypatch: pytest.MonkeyPatch, folder: Path):
    grown(ana.pk)
    row = exporting.begin_export(ana.pk)
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "_entry", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            exporting.make_export(row.pk)
    exporting.make_export(row.pk)
    assert Export.objects.get().status == "writing", "It may still be alive."
    Export.objects.update(claimed_at=timezone.now() - states.CLAIM_LASTS)
    sent: list[Any] = []
    monkeypatch.setattr(exporting.export_conversations, "delay", sent.append)
    repair_transfers()
    assert sent == [str(row.pk)]
    exporting.make_export(row.pk)
    assert Export.objects.get().status == "ready"
    newer = exporting.begin_export(ana.pk)
    exporting.make_export(newer.pk)
    assert Export.objects.get().pk == newer.pk, "Nobody needs two."
    assert [path.name for path in folder.iterdir()] == [Export.objects.get().key]


def test_a_closed_account_takes_its_imports_and_exports_along(ana: User, folder: Path):
    grown(ana.pk)
    exporting.make_export(exporting.begin_export(ana.pk).pk)
    imported(ana.pk, b"nothing")
    assert list(folder.iterdir()) != []
    ana.delete()
    closure.finish_closures()
    assert (Export.objects.count(), Import.objects.count(), *everything()) == (0, 0, 0, 0)
    assert list(folder.iterdir()) == []


def test_of_two_workers_that_write_the_same_zip_neither_leaves_one_behind(ana: User, folder: Path):
    grown(ana.pk)
    row = exporting.begin_export(ana.pk)
    exporting.make_export(row.pk)
    storages["transfers"].save(states.part(row, "zip"), ContentFile(b"of who came too late"))
    assert len(list((folder / row.key).iterdir())) == 2
    ana.delete()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("module", [exporting, importing])
def test_whoever_is_killed_over_it_leaves_nothing_in_the_folder_of_temporary_files(
    ana: User, monkeypatch: pytest.MonkeyPatch, module: Any, tmp_path: Path
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left: list[Path] = []

    def seen(made: Any) -> "File[bytes]":
        left.extend(path for path in tmp_path.iterdir() if path.name != "transfers")
        return File(made)

    monkeypatch.setattr(module, "File", seen)
    grown(ana.pk)
    if module is exporting:
        exporting.make_export(exporting.begin_export(ana.pk).pk)
        assert Export.objects.get().status == "ready"
    else:
        assert imported(ana.pk, as_json(chatgpt_tree())).status == "done"
    assert left == []


@pytest.mark.parametrize("module", [exporting, importing])
def test_what_is_written_while_its_account_is_closed_is_removed(
    ana: User, folder: Path, monkeypatch: pytest.MonkeyPatch, module: Any
):
    def closing(made: Any) -> "File[bytes]":
        states.erase_transfers_of(ana.pk)
        return File(made)

    grown(ana.pk)
    monkeypatch.setattr(module, "File", closing)
    if module is exporting:
        exporting.make_export(exporting.begin_export(ana.pk).pk)
    else:
        work_off(importing.begin_import(ana.pk, SimpleUploadedFile("a.json", as_json(chatgpt_tree()))))
    assert (Export.objects.count(), Import.objects.count()) == (0, 0)
    assert list(folder.iterdir()) == []
