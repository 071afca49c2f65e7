"""How often something may be tried at the doors, over pages and API together. The limiter is real, and so is Redis."""

import time
from functools import partial

import pytest
from allauth.account.models import EmailAddress
from django.core import mail
from django.test import Client
from django.utils import translation
from rest_framework.test import APIClient

from accounts import limits
from accounts.http import network_of
from accounts.limits import Act
from core.errors import RateLimited
from core.redis_clients import sync_redis
from tests.accounts.doors import (
    COUNTED,
    PASSWORD,
    WRONG,
    CountedHasher,
    ask_for_reset,
    log_in_by_api,
    log_in_by_page,
    reset_password,
    sign_up_by_api,
    sign_up_by_page,
)
from tests.billing.together import together

HERE, ELSEWHERE = "192.0.2.1", "198.51.100.1"


def wait_of(act: Act, **who: str) -> float:
    """Try once, and return the seconds to wait; 0 if it was counted."""
    try:
        limits.count(act, **who)
    except RateLimited as error:
        assert error.retry_after
        return error.retry_after
    return 0


def end_pauses() -> None:
    """Let every pause be over, as if time had passed."""
    for key in sync_redis().scan_iter(match=b"limit:*:account:*"):
        sync_redis().hset(key, "until", 0)


def guess(email: str, count: int, *, peer: str) -> None:
    for number in range(count):
        end_pauses()
        log_in_by_api(email, f"clave {number}", peer=peer)


# --- What is counted -------------------------------------------------------------------------------------------------


def test_of_90_attempts_at_once_from_one_network_exactly_30_are_counted():
    calls = [partial(wait_of, Act.LOG_IN, peer=HERE, account=f"{number}@example.com") for number in range(90)]
    waits = together(calls)
    assert len([wait for wait in waits if wait == 0]) == 30
    assert {wait for wait in waits if wait} <= set(range(1, 121))


def test_of_90_guesses_at_once_from_90_networks_one_account_takes_5():
    calls = [partial(wait_of, Act.LOG_IN, peer=f"192.0.2.{number}", account="ana@example.com") for number in range(90)]
    assert len([wait for wait in together(calls) if wait == 0]) == 5


def test_of_a_crowd_of_guesses_over_page_and_api_only_those_are_hashed_that_are_free(ana, settings):
    settings.PASSWORD_HASHERS = [COUNTED]
    CountedHasher.hashed.clear()
    calls = [partial(door, ana.email, WRONG) for door in (log_in_by_api, log_in_by_page)] * 10
    statuses = [answer.status_code for answer in together(calls)]
    assert len(CountedHasher.hashed) == 20 - statuses.count(429)
    assert 5 <= len(CountedHasher.hashed) <= 8  # three more only if this took longer than 7 seconds


@pytest.mark.parametrize(("first", "second"), [(log_in_by_api, log_in_by_page), (log_in_by_page, log_in_by_api)])
def test_what_one_door_counted_the_other_does_not_forget(ana, first, second):
    for _ in range(5):
        assert first(ana.email, WRONG).status_code in (200, 401)
    answer = second(ana.email, PASSWORD)
    assert answer.status_code == 429
    assert answer["Retry-After"] == "1"


@pytest.mark.parametrize(("first", "second"), [(sign_up_by_api, sign_up_by_page), (sign_up_by_page, sign_up_by_api)])
def test_sign_ups_of_one_network_are_counted_over_both_doors(catalog, settings, first, second):
    settings.SIGN_UPS_PER_HOUR = 2
    for number in range(2):
        assert first(f"{number}@example.com").status_code in (201, 302)
    assert second("other@example.com").status_code == 429
    assert second("other@example.com", peer=ELSEWHERE).status_code in (201, 302)


def test_an_unknown_address_pauses_as_a_known_one_does(ana):
    for email in (ana.email, "nobody@example.com"):
        statuses = [log_in_by_api(email, WRONG).status_code for _ in range(6)]
        assert statuses == [401] * 5 + [429]


