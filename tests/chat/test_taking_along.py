"""An export of everything has everything: what each app keeps of a person, their files, and in their language what is
where."""

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from allauth.socialaccount.models import SocialAccount
from django.core.files.storage import storages
from django.utils import timezone
from pytest_django import Settings

from accounts.export_parts import ExportPart, json_of_all
from accounts.keys import KeyTerms, make_key
from accounts.models import User
from accounts.signals import everything_taken_along
from billing.entitlements import account_of
from billing.models import Payment, Price, Subscription
from chat.batches.beginning import cancel_batch
from chat.models import LanguageModel, StaffReading
from chat.shown.fragments import description_of
from chat.turns.closing import close_turn
from config import settings as site
from core.sweeps import MAX_CLOCK_DIFFERENCE
from history import access, folders, sharing, temporary, trash
from history.models import Export, Turn
from history.progress import Outcome
from history.sharing import Terms
from history.transfer import exporting, states
from tests.chat.asking import ask
from tests.chat.attaching import attached, data_of, ids
from tests.chat.batching import change_plans, line, send
from tests.history.carrying import imported

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]


@pytest.fixture(autouse=True)
def folder(settings: Settings, tmp_path: Path, catalog: None) -> Path:
    options = {**site.STORAGES["transfers"]["OPTIONS"], "location": tmp_path / "transfers"}
    settings.STORAGES = {**site.STORAGES, "transfers": {**site.STORAGES["transfers"], "OPTIONS": options}}
    return tmp_path / "transfers"


def bought(user: User) -> None:
    """A payment as a gateway would have told of it."""
    price = Price.objects.create(
        gateway="fake", reference="p", currency="USD", amount_minor=2_000, pack_credits=10, pack_months=12
    )
    fields: dict[str, Any] = {"gateway": "fake", "price": price}
    now = timezone.now()
    subscription = Subscription.objects.create(
        account=account_of(user.pk), kind="pack", status="ended", reference="s", anchor=now, observed_at=now, **fields
    )
    Payment.objects.create(
        subscription=subscription, reference="f1", status="paid", amount_minor=2_000, currency="USD", **fields
    )


def answered(user: User, text: str, **fields: Any) -> Turn:
    turn = ask(user, text, **fields)
    usage: Any = {"output_tokens": 5, "usage_source": "provider", "cost_micros": 7}
    close_turn(turn, Outcome(Turn.Status.COMPLETED, answer="una respuesta", model="scripted", **usage))
    return turn


def exported(user: User) -> bytes:
    row = exporting.begin_export(user.pk)
    exporting.make_export(row.pk)
    assert Export.objects.get(pk=row.pk).status == "ready"
    with storages["transfers"].open(states.part(row, "zip")) as file:
        data: bytes = file.read()
    return data


