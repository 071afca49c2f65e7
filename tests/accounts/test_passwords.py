"""Passwords that are tried first are refused, wherever one is chosen; others are not."""

import time

import pytest
from django.contrib.auth.password_validation import password_validators_help_texts, validate_password
from django.core.exceptions import ValidationError
from django.test import Client

from accounts.models import User
from tests.accounts.doors import PASSWORD, sign_up_by_api, sign_up_by_page

ANA = User(email="ana.garcia@tertulia-libre.example", name="Ana María Peña")


def is_refused(password: str, user: User | None = ANA) -> bool:
    try:
        validate_password(password, user)
    except ValidationError:
        return True
    return False


@pytest.mark.parametrize(
    "password",
    [
        *("12345678", "password", "iloveyou", "sunshine1"),  # as Django has them
        *("contraseña", "Contraseña1", "CONTRASEÑA2024!", "c0ntraseñ4", "micontraseña", "bienvenido", "bienvenida1"),
        *("tequieromucho", "te quiero mucho", "barcelona2025", "México2026", "Bogotá123", "diciembre24", "¡hola2024!"),
        *("minhasenha", "senha2024", "Mudar123", "bemvindo!", "corinthians", "Flamengo10", "SãoPaulo2024", "coração1"),
        *("qwer1234", "asdfghjklñ", "1234567890abc", "zxcvbnm,", "qazwsxedc", "lkjhgfdsa", "123qweasd", "87654321abc"),
        *("aaaabbbb", "abcabcabc", "ana1ana1", "xyxyxyxy", "zzzzzzzzzzzz", "x" * 500),
        *(
            "ana.garcia@tertulia-libre.example",
            "anagarcia1",
            "AnaMaríaPeña",
            "anamariapena!",
            "Tertulia2026",
            "tertulia!",
        ),
    ],
)
def test_what_is_tried_first_is_refused(password):
    assert is_refused(password)


@pytest.mark.parametrize(
    "password",
    [
        *(PASSWORD, "uma senha longa", "una conferencia de tertulias", "correcto caballo batería grapa"),
        *("k3Vz!pQ9w", "qwerty y otra cosa", "contraseñas que nadie sabe", "Xk7-barcelona-mm", "amor en los tiempos"),
        *("8402-1177-93", "ñandúes 42 veloces", "日本語のパスワード", "9" + "f2a7c1" * 3 + "b"),
    ],
)
def test_others_are_not(password):
    assert not is_refused(password)


def test_what_belongs_to_the_owner_is_their_affair_alone():
    assert is_refused("anagarcia1", ANA)
    assert not is_refused("anagarcia1", User(email="bo@example.com"))
    assert not is_refused("anagarcia1", None)


def test_an_account_without_a_name_chooses_freely():
    assert not is_refused(PASSWORD, User(email="bo@example.com", name=""))


@pytest.mark.parametrize("password", ["a" * 200_000, "ab1" * 60_000 + "x", "\ufdfa" * 30_000, "1" * 100_000 + "!"])
def test_nobody_keeps_a_thread_with_a_long_one(password):
    begun = time.process_time()
    is_refused(password)
    assert time.process_time() - begun < 1.5


def test_the_rules_can_be_told():
    assert all(password_validators_help_texts())


@pytest.mark.parametrize("door", [sign_up_by_page, sign_up_by_api])
def test_the_doors_refuse_them(catalog, door):
    answer = door("eva@example.com", "Contraseña2024")
    assert answer.status_code in (200, 400)
    assert not User.objects.exists()


@pytest.mark.parametrize("language", ["es", "en", "pt-br"])
def test_the_refusal_says_what_to_do(ana, language):
    User.objects.filter(pk=ana.pk).update(locale=language)
    browser = Client()
    browser.force_login(ana)
    fields = {"oldpassword": PASSWORD, "password1": "Contraseña2024", "password2": "Contraseña2024"}
    said = {"es": "cuatro palabras al azar", "en": "four words at random", "pt-br": "quatro palavras ao acaso"}
    assert said[language] in browser.post("/accounts/password/change/", fields).text
