"""System checks of our own settings, for `manage.py check --deploy`."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, Warning, register


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
