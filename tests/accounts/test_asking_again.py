"""Before what is dangerous a member is asked once more who they are, whatever they log in with: there is always a way,
and none around it."""

import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount
from django.core import mail
from django.test import Client
from django.urls import reverse
from pytest_django import Settings
from rest_framework.test import APIClient

from accounts.api.views import tokens_for
from accounts.models import ApiKey, User
from history.models import Export
from tests.accounts.doors import PASSWORD
from tests.accounts.elsewhere import come_back, go_there, sign_up_with, switch_on
from tests.accounts.factors import set_up
from tests.accounts.test_social import VICTIM, browser, is_in, person
from tests.fakes.identity import IdentityProvider

pytestmark = [pytest.mark.stores, pytest.mark.usefixtures("catalog")]

OTHERWISE, CONNECTIONS = "/accounts/confirm-otherwise/", "/settings/connections/"
NEW_PASSWORD = "una clave nueva y larga"


@pytest.fixture
def there(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[IdentityProvider]:
    with IdentityProvider() as provider:
        switch_on(settings, monkeypatch, provider)
        provider.identity = person(VICTIM)
        yield provider


@pytest.fixture
def guest(there: IdentityProvider) -> Client:
    """The browser of somebody who has an account at the OpenID server, and no password here."""
    found = browser()
    sign_up_with(found, "openid")
    mail.outbox.clear()
    return found


@pytest.fixture
def member(ana: User) -> Client:
    """Ana's browser, logged in."""
    found = browser()
    found.force_login(ana)
    return found


def confirm(found: Client) -> None:
    found.post("/accounts/reauthenticate/", {"password": PASSWORD})


def key_form() -> dict[str, Any]:
    return {"id": str(uuid4()), "name": "cron", "scopes": ["chat"]}


def passkey_of(user: User) -> Authenticator:
    row: Authenticator = Authenticator.objects.create(
        user=user, type="webauthn", data={"name": "key", "credential": {}}
    )
    return row


# --- Whatever is dangerous --------------------------------------------------------------------------------------------


def dangerous_pages(user: User) -> list[tuple[str, dict[str, Any]]]:
    row = SocialAccount.objects.get_or_create(user=user, provider="google", uid="7")[0]
    return [
        ("/accounts/email/", {"email": "new@example.com", "action_add": ""}),
        ("/accounts/2fa/totp/activate/", {"code": "123456"}),
        ("/accounts/2fa/webauthn/add/", {"credential": "{}"}),
        ("/settings/keys/", key_form()),
        ("/settings/close/", {"email": user.email}),
        ("/settings/import-export/export/", {}),
        ("/accounts/with/google/", {"process": "connect"}),
        (f"/settings/connections/{row.pk}/remove/", {}),
    ]


def test_a_session_alone_does_nothing_dangerous(there: IdentityProvider, ana: User, member: Client):
    for path, fields in [*dangerous_pages(ana), (reverse("mfa_remove_webauthn", args=[passkey_of(ana).pk]), {})]:
        answer = member.post(path, fields)
        assert answer.status_code == 302, path
        assert answer["Location"].startswith("/accounts/reauthenticate/?next="), path
    assert not ApiKey.objects.exists()
    assert not Export.objects.exists()
    assert SocialAccount.objects.filter(user=ana).count() == Authenticator.objects.filter(user=ana).count() == 1


def test_nor_does_one_of_somebody_without_a_password(guest: Client):
    """allauth asks them for nothing."""
    pages = [*dangerous_pages(User.objects.get()), ("/accounts/password/set/", {"password1": NEW_PASSWORD})]
    for path, fields in pages:
        assert guest.post(path, fields)["Location"].startswith(f"{OTHERWISE}?next="), path
    assert guest.get("/accounts/reauthenticate/?next=/terms/")["Location"] == f"{OTHERWISE}?next=%2Fterms%2F"
    user = User.objects.get()
    assert not user.has_usable_password()
    assert not ApiKey.objects.exists()


def test_nor_is_the_api_a_way_around_it_for_a_session(member: Client, ana: User, carla: User):
    member.force_login(carla)
    kept: Any = {"content_type": "application/json"}
    asked = {"name": "cron", "scopes": ["chat"]}
    for path, body in (("/api/v1/keys", asked), ("/api/v1/exports", {})):
        answer = member.post(path, body, **kept)
        assert (answer.status_code, answer.json()["code"]) == (403, "confirmation_needed"), path
    assert not ApiKey.objects.exists()
    confirm(member)
    assert member.post("/api/v1/keys", asked, **kept).status_code == 201
    token = APIClient(HTTP_AUTHORIZATION=f"Bearer {tokens_for(carla)['access']}")
    assert token.post("/api/v1/keys", asked, format="json").status_code == 201


def test_an_operator_is_asked_before_they_do_something_to_others(olga: User, ana: User, member: Client):
    member.force_login(olga)
    suspend = {"action": "suspend", "_selected_action": [str(ana.pk)]}
    pages = [
        ("/admin/accounts/user/", suspend),
        (f"/admin/accounts/user/{ana.pk}/change/", {"email": ana.email}),
        (f"/admin/accounts/user/{ana.pk}/password/", {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD}),
        (f"/admin/accounts/user/{ana.pk}/delete/", {"post": "yes"}),
        ("/admin/chat/staffreading/add/", {"conversation_id": str(uuid4()), "reason": "because"}),
    ]
    for path, fields in pages:
        assert member.post(path, fields)["Location"].startswith("/accounts/reauthenticate/?next="), path
    ana.refresh_from_db()
    assert ana.is_active
    # What was asked for goes on by itself, once it is known who asks.
    member.post("/admin/accounts/user/", suspend)
    member.post("/accounts/reauthenticate/", {"password": PASSWORD, "next": "/admin/accounts/user/"})
    ana.refresh_from_db()
    assert not ana.is_active


def test_closing_over_the_api_needs_what_a_log_in_needs(ana: User):
    app = set_up(ana)
    client = APIClient(HTTP_AUTHORIZATION=f"Bearer {tokens_for(ana)['access']}")

    def close(**more: str) -> tuple[int, str]:
        answer = client.delete("/api/v1/me", {"password": PASSWORD, **more}, format="json")
        return answer.status_code, answer.json().get("code", "")

    assert close() == (403, "second_factor_required")
    assert close(code=app.wrong_code()) == (403, "second_factor_wrong")
    assert close(code=app.code()) == (202, "")


def test_closing_over_the_api_without_a_password_says_where(guest: Client):
    client = APIClient(HTTP_AUTHORIZATION=f"Bearer {tokens_for(User.objects.get())['access']}")
    answer = client.delete("/api/v1/me", {"password": ""}, format="json")
    assert answer.status_code == 400
    answer = client.delete("/api/v1/me", {"password": "x"}, format="json")
    assert (answer.status_code, answer.json()["code"]) == (403, "no_password")


# --- Who has no password ----------------------------------------------------------------------------------------------


def test_who_has_no_password_shows_it_to_their_provider(there: IdentityProvider, guest: Client):
    asked = guest.post("/settings/import-export/export/")
    assert asked["Location"] == f"{OTHERWISE}?next=%2Fsettings%2Fimport-export%2Fexport%2F"
    page = guest.get(asked["Location"]).text
    assert 'action="/accounts/with/openid/"' in page
    assert 'action="/accounts/with/google/"' not in page, "That one lets nobody into this account."
    answer = come_back(guest, "openid", process="again", next="/settings/import-export/export/")
    assert there.asked["prompt"] == "login"
    assert answer["Location"] == "/settings/import-export/"
    assert Export.objects.count() == 1, "What they wanted goes on."
    assert guest.post("/accounts/password/set/", {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD})
    assert is_in(guest), "Who chooses a first password stays where they are."
    assert User.objects.get().check_password(NEW_PASSWORD)


@pytest.mark.parametrize("who", ["another", "an old log-in", "in the future of nobody"])
def test_somebody_else_there_shows_nothing(there: IdentityProvider, guest: Client, who: str):
    if who == "another":
        there.identity = person("another@example.com", sub="2")
    else:
        there.token = {"auth_time": int(time.time()) - 3600 if who == "an old log-in" else "now"}
    answer = come_back(guest, "openid", process="again", next="/settings/keys/")
    assert answer["Location"] == f"{OTHERWISE}?next=%2Fsettings%2Fkeys%2F"
    assert guest.post("/settings/keys/", key_form())["Location"].startswith(OTHERWISE)
    assert is_in(guest), "Nobody is logged out by that, or in as somebody else."
    assert guest.get("/settings/").context["user"].email == VICTIM


def test_or_writes_a_code_of_a_mail(guest: Client, settings: Settings):
    assert "Send me a code" not in guest.get(OTHERWISE).text, "No mail would arrive."
    assert guest.post(OTHERWISE).status_code == 200
    assert mail.outbox == []
    settings.DEBUG = True  # mail is caught
    guest.post("/settings/import-export/export/")
    where = {"next": "/settings/import-export/export/"}
    assert guest.post(OTHERWISE, where)["Location"] == f"{OTHERWISE}?next=%2Fsettings%2Fimport-export%2Fexport%2F"
    [told] = mail.outbox
    assert told.to == [VICTIM]
    code = str(told.subject).split()[-1]
    wrong = "00000000" if code != "00000000" else "11111111"
    assert guest.post(OTHERWISE, {"code": wrong, **where}).status_code == 422
    stranger = browser()
    stranger.force_login(User.objects.get())
    assert stranger.post(OTHERWISE, {"code": code}).status_code == 422, "It is for the session that asked."
    User.objects.update(email="another@example.com")
    assert guest.post(OTHERWISE, {"code": code}).status_code == 422, "The mailbox is theirs no more."
    User.objects.update(email=VICTIM)
    assert guest.post(OTHERWISE, {"code": code, **where})["Location"] == "/settings/import-export/"
    assert Export.objects.count() == 1
    answers = [guest.post(OTHERWISE, {"code": code}).status_code for _attempt in range(12)]
    assert answers[0] == 422, "It works once."
    assert 429 in answers, "Nobody guesses it."


def test_who_has_a_second_factor_is_asked_for_that_alone(there: IdentityProvider, guest: Client):
    app = set_up(User.objects.get())
    assert guest.post("/settings/keys/", key_form())["Location"].startswith("/accounts/2fa/reauthenticate/?next=")
    assert guest.get(OTHERWISE)["Location"].startswith("/accounts/reauthenticate/")
    come_back(guest, "openid", process="again", next="/settings/keys/")
    assert guest.post("/settings/keys/", key_form())["Location"].startswith("/accounts/2fa/reauthenticate/?next=")
    guest.post("/accounts/2fa/reauthenticate/", {"code": app.code()})
    assert guest.post("/settings/import-export/export/")["Location"] == "/settings/import-export/"


def test_who_closes_the_account_without_a_password_can_still_take_all_along(there: IdentityProvider, guest: Client):
    come_back(guest, "openid", process="again", next="/settings/close/")
    assert guest.post("/settings/close/", {"email": VICTIM})["Location"] == "/accounts/login/"
    back = browser()
    come_back(back, "openid")
    assert back.get("/settings/")["Location"] == "/settings/close/"
    assert back.post("/settings/import-export/export/")["Location"].startswith(OTHERWISE)
    assert 'action="/accounts/with/openid/"' in back.get(OTHERWISE).text
    come_back(back, "openid", process="again", next="/settings/import-export/export/")
    assert Export.objects.count() == 1
    come_back(back, "google", process="connect")
    assert SocialAccount.objects.count() == 1, "Nothing new begins."
    assert back.post("/settings/close/keep/").status_code == 302
    assert is_in(back)


# --- What is connected ------------------------------------------------------------------------------------------------


def test_an_account_elsewhere_is_connected_and_removed_and_both_are_mailed(there, ana: User, member: Client):
    asked = member.post("/accounts/with/google/", {"process": "connect"})
    assert asked["Location"] == "/accounts/reauthenticate/?next=%2Faccounts%2Fwith%2Fgoogle%2F"
    page: Any = member.post("/accounts/reauthenticate/", {"password": PASSWORD, "next": "/accounts/with/google/"})
    assert page.context["url"].startswith(there.url), "What they wanted goes on."
    mail.outbox.clear()
    assert come_back(member, "google", process="connect")["Location"] == CONNECTIONS
    page = member.get(CONNECTIONS).text
    assert VICTIM in page
    [row] = SocialAccount.objects.all()
    assert (row.user, row.uid) == (ana, "1001")
    other = browser()
    assert come_back(other, "google")["Location"] == "/"
    assert other.get("/settings/").context["user"] == ana
    assert come_back(member, "google", process="connect")["Location"] == CONNECTIONS, "Once more is as good."
    member.post(f"{CONNECTIONS}{row.pk}/remove/")
    assert not SocialAccount.objects.exists()
    assert not is_in_by_google(there)
    told = [str(message.subject) for message in mail.outbox if "Google" in str(message.subject)]
    assert len(told) == 2
    assert mail.outbox[-1].to == [ana.email]


def is_in_by_google(there: IdentityProvider) -> bool:
    found = browser()
    come_back(found, "google")
    return is_in(found)


def test_one_that_lets_somebody_else_in_is_not_connected(there, ana: User, bo: User, member: Client):
    SocialAccount.objects.create(user=bo, provider="google", uid="1001")
    row = SocialAccount.objects.create(user=bo, provider="github", uid="1")
    confirm(member)
    come_back(member, "google", process="connect")
    member.post(f"{CONNECTIONS}{row.pk}/remove/")
    assert SocialAccount.objects.filter(user=bo).count() == 2
    assert not SocialAccount.objects.filter(user=ana).exists()
    assert "otra persona" in member.get(CONNECTIONS).text


@pytest.mark.parametrize("meanwhile", ["suspended", "a new password"])
def test_what_happens_on_the_way_there_is_not_undone(there, ana: User, member: Client, meanwhile: str):
    """allauth would save the whole user, as they were before."""
    confirm(member)
    address = go_there(member, "google", process="connect")
    found = User.objects.get(pk=ana.pk)
    if meanwhile == "suspended":
        found.is_active = False
    else:
        found.set_password(NEW_PASSWORD)
    found.save()
    member.get(address)
    ana.refresh_from_db()
    assert ana.is_active == (meanwhile != "suspended")
    assert ana.check_password(NEW_PASSWORD if meanwhile != "suspended" else PASSWORD)
    assert not SocialAccount.objects.exists()


def test_the_last_way_in_stays(there: IdentityProvider, guest: Client, settings: Settings):
    user = User.objects.get()
    row = SocialAccount.objects.get()
    come_back(guest, "openid", process="again", next=CONNECTIONS)
    guest.post(f"{CONNECTIONS}{row.pk}/remove/")
    assert "the only way in that you have" in guest.get(CONNECTIONS).text
    github = SocialAccount.objects.create(user=user, provider="github", uid="1")
    del settings.SOCIALACCOUNT_PROVIDERS["github"]
    guest.post(f"{CONNECTIONS}{row.pk}/remove/")
    assert SocialAccount.objects.count() == 2, "One that is switched off lets nobody in."
    github.delete()

    passkey = passkey_of(user)
    guest.post(f"{CONNECTIONS}{row.pk}/remove/")
    assert not SocialAccount.objects.exists()
    guest.post(reverse("mfa_remove_webauthn", args=[passkey.pk]))
    assert Authenticator.objects.exists()
    assert "the only way in that you have" in guest.get("/accounts/2fa/").text


def test_a_password_that_is_chosen_by_mail_ends_every_connection(there: IdentityProvider, guest: Client):
    from tests.accounts.doors import ask_for_reset, reset_password

    ask_for_reset(VICTIM)
    assert is_in(reset_password(mail.outbox[-1], NEW_PASSWORD))
    assert not is_in(guest)
    assert not SocialAccount.objects.exists()
    assert EmailAddress.objects.get().verified
