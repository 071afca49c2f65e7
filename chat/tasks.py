"""Celery tasks of the chat; `chat.attachments.reading` has one more."""

import asyncio

from celery import shared_task

from chat.attachments import sweeping as attachments
from chat.turns.connections import close_async_redis
from chat.turns.sweeping import sweep


@shared_task(expires=15)
def sweep_turns() -> None:
    """Repair turns and reservations that somebody died on. Runs every 15 seconds."""
    asyncio.run(_sweep())


@shared_task(expires=30)
def sweep_attachments() -> None:
    """Repair and erase attachments. Runs every 30 seconds."""
    attachments.sweep()


async def _sweep() -> None:
    try:
        await sweep()
    finally:
        await close_async_redis()
