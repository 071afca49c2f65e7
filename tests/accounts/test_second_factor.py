"""The second factor: set up, asked for at every log-in, used once, and removed by its owner alone."""

import logging
import re
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from django.core import mail
from django.db import connection
from django.test import Client

from accounts import limits
from accounts.encryption import decrypt, encrypt
from accounts.models import User
from core.redis_clients import sync_redis
from tests.accounts.doors import (
    PASSWORD,
    WRONG,
    ask_again,
    ask_for_reset,
    log_in_by_page,
    reset_password,
    sign_up_by_api,
    sign_up_by_page,
)
from tests.accounts.factors import App, recovery_codes, set_up, set_up_on_pages
from tests.billing.together import together

pytestmark = pytest.mark.stores

PEER = "192.0.2.1"
CODE_PAGE = "/accounts/2fa/authenticate/"


@pytest.fixture
def app(ana: User) -> App:
    """Ana's app."""
    return set_up(ana)


@pytest.fixture
def member(ana: User) -> Client:
    """Ana's browser, logged in."""
    browser = Client(REMOTE_ADDR=PEER, HTTP_ACCEPT_LANGUAGE="en")
    browser.force_login(ana)
    return browser


def begin_log_in(email: str, password: str = PASSWORD, *, peer: str = PEER) -> Client:
    """Return a browser that has given the password, and is asked for the code."""
    browser = Client(REMOTE_ADDR=peer)
    answer = browser.post("/accounts/login/", {"login": email, "password": password})
    assert (answer.status_code, answer["Location"]) == (302, CODE_PAGE)
    return browser


def is_in(browser: Client) -> bool:
    return browser.get("/settings/").status_code == 200


def by_api(api: Any, email: str, password: str = PASSWORD, **more: str):
    return api(None).post("/api/v1/auth/login", {"email": email, "password": password, **more}, format="json")


# --- Set up -----------------------------------------------------------------------------------------------------------


def test_an_app_is_set_up_after_the_password_and_shows_recovery_codes(ana, member):
    assert member.get("/accounts/2fa/totp/activate/")["Location"].startswith("/accounts/reauthenticate/")
    app, page = set_up_on_pages(member)
    assert page.request["PATH_INFO"] == "/accounts/2fa/recovery-codes/"
    assert len(set(recovery_codes(ana))) == 10
    assert all(code in page.text for code in recovery_codes(ana))
    assert "/accounts/2fa/totp/deactivate/" in member.get("/accounts/2fa/").text
    assert mail.outbox[-1].to == [ana.email]
    assert app.secret not in str(mail.outbox[-1].body)


def test_an_app_that_shows_another_code_is_not_set_up(ana, member):
    member.post("/accounts/reauthenticate/", {"password": PASSWORD})
    app = App(member.get("/accounts/2fa/totp/activate/").context["form"].secret)
    page = member.post("/accounts/2fa/totp/activate/", {"code": app.wrong_code()})
    assert list(page.context["form"].errors) == ["code"]
    assert page.context["form"].secret == app.secret
    assert not Authenticator.objects.exists()
    assert mail.outbox == []


@pytest.mark.parametrize("sign_up", [sign_up_by_api, sign_up_by_page])
def test_nothing_is_set_up_while_the_address_is_not_confirmed(catalog, sign_up):
    sign_up("eva@example.com")
    member = Client(REMOTE_ADDR=PEER)
    member.force_login(User.objects.get())
    assert "/accounts/2fa/totp/activate/" not in member.get("/accounts/2fa/").text
    _app, page = set_up_on_pages(member)
    assert list(page.context["form"].errors) == ["code"]
    assert not Authenticator.objects.exists()


def test_whoever_got_in_without_it_is_out(ana, member, api):
    thief = Client()
    thief.post("/accounts/login/", {"login": ana.email, "password": PASSWORD})
    tokens = by_api(api, ana.email).json()
    set_up_on_pages(member)
    assert is_in(member)
    assert not is_in(thief)
    assert api(None).post("/api/v1/auth/refresh", {"refresh": tokens["refresh"]}, format="json").status_code == 401
    thief.post("/accounts/reauthenticate/", {"password": PASSWORD})
    thief.post("/accounts/2fa/totp/deactivate/")
    assert Authenticator.objects.filter(user=ana, type="totp").exists()


def test_who_has_one_may_still_change_their_address(ana, app, member):
    member.post("/accounts/reauthenticate/", {"password": PASSWORD})
    member.post("/accounts/email/", {"email": "new@example.com", "action_add": ""})
    assert EmailAddress.objects.filter(user=ana, email="new@example.com", verified=False).exists()


