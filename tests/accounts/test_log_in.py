"""Tokens: how they are got, renewed and ended."""

import datetime as dt

import pytest
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken

from accounts.api.serializers import MeSerializer
from accounts.forms import ProfileForm
from accounts.models import TokenFamily, User
from accounts.tasks import remove_expired_tokens
from accounts.tokens import TokenAuthentication, begin_family, renew
from core.redis_clients import sync_redis
from tests.billing.together import together

PASSWORD = "una clave larga"


def post(path: str, **body):
    return APIClient().post(f"/api/v1/auth/{path}", body, format="json")


def log_in(email: str = "ana@example.com", password: str = PASSWORD):
    return post("login", email=email, password=password)


def me(access: str):
    return APIClient().get("/api/v1/me", HTTP_AUTHORIZATION=f"Bearer {access}")


@pytest.fixture
def tokens(ana):
    return log_in().json()


def test_address_and_password_get_a_pair_of_tokens(ana):
    answer = log_in()
    assert answer.status_code == 200
    assert set(answer.json()) == {"access", "refresh"}


def test_an_access_token_tells_who_you_are(tokens):
    assert me(tokens["access"]).json()["email"] == "ana@example.com"


@pytest.mark.parametrize("email", ["ANA@Example.com", "  ana@example.com  "])
def test_the_address_may_be_written_otherwise(ana, email):
    assert log_in(email).status_code == 200


def test_access_tokens_live_as_long_as_the_setting_says(tokens, settings):
    token = AccessToken(tokens["access"])
    assert token["exp"] - token["iat"] == settings.ACCESS_TOKEN_EXPIRE_MINUTES * 60


def test_a_refresh_token_gets_a_new_pair_that_works(tokens):
    answer = post("refresh", refresh=tokens["refresh"])
    assert answer.status_code == 200
    assert answer.json()["refresh"] != tokens["refresh"]
    assert me(answer.json()["access"]).status_code == 200
    assert post("refresh", refresh=answer.json()["refresh"]).status_code == 200


def test_logging_out_answers_204(tokens):
    answer = post("logout", refresh=tokens["refresh"])
    assert answer.status_code == 204
    assert answer.content == b""


def test_logging_out_again_is_no_error(tokens):
    post("logout", refresh=tokens["refresh"])
    assert post("logout", refresh=tokens["refresh"]).status_code == 204


def test_logging_out_with_something_that_is_no_token_is_no_error(catalog):
    assert post("logout", refresh="nothing").status_code == 204


def test_logging_out_without_a_token_is_refused(catalog):
    answer = post("logout")
    assert answer.status_code == 400
    assert list(answer.json()["fields"]) == ["refresh"]


@pytest.mark.parametrize(
    ("email", "password"), [("ana@example.com", "otra clave larga"), ("nobody@example.com", PASSWORD)]
)
def test_a_wrong_password_and_an_unknown_address_are_refused_alike(ana, email, password):
    answer = log_in(email, password)
    assert answer.status_code == 401
    assert answer.json()["code"] == "no_active_account"


def test_somebody_suspended_cannot_log_in_and_is_told_no_more_than_a_stranger(ana):
    ana.is_active = False
    ana.save()
    answer, stranger = log_in(), log_in("nobody@example.com")
    assert answer.status_code == 401
    assert (answer.json()["code"], answer.json()["detail"]) == (stranger.json()["code"], stranger.json()["detail"])


def test_a_password_may_end_in_a_blank(ana):
    ana.set_password(" una clave larga ")
    ana.save()
    assert log_in(password=" una clave larga ").status_code == 200
    assert log_in(password=PASSWORD).status_code == 401


def test_what_is_missing_is_named(catalog):
    answer = post("login")
    assert answer.status_code == 400
    assert set(answer.json()["fields"]) == {"email", "password"}


