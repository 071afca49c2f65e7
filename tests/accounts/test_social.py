"""Log-in with accounts elsewhere, against a stand-in over HTTP: who gets in, who does not, and what nobody may win with
an address that is not theirs."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from django.core import mail
from django.test import Client
from pytest_django import Settings

from accounts import limits, social_views
from accounts.admission import admission_by_token, find_admitted
from accounts.api.views import tokens_for
from accounts.models import User
from accounts.tokens import AccessToken
from core.redis_clients import sync_redis
from tests.accounts.doors import PASSWORD, ask_for_reset, links_in, log_in_by_api, log_in_by_page, reset_password
from tests.accounts.elsewhere import IDS, come_back, go_there, sign_up_with, switch_on
from tests.accounts.factors import set_up
from tests.fakes.identity import Identity, IdentityProvider

pytestmark = [pytest.mark.stores, pytest.mark.usefixtures("catalog")]

VICTIM = "victim@example.com"
SIGN_UP = "/accounts/with/sign-up/"
OURS = ("/accounts/login/", "/accounts/signup/")


@pytest.fixture
def there(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[IdentityProvider]:
    """The stand-in, as all four providers, where somebody is logged in whose address every one of them vouches for as
    far as it vouches for any."""
    with IdentityProvider() as provider:
        switch_on(settings, monkeypatch, provider)
        provider.identity = person(VICTIM)
        yield provider


def person(email: str, *, is_verified: Any = True, sub: str = "1001") -> Identity:
    return Identity(
        sub=sub,
        said={"email": email, "email_verified": is_verified, "name": "Victoria", "hd": email.rpartition("@")[2]},
        emails=[{"email": email, "primary": True, "verified": is_verified}],
        mail=email,
    )


def browser(peer: str = "192.0.2.1") -> Client:
    return Client(REMOTE_ADDR=peer, HTTP_ACCEPT_LANGUAGE="en")


def is_in(found: Client) -> bool:
    return found.get("/settings/").status_code == 200


def said(answer: Any) -> str:
    """Return what the next page tells."""
    return " ".join(str(message) for message in answer.wsgi_request._messages)


# --- The way there and back -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", IDS)
def test_somebody_signs_up_and_logs_in_with_each_provider(there: IdentityProvider, provider: str):
    first = browser()
    answer = come_back(first, provider, next="/terms/")
    assert answer["Location"] == SIGN_UP
    assert not User.objects.exists(), "The terms come first."
    assert list(first.post(SIGN_UP, {"email": VICTIM}).context["form"].errors) == ["terms"]
    answer = first.post(SIGN_UP, {"email": VICTIM, "terms": "on", "time_zone": "America/Lima"})
    assert answer["Location"] == "/terms/"
    assert is_in(first)
    user = User.objects.get()
    assert (user.email, user.has_usable_password(), user.time_zone) == (VICTIM, False, "America/Lima")
    assert user.terms_accepted_at
    assert there.asked["code_challenge_method"] == "S256"
    # Microsoft vouches for no address: a mail asks its owner.
    assert EmailAddress.objects.get().verified is (provider != "microsoft")
    assert len(mail.outbox) == (provider == "microsoft")

    mail.outbox.clear()
    second = browser("198.51.100.7")
    there.identity = person("renamed@example.com", is_verified=False)  # one is one's id, and no address
    assert come_back(second, provider, next="https://evil.example/")["Location"] == "/"
    assert is_in(second)
    assert User.objects.get().email == VICTIM
    assert [message.to for message in mail.outbox] == [[VICTIM]], "The other browser is news."


def test_nothing_of_a_provider_is_kept_but_an_id_and_a_name(there: IdentityProvider):
    sign_up_with(browser(), "openid")
    [row] = SocialAccount.objects.all()
    assert row.extra_data == {"name": VICTIM}
    assert not SocialToken.objects.exists()
    assert not SocialApp.objects.exists()
    there.identity = person("waiting@example.com", sub="2")
    there.identity.said["phone_number"] = "+51 1 5550100"
    assert come_back(browser(), "google")["Location"] == SIGN_UP  # which waits for its form in the session
    kept = b"".join(sync_redis().get(key) or b"" for key in sync_redis().keys("*sessions*"))
    assert b"waiting@example.com" in kept
    assert b"an-access-token" not in kept
    assert b"5550100" not in kept


def test_the_buttons_are_those_of_the_settings(there: IdentityProvider, settings: Settings):
    for path in OURS:
        page = browser().get(f"{path}?next=/terms/").text
        assert all(f'action="/accounts/with/{one}/"' in page for one in IDS)
        assert page.count('name="next" value="/terms/"') >= len(IDS)
    begun = browser()
    come_back(begun, "google")
    del settings.SOCIALACCOUNT_PROVIDERS["google"]
    assert begun.get(SIGN_UP)["Location"] == "/accounts/login/"
    for path in OURS:
        assert "/accounts/with/google/" not in browser().get(path).text
    assert browser().post("/accounts/with/google/").status_code == 404
    assert browser().get("/accounts/google/login/callback/?code=1&state=2").status_code == 404
    settings.SOCIALACCOUNT_PROVIDERS = {}
    assert all("/accounts/with/" not in browser().get(path).text for path in OURS)
    assert browser().get("/accounts/oidc/openid/login/callback/").status_code == 404


def test_a_link_begins_no_log_in_and_adds_nothing_to_the_address(there: IdentityProvider):
    assert browser().get("/accounts/with/openid/")["Location"] == "/accounts/login/"
    strict = Client(enforce_csrf_checks=True)
    assert strict.post("/accounts/with/openid/").status_code == 403
    found = browser()
    page = found.post("/accounts/with/openid/?scope=admin&auth_params=redirect_uri%3Dhttps%3A%2F%2Fevil.example")
    assert "evil" not in page.context["url"]
    assert "admin" not in page.context["url"]
    # The form leads to a page of ours, which leads on: no redirect follows the form, and its policy names nobody else.
    assert page.status_code == 200
    assert page["Refresh"] == f"0; url={page.context['url']}"
    assert "form-action 'self';" in page["Content-Security-Policy"] + ";"


def test_what_comes_back_must_have_been_asked_for_in_this_session_once(there: IdentityProvider):
    owner = browser()
    address = go_there(owner, "openid")
    stranger = browser()
    answer = stranger.get(address)
    assert answer["Location"] == "/accounts/login/"
    assert "/token" not in there.requests, "Nothing is asked for a stranger."
    assert owner.get(address.replace("/oidc/openid/", "/google/"))["Location"] == "/accounts/login/"
    assert owner.get(address)["Location"] == SIGN_UP
    assert owner.get(address)["Location"] == "/accounts/login/"
    assert there.requests.count("/token") == 1


def test_a_log_in_that_was_begun_before_another_ends_nothing(there, ana: User):
    """Whoever had the browser before has left the address of their own way back."""
    sign_up_with(browser(), "openid")
    found = browser()
    address = go_there(found, "openid")
    found.post("/accounts/login/", {"login": ana.email, "password": PASSWORD})
    assert found.get(address)["Location"] == "/settings/connections/"
    assert found.get("/settings/").context["user"] == ana


def test_a_sign_up_that_is_left_waits_an_hour(there, monkeypatch: pytest.MonkeyPatch):
    """Who comes to the computer later would have an account that the other one's at the provider opens."""
    left = browser()
    come_back(left, "google", next="/terms/")
    monkeypatch.setattr(social_views, "SIGN_UP_SECONDS", -1)
    assert left.post(SIGN_UP, {"terms": "on"})["Location"] == "/accounts/login/?next=%2Fterms%2F"
    monkeypatch.setattr(social_views, "SIGN_UP_SECONDS", 3_600)
    assert left.get(SIGN_UP)["Location"] == "/accounts/login/"
    assert not User.objects.exists()


