"""Stop a turn: what was shown is kept and paid for, the rest is never asked for."""

from redis.exceptions import RedisError

from chat.turns.closing import close_queued
from chat.turns.ending import announce_end
from chat.turns.leases import request_stop
from core.errors import Unavailable
from core.redis_clients import async_redis
from core.threads import in_thread
from history.models import Turn


async def stop_turn(turn: Turn) -> None:
    """Ask the runner to stop; a turn no runner has claimed is closed here. Stopping a finished turn changes nothing.

    The request comes first: a runner that claims the turn meanwhile finds it.
    """
    if not turn.is_open:
        return
    try:
        await request_stop(async_redis(), turn.pk)
        if await in_thread(close_queued, turn, status=Turn.Status.STOPPED):
            await announce_end(async_redis(), turn)
    except (RedisError, OSError) as error:
        raise Unavailable(retry_after=5) from error
