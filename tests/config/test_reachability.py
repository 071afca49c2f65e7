"""A wrong address of a store is one sentence at the start, which never shows the address: it may hold a password."""

import os
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connections

from config.embedded import ports
from tests.services import IS_EXTERNAL

ROOT = Path(__file__).parent.parent.parent
QUICKLY = {"serverSelectionTimeoutMS": 300}


def refusal(monkeypatch: pytest.MonkeyPatch, **addresses: str) -> str:
    """Return what `prepare` says about these addresses."""
    for name in ("DATABASE_URL", "MONGODB_URI", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, address in addresses.items():
        monkeypatch.setenv(name, address)
    if "MONGODB_URI" in addresses:
        monkeypatch.setitem(settings.DATABASES["history"], "OPTIONS", QUICKLY)
    begun = monotonic()
    with pytest.raises(CommandError) as refused:
        call_command("prepare")
    assert monotonic() - begun < 15
    sentence = str(refused.value)
    assert "sec" not in sentence.replace("second", "")
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(("name", "scheme"), [("REDIS_URL", "redis"), ("MONGODB_URI", "mongodb")])
def test_a_port_nobody_listens_at_is_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, scheme: str):
    sentence = refusal(monkeypatch, **{name: f"{scheme}://u:secret@127.0.0.1:{ports.any_free_port()}/"})
    assert sentence.startswith(f"{name} does not answer: look at .env (")
    assert "refused" in sentence


@pytest.mark.parametrize(("name", "scheme"), [("REDIS_URL", "redis"), ("MONGODB_URI", "mongodb")])
def test_a_host_that_does_not_exist_is_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, scheme: str):
    sentence = refusal(monkeypatch, **{name: f"{scheme}://u:secret@nowhere.invalid/"})
    assert sentence.startswith(f"{name} does not answer: look at .env (")
    assert "nowhere.invalid" in sentence


@pytest.mark.parametrize(("name", "scheme"), [("REDIS_URL", "redis"), ("MONGODB_URI", "mongodb")])
def test_a_malformed_address_is_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, scheme: str):
    sentence = refusal(monkeypatch, **{name: f"{scheme}://u:sec/ret@127.0.0.1:1/"})
    assert sentence == f"{name} is not a valid address: look at .env."


@pytest.mark.parametrize(
    ("name", "scheme"), [("REDIS_URL", "redis"), ("MONGODB_URI", "mongodb"), ("DATABASE_URL", "postgres")]
)
@pytest.mark.parametrize("mark", ["/", "?", "#"])
def test_half_a_password_is_not_shown_as_a_port(monkeypatch: pytest.MonkeyPatch, name: str, scheme: str, mark: str):
    sentence = refusal(monkeypatch, **{name: f"{scheme}://nobody:4711{mark}sec@127.0.0.1:1/"})
    assert sentence == f"{name} is not a valid address: look at .env."


def test_the_address_of_a_socket_is_an_address(monkeypatch: pytest.MonkeyPatch):
    sentence = refusal(monkeypatch, REDIS_URL="unix:///nowhere.sock")
    assert sentence.startswith("REDIS_URL does not answer: look at .env (")


@pytest.mark.skipif(IS_EXTERNAL, reason="needs a Redis that asks for a password")
def test_a_wrong_password_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    sentence = refusal(monkeypatch, REDIS_URL=os.environ["REDIS_URL"].replace("//:", "//nobody:"))
    assert sentence.startswith("REDIS_URL does not answer: look at .env (")
    assert "password" in sentence


@pytest.mark.stores
@pytest.mark.skipif(connections["default"].vendor != "postgresql", reason="needs STORES=postgresql or production")
@pytest.mark.parametrize(
    ("setting", "value", "reason"), [("PORT", "1", "refused"), ("HOST", "nowhere.invalid", "nowhere.invalid")]
)
def test_a_postgresql_that_is_not_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: str, reason: str
):
    database = connections.settings["default"]
    wrong = {"HOST": "127.0.0.1", "PASSWORD": "secret", setting: value}
    for name, given in wrong.items():
        monkeypatch.setitem(database, name, given)
    sentence = refusal(monkeypatch, DATABASE_URL="postgres://…")
    assert sentence.startswith("DATABASE_URL does not answer: look at .env (")
    assert reason in sentence


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("DATABASE_URL", "secret"),
        ("DATABASE_URL", "postgres://u:sec/ret@host/database"),
        ("MONGODB_URI", "secret"),
        ("REDIS_URL", "secret"),
    ],
)
def test_an_address_of_another_kind_stops_every_command(name: str, address: str, tmp_path: Path):
    environment = {**os.environ, "SECRET_KEY": "x" * 50, "DATA_DIR": str(tmp_path), name: address}
    command = [sys.executable, "manage.py", "run_turns"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{name} is not a valid address")
    assert done.stderr.count("\n") == 1
    assert "sec" not in done.stderr
