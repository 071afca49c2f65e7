"""Celery tasks of the history; those that import and export are in `history.transfer`."""

from celery import shared_task

from history import share_erasure
from history.transfer.sweeping import repair_transfers


@shared_task(expires=50)
def sweep_shares() -> None:
    """Erase shares that have expired, and what is left of those that somebody died on. Runs once a minute."""
    share_erasure.repair_shares()


@shared_task(expires=30)
def sweep_transfers() -> None:
    """Repair and erase imports and exports. Runs every 30 seconds."""
    repair_transfers()
