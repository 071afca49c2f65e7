"""Somebody closes their account: they are out at once, can stay for two weeks, and are deleted then; whoever dies over
it, and whatever happens at the same moment."""

import datetime as dt
import threading
from typing import Any
from uuid import uuid4

import pytest
from django.core import mail
from django.db import connections
from django.test import Client
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from accounts import leaving
from accounts.admission import admission_by_token, find_admitted
from accounts.api.views import tokens_for
from accounts.keys import KeyTerms, make_key
from accounts.leaving import LastSuperuser, begin_leaving, finish_leaving, keep_account
from accounts.models import ApiKey, Closure, TokenFamily, User
from accounts.signals import account_leaving
from accounts.tokens import AccessToken
from chat.socket.authentication import find_socket_user
from core.errors import NotFound
from tests.accounts.doors import PASSWORD, log_in_by_api

pytestmark = [pytest.mark.stores, pytest.mark.usefixtures("catalog")]

PAGE, KEEP = "/settings/close/", "/settings/close/keep/"


def logged_in(user: User, password: str = PASSWORD) -> Client:
    client = Client(HTTP_ACCEPT_LANGUAGE="en")
    assert client.post("/accounts/login/", {"login": user.email, "password": password}).status_code == 302
    return client


def confirmed(user: User) -> Client:
    """Somebody who has just written their password once more."""
    client = logged_in(user)
    client.post("/accounts/reauthenticate/", {"password": PASSWORD})
    return client


def close(user: User) -> None:
    begin_leaving(User.objects.get(pk=user.pk), peer="192.0.2.1")


def let_pass(user: User) -> None:
    """Let the time of grace pass."""
    User.objects.filter(pk=user.pk).update(closes_at=timezone.now() - dt.timedelta(seconds=1))


def stays(user: User) -> bool:
    return User.objects.filter(pk=user.pk, closes_at=None).exists()


def socket_of(client: Client) -> Any:
    cookies = "; ".join(f"{name}={cookie.value}" for name, cookie in client.cookies.items())
    headers = [(b"origin", b"http://testserver"), (b"host", b"testserver"), (b"cookie", cookies.encode())]
    scope = {"type": "websocket", "path": "/ws/", "scheme": "ws", "query_string": b"", "headers": headers}
    return find_socket_user(scope)


# --- The pages --------------------------------------------------------------------------------------------------------