def test_a_refresh_token_that_is_renewed_lives_as_long_as_the_first(ana):
    refresh = begin_family(ana)
    whole_life = refresh["exp"]
    refresh.set_exp(lifetime=dt.timedelta(minutes=5))
    renew(refresh)
    assert TokenFamily.objects.get().expires_at.timestamp() == refresh["exp"] >= whole_life


def test_a_refresh_token_works_once(tokens):
    post("refresh", refresh=tokens["refresh"])
    answer = post("refresh", refresh=tokens["refresh"])
    assert answer.status_code == 401
    assert answer.json()["code"] == "token_not_valid"


def test_logging_out_ends_the_refresh_token(tokens):
    post("logout", refresh=tokens["refresh"])
    assert post("refresh", refresh=tokens["refresh"]).status_code == 401


def test_what_is_no_token_cannot_be_refreshed(catalog):
    assert post("refresh", refresh="nothing").status_code == 401


def test_an_access_token_cannot_be_refreshed(tokens):
    assert post("refresh", refresh=tokens["access"]).status_code == 401


def test_a_refresh_token_gives_no_access(tokens):
    assert me(tokens["refresh"]).status_code == 401


def test_a_token_that_was_tampered_with_gives_no_access(tokens):
    head, _, signature = tokens["access"].split(".")
    _, claims, _ = log_in().json()["refresh"].split(".")
    assert me(f"{head}.{claims}.{signature}").status_code == 401


def test_an_access_token_that_expired_gives_no_access(ana):
    token = AccessToken.for_user(ana)
    token.set_exp(lifetime=-token.lifetime)
    answer = me(str(token))
    assert answer.status_code == 401
    assert answer.json()["code"] == "token_not_valid"


def test_somebody_suspended_has_no_access_with_an_old_token(tokens, ana):
    ana.is_active = False
    ana.save()
    assert me(tokens["access"]).status_code == 401


def test_somebody_suspended_cannot_refresh(tokens, ana):
    ana.is_active = False
    ana.save()
    assert post("refresh", refresh=tokens["refresh"]).status_code == 401


def test_somebody_deleted_cannot_refresh(tokens, ana):
    ana.delete()
    assert post("refresh", refresh=tokens["refresh"]).status_code == 401


def test_a_changed_password_ends_access_tokens(tokens, ana):
    ana.set_password("otra clave larga")
    ana.save()
    assert me(tokens["access"]).status_code == 401


def test_no_access_comes_from_a_refresh_token_older_than_the_password(tokens, ana):
    ana.set_password("otra clave larga")
    ana.save()
    answer = post("refresh", refresh=tokens["refresh"])
    assert "access" not in answer.json() or me(answer.json()["access"]).status_code == 401


def test_a_changed_password_ends_refresh_tokens(tokens, ana):
    ana.set_password("otra clave larga")
    ana.save()
    assert post("refresh", refresh=tokens["refresh"]).status_code == 401


# --- Families, and logging out ----------------------------------------------------------------------------------------


def test_a_refresh_token_used_twice_ends_all_that_came_of_the_same_log_in(tokens):
    renewed = post("refresh", refresh=tokens["refresh"]).json()
    assert me(tokens["access"]).status_code == me(renewed["access"]).status_code == 200
    assert post("refresh", refresh=tokens["refresh"]).status_code == 401
    assert post("refresh", refresh=renewed["refresh"]).status_code == 401
    assert me(tokens["access"]).status_code == me(renewed["access"]).status_code == 401


def test_a_refresh_token_used_twice_ends_no_other_log_in(tokens):
    other = log_in().json()
    for _ in range(2):
        post("refresh", refresh=tokens["refresh"])
    assert me(other["access"]).status_code == 200
    assert post("refresh", refresh=other["refresh"]).status_code == 200


def test_logging_out_ends_the_access_token_too_and_no_other_log_in(tokens):
    other = log_in().json()
    renewed = post("refresh", refresh=tokens["refresh"]).json()
    assert post("logout", refresh=renewed["refresh"]).status_code == 204
    assert me(tokens["access"]).status_code == me(renewed["access"]).status_code == 401
    assert me(other["access"]).status_code == 200


