"""Where somebody is logged in: seen, ended one by one, and told by mail where it is new."""

import re
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.core import mail
from django.test import Client
from rest_framework.test import APIClient

from accounts import devices
from accounts.admission import admission_by_session, list_ended
from accounts.models import TokenFamily, User
from accounts.signals import access_revoked
from core.redis_clients import sync_redis
from tests.accounts.doors import PASSWORD, WRONG, links_in, log_in_by_api, sign_up_by_api, sign_up_by_page
from tests.accounts.factors import recovery_codes, set_up

PAGE = "/settings/devices/"
PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Version/19.0 Mobile/15E148 Safari/604.1"
LAPTOP = "Mozilla/5.0 (X11; Linux x86_64; rv:146.0) Gecko/20100101 Firefox/146.0"
DESK = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) (KHTML, like Gecko) Chrome/143.0 Safari/537.36 Edg/143"


@pytest.fixture(autouse=True)
def noted_anew() -> None:
    devices._noted.clear()


def log_in(user: User, agent: str = LAPTOP, peer: str = "192.0.2.1", password: str = PASSWORD) -> Client:
    browser = Client(REMOTE_ADDR=peer, HTTP_USER_AGENT=agent, HTTP_ACCEPT_LANGUAGE="en")
    return log_in_again(browser, user, password)


def log_in_again(browser: Client, user: User, password: str = PASSWORD) -> Client:
    answer = browser.post("/accounts/login/", {"login": user.email, "password": password})
    assert answer.status_code == 302
    return browser


def is_in(browser: Client) -> bool:
    return browser.get("/settings/").status_code == 200


def addresses_to_end(page: Any, kind: str) -> list[str]:
    return re.findall(rf'action="(/settings/devices/{kind}/[^"]+)"', page.text)


# --- Seen -------------------------------------------------------------------------------------------------------------


def test_one_sees_browser_and_network_and_which_is_this(ana):
    here, phone = log_in(ana), log_in(ana, PHONE, "198.51.100.7")
    for browser, other in ((here, "Safari · iPhone"), (phone, "Firefox · Linux")):
        page = browser.get(PAGE)
        assert page.text.count("Este navegador") == 1
        assert len(addresses_to_end(page, "sessions")) == 1
        assert other in page.text
    assert "198.51.100.7" in here.get(PAGE).text
    assert page.context["sessions"][0].is_this


def test_nobody_sees_another_s(ana, bo):
    log_in(ana, PHONE)
    page = log_in(bo, password="uma senha longa").get(PAGE)
    assert "iPhone" not in page.text


def test_a_page_shows_no_key_that_lets_in(ana):
    here, other = log_in(ana), log_in(ana, PHONE)
    page = here.get(PAGE).text
    for browser in (here, other):
        assert browser.session.session_key not in page


def test_a_session_that_was_not_noted_is_from_its_next_request_on(ana):
    browser = log_in(ana)
    sync_redis().delete(f"devices:{ana.pk}")
    assert addresses_to_end(log_in(ana, PHONE).get(PAGE), "sessions") == []
    devices._noted.clear()
    browser.get("/settings/")
    assert len(devices.list_sessions(ana, None)) == 2


def test_the_use_is_noted_from_time_to_time_and_not_with_each_request(ana, monkeypatch):
    browser = log_in(ana)
    before = devices.list_sessions(ana, None)[0]
    browser.get("/settings/", REMOTE_ADDR="198.51.100.7")
    assert devices.list_sessions(ana, None)[0] == before
    monkeypatch.setattr(devices, "USE_NOTED_EVERY_SECONDS", 0)
    browser.get("/settings/", REMOTE_ADDR="198.51.100.7")
    after = devices.list_sessions(ana, None)[0]
    assert (after.id, after.since, after.peer) == (before.id, before.since, "198.51.100.7")
    assert after.used_at > before.used_at


@pytest.mark.parametrize("how", ["log-out", "everywhere", "password"])
def test_what_is_over_is_not_shown(ana, how):
    log_in(ana, PHONE)
    browser = log_in(ana)
    if how == "log-out":
        browser.post("/accounts/logout/")
    elif how == "everywhere":
        browser.post("/settings/log-out-everywhere/")
    else:
        fields = {"oldpassword": PASSWORD, "password1": WRONG, "password2": WRONG}
        browser.post("/accounts/password/change/", fields)
        assert [one.is_this for one in browser.get(PAGE).context["sessions"]] == [True]
        return
    assert len(devices.list_sessions(User.objects.get(pk=ana.pk), None)) == (how == "log-out")


