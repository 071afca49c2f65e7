"""Error pages, the policy every page carries, and caught mail."""

import datetime as dt
import re
from io import StringIO
from uuid import uuid4

import pytest
from django.core.mail import EmailMessage, get_connection
from django.db import OperationalError
from django.http import Http404
from django.template.defaultfilters import floatformat
from django.test import Client, RequestFactory
from django.utils import translation
from django.utils.formats import date_format
from redis.exceptions import ConnectionError as RedisConnectionError

from config import mail
from config.pages import server_error


@pytest.fixture
def browser(catalog) -> Client:
    return Client(raise_request_exception=False)


@pytest.mark.parametrize(
    "path", ["/", "/terms/", "/status/", "/accounts/login/", "/accounts/signup/", "/nothing/", "/admin/login/"]
)
def test_every_page_forbids_whatever_is_not_ours(browser, path):
    policy = browser.get(path)["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "https:" not in policy


@pytest.mark.parametrize("path", ["/pricing/", "/terms/", "/status/", "/accounts/login/", "/accounts/signup/"])
def test_whatever_leads_to_the_page_one_is_on_says_so(browser, path):
    assert_current(browser.get(path).text, path)


@pytest.mark.parametrize(
    "path", ["/", "/dashboard/", "/billing/", "/usage/", "/settings/", "/accounts/email/", "/pricing/"]
)
def test_a_member_s_links_do_too(browser, ana, path):
    browser.force_login(ana)
    assert_current(browser.get(path).text, path)


def assert_current(page: str, path: str) -> None:
    """Each link of a navigation that leads to `path` is marked, and no other."""
    links = [
        link
        for nav in re.findall(r"<nav.*?</nav>|<footer.*?</footer>", page, re.S)
        for link in re.findall(r"<a\b[^>]*>", nav)
    ]
    current = [link for link in links if 'aria-current="page"' in link]
    assert [link for link in links if f'href="{path}"' in link] == current


@pytest.mark.parametrize(
    ("language", "moment", "day", "number"),
    [
        ("es", "1 de diciembre de 2026 a las 00:00", "01/12/2026", "1.234,5"),
        ("en", "December 1, 2026 at 00:00", "Dec 1, 2026", "1,234.5"),
        ("pt-br", "1 de dezembro de 2026 às 00:00", "01/12/2026", "1.234,5"),
    ],
)
def test_there_is_one_way_to_write_numbers_and_dates(language, moment, day, number):
    begins = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)
    with translation.override(language):
        assert date_format(begins, "DATETIME_FORMAT") == moment
        assert date_format(begins, "SHORT_DATE_FORMAT") == day
        assert floatformat(1234.5, "-1g") == number


@pytest.mark.parametrize("debug", [False, True])
def test_a_static_file_there_is_not_is_not_found(browser, settings, debug):
    settings.DEBUG = debug
    assert browser.get("/static/nothing.css").status_code == 404


def test_the_frame_of_a_diagram_has_no_origin_and_no_network(browser):
    answer = browser.get("/diagram/")
    policy = answer["Content-Security-Policy"]
    assert policy.startswith(
        "sandbox allow-scripts; default-src 'none'; script-src 'self' blob:; style-src 'self' 'unsafe"
    )
    assert "frame-ancestors 'self'" in policy
    assert answer["X-Frame-Options"] == "SAMEORIGIN"


def test_a_page_has_a_nonce_of_its_own(browser):
    policies = {browser.get("/terms/")["Content-Security-Policy"] for _ in range(2)}
    assert len(policies) == 2


def test_a_page_that_is_not_there_leads_on(browser):
    answer = browser.get("/nothing/", headers={"Accept-Language": "en"})
    assert answer.status_code == 404
    assert "That does not exist, or is not yours." in answer.text
    assert 'href="/"' in answer.text


