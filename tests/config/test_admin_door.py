"""Who gets into the admin: operators who have shown a second factor."""

from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from django.core.management import CommandError, call_command
from django.test import Client

from accounts.models import User
from tests.accounts.doors import PASSWORD, log_in_by_page
from tests.accounts.factors import SecurityKey, recovery_codes, set_up, set_up_on_pages

PAGES = ["/admin/", "/admin/accounts/user/", "/admin/billing/payment/dashboard/", "/admin/jsi18n/"]


@pytest.fixture(autouse=True)
def strict(settings: Any) -> None:
    settings.ADMIN_REQUIRES_SECOND_FACTOR = True


def log_in(user: User) -> Client:
    browser = Client(HTTP_ACCEPT_LANGUAGE="en")
    browser.post("/accounts/login/", {"login": user.email, "password": PASSWORD})
    return browser


@pytest.mark.parametrize("path", PAGES)
def test_an_operator_without_a_second_factor_is_led_to_set_one_up(olga, path):
    page = log_in(olga).get(path, follow=True)
    assert page.status_code == 403
    assert "/accounts/2fa/totp/activate/" in page.text
    assert "/admin/accounts/user/" not in page.text


def test_an_operator_does_nothing_without_a_second_factor(olga, ana):
    browser = log_in(olga)
    browser.post(f"/admin/accounts/user/{ana.pk}/delete/", {"post": "yes"})
    assert User.objects.filter(pk=ana.pk).exists()


def test_who_set_one_up_is_in(olga):
    browser = log_in(olga)
    set_up_on_pages(browser)
    assert browser.get("/admin/").status_code == 200


def test_who_logged_in_with_it_is_in(olga):
    app = set_up(olga)
    browser = log_in(olga)
    browser.post("/accounts/2fa/authenticate/", {"code": app.code()})
    assert browser.get("/admin/accounts/user/").status_code == 200


def test_a_session_from_before_is_asked_for_it(olga):
    browser = log_in(olga)
    app = set_up(olga)  # elsewhere: this session may be somebody else's
    answer = browser.get("/admin/", follow=True)
    assert answer.redirect_chain[-1][0] == "/accounts/2fa/reauthenticate/?next=/admin/"
    browser.post("/accounts/reauthenticate/", {"password": PASSWORD})
    assert browser.get("/admin/").status_code == 302
    answer = browser.post("/accounts/2fa/reauthenticate/", {"code": app.code(), "next": "/admin/"})
    assert answer["Location"] == "/admin/"
    assert browser.get("/admin/").status_code == 200


def test_whoever_adds_another_has_not_shown_the_first(olga):
    browser = log_in(olga)
    set_up(olga)  # elsewhere, as above
    browser.defaults["SERVER_NAME"] = "localhost"
    browser.post("/accounts/reauthenticate/", {"password": PASSWORD})
    options = browser.get("/accounts/2fa/webauthn/add/").context["creation_options"]
    browser.post("/accounts/2fa/webauthn/add/", {"name": "x", "credential": SecurityKey().add(options)})
    assert Authenticator.objects.filter(type="webauthn").exists()
    assert browser.get("/admin/").status_code == 302


def test_who_removed_it_is_out(olga):
    browser = log_in(olga)
    set_up_on_pages(browser)
    browser.post("/accounts/2fa/totp/deactivate/")
    assert browser.get("/admin/", follow=True).status_code == 403


def test_a_recovery_code_will_do(olga):
    set_up(olga)
    browser = log_in(olga)
    browser.post("/accounts/2fa/authenticate/", {"code": recovery_codes(olga)[0]})
    assert browser.get("/admin/").status_code == 200


def test_what_another_account_showed_in_the_browser_counts_for_nothing(olga, ana):
    app = set_up(ana)
    browser = log_in(ana)
    browser.post("/accounts/2fa/authenticate/", {"code": app.code()})
    browser.post("/accounts/logout/")
    browser.post("/accounts/login/", {"login": olga.email, "password": PASSWORD})
    set_up(olga)
    assert browser.get("/admin/").status_code == 302


def test_a_superuser_made_by_the_command_gets_in(catalog, settings, monkeypatch):
    settings.REQUIRE_VERIFIED_EMAIL = True
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", PASSWORD)
    call_command("createsuperuser", email="new@example.com", interactive=False, verbosity=0)
    browser = log_in(User.objects.get())
    assert browser.get("/admin/", follow=True).status_code == 403
    set_up_on_pages(browser)
    assert Authenticator.objects.count() == 2
    assert browser.get("/admin/").status_code == 200


def test_a_member_with_a_second_factor_is_no_operator(ana):
    browser = log_in(ana)
    set_up_on_pages(browser)
    assert browser.get("/admin/", follow=True).status_code == 403
    assert browser.get("/admin/").status_code == 302


def test_the_command_removes_it_for_who_lost_everything(olga):
    set_up(olga)
    call_command("remove_second_factor", " OLGA@example.com", verbosity=0)
    assert not Authenticator.objects.exists()
    for address in (olga.email, "nobody@example.com"):
        with pytest.raises(CommandError):
            call_command("remove_second_factor", address)


def test_a_site_may_do_without(olga, settings):
    settings.ADMIN_REQUIRES_SECOND_FACTOR = False
    browser = Client()
    browser.force_login(olga)
    assert browser.get("/admin/").status_code == 200


def test_a_log_in_for_the_admin_leads_there_after_the_code(olga):
    app = set_up(olga)
    assert log_in_by_page(olga.email, next="/admin/")["Location"] == "/accounts/2fa/authenticate/"
    browser = Client()
    browser.post("/accounts/login/", {"login": olga.email, "password": PASSWORD, "next": "/admin/"})
    assert browser.post("/accounts/2fa/authenticate/", {"code": app.code()})["Location"] == "/admin/"
