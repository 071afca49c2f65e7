"""Sign-up, log-in, passwords, addresses and settings, as pages."""

import re
from urllib.parse import unquote

import pytest
from allauth.account.models import EmailAddress
from django.core import mail
from django.test import Client, override_settings
from django.urls import clear_url_caches
from django.utils import timezone

from accounts.models import User
from core import mail as core_mail

PASSWORD = "una clave larga"
SIGN_UP = {"email": "Dora@Example.com", "password1": PASSWORD, "terms": "on", "time_zone": "America/Bogota"}


@pytest.fixture
def browser(catalog) -> Client:
    return Client()


def link_in(body: str) -> str:
    """Return the path of the link in a mail."""
    found = re.search(r"https?://[^/\s]+(/\S+)", body)
    assert found, body
    return found[1]


def sign_up(browser: Client, **changes: str):
    return browser.post("/accounts/signup/", {**SIGN_UP, **changes})


@pytest.mark.parametrize("path", ["/accounts/login/", "/accounts/logout/", "/accounts/signup/"])
@pytest.mark.parametrize("address", ["https://[", "//evil.example/", "https://[::1"])
def test_a_form_leads_nowhere_that_is_no_address_of_ours(browser, ana, path, address):
    fields = {"login": ana.email, "password": PASSWORD, **SIGN_UP, "next": address}
    answer = browser.post(path, fields)
    assert (answer.status_code, answer["Location"]) == (302, "/")
    assert browser.get(path, {"next": address}).status_code in (200, 302)


def test_who_signs_up_is_logged_in_and_what_was_accepted_is_recorded(browser):
    browser.cookies["theme"] = "dark"
    answer = browser.post("/accounts/signup/", SIGN_UP, headers={"Accept-Language": "pt-BR"})
    assert (answer.status_code, answer["Location"]) == (302, "/")
    dora = User.objects.get(email="dora@example.com")
    assert (timezone.now() - dora.terms_accepted_at).total_seconds() < 60
    assert (dora.locale, dora.time_zone, dora.theme) == ("pt-br", "America/Bogota", "dark")
    assert browser.get("/").context["request"].user == dora
    assert mail.outbox[0].to == ["dora@example.com"]


@pytest.mark.parametrize(
    "changes",
    [{"terms": ""}, {"email": "no"}, {"password1": "short"}, {"password1": "password123"}, {"email": ""}],
)
def test_who_cannot_sign_up_is_told_why_beside_the_field(browser, changes):
    answer = sign_up(browser, **changes)
    assert answer.status_code == 200
    assert list(answer.context["form"].errors) == list(changes)
    assert "field-errors" in answer.text
    assert User.objects.count() == 0


@pytest.mark.parametrize("password", ["", "corta", "password123", "dora@example.com"])
def test_the_rules_of_passwords_say_tu_in_spanish(browser, password):
    answer = browser.post(
        "/accounts/signup/", {**SIGN_UP, "password1": password, "email": "dora"}, headers={"Accept-Language": "es"}
    )
    assert "Tu contraseña debe tener al menos 8 caracteres." in answer.text
    assert not re.search(r"\b(su|usted|introduzca|escoja|asegúrese)\b", answer.text.lower())


def test_where_mail_is_caught_the_page_that_tells_of_it_says_where(browser, ana, settings):
    browser.force_login(ana)
    answer = browser.post("/accounts/email/", {"action_send": "", "email": ana.email}, follow=True)
    assert "ana@example.com" in answer.text
    assert "/mail/" not in answer.text
    settings.ROOT_URLCONF = "tests.accounts.caught"
    clear_url_caches()
    answer = browser.post("/accounts/email/", {"action_send": "", "email": ana.email}, follow=True)
    told = r'notice-info">\s*<p>\s*Este sitio todavía no envía correos\.[^<]*ana@example.com[^<]*<a href="/mail/">'
    assert re.search(told, answer.text)


def test_an_address_signs_up_once_however_it_is_written(browser, ana):
    answer = sign_up(browser, email="ANA@example.com")
    assert User.objects.filter(email__iexact="ana@example.com").count() == 1
    assert not answer.wsgi_request.user.is_authenticated


def test_a_time_zone_nobody_knows_is_utc(browser):
    sign_up(browser, time_zone="Mars/Olympus")
    assert User.objects.get().time_zone == "UTC"


def test_a_members_time_zone_and_language_are_not_the_next_visitors(browser, ana):
    User.objects.filter(pk=ana.pk).update(time_zone="America/Lima", locale="pt-br")
    member = Client()
    member.force_login(ana)
    assert "America/Lima" in member.get("/status/").text
    visitors = browser.get("/status/", headers={"Accept-Language": "en"}).text
    assert "(UTC)" in visitors
    assert '<html lang="en"' in visitors