def test_what_is_known_of_ended_sessions_does_not_grow(ana):
    for _ in range(4):
        log_in(ana).post("/accounts/logout/")
    log_in(ana)
    assert sync_redis().hlen(f"devices:{ana.pk}") == 2


def test_nothing_is_left_of_somebody_deleted(ana):
    log_in(ana)
    user_id = ana.pk
    ana.delete()
    assert not sync_redis().exists(f"devices:{user_id}")


def test_programs_are_shown_with_what_they_call_themselves(ana):
    body = {"email": ana.email, "password": PASSWORD}
    client = APIClient(REMOTE_ADDR="198.51.100.9", HTTP_USER_AGENT="my-script/1.2 (test)")
    tokens = client.post("/api/v1/auth/login", body, format="json").json()
    browser = log_in(ana)
    page = browser.get(PAGE)
    assert "my-script/1.2" in page.text
    assert "198.51.100.9" in page.text
    before = devices.list_programs(ana)[0]
    client.post("/api/v1/auth/refresh", {"refresh": tokens["refresh"]}, format="json")
    after = devices.list_programs(ana)[0]
    assert (after.id, after.since) == (before.id, before.since)
    assert after.used_at > before.used_at


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        (PHONE, "Safari · iPhone"),
        (LAPTOP, "Firefox · Linux"),
        (DESK, "Edge · Windows"),
        ("curl/8.5", "curl/8.5"),
        ("", ""),
        ("x" * 300, "x" * 40),
    ],
)
def test_browsers_have_the_names_people_know(agent, name):
    assert devices.device_name(agent) == name


def test_what_a_browser_calls_itself_is_no_markup(ana):
    browser = log_in(ana, "<b>x</b>")
    assert "<b>x" not in browser.get(PAGE).text


# --- Ended ------------------------------------------------------------------------------------------------------------


def test_one_session_is_ended_and_what_is_open_with_it_hears_of_it(ana):
    here, phone = log_in(ana), log_in(ana, PHONE)
    admissions = [admission_by_session(ana, browser.session) for browser in (here, phone)]
    heard: list[int] = []

    def hear(user_id: int, **_signal: Any) -> None:
        heard.append(user_id)

    access_revoked.connect(hear)
    [address] = addresses_to_end(here.get(PAGE), "sessions")
    page = here.post(address, follow=True)
    access_revoked.disconnect(hear)
    assert page.status_code == 200
    assert (is_in(here), is_in(phone)) == (True, False)
    assert list_ended(admissions) == {admissions[1]}
    assert heard == [ana.pk]
    assert addresses_to_end(here.get(PAGE), "sessions") == []


def test_one_program_is_ended_and_no_other(ana):
    first, second = (log_in_by_api(ana.email).json()["access"] for _ in range(2))
    browser = log_in(ana)
    second_address, first_address = addresses_to_end(browser.get(PAGE), "programs")
    browser.post(first_address)
    codes = [
        APIClient().get("/api/v1/me", HTTP_AUTHORIZATION=f"Bearer {access}").status_code for access in (first, second)
    ]
    assert codes == [401, 200]
    assert addresses_to_end(browser.get(PAGE), "programs") == [second_address]


def test_nobody_ends_another_s(ana, bo):
    log_in_by_api(ana.email)
    ana_browser = log_in(ana)
    log_in(ana, PHONE)
    page = ana_browser.get(PAGE)
    stranger = log_in(bo, password="uma senha longa")
    for address in (*addresses_to_end(page, "sessions"), *addresses_to_end(page, "programs")):
        assert stranger.get(address).status_code == 405
        assert stranger.post(address).status_code == 404
    assert TokenFamily.objects.count() == 1
    assert len(devices.list_sessions(ana, None)) == 2


def test_a_new_seal_leaves_no_rows_of_tokens(ana):
    log_in_by_api(ana.email)
    ana.end_access()
    assert not TokenFamily.objects.exists()


# --- Told -------------------------------------------------------------------------------------------------------------


def test_a_log_in_in_a_new_browser_is_told_once(ana):
    here = log_in(ana)
    assert mail.outbox == []  # the first of all
    phone = log_in(ana, PHONE, "198.51.100.7")
    [message] = mail.outbox
    assert (message.to, message.subject) == ([ana.email], "Nueva entrada en tu cuenta")
    assert "198.51.100.7" in message.body
    assert "iPhone" in message.body
    for browser in (here, phone):
        browser.post("/accounts/logout/")
        log_in_again(browser, ana)
    assert len(mail.outbox) == 1


