"""Celery tasks of the history; those that import and export are in `history.transfer`."""

from celery import shared_task

from history.transfer.sweeping import repair_transfers


@shared_task(expires=30)
def sweep_transfers() -> None:
    """Repair and erase imports and exports. Runs every 30 seconds."""
    repair_transfers()
