"""Notices to every open tab of a person that a conversation has changed, over the channel layer. Tokens never go this
way, nor does anything that must be told: what a notice says is seen on the next page or turn anyway.

A web process has one channel, however many sockets it has: the layer makes two subscriptions for each channel, one
after the other, and leaves some behind where many end at once.
"""

import asyncio
import logging
from contextlib import suppress
from contextvars import Context
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from redis.exceptions import RedisError

from chat.turns.log import Entry, EntryKind
from chat.turns.watching import hub
from core.loops import PerLoop

logger = logging.getLogger(__name__)

GROUP = "notices"
WHOLE_LIST = UUID(int=0)
"""Instead of a conversation: the list has changed in more than one place, or a folder has."""
RETRY_SECONDS = 1.0
TRIES = 2
"""The first one after a restart of Redis fails: its connection was cut, and the layer does not look."""


def send_notice(owner_id: int, conversation_id: UUID) -> None:
    """Tell the person's tabs that the conversation has another title or place, or is gone. Sync; a notice may get
    lost."""
    message = {"type": "conversation.changed", "owner_id": owner_id, "conversation_id": str(conversation_id)}
    for _ in range(TRIES):
        try:
            async_to_sync(_layer().group_send)(GROUP, message)
            return
        except (RedisError, OSError):
            pass
    logger.warning("Notice not sent", extra={"conversation_id": conversation_id})


async def receive_notices() -> None:
    """Pass what is sent on to the listeners of this loop's hub, from now on, or as soon as Redis is there."""
    receiver = _receivers.get()
    with suppress(TimeoutError):
        async with asyncio.timeout(RETRY_SECONDS):
            await receiver.is_in_group.wait()


class _Receiver:
    """This loop's channel, read for as long as the loop runs."""

    def __init__(self) -> None:
        self.is_in_group = asyncio.Event()
        self.task = asyncio.create_task(self._receive(), context=Context())

    async def _receive(self) -> None:
        channel = ""
        while True:
            try:
                channel = channel or await _layer().new_channel()
                await _layer().group_add(GROUP, channel)  # again after each failure: Redis may have forgotten it
                self.is_in_group.set()
                while True:
                    hub().tell(_entry_of(await _layer().receive(channel)))
            except Exception as error:
                is_away = isinstance(error, RedisError | OSError)
                logger.warning("Notices are not received", exc_info=not is_away, extra={"error": type(error).__name__})
                await asyncio.sleep(RETRY_SECONDS)


_receivers = PerLoop(_Receiver)


def _entry_of(message: dict[str, Any]) -> Entry:
    conversation_id = UUID(message["conversation_id"])
    return Entry(conversation_id.bytes, EntryKind.CHANGED, 0, text=str(message["owner_id"]))


def _layer() -> Any:
    return get_channel_layer()
