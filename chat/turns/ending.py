"""The end of a turn's log: its readers and its owner's open pages learn that the turn is saved.

Everything the turn had on Redis goes with it: its lease, its mark, who has it on board, what was sent for it, what a
program asked with it, and its queue entry.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from uuid import UUID

from redis import Redis as SyncRedis
from redis.asyncio import Redis

from chat.turns.answer_cache import CacheWrite
from chat.turns.asked import asked_key
from chat.turns.dialogues import written_answer
from chat.turns.leases import lease_key
from chat.turns.log import WAKE_UPS, Entry, EntryKind, encode_entry, log_key
from chat.turns.presence import aboard_key
from chat.turns.queue import GROUP, QUEUE, queued_key
from chat.turns.sent_requests import sent_key
from core.lua import LuaScript, Value
from core.sweeps import in_portions
from history.models import Turn

KEPT_AFTER_END_SECONDS = 60
"""How long a log can be read after its end."""

_END_TURN = LuaScript(Path(__file__).with_name("end_turn.lua"))


async def announce_end(
    redis: Redis, turn: Turn, *, holder: str = "", queue_entry: bytes = b"", cache_write: CacheWrite | None = None
) -> None:
    """End the log of a turn that is saved. May be repeated."""
    await end_log(
        redis,
        turn.pk,
        gen=turn.gen,
        owner_id=turn.owner_id,
        characters=len(written_answer(turn)) + len(turn.tool_calls or ""),
        holder=holder,
        queue_entry=queue_entry,
        cache_write=cache_write,
    )


async def end_log(
    redis: Redis,
    turn_id: UUID,
    *,
    gen: int,
    owner_id: int | None = None,
    characters: int = 0,
    holder: str = "",
    queue_entry: bytes = b"",
    cache_write: CacheWrite | None = None,
) -> None:
    """End a log; without an owner, of a turn that was erased. May be repeated.

    `characters` is the length of the saved answer, with the tools that it calls: a reader that has less knows that
    something is missing.
    """
    end = Entry(turn_id.bytes, EntryKind.END, gen, characters, "" if owner_id is None else str(owner_id))
    cache: dict[str, Value] = {}
    if cache_write is not None:
        cache = {
            "cache": cache_write.answers_key,
            "cache_version": cache_write.version_key,
            "cache_field": cache_write.field,
            "cache_value": cache_write.value,
            "cache_seconds": cache_write.seconds,
            "cache_version_read": cache_write.version_read,
            "max_cached": cache_write.max_answers,
        }
    await _END_TURN(
        redis,
        lease=lease_key(turn_id),
        log=log_key(turn_id),
        queue=QUEUE,
        mark=queued_key(turn_id),
        aboard=aboard_key(turn_id),
        sent=sent_key(turn_id),
        asked=asked_key(turn_id),
        holder=holder,
        end_entry=encode_entry(end),
        log_seconds=KEPT_AFTER_END_SECONDS,
        group=GROUP,
        queue_entry=queue_entry,
        channel=WAKE_UPS,
        **cache,
    )


def erase_logs(redis: SyncRedis, turn_ids: Sequence[UUID]) -> None:
    """Take the text out of the logs of turns that are about to be erased, and end them. May be repeated."""
    for some in in_portions(turn_ids):
        with redis.pipeline(transaction=False) as pipeline:
            for turn_id in some:
                pipeline.unlink(log_key(turn_id))
            had_log = pipeline.execute()
        end_erased(redis, (turn_id for turn_id, had in zip(some, had_log, strict=True) if had))


def end_erased(redis: SyncRedis, turn_ids: Iterable[UUID]) -> None:
    """End the logs of turns that nobody finds any more, or that are about to be erased: nothing of them is missing to
    anybody."""
    for turn_id in turn_ids:
        _END_TURN(
            redis,
            lease=lease_key(turn_id),
            log=log_key(turn_id),
            queue=QUEUE,
            mark=queued_key(turn_id),
            aboard=aboard_key(turn_id),
            sent=sent_key(turn_id),
            asked=asked_key(turn_id),
            holder="",
            end_entry=encode_entry(Entry(turn_id.bytes, EntryKind.END, 0)),
            log_seconds=KEPT_AFTER_END_SECONDS,
            group=GROUP,
            queue_entry=b"",
            channel=WAKE_UPS,
        )