@pytest.mark.parametrize("address", ["ana@example.com", "ANA@Example.com"])
def test_a_member_logs_in_and_out(browser, ana, address):
    answer = browser.post("/accounts/login/", {"login": address, "password": PASSWORD})
    assert (answer.status_code, answer["Location"]) == (302, "/")
    assert browser.get("/settings/").status_code == 200
    assert browser.post("/accounts/logout/")["Location"] == "/"
    assert browser.get("/settings/")["Location"] == "/accounts/login/?next=/settings/"


def test_a_wrong_password_and_a_wrong_address_are_told_alike(browser, ana):
    wrong = [
        browser.post("/accounts/login/", {"login": login, "password": "wrong"}).context["form"].non_field_errors()
        for login in ("ana@example.com", "nobody@example.com")
    ]
    assert len(wrong[0]) == 1
    assert list(wrong[0]) == list(wrong[1])


def test_who_is_suspended_does_not_get_in(browser, ana):
    ana.is_active = False
    ana.save()
    browser.post("/accounts/login/", {"login": ana.email, "password": PASSWORD})
    assert browser.get("/settings/").status_code == 302


def test_a_forgotten_password_is_replaced_through_a_mail(browser, ana):
    answer = browser.post("/accounts/password/reset/", {"email": ana.email})
    assert answer["Location"] == "/accounts/password/reset/done/"
    answer = browser.get(link_in(mail.outbox[0].body), follow=True)
    page = answer.redirect_chain[-1][0]
    browser.post(page, {"password1": "otra clave larga", "password2": "otra clave larga"})
    ana.refresh_from_db()
    assert ana.check_password("otra clave larga")


def test_a_reset_for_nobody_looks_the_same(browser, catalog):
    answer = browser.post("/accounts/password/reset/", {"email": "nobody@example.com"})
    assert answer["Location"] == "/accounts/password/reset/done/"


def test_a_member_changes_their_password(browser, ana):
    browser.force_login(ana)
    fields = {"oldpassword": PASSWORD, "password1": "otra clave larga", "password2": "otra clave larga"}
    browser.post("/accounts/password/change/", fields)
    ana.refresh_from_db()
    assert ana.check_password("otra clave larga")
    assert browser.get("/settings/").status_code == 200  # still logged in here


@pytest.mark.parametrize("is_confirmed", [True, False])
def test_a_new_address_replaces_the_old_one_when_it_is_confirmed(browser, ana, is_confirmed):
    EmailAddress.objects.create(user=ana, email=ana.email, primary=True, verified=is_confirmed)
    browser.force_login(ana)
    ask_for(browser, "mistyped@example.org")
    ask_for(browser, "ana@example.org")
    ana.refresh_from_db()
    assert ana.email == "ana@example.com"
    browser.post(link_in(mail.outbox[-1].body))
    ana.refresh_from_db()
    assert ana.email == "ana@example.org"
    assert [row.email for row in EmailAddress.objects.filter(user=ana)] == ["ana@example.org"]


def ask_for(browser: Client, email: str) -> None:
    """Ask for another address, and write the password."""
    browser.post("/accounts/reauthenticate/", {"password": PASSWORD})
    browser.post("/accounts/email/", {"email": email, "action_add": ""})


def test_another_address_is_taken_only_after_the_password_was_written_again(browser, ana):
    browser.post("/accounts/login/", {"login": ana.email, "password": PASSWORD})
    answer = browser.post("/accounts/email/", {"email": "eva@example.org", "action_add": ""})
    assert answer["Location"] == "/accounts/reauthenticate/?next=%2Faccounts%2Femail%2F"
    browser.post(answer["Location"], {"password": "wrong", "next": "/accounts/email/"})
    assert mail.outbox == []
    assert not EmailAddress.objects.filter(email="eva@example.org").exists()
    browser.post(answer["Location"], {"password": PASSWORD, "next": "/accounts/email/"})
    assert mail.outbox[0].to == ["eva@example.org"]


def reset_password(browser: Client, user: User) -> None:
    browser.post("/accounts/password/reset/", {"email": user.email})
    page = browser.get(link_in(mail.outbox[-1].body), follow=True).redirect_chain[-1][0]
    browser.post(page, {"password1": "otra clave larga", "password2": "otra clave larga"})


def change_password(browser: Client, user: User) -> None:
    browser.post("/accounts/login/", {"login": user.email, "password": PASSWORD})
    fields = {"oldpassword": PASSWORD, "password1": "otra clave larga", "password2": "otra clave larga"}
    browser.post("/accounts/password/change/", fields)