@pytest.mark.parametrize(
    ("one", "other", "is_one"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("", "no address", True),
    ],
)
def test_nobody_counts_as_many_by_the_addresses_of_one_network(one, other, is_one):
    assert (network_of(one) == network_of(other)) is is_one


@pytest.mark.parametrize(
    "other",
    [
        "ANA@example.com",
        "ana+1@example.com",
        "ana++@EXAMPLE.com",
        "ana@ｅxample.com",
        "ana@exa\u00admple.com",
    ],
)
def test_a_mailbox_gets_no_more_mails_by_other_spellings_of_its_address(ana, other):
    for email in (ana.email, other, ana.email):
        assert ask_for_reset(email).status_code == 302
    assert ask_for_reset(other).status_code == 429
    assert wait_of(Act.RESET, account="an@example.com") == 0


@pytest.mark.parametrize("act", [Act.LOG_IN, Act.SECOND_FACTOR])
def test_guesses_at_another_spelling_of_an_address_are_guesses_at_another_account(act):
    for _ in range(6):
        wait_of(act, account="ana+1@example.com")
    assert wait_of(act, account="ana@example.com") == 0
    for _ in range(6):
        wait_of(act, account="ana@example.com")
    limits.forget_attempts(act, "ana+1@example.com")  # by who has that one, and shows a code of their own
    assert wait_of(act, account="ana@example.com") > 0


@pytest.mark.parametrize(("act", "also"), [(Act.LOG_IN, ", or reset the password"), (Act.RESET, "")])
def test_a_refusal_says_when_to_come_back_and_what_helps_before(act, also):
    with translation.override("en"), pytest.raises(RateLimited) as refused:
        for _ in range(6):
            limits.count(act, account="ana@example.com")
    seconds = refused.value.retry_after
    assert f"try again in {seconds} second" in str(refused.value.message)
    assert str(refused.value.message).endswith(f"{also}.")


@pytest.mark.parametrize("email", ["a@b@example.com", "", "+", "@", "a@" + "ñ" * 99 + ".com", "a@..ñ"])
def test_what_is_no_address_is_counted_too(email):
    assert [wait_of(Act.RESET, account=email) for _ in range(4)] == [0, 0, 0, 60]


def test_nobody_is_known_where_somebody_with_a_similar_address_logs_in(ana):
    limits.remember_network(peer=ELSEWHERE, account="ana+1@example.com")
    for _ in range(5):
        wait_of(Act.LOG_IN, peer=HERE, account=ana.email)
    assert wait_of(Act.LOG_IN, peer=ELSEWHERE, account=ana.email)


def test_a_clock_that_ran_ahead_and_was_set_back_locks_nobody_out():
    limits.count(Act.LOG_IN, peer=HERE, account="ana@example.com")
    for key in sync_redis().scan_iter(match="limit:*:network:*"):
        sync_redis().set(key, int((time.time() + 86_400) * 1_000_000))
    for key in sync_redis().scan_iter(match="limit:*:account:*"):
        sync_redis().hset(key, "until", int((time.time() + 86_400) * 1_000_000))
    assert wait_of(Act.LOG_IN, account="ana@example.com") <= 60
    assert wait_of(Act.LOG_IN, peer=HERE) <= 2
    latest = (time.time() + 3_600) * 1_000_000  # from there it runs down, and the waits are true
    assert all(int(sync_redis().get(key)) <= latest for key in sync_redis().scan_iter(match="limit:*:network:*"))
    accounts = sync_redis().scan_iter(match="limit:*:account:*")
    assert all(int(sync_redis().hget(key, "until")) <= latest for key in accounts)


