"""Catches mail while there is no mail server, in DEBUG only: it is kept in a folder, printed, and shown at `/mail/`
to this machine."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage as DjangoMessage
from django.core.mail.backends.console import EmailBackend
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from config.private_files import create_private
from core.loopback import comes_from_this_machine

MAX_MAILS = 100


class CaughtMail(EmailBackend):
    def send_messages(self, email_messages: Sequence[DjangoMessage]) -> int:
        folder: Path = settings.MAIL_DIR
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for message in email_messages:
            create_private(folder / f"{time.time_ns()}.eml").write_bytes(message.message().as_bytes())
        for old in list_files()[MAX_MAILS:]:
            old.unlink(missing_ok=True)
        return super().send_messages(email_messages) or 0


def list_files() -> list[Path]:
    """Return the files of the mails that were caught, the newest first."""
    return sorted(settings.MAIL_DIR.glob("*.eml"), reverse=True)


@require_safe
def caught(request: HttpRequest) -> HttpResponse:
    """The mails that were caught, for whoever tries the site on their own machine, and nobody else: their links reset
    passwords."""
    if not comes_from_this_machine(request):
        raise Http404
    return render(request, "pages/mail.html", {"mails": [read_mail(path) for path in list_files()]})


def read_mail(path: Path) -> dict[str, Any]:
    message = message_from_bytes(path.read_bytes(), _class=EmailMessage, policy=policy.default)
    body = message.get_body(("plain",))
    return {
        "subject": message["Subject"],
        "to": message["To"],
        "caught_at": datetime.fromtimestamp(int(path.stem) / 1e9, UTC),
        "body": body.get_content() if body else "",
    }
