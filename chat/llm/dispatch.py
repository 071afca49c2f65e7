"""One answer from whoever can give it: retry and failover, but only before the first visible token."""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from hashlib import blake2b
from time import monotonic
from typing import TypeAlias

from django.conf import settings
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from chat.llm import health
from chat.llm.alerts import alert
from chat.llm.breaker import BROKEN, OpenBreaker, Report, Verdict, breaker_id, breakers, key_digest, verdict_on
from chat.llm.catalog import Candidate
from chat.llm.providers import stream_of
from chat.llm.providers.base import Event, Finish, Message, ModelRequest, Pace, Provider, at_once
from chat.llm.providers.errors import (
    AuthenticationFailed,
    BadRequest,
    ContentFiltered,
    PermissionRefused,
    PromptTooLong,
    ProviderError,
    ProviderRateLimited,
    TimedOut,
)

logger = logging.getLogger(__name__)

ATTEMPTS = 3
ATTEMPTS_PER_MODEL = 2
"""A model that nobody is left to replace may use all three, for its other keys."""
MAX_WAIT_SECONDS = 5.0
"""A provider that asks for more is not waited for."""
REASONING_PATIENCE = 3
"""How much longer than others a model that thinks silently may take to show a sign of life."""
LAST_RESORT_PATIENCE = 1 / 3
"""How much of it is left for somebody whose breaker is open."""
FAULTS_OF_A_KEY = (ProviderRateLimited, AuthenticationFailed, PermissionRefused)
"""Errors that another key of the same provider may not give."""

ALARMS: dict[str, Promise] = {
    "authentication": _("%(provider)s refuses our key. Until it is replaced, people are not answered with it."),
    "permission": _("%(provider)s does not let our key use %(model)s: look at its rights, and at what is to be paid."),
    "not_found": _("%(provider)s does not know the model %(model)s. It may have been retired."),
}
"""For each code that waiting does not help, what an operator reads."""


@dataclass(frozen=True, slots=True)
class AnswerStarted:
    """The first event: who answers, who would have, had they not failed, and the code of why they did."""

    candidate: Candidate
    instead_of: Candidate | None = None
    instead_because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRequest:
    """What is asked, whoever answers. `max_output` is in tokens; `effort` is told to models that know the word."""

    messages: tuple[Message, ...]
    max_output: int
    effort: str = ""
    cache_key: str = ""
    end_user: str = ""
    pace: Pace = at_once


AnswerEvent: TypeAlias = AnswerStarted | Event


@dataclass(frozen=True, slots=True)
class _Way:
    """A candidate by one of its keys. `trial` is not empty when its breaker is open: see chat/llm/breaker.py."""

    candidate: Candidate
    provider: Provider
    breaker: str
    trial: str = ""

    @property
    def patience(self) -> float:
        """Seconds until the first sign of life."""
        patience: float = settings.FIRST_TOKEN_SECONDS * (REASONING_PATIENCE if self.candidate.model.reasons else 1)
        return patience * LAST_RESORT_PATIENCE if self.trial == "last" else patience


async def answer_with_failover(candidates: list[Candidate], prompt: AnswerRequest) -> AsyncGenerator[AnswerEvent]:
    """Yield who answers, deltas, then the Finish; raises the last ProviderError when nobody could begin.

    After the first delta an error is raised as it is: text that was shown is never replaced. What one model could not
    read goes only to one that can read more.
    """
    ways = _Ways(candidates, prompt.cache_key)
    while way := await ways.next():
        attempt = _Attempt(way)
        try:
            async with aclosing(_begin(way, prompt)) as events:
                async for event in events:
                    if not attempt.first_at:
                        attempt.began()
                        yield ways.answering(way)
                    yield event
            attempt.succeeded(event)
            return
        except ProviderError as error:
            attempt.failed(error)
            if attempt.first_at or isinstance(error, ContentFiltered | BadRequest):
                raise
            ways.failed(way, error)
        finally:
            attempt.end()
    raise ways.error