# --- What goes wrong there --------------------------------------------------------------------------------------------

BROKEN = {
    "an error": ("/token", (500, b"<h1>Raw words</h1>")),
    "no JSON": ("/token", (200, b"Raw words")),
    "no token": ("/token", (200, b'{"error": "Raw words"}')),
    "no discovery": ("/.well-known/openid-configuration", (503, b"Raw words")),
    "half a discovery": ("/.well-known/openid-configuration", (200, b'{"issuer": "Raw words"}')),
    "a script": ("/.well-known/openid-configuration", (200, b'{"authorization_endpoint": "javascript:alert(1)//"}')),
    "a list": ("/userinfo", (200, b'["Raw words"]')),
    "a deep list": ("/userinfo", (200, b"[" * 100_000)),
    "an endless token": ("/token", (200, b'{"access_token": "Raw words", "expires_in": 1e999}')),
    "nobody": ("/userinfo", (200, b'{"email": "victim@example.com", "email_verified": true}')),
    "another": ("/userinfo", (200, b'{"sub": "7", "email": "victim@example.com", "email_verified": true}')),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_provider_that_misbehaves_is_one_sentence(there: IdentityProvider, kind: str):
    path, answer = BROKEN[kind]
    found = browser()
    if path.startswith("/.well-known"):
        there.answers[path] = answer
        page = found.post("/accounts/with/openid/", {"next": "/terms/"})
    else:
        address = go_there(found, "openid", next="/terms/")
        there.answers[path] = answer
        page = found.get(address)
    assert page["Location"].startswith("/accounts/login/")
    text = found.get(page["Location"]).text
    assert "Logging in with Our House did not work." in text
    assert "Raw words" not in text
    assert not User.objects.exists()


@pytest.mark.parametrize(
    "token", [{"iss": "https://evil.example"}, {"aud": "another"}, {"exp": 1}, {"sub": "7"}, {"sub": ""}]
)
def test_a_token_of_another_is_not_taken(there: IdentityProvider, token: dict[str, Any]):
    there.token = token
    assert come_back(browser(), "openid")["Location"] == "/accounts/login/"


def test_who_cancels_is_told_so(there: IdentityProvider, caplog: pytest.LogCaptureFixture):
    there.refuses = True
    found = browser()
    with caplog.at_level(logging.INFO):
        answer = come_back(found, "openid", next="/terms/")
    page = found.get(answer["Location"]).text
    assert "You did not log in with Our House." in page
    assert 'value="/terms/"' in page
    assert "raw words" not in page
    assert "raw words" not in caplog.text


def test_two_servers_that_call_people_alike_do_not_mix_them_up(there, settings, monkeypatch):
    sign_up_with(browser(), "openid")
    with IdentityProvider() as another:
        switch_on(settings, monkeypatch, another)
        another.identity = person("somebody@example.com")
        found = browser()
        assert come_back(found, "openid")["Location"] == SIGN_UP
        assert not is_in(found)


# --- Nobody wins an account with an address ---------------------------------------------------------------------------


@pytest.mark.parametrize("provider", IDS)
def test_an_address_lets_nobody_into_the_account_that_has_it(there: IdentityProvider, provider: str):
    user = User.objects.create_user(VICTIM, "una clave larga")
    EmailAddress.objects.create(user=user, email=VICTIM, primary=True, verified=True)
    found = browser()
    answer = come_back(found, provider)
    assert not is_in(found)
    assert not SocialAccount.objects.exists()
    if provider == "microsoft":  # whose word is worth nothing, and who sends it learns nothing
        assert answer["Location"] == SIGN_UP
        return
    # Who owns the mailbox may know: they log in as always, and connect.
    assert answer["Location"] == "/accounts/login/?next=%2Fsettings%2Fconnections%2F"
    assert "has an account here already" in found.get(answer["Location"]).text


NOT_VERIFIED = ["false", "true", 1, None, False]


@pytest.mark.parametrize("is_verified", NOT_VERIFIED)
@pytest.mark.parametrize("provider", ["google", "github", "openid"])
def test_only_a_plain_yes_makes_an_address_confirmed(there, settings, provider: str, is_verified: Any):
    """A stranger claims the victim's address at a provider that has not made sure of it."""
    settings.REQUIRE_VERIFIED_EMAIL = True
    there.identity = person(VICTIM, is_verified=is_verified)
    stranger = browser()
    answer = sign_up_with(stranger, provider, email=VICTIM)
    assert answer["Location"] == "/accounts/confirm-email/"
    assert not is_in(stranger)
    assert EmailAddress.objects.get().verified is False
    assert [message.to for message in mail.outbox] == [[VICTIM]]


def test_an_address_that_lower_case_makes_of_another_is_not_confirmed(there, settings):
    settings.REQUIRE_VERIFIED_EMAIL = True
    there.identity = person("mar\u212a@example.com")  # the sign for kelvin: no mail to mark@ arrives there
    answer = sign_up_with(browser(), "openid", email="mark@example.com")
    assert answer["Location"] == "/accounts/confirm-email/"
    assert EmailAddress.objects.get().verified is False


@pytest.mark.parametrize("house", [None, "example.org", ""])
def test_google_speaks_for_the_mailboxes_it_has(there, settings, house: str | None):
    """Who has left a house keeps the account at Google that they made with their address there, or with a `+`."""
    settings.SIGN_UP, settings.SIGN_UP_DOMAINS, settings.REQUIRE_VERIFIED_EMAIL = "domains", ["example.com"], True
    there.identity.said["hd"] = house
    assert sign_up_with(browser(), "google", email=VICTIM)["Location"] == "/accounts/confirm-email/"
    assert EmailAddress.objects.get().verified is False
    there.identity = person("ana@gmail.com", sub="2")
    there.identity.said["hd"] = house
    settings.SIGN_UP = "open"
    assert sign_up_with(browser(), "google")["Location"] == "/"


def test_a_name_that_no_database_takes_is_one_without_that(there):
    there.identity.said |= {"name": "Vic\0to\ud800ria", "preferred_username": "v\0\udfff"}
    assert sign_up_with(browser(), "openid")["Location"] == "/"
    assert come_back(browser(), "openid")["Location"] == "/"
    assert User.objects.get().name == "Victoria"
    assert "\0" not in SocialAccount.objects.get().extra_data["name"]


def test_an_address_of_github_must_be_the_primary_one(there, settings):
    settings.REQUIRE_VERIFIED_EMAIL = True
    there.identity.emails = [
        {"email": "old@example.com", "primary": False, "verified": True},
        {"email": VICTIM, "primary": True, "verified": False},
    ]
    assert sign_up_with(browser(), "github", email=VICTIM)["Location"] == "/accounts/confirm-email/"


def test_who_signs_up_with_an_address_of_microsoft_gets_in_by_its_mailbox(there, settings):
    settings.REQUIRE_VERIFIED_EMAIL = True
    owner = browser()
    sign_up_with(owner, "microsoft", email=VICTIM)
    assert come_back(owner, "microsoft")["Location"] == "/accounts/confirm-email/"
    assert not is_in(owner)
    link = links_in(mail.outbox[0])[0]
    assert owner.get(link)["Location"].startswith("/accounts/login/")
    assert come_back(owner, "microsoft", next=link)["Location"] == link
    owner.post(link)
    assert EmailAddress.objects.get().verified
    assert is_in(owner)
    assert come_back(browser(), "microsoft")["Location"] == "/"


def test_an_account_that_a_stranger_made_beforehand_is_theirs_no_more(there, settings):
    """A stranger signs up with the victim's address, with an account at Microsoft and a password, and waits for the
    victim to come. The victim, whom Google vouches for, is sent to the mailbox, and then it is theirs alone."""
    there.identity = person(VICTIM, sub="666")
    stranger = browser("203.0.113.9")
    sign_up_with(stranger, "microsoft", email=VICTIM)
    assert is_in(stranger)
    account = User.objects.get()
    account.set_password("una clave de otro")
    account.save()
    stranger = log_in_by_page(VICTIM, "una clave de otro").client
    account.refresh_from_db()
    token = tokens_for(account)["access"]
    settings.REQUIRE_VERIFIED_EMAIL = True

    there.identity = person(VICTIM)
    victim = browser()
    assert come_back(victim, "google")["Location"].startswith("/accounts/login/?next=")
    mail.outbox.clear()
    ask_for_reset(VICTIM)
    victim = reset_password(mail.outbox[-1], "una clave nueva y larga")
    assert is_in(victim)
    assert not is_in(stranger)
    assert find_admitted(admission_by_token(AccessToken(token))) is None  # type: ignore[arg-type]
    assert log_in_by_api(VICTIM, "una clave de otro").status_code == 401
    assert not SocialAccount.objects.exists()
    there.identity = person(VICTIM, sub="666")
    again = browser("203.0.113.9")
    come_back(again, "microsoft")
    assert not is_in(again)


def test_who_has_not_confirmed_an_address_connects_nothing_to_it(there, ana: User):
    EmailAddress.objects.create(user=ana, email=ana.email, primary=True, verified=False)
    found = browser()
    found.force_login(ana)
    found.post("/accounts/reauthenticate/", {"password": "una clave larga"})
    assert found.post("/accounts/with/google/", {"process": "connect"})["Location"] == "/settings/connections/"
    assert "/google/authorize" not in there.requests


# --- Who may join, and who may get in ---------------------------------------------------------------------------------


def test_the_doors_of_the_house_are_those_of_any_sign_up(there, settings):
    settings.SIGN_UP = "closed"
    found = browser()
    assert "Sign-up is closed" in come_back(found, "google").text
    assert not User.objects.exists()
    settings.SIGN_UP, settings.SIGN_UP_DOMAINS = "domains", ["example.org"]
    page = sign_up_with(found, "google")
    assert page.context["form"].non_field_errors()
    there.identity = person("who@mailinator.com", sub="2")
    settings.SIGN_UP = "open"
    assert sign_up_with(browser(), "google").context["form"].non_field_errors()
    settings.SIGN_UPS_PER_HOUR = 1
    there.identity = person("one@example.com", sub="3")
    assert sign_up_with(browser("192.0.2.50"), "google").status_code == 302
    there.identity = person("two@example.com", sub="4")
    assert sign_up_with(browser("192.0.2.50"), "google").status_code == 429
    assert User.objects.get().email == "one@example.com"


def test_a_form_that_was_changed_does_not_change_a_confirmed_address(there):
    sign_up_with(browser(), "google", email="another@example.com")
    assert User.objects.get().email == VICTIM


def test_an_invitation_comes_along(there, settings, olga: User):
    from accounts.joining import invite

    settings.SIGN_UP = "invitation"
    invite(VICTIM, by=olga, language="en")
    path = links_in(mail.outbox[-1])[0]
    word = path.partition("invitation=")[2]
    found = browser()
    assert f'name="invitation" value="{word}"' in found.get(path).text
    assert sign_up_with(browser(), "google").status_code == 403
    come_back(found, "google", invitation=word)
    assert found.post(SIGN_UP, {"terms": "on"}).status_code == 302
    assert User.objects.filter(email=VICTIM).exists()


def test_who_is_suspended_or_has_a_second_factor_does_not_get_in_with_that_alone(there):
    sign_up_with(browser(), "google")
    user = User.objects.get()
    app = set_up(user)
    found = browser()
    assert come_back(found, "google", next="/terms/")["Location"] == "/accounts/2fa/authenticate/"
    assert not is_in(found)
    assert found.post("/accounts/2fa/authenticate/", {"code": app.code()})["Location"] == "/terms/"
    assert is_in(found)
    user.is_active = False
    user.save()
    found = browser()
    assert come_back(found, "google")["Location"] == "/accounts/inactive/"
    assert not is_in(found)


def test_a_password_that_nobody_has_is_wrong_as_any(there):
    sign_up_with(browser(), "google")
    unknown = log_in_by_api("nobody@example.com", "una clave larga")
    known = log_in_by_api(VICTIM, "una clave larga")
    assert (known.status_code, known.json()["code"]) == (unknown.status_code, unknown.json()["code"])


def test_attempts_are_counted(there, monkeypatch):
    monkeypatch.setattr(limits, "_limit_of_network", lambda _act: (2, 3_600))
    found = browser()
    assert [found.post("/accounts/with/google/").status_code for _attempt in range(3)] == [200, 200, 429]