def change_for_them(_browser: Client, user: User) -> None:
    """As an operator does in the admin."""
    user.set_password("otra clave larga")
    user.save()


def test_somebody_without_an_address_is_asked_for_their_password_without_an_error(browser, ana):
    User.objects.filter(pk=ana.pk).update(email="")
    browser.force_login(ana)
    answer = browser.post("/accounts/reauthenticate/", {"password": PASSWORD})
    assert answer.status_code == 302


@pytest.mark.parametrize("way", [reset_password, change_password, change_for_them])
def test_a_pending_address_does_not_outlive_the_password(browser, ana, way):
    thief = Client()
    thief.force_login(ana)
    ask_for(thief, "thief@example.org")
    link = link_in(mail.outbox[-1].body)
    way(browser, ana)
    assert thief.get("/settings/").status_code == 302
    assert "Location" in thief.post(link)  # to log-in: the old password is none any more
    browser.post("/accounts/login/", {"login": ana.email, "password": "otra clave larga"})
    browser.post(link)
    ana.refresh_from_db()
    assert ana.email == "ana@example.com"
    assert not EmailAddress.objects.filter(email="thief@example.org").exists()
    sent = len(mail.outbox)
    thief.post("/accounts/password/reset/", {"email": "thief@example.org"})
    assert not any("/accounts/password/reset/key/" in one.body for one in mail.outbox[sent:])


def test_a_reset_is_not_sent_to_an_address_that_nobody_confirmed(browser, ana):
    """It may be mistyped, and somebody else's."""
    browser.force_login(ana)
    ask_for(browser, "mistyped@example.org")
    sent = len(mail.outbox)
    Client().post("/accounts/password/reset/", {"email": "mistyped@example.org"})
    assert not any("/accounts/password/reset/key/" in one.body for one in mail.outbox[sent:])


def test_a_link_opened_signed_out_leads_to_log_in_and_then_confirms(browser, ana):
    browser.force_login(ana)
    ask_for(browser, "ana@example.org")
    link = link_in(mail.outbox[-1].body)
    phone = Client()
    for answer in (phone.get(link), phone.post(link)):
        assert unquote(answer["Location"]) == f"/accounts/login/?next={unquote(link)}"
    ana.refresh_from_db()
    assert ana.email == "ana@example.com"
    answer = phone.post("/accounts/login/", {"login": ana.email, "password": PASSWORD, "next": link})
    assert unquote(answer["Location"]) == unquote(link)
    assert "ana@example.org" in phone.get(link).text
    phone.post(link)
    ana.refresh_from_db()
    assert ana.email == "ana@example.org"


def test_a_link_of_somebody_else_confirms_nothing_and_says_so(browser, ana, bo):
    browser.force_login(ana)
    ask_for(browser, "ana@example.org")
    link = link_in(mail.outbox[-1].body)
    other = Client()
    other.force_login(bo)
    for answer in (other.get(link), other.post(link)):
        assert answer.status_code == 403
        assert bo.email in answer.text
        assert "ana@example.org" not in answer.text
    assert other.get("/settings/").status_code == 200
    ana.refresh_from_db()
    assert ana.email == "ana@example.com"


def test_a_link_that_works_no_more_says_so(browser, ana):
    answer = browser.get("/accounts/confirm-email/nothing/", headers={"Accept-Language": "en"}, follow=True)
    assert "Log in to confirm your e-mail address." in answer.text  # on the phone that the mail was read on
    browser.force_login(ana)
    assert "/accounts/email/" in browser.get("/accounts/confirm-email/nothing/").text


def test_a_member_logs_out_everywhere(browser, ana):
    phone = Client()
    for client in (browser, phone):
        client.force_login(ana)
    assert "/settings/log-out-everywhere/" in browser.get("/settings/").text
    assert browser.get("/settings/log-out-everywhere/").status_code == 405
    answer = browser.post("/settings/log-out-everywhere/")
    assert answer["Location"] == "/accounts/login/"
    for client in (browser, phone):
        assert client.get("/settings/").status_code == 302


@pytest.mark.parametrize(("language", "words"), [("es", "contraseña"), ("en", "password"), ("pt-br", "senha")])
def test_mail_speaks_the_language_of_the_page_it_was_asked_on(browser, ana, language, words):
    browser.post("/accounts/password/reset/", {"email": ana.email}, headers={"Accept-Language": language})
    assert words in mail.outbox[0].body
    assert mail.outbox[0].from_email.startswith("Tertulia <")


