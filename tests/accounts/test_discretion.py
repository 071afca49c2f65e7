"""Who knocks at a door is not told whether an address has an account; the mailbox of the address is."""

import time
from urllib.parse import unquote

import pytest
from allauth.account.models import EmailAddress
from django.core import mail
from django.test import Client

from accounts import timing
from accounts.models import User
from tests.accounts.doors import (
    COUNTED,
    PASSWORD,
    WRONG,
    CountedHasher,
    ask_for_reset,
    links_in,
    log_in_by_api,
    log_in_by_page,
    reset_password,
    sign_up_by_api,
    sign_up_by_page,
)

NOBODY = "nobody@example.com"
NEW_PASSWORD = "la clave de la dueña"


def shown(answer) -> tuple[object, ...]:
    """Return what a stranger sees of an answer, without what differs from request to request."""
    body = answer.content.decode()
    if answer["Content-Type"] == "application/json":
        body = {name: value for name, value in answer.json().items() if name != "request_id"}
    elif answer.status_code == 200:
        body = [str(error) for error in answer.context["form"].non_field_errors()]
    return answer.status_code, answer.get("Location"), body, sorted(answer.cookies)


@pytest.fixture
def must_confirm(settings, catalog) -> None:
    settings.REQUIRE_VERIFIED_EMAIL = True


# --- Log-in ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", [log_in_by_api, log_in_by_page])
def test_a_log_in_does_not_tell_a_known_address_from_an_unknown_one(ana, bo, settings, door):
    settings.PASSWORD_HASHERS = [COUNTED]
    bo.is_active = False
    bo.save()
    answers, hashes = [], []
    for email in (ana.email, bo.email, NOBODY):
        CountedHasher.hashed.clear()
        answers.append(shown(door(email, WRONG)))
        hashes.append(len(CountedHasher.hashed))
    assert answers[0] == answers[1] == answers[2]
    assert hashes == [1, 1, 1]


def test_an_address_somebody_only_wants_to_change_to_costs_no_second_hash(ana, bo, settings):
    settings.PASSWORD_HASHERS = [COUNTED]
    for email in (ana.email, NOBODY):
        EmailAddress.objects.create(user=bo, email=email)
        CountedHasher.hashed.clear()
        log_in_by_api(email, WRONG)
        assert len(CountedHasher.hashed) == 1


@pytest.mark.parametrize("email", ["ana@example.com", NOBODY])
def test_a_refused_log_in_and_a_reset_take_equally_long(ana, monkeypatch, email):
    monkeypatch.setattr(timing, "SECONDS", 0.5)
    for knock in (lambda: log_in_by_api(email, WRONG), lambda: ask_for_reset(email)):
        begun = time.monotonic()
        knock()
        assert time.monotonic() - begun >= 0.5


# --- Reset -----------------------------------------------------------------------------------------------------------


def test_a_reset_does_not_tell_a_known_address_from_an_unknown_one(ana):
    assert shown(ask_for_reset(ana.email)) == shown(ask_for_reset(NOBODY))
    assert [message.to for message in mail.outbox] == [[ana.email], [NOBODY]]
    assert "/password/reset/key/" in mail.outbox[0].body
    assert "/password/reset/key/" not in mail.outbox[1].body


def test_nobody_resets_a_password_through_an_address_that_was_only_asked_for(ana):
    EmailAddress.objects.create(user=ana, email="eve@example.com")
    ask_for_reset("eve@example.com")
    assert "/password/reset/key/" not in mail.outbox[0].body


# --- Change of address -----------------------------------------------------------------------------------------------


def change_email(user: User, email: str) -> tuple[object, ...]:
    """Ask for a change; return what the member sees, with the new address left out."""
    browser = Client()
    browser.force_login(user)
    browser.post("/accounts/reauthenticate/", {"password": PASSWORD})
    answer = browser.post("/accounts/email/", {"email": email, "action_add": ""})
    pages = [browser.get("/accounts/email/").text, browser.get("/accounts/email/").text]
    again = browser.post("/accounts/email/", {"email": email, "action_send": ""})
    texts = [page.split("<main", 1)[1].replace(email, "…") for page in pages]
    return answer.status_code, answer["Location"], again.status_code, [strip_tokens(text) for text in texts]


