"""Proves that what a runner writes comes to a reader of this process: by the log, the channel and the subscription by
which the text of every turn comes."""

import asyncio
from uuid import uuid4

from chat.turns.ending import end_log
from chat.turns.log import log_key
from chat.turns.watching import hub
from core.redis_clients import async_redis

DELIVERY_SECONDS = 2.0
"""How long a word may take. Readers wait for as long as it takes; monitors do not."""


class NotDelivered(Exception):
    """Nothing came within DELIVERY_SECONDS, or this process has no subscription."""


async def prove_delivery() -> None:
    """Write the end of a turn that never was, and read it as its reader would. Raises NotDelivered and RedisError."""
    turn_id = uuid4()
    watcher = await hub().add_new(turn_id)
    try:
        if watcher.has_gap:
            raise NotDelivered
        async with asyncio.timeout(DELIVERY_SECONDS):
            await end_log(async_redis(), turn_id, gen=0)
            while not watcher.is_ended:
                await watcher.wait()
                if watcher.has_gap:
                    raise NotDelivered
        await async_redis().unlink(log_key(turn_id))
    except TimeoutError as error:
        raise NotDelivered from error
    finally:
        hub().remove(watcher)