def test_a_count_that_is_no_number_closes_no_door(ana):
    limits.count(Act.LOG_IN, peer=HERE, account=ana.email)
    for key in sync_redis().scan_iter(match="limit:*:network:*"):
        sync_redis().set(key, "planted")
    for key in sync_redis().scan_iter(match="limit:*:account:*"):
        sync_redis().hset(key, mapping={"until": "planted", "count": "planted"})
    assert log_in_by_api(ana.email, peer=HERE).status_code == 200


@pytest.mark.parametrize("door", [sign_up_by_api, sign_up_by_page])
@pytest.mark.parametrize(
    ("peers", "elsewhere"),
    [
        (("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:DB8:1:2::3"), "2001:db8:1:3::1"),
        (("192.0.2.7", "::ffff:192.0.2.7", "::FFFF:c000:207"), "::ffff:192.0.2.8"),
    ],
)
def test_nobody_signs_up_more_often_by_changing_addresses_within_a_network(catalog, settings, door, peers, elsewhere):
    settings.SIGN_UPS_PER_HOUR = 2
    statuses = [door(f"{number}@example.com", peer=peer).status_code for number, peer in enumerate(peers)]
    assert [status in (201, 302) for status in statuses] == [True, True, False]
    assert statuses[-1] == 429
    assert door("other@example.com", peer=elsewhere).status_code in (201, 302)


def test_what_is_refused_is_not_counted():
    assert [wait_of(Act.LOG_IN, account="ana@example.com") for _ in range(9)] == [0] * 5 + [1] * 4
    assert [wait_of(Act.SIGN_UP, account="ana@example.com") for _ in range(9)] == [0] * 3 + [60] * 6


@pytest.mark.parametrize(
    ("act", "pauses"),
    [
        (Act.LOG_IN, [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60]),
        (Act.RESET, [0, 0, 60, 120, 240, 480, 960, 1920, 3600, 3600]),
    ],
)
def test_pauses_grow_to_a_limit_and_never_become_a_lock(act, pauses):
    found = []
    for _ in pauses:
        limits.count(act, account="ana@example.com")
        (key,) = sync_redis().scan_iter(match=f"limit:{act}:account:*")
        found.append(max(0, round(float(sync_redis().hget(key, "until")) / 1_000_000 - time.time())))
        end_pauses()
    assert found == pauses


def test_counts_are_forgotten_in_time():
    limits.count(Act.LOG_IN, peer=HERE, account="ana@example.com")
    limits.count(Act.RESET, peer=HERE, account="ana@example.com")
    limits.remember_network(peer=ELSEWHERE, account="ana@example.com")
    assert all(sync_redis().ttl(key) > 0 for key in sync_redis().scan_iter())


def test_neither_addresses_nor_networks_are_in_redis():
    limits.count(Act.LOG_IN, peer=HERE, account="ana@example.com")
    limits.remember_network(peer=HERE, account="ana@example.com")
    keys = list(sync_redis().scan_iter())
    held = keys + [sync_redis().zrange(key, 0, -1) for key in keys if b"known" in key]
    assert "ana" not in str(held)
    assert HERE not in str(held)


# --- The owner gets in -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", [log_in_by_api, log_in_by_page])
def test_strangers_cannot_keep_an_owner_out_where_they_have_got_in_before(ana, door):
    log_in_by_api(ana.email, peer=HERE)
    guess(ana.email, 12, peer=ELSEWHERE)
    assert log_in_by_api(ana.email, peer="203.0.113.9").status_code == 429
    assert door(ana.email, peer=HERE).status_code in (200, 302)


def test_who_guesses_from_the_owners_network_is_slowed_down_too(ana):
    log_in_by_api(ana.email, peer=HERE)
    statuses = [log_in_by_api(ana.email, WRONG, peer=HERE).status_code for _ in range(6)]
    assert statuses == [401] * 5 + [429]


