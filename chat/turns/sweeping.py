"""What beat repairs every 15 seconds: lost queue entries, turns without a runner, reservations that were not settled.

It also checks what providers take against their limits. Every step is one of the conditional writes that turns use
themselves, so a sweep may run twice, or at the same time as anything else. What breaks at one turn is logged, and the
next one is looked at.
"""

import datetime as dt
import logging
from collections.abc import AsyncGenerator, Iterator
from uuid import UUID

from django.conf import settings
from redis.asyncio import Redis

from billing import metering
from billing.spending import end_forgotten_work
from chat.llm import spending
from chat.turns.closing import close_queued, settle_turn
from chat.turns.ending import announce_end
from chat.turns.erasure import erase_if_stray, finish_erasures, finish_trashing
from chat.turns.known_turns import HELD_GRACE
from chat.turns.leases import find_holders, find_holders_sync
from chat.turns.queue import enqueue, queued_key
from chat.turns.rescue import close_without_runner, lost_outcome, outcome_from_log, read_remains
from core.redis_clients import async_redis, sync_redis
from core.sweeps import MAX_CLOCK_DIFFERENCE, guard
from core.threads import in_thread
from history import progress
from history.models import Turn

logger = logging.getLogger(__name__)

QUEUED_GRACE = dt.timedelta(seconds=5) + MAX_CLOCK_DIFFERENCE
"""A queued turn younger than this may still be on its way into the queue."""
FORGOTTEN_AFTER = dt.timedelta(seconds=60)
"""The site's own requests to a provider, such as those for titles, are over by then."""
ORPHAN_SECONDS = 12
"""How long a streaming turn may be without a lease: runners, which look every 5 seconds, come first."""
ORPHAN_MARK_MS = 86_400_000
"""How long the mark of a turn without a lease lives. How much of that is over says when it was made, by Redis's clock.
"""


async def repair_turns() -> None:
    """Do one pass of repairs."""
    redis = async_redis()
    with guard("trash"):
        await in_thread(finish_trashing)
    with guard("queued turns"):
        async for page in _in_threads(progress.iterate_queued(older_than=QUEUED_GRACE)):
            for turn in page:
                with guard("queued turn", turn_id=turn.pk):
                    await _sweep_queued(redis, turn)
    with guard("streaming turns"):
        async for page in _in_threads(progress.iterate_streaming()):
            await _sweep_streaming(redis, page)
    with guard("temporary turns"):
        async for page in _in_threads(_iterate_temporary()):
            await _sweep_temporary(redis, page)
    with guard("reservations"):
        await in_thread(settle_unsettled)
    with guard("deletions"):
        await in_thread(finish_erasures)
    with guard("titles"):
        await in_thread(end_forgotten_work, older_than=FORGOTTEN_AFTER)
    with guard("limits"):
        await in_thread(spending.alert_near_limits)


def settle_unsettled() -> None:
    """Settle or release what is still held for a turn that is over, or that was never written."""
    for keys in metering.iterate_held(older_than=HELD_GRACE):
        turns = progress.find_turns(keys)
        for turn in turns.values():
            if not turn.is_open:
                with guard("unsettled turn", turn_id=turn.pk):
                    settle_turn(turn, turn)
        with guard("reservations without a turn"):
            _release_unused([key for key in keys if key not in turns])


def _release_unused(keys: list[UUID]) -> None:
    """Release reservations whose turn is not there; its runner settles one it writes."""
    holders = find_holders_sync(sync_redis(), keys)
    for key in keys:
        if key not in holders:
            with guard("reservation", turn_id=key):
                metering.release(key)


def _iterate_temporary() -> Iterator[list[Turn]]:
    """Yield the open turns of temporary conversations, a page at a time: their reservations are the only rows of
    them."""
    for keys in metering.iterate_held(older_than=QUEUED_GRACE):
        if found := progress.list_open_temporary(keys):
            yield found


async def _in_threads(pages: Iterator[list[Turn]]) -> AsyncGenerator[list[Turn]]:
    """Yield the pages, each read in a thread."""
    while page := await in_thread(_next_page, pages):
        yield page


def _next_page(pages: Iterator[list[Turn]]) -> list[Turn]:
    return next(pages, [])


async def _sweep_queued(redis: Redis, turn: Turn) -> None:
    is_lost = not await redis.exists(queued_key(turn.pk))
    if is_lost and await in_thread(erase_if_stray, turn):
        return
    age = (dt.datetime.now(dt.UTC) - turn.created_at).total_seconds()
    if age > settings.QUEUE_SECONDS:
        if await in_thread(close_queued, turn, status=Turn.Status.FAILED, error="queue_timeout"):
            await announce_end(redis, turn)
    elif is_lost:
        await _enqueue_again(turn)


async def _enqueue_again(turn: Turn) -> None:
    logger.warning("Turn queued again", extra={"turn_id": turn.pk})
    await in_thread(enqueue, turn)


async def _sweep_temporary(redis: Redis, turns: list[Turn]) -> None:
    for turn in turns:
        if turn.status == Turn.Status.QUEUED:
            with guard("queued turn", turn_id=turn.pk):
                await _sweep_queued(redis, turn)
    await _sweep_streaming(redis, [turn for turn in turns if turn.status == Turn.Status.STREAMING])


async def _sweep_streaming(redis: Redis, turns: list[Turn]) -> None:
    """Look at turns that are being written, which those with a lease are."""
    holders = await find_holders(redis, [turn.pk for turn in turns])
    if holders:
        await redis.delete(*map(_orphan_mark, holders))
    for turn in turns:
        if turn.pk not in holders:
            with guard("streaming turn", turn_id=turn.pk):
                await _sweep_orphan(redis, turn)


async def _sweep_orphan(redis: Redis, turn: Turn) -> None:
    """End a turn that has been without a lease for long, counted from the first sweep that saw it so.

    One that showed nothing is run again, up to MAX_GENERATIONS times, and while there are runners.
    """
    orphaned_seconds = await _mark_orphan(redis, turn.pk)
    if orphaned_seconds < ORPHAN_SECONDS:
        return
    remains = await read_remains(redis, turn.pk)
    outcome = await in_thread(outcome_from_log, turn, remains)
    if outcome is None and orphaned_seconds > settings.QUEUE_SECONDS:
        outcome = lost_outcome(turn, remains)
    if outcome is None:
        if not await redis.exists(queued_key(turn.pk)):
            await _enqueue_again(turn)
        return
    logger.warning("Turn without a runner closed", extra={"turn_id": turn.pk})
    await close_without_runner(redis, turn, outcome, closer="sweep")


async def _mark_orphan(redis: Redis, turn_id: UUID) -> float:
    """Mark that the turn has no lease, if it is not marked; return how many seconds ago it was."""
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.set(_orphan_mark(turn_id), b"1", nx=True, px=ORPHAN_MARK_MS)
        pipeline.pttl(_orphan_mark(turn_id))
        _set, left_ms = await pipeline.execute()
    if left_ms < 0:  # without an end: it is none of ours
        await redis.delete(_orphan_mark(turn_id))
        return 0
    return (ORPHAN_MARK_MS - int(left_ms)) / 1_000


def _orphan_mark(turn_id: UUID) -> str:
    return f"turn:{turn_id}:orphan"
