"""The answer cache: exactly the same prompt, sent for the same person, is answered without asking a model.

A person's answers are one hash on Redis, so that they can be forgotten in one step: when a conversation is deleted, or
the person suspended or erased. The cache is read together with taking a turn's lease (take_lease.lua) and written
together with its end (end_turn.lua): a miss costs no round trip. Only the first candidate's answer is looked up. One
of another may be there from an hour when the first was away, and is not what asking now would give.
"""

import logging
import time
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

from chat.llm.catalog import RECORDED, Candidate
from chat.llm.dispatch import AnswerEvent, AnswerStarted
from chat.llm.providers.base import Delta, Finish, ModelRequest, Pace
from core.redis_clients import sync_redis
from core.unicode import normalise
from history.models import Turn

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""Of what a digest is made of, and of how an answer is encoded."""
NOT_IN_DIGEST = frozenset({"api_key", "api_keys", "cache_key", "end_user", "note_life", "note_sent", "pace"})
"""Fields of a request that cannot change the answer. Whatever else a request has, now or later, is in the digest."""

MAX_ANSWERS = 64
"""Answers of one person; one more pushes a random one out."""
MAX_CACHED_BYTES = 64 * 1024  # of text and reasoning, before compression
MIN_COMPRESSED_BYTES = 2_048
FORGOTTEN_SECONDS = 86_400
"""How long a turn that began before its person's answers were forgotten may not write: longer than any turn."""

MAX_PARTS = 12
MIN_PART_CHARACTERS = 80
"""A cached answer is streamed in at most so many parts, none shorter, one a tick: within half a second."""
RECORDED_PART_CHARACTERS = 16
"""A recorded example is streamed in parts like this, one a tick: at the speed of a quick model."""


class CachedAnswer(msgspec.Struct, frozen=True, array_like=True):
    """One answer in the cache. `stored_at` is a Unix time; the tokens are what the model had used."""

    stored_at: float
    model: str
    text: str
    reasoning: str
    reasoning_ms: int
    input_tokens: int
    output_tokens: int


_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_decode = msgspec.msgpack.Decoder(CachedAnswer).decode


@dataclass(frozen=True, slots=True)
class CacheRead:
    """What is read together with taking a lease: a field of a hash, and the key of its version."""

    answers_key: str
    version_key: str
    field: bytes


@dataclass(frozen=True, slots=True)
class CacheWrite:
    """What is written together with a turn's end, if the version is still the one that was read."""

    answers_key: str
    version_key: str
    field: bytes
    version_read: bytes
    value: bytes
    seconds: int
    max_answers: int


@dataclass(slots=True)
class CacheSlot:
    """A turn's place in the cache. `version_read` is the cache's version when the turn began."""

    owner_id: int
    digest: bytes
    may_reuse: bool  # False for a question that is asked again: it wants another answer
    version_read: bytes = b""

    @property
    def read(self) -> CacheRead:
        return CacheRead(*cache_keys(self.owner_id), self.digest if self.may_reuse else b"")

    def write_after(self, turn: Turn) -> CacheWrite | None:
        """Return what the turn's end writes for the next time; None for nothing.

        Only an answer that is whole is written: completed, to the model's own end.
        """
        is_whole = turn.status == Turn.Status.COMPLETED and turn.finish_reason == "stop" and not turn.error
        if not is_whole or not turn.answer or turn.is_from_cache:
            return None
        value = encode_answer(turn)
        if value is None:
            return None
        keys = cache_keys(self.owner_id)
        return CacheWrite(*keys, self.digest, self.version_read, value, settings.CACHE_TTL, MAX_ANSWERS)


def question_digest(owner_id: int, request: ModelRequest) -> bytes:
    """Return the HMAC-SHA256, keyed by SECRET_KEY, of the person and of everything that is sent."""
    sent = _encode((FORMAT_VERSION, owner_id, _canonical(request)))
    return salted_hmac("chat.answer_cache", sent, algorithm="sha256").digest()