def test_an_owner_comes_in_through_their_mailbox_from_anywhere_while_strangers_guess(ana):
    guess(ana.email, 12, peer=ELSEWHERE)
    new = "203.0.113.9"
    assert log_in_by_page(ana.email, peer=new).status_code == 429
    ask_for_reset(ana.email, peer=new)
    browser = reset_password(mail.outbox[0], WRONG, peer=new)
    assert browser.get("/settings/").status_code == 200
    assert log_in_by_page(ana.email, WRONG, peer=new).status_code == 302  # it is known from now on


def test_a_reset_cannot_be_kept_from_an_owner_whose_mailbox_has_its_link(ana):
    for number in range(4):
        ask_for_reset(ana.email, peer=f"198.51.100.{number}")
    assert ask_for_reset(ana.email).status_code == 429
    assert [message.to for message in mail.outbox] == [[ana.email]] * 3
    assert reset_password(mail.outbox[0], WRONG).get("/settings/").status_code == 200


def test_who_logs_in_often_and_rightly_never_waits(ana):
    statuses = [log_in_by_api(ana.email, peer=f"192.0.2.{number}").status_code for number in range(12)]
    assert statuses == [200] * 12


def test_a_right_password_gives_back_one_attempt_and_not_those_of_strangers(ana):
    for number in range(4):
        log_in_by_api(ana.email, WRONG, peer=f"198.51.100.{number}")
    assert log_in_by_api(ana.email, peer=HERE).status_code == 200
    statuses = [log_in_by_api(ana.email, WRONG, peer=ELSEWHERE).status_code for _ in range(2)]
    assert statuses == [401, 429]


def test_what_was_kept_of_an_account_goes_with_it(ana):
    log_in_by_api(ana.email, peer=HERE)
    log_in_by_api(ana.email, WRONG, peer=ELSEWHERE)
    ask_for_reset(ana.email)
    ana.delete()
    assert not [key for key in sync_redis().scan_iter(match=b"limit:*") if b":network:" not in key]


# --- What is answered ------------------------------------------------------------------------------------------------


def test_the_api_says_how_long_to_wait(ana):
    for _ in range(6):
        log_in_by_api(ana.email, WRONG)
        end_pauses()
    log_in_by_api(ana.email, WRONG)
    answer = log_in_by_api(ana.email)
    body = answer.json()
    assert (answer.status_code, body["code"], body["retry_after"]) == (429, "rate_limited", 4)
    assert answer["Retry-After"] == "4"
    assert "4 segundos" in body["detail"]


def test_the_page_of_a_log_in_says_how_long_to_wait_and_keeps_the_address_but_not_the_password(ana):
    for _ in range(5):
        log_in_by_page(ana.email, WRONG)
    answer = log_in_by_page(ana.email)
    assert (answer.status_code, answer["Retry-After"]) == (429, "1")
    assert "1 segundo" in answer.text
    assert f'value="{ana.email}"' in answer.text
    assert PASSWORD not in answer.text


def test_the_page_of_a_sign_up_says_how_long_to_wait_and_tells_no_more(ana, settings):
    settings.SIGN_UPS_PER_HOUR = 1
    sign_up_by_page("eva@example.com")
    answers = [sign_up_by_page(email) for email in (ana.email, "new@example.com")]
    for answer, email in zip(answers, (ana.email, "new@example.com"), strict=True):
        assert answer.status_code == 429
        assert 3_500 < int(answer["Retry-After"]) <= 3_600
        assert f"{answer['Retry-After']} segundos" in answer.text
        assert f'value="{email}"' in answer.text
        assert PASSWORD not in answer.text
        assert list(answer.context["form"].errors) == ["__all__"]


def test_the_page_of_a_reset_says_how_long_to_wait_and_keeps_the_address(ana):
    for _ in range(3):
        ask_for_reset(ana.email)
    answer = ask_for_reset(ana.email)
    assert (answer.status_code, answer["Retry-After"]) == (429, "60")
    assert "60 segundos" in answer.text
    assert f'value="{ana.email}"' in answer.text