def test_an_export_has_everything(carla: User, bo: User):
    User.objects.filter(pk=carla.pk).update(locale="pt-br", name="Carla")
    LanguageModel.objects.filter(key="scripted").update(sees_images=True)
    file, image = attached(carla, b"hola, archivo", "notas.md"), attached(carla)
    turn = answered(carla, "say:una pregunta", attachments=ids(file, image))
    conversation = access.access_conversation(carla.pk, turn.conversation_id)
    sharing.create_share(conversation, Terms(), description_of, share_id=uuid4())
    folders.create_folder(carla.pk, name="Cocina", instructions="En verso.")
    trashed = answered(carla, "say:para la papelera")
    trash.trash_conversations(carla.pk, [trashed.conversation_id])
    _key, secret = make_key(carla, KeyTerms(name="cron", scopes=("chat",)), peer="", key_id=uuid4())
    now = timezone.now()
    StaffReading.objects.create(
        user=carla, conversation_id=conversation.pk, staff_email="s@example.com", reason="Ayuda", expires_at=now
    )
    SocialAccount.objects.create(user=carla, provider="google", uid="7", extra_data={"name": "carla there"})
    bought(carla)
    change_plans(has_batches=True)
    batch = cancel_batch(send(carla, [line("a")], start=False))
    answered(bo, "say:de Bo")
    hidden, gone_soon = attached(carla, b"hola, secreto", "secreto.md"), temporary.begin_conversation(carla.pk).pk
    ask_in_it = {"conversation_id": gone_soon, "turn_id": temporary.new_turn_id(gone_soon)}
    ask(carla, "say:secreto", attachments=ids(hidden), **ask_in_it)

    data = exported(carla)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    assert len(found) == len(archive.namelist())

    def read(name: str) -> Any:
        return json.loads(found[name])

    assert set(found) == {
        *("README.txt", "index.json", "profile.json", "api-keys.json", "folders.json", "shares.json", "imports.json"),
        *(f"conversations/{conversation.pk}.{ending}" for ending in ("json", "md")),
        *(f"trash/{trashed.conversation_id}.{ending}" for ending in ("json", "md")),
        *("attachments.json", f"attachments/{file.pk}.txt", f"attachments/{image.pk}.png"),
        *("staff-readings.json", "history-notices.json", "usage.json", "usage.csv"),
        *("batches.json", f"batches/{batch.pk}.jsonl"),
        *(f"billing/{name}.json" for name in ("account", "subscriptions", "payments", "checkouts", "periods")),
    }
    assert (read("profile.json")["email"], read("profile.json")["name"]) == (carla.email, "Carla")
    assert [one["extra_data"]["name"] for one in read("profile.json")["connected_accounts"]] == ["carla there"]
    assert [(key["name"], key["scopes"]) for key in read("api-keys.json")] == [("cron", ["chat"])]
    assert [one["instructions"] for one in read("folders.json")] == ["En verso."]
    assert read("shares.json")[0]["url"].startswith(f"{site.SITE_URL}/share/")
    assert [one["reason"] for one in read("staff-readings.json")] == ["Ayuda"]
    assert [one["amount_minor"] for one in read("billing/payments.json")] == [2_000]
    assert len(read("billing/subscriptions.json")) == 1
    assert [(one["status"], one["total"]) for one in read("batches.json")] == [("cancelled", 1)]
    assert read(f"batches/{batch.pk}.jsonl")["custom_id"] == "a"
    assert [one["label"] for one in read("usage.json")] == ["scripted"] * 2
    assert len(list(csv.DictReader(io.StringIO(found["usage.csv"].decode())))) == 2

    [shown] = read(f"conversations/{conversation.pk}.json")["turns"]
    assert [one["name"] for one in shown["attachments"]] == ["notas.md", "a.png"]
    for one, kept in zip(shown["attachments"], (file, image), strict=True):
        assert found[one["file"]] == data_of(kept)
    assert {one["file"] for one in read("attachments.json")} == {one["file"] for one in shown["attachments"]}
    assert "una respuesta" in found[f"conversations/{conversation.pk}.md"].decode()
    assert [entry["id"] for entry in read("index.json")["conversations"]] == [str(conversation.pk)]
    told = found["README.txt"].decode()
    assert "Tudo o que é seu em" in told
    for name in (*read("index.json")["files"], "conversations/", "trash/"):
        assert name in told
    everything = b"".join(found.values())
    for absent in (secret.encode(), carla.password.encode(), carla.seal.encode(), b"de Bo", b"secreto"):
        assert absent not in everything

    assert imported(bo.pk, data, "conversations.zip").imported == 1, "What was exported can be imported, without trash."


def test_a_file_that_is_lost_is_said_to_be(carla: User):
    file = attached(carla, b"hola", "notas.md")
    answered(carla, "say:una pregunta", attachments=ids(file))
    storages["attachments"].delete(file.stored)
    with zipfile.ZipFile(io.BytesIO(exported(carla))) as archive:
        assert [one["file"] for one in json.loads(archive.read("attachments.json"))] == [None]
        assert not any(name.startswith("attachments/") for name in archive.namelist())


def test_an_export_that_an_app_fails_is_not_ready_and_is_made_again(ana: User):
    def fail(**_signal: Any) -> list[ExportPart]:
        raise RuntimeError

    row = exporting.begin_export(ana.pk)
    everything_taken_along.connect(fail)
    try:
        with pytest.raises(RuntimeError):
            exporting.make_export(row.pk)
    finally:
        everything_taken_along.disconnect(fail)
    assert Export.objects.get().status == "writing"
    Export.objects.update(claimed_at=timezone.now() - states.CLAIM_LASTS - MAX_CLOCK_DIFFERENCE)
    exporting.make_export(row.pk)
    assert Export.objects.get().status == "ready"


def test_an_export_that_is_erased_meanwhile_stops(ana: User, monkeypatch: pytest.MonkeyPatch, folder: Path):
    monkeypatch.setattr(exporting, "BEAT_SECONDS", 0)
    written: list[int] = []

    def many(**_signal: Any) -> list[ExportPart]:
        def pieces() -> Any:
            for number in range(1_000):
                written.append(number)
                if number == 3:
                    states.erase_transfers_of(ana.pk)
                yield b"x"

        return [ExportPart(name="x", about="x", pieces=pieces)]

    everything_taken_along.connect(many)
    try:
        exporting.make_export(exporting.begin_export(ana.pk).pk)
    finally:
        everything_taken_along.disconnect(many)
    assert len(written) == 4
    assert not Export.objects.exists()
    assert not list(folder.rglob("zip*"))


def test_an_array_is_written_an_object_at_a_time():
    assert b"".join(json_of_all([])) == b"[]\n"
    assert json.loads(b"".join(json_of_all({"n": n} for n in range(3)))) == [{"n": n} for n in range(3)]
    assert len(list(json_of_all({"n": n} for n in range(3)))) == 4
