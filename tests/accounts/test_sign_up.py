"""Signing up over the API."""

from functools import partial

import pytest
from rest_framework.test import APIClient

from accounts.models import User
from config import settings as production
from tests.accounts.doors import ask_for_reset, sign_up_by_api, sign_up_by_page
from tests.billing.together import together

ADDRESS = "/api/v1/auth/register"
PASSWORD = "una clave larga"


def sign_up(email: str = "eva@example.com", password: str = PASSWORD, *, client=None, **fields):
    client = client or APIClient()
    return client.post(ADDRESS, {"email": email, "password": password, **fields}, format="json")


def me(access: str):
    return APIClient().get("/api/v1/me", HTTP_AUTHORIZATION=f"Bearer {access}")


def test_signing_up_makes_an_account_and_logs_it_in(catalog):
    answer = sign_up(name="Eva", locale="pt-br", time_zone="America/Sao_Paulo", theme="dark")
    assert answer.status_code == 201
    body = answer.json()
    assert body["user"] == me(body["access"]).json()
    assert {name: body["user"][name] for name in ("email", "name", "locale", "time_zone", "theme")} == {
        "email": "eva@example.com",
        "name": "Eva",
        "locale": "pt-br",
        "time_zone": "America/Sao_Paulo",
        "theme": "dark",
    }


def test_the_refresh_token_of_a_sign_up_works(catalog):
    refresh = sign_up().json()["refresh"]
    assert APIClient().post("/api/v1/auth/refresh", {"refresh": refresh}, format="json").status_code == 200


def test_the_password_is_not_shown(catalog):
    assert PASSWORD not in sign_up().content.decode()


def test_the_address_is_stored_in_lower_case(catalog):
    assert sign_up("  Eva@Example.COM ").json()["user"]["email"] == "eva@example.com"
    assert User.objects.get().email == "eva@example.com"


def test_language_time_zone_and_theme_have_defaults(catalog):
    user = sign_up().json()["user"]
    assert (user["locale"], user["time_zone"], user["theme"], user["name"]) == ("es", "UTC", "system", "")


def test_nobody_signs_up_as_an_operator(catalog):
    sign_up(is_staff=True, is_superuser=True)
    user = User.objects.get()
    assert not user.is_staff
    assert not user.is_superuser


def test_passwords_are_hashed_with_argon2_in_production(catalog, settings):
    settings.PASSWORD_HASHERS = production.PASSWORD_HASHERS
    sign_up()
    user = User.objects.get()
    assert user.password.startswith("argon2$argon2id$")
    assert user.check_password(PASSWORD)


def test_an_address_that_has_an_account_is_refused(ana):
    answer = sign_up("ana@example.com")
    assert answer.status_code == 400
    assert list(answer.json()["fields"]) == ["email"]


def test_the_same_address_in_other_letters_is_refused(ana):
    answer = sign_up(" ANA@example.com")
    assert answer.status_code == 400
    assert list(answer.json()["fields"]) == ["email"]
    assert User.objects.count() == 1


@pytest.mark.parametrize("password", ["corta", "password", "eva@example.com", "x" * 129, ""])
def test_a_weak_password_is_refused(catalog, password):
    answer = sign_up(password=password)
    assert answer.status_code == 400
    assert list(answer.json()["fields"]) == ["password"]
    assert not User.objects.exists()


@pytest.mark.parametrize("email", ["", "eva", "eva@", "@example.com", "a" * 250 + "@example.com", "eva\0@example.com"])
def test_what_is_no_address_is_refused(catalog, email):
    answer = sign_up(email)
    assert answer.status_code == 400
    assert list(answer.json()["fields"]) == ["email"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("time_zone", "Mars/Olympus"),
        ("time_zone", "../../etc/passwd"),
        ("locale", "xx"),
        ("theme", "pink"),
        ("name", "x" * 101),
    ],
)
def test_what_a_profile_cannot_hold_is_refused(catalog, field, value):
    answer = sign_up(**{field: value})
    assert answer.status_code == 400
    assert list(answer.json()["fields"]) == [field]
    assert not User.objects.exists()


