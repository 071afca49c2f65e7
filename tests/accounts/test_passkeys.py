"""The doors of passkeys, and what strangers send to them. How one is made and used in a browser is tested there."""

import json

import pytest
from allauth.mfa.models import Authenticator
from django.test import Client

from accounts.models import User
from tests.accounts.doors import PASSWORD
from tests.accounts.factors import ORIGIN, SecurityKey, set_up

ADD, LOG_IN = "/accounts/2fa/webauthn/add/", "/accounts/2fa/webauthn/login/"
AGAIN, ASKED = "/accounts/2fa/webauthn/reauthenticate/", "/accounts/2fa/authenticate/"
RESPONSE = {"clientDataJSON": "e30", "authenticatorData": "AAAA", "signature": "AA", "userHandle": "MQ"}
STRANGE = [
    "",
    "{",
    "null",
    "[]",
    "1",
    '"x"',
    "{}",
    json.dumps({"id": "AA", "rawId": "AA", "type": "public-key", "response": []}),
    json.dumps({"id": "AA", "rawId": "AA", "type": "public-key", "response": {}}),
    json.dumps({"id": "AA", "rawId": "AA", "type": "public-key", "response": RESPONSE}),
    json.dumps({"id": "AA", "rawId": "AA", "type": "public-key", "response": RESPONSE | {"userHandle": 1}}),
    json.dumps({"id": "AA", "rawId": "AA", "type": "public-key", "response": RESPONSE | {"userHandle": "_w"}}),
    json.dumps({"id": "AA", "rawId": "AA", "response": {"clientDataJSON": "AA", "attestationObject": "oA"}}),
    json.dumps({"id": "AA", "rawId": "AA", "response": {"clientDataJSON": "e30", "attestationObject": "////"}}),
    json.dumps({"id": 1, "rawId": 1, "type": 1, "response": {"clientDataJSON": 1, "attestationObject": None}}),
]

each_strange = pytest.mark.parametrize("credential", STRANGE)


@pytest.fixture
def member(ana: User) -> Client:
    browser = Client(HTTP_ACCEPT_LANGUAGE="en")
    browser.force_login(ana)
    browser.post("/accounts/reauthenticate/", {"password": PASSWORD})
    return browser


def ask(browser: Client):
    """Ask for a passkey, as the script of the log-in does."""
    return browser.get(LOG_IN, headers={"Accept": "application/json"})


@each_strange
def test_nobody_adds_what_is_no_passkey(member, credential):
    member.get(ADD)
    assert member.post(ADD, {"name": "x", "credential": credential}).status_code == 422
    assert not Authenticator.objects.exists()


@each_strange
def test_nobody_gets_in_with_what_is_no_passkey(ana, credential):
    browser = Client()
    assert ask(browser).json()["request_options"]["publicKey"]["userVerification"] == "required"
    answer = browser.post(LOG_IN, {"credential": credential})
    assert (answer.status_code, answer["Location"]) == (302, "/accounts/login/")
    assert browser.get("/settings/").status_code == 302


@each_strange
def test_nobody_passes_the_second_step_with_what_is_no_passkey(ana, credential):
    set_up(ana)
    browser = Client()
    browser.post("/accounts/login/", {"login": ana.email, "password": PASSWORD})
    assert browser.post(ASKED, {"credential": credential}).status_code == 200
    assert browser.get("/settings/").status_code == 302


def test_adding_one_needs_the_password_again(ana):
    browser = Client()
    browser.force_login(ana)
    assert browser.get(ADD)["Location"].startswith("/accounts/reauthenticate/")
    assert browser.post(ADD, {"credential": "{}"})["Location"].startswith("/accounts/reauthenticate/")


def test_a_passkey_keeps_itself_and_asks_who_one_is(member):
    options = member.get(ADD).context["creation_options"]["publicKey"]
    assert options["authenticatorSelection"]["residentKey"] == "required"
    assert options["authenticatorSelection"]["userVerification"] == "required"


def test_nobody_removes_another_s(member, bo):
    theirs = Authenticator.objects.create(user=bo, type="webauthn", data={"name": "x", "credential": {}})
    address = f"/accounts/2fa/webauthn/keys/{theirs.pk}/remove/"
    assert member.get(address).status_code == 404
    assert member.post(address).status_code == 404
    assert Authenticator.objects.exists()


def test_who_has_none_is_not_asked_for_it(member):
    assert member.get(AGAIN)["Location"].startswith("/accounts/reauthenticate/")


def test_a_network_asks_for_so_many_log_ins_and_no_more(catalog):
    browser = Client(REMOTE_ADDR="192.0.2.1")
    codes = [browser.head(LOG_IN, headers={"Accept": "application/json"}).status_code]  # it makes a session, too
    codes += [ask(browser).status_code for _ in range(30)]
    assert codes == [200] * 30 + [429]


def test_whoever_looks_at_the_log_in_page_asks_for_nothing(catalog):
    browser = Client()
    assert browser.get("/accounts/login/").status_code == 200
    assert "sessionid" not in browser.cookies


@pytest.fixture
def key(ana: User) -> SecurityKey:
    """Ana's, with a passkey."""
    browser, key = Client(SERVER_NAME="localhost"), SecurityKey()
    browser.force_login(ana)
    browser.post("/accounts/reauthenticate/", {"password": PASSWORD})
    for origin in (ORIGIN, "http://evil.localhost"):
        options = browser.get(ADD).context["creation_options"]
        browser.post(ADD, {"name": "x", "credential": key.add(options, origin=origin)})
        assert Authenticator.objects.filter(type="webauthn").count() == 1
    return key


def is_in(browser: Client) -> bool:
    return browser.get("/settings/").status_code == 200


@pytest.mark.parametrize(("shown", "gets_in"), [({}, True), ({"origin": "http://evil.localhost"}, False)])
def test_a_passkey_lets_in_at_this_site_alone(key, bo, shown, gets_in):
    browser = Client(SERVER_NAME="localhost")
    browser.post(LOG_IN, {"credential": key.show(ask(browser).json()["request_options"], **shown)})
    assert is_in(browser) == gets_in

    browser = Client(SERVER_NAME="localhost")
    browser.post("/accounts/login/", {"login": "ana@example.com", "password": PASSWORD})
    options = browser.get(ASKED).context["js_data"]["request_options"]
    browser.post(ASKED, {"credential": key.show(options, verified=False, **shown)})
    assert is_in(browser) == gets_in


def test_who_found_a_key_and_does_not_know_its_number_stays_out(key, bo):
    """The page that asks for a second factor lets a touch do. What it asked with is not taken for a whole log-in."""
    thief = Client(SERVER_NAME="localhost")
    set_up(bo)
    thief.post("/accounts/login/", {"login": bo.email, "password": "uma senha longa"})
    theirs = thief.get(ASKED).context["js_data"]["request_options"]
    assert theirs["publicKey"]["userVerification"] != "required"
    bo.end_access()  # by the thief, who so ends the log-in that waits, and keeps what was asked
    thief.get(ASKED)
    thief.post(LOG_IN, {"credential": key.show(theirs, verified=False)})
    assert not is_in(thief)
