"""What a program asks over the OpenAI-compatible API: the whole conversation, and what it says of the answer it wants.

It is kept in Redis alone, under the turn, until the turn has ended.
"""

from pathlib import Path
from uuid import UUID

import msgspec

from billing.errors import TooManyAtOnce
from chat.errors import AskedLost
from chat.llm.providers.base import AnswerOptions, Message
from core.lua import LuaScript
from core.redis_clients import sync_redis

KEPT_SECONDS = 3_600
"""For how long it is kept if nobody ends the turn. A turn is over long before."""
MAX_BYTES = 64 * 2**20
"""How much one person's programs may be asking at once: Redis evicts nothing."""

_KEEP = LuaScript(Path(__file__).with_name("keep_asked.lua"))


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """Messages, the oldest first, and options."""

    messages: tuple[Message, ...]
    options: AnswerOptions

    @property
    def question(self) -> str:
        """The last text of a user: what Auto judges."""
        texts = (message.text for message in reversed(self.messages) if message.role == "user" and message.text)
        return next(texts, "")

    @property
    def beginning(self) -> str:
        """What stays the same while a conversation grows: all up to the first message of a user."""
        texts = []
        for message in self.messages:
            texts.append(message.text)
            if message.role == "user":
                break
        return "\n".join(texts)

    @property
    def has_images(self) -> bool:
        return any(message.files for message in self.messages)


def asked_key(turn_id: UUID) -> str:
    return f"turn:{turn_id}:asked"


def asked_of_key(owner_id: int) -> str:
    """The keys of what a person's programs are asking."""
    return f"asked:of:{owner_id}"


def keep_asked(owner_id: int, turn_id: UUID, asked: Asked) -> None:
    """Keep what is asked, until its turn has ended. Raises TooManyAtOnce where its owner's programs are asking too much
    at this moment, and RedisError."""
    value = _encode(asked)
    is_kept = _KEEP(
        sync_redis(),
        asked=asked_key(turn_id),
        of_owner=asked_of_key(owner_id),
        value=value,
        kept_seconds=KEPT_SECONDS,
        most_bytes=MAX_BYTES,
    )
    if not is_kept:
        raise TooManyAtOnce(retry_after=2)


def forget_asked(turn_id: UUID) -> None:
    """Drop what was kept for a turn that was not written after all. Raises RedisError."""
    sync_redis().unlink(asked_key(turn_id))


def read_asked(turn_id: UUID) -> Asked:
    """Return what is asked with an open turn; raises AskedLost where Redis has lost it, and RedisError."""
    value = sync_redis().get(asked_key(turn_id))
    if not isinstance(value, bytes):
        raise AskedLost
    try:
        return _decode(value)
    except msgspec.MsgspecError as error:
        raise AskedLost from error


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Asked).decode
