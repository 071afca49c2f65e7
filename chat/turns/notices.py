"""Low-rate notices to every open tab of a person, over the channel layer. Tokens never go this way, nor does anything
that must be told.

The layer drops messages silently when it is full or down: what a notice says is seen on the next page or turn anyway.
"""

import logging
from typing import Any

from channels.layers import get_channel_layer
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

TRIES = 2
"""The first one after a restart of Redis fails: its connection was cut, and the layer does not look."""


def notice_group(user_id: int) -> str:
    return f"user.{user_id}"


async def send_notice(user_id: int, event: str, **fields: Any) -> None:
    """Send `event` to the person's tabs: to the method `notice_<event>` of their consumers."""
    layer = get_channel_layer()
    assert layer is not None
    for _ in range(TRIES):
        try:
            await layer.group_send(notice_group(user_id), {"type": f"notice.{event}", **fields})
            return
        except (RedisError, OSError):
            pass
    logger.warning("Notice not sent", extra={"event": event})