def test_secrets_are_encrypted_at_rest(ana, member):
    app, _page = set_up_on_pages(member)
    codes = recovery_codes(ana)
    with connection.cursor() as cursor:
        cursor.execute("SELECT data FROM mfa_authenticator")
        kept = str(cursor.fetchall())
    assert "gAAAA" in kept
    assert app.secret not in kept
    assert not any(code in kept for code in codes)
    assert all(app.secret.encode() not in (sync_redis().get(key) or b"") for key in sync_redis().keys("*cache*"))


def test_a_new_secret_key_can_take_the_place_of_an_earlier_one(ana, app, settings):
    old = settings.SECRET_KEY
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "another-secret-" * 4, [old]
    browser = begin_log_in(ana.email)
    browser.post(CODE_PAGE, {"code": app.code()})
    assert is_in(browser)
    settings.SECRET_KEY_FALLBACKS = []
    for row in Authenticator.objects.all():
        assert decrypt(row.data.get("secret") or row.data["seed"])


def test_a_secret_key_that_is_lost_is_told_and_lets_nobody_in(ana, app, settings):
    settings.SECRET_KEY = "another-secret-" * 4
    browser = begin_log_in(ana.email)
    page = browser.post(CODE_PAGE, {"code": app.code()})
    assert page.status_code == 503
    assert not is_in(browser)


# --- Log-in -----------------------------------------------------------------------------------------------------------


def test_the_password_alone_lets_nobody_in(ana, app):
    browser = begin_log_in(ana.email)
    assert not is_in(browser)
    assert browser.get(CODE_PAGE).status_code == 200


def test_the_code_of_the_app_lets_in_and_leads_on(ana, app):
    browser = Client()
    browser.post("/accounts/login/", {"login": ana.email, "password": PASSWORD, "next": "/settings/history/"})
    answer = browser.post(CODE_PAGE, {"code": f" {app.code()[:3]} {app.code()[3:]} "})
    assert (answer.status_code, answer["Location"]) == (302, "/settings/history/")
    assert is_in(browser)


@pytest.mark.parametrize("steps", [-1, 1])
def test_a_clock_may_be_half_a_minute_off(ana, app, steps):
    browser = begin_log_in(ana.email)
    browser.post(CODE_PAGE, {"code": app.code(steps)})
    assert is_in(browser)


@pytest.mark.parametrize("steps", [-3, 3])
def test_a_code_of_another_time_is_refused(ana, app, steps):
    browser = begin_log_in(ana.email)
    browser.post(CODE_PAGE, {"code": app.code(steps)})
    assert not is_in(browser)


def test_a_code_works_once(ana, app):
    code = app.code()
    for lets_in in (True, False):
        browser = begin_log_in(ana.email)
        page = browser.post(CODE_PAGE, {"code": code})
        assert is_in(browser) is lets_in
    assert list(page.context["form"].errors) == ["code"]


def test_a_code_from_before_the_last_one_does_not_work_any_more(ana, app):
    begin_log_in(ana.email).post(CODE_PAGE, {"code": app.code()})
    browser = begin_log_in(ana.email)
    browser.post(CODE_PAGE, {"code": app.code(-1)})
    assert not is_in(browser)


def test_the_code_that_set_the_app_up_lets_nobody_in(ana, member):
    app, _page = set_up_on_pages(member)
    browser = begin_log_in(ana.email)
    browser.post(CODE_PAGE, {"code": app.last_code})
    assert not is_in(browser)


@pytest.mark.parametrize("kind", ["app", "recovery"])
def test_of_two_log_ins_with_one_code_one_gets_in(ana, app, kind):
    code = app.code() if kind == "app" else recovery_codes(ana)[0]
    browsers = [begin_log_in(ana.email) for _ in range(2)]
    together([lambda browser=browser: browser.post(CODE_PAGE, {"code": code}) for browser in browsers])
    assert sum(map(is_in, browsers)) == 1


def test_a_recovery_code_works_once(ana, app):
    code = recovery_codes(ana)[3]
    for lets_in in (True, False):
        browser = begin_log_in(ana.email)
        browser.post(CODE_PAGE, {"code": code})
        assert is_in(browser) is lets_in
    assert len(recovery_codes(ana)) == 9


def test_a_reset_asks_for_the_code_too(ana, app):
    ask_for_reset(ana.email)
    browser = reset_password(mail.outbox[-1], WRONG)
    assert not is_in(browser)
    browser.post(CODE_PAGE, {"code": app.code()})
    assert is_in(browser)