def strip_tokens(text: str) -> str:
    return "".join(line for line in text.splitlines() if "csrfmiddlewaretoken" not in line)


def test_a_change_of_address_does_not_tell_a_taken_address_from_a_free_one(ana, bo):
    assert change_email(ana, bo.email) == change_email(ana, "free@example.com")
    sent = [message for message in mail.outbox if message.to != [ana.email]]  # she is told of her second browser
    to_bo, to_free = sent[:2], sent[2:]
    assert [message.to for message in (*to_bo, *to_free)] == [[bo.email]] * 2 + [["free@example.com"]] * 2
    assert all("/confirm-email/" in message.body for message in to_free)
    assert not any("/confirm-email/" in message.body for message in to_bo)


@pytest.mark.parametrize("action", ["action_primary", "action_remove"])
def test_no_address_takes_the_present_ones_place_unconfirmed_nor_tells_whether_it_is_taken(ana, bo, action):
    answers = []
    for email in (bo.email, "free@example.com"):
        change_email(ana, email)
        browser = Client(raise_request_exception=False)
        browser.force_login(ana)
        browser.post("/accounts/reauthenticate/", {"password": PASSWORD})
        chosen = ana.email if action == "action_remove" else email
        answer = browser.post("/accounts/email/", {"email": chosen.upper(), action: ""})
        answers.append((answer.status_code, answer.get("Location")))
        ana.refresh_from_db()
        assert ana.email == "ana@example.com"
    assert answers == [(302, "/accounts/email/")] * 2
    assert EmailAddress.objects.filter(user=ana, email=ana.email).exists()


def test_a_pending_address_can_be_given_up(ana):
    change_email(ana, "free@example.com")
    browser = Client()
    browser.force_login(ana)
    browser.post("/accounts/reauthenticate/", {"password": PASSWORD})
    browser.post("/accounts/email/", {"email": "free@example.com", "action_remove": ""})
    assert [address.email for address in EmailAddress.objects.filter(user=ana)] == [ana.email]


def test_an_address_that_was_taken_after_its_link_was_sent_is_not_confirmed(ana):
    change_email(ana, "late@example.com")
    User.objects.create_user("late@example.com", PASSWORD)
    browser = Client()
    browser.force_login(ana)
    answer = browser.post(links_in(mail.outbox[0])[0], follow=True)
    assert answer.status_code == 200
    ana.refresh_from_db()
    assert ana.email == "ana@example.com"
    assert not EmailAddress.objects.filter(user=ana, verified=True).exists()


# --- Sign-up, where addresses must be confirmed ----------------------------------------------------------------------


@pytest.mark.parametrize("door", [sign_up_by_api, sign_up_by_page])
def test_a_sign_up_does_not_tell_a_known_address_from_an_unknown_one(must_confirm, ana, settings, door):
    settings.PASSWORD_HASHERS = [COUNTED]
    answers, hashes = [], []
    for email in (ana.email, "eva@example.com", "eva@example.com"):
        CountedHasher.hashed.clear()
        answers.append(shown(door(email, WRONG)))
        hashes.append(len(CountedHasher.hashed))
    assert answers[0] == answers[1] == answers[2]
    assert hashes == [1, 1, 1]
    assert [message.to for message in mail.outbox] == [[ana.email], ["eva@example.com"], ["eva@example.com"]]
    assert ["/confirm-email/" in message.body for message in mail.outbox] == [False, True, False]
    assert "/password/reset/" in mail.outbox[2].body
    ana.refresh_from_db()
    assert ana.check_password(PASSWORD)


@pytest.mark.parametrize("door", [sign_up_by_api, sign_up_by_page])
def test_a_sign_up_takes_as_long_for_a_known_address(must_confirm, ana, monkeypatch, door):
    monkeypatch.setattr(timing, "SECONDS", 0.5)
    for email in (ana.email, "eva@example.com"):
        begun = time.monotonic()
        door(email)
        assert time.monotonic() - begun >= 0.5


