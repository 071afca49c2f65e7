"""What happens at a door beside something else: neither undoes the other."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.contrib.auth import hashers
from django.contrib.sessions.backends.base import UpdateError
from django.core import mail
from django.test import Client

from accounts.adapter import AccountAdapter
from accounts.models import User
from accounts.sessions import SessionStore
from core.redis_clients import Cache, sync_redis
from tests.accounts.doors import PASSWORD, ask_again, ask_for_reset, links_in, log_in_by_api
from tests.billing.together import together

pytestmark = pytest.mark.stores

NEW_PASSWORD = "la clave de la dueña"


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Do something, once, while the next password is hashed."""
    hash_password = hashers.make_password
    callers = ("accounts.models.make_password", "django.contrib.auth.base_user.make_password")

    def arrange(happen: Callable[[], object]) -> None:
        def hash_slowly(password: str, *args: Any) -> str:
            for name in callers:
                monkeypatch.setattr(name, hash_password)
            happen()
            return hash_password(password, *args)

        for name in callers:
            monkeypatch.setattr(name, hash_slowly)

    return arrange


def browser_of(user: User) -> Client:
    browser = Client(raise_request_exception=False)
    browser.force_login(user)
    return browser


def reset_page(email: str) -> tuple[Client, str]:
    """Ask for a reset and open its link; return the browser, and where it posts the new password."""
    ask_for_reset(email)
    browser = Client(raise_request_exception=False)
    return browser, browser.get(links_in(mail.outbox[-1])[0])["Location"]


# --- A password -------------------------------------------------------------------------------------------------------


def by_reset(user: User) -> None:
    browser, where = reset_page(user.email)
    browser.post(where, {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD})


def by_change(user: User) -> None:
    asked = {"oldpassword": PASSWORD, "password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    browser_of(user).post("/accounts/password/change/", asked)


def by_operator(user: User) -> None:
    operator = User.objects.create(email="other@example.com", is_staff=True, is_superuser=True)
    asked = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD, "usable_password": "true"}
    ask_again(browser_of(operator), operator).post(f"/admin/accounts/user/{user.pk}/password/", asked)


@pytest.mark.parametrize("door", [by_reset, by_change, by_operator])
def test_a_new_password_does_not_undo_what_an_operator_took_away_meanwhile(olga, meanwhile, door):
    taken = {"is_active": False, "is_staff": False, "is_superuser": False}
    happened = []

    def take_away() -> None:
        happened.append(True)
        User.objects.filter(pk=olga.pk).update(**taken)

    meanwhile(take_away)
    door(olga)
    olga.refresh_from_db()
    assert happened
    assert olga.check_password(NEW_PASSWORD)
    assert (olga.is_active, olga.is_staff, olga.is_superuser) == (False, False, False)


def test_a_new_password_does_not_bring_back_who_was_deleted_meanwhile(ana, meanwhile):
    browser, where = reset_page(ana.email)
    meanwhile(User.objects.get(pk=ana.pk).delete)
    browser.post(where, {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD})
    assert not User.objects.exists()


def test_replacing_an_old_hash_does_not_undo_a_new_password(ana, meanwhile, settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher", *settings.PASSWORD_HASHERS]

    def change() -> None:
        user = User.objects.get(pk=ana.pk)
        user.set_password(NEW_PASSWORD)
        user.save()

    meanwhile(change)
    tokens = log_in_by_api(ana.email).json()  # the old password was right when it was checked
    ana.refresh_from_db()
    assert ana.check_password(NEW_PASSWORD)
    assert not ana.check_password(PASSWORD)
    assert Client().get("/api/v1/me", headers={"Authorization": f"Bearer {tokens['access']}"}).status_code == 401


# --- An address -------------------------------------------------------------------------------------------------------


def ask_for_change(user: User, email: str) -> Client:
    browser = browser_of(user)
    browser.post("/accounts/reauthenticate/", {"password": PASSWORD})
    browser.post("/accounts/email/", {"email": email, "action_add": ""})
    return browser


def test_an_address_that_a_reset_forgets_is_not_confirmed_beside_it(ana, monkeypatch):
    """The link was read before the reset, which comes before its confirmation is written."""
    squatter = ask_for_change(ana, "eve@example.com")
    link = links_in(mail.outbox[-1])[0]
    browser, where = reset_page(ana.email)
    confirm_email = AccountAdapter.confirm_email

    def confirm_after_the_reset(*args: Any) -> bool:
        browser.post(where, {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD})
        return confirm_email(*args)

    monkeypatch.setattr(AccountAdapter, "confirm_email", confirm_after_the_reset)
    squatter.post(link)
    ana.refresh_from_db()
    assert ana.email == "ana@example.com"
    assert [address.email for address in EmailAddress.objects.all()] == ["ana@example.com"]


def test_a_reset_takes_the_account_back_from_an_address_that_is_confirmed_beside_it(ana, meanwhile):
    squatter = ask_for_change(ana, "eve@example.com")
    link = links_in(mail.outbox[-1])[0]
    browser, where = reset_page(ana.email)
    meanwhile(lambda: squatter.post(link))
    browser.post(where, {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD})
    ana.refresh_from_db()
    assert ana.email == "ana@example.com"
    assert [(one.email, one.verified) for one in EmailAddress.objects.all()] == [("ana@example.com", True)]


def test_two_tabs_that_ask_for_the_same_address_at_once_are_no_error(ana):
    tabs = [browser_of(ana) for _ in range(3)]
    for tab in tabs:
        tab.post("/accounts/reauthenticate/", {"password": PASSWORD})
    asked = {"email": "new@example.com", "action_add": ""}
    answers = together([partial(tab.post, "/accounts/email/", asked) for tab in tabs])
    assert {answer.status_code for answer in answers} <= {200, 302}  # 200: it is asked for already
    pending = EmailAddress.objects.filter(user=ana).exclude(email=ana.email)
    assert [one.email for one in pending] == ["new@example.com"]


# --- A session --------------------------------------------------------------------------------------------------------


def test_a_request_beside_a_log_out_does_not_bring_the_session_back(ana, monkeypatch):
    browser = browser_of(ana)
    beside = SessionStore(browser.cookies["sessionid"].value)
    beside["seen"] = True
    find, is_logged_out = Cache.get, False

    def log_out() -> None:
        nonlocal is_logged_out
        if not is_logged_out:
            is_logged_out = True
            browser.post("/accounts/logout/")

    def find_before_the_log_out(*args: Any) -> Any:
        found = find(*args)
        log_out()
        return found

    monkeypatch.setattr(Cache, "get", find_before_the_log_out)
    beside.save()
    log_out()
    assert not beside.exists(beside.session_key)


def test_a_request_that_ends_after_a_log_out_does_not_bring_the_session_back(ana):
    browser = browser_of(ana)
    beside = SessionStore(browser.cookies["sessionid"].value)
    beside["seen"] = True
    browser.post("/accounts/logout/")
    with pytest.raises(UpdateError):
        beside.save()
    assert not beside.exists(beside.session_key)


def test_what_a_session_holds_is_kept_for_as_long_as_it_lives(ana, settings):
    session = SessionStore(browser_of(ana).cookies["sessionid"].value)
    session["seen"] = "ñ"
    session.save()
    assert SessionStore(session.session_key)["seen"] == "ñ"
    (key,) = sync_redis().scan_iter(match="*sessions*")
    assert settings.SESSION_COOKIE_AGE - 60 < sync_redis().ttl(key) <= settings.SESSION_COOKIE_AGE
