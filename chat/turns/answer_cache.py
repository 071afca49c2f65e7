"""Answers that were given before: exactly the same prompt, sent for the same person, is answered without asking anybody.

A person's answers are one hash on Redis, so that they can be forgotten in one step: by who erases a conversation, or is
suspended or erased. What is looked up comes with the turn's lease, what is kept goes with its end (chat/turns/log.py):
a miss costs no round trip. Only the first candidate is looked up. Another's answer may be there from an hour when the
first was away, and is not what asking now would give.
"""

import logging
import time
import unicodedata
import zlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from hashlib import sha256
from math import ceil
from typing import Any

import msgspec
from django.conf import settings
from django.utils.crypto import salted_hmac
from redis.exceptions import RedisError

from chat.llm.catalog import Candidate
from chat.llm.dispatch import AnswerEvent, AnswerStarted
from chat.llm.providers.base import Delta, Finish, ModelRequest, Pace
from chat.turns.log import Keep, LookUp
from core.redis_clients import sync_redis
from history.models import Turn

logger = logging.getLogger(__name__)

VERSION = 1
"""Of what a key is made of, and of what is kept under it."""
NOT_OF_THE_ANSWER = frozenset({"api_key", "api_keys", "cache_key", "end_user", "pace"})
"""What goes with a request and cannot change what comes back. Whatever else a request has, now or later, is in the key."""

MAX_ANSWERS = 64
"""Answers of one person; one more pushes a random one out."""
MAX_CACHED_BYTES = 64 * 1024  # bytes of text and reasoning
COMPRESSED_FROM = 2_048  # bytes
FORGOTTEN_SECONDS = 86_400
"""How long a turn that began before its person was forgotten is kept from writing: longer than any turn."""

MAX_PARTS = 12
MIN_PART_CHARACTERS = 80
"""A replay takes at most so many ticks, and no shorter parts: half a second, seen as a stream."""


class CachedAnswer(msgspec.Struct, frozen=True, array_like=True):
    """One answer as it is kept. `kept_at` is a Unix time; the tokens are what asking had used."""

    kept_at: float
    model: str
    text: str
    reasoning: str
    reasoning_ms: int
    input_tokens: int
    output_tokens: int


_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode = msgspec.msgpack.Decoder(CachedAnswer).decode


@dataclass(slots=True)
class CacheLookup:
    """One turn's dealings with the cache. `version` is what the store said when the turn began."""

    owner_id: int
    digest: bytes
    is_wanted: bool  # not by a question that is asked again
    version: bytes = b""

    @property
    def look_up(self) -> LookUp:
        return LookUp(*cache_keys(self.owner_id), self.digest if self.is_wanted else b"")

    def keep(self, turn: Turn) -> Keep | None:
        """Return what the turn's end keeps for the next time; None when there is nothing to be kept.

        Only an answer that is whole: completed, to the model's own end.
        """
        is_whole = turn.status == Turn.Status.COMPLETED and turn.finish_reason == "stop" and not turn.error
        if not is_whole or not turn.answer or turn.is_from_cache:
            return None
        value = pack(turn)
        if value is None:
            return None
        return Keep(*cache_keys(self.owner_id), self.digest, self.version, value, settings.CACHE_TTL, MAX_ANSWERS)


def question_digest(owner_id: int, request: ModelRequest) -> bytes:
    """Return the HMAC-SHA256, under a key of SECRET_KEY's, of the person and of everything that is sent."""
    sent = _encode((VERSION, owner_id, _canonical(request)))
    return salted_hmac("chat.answer_cache", sent, algorithm="sha256").digest()


def cache_keys(owner_id: int) -> tuple[str, str]:
    """Return the names of the person's answers, and of the count that says how often they were forgotten."""
    return f"answers:{owner_id}", f"answers:{owner_id}:forgotten"


def pack(turn: Turn) -> bytes | None:
    """Return a finished turn's answer as it is kept: a byte that says whether it is compressed, and msgpack."""
    kept = CachedAnswer(
        kept_at=time.time(),
        model=turn.model,
        text=turn.answer,
        reasoning=turn.reasoning,
        reasoning_ms=turn.reasoning_ms,
        input_tokens=turn.input_tokens,
        output_tokens=turn.output_tokens,
    )
    value = _encode(kept)
    if len(value) > MAX_CACHED_BYTES:
        return None
    return b"\1" + zlib.compress(value, 1) if len(value) >= COMPRESSED_FROM else b"\0" + value


def unpack(value: bytes | None) -> CachedAnswer | None:
    """Return the answer; None for one that is too old, or that is none."""
    if value is None:
        return None
    try:
        kept = _decode(_inflate(value[1:]) if value[:1] == b"\1" else value[1:])
    except (msgspec.MsgspecError, zlib.error, UnicodeDecodeError):
        logger.warning("Cached answer not readable")
        return None
    return kept if kept.text and 0 <= time.time() - kept.kept_at < settings.CACHE_TTL else None


async def stream_cached(kept: CachedAnswer, candidate: Candidate, pace: Pace) -> AsyncGenerator[AnswerEvent]:
    """Yield the answer as its model would: who answers, reasoning and text in parts, a tick between them, the Finish."""
    yield AnswerStarted(candidate)
    length = max(MIN_PART_CHARACTERS, ceil((len(kept.text) + len(kept.reasoning)) / MAX_PARTS))
    for at in range(0, len(kept.reasoning), length):
        yield Delta(reasoning=kept.reasoning[at : at + length])
        await pace()
    for at in range(0, len(kept.text), length):
        yield Delta(text=kept.text[at : at + length])
        if at + length < len(kept.text):
            await pace()
    yield Finish("stop", None)


def forget_answers(owner_id: int) -> None:
    """Drop every answer kept for the person, and keep those that are being written from being kept.

    While Redis is away nothing is dropped; what is there then lives on for CACHE_TTL at most, for nobody else.
    """
    answers, forgotten = cache_keys(owner_id)
    try:
        with sync_redis().pipeline() as pipeline:
            pipeline.unlink(answers)
            pipeline.incr(forgotten)
            pipeline.expire(forgotten, FORGOTTEN_SECONDS)
            pipeline.execute()
    except (RedisError, OSError):
        logger.warning("Cached answers not forgotten", extra={"user_id": owner_id})


def _inflate(value: bytes) -> bytes:
    """Return what was compressed; never more than is ever kept."""
    inflating = zlib.decompressobj()
    inflated = inflating.decompress(value, MAX_CACHED_BYTES)
    if not inflating.eof:
        raise zlib.error("longer than anything kept, or cut off")
    return inflated


def _canonical(value: Any) -> Any:
    """Return the value in one spelling: text in NFC, bytes by their SHA-256, records as names and values."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, bytes):
        return sha256(value).digest()
    if isinstance(value, tuple | list):
        return [_canonical(part) for part in value]
    if is_dataclass(value) and not isinstance(value, type):
        return [(name, _canonical(getattr(value, name))) for name in _names(type(value))]
    return value


@cache
def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind) if field.name not in NOT_OF_THE_ANSWER)
