"""One answer from whoever can give it: retry and failover, but only before the first visible token."""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeAlias

from django.conf import settings

from chat.llm.catalog import Candidate
from chat.llm.providers import stream_of
from chat.llm.providers.base import Event, Message, ModelRequest, Pace, at_once
from chat.llm.providers.errors import (
    BadRequest,
    ContentFiltered,
    PromptTooLong,
    ProviderError,
    TimedOut,
)

logger = logging.getLogger(__name__)

ATTEMPTS = 3
ATTEMPTS_PER_MODEL = 2
LONGEST_WAIT_SECONDS = 5.0
"""A provider that asks for more is not waited for."""
REASONING_PATIENCE = 3
"""How much longer than others a model that thinks silently may take to show a sign of life."""


@dataclass(frozen=True, slots=True)
class Answering:
    """The first event: who answers, and who would have, had they not failed."""

    candidate: Candidate
    instead_of: Candidate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is asked, whoever answers. `max_output` is in tokens."""

    messages: tuple[Message, ...]
    max_output: int
    cache_key: str = ""
    end_user: str = ""
    pace: Pace = at_once


AnswerEvent: TypeAlias = Answering | Event


async def answer(candidates: list[Candidate], prompt: Prompt) -> AsyncGenerator[AnswerEvent]:
    """Yield who answers, deltas, then the Finish; raises the last ProviderError when nobody could begin.

    After the first delta an error is raised as it is: text that was shown is never replaced. What one model could not
    read goes only to one that can read more.
    """
    attempts = 0
    too_long: ProviderError | None = None
    too_small = 0  # the window, in tokens, that was
    for candidate in candidates:
        if too_long and candidate.model.context_window <= too_small:
            continue
        for attempt in range(ATTEMPTS_PER_MODEL):
            attempts += 1
            has_begun = False
            try:
                async with aclosing(_begin(candidate, prompt)) as events:
                    async for event in events:
                        if not has_begun:
                            has_begun = True
                            yield Answering(candidate, None if candidate is candidates[0] else candidates[0])
                        yield event
                return
            except ProviderError as error:
                _note(candidate, error, has_begun=has_begun)
                is_last = attempts >= ATTEMPTS or (candidate is candidates[-1] and not _may_retry(error, attempt))
                if has_begun or is_last or isinstance(error, ContentFiltered | BadRequest):
                    raise
                if isinstance(error, PromptTooLong):
                    too_long, too_small = error, candidate.model.context_window
                if not _may_retry(error, attempt):
                    break
                await asyncio.sleep(error.retry_after or random.uniform(0.2, 0.8))  # noqa: S311  jitter
    if too_long:  # nobody was left who reads more
        raise too_long


def request_to(candidate: Candidate, prompt: Prompt) -> ModelRequest:
    """Return what one model is sent."""
    model = candidate.model
    return ModelRequest(
        provider=candidate.provider,
        model=model.provider_model,
        messages=prompt.messages,
        max_output=prompt.max_output,
        max_tokens_parameter=model.max_tokens_parameter,
        reasons=model.reasons,
        cache_key=prompt.cache_key,
        end_user=prompt.end_user,
        pace=prompt.pace,
    )


async def _begin(candidate: Candidate, prompt: Prompt) -> AsyncGenerator[Event]:
    """Yield one model's events; raises TimedOut when there is no sign of life in time. Reasoning is one."""
    patience = settings.FIRST_TOKEN_SECONDS * (REASONING_PATIENCE if candidate.model.reasons else 1)
    try:
        async with asyncio.timeout(patience) as deadline, aclosing(_stream(candidate, prompt)) as events:
            async for event in events:
                if deadline.when() is not None:
                    deadline.reschedule(None)
                yield event
    except TimeoutError as error:
        raise TimedOut from error


def _stream(candidate: Candidate, prompt: Prompt) -> AsyncGenerator[Event]:
    return stream_of(candidate.provider)(request_to(candidate, prompt))


def _may_retry(error: ProviderError, attempt: int) -> bool:
    is_soon = (error.retry_after or 0) <= LONGEST_WAIT_SECONDS
    return error.retryable and is_soon and attempt + 1 < ATTEMPTS_PER_MODEL


def _note(candidate: Candidate, error: ProviderError, *, has_begun: bool) -> None:
    fields = {"model": candidate.model.key, "code": error.code, "status": error.status, "has_begun": has_begun}
    logger.warning("Provider failed", extra=fields)
