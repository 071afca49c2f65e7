"""Notices to every open tab of a person that a conversation has changed. They come over the wake-ups, like the text.

Nothing relies on one: what it says is seen on the next page or turn anyway.
"""

import logging
from uuid import UUID

from redis.exceptions import RedisError

from chat.turns.log import WAKE_UPS, Entry, EntryKind, encode_entries
from core.redis_clients import sync_redis

logger = logging.getLogger(__name__)


def send_notice(owner_id: int, conversation_id: UUID) -> None:
    """Tell the person's tabs that the conversation has another title, or is gone. Sync; a notice may get lost."""
    entry = Entry(conversation_id.bytes, EntryKind.CHANGED, 0, text=str(owner_id))
    try:
        sync_redis().publish(WAKE_UPS, encode_entries([entry]))
    except (RedisError, OSError):
        logger.warning("Notice not sent", extra={"conversation_id": conversation_id})
