"""Services of others: mail and providers."""

import asyncio
from collections.abc import Iterator

from django.conf import settings
from django.core.mail import get_connection

from chat.llm.health.probes import ask_providers
from chat.llm.providers import list_providers
from chat.llm.providers.errors import TimedOut
from config.doctor.findings import Finding, either, fail, ok


def examine_mail() -> Iterator[Finding]:
    if not settings.HAS_MAIL_SERVER:
        return  # the checks say so
    connection = get_connection()
    try:
        connection.open()
        connection.close()
    except OSError as error:  # those of SMTP are of this kind, too
        yield fail(
            "mail server",
            f"It does not take us ({type(error).__name__}): nobody can sign up or reset a password.",
            "Look at EMAIL_URL: the host, the port with its kind of TLS, user and password.",
        )
        return
    yield ok("mail server", "lets us in")


def examine_providers() -> Iterator[Finding]:
    providers = list_providers()
    yield either(
        providers,
        ok("providers", ", ".join(sorted(providers))),
        fail("providers", "None has a key: no question is answered.", "Set one, such as OPENAI_API_KEY."),
    )
    found = asyncio.run(ask_providers())
    if any(TimedOut.code in keys.values() for keys in found.values()):  # their libraries take seconds to load
        found = asyncio.run(ask_providers())
    for provider, keys in found.items():
        codes = list(keys.values())
        wrong = sorted({code for code in codes if code})
        yield either(
            not wrong,
            ok(f"provider {provider}", f"{len(codes)} keys are good"),
            fail(
                f"provider {provider}",
                f"Of {len(codes)} keys {sum(map(bool, codes))} do not work: {', '.join(wrong)}.",
                "Look at the key in .env, at the bill there, and whether this machine reaches the provider.",
            ),
        )