class _Ways:
    """Who is asked next: the candidates in order, each by its keys, past whoever rests, at most three attempts.

    A key that was refused, or has had enough, is followed by the next one; what is the provider's own weakness is tried
    again with the same key, once, where that leaves an attempt for each of the others. When every breaker is open, one attempt is made at the least recently failed: a
    breaker may be wrong, a fault that shows at once costs nothing, and one that does not show is given a third of the
    usual time. That holds for a model somebody named, too: it is never replaced, and "try again in four minutes" is
    a worse answer than one that comes. Only a key that its provider told to wait is not used before: that would be
    refused for sure; the error says when to come back.
    """

    def __init__(self, candidates: list[Candidate], cache_key: str) -> None:
        self.error: ProviderError = ProviderRateLimited()
        self._first = candidates[0]
        self._because = ""  # why the first candidate did not answer
        self._left = [_by_key(candidate, cache_key) for candidate in candidates]
        self._open: list[tuple[OpenBreaker, _Way]] = []
        self._attempts = 0
        self._tries = 0  # of the candidate whose turn it is
        self._pause: float | None = None  # before the same way is tried again
        self._last: _Way | None = None
        self._too_small = 0  # the window, in tokens, that was
        self._is_last_resort = False

    async def next(self) -> _Way | None:
        """Return whom to ask now, after whatever pause is due; None when nobody is left, and `error` is why."""
        if self._attempts >= ATTEMPTS:
            return None
        if self._pause is not None:
            await asyncio.sleep(self._pause)
            self._pause = None
        await breakers().look()
        while self._left:
            while self._left[0]:
                way = await self._admitted(self._left[0][0])
                if way is not None:
                    self._last = way
                    return way
                self._left[0].pop(0)
            self._give_up_candidate()
        return None if self._attempts or self._is_last_resort else await self._last_resort()

    def answering(self, way: _Way) -> AnswerStarted:
        is_first = way.candidate is self._first
        return AnswerStarted(way.candidate, None if is_first else self._first, "" if is_first else self._because)

    def failed(self, way: _Way, error: ProviderError) -> None:
        """Note that an attempt showed nothing, and decide who comes after it."""
        self.error = error
        self._attempts += 1
        self._tries += 1
        if way.candidate is self._first:
            self._because = error.code
        if not self._left:  # it was the last resort
            return
        if isinstance(error, PromptTooLong):
            self._too_small = way.candidate.model.context_window
            self._give_up_candidate()
            self._left = [ways for ways in self._left if ways[0].candidate.model.context_window > self._too_small]
            return
        candidates_left = len(self._left) - 1
        may_stay = ATTEMPTS - self._attempts > candidates_left and self._tries < ATTEMPTS_PER_MODEL
        others = self._left[0][1:]
        if isinstance(error, FAULTS_OF_A_KEY) and others and (may_stay or not candidates_left):
            self._left[0] = others
        elif _may_retry(error) and may_stay and not way.trial:
            self._pause = error.retry_after or random.uniform(0.2, 0.8)  # noqa: S311  jitter
        else:
            self._give_up_candidate()

    def _give_up_candidate(self) -> None:
        self._left.pop(0)
        self._tries = 0

    async def _admitted(self, way: _Way) -> _Way | None:
        """Return the way if its breaker lets it be asked, as a trial perhaps; else None."""
        found = breakers().find_open(way.breaker)
        if found is None:
            return way
        if found.seconds <= 0 and found.times:
            trial = await breakers().claim(way.breaker, patience_seconds=way.patience)
            if trial is not None:
                return _Way(way.candidate, way.provider, way.breaker, trial)
        self._open.append((found, way))
        if way.candidate is self._first and not self._because:
            self._because = found.code
        return None

    async def _last_resort(self) -> _Way | None:
        """Return whom to ask although every breaker is open; None, with `error`, if all were told to wait for long."""
        self._is_last_resort = True
        resting = [(found.seconds, way) for found, way in self._open if not found.times]
        others = [(found, way) for found, way in self._open if found.times]
        if resting:
            seconds, way = min(resting, key=lambda one: one[0])
            if seconds <= MAX_WAIT_SECONDS:
                await asyncio.sleep(max(0.0, seconds))
                return way
            if not others:
                self.error = ProviderRateLimited(status=429, retry_after=seconds)
                return None
        _found, way = min(others, key=lambda one: (one[0].code in BROKEN, -one[0].failed_ago))
        return _Way(way.candidate, way.provider, way.breaker, "last")


