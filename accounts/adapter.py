"""Adapts allauth: its error messages, and the way it sends mail."""

from typing import Any, ClassVar

from allauth.account.adapter import DefaultAccountAdapter
from django.conf import settings
from django.core.mail import EmailMessage
from django.utils.translation import gettext_lazy as _
from kombu.exceptions import OperationalError

from core import mail


class AccountAdapter(DefaultAccountAdapter):
    error_messages: ClassVar[dict[str, Any]] = {
        **DefaultAccountAdapter.error_messages,
        "account_inactive": _("This account is suspended."),
        "duplicate_email": _("That is your address already."),
        "email_password_mismatch": _("Address and password do not belong together. Check both, or reset the password."),
        "email_taken": _("That address has an account."),
        "enter_current_password": _("Please write the password you have now."),
        "incorrect_password": _("That is not your password."),
        "invalid_password_reset": _("This link does not work any more. Ask for a new one."),
        "rate_limited": _("Too many requests. Please wait a moment."),
        "same_as_current": _("That is the one you have already."),
        "too_many_login_attempts": _("Too many attempts. Please wait a few minutes, or reset the password."),
        "unknown_email": _("No account has that address."),
    }

    def format_email_subject(self, subject: str) -> str:
        return subject

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """Render the mail now, in the request's language; a worker sends it, so that no page waits for the server."""
        context = {**context, "email": email, "site_name": settings.SITE_NAME}
        send_or_queue(self.render_mail(template_prefix, email, context))


def send_or_queue(message: EmailMessage) -> None:
    if not settings.HAS_MAIL_SERVER:
        message.send()
        return
    try:
        mail.send_mail.delay(subject=str(message.subject), body=str(message.body), to=list(message.to))
    except OperationalError:  # the broker cannot be reached: send it here, even if the page has to wait
        message.send(fail_silently=True)