@pytest.mark.parametrize("what", ["password", "suspension", "log-out everywhere"])
def test_who_waits_for_the_code_is_out_when_what_they_gave_is_void(ana, app, what):
    browser = begin_log_in(ana.email)
    if what == "password":
        ana.set_password(WRONG)
        ana.save()
    elif what == "suspension":
        ana.is_active = False
        ana.save()
    else:
        ana.end_access()
    answer = browser.post(CODE_PAGE, {"code": app.code()})
    assert (answer.status_code, answer["Location"]) == (302, "/accounts/login/")
    assert not is_in(browser)


def test_who_waits_for_the_code_may_log_in_as_somebody_else(ana, bo, app):
    browser = begin_log_in(ana.email)
    browser.post("/accounts/logout/", {"next": "/accounts/login/"})
    browser.post("/accounts/login/", {"login": bo.email, "password": "uma senha longa"})
    assert is_in(browser)


def test_without_a_second_factor_nothing_changes(ana):
    assert log_in_by_page(ana.email)["Location"] == "/"


# --- Limits -----------------------------------------------------------------------------------------------------------


def test_codes_cannot_be_guessed(ana, app, api):
    browser = begin_log_in(ana.email)
    for _ in range(5):
        assert browser.post(CODE_PAGE, {"code": app.wrong_code()}).status_code == 200
    refused = browser.post(CODE_PAGE, {"code": app.code()})
    assert refused.status_code == 429
    assert int(refused["Retry-After"]) >= 1
    assert not is_in(browser)
    assert by_api(api, ana.email, code=app.code()).status_code == 429  # counted with those of the pages


def test_who_gets_in_is_counted_anew(ana, app):
    browser = begin_log_in(ana.email)
    for _ in range(4):
        browser.post(CODE_PAGE, {"code": app.wrong_code()})
    browser.post(CODE_PAGE, {"code": app.code()})
    browser = begin_log_in(ana.email)
    for _ in range(5):
        assert browser.post(CODE_PAGE, {"code": app.wrong_code()}).status_code == 200


def test_guesses_at_codes_make_nobody_wait_for_the_password(ana, app):
    browser = begin_log_in(ana.email)
    for _ in range(6):
        browser.post(CODE_PAGE, {"code": app.wrong_code()})
    begin_log_in(ana.email)


def test_a_network_guesses_no_codes_of_many(ana, app, monkeypatch):
    monkeypatch.setattr(limits, "_limit_of_network", lambda act: (1 if act is limits.Act.SECOND_FACTOR else 30, 60))
    browser = begin_log_in(ana.email)
    answers = [browser.post(CODE_PAGE, {"code": app.wrong_code()}).status_code for _ in range(3)]
    assert 429 in answers


# --- API --------------------------------------------------------------------------------------------------------------


def test_the_api_asks_for_the_code(ana, app, api):
    answer = by_api(api, ana.email)
    assert (answer.status_code, answer.json()["code"]) == (401, "second_factor_required")
    assert "access" not in answer.json()


def test_the_api_takes_the_code_of_the_app_once(ana, app, api):
    code = app.code()
    assert set(by_api(api, ana.email, code=code).json()) == {"access", "refresh"}
    again = by_api(api, ana.email, code=code)
    assert (again.status_code, again.json()["code"]) == (401, "second_factor_wrong")


def test_the_api_takes_a_recovery_code_once(ana, app, api):
    code = recovery_codes(ana)[0]
    assert [by_api(api, ana.email, code=code).status_code for _ in range(2)] == [200, 401]


def test_who_does_not_know_the_password_learns_nothing_of_the_second_factor(ana, app, api):
    answers = [by_api(api, email, WRONG, code=app.code()) for email in (ana.email, "nobody@example.com")]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(401, "no_active_account")] * 2
    assert by_api(api, ana.email, code=app.code()).status_code == 200  # a wrong password uses up no code


def test_somebody_suspended_is_not_asked_for_a_code(ana, app, api):
    ana.is_active = False
    ana.save()
    assert by_api(api, ana.email).json()["code"] == "no_active_account"


def test_a_code_without_a_second_factor_changes_nothing(ana, api):
    assert by_api(api, ana.email, code="123456").status_code == 200


# --- Asked for again, and removed -------------------------------------------------------------------------------------


def test_removing_it_needs_the_password_again(ana, app, member):
    page = "/accounts/2fa/totp/deactivate/"
    assert member.post(page)["Location"].startswith("/accounts/reauthenticate/")
    assert Authenticator.objects.count() == 2
    member.post("/accounts/reauthenticate/", {"password": PASSWORD})
    member.post(page)
    assert not Authenticator.objects.exists()
    assert mail.outbox[-1].to == [ana.email]
    assert log_in_by_page(ana.email)["Location"] == "/"


