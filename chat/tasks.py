"""Celery tasks of the chat; `read_attachment` is in `chat.attachments.reading`, those that move batches on in
`chat.batches`."""

import asyncio
import random

from celery import shared_task

from chat.attachments import sweeping as attachments
from chat.batches.sweeping import repair_batches
from chat.llm.health.probes import probe_providers
from chat.turns import retention
from chat.turns.sweeping import repair_turns
from core.redis_clients import close_async_redis, sync_redis
from core.sweeps import note_sweep

PROBE_LOCK_SECONDS = 45
PROBE_JITTER_SECONDS = 2.0


@shared_task(expires=15)
def sweep_turns() -> None:
    """Repair turns and reservations that somebody died on. Runs every 15 seconds."""
    asyncio.run(_sweep())
    note_sweep(sync_redis())


@shared_task(expires=50)
def probe() -> None:
    """Ask the providers for their models. Runs about once a minute, in one process at a time."""
    if sync_redis().set("health:probing", b"1", nx=True, ex=PROBE_LOCK_SECONDS):
        asyncio.run(_probe())


@shared_task(expires=30)
def sweep_attachments() -> None:
    """Repair and erase attachments. Runs every 30 seconds."""
    attachments.repair_attachments()


@shared_task(expires=50)
def sweep_batches() -> None:
    """Erase batches that are over for long, and what is left of others. Runs every minute."""
    repair_batches()


@shared_task(expires=55)
def sweep_history() -> None:
    """Tell people what of their history is to go, and put it into the trash when its time has come. Runs every
    minute."""
    retention.look_at_due()


async def _sweep() -> None:
    try:
        await repair_turns()
    finally:
        await close_async_redis()


async def _probe() -> None:
    await asyncio.sleep(random.uniform(0, PROBE_JITTER_SECONDS))  # noqa: S311  jitter
    await probe_providers()
