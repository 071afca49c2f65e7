"""The requests that were sent to providers for a turn: each may have to be paid, whoever dies.

A runner notes each one in Redis, in a hash of the turn, while it is being sent: nothing waits for that. What a provider
does not charge is taken out again. Whoever ends the turn counts what is left, and writes it on the turn with the
outcome, so that it is settled from there.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from chat.llm.catalog import Candidate
from chat.llm.pricing import compute_cost, metered_usage, price_of, read_price, write_price
from chat.llm.providers.base import TokenUsage
from chat.llm.providers.errors import ProviderError
from history.models import Turn

logger = logging.getLogger(__name__)

KEPT_SECONDS = 3_600
MIN_THOUGHT_TOKENS = 256
"""What a model that thinks is taken to have thought of a question that it was sent, where it shows nothing of it."""


class SentRequest(msgspec.Struct, frozen=True, array_like=True):
    """One request. `runner` sent it, `price` is JSON, `thought_tokens` what it counts as where nothing came of it;
    `is_over`: it failed, and may be charged all the same."""

    id: str
    runner: str
    model: str
    provider: str
    price: str
    thought_tokens: int = 0
    is_over: bool = False

    def usage(self, turn: Turn) -> TokenUsage:
        """Return an estimate of what it used, for a turn that is open: the prompt, and a little thought."""
        return TokenUsage(turn.input_tokens, self.thought_tokens, reasoning=self.thought_tokens)


class UnansweredRequest(msgspec.Struct, frozen=True, array_like=True):
    """One that gave no answer, as a turn stores it, and what its provider takes."""

    model: Annotated[str, msgspec.Meta(max_length=100)]
    provider: Annotated[str, msgspec.Meta(max_length=50)]
    spent_micros: Annotated[int, msgspec.Meta(ge=0, le=10**15)]


class SentRequests:
    """Those of one turn: `before` are the ones of runners that had it earlier; the others are sent by this one.

    `in_flight` is the request that has not failed: it is answered, or was when the asking ended.
    """

    def __init__(self, redis: Redis, turn: Turn, runner: str, before: Sequence[SentRequest] = ()) -> None:
        self.in_flight: SentRequest | None = None
        self.redis = redis
        self._over = list(before)
        self._turn = turn
        self._runner = runner
        self._ids = (f"{runner}:{turn.gen}:{number}" for number in range(1_000))
        self._writing: asyncio.Task[None] | None = None

    def note_sent(self, candidate: Candidate) -> None:
        """Note that the whole prompt was sent to the candidate."""
        turn, model = self._turn, candidate.model
        self.in_flight = request = SentRequest(
            next(self._ids),
            self._runner,
            model.key,
            model.provider,
            write_price(price_of(model, turn.created_at)),
            min(turn.max_output, MIN_THOUGHT_TOKENS) if model.thinks_at(turn.effort) else 0,
        )
        self._write(partial(_save, self.redis, turn.pk, request))

    def note_failed(self, error: ProviderError) -> None:
        """Note that what was asked gave no answer. If it was never sent, nothing was noted of it."""
        request, self.in_flight = self.in_flight, None
        if request is None:
            return
        if not error.may_be_billed:
            self._write(partial(_forget, self.redis, self._turn.pk, request))
            return
        over = msgspec.structs.replace(request, is_over=True)
        self._over.append(over)
        self._write(partial(_save, self.redis, self._turn.pk, over))

    @property
    def in_flight_id(self) -> str:
        return self.in_flight.id if self.in_flight else ""

    def list_all(self) -> list[SentRequest]:
        """Return those that may have to be paid."""
        return [*self._over, self.in_flight] if self.in_flight else self._over

    async def written(self) -> None:
        """Wait until what was noted is in Redis, or cannot be."""
        if self._writing is not None:
            await asyncio.wait((self._writing,))

    def _write(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write beside the asking, one after the other."""
        self._writing = asyncio.create_task(self._write_after(self._writing, write))

    async def _write_after(self, previous: "asyncio.Task[None] | None", write: Callable[[], Awaitable[None]]) -> None:
        if previous is not None:
            await asyncio.wait((previous,))
        try:
            await write()
        except (RedisError, OSError) as error:
            logger.warning("Request not noted", extra={"turn_id": self._turn.pk, "error": type(error).__name__})


def sent_key(turn_id: UUID) -> str:
    return f"turn:{turn_id}:sent"


async def read_sent(redis: Redis, turn_id: UUID) -> list[SentRequest]:
    """Return the requests that were noted and not taken out again."""
    try:
        values: Any = await redis.hvals(sent_key(turn_id))
    except ResponseError:  # a key of another type, which nobody of ours has written
        logger.warning("Requests not readable, and dropped", extra={"turn_id": turn_id})
        await redis.delete(sent_key(turn_id))
        return []
    return list(_decode_each(values))


def find_stopped(sent: Iterable[SentRequest], stopped_holder: str) -> SentRequest | None:
    """Return the request that its runner was waiting for when the person stopped the turn; None if there was none, or
    its runner was gone by then."""
    runner = stopped_holder.rpartition(":")[0]
    return next((request for request in sent if request.runner == runner and not request.is_over), None)


def encode_unanswered(turn: Turn, requests: Iterable[SentRequest]) -> str | None:
    """Return what the requests of an open turn used, as the turn stores it; None for nothing that costs anything."""
    unanswered = []
    for request in requests:
        usage = metered_usage(request.usage(turn))
        micros = compute_cost(read_price(request.price), usage).stamp.provider_micros
        if micros:
            unanswered.append(UnansweredRequest(request.model, request.provider, micros))
    return msgspec.json.encode(unanswered).decode() if unanswered else None


def read_unanswered(text: str | None) -> list[UnansweredRequest]:
    """Return what a turn stores; nothing for what cannot be read: the turn is settled without."""
    try:
        return msgspec.json.decode(text, type=list[UnansweredRequest]) if text else []
    except msgspec.MsgspecError:
        return []


async def _save(redis: Redis, turn_id: UUID, request: SentRequest) -> None:
    async with redis.pipeline(transaction=False) as pipeline:
        pipeline.hset(sent_key(turn_id), request.id, _encode(request))
        pipeline.expire(sent_key(turn_id), KEPT_SECONDS)
        await pipeline.execute()


async def _forget(redis: Redis, turn_id: UUID, request: SentRequest) -> None:
    await redis.hdel(sent_key(turn_id), request.id)


def _decode_each(values: Iterable[bytes]) -> Iterator[SentRequest]:
    for value in values:
        try:
            request = _decode(value)
            read_price(request.price)
        except msgspec.MsgspecError:
            logger.warning("Request not readable")
        else:
            yield request


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SentRequest).decode
