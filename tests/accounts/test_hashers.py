"""Argon2 within limits: no crowd at the doors makes the process grow or stand still."""

import threading
from collections.abc import Iterator

import pytest
from django.contrib.auth.hashers import Argon2PasswordHasher, make_password
from django.db import connections
from django.test import Client

from accounts import hashers
from accounts.hashers import PasswordHasher
from accounts.models import User
from config import settings as production
from core.errors import Unavailable
from tests.accounts.doors import PASSWORD, WRONG, log_in_by_api, log_in_by_page, sign_up_by_api, sign_up_by_page
from tests.billing.together import together


class Slow:
    """Takes the place of Argon2: a hash waits until it is let go, and who is at it is counted."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.lock = threading.Lock()
        self.at_once = self.most = 0

    def encode(self, _hasher: PasswordHasher, password: str, salt: str) -> str:
        with self.lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        self.go.wait(20)
        with self.lock:
            self.at_once -= 1
        return f"argon2${password}${salt}"


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    slow = Slow()
    monkeypatch.setattr(Argon2PasswordHasher, "encode", lambda *args: slow.encode(*args))
    yield slow
    slow.go.set()


@pytest.fixture
def argon2(settings) -> None:
    settings.PASSWORD_HASHERS = production.PASSWORD_HASHERS


def test_the_parameters_are_owasps(argon2):
    assert make_password(PASSWORD).startswith("argon2$argon2id$v=19$m=19456,t=2,p=1$")


def test_no_more_than_two_are_hashed_at_once_however_many_ask(slow):
    threading.Timer(0.3, slow.go.set).start()
    hashes = together([lambda: PasswordHasher().encode(PASSWORD, "salt")] * 24)
    assert hashes == [f"argon2${PASSWORD}$salt"] * 24
    assert slow.most == 2


def test_who_waits_too_long_is_told_to_come_back(slow, monkeypatch):
    monkeypatch.setattr(hashers, "WAIT_SECONDS", 0.2)
    for _ in range(2):
        threading.Thread(target=PasswordHasher().encode, args=(PASSWORD, "salt")).start()
    with pytest.raises(Unavailable) as refused:
        PasswordHasher().verify(PASSWORD, "argon2$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$c2FsdHNhbHQ")
    assert refused.value.retry_after
    slow.go.set()
    assert PasswordHasher().encode(PASSWORD, "salt") == f"argon2${PASSWORD}$salt"


@pytest.mark.parametrize("door", [log_in_by_api, log_in_by_page, sign_up_by_api, sign_up_by_page])
def test_a_crowd_at_a_door_gets_a_503_with_the_time_to_come_back(catalog, argon2, slow, monkeypatch, door):
    monkeypatch.setattr(hashers, "WAIT_SECONDS", 0.1)
    for _ in range(2):
        threading.Thread(target=PasswordHasher().encode, args=(PASSWORD, "salt")).start()
    answer = door("eva@example.com")
    assert (answer.status_code, answer["Retry-After"]) == (503, "1")
    if door in (log_in_by_page, sign_up_by_page):
        assert 'value="eva@example.com"' in answer.text


@pytest.mark.stores
def test_who_waits_for_a_hash_holds_no_connection_to_the_database(catalog, slow):
    if connections["default"].vendor == "sqlite":
        pytest.skip("SQLite's connections stay")

    def ask() -> bool:
        User.objects.exists()
        PasswordHasher().encode(PASSWORD, "salt")
        return connections["default"].connection is None

    threading.Timer(0.5, slow.go.set).start()
    assert together([ask] * 4) == [True] * 4


def test_a_hash_with_old_parameters_is_replaced_at_the_next_log_in(ana, argon2):
    User.objects.filter(pk=ana.pk).update(password=Argon2PasswordHasher().encode(PASSWORD, "a" * 22))
    assert log_in_by_api(ana.email, WRONG).status_code == 401
    ana.refresh_from_db()
    assert "m=102400,t=2,p=8" in ana.password
    tokens = log_in_by_api(ana.email).json()
    ana.refresh_from_db()
    assert "m=19456,t=2,p=1" in ana.password
    assert ana.check_password(PASSWORD)
    me = Client().get("/api/v1/me", headers={"Authorization": f"Bearer {tokens['access']}"})
    assert me.status_code == 200


def test_replacing_an_old_hash_logs_nobody_out_who_is_only_asked_for_their_password(ana, argon2):
    User.objects.filter(pk=ana.pk).update(password=Argon2PasswordHasher().encode(PASSWORD, "a" * 22))
    ana.refresh_from_db()
    browser = Client()
    browser.force_login(ana)
    assert browser.post("/accounts/reauthenticate/", {"password": PASSWORD}).status_code == 302
    ana.refresh_from_db()
    assert "m=19456,t=2,p=1" in ana.password
    assert browser.get("/settings/").status_code == 200
