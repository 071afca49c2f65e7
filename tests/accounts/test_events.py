"""What happens at the doors is logged: whose account, from where, and nothing that may not be read there."""

import logging

import pytest
from django.core import mail
from django.test import Client

from tests.accounts.doors import (
    PASSWORD,
    WRONG,
    ask_for_reset,
    links_in,
    log_in_by_api,
    log_in_by_page,
    reset_password,
    sign_up_by_api,
    sign_up_by_page,
)

NOBODY = "nobody@example.com"
PEER = "192.0.2.1"


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture):
    """Return what was logged since the last call, as `(event, user_id)`; and check what is in every line."""
    caplog.set_level(logging.INFO, "accounts.events")

    def read() -> list[tuple[str, int | None]]:
        records = [record for record in caplog.records if record.name == "accounts.events"]
        for record in records:
            line = str(vars(record))
            assert record.peer == PEER
            for secret in ("@", PASSWORD, WRONG, "eyJ"):
                assert secret not in line
        caplog.clear()
        return [(record.event, getattr(record, "user_id", None)) for record in records]

    return read


@pytest.mark.parametrize("door", [log_in_by_api, log_in_by_page])
def test_log_ins_and_failures_are_logged(ana, events, door):
    door(ana.email)
    door(ana.email, WRONG)
    door(NOBODY, WRONG)
    assert events() == [("log_in", ana.pk), ("log_in_failed", ana.pk), ("log_in_failed", None)]


def test_guesses_at_one_address_can_be_told_from_others_without_knowing_it(ana, caplog):
    caplog.set_level(logging.INFO, "accounts.events")
    for email in (ana.email, "ANA@example.com", NOBODY):
        log_in_by_api(email, WRONG)
    digests = [record.email_digest for record in caplog.records if record.name == "accounts.events"]
    assert digests[0] == digests[1] != digests[2]


def test_what_a_limit_refused_is_logged(ana, events):
    for _ in range(5):
        log_in_by_api(ana.email, WRONG)
    events()
    log_in_by_api(ana.email)
    assert events() == [("limited", None)]


@pytest.mark.parametrize("door", [sign_up_by_api, sign_up_by_page])
def test_sign_ups_are_logged(catalog, settings, events, door):
    settings.REQUIRE_VERIFIED_EMAIL = True
    door("eva@example.com")
    door("eva@example.com")
    assert [event for event, _user_id in events()] == ["sign_up", "sign_up_of_known"]


def test_resets_are_logged(ana, events):
    ask_for_reset(ana.email)
    ask_for_reset(NOBODY)
    reset_password(mail.outbox[0], WRONG)
    assert events() == [
        ("reset_requested", ana.pk),
        ("reset_requested", None),
        ("password_reset", ana.pk),
        ("log_in", ana.pk),
    ]


def test_changes_of_password_and_address_are_logged(ana, events):
    browser = Client(REMOTE_ADDR=PEER)
    browser.post("/accounts/login/", {"login": ana.email, "password": PASSWORD})
    fields = {"oldpassword": PASSWORD, "password1": WRONG, "password2": WRONG}
    browser.post("/accounts/password/change/", fields)
    browser.post("/accounts/reauthenticate/", {"password": WRONG})
    browser.post("/accounts/email/", {"email": "new@example.com", "action_add": ""})
    browser.post(links_in(mail.outbox[-1])[0])
    assert events() == [
        ("log_in", ana.pk),
        ("password_changed", ana.pk),
        ("email_change_requested", ana.pk),
        ("email_confirmed", ana.pk),
        ("email_changed", ana.pk),
    ]