def test_a_form_that_is_too_old_says_so(catalog):
    answer = Client(enforce_csrf_checks=True).post("/theme/", {"theme": "dark"}, headers={"Accept-Language": "en"})
    assert answer.status_code == 403
    assert "This form is too old" in answer.text


def test_a_store_that_is_away_is_told_without_a_traceback(browser, ana, monkeypatch):
    browser.force_login(ana)

    def fail(*_args, **_kwargs):
        raise RedisConnectionError("127.0.0.1:6379 said no")

    monkeypatch.setattr("chat.pages.views.entitlements.entitlements_and_allowance_of", fail)
    answer = browser.get("/dashboard/")
    assert answer.status_code == 503
    assert "6379" not in answer.text


def test_an_error_comes_into_the_dialog_as_a_sentence_and_a_way_out(browser, ana, monkeypatch):
    """htmx would put a whole page there."""
    browser.force_login(ana)

    def fail(*_args, **_kwargs):
        raise OperationalError("connection refused")

    monkeypatch.setattr("history.views.access.access_conversation", fail)
    answer = browser.get(f"/c/{uuid4()}/rename/", headers={"HX-Request": "true"})
    assert answer.status_code == 503
    assert "<html" not in answer.text
    assert "data-close" in answer.text
    assert answer["HX-Retarget"] == "#dialog-content"  # a link may have another target, which stays as it is


def test_the_last_error_page_asks_no_store(catalog):
    request = RequestFactory().get("/")  # no session, no user: reading either would raise
    request.request_id = "abc123"
    answer = server_error(request)
    assert answer.status_code == 500
    assert b"abc123" in answer.content


def test_mail_is_caught_and_shown(settings, tmp_path, catalog):
    settings.MAIL_DIR = tmp_path / "mail"
    console = StringIO()
    connection = get_connection("config.mail.CaughtMail", stream=console)
    for number in range(mail.MAX_MAILS + 2):
        EmailMessage(
            f"Subject {number}", "¡Hola! <b>", "a@example.com", ["b@example.com"], connection=connection
        ).send()
    assert len(mail.list_files()) == mail.MAX_MAILS
    assert mail.read_mail(mail.list_files()[0])["subject"] == f"Subject {mail.MAX_MAILS + 1}"
    assert mail.read_mail(mail.list_files()[0])["body"].strip() == "¡Hola! <b>"
    assert "Subject 3" in console.getvalue()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_caught_mail_is_shown_on_this_machine(settings, tmp_path, address):
    settings.MAIL_DIR = tmp_path
    (tmp_path / "1796000000000000000.eml").write_text("Subject: Hi\nDate: Mon, 30 Nov 2026 00:53:20 -0000\n\nHello.")
    request = RequestFactory().get("/mail/", REMOTE_ADDR=address)
    with translation.override("es"):
        answer = mail.caught(request)
    assert answer.status_code == 200
    assert "30/11/2026 00:53" in answer.content.decode()  # in the reader's language and time


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        *[(address, {}) for address in ("192.168.1.7", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", "", "localhost")],
        *[
            ("127.0.0.1", {name: "127.0.0.1"}) for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP")
        ],  # a proxy is in between
    ],
)
def test_caught_mail_with_its_working_links_is_shown_to_nobody_else(settings, tmp_path, address, headers):
    settings.MAIL_DIR = tmp_path
    request = RequestFactory().get("/mail/", REMOTE_ADDR=address, headers={"Host": "localhost", **headers})
    with pytest.raises(Http404):
        mail.caught(request)


@pytest.mark.parametrize("path", ["/", "/dashboard/", "/settings/"])
def test_without_the_store_of_sessions_a_page_says_so(browser, ana, monkeypatch, path):
    browser.force_login(ana)

    def fail(*_args, **_kwargs):
        raise RedisConnectionError("127.0.0.1:6379 said no")

    monkeypatch.setattr("django.core.cache.backends.redis.RedisCacheClient.get", fail)
    answer = browser.get(path)
    assert answer.status_code == 503
    assert "6379" not in answer.text