def test_a_browser_is_known_for_those_who_logged_in_with_it_alone(ana, bo):
    log_in(bo, password="uma senha longa")
    log_in(ana, PHONE)
    browser = log_in(ana)
    mail.outbox.clear()
    browser.post("/accounts/logout/")
    log_in_again(browser, bo, "uma senha longa")
    assert [message.to for message in mail.outbox] == [[bo.email]]
    browser.post("/accounts/logout/")
    log_in_again(browser, ana)  # still known for Ana
    assert len(mail.outbox) == 1


def test_nobody_makes_a_browser_known(ana, settings):
    log_in(ana)
    forged = Client(REMOTE_ADDR="192.0.2.1")
    for value in ("x", "W10:1:x", "é"):
        forged.cookies["device"] = value
        log_in_again(forged, ana)
        forged.post("/accounts/logout/")
        forged.cookies["device"] = value
    assert len(mail.outbox) == 3


def test_with_a_new_password_browsers_are_strangers_but_for_the_one_that_chose_it(ana):
    here, phone = log_in(ana), log_in(ana, PHONE)
    here.post("/accounts/password/change/", {"oldpassword": PASSWORD, "password1": WRONG, "password2": WRONG})
    here.post("/accounts/logout/")
    mail.outbox.clear()
    log_in_again(here, ana, WRONG)
    assert mail.outbox == []
    log_in_again(phone, ana, WRONG)
    assert len(mail.outbox) == 1


@pytest.mark.parametrize("is_required", [True, False])
def test_a_sign_up_is_no_news(catalog, settings, is_required):
    settings.REQUIRE_VERIFIED_EMAIL = is_required
    sign_up_by_page("eva@example.com")
    if is_required:
        link = links_in(mail.outbox[-1])[0]
        browser = Client()
        browser.post("/accounts/login/", {"login": "eva@example.com", "password": PASSWORD, "next": link})
        browser.post(link)
        assert EmailAddress.objects.get().verified
    assert not [message for message in mail.outbox if "entrada" in message.subject]


def test_nothing_is_told_before_the_second_factor(ana):
    log_in(ana)
    app = set_up(ana)
    phone = Client(HTTP_USER_AGENT=PHONE)
    phone.post("/accounts/login/", {"login": ana.email, "password": PASSWORD})
    assert mail.outbox == []
    assert len(devices.list_sessions(ana, None)) == 1
    phone.post("/accounts/2fa/authenticate/", {"code": app.code()})
    assert len(mail.outbox) == 1


def test_a_log_in_over_the_api_from_a_new_network_is_told(ana):
    log_in_by_api(ana.email)
    log_in_by_api(ana.email)
    assert mail.outbox == []
    log_in_by_api(ana.email, peer="198.51.100.7")
    log_in_by_api(ana.email, peer="198.51.100.7")
    assert [message.to for message in mail.outbox] == [[ana.email]]
    set_up(ana)
    for peer, code in (("203.0.113.9", recovery_codes(ana)[0]), ("203.0.113.9", recovery_codes(ana)[1])):
        log_in_by_api(ana.email, peer=peer)  # the password alone makes no network known
        given = {"email": ana.email, "password": PASSWORD, "code": code}
        assert APIClient(REMOTE_ADDR=peer).post("/api/v1/auth/login", given, format="json").status_code == 200
        assert len(mail.outbox) == 2


def test_a_log_in_over_the_api_is_told_where_nobody_knows_of_any_network(ana):
    """As after a change of address, or months without a log-in."""
    log_in_by_api(ana.email)
    sync_redis().flushall()
    log_in_by_api(ana.email, peer="198.51.100.7")
    assert [message.to for message in mail.outbox] == [[ana.email]]
    sign_up_by_api("eva@example.com")
    log_in_by_api("eva@example.com")
    assert len(mail.outbox) == 1


def test_whoever_signed_up_over_the_api_is_told_of_the_first_browser(catalog):
    tokens = sign_up_by_api("eva@example.com").json()
    APIClient().post("/api/v1/auth/logout", {"refresh": tokens["refresh"]}, format="json")
    log_in(User.objects.get())
    assert [message.to for message in mail.outbox] == [["eva@example.com"]]


def test_who_does_not_get_in_is_no_news(ana):
    log_in_by_api(ana.email)
    log_in_by_api(ana.email, WRONG, peer="198.51.100.7")
    Client().post("/accounts/login/", {"login": ana.email, "password": WRONG})
    assert mail.outbox == []
