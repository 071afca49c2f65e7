"""Celery tasks of the history."""

from celery import shared_task

from history import share_erasure


@shared_task(expires=50)
def sweep_shares() -> None:
    """Erase shares that have expired, and what is left of those that somebody died on. Runs once a minute."""
    share_erasure.repair_shares()