def test_logging_out_with_a_token_that_was_used_ends_the_log_in_all_the_same(tokens):
    renewed = post("refresh", refresh=tokens["refresh"]).json()
    assert post("logout", refresh=tokens["refresh"]).status_code == 204
    assert me(renewed["access"]).status_code == 401


def test_a_token_that_ended_does_not_live_again_when_redis_is_emptied(tokens):
    post("logout", refresh=tokens["refresh"])
    sync_redis().flushall()
    assert me(tokens["access"]).status_code == 401


def test_logging_out_everywhere_ends_tokens_and_sessions_and_nobody_elses(tokens, ana, bo):
    others, browser, foreign = log_in().json(), Client(), Client()
    browser.force_login(ana)
    foreign.force_login(bo)
    answer = APIClient().post("/api/v1/auth/logout-everywhere", HTTP_AUTHORIZATION=f"Bearer {tokens['access']}")
    assert (answer.status_code, answer.content) == (204, b"")
    for pair in (tokens, others):
        assert me(pair["access"]).status_code == 401
        assert post("refresh", refresh=pair["refresh"]).status_code == 401
    assert browser.get("/settings/").status_code == 302
    assert foreign.get("/settings/").status_code == 200
    assert me(log_in().json()["access"]).status_code == 200


def test_logging_out_everywhere_is_for_members(catalog):
    assert APIClient().post("/api/v1/auth/logout-everywhere").status_code == 401


def test_tokens_of_somebody_suspended_do_not_come_back_with_them(tokens, ana):
    ana.is_active = False
    ana.save()
    ana.is_active = True
    ana.save()
    assert me(tokens["access"]).status_code == 401
    assert post("refresh", refresh=tokens["refresh"]).status_code == 401
    assert me(log_in().json()["access"]).status_code == 200


def test_a_password_that_is_taken_away_ends_tokens(tokens, ana):
    ana.set_unusable_password()
    ana.save()
    assert me(tokens["access"]).status_code == 401


def test_a_hash_that_is_made_anew_ends_nothing(tokens, ana, settings):
    browser = Client()
    browser.force_login(ana)
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher", *settings.PASSWORD_HASHERS]
    assert me(log_in().json()["access"]).status_code == 200
    assert User.objects.get(pk=ana.pk).password.startswith("pbkdf2")
    assert me(tokens["access"]).status_code == 200
    assert browser.get("/settings/").status_code == 200


def test_a_profile_saved_beside_a_new_password_does_not_undo_it(tokens, ana, settings):
    """Who is thrown out keeps changing their profile, so that one of the requests began before."""
    mine = TokenAuthentication().get_user(AccessToken(tokens["access"]))
    page = ProfileForm({"name": "Eva", "locale": "es", "time_zone": "UTC", "theme": "dark"}, instance=mine)
    change = MeSerializer(User.objects.get(pk=ana.pk), data={"name": "Eva"}, partial=True)
    assert page.is_valid()
    assert change.is_valid()
    ana.set_password("otra clave larga")
    ana.is_active = False
    ana.save()
    page.save()
    change.save()
    ana.refresh_from_db()
    assert ana.name == "Eva"
    assert ana.check_password("otra clave larga")
    assert not ana.is_active
    assert me(tokens["access"]).status_code == 401


def test_log_ins_that_nobody_can_use_any_more_are_forgotten(tokens, ana):
    log_in()
    TokenFamily.objects.filter(refresh_jti=RefreshToken(tokens["refresh"])["jti"]).update(expires_at=timezone.now())
    remove_expired_tokens()
    assert TokenFamily.objects.count() == 1
    assert me(tokens["access"]).status_code == 401


def test_a_refresh_token_sent_four_times_at_once_works_once(tokens):
    answers = together([lambda: post("refresh", refresh=tokens["refresh"]).status_code] * 4)
    assert sorted(answers) == [200, 401, 401, 401]