def test_changes_of_address_are_limited_and_the_page_keeps_what_was_typed(ana):
    browser = Client()
    browser.force_login(ana)
    browser.post("/accounts/reauthenticate/", {"password": PASSWORD})
    for number in range(3):
        browser.post("/accounts/email/", {"email": f"{number}@example.org", "action_add": ""})
    answer = browser.post("/accounts/email/", {"email": "new@example.org", "action_add": ""})
    assert (answer.status_code, answer["Retry-After"]) == (429, "60")
    assert 'value="new@example.org"' in answer.text
    assert len(mail.outbox) == 3


def test_a_confirmation_is_sent_again_a_few_times_only(ana):
    EmailAddress.objects.create(user=ana, email=ana.email, primary=True)
    browser = Client()
    browser.force_login(ana)
    answers = [browser.post("/accounts/email/", {"email": ana.email, "action_send": ""}) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [302, 302, 302, 429]
    assert answers[-1]["Retry-After"] == "60"
    assert "60 segundos" in answers[-1].text
    assert len(mail.outbox) == 3


def test_nobody_uses_up_the_confirmations_of_somebody_else(ana, bo):
    browser = Client()
    browser.force_login(bo)
    for _ in range(4):
        browser.post("/accounts/email/", {"email": ana.email, "action_send": ""})
    assert wait_of(Act.CONFIRM_EMAIL, account=ana.email) == 0


def test_passwords_are_not_guessed_where_a_member_is_asked_for_theirs(ana):
    browser = Client()
    browser.force_login(ana)
    fields = {"password1": "clave nueva y larga", "password2": "clave nueva y larga"}
    guesses = [browser.post("/accounts/password/change/", {**fields, "oldpassword": WRONG}) for _ in range(5)]
    assert {answer.status_code for answer in guesses} == {200}
    for page, field in (("password/change", "oldpassword"), ("reauthenticate", "password")):
        answer = browser.post(f"/accounts/{page}/", {**fields, field: PASSWORD})
        assert (answer.status_code, answer["Retry-After"]) == (429, "1")
    ana.refresh_from_db()
    assert ana.check_password(PASSWORD)


def test_an_operators_password_is_not_guessed_in_the_admin_either(olga):
    browser = Client()
    browser.force_login(olga)
    answer = browser.post("/admin/password_change/", {"old_password": WRONG, "new_password1": WRONG})
    assert answer["Location"] == "/accounts/password/change/"
    answer = browser.post("/admin/login/", {"username": olga.email, "password": PASSWORD})
    assert answer["Location"] == "/admin/"


def test_no_sign_ups_at_all_where_none_are_wanted(catalog, settings):
    settings.SIGN_UPS_PER_HOUR = 0
    assert sign_up_by_api("eva@example.com").status_code == 429
    assert sign_up_by_page("eva@example.com").status_code == 429


# --- Without Redis ---------------------------------------------------------------------------------------------------


def test_without_redis_no_door_opens_and_every_door_says_so(ana, settings):
    CountedHasher.hashed.clear()
    settings.PASSWORD_HASHERS = [COUNTED]
    address = settings.REDIS_URL
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    sync_redis.cache_clear()
    try:
        answers = [
            *(door(ana.email) for door in (log_in_by_api, log_in_by_page)),
            *(door("eva@example.com") for door in (sign_up_by_api, sign_up_by_page, ask_for_reset)),
        ]
    finally:
        settings.REDIS_URL = address
        sync_redis.cache_clear()
    assert [answer.status_code for answer in answers] == [503] * 5
    assert [answer["Retry-After"] for answer in answers] == ["5"] * 5
    assert answers[0].json()["code"] == "unavailable"
    assert CountedHasher.hashed == []


def test_the_limits_of_a_log_in_are_nobodys_error(ana):
    """A body that is no log-in is refused before it is counted: it costs no hash."""
    answers = [APIClient().post("/api/v1/auth/login", {"email": "ana@example.com"}, format="json") for _ in range(40)]
    assert {answer.status_code for answer in answers} == {400}
