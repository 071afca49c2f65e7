"""Replaces a conversation's first words by a title that a model makes, once its first answer is complete.

It happens in the runner, beside the turns: it is mostly waiting for the network, which a runner does by the hundred and
a worker only a few at a time, and the sweep must not wait behind it. Nothing waits for a title. Where something goes
wrong, or the runner stops, the first words stay.
"""

import asyncio
import logging
import time
from dataclasses import replace
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from billing.errors import SpendLimitReached
from billing.spending import OwnWork, begin_own_work, end_own_work
from chat.llm import spending, title_generation
from chat.llm.breaker import breaker_id, breakers
from chat.llm.catalog import Candidate
from chat.llm.health.overview import unavailable_models
from chat.llm.providers.base import ModelRequest
from chat.llm.providers.errors import ProviderError
from chat.llm.title_generation import Title
from chat.turns import notices
from core.threads import cancel_and_wait, in_thread
from history import access
from history.models import Conversation, TitledBy, Turn

logger = logging.getLogger(__name__)

TITLE_SECONDS = 15.0
MAX_MADE_AT_ONCE = 16
MAX_WAITING = 500
"""Conversations beyond these keep their first words."""
CLAIMED_SECONDS = 86_400


class Titler:
    """The titles one runner is making."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(MAX_MADE_AT_ONCE)

    def start(self, turn: Turn, *, end_user: str) -> None:
        """Make the title of a conversation in the background; `turn` is its first with an answer."""
        if settings.MODEL_TITLES and len(self._tasks) < MAX_WAITING:
            task = asyncio.create_task(self._title(turn, end_user))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Give up the titles that are not made yet."""
        await cancel_and_wait(self._tasks)

    async def _title(self, turn: Turn, end_user: str) -> None:
        try:
            async with self._slots:
                await self._make_title(turn, end_user)
        except (ProviderError, SpendLimitReached, TimeoutError, RedisError, DatabaseError, OSError) as error:
            fields = {"conversation_id": turn.conversation_id, "error": type(error).__name__}
            logger.warning("Title not made", extra=fields)
        except (Exception, SystemExit, KeyboardInterrupt):  # asyncio lets the latter end the process
            logger.exception("Title not made", extra={"conversation_id": turn.conversation_id})

    async def _make_title(self, turn: Turn, end_user: str) -> None:
        conversation, candidate = await in_thread(_find_untitled, turn.conversation_id)
        candidate = candidate and await _with_usable_key(candidate)
        if conversation is None or candidate is None or not await self._claim(turn.conversation_id):
            return
        started_at = time.monotonic()
        title = await _make_within_limit(candidate, turn, end_user)
        fields = {
            "conversation_id": turn.conversation_id,
            "model": candidate.model.key,
            "provider": candidate.provider.slug,
            "input_tokens": title.usage.input,
            "output_tokens": title.usage.output,
            "spent_micros": title.spent_micros,
            "seconds": round(time.monotonic() - started_at, 2),
        }
        logger.info("Title made" if title.text else "Title empty", extra=fields)
        if not title.text:
            return
        is_replaced = await in_thread(access.title_conversation, conversation, title.text)
        if is_replaced:
            await in_thread(notices.send_notice, conversation.owner_id, conversation.pk)

    async def _claim(self, conversation_id: UUID) -> bool:
        """Return whether nobody has tried yet: a conversation gets one call, whoever closes its first answer."""
        return bool(await self._redis.set(f"title:{conversation_id}", b"1", nx=True, ex=CLAIMED_SECONDS))


async def _make_within_limit(candidate: Candidate, turn: Turn, end_user: str) -> Title:
    """Return the title, and count what it takes in the provider's day, however it ends. Raises ProviderError,
    TimeoutError, and SpendLimitReached before anything is sent."""
    sent = asyncio.Event()
    request = title_generation.title_request(candidate, turn.question, turn.answer, end_user=end_user)
    request = replace(request, note_sent=sent.set)
    held = await in_thread(_hold, candidate, request)
    spent_micros = 0
    try:
        async with asyncio.timeout(TITLE_SECONDS):
            title = await title_generation.make_title(candidate, request)
        spent_micros = title.spent_micros
    except BaseException as error:
        if sent.is_set() and (not isinstance(error, ProviderError) or error.may_be_billed):
            spent_micros = title_generation.spent_without_title(candidate, request)
        raise
    finally:
        if held is not None:
            await in_thread(end_own_work, held, spent_micros=spent_micros)
    return title


def _hold(candidate: Candidate, request: ModelRequest) -> OwnWork | None:
    """Hold the most the title can cost; None where it costs nothing."""
    hold = spending.own_hold_for(
        candidate, input_tokens=title_generation.max_input_tokens(request), output_tokens=request.max_output
    )
    return begin_own_work(hold, f"title: {candidate.model.key}") if hold else None


async def _with_usable_key(candidate: Candidate) -> Candidate | None:
    """Return the candidate with the first of its keys whose breaker is closed; None if all are open."""
    await breakers().refresh()
    for provider in candidate.provider.with_each_api_key():
        if breakers().find_open(breaker_id(provider, candidate.model.key)) is None:
            return replace(candidate, provider=provider)
    return None


def _find_untitled(conversation_id: UUID) -> tuple[Conversation | None, Candidate | None]:
    """Return the conversation, and who makes its title; None, None if its title is not its first words any more."""
    conversation = access.find_conversation(conversation_id)
    if conversation is None or conversation.titled_by != TitledBy.WORDS:
        return None, None
    return conversation, title_generation.cheapest_candidate(
        unavailable=unavailable_models(), stopped=spending.stopped_providers()
    )
