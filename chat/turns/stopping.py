"""Stop a turn: what was shown is kept and paid for, the rest is never asked for."""

from redis.exceptions import RedisError

from accounts.keys import list_keys
from accounts.models import User
from billing import metering
from chat.turns.closing import close_queued
from chat.turns.ending import announce_end
from chat.turns.erasure import ask_for_stop
from chat.turns.leases import request_stop
from core.errors import Unavailable
from core.redis_clients import async_redis
from core.threads import in_thread
from history import progress
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


def stop_what_nobody_may_ask(user_id: int) -> None:
    """Stop what a person's revoked keys have asked, and all they have asked where they are suspended: nothing more of
    it is paid. What was asked by a log-in that is over goes on: its owner finds it. Raises RedisError."""
    held = metering.list_held_of(user_id)
    if not held:
        return
    if User.objects.filter(pk=user_id, is_active=True).exists():
        live = {"", *(str(key.pk) for key in list_keys(user_id))}
        held = {turn_id: key for turn_id, key in held.items() if key not in live}
    ask_for_stop([turn for turn in progress.find_turns(list(held)).values() if turn.is_open])