def test_a_sign_up_over_the_api_gives_no_tokens_before_the_address_is_confirmed(must_confirm):
    answer = sign_up_by_api("eva@example.com")
    assert (answer.status_code, list(answer.json())) == (202, ["detail"])


def test_a_sign_up_on_the_page_logs_nobody_in_before_the_address_is_confirmed(must_confirm):
    answer = sign_up_by_page("eva@example.com")
    assert answer["Location"] == "/accounts/confirm-email/"
    assert not answer.wsgi_request.user.is_authenticated
    assert "sessionid" not in answer.cookies


@pytest.mark.parametrize("door", [log_in_by_api, log_in_by_page])
def test_nobody_finds_out_by_logging_in_whether_their_sign_up_made_an_account(must_confirm, ana, door):
    for email in (ana.email, "eva@example.com"):
        sign_up_by_api(email, WRONG)
    assert shown(door(ana.email, WRONG)) == shown(door("eva@example.com", WRONG)) == shown(door(NOBODY, WRONG))


@pytest.mark.parametrize("door", [sign_up_by_api, sign_up_by_page])
def test_who_comes_with_the_link_of_the_mail_logs_in_and_confirms(must_confirm, door):
    door("eva@example.com")
    link = links_in(mail.outbox[0])[0]
    browser = Client()
    to_log_in = browser.get(link)["Location"]
    answer = browser.post(to_log_in, {"login": "eva@example.com", "password": PASSWORD})
    assert (answer.status_code, unquote(answer["Location"])) == (302, link)
    browser.post(link)
    assert log_in_by_api("eva@example.com").status_code == 200


def test_a_link_opens_no_other_account(must_confirm):
    for email in ("eva@example.com", "eve@example.com"):
        sign_up_by_api(email)
    link = links_in(mail.outbox[1])[0]
    assert log_in_by_page("eva@example.com", next=link).status_code == 200


def test_accounts_from_before_addresses_had_to_be_confirmed_log_in_as_ever(must_confirm, ana, olga):
    ask_for_reset(olga.email)  # which makes a row for an address that has none
    assert log_in_by_api(ana.email).status_code == 200
    assert log_in_by_page(olga.email).status_code == 302


def test_without_the_setting_a_sign_up_says_that_an_address_is_taken(ana):
    assert sign_up_by_api(ana.email).json()["fields"].keys() == {"email"}
    assert list(sign_up_by_page(ana.email).context["form"].errors) == ["email"]
    assert mail.outbox == []


# --- Whose mailbox it is, theirs is the account ----------------------------------------------------------------------


def test_an_address_somebody_else_signed_up_is_reclaimed_through_its_mailbox(catalog):
    tokens = sign_up_by_api("victim@example.com").json()
    squatter = log_in_by_page("victim@example.com").client
    squatter.post("/accounts/reauthenticate/", {"password": PASSWORD})
    squatter.post("/accounts/email/", {"email": "eve@example.com", "action_add": ""})
    mail.outbox.clear()

    ask_for_reset("victim@example.com")
    owner = reset_password(mail.outbox[0], NEW_PASSWORD)

    assert owner.get("/settings/").status_code == 200
    assert squatter.get("/settings/").status_code == 302
    bearer = {"Authorization": f"Bearer {tokens['access']}"}
    assert Client().get("/api/v1/me", headers=bearer).status_code == 401
    refresh = Client().post("/api/v1/auth/refresh", {"refresh": tokens["refresh"]}, content_type="application/json")
    assert refresh.status_code == 401
    assert log_in_by_api("victim@example.com", PASSWORD).status_code == 401
    assert log_in_by_api("victim@example.com", NEW_PASSWORD).status_code == 200
    (address,) = EmailAddress.objects.all()
    assert (address.email, address.verified, address.primary) == ("victim@example.com", True, True)


def test_an_account_that_waits_is_its_mailboxs_after_a_reset(must_confirm):
    sign_up_by_api("eva@example.com")
    ask_for_reset("eva@example.com")
    owner = reset_password(mail.outbox[-1], NEW_PASSWORD)
    assert owner.get("/settings/").status_code == 200
    assert log_in_by_api("eva@example.com", NEW_PASSWORD).status_code == 200
    assert log_in_by_api("eva@example.com", PASSWORD).status_code == 401
