"""Celery tasks of the accounts."""

from celery import shared_task

from accounts.tokens import remove_expired_families


@shared_task(expires=600)
def remove_expired_tokens() -> None:
    """Remove what nobody can use any more. Runs every hour."""
    remove_expired_families()
