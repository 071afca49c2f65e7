"""What beat repairs every 15 seconds: lost queue entries, turns without a runner, reservations that were not settled.

It also checks what providers take against their limits. Every step is one of the conditional writes that turns use
themselves, so a sweep may run twice, or at the same time as anything else.
"""

import datetime as dt
import logging

from django.conf import settings
from redis.asyncio import Redis

from billing import metering
from chat.llm import spending
from chat.turns.closing import close_queued, settle_turn
from chat.turns.ending import announce_end
from chat.turns.erasure import erase_if_orphan, finish_erasures
from chat.turns.leases import has_lease
from chat.turns.log import replay_log
from chat.turns.queue import enqueue, queued_key
from chat.turns.rescue import close_without_runner, outcome_from_log
from core.redis_clients import async_redis
from core.threads import in_thread
from history import progress
from history.models import Turn
from history.progress import Outcome

logger = logging.getLogger(__name__)

QUEUED_GRACE = dt.timedelta(seconds=10)
"""A queued turn younger than this may still be on its way into the queue."""
ORPHAN_SECONDS = 12
"""How long a streaming turn may be without a lease: runners, which look every 5 seconds, come first."""
HELD_GRACE = dt.timedelta(seconds=45)
"""A reservation younger than this may belong to a request that is still writing its turn."""


async def repair_turns() -> None:
    """Do one pass of repairs."""
    redis = async_redis()
    for turn in await in_thread(progress.list_open, Turn.Status.QUEUED, older_than=QUEUED_GRACE):
        await _sweep_queued(redis, turn)
    for turn in await in_thread(progress.list_open, Turn.Status.STREAMING, older_than=dt.timedelta(0)):
        await _sweep_streaming(redis, turn)
    await in_thread(settle_unsettled)
    await in_thread(finish_erasures)
    await in_thread(spending.alert_near_limits)


def settle_unsettled() -> None:
    """Settle or release what is still held for a turn that is over, or that was never written."""
    keys = metering.list_held(older_than=HELD_GRACE)
    turns = progress.find_turns(keys)
    for key in keys:
        turn = turns.get(key)
        if turn is None:
            metering.release(key)
        elif not turn.is_open:
            settle_turn(turn, turn)


async def _sweep_queued(redis: Redis, turn: Turn) -> None:
    is_lost = not await redis.exists(queued_key(turn.pk))
    if is_lost and await in_thread(erase_if_orphan, turn):
        return
    age = (dt.datetime.now(dt.UTC) - turn.created_at).total_seconds()
    if age > settings.QUEUE_SECONDS:
        if await in_thread(close_queued, turn, status=Turn.Status.FAILED, error="queue_timeout"):
            await announce_end(redis, turn)
    elif is_lost:
        logger.warning("Turn queued again", extra={"turn_id": turn.pk})
        await in_thread(enqueue, turn)


async def _sweep_streaming(redis: Redis, turn: Turn) -> None:
    """Close a turn that has been without a lease for long, counted from the first sweep that saw it so."""
    mark = f"turn:{turn.pk}:orphan"
    if await has_lease(redis, turn.pk):
        await redis.delete(mark)
        return
    now = dt.datetime.now(dt.UTC).timestamp()
    await redis.set(mark, str(now), nx=True, ex=600)
    if now - float(await redis.get(mark) or now) < ORPHAN_SECONDS:
        return
    logger.warning("Turn without a runner closed", extra={"turn_id": turn.pk})
    outcome = await in_thread(outcome_from_log, turn, await replay_log(redis, turn.pk))
    outcome = outcome or Outcome(Turn.Status.INTERRUPTED, error="runner_lost")
    await close_without_runner(redis, turn, outcome, closer="sweep")
