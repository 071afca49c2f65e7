"""The Celery task that sends mail."""

import smtplib

from celery import shared_task
from django.conf import settings
from django.core.mail import EmailMessage


@shared_task(autoretry_for=(OSError, smtplib.SMTPException), retry_backoff=10, retry_backoff_max=600, max_retries=10)
def send_mail(subject: str, body: str, to: list[str]) -> None:
    """Send one plain-text mail; while the mail server is away, try again for about an hour."""
    EmailMessage(subject, body, settings.DEFAULT_FROM_EMAIL, to).send()
