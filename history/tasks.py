"""Celery tasks of the history; those that import and export are in `history.transfer`."""

from threading import BoundedSemaphore

from celery import shared_task

from core.long_work import take_place
from history import embeddings, share_erasure
from history.transfer.sweeping import repair_transfers


@shared_task(expires=50)
def sweep_shares() -> None:
    """Erase shares that have expired, and what is left of those that somebody died on. Runs once a minute."""
    share_erasure.repair_shares()


@shared_task(expires=30)
def sweep_transfers() -> None:
    """Repair and erase imports and exports. Runs every 30 seconds."""
    repair_transfers()


_embedding = BoundedSemaphore(1)
EMBEDDING_SECONDS = 40.0


@shared_task(expires=50)
def embed_turns() -> None:
    """Embed turns that are not yet, if the operator wants search by meaning. Runs once a minute."""
    if not embeddings.is_on():
        return
    with take_place(_embedding) as is_free:
        if is_free:
            embeddings.embed_missing(EMBEDDING_SECONDS)
