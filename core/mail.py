"""Sends mail: by a Celery task, or here where there is none to send it."""

import smtplib

from celery import shared_task
from django.conf import settings
from django.core.mail import EmailMessage
from kombu.exceptions import OperationalError


@shared_task(autoretry_for=(OSError, smtplib.SMTPException), retry_backoff=10, retry_backoff_max=600, max_retries=10)
def send_mail(subject: str, body: str, to: list[str]) -> None:
    """Send one plain-text mail; while the mail server is away, try again for about an hour."""
    EmailMessage(subject, body, settings.DEFAULT_FROM_EMAIL, to).send()


def send_or_queue(message: EmailMessage) -> None:
    """Have a worker send a mail, so that no page waits for the server."""
    if not settings.HAS_MAIL_SERVER:
        message.send()
        return
    try:
        send_mail.delay(subject=str(message.subject), body=str(message.body), to=list(message.to))
    except OperationalError:  # the broker cannot be reached: send it here, even if the page has to wait
        message.send(fail_silently=True)
