"""How allauth creates our users and sends their mail."""

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from django.conf import settings
from django.core.mail import EmailMessage
from kombu.exceptions import OperationalError

from accounts import tasks


class AccountAdapter(DefaultAccountAdapter):
    def format_email_subject(self, subject: str) -> str:
        return subject

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """Render the mail in the reader's language now; a worker sends it, so that no page waits for a mail server."""
        context = {**context, "email": email, "site_name": settings.SITE_NAME}
        send(self.render_mail(template_prefix, email, context))


def send(message: EmailMessage) -> None:
    if not settings.HAS_MAIL_SERVER:
        message.send()
        return
    try:
        tasks.send_mail.delay(subject=str(message.subject), body=str(message.body), to=list(message.to))
    except OperationalError:  # no broker: better late than never
        message.send(fail_silently=True)