def _by_key(candidate: Candidate, cache_key: str) -> list[_Way]:
    """Return the ways to a candidate. A conversation keeps to one key, where its prefix is cached, as long as it can."""
    served: Iterable[Provider] = candidate.provider.with_each_api_key()
    if cache_key and len(candidate.provider.api_keys) > 1:
        served = sorted(served, key=lambda one: blake2b(f"{cache_key}{one.api_key}".encode(), digest_size=8).digest())
    return [_Way(candidate, one, breaker_id(one, candidate.model.key)) for one in served]


class _Attempt:
    """What is to be reported of an attempt. Whoever is neither `succeeded` nor `failed` was stopped: that says nothing."""

    __slots__ = ("begun_at", "first_at", "trial", "way")

    def __init__(self, way: _Way) -> None:
        self.way = way
        self.trial = way.trial  # until it is reported
        self.begun_at = monotonic()
        self.first_at = 0.0

    def began(self) -> None:
        """Note the first event: a trial is over, others need not wait for the end."""
        self.first_at = monotonic()
        if self.trial:
            self._report("ok")

    def succeeded(self, last: Event) -> None:
        usage = last.usage if isinstance(last, Finish) else None
        waited, wrote = self.first_at - self.begun_at, monotonic() - self.first_at
        self._report("ok", counts=health.success(self.way.candidate.model, usage, waited, wrote))

    def failed(self, error: ProviderError) -> None:
        _note(self.way, error, has_begun=bool(self.first_at))
        verdict, rest_ms = verdict_on(error, has_begun=bool(self.first_at))
        self._report(verdict, error.code, rest_ms, health.failure(self.way.candidate.model, error.code))

    def end(self) -> None:
        if self.trial:
            self._report("none")

    def _report(self, verdict: Verdict, code: str = "", rest_ms: int = 0, counts: tuple[str, ...] = ()) -> None:
        trial, self.trial = self.trial, ""
        breakers().report(Report(self.way.breaker, verdict, code, rest_ms, trial, counts))


def request_to(candidate: Candidate, prompt: AnswerRequest, provider: Provider | None = None) -> ModelRequest:
    """Return what one model is sent; `provider` is its own with one of its keys, where it has several."""
    model = candidate.model
    return ModelRequest(
        provider=provider or candidate.provider,
        model=model.provider_model,
        messages=prompt.messages,
        max_output=prompt.max_output,
        max_tokens_parameter=model.max_tokens_parameter,
        reasons=model.reasons,
        effort=prompt.effort if prompt.effort in model.effort_levels else "",
        cache_key=prompt.cache_key,
        end_user=prompt.end_user,
        pace=prompt.pace,
    )


async def _begin(way: _Way, prompt: AnswerRequest) -> AsyncGenerator[Event]:
    """Yield one model's events; raises TimedOut when there is no sign of life in time. Reasoning is one."""
    try:
        async with asyncio.timeout(way.patience) as deadline, aclosing(_stream(way, prompt)) as events:
            async for event in events:
                if deadline.when() is not None:
                    deadline.reschedule(None)
                yield event
    except TimeoutError as error:
        raise TimedOut from error


def _stream(way: _Way, prompt: AnswerRequest) -> AsyncGenerator[Event]:
    return stream_of(way.provider)(request_to(way.candidate, prompt, way.provider))


def _may_retry(error: ProviderError) -> bool:
    return error.retryable and (error.retry_after or 0) <= MAX_WAIT_SECONDS


def _note(way: _Way, error: ProviderError, *, has_begun: bool) -> None:
    """Log a failure by its code alone, and tell the operator of one that waiting does not help."""
    model, key = way.candidate.model.key, key_digest(way.provider.api_key)
    fields = {"model": model, "code": error.code, "status": error.status, "has_begun": has_begun}
    logger.warning("Provider failed", extra={**fields, "key": key})
    tell_operator(way.provider, model, error.code)


def tell_operator(provider: Provider, model: str, code: str) -> None:
    """Alert the operator of what waiting does not help; of anything else nobody is told."""
    if alarm := ALARMS.get(code):
        key = key_digest(provider.api_key)
        where = provider.slug if code == "authentication" else f"{provider.slug}:{model}"
        sentence = str(alarm) % {"provider": provider.name, "model": model}
        alert(f"{where}:{code}:{key}", sentence, provider=provider.slug, model=model, code=code, key=key)
