"""Backups: what is taken while people chat is restored to the last byte; what is no whole backup is refused."""

import errno
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyrage
import pytest
from asgiref.sync import async_to_sync
from django.apps import apps
from django.contrib.contenttypes.models import ContentType
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connections
from django.test import Client
from pytest_django import Settings

from accounts.models import User
from billing import metering, spending
from chat.turns.closing import close_turn
from chat.turns.presence import announce_runner
from chat.turns.sweeping import repair_turns
from config.backups import archive, databases, keys, restoring, taking
from config.backups.taken import last_backup_at
from config.celery import refuse_unprepared
from config.site_figures import read_site
from core import caching, half_restored
from core.preparation import mark_prepared
from core.redis_clients import async_redis, close_async_redis, sync_redis
from core.threads import in_thread
from core.watching import PROCESSES, Announcement
from history.models import Conversation, Turn
from history.progress import Outcome
from tests.chat.asking import ask, finished, is_held, record_of, saved
from tests.chat.attaching import attached, data_of, stored_names
from tests.chat.conftest import redis as redis
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
    settings.BACKUP_RECIPIENT = [public(key)]

    def make() -> Path:
        file = tmp_path / "site.backup"
        call_command("backup", str(file), stdout=io.StringIO())
        return file

    return make


@pytest.fixture(autouse=True)
def own_attachments(tmp_path: Path, settings: Settings) -> None:
    options = {**settings.STORAGES["attachments"]["OPTIONS"], "location": tmp_path / "attachments"}
    attachments = {**settings.STORAGES["attachments"], "OPTIONS": options}
    settings.STORAGES = {**settings.STORAGES, "attachments": attachments}


