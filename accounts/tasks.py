"""Celery tasks of the accounts."""

from celery import shared_task

from accounts.leaving import finish_leaving
from accounts.tokens import remove_expired_families


@shared_task(expires=600)
def remove_expired_tokens() -> None:
    """Remove what nobody can use any more. Runs every hour."""
    remove_expired_families()


@shared_task(expires=50)
def sweep_leaving() -> None:
    """Delete whose account was to be closed by now. Runs once a minute."""
    finish_leaving()
