"""Low-rate notices to every open tab of a person, over the channel layer. Tokens never go this way.

The layer drops messages silently when full or down: whoever is told nothing sees it on the next page or turn.
"""

import logging
from typing import Any

from channels.layers import get_channel_layer
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)


def group_of(user_id: int) -> str:
    return f"user.{user_id}"


async def tell(user_id: int, event: str, **fields: Any) -> None:
    """Send `event` to the person's tabs; consumers answer it in their method `notice_<event>`."""
    layer = get_channel_layer()
    assert layer is not None
    try:
        await layer.group_send(group_of(user_id), {"type": f"notice.{event}", **fields})
    except (RedisError, OSError):
        logger.warning("Notice not sent", extra={"event": event})