def test_when_it_was_taken_is_noted_once_it_is_whole(back_up: Callable[[], Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("config.management.commands.backup.take_backup", _broken)
    with pytest.raises(CommandError):
        back_up()
    assert last_backup_at() is None
    monkeypatch.undo()
    back_up()
    assert last_backup_at() == pytest.approx(time.time(), abs=5)
    caching.forget_everything()
    assert read_site().get("backup_taken_timestamp_seconds") == last_backup_at()


def _broken(*_args: Any, **_options: Any) -> None:
    raise DatabaseError


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


def shape() -> list[Any]:
    """Constraints and indexes, as the databases have them."""
    found: list[Any] = []
    for alias in databases.ALIASES:
        connection: Any = connections[alias]
        if connection.vendor == "mongodb":
            names = sorted(connection.database.list_collection_names())
            found += [(name, connection.database[name].index_information()) for name in names]
            continue
        query = "SELECT name, sql FROM sqlite_master ORDER BY name"
        if connection.vendor == "postgresql":
            query = (
                "SELECT tablename, indexdef FROM pg_indexes UNION ALL"
                " SELECT conrelid::regclass::text, conname || pg_get_constraintdef(oid) FROM pg_constraint"
                " ORDER BY 1, 2"
            )
        with connection.cursor() as cursor:
            cursor.execute(query)
            found += cursor.fetchall()
    return found


@pytest.mark.stores
async def test_a_backup_that_is_taken_while_people_chat_is_restored_to_the_last_byte(
    redis: Any, carla: User, bo: User, back_up: Callable[[], Path], key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drill() -> Turn:
        under_way = ask(carla, "¿Qué?\n\t\\N 𝄞 “ö”\r\n")
        close_turn(asked := ask(carla), Outcome(Turn.Status.COMPLETED, "Aquí.", cost_micros=5, input_tokens=1))
        file_of_carla = attached(carla)
        before, contents, made = rows(), data_of(file_of_carla), shape()
        late: list[Turn] = []

        def meanwhile(*arguments: Any) -> Any:
            if not late:  # money is fixed, and nothing is read of it yet
                close_turn(under_way, Outcome(Turn.Status.COMPLETED, "Sí.", cost_micros=7, input_tokens=1))
                close_turn(asked_late := ask(carla), Outcome(Turn.Status.COMPLETED, "Tarde.", cost_micros=9))
                late.extend((asked_late, ask(bo)))
                attached(bo)
            return write_tables(*arguments)

        write_tables = taking._write_tables
        monkeypatch.setattr(taking, "_write_tables", meanwhile)
        file = back_up()
        call_command("backup", str(file), verify=True, key=key, stdout=io.StringIO())
        highest = User.objects.create_user("after@example.com", "una clave larga").pk
        User.objects.filter(pk=carla.pk).delete()
        Turn.objects.all().delete()
        sync_redis().set("temporary:of:5", "somebody's")
        with pytest.raises(CommandError, match="something already"):
            restored(file, key)
        assert User.objects.filter(pk=highest).exists()

        load = restoring._load_database
        monkeypatch.setattr(restoring, "_load_database", lambda alias, *rest: load(alias, *dying(alias, *rest)))
        with pytest.raises(Died):
            restored(file, key, replace=True)
        for command in ("run_web", "run_turns", "prepare", "backup"):
            with pytest.raises(CommandError, match="half restored"):
                call_command(command, *["x"] * (command == "backup"))
        with pytest.raises(SystemExit, match="half restored"):
            refuse_unprepared()
        monkeypatch.setattr(restoring, "_load_database", load)
        with monkeypatch.context() as patch, pytest.raises(CommandError, match="No space left.* Run this again"):
            patch.setattr(restoring, "_load_file", no_space)
            restored(file, key)
        said = restored(file, key)

        assert "Restored, read back and compared" in said
        assert "left out: 2" in said  # the two parts of Bo's file
        mark_prepared()  # as `prepare` does, which comes next
        refuse_unprepared()
        after = rows()
        if connections["history"].vendor == "mongodb":  # read while it was written
            assert {turn.pk for turn in late} <= {row["id"] for row in after["history.Turn"]}
            for rows_of in (before, after):
                for name in ("history.Turn", "history.Conversation"):
                    del rows_of[name]
        assert after == before
        assert shape() == made
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
        return under_way

    under_way = await in_thread(drill)
    await repair_turns()

    def look() -> None:
        turn = saved(under_way)
        if turn.is_open:  # it is in the queue again
            assert [fields[b"turn"] for _, fields in sync_redis().xrange("turns")].count(turn.pk.bytes) == 1
        else:  # the sweep pays what its text was backed up with
            assert connections["history"].vendor == "mongodb"
            assert not is_held(under_way)
            assert record_of(under_way).cost_micros == 7
        assert not metering.list_unbalanced_periods().exists()
        assert not metering.list_unbalanced_accounts().exists()
        assert not spending.list_unbalanced_days().exists()

    await in_thread(look)


def no_space(*_arguments: Any) -> bool:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def dying(alias: str, database: Any, parts: Iterator[Any], say: Any) -> tuple[Any, ...]:
    """The same, of which the parts of the history end in death."""

    def until_death() -> Iterator[Any]:
        yield from parts if alias == "default" else (next(parts),)
        if alias == "history":
            raise Died

    return database, until_death(), say


def test_a_backup_that_is_not_whole_or_not_for_this_site_is_refused_before_anything_is_written(
    carla: User, back_up: Callable[[], Path], key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(carla)
    attached(carla)
    file, changed, other_key = back_up(), tmp_path / "changed.backup", tmp_path / "other.txt"
    before, whole = rows(), file.read_bytes()
    call_command("backup", new_key=other_key, stdout=io.StringIO())

    def refusal(data: bytes, opened_with: Path = key) -> str:
        changed.write_bytes(data)
        with pytest.raises(CommandError) as refused:
            restored(changed, opened_with, replace=True)
        return str(refused.value)

    assert "does not open this backup" in refusal(whole, other_key)
    assert "no backup" in refusal(b"SQLite format 3\0" + whole)
    for length in (0, 100, 300, len(whole) // 2, len(whole) - 65_000, len(whole) - 1):
        assert "damaged" in refusal(whole[:length]) or length < 300
    for place in (250, 1_000, len(whole) // 2, len(whole) - 5):
        assert "damaged" in refusal(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])

    def encrypted(change: Callable[[dict[str, bytes]], object], wrong_hash: str = "") -> bytes:
        """The backup, changed by somebody who has the key, or by a mistake of ours."""
        found = {name: data for name, data in members_of(file, key).items() if not name.startswith("hashes/")}
        change(found)
        out = io.BytesIO()
        with archive.writing(out, [identity.to_public() for identity in keys.read_identities(key)]) as writer:
            for name, data in found.items():
                writer.add(name, data if name != wrong_hash else data + b" ")
                writer._hashes[-1] = f"{hashlib.sha256(data).hexdigest()}  {name}\n"
            writer.write_hashes()
        return out.getvalue()

    turns = next(name for name in members_of(file, key) if name.startswith("history/history_turn/"))
    assert "counts" in refusal(encrypted(lambda found: found.pop(turns)))
    assert "not what its hash says" in refusal(encrypted(lambda _found: None, "settings.env"))
    assert "not whole" in refusal(encrypted(lambda found: found.pop("manifest.json")))
    assert "no kind" in refusal(
        encrypted(lambda found: found.update({"manifest.json": b"", "../x": b""}) or found.pop("manifest.json"))
    )

    def other_header(change: Callable[[Any], object]) -> bytes:
        def change_header(found: dict[str, bytes]) -> None:
            header = json.loads(found["header.json"])
            change(header)
            found["header.json"] = json.dumps(header).encode()

        return encrypted(change_header)

    def migrations(header: Any) -> list[list[str]]:
        found: list[list[str]] = header["databases"]["default"]["migrations"]
        return found

    later = other_header(lambda header: migrations(header).append(["accounts", "9999_later"]))
    assert "restore it with release" in refusal(later)
    earlier = other_header(lambda header: migrations(header).remove(["accounts", "0001_initial"]))
    assert "and then upgrade" in refusal(earlier)
    assert "later release" in refusal(other_header(lambda header: header.update(format=2)))
    with monkeypatch.context() as patch:
        patch.setattr(databases, "vendor_of", lambda _alias: "mongodb")
        assert "to the same kind" in refusal(whole)

    monkeypatch.setattr(restoring, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(restoring, "WAIT_SECONDS", 0.1)
    said = Announcement(name="there-7", kind="web", at=time.time(), began_at=time.time())
    sync_redis().hset(PROCESSES, "there-7", msgspec.json.encode(said))
    assert "The site runs (web there-7)" in refusal(whole)
    sync_redis().delete(PROCESSES)
    async_to_sync(announce)()
    assert "stop every process" in refusal(whole)
    assert rows() == before
    assert not half_restored.is_half_restored()


def test_a_restore_that_wrote_something_else_says_so_and_is_run_again(
    carla: User, back_up: Callable[[], Path], key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(carla)
    file, load = back_up(), restoring._load

    def load_and_change(*arguments: Any) -> int:
        left_out = load(*arguments)
        Turn._base_manager.update(error="another")
        return left_out

    with monkeypatch.context() as patch:
        patch.setattr(restoring, "_load", load_and_change)
        with pytest.raises(CommandError, match="history_turn is not what the backup has"):
            restored(file, key, replace=True)
    assert half_restored.is_half_restored()
    assert "read back and compared" in restored(file, key)
    assert not half_restored.is_half_restored()


async def announce() -> None:
    client = async_redis()
    await announce_runner(client, "alive")
    await close_async_redis()


def test_of_a_conversation_that_was_deleted_between_two_reads_nothing_comes_back(
    carla: User, back_up: Callable[[], Path], key: Path
) -> None:
    """MongoDB's turns are read before its conversations: such turns nobody could ever delete."""
    kept, gone = finished(carla), finished(carla)
    Conversation.objects.filter(pk=gone.conversation_id).delete()
    assert Turn.objects.filter(pk=gone.pk).exists()
    said = restored(back_up(), key, replace=True)
    assert "of which it has turns: 1, erased" in said
    assert {*Turn.objects.values_list("pk", flat=True)} == {kept.pk}


def test_of_two_restores_at_once_the_first_goes_no_further(
    carla: User, back_up: Callable[[], Path], key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From two machines, each with a DATA_DIR of its own: the other one may have ended before this one empties all."""
    file, before = back_up(), User.objects.count()
    with monkeypatch.context() as patch, pytest.raises(CommandError, match="Another restore"):
        patch.setattr(restoring, "_check_tables", lambda _header: half_restored.mark_half_restored())
        restored(file, key, replace=True)
    assert User.objects.count() == before
    assert half_restored.is_half_restored()
    with monkeypatch.context() as patch, pytest.raises(CommandError, match="Another restore"):
        patch.setattr(restoring, "_forget_redis", lambda: half_restored.mark_half_restored())
        restored(file, key, replace=True)
    assert half_restored.is_half_restored(), "the other one has not ended"
    restored(file, key)
    assert not half_restored.is_half_restored()


def test_ordinary_tools_open_a_backup_which_has_no_secrets(
    carla: User, back_up: Callable[[], Path], key: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    attached(carla)
    settings.KEYS_IN_DOTENV, settings.DEEPSEEK_API_KEY = frozenset({"DEEPSEEK_API_KEY"}), "planted-deepseek"
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SITE_NAME", "Peña")
    monkeypatch.setattr(archive, "HASHES_EACH", 7)
    monkeypatch.setattr(databases, "PART_BYTES", 500)
    file = back_up()
    assert [path.stat().st_mode & 0o777 for path in (file, key)] == [0o600, 0o600]
    found = members_of(file, key)
    everything = b"".join(found.values())
    assert b"planted" not in everything
    assert b"AGE-SECRET" not in everything
    kept = found["settings.env"].decode().splitlines()
    assert {"SITE_NAME=Peña", "OPENAI_API_KEY=(secret)", "EMAIL_URL=smtp+tls://mail.example.com:587/"} <= {*kept}
    assert "DEEPSEEK_API_KEY=(secret)" in kept
    hashes = "".join(data.decode() for name, data in found.items() if name.startswith("hashes/"))
    listed = dict(line.split("  ", 1)[::-1] for line in hashes.splitlines())
    assert listed == {
        name: hashlib.sha256(data).hexdigest() for name, data in found.items() if not name.startswith("hashes/")
    }
    call_command("backup", str(file), verify=True, key=key, stdout=io.StringIO())
    if shutil.which("age"):
        opened = subprocess.run(["age", "-d", "-i", key, file], capture_output=True, check=True).stdout
        assert gzip.decompress(opened)


def test_what_cannot_be_written_leaves_no_backup(
    back_up: Callable[[], Path], key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = back_up()
    with pytest.raises(CommandError, match="there already"):
        call_command("backup", str(file))
    with pytest.raises(CommandError, match="no backup .*nowhere/x.unfinished: No such file"):
        call_command("backup", str(tmp_path / "nowhere" / "x"))
    with pytest.raises(CommandError, match="there already|exists"):
        call_command("backup", new_key=key)
    if os.access("/dev/full", os.W_OK):
        with pytest.raises(OSError, match="No space left"), Path("/dev/full").open("wb", buffering=0) as full:
            taking.take_backup(full, keys.read_recipients([public(key)]), str)
        with pytest.raises(CommandError, match="No space left"), Path("/dev/full").open("wb", buffering=0) as full:
            monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(full))
            call_command("backup", "-")
        monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "attachments") == [file.name]


def test_a_backup_writes_over_no_other(back_up: Callable[[], Path], key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that are begun at once to the same file, such as by a timer and by hand: the second is refused."""
    write_tables, refused = taking._write_tables, []

    def meanwhile(*arguments: Any) -> Any:
        if not refused:
            refused.append("")
            with pytest.raises(CommandError, match="another backup is under way") as raised:
                back_up()
            refused.append(str(raised.value))
        return write_tables(*arguments)

    monkeypatch.setattr(taking, "_write_tables", meanwhile)
    file = back_up()
    assert len(refused) == 2
    call_command("backup", str(file), verify=True, key=key, stdout=io.StringIO())
    left = file.with_name(f"{file.name}.unfinished")
    file.unlink()
    left.write_bytes(b"half of one, whose writer was killed" * 10_000)
    call_command("backup", str(back_up()), verify=True, key=key, stdout=io.StringIO())
    assert not left.exists()


def test_a_backup_says_where_it_finds_no_file(
    carla: User,
    back_up: Callable[[], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where it is made with another DATA_DIR: nobody would notice before files are to be restored."""
    attached(carla)
    with monkeypatch.context() as patch:
        patch.setattr(taking, "list_parts", lambda: ["aa/erased-meanwhile/source", *stored_names()])
        back_up().unlink()
    assert capsys.readouterr().err == ""
    shutil.rmtree(tmp_path / "attachments")
    back_up()
    assert "DATA_DIR" in capsys.readouterr().err


def public(key: Path) -> str:
    return key.read_text().splitlines()[1].rpartition(" ")[2]


@pytest.mark.parametrize("recipient", [[], ["age1wrong"]])
def test_nothing_is_written_without_a_valid_key(recipient: list[str], settings: Settings, tmp_path: Path) -> None:
    settings.BACKUP_RECIPIENT = recipient
    with pytest.raises(CommandError, match="BACKUP_RECIPIENT"):
        call_command("backup", str(tmp_path / "x"))
    assert not [*tmp_path.iterdir()]