def test_links_in_mails_lead_to_the_site_wherever_they_were_asked_for(browser, ana, settings):
    """A stranger asks, with a Host of their own choice; the owner opens the link."""
    settings.SITE_URL = "https://chat.example.com"
    settings.REQUIRE_VERIFIED_EMAIL = True
    asked_at = {"host": "localhost:31337"}
    for email in (ana.email, "nobody@example.com"):
        browser.post("/accounts/password/reset/", {"email": email}, headers=asked_at)
        browser.post("/accounts/signup/", {**SIGN_UP, "email": email}, headers=asked_at)
    links = [re.findall(r"https?://[^/\s]+/", message.body) for message in mail.outbox]
    assert links == [["https://chat.example.com/"]] * 4


def test_with_a_mail_server_a_worker_sends(browser, ana, settings, monkeypatch):
    sent = []
    monkeypatch.setattr(core_mail.send_mail, "delay", lambda **fields: sent.append(fields))
    settings.HAS_MAIL_SERVER = True
    browser.post("/accounts/password/reset/", {"email": ana.email})
    assert mail.outbox == []
    core_mail.send_mail(**sent[0])
    assert mail.outbox[0].to == [ana.email]


def test_settings_are_saved_and_hold_at_once(browser, ana):
    browser.force_login(ana)
    fields = {"name": "Ana", "locale": "en", "time_zone": "America/Bogota", "theme": "dark"}
    answer = browser.post("/settings/", fields, follow=True)
    assert '<html lang="en" data-theme="dark">' in answer.text
    assert "Saved." in answer.text
    ana.refresh_from_db()
    assert (ana.name, ana.locale, ana.time_zone, ana.theme) == ("Ana", "en", "America/Bogota", "dark")


def test_settings_that_are_not_valid_change_nothing(browser, ana):
    browser.force_login(ana)
    answer = browser.post("/settings/", {"name": "Ana", "locale": "xx", "time_zone": "Mars/Olympus", "theme": "dark"})
    assert answer.status_code == 422
    assert set(answer.context["form"].errors) == {"locale", "time_zone"}
    ana.refresh_from_db()
    assert (ana.name, ana.theme) == ("", "system")


def test_a_visitor_chooses_language_and_theme(browser):
    browser.post("/language/", {"language": "en", "next": "/terms/"})
    answer = browser.post("/theme/", {"theme": "dark", "next": "/terms/"}, follow=True)
    assert answer.redirect_chain == [("/terms/", 302)]
    assert '<html lang="en" data-theme="dark">' in answer.text


def test_a_members_choice_is_kept_with_them(browser, ana):
    browser.force_login(ana)
    browser.post("/language/", {"language": "pt-br"})
    browser.post("/theme/", {"theme": "light"})
    ana.refresh_from_db()
    assert (ana.locale, ana.theme) == ("pt-br", "light")
    assert '<html lang="pt-br" data-theme="light">' in browser.get("/").text


@pytest.mark.parametrize("where", ["https://example.com/", "//example.com/", "javascript:alert(1)"])
def test_the_switches_lead_nowhere_else(browser, where):
    assert browser.post("/theme/", {"theme": "dark", "next": where})["Location"] == "/"


@pytest.mark.parametrize(
    "where", ["https://evil.example.com/", "//evil.example.com", "http://[", "//[::1", "http://a]b/"]
)
@pytest.mark.parametrize("page", ["login", "logout", "signup", "password/reset"])
def test_no_door_leads_elsewhere_or_breaks_by_where_it_is_told_to_lead(browser, page, where):
    answer = browser.get(f"/accounts/{page}/", {"next": where})
    assert answer.status_code == 200 or answer["Location"] == "/"


def test_a_log_in_leads_nowhere_else(browser, ana):
    for where in ("https://evil.example.com/", "http://["):
        answer = Client().post("/accounts/login/", {"login": ana.email, "password": PASSWORD, "next": where})
        assert (answer.status_code, answer["Location"]) == (302, "/")


@pytest.mark.parametrize("choice", [{"theme": "<script>"}, {}])
def test_a_theme_there_is_not_changes_nothing(browser, choice):
    assert browser.post("/theme/", choice).cookies == {}


@pytest.mark.parametrize("path", ["/settings/", "/accounts/email/", "/accounts/password/change/", "/dashboard/"])
def test_what_is_a_members_asks_a_visitor_to_log_in(browser, path):
    answer = browser.get(path)
    assert answer.status_code == 302
    assert answer["Location"].startswith("/accounts/login/?next=")


def test_caught_mail_is_for_development_only(browser):
    assert browser.get("/mail/").status_code == 404


@override_settings(SESSION_COOKIE_SECURE=True)
def test_cookies_of_choices_are_as_secure_as_the_session(browser):
    answer = browser.post("/theme/", {"theme": "dark"})
    assert answer.cookies["theme"]["secure"]
