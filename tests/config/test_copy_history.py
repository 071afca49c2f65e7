"""The history moves from one store to another: from those the tests run on to a second one of the same kind."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.db.models import Model

from config import settings as configuration
from config.database_routers import COPY, HISTORY
from config.management.commands import copy_history
from history import copying
from history.models import Conversation, Folder, Turn, now
from tests.services import STORES, new_database_name

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "history"])
OWNER = 7


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty store."""
    name = new_database_name()
    found = "postgres://nowhere"
    if STORES == "mongodb":
        monkeypatch.setenv("MONGODB_DATABASE", name)
        found = os.environ["MONGODB_URI"]
    elif STORES == "postgresql":
        found = re.sub(r"/[^/?]*(\?|$)", rf"/{name}\1", os.environ["DATABASE_URL"], count=1)
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
    else:
        sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "copy.sqlite3"}
        monkeypatch.setattr(configuration, "postgresql_history", lambda _address: sqlite)
    yield found
    copy: Any = connections[COPY]
    copy.close()
    if STORES == "postgresql":
        copy.close_pool()
    del connections[COPY]
    if STORES == "postgresql":
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def write_history(conversations: int = 3) -> list[Turn]:
    turns = []
    for number in range(conversations):
        conversation = Conversation.objects.create(owner_id=OWNER, title=f"Nº {number} 𝄞", turn_count=2)
        for seq in (1, 2):
            turns.append(
                Turn.objects.create(
                    owner_id=OWNER,
                    conversation_id=conversation.pk,
                    seq=seq,
                    question="¿Qué?\n\tö",
                    answer="“…”" * 2_000,
                    requested_model="auto",
                    max_output=10,
                    cost_micros=2**40,
                    embedding=bytes(range(256)),
                    completed_at=now(),
                )
            )
    Folder.objects.create(owner_id=OWNER, name="Números")
    return turns


def rows_of(model: type[Model], database: str) -> list[dict[str, Any]]:
    return list(model._base_manager.using(database).order_by("pk").values())


def run_copy(address: str, capsys: pytest.CaptureFixture[str], **options: bool) -> str:
    call_command("copy_history", address, **options)
    return capsys.readouterr().out


@pytest.mark.stores
def test_a_copy_that_was_broken_off_goes_on_and_is_equal_in_the_end(
    address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "PAGE_SIZE", 2)
    turns = write_history()

    written, real = 0, copying._rows

    def dying_rows(model: type[Model], database: str) -> Any:
        nonlocal written
        written += database == COPY and model is Turn
        if written > 5:
            raise KeyboardInterrupt
        return real(model, database)

    monkeypatch.setattr(copying, "_rows", dying_rows)
    with pytest.raises(KeyboardInterrupt):
        run_copy(address, capsys)
    monkeypatch.setattr(copying, "_rows", real)
    assert 0 < Turn.objects.using(COPY).count() < len(turns)

    said = run_copy(address, capsys)

    assert "They are equal." in said
    assert "Conversation: 0 added" in said
    for model in copying.list_stored_models():
        assert rows_of(model, COPY) == rows_of(model, HISTORY)
    assert "Turn: 0 added, 0 changed" in run_copy(address, capsys)
    equal = copying.read_contents(Turn, COPY)
    Turn.objects.using(COPY).filter(pk=turns[0].pk).update(cost_micros=None)
    assert copying.read_contents(Turn, COPY).digest != equal.digest


@pytest.mark.stores
def test_a_second_copy_brings_what_changed_and_removes_only_when_it_is_told_to(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *_others = write_history()
    run_copy(address, capsys)
    Turn.objects.filter(pk=first.pk).update(answer="Otra")
    Turn.objects.filter(pk=second.pk).delete()
    Turn.objects.create(  # with the number of the one that is gone
        owner_id=OWNER, conversation_id=second.conversation_id, seq=2, question="?", requested_model="", max_output=1
    )

    with pytest.raises(CommandError, match="1 rows of Turn that this site has not"):
        run_copy(address, capsys)
    with pytest.raises(CommandError, match="They differ"):
        run_copy(address, capsys, only_compare=True)
    assert Turn.objects.using(COPY).filter(pk=second.pk).exists()
    said = run_copy(address, capsys, remove=True)

    assert "Turn: 1 added, 1 changed, 1 removed" in said
    assert "They are equal." in said
    assert rows_of(Turn, COPY) == rows_of(Turn, HISTORY)


@pytest.mark.parametrize("wrong", ["", "mysql://host/", "var/history.sqlite3", "mongodb:/host", "postgres://[::1"])
def test_what_is_no_address_is_refused_in_a_sentence(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CommandError, match="address"):
        copy_history.Command().run_from_argv(["manage.py", "copy_history", wrong, "--traceback"])