def test_who_closes_their_account_is_out_at_once_and_may_come_back_to_one_page(carla: User, settings: Settings):
    settings.ACCOUNT_CLOSE_DAYS = 14
    client = confirmed(carla)
    access = tokens_for(carla)["access"]
    _key, secret = make_key(carla, KeyTerms(name="cron", scopes=("chat",)), peer="", key_id=uuid4())
    mail.outbox.clear()
    assert "14 days" in client.get(PAGE).text
    done = client.post(PAGE, {"email": " Carla@Example.com "}, follow=True)
    assert done.redirect_chain == [("/accounts/login/", 302)]
    assert "Your account will be closed on" in done.text
    carla.refresh_from_db()
    assert carla.closes_at is not None
    assert dt.timedelta(days=14) - dt.timedelta(minutes=1) < carla.closes_at - timezone.now() < dt.timedelta(days=14)

    assert client.get("/settings/").status_code == 302, "The session is over."
    assert find_admitted(admission_by_token(AccessToken(access))) is None  # type: ignore[arg-type]
    assert not TokenFamily.objects.exists()
    assert ApiKey.objects.get().revoked_at is not None
    for bearer in (access, secret):
        assert APIClient(HTTP_AUTHORIZATION=f"Bearer {bearer}").get("/api/v1/me").status_code == 401
    [told] = mail.outbox
    assert told.to == [carla.email]
    assert f"{settings.SITE_URL}{PAGE}" in told.body
    assert not User.objects.filter(farewell_due_at__isnull=False).exists()

    refused = log_in_by_api(carla.email)
    assert (refused.status_code, refused.json()["code"]) == (403, "account_closing")
    client = logged_in(carla)
    for path in ("/", "/settings/", "/conversations/", "/billing/", "/settings/import-export/", "/settings/keys/"):
        assert client.get(path)["Location"] == PAGE, path
    assert client.post("/settings/", {"name": "Otra"})["Location"] == PAGE
    fragment = client.get("/palette/", headers={"HX-Request": "true"})
    assert (fragment.status_code, fragment["HX-Redirect"]) == (403, PAGE)
    for path in ("/api/v1/me", "/api/v1/conversations", "/api/v1/exports", "/api/v1/plans"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (403, "account_closing"), path
    assert client.post("/v1/chat/completions", {}, content_type="application/json").status_code == 401
    assert socket_of(client) is None
    page = client.get(PAGE).text
    assert all(f'action="{path}"' in page for path in (KEEP, "/accounts/logout/", "/settings/import-export/export/"))

    assert client.post(KEEP)["Location"] == "/settings/"
    assert stays(carla)
    assert client.get("/settings/").status_code == 200
    assert socket_of(client) is not None
    assert log_in_by_api(carla.email).status_code == 200
    assert client.post(KEEP).status_code == 302
    kept = [one for one in mail.outbox if "will not be closed" in one.body]
    assert len(kept) == 1, "Once is enough."


def test_everything_is_exported_before_and_during_the_grace(carla: User):
    close(carla)
    client = confirmed(carla)
    assert client.post("/settings/import-export/export/", follow=True).redirect_chain[-1][0] == PAGE
    page = client.get(PAGE)
    assert "Progress of the export" in page.text
    assert client.get("/settings/import-export/progress/", headers={"HX-Request": "true"}).status_code == 200


@pytest.mark.parametrize("typed", ["", "otra@example.com"])
def test_whoever_does_not_write_their_address_closes_nothing(ana: User, typed: str):
    answer = confirmed(ana).post(PAGE, {"email": typed})
    assert answer.status_code == 422
    assert "field-errors" in answer.text
    assert stays(ana)


def test_the_password_is_asked_for_again(ana: User):
    client = logged_in(ana)
    assert client.get(PAGE).status_code == 200
    assert client.post(PAGE, {"email": ana.email})["Location"].startswith("/accounts/reauthenticate/")
    assert stays(ana)


# --- The API ----------------------------------------------------------------------------------------------------------


def test_a_program_closes_an_account_with_its_password(ana: User):
    client = APIClient(HTTP_AUTHORIZATION=f"Bearer {tokens_for(ana)['access']}")
    for body in ({}, {"password": "otra clave larga"}):
        assert client.delete("/api/v1/me", body, format="json").status_code == 400
    assert stays(ana)
    answer = client.delete("/api/v1/me", {"password": PASSWORD}, format="json")
    assert answer.status_code == 202
    assert dt.datetime.fromisoformat(answer.json()["closes_at"]) == User.objects.get(pk=ana.pk).closes_at
    assert client.get("/api/v1/me").status_code == 401


def test_no_key_closes_an_account(carla: User):
    scopes = ("chat", "history", "usage")
    _key, secret = make_key(carla, KeyTerms(name="cron", scopes=scopes), peer="", key_id=uuid4())
    client = APIClient(HTTP_AUTHORIZATION=f"Bearer {secret}")
    answer = client.delete("/api/v1/me", {"password": PASSWORD}, format="json")
    assert (answer.status_code, answer.json()["code"]) == (403, "key_not_allowed")
    assert stays(carla)


# --- Who may ----------------------------------------------------------------------------------------------------------


def test_the_last_superuser_stays(olga: User):
    answer = confirmed(olga).post(PAGE, {"email": olga.email})
    assert answer.status_code == 409
    assert "Nobody else may do everything" in answer.text
    other = User.objects.create_superuser("otra@example.com", PASSWORD, is_active=False)
    with pytest.raises(LastSuperuser):
        close(olga)
    User.objects.filter(pk=other.pk).update(is_active=True)
    close(olga)
    with pytest.raises(LastSuperuser):
        close(other)


def test_of_two_superusers_who_leave_at_once_one_stays(olga: User):
    other = User.objects.create_superuser("otra@example.com", PASSWORD)
    refused: list[User] = []
    begin = threading.Barrier(2)

    def leave(user: User) -> None:
        begin.wait()
        try:
            close(user)
        except LastSuperuser:
            refused.append(user)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=leave, args=(user,)) for user in (olga, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    assert User.objects.filter(is_superuser=True, closes_at=None).get() == refused[0]


def test_a_suspension_stays_and_the_account_is_closed_all_the_same(ana: User):
    close(ana)
    suspended = User.objects.get(pk=ana.pk)
    suspended.is_active = False
    suspended.save(update_fields=["is_active"])
    with pytest.raises(NotFound):
        keep_account(User.objects.get(pk=ana.pk), peer="")
    assert not User.objects.get(pk=ana.pk).is_active
    let_pass(ana)
    finish_leaving()
    assert not User.objects.filter(pk=ana.pk).exists()


def test_who_was_logged_out_meanwhile_closes_and_keeps_nothing(ana: User):
    stale = User.objects.get(pk=ana.pk)
    ana.end_access()
    with pytest.raises(NotFound):
        begin_leaving(stale, peer="")
    assert stays(ana)
    close(ana)
    with pytest.raises(NotFound):
        keep_account(stale, peer="")


# --- Whatever dies, and at the same moment ----------------------------------------------------------------------------


def test_the_sweep_deletes_who_is_due_and_nobody_else(ana: User, bo: User, carla: User):
    close(ana)
    close(bo)
    finish_leaving()
    assert User.objects.count() == 3
    let_pass(ana)
    finish_leaving()
    finish_leaving()
    assert {user.pk for user in User.objects.all()} == {bo.pk, carla.pk}
    assert Closure.objects.get().user_id == ana.pk


def test_what_cannot_be_stopped_closes_nothing(ana: User):
    def fail(**_signal: Any) -> None:
        raise RuntimeError

    account_leaving.connect(fail)
    try:
        with pytest.raises(RuntimeError):
            close(ana)
    finally:
        account_leaving.disconnect(fail)
    assert stays(ana)
    assert User.objects.get(pk=ana.pk).seal == ana.seal
    assert mail.outbox == []


def test_a_mail_that_somebody_died_over_is_sent_by_the_sweep(ana: User, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(leaving, "send_or_queue", lambda _mail: 1 / 0)
        close(ana)
    finish_leaving()
    assert mail.outbox == [], "Whoever closes it may just be sending it."
    User.objects.update(farewell_due_at=timezone.now() - dt.timedelta(minutes=2))
    finish_leaving()
    finish_leaving()
    assert len(mail.outbox) == 1


def test_a_deletion_that_dies_is_done_by_the_next_sweep(ana: User, monkeypatch: pytest.MonkeyPatch):
    close(ana)
    let_pass(ana)
    with monkeypatch.context() as patch:
        patch.setattr(User, "delete", lambda _self: 1 / 0)
        finish_leaving()
    assert User.objects.filter(pk=ana.pk, closes_at__isnull=False).exists()
    assert not Closure.objects.exists()
    finish_leaving()
    assert not User.objects.filter(pk=ana.pk).exists()


def test_who_keeps_the_account_after_the_sweep_has_read_it_keeps_it(ana: User):
    close(ana)
    let_pass(ana)
    read_by_sweep = User.objects.get(pk=ana.pk)
    keep_account(User.objects.get(pk=ana.pk), peer="")
    leaving.delete_if_due(read_by_sweep)
    assert stays(ana)
    assert not Closure.objects.exists()


def test_who_would_keep_an_account_that_is_just_being_deleted_waits_and_is_told(
    ana: User, monkeypatch: pytest.MonkeyPatch
):
    close(ana)
    let_pass(ana)
    said: list[str] = []
    asked = User.objects.get(pk=ana.pk)

    def keep() -> None:
        try:
            keep_account(asked, peer="")
            said.append("kept")
        except NotFound:
            said.append("gone")
        finally:
            connections.close_all()

    keeping = threading.Thread(target=keep)
    delete = User.delete

    def deleting(self: User) -> Any:
        keeping.start()
        keeping.join(0.3)
        assert said == [], "It waits for the end of the transaction."
        return delete(self)

    monkeypatch.setattr(User, "delete", deleting)
    leaving.delete_if_due(asked)
    keeping.join()
    assert said == ["gone"]
    assert not User.objects.filter(pk=ana.pk).exists()
    assert Closure.objects.get().user_id == ana.pk


def test_the_sweep_stops_what_has_begun_since_and_nothing_of_who_stays(ana: User):
    told: list[int] = []

    def hear(user_id: int, **_signal: Any) -> None:
        told.append(user_id)

    close(ana)
    account_leaving.connect(hear)
    try:
        finish_leaving()
        assert told == [ana.pk]
        read_by_sweep = User.objects.get(pk=ana.pk)
        keep_account(read_by_sweep, peer="")
        leaving.stop_what_goes_on(read_by_sweep)
        finish_leaving()
        assert told == [ana.pk]
    finally:
        account_leaving.disconnect(hear)