def test_a_code_will_do_where_a_member_is_asked_again(ana, app, member):
    assert "/accounts/2fa/reauthenticate/" in member.get("/accounts/reauthenticate/").text
    member.post("/accounts/2fa/reauthenticate/", {"code": app.wrong_code()})
    assert member.post("/accounts/2fa/totp/deactivate/")["Location"].startswith("/accounts/reauthenticate/")
    member.post("/accounts/2fa/reauthenticate/", {"code": app.code()})
    assert member.post("/accounts/2fa/totp/deactivate/")["Location"] == "/accounts/2fa/"


def test_new_recovery_codes_end_the_earlier_ones(ana, app, member):
    earlier = recovery_codes(ana)
    member.post("/accounts/reauthenticate/", {"password": PASSWORD})
    page = member.post("/accounts/2fa/recovery-codes/generate/", follow=True)
    assert not set(earlier) & set(recovery_codes(ana))
    assert all(code in page.text for code in recovery_codes(ana))
    assert mail.outbox[-1].to == [ana.email]
    downloaded = member.get("/accounts/2fa/recovery-codes/download/")
    assert downloaded.text.split() == recovery_codes(ana)


def test_recovery_codes_are_shown_after_the_password_alone(ana, app, member):
    for page in ("", "generate/", "download/"):
        answer = member.get(f"/accounts/2fa/recovery-codes/{page}")
        assert answer["Location"].startswith("/accounts/reauthenticate/")


def test_an_operator_removes_it_for_who_lost_everything(ana, app, olga):
    operator = Client()
    operator.force_login(olga)
    ask_again(operator, olga)
    fields = {"action": "remove_second_factors", "_selected_action": [ana.pk]}
    operator.post("/admin/accounts/user/", fields)
    assert not Authenticator.objects.exists()
    assert mail.outbox[-1].to == [ana.email]
    assert log_in_by_page(ana.email)["Location"] == "/"


def test_an_operator_without_all_rights_removes_no_other_operators(ana, olga):
    from django.contrib.auth.models import Permission

    set_up(olga)
    ana.is_staff = True
    ana.save()
    ana.user_permissions.set(Permission.objects.filter(codename__in=("view_user", "change_user")))
    operator = Client()
    operator.force_login(ana)
    ask_again(operator, ana)
    operator.post("/admin/accounts/user/", {"action": "remove_second_factors", "_selected_action": [olga.pk]})
    assert Authenticator.objects.filter(user=olga).exists()


def test_secrets_are_no_table_of_the_admin(olga):
    operator = Client()
    operator.force_login(olga)
    assert operator.get("/admin/mfa/authenticator/").status_code == 404


# --- Told -------------------------------------------------------------------------------------------------------------


def test_what_happens_to_it_is_logged_without_codes(ana, member, caplog):
    caplog.set_level(logging.INFO, "accounts.events")
    app, _page = set_up_on_pages(member)
    browser = begin_log_in(ana.email)
    browser.post(CODE_PAGE, {"code": app.wrong_code()})
    member.post("/accounts/2fa/recovery-codes/generate/")
    member.post("/accounts/2fa/totp/deactivate/")
    found = [(record.event, getattr(record, "kind", None)) for record in caplog.records]
    assert [one for one in found if one[0] != "log_in"] == [
        ("second_factor_added", "totp"),
        ("second_factor_added", "recovery_codes"),
        ("second_factor_failed", None),
        ("recovery_codes_made", None),
        ("second_factor_removed", "totp"),
        ("second_factor_removed", "recovery_codes"),
    ]
    assert app.secret not in str([vars(record) for record in caplog.records])


@pytest.mark.parametrize("language", ["es", "en", "pt-br"])
def test_pages_and_mails_speak_the_member_s_language(ana, language):
    User.objects.filter(pk=ana.pk).update(locale=language)
    browser = Client()
    browser.force_login(ana)
    set_up_on_pages(browser)
    browser.post("/accounts/2fa/recovery-codes/generate/")
    browser.post("/accounts/2fa/totp/deactivate/")
    subjects = {
        "es": ["Ahora se pide un código", "Tienes nuevos códigos", "Ya no se pide un código"],
        "en": ["Your log-in asks for a code now", "You have new recovery codes", "Your log-in asks for no code"],
        "pt-br": ["Agora é preciso um código", "Você tem novos códigos", "Não é mais preciso um código"],
    }
    for message, beginning in zip(mail.outbox, subjects[language], strict=True):
        assert message.subject.startswith(beginning)
        assert not re.search(r"\d{8}", str(message.body))


def test_what_is_encrypted_twice_differs():
    assert encrypt("a") != encrypt("a")
    assert decrypt(encrypt("a")) == "a"