def cache_keys(owner_id: int) -> tuple[str, str]:
    """Return the key of the person's answers, and the key that counts how often they were forgotten."""
    return f"answers:{owner_id}", f"answers:{owner_id}:forgotten"


def encode_answer(turn: Turn) -> bytes | None:
    """Return a finished turn's answer as the cache has it; None if it is too long.

    A byte that says whether the rest is compressed, and msgpack.
    """
    answer = CachedAnswer(
        stored_at=time.time(),
        model=turn.model,
        text=turn.answer,
        reasoning=turn.reasoning,
        reasoning_ms=turn.reasoning_ms,
        input_tokens=turn.input_tokens,
        output_tokens=turn.output_tokens,
    )
    value = _encode(answer)
    if len(value) > MAX_CACHED_BYTES:
        return None
    return b"\1" + zlib.compress(value, 1) if len(value) >= MIN_COMPRESSED_BYTES else b"\0" + value


def decode_answer(value: bytes | None) -> CachedAnswer | None:
    """Return the answer; None if it is too old or cannot be read."""
    if value is None:
        return None
    try:
        answer = _decode(_decompress(value[1:]) if value[:1] == b"\1" else value[1:])
    except (msgspec.MsgspecError, zlib.error, UnicodeDecodeError):
        logger.warning("Cached answer not readable")
        return None
    is_fresh = 0 <= time.time() - answer.stored_at < settings.CACHE_TTL
    return answer if answer.text and is_fresh else None


def recorded_answer(text: str) -> CachedAnswer:
    """Return the answer of a recorded example: it is played like one from the cache, and is in nobody's."""
    return CachedAnswer(time.time(), RECORDED.model.key, text, "", 0, 0, 0)


async def stream_cached(answer: CachedAnswer, candidate: Candidate, pace: Pace) -> AsyncGenerator[AnswerEvent]:
    """Yield the answer as its model would: who answers, reasoning and text in parts, a tick apart, and the Finish."""
    yield AnswerStarted(candidate)
    length = max(MIN_PART_CHARACTERS, ceil((len(answer.text) + len(answer.reasoning)) / MAX_PARTS))
    if candidate is RECORDED:
        length = RECORDED_PART_CHARACTERS
    for at in range(0, len(answer.reasoning), length):
        yield Delta(reasoning=answer.reasoning[at : at + length])
        await pace()
    for at in range(0, len(answer.text), length):
        yield Delta(text=answer.text[at : at + length])
        if at + length < len(answer.text):
            await pace()
    yield Finish("stop", None)


def forget_answers(owner_id: int) -> None:
    """Drop every cached answer of the person; answers that are being written now will not be cached.

    Raises RedisError, and nothing is dropped: answers live on for CACHE_TTL at most, and only for this person.
    """
    answers, version = cache_keys(owner_id)
    with sync_redis().pipeline() as pipeline:
        pipeline.unlink(answers)
        pipeline.incr(version)
        pipeline.expire(version, FORGOTTEN_SECONDS)
        pipeline.execute()


def erase_answers(owner_id: int) -> None:
    """Drop whatever is kept of a person who is gone, and whose turns are over: nobody writes an answer any more."""
    sync_redis().unlink(*cache_keys(owner_id))


def _decompress(value: bytes) -> bytes:
    """Return the decompressed value; raises zlib.error for more than is ever cached."""
    decompressor = zlib.decompressobj()
    decompressed = decompressor.decompress(value, MAX_CACHED_BYTES)
    if not decompressor.eof:
        raise zlib.error("longer than anything cached, or cut off")
    return decompressed


def _canonical(value: Any) -> Any:
    """Return the value in canonical form: text in NFC, bytes by their SHA-256, dataclasses as names and values."""
    if isinstance(value, str):
        return normalise("NFC", value)
    if isinstance(value, bytes):
        return sha256(value).digest()
    if isinstance(value, tuple | list):
        return [_canonical(part) for part in value]
    if is_dataclass(value) and not isinstance(value, type):
        return [(name, _canonical(getattr(value, name))) for name in _field_names(type(value))]
    return value


@cache
def _field_names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind) if field.name not in NOT_IN_DIGEST)
