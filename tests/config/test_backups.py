"""Backups: what is taken while people chat is restored, the same to the last byte; what is no whole backup is refused."""

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyrage
import pytest
from django.apps import apps
from django.contrib.contenttypes.models import ContentType
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import Client
from pytest_django import Settings

from accounts.models import User
from billing import metering, spending
from chat.attachments.binding import Attachment
from chat.turns import sweeping
from chat.turns.closing import close_turn
from chat.turns.sweeping import repair_turns
from config.backups import archive, databases, manifest, releases, restoring, settings_kept, taking
from core import caching, half_restored
from core.redis_clients import sync_redis
from core.threads import in_thread
from history.models import Conversation, Turn
from history.progress import Outcome
from tests.chat.asking import ask, finished, is_held, record_of, reservation_of, saved
from tests.chat.attaching import attached, data_of, stored_names
from tests.chat.conftest import redis as redis  # noqa: PLC0414  a fixture
from tests.chat.dying import Died, grow_old

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "history"])

SECRETS = {
    "OPENAI_API_KEY": "planted-openai",
    "STRIPE_WEBHOOK_SECRET": "planted-stripe",
    "MERCADOPAGO_ACCESS_TOKEN": "planted-mercadopago",
    "SECRET_KEY_FALLBACKS": "planted-former",
    "EMAIL_URL": "smtp+tls://user:planted-mail@mail.example.com:587/",
    "REDIS_URL": "rediss://:planted-redis@redis.example.com:6380/0?password=planted-query",
    "MONGODB_URI": "mongodb://user:planted/slash@one.example.com:1",
}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file with the secret key."""
    file = tmp_path_factory.mktemp("keys") / "key.txt"
    call_command("backup", new_key=file, stdout=io.StringIO())
    return file


@pytest.fixture
def back_up(key: Path, tmp_path: Path, settings: Settings) -> Callable[[], Path]:
    settings.BACKUP_RECIPIENT = [key.read_text().splitlines()[1].rpartition(" ")[2]]

    def make() -> Path:
        file = tmp_path / "site.backup"
        call_command("backup", str(file), stdout=io.StringIO())
        return file

    return make


@pytest.fixture(autouse=True)
def own_attachments(tmp_path: Path, settings: Settings) -> None:
    settings.STORAGES["attachments"]["OPTIONS"]["location"] = tmp_path / "attachments"


def restored(file: Path, key: Path, **options: Any) -> str:
    said = io.StringIO()
    call_command("restore", file, key=key, stdout=said, **options)
    ContentType.objects.clear_cache()
    caching.forget_everything()
    return said.getvalue()


def rows() -> dict[str, list[dict[str, Any]]]:
    """Every row of every model."""
    return {
        model._meta.label: list(model._base_manager.order_by("pk").values())
        for model in apps.get_models(include_auto_created=True)
        if model._meta.managed
    }


def members_of(file: Path, key: Path) -> dict[str, bytes]:
    """Open a backup without our program, as `age` and `tar` do."""
    identity = pyrage.x25519.Identity.from_str(key.read_text().splitlines()[2])
    with tarfile.open(fileobj=io.BytesIO(pyrage.decrypt(file.read_bytes(), [identity])), mode="r:gz") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


@pytest.mark.stores
async def test_a_backup_that_is_taken_while_people_chat_is_restored_to_the_last_byte(
    redis: Any, carla: User, bo: User, back_up: Callable[[], Path], key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drill() -> tuple[Turn, Turn, Turn]:
        paid, under_way = finished(carla), ask(carla, "¿Qué?\n\t\\N 𝄞 “ö”\r\n")
        close_turn(asked := ask(carla), Outcome(Turn.Status.COMPLETED, "Aquí.", cost_micros=5, input_tokens=1))
        file_of_carla = attached(carla)
        before, contents = rows(), data_of(file_of_carla)
        late: list[Turn] = []

        real = taking._write_tables

        def meanwhile(*arguments: Any) -> Any:
            if not late:  # money is fixed, and nothing is read of it yet
                close_turn(under_way, Outcome(Turn.Status.COMPLETED, "Sí.", cost_micros=7, input_tokens=1))
                close_turn(asked_late := ask(carla), Outcome(Turn.Status.COMPLETED, "Tarde.", cost_micros=9))
                late.extend((asked_late, ask(bo)))
                attached(bo)
            return real(*arguments)

        monkeypatch.setattr(taking, "_write_tables", meanwhile)
        file = back_up()
        call_command("backup", str(file), verify=True, key=key, stdout=io.StringIO())
        highest = User.objects.create_user("after@example.com", "una clave larga").pk
        User.objects.filter(pk=carla.pk).delete()
        Turn.objects.all().delete()
        sync_redis().set("temporary:of:5", "somebody's")

        with pytest.raises(CommandError, match="something already"):
            restored(file, key)
        said = restored(file, key, replace=True)

        assert "Restored, read back and compared" in said
        assert "left out: 2" in said  # the two parts of Bo's file
        after = rows()
        if connections["history"].vendor == "mongodb":  # read while it was written
            assert {turn.pk for turn in late} <= {row["id"] for row in after["history.Turn"]}
            for rows_of in (before, after):
                for name in ("history.Turn", "history.Conversation"):
                    del rows_of[name]
        assert after == before
        assert data_of(file_of_carla) == contents
        assert {name.split("/")[1] for name in stored_names()} == {file_of_carla.key}
        assert not sync_redis().keys()
        assert User.objects.create_user("new@example.com", "una clave larga").pk > highest + 1000
        assert record_of(asked).cost_micros == 5
        page = Client()
        page.force_login(User.objects.get(pk=carla.pk))
        assert "Aquí." in page.get(f"/c/{asked.conversation_id}/").content.decode()
        for turn in Turn.objects.all():
            grow_old(turn, 100)
        return paid, under_way, late[0]

    _paid, under_way, _late = await in_thread(drill)
    await repair_turns()

    def look() -> None:
        turn = saved(under_way)
        if turn.is_open:  # it is in the queue again, or is settled as it ended
            assert [fields[b"turn"] for _, fields in sync_redis().xrange("turns")].count(turn.pk.bytes) == 1
        else:
            assert not is_held(under_way)
            assert record_of(under_way).cost_micros == 7
        assert not metering.list_unbalanced_periods().exists()
        assert not metering.list_unbalanced_accounts().exists()
        assert not spending.list_unbalanced_days().exists()

    await in_thread(look)