def test_what_is_missing_is_named(catalog):
    answer = APIClient().post(ADDRESS, {}, format="json")
    assert answer.status_code == 400
    assert set(answer.json()["fields"]) == {"email", "password"}


def test_sign_ups_from_one_address_are_limited(catalog, settings):
    settings.SIGN_UPS_PER_HOUR = 2
    assert [sign_up(f"eva{number}@example.com").status_code for number in range(3)] == [201, 201, 429]
    assert User.objects.count() == 2


def test_a_limited_sign_up_says_how_long_to_wait(catalog, settings):
    settings.SIGN_UPS_PER_HOUR = 1
    sign_up()
    answer = sign_up("otra@example.com")
    assert answer.json()["code"] == "rate_limited"
    assert 3_500 < answer.json()["retry_after"] <= 3_600
    assert answer["Retry-After"] == str(answer.json()["retry_after"])


def test_attempts_that_fail_count_too(ana, settings):
    settings.SIGN_UPS_PER_HOUR = 2
    assert [sign_up("ana@example.com").status_code for _ in range(3)] == [400, 400, 429]


def test_another_address_has_a_limit_of_its_own(catalog, settings):
    settings.SIGN_UPS_PER_HOUR = 1
    sign_up()
    assert sign_up("otra@example.com", client=APIClient(REMOTE_ADDR="192.0.2.7")).status_code == 201


def test_a_forwarded_address_is_not_believed_without_a_proxy(catalog, settings):
    settings.SIGN_UPS_PER_HOUR = 1
    sign_up()
    client = APIClient(HTTP_X_FORWARDED_FOR="192.0.2.7")
    assert sign_up("otra@example.com", client=client).status_code == 429


def test_behind_a_proxy_the_address_is_the_one_the_proxy_saw(catalog, settings):
    settings.SIGN_UPS_PER_HOUR = 1
    settings.TRUSTED_PROXIES = 1
    sign_up(client=APIClient(HTTP_X_FORWARDED_FOR="192.0.2.7"))
    pretending = APIClient(HTTP_X_FORWARDED_FOR="192.0.2.99, 192.0.2.7")
    assert sign_up("otra@example.com", client=pretending).status_code == 429
    assert sign_up("otra@example.com", client=APIClient(HTTP_X_FORWARDED_FOR="192.0.2.8")).status_code == 201


@pytest.mark.stores
@pytest.mark.parametrize("door", [sign_up_by_api, sign_up_by_page])
def test_an_address_that_grows_too_long_in_lower_case_is_refused(catalog, door):
    address = f"aaa@{'b' * 60}.{'c' * 60}.{'d' * 60}.{'e' * 60}.İf.com"
    assert len(address) == 254 < len(address.lower())
    assert door(address).status_code in (200, 400)
    assert not User.objects.exists()


@pytest.mark.parametrize("host", ["ñ" * 60, "。ñ", "xn--ñ", "\u05d0a"])
def test_an_address_that_no_mail_can_be_sent_to_is_refused_at_every_door(catalog, settings, host):
    settings.REQUIRE_VERIFIED_EMAIL = True
    doors = [sign_up_by_api, sign_up_by_page, ask_for_reset]
    assert [door(f"eva@{host}.com").status_code for door in doors] == [400, 200, 200]
    assert not User.objects.exists()


@pytest.mark.stores
def test_of_two_sign_ups_with_one_address_at_once_one_wins(catalog):
    answers = together([partial(sign_up, "eva@example.com"), partial(sign_up, "EVA@example.com")])
    won, lost = sorted(answers, key=lambda answer: answer.status_code)
    assert won.status_code == 201
    assert lost.status_code in (400, 409)
    assert set(lost.json()) >= {"code", "detail", "request_id"}
    assert User.objects.count() == 1
