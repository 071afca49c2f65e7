"""One answer, from the first candidate that gives one: retries and failover, but only before the first token."""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from time import monotonic
from typing import TypeAlias

from django.conf import settings

from chat.llm.breaker import (
    LAST_RESORT,
    OPERATOR_CODES,
    OpenBreaker,
    Report,
    Verdict,
    api_key_digest,
    breaker_id,
    breakers,
    may_be_the_questions,
    verdict_on,
)
from chat.llm.catalog import Candidate
from chat.llm.health.alerts import alert_of_error
from chat.llm.health.counters import MIN_SPEED_SECONDS, MIN_SPEED_TOKENS, failure_fields, success_fields
from chat.llm.metrics import ATTEMPTS, FAILOVERS, PROVIDER_FIRST, TOKEN_RATE
from chat.llm.providers import stream_of
from chat.llm.providers.base import (
    NO_OPTIONS,
    AnswerOptions,
    Event,
    Message,
    ModelRequest,
    Pace,
    Provider,
    TokenUsage,
    no_pause,
)
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
from core.tracing import note_span

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
MAX_ATTEMPTS_PER_MODEL = 2
"""The last candidate may use all three, for its other API keys."""
MAX_WAIT_SECONDS = 5.0
"""A provider that says to wait longer is not waited for."""
REASONING_TIMEOUT_FACTOR = 3
"""A model that reasons may take this much longer to begin, as some send nothing while they do."""
LAST_RESORT_TIMEOUT_FACTOR = 1 / 3
"""The part of the usual time that a target with an open breaker has."""
API_KEY_ERRORS = (ProviderRateLimited, AuthenticationFailed, PermissionRefused)
"""Errors that another API key of the same provider may not raise."""


@dataclass(frozen=True, slots=True)
class AnswerStarted:
    """The first event: who answers, in place of which candidate that failed, and the code of its error."""

    candidate: Candidate
    instead_of: Candidate | None = None
    instead_because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRequest:
    """What is asked, whoever answers. `max_output` is in tokens; `effort` is sent to models that have that level.

    `find_usage` returns what is believed of the usage that the answer ended with; a speed is counted by nothing else.
    `note_sent` is told whom the whole request was sent to, and `note_failed` the error of one that gave no answer.
    """

    messages: tuple[Message, ...]
    max_output: int
    effort: str = ""
    options: AnswerOptions = NO_OPTIONS
    cache_key: str = ""
    end_user: str = ""
    pace: Pace = no_pause
    find_usage: Callable[[], TokenUsage | None] = lambda: None
    note_sent: Callable[[Candidate], None] = lambda _candidate: None
    note_failed: Callable[[ProviderError], None] = lambda _error: None


AnswerEvent: TypeAlias = AnswerStarted | Event


@dataclass(frozen=True, slots=True)
class _Target:
    """A candidate with one of its provider's API keys. `trial` is set when its breaker is open: chat/llm/breaker.py."""

    candidate: Candidate
    provider: Provider
    breaker: str
    trial: str = ""

    @property
    def timeout_seconds(self) -> float:
        """Seconds until the first token, or the first sign of reasoning."""
        seconds: float = settings.FIRST_TOKEN_SECONDS * (
            REASONING_TIMEOUT_FACTOR if self.candidate.model.reasons else 1
        )
        return seconds * LAST_RESORT_TIMEOUT_FACTOR if self.trial == LAST_RESORT else seconds


async def answer_with_failover(candidates: list[Candidate], request: AnswerRequest) -> AsyncGenerator[AnswerEvent]:
    """Yield who answers, deltas, then the Finish; raises the last ProviderError when nobody could begin.

    After the first delta an error is raised as it is: text that was shown is never replaced. A prompt that was too long
    for one model goes only to models with a larger window.
    """
    failover = _Failover(candidates, request.cache_key)
    while target := await failover.next_target():
        attempt = _Attempt(target, request)
        try:
            async with aclosing(_stream_in_time(target, request)) as events:
                async for event in events:
                    if not attempt.first_at:
                        attempt.note_first_event()
                        yield failover.started_event(target)
                    yield event
            attempt.note_success()
            return
        except ProviderError as error:
            attempt.note_failure(error)
            if attempt.first_at or isinstance(error, ContentFiltered | BadRequest):
                raise
            failover.note_failure(target, error)
        finally:
            attempt.end()
    raise failover.error


class _Failover:
    """Decides who is asked next: the candidates in order, each with its API keys, at most MAX_ATTEMPTS in all.

    After an error of the API key, the next key is tried. After an error of the provider, the same key is tried once
    more, if that leaves an attempt for each of the other candidates. Targets with an open breaker are skipped.

    When every breaker is open, one attempt is made all the same, at the one that failed least recently. A breaker may
    be wrong; an error that comes at once costs nothing, and one that does not has a third of the usual time. The
    exception is a pause its provider asked for: that request would be refused for sure, and the error says when to
    come back. This holds for a model somebody named, too. It is never replaced, and "try again in four minutes" is
    worse than an answer.
    """

    def __init__(self, candidates: list[Candidate], cache_key: str) -> None:
        self.error: ProviderError = ProviderRateLimited()
        self._first = candidates[0]
        self._first_error_code = ""  # why the first candidate did not answer
        self._queue = [_targets_of(candidate, cache_key) for candidate in candidates]
        self._skipped: list[tuple[OpenBreaker, _Target]] = []
        self._attempts = 0
        self._candidate_attempts = 0  # of the candidate at the head of the queue
        self._retry_delay_seconds: float | None = None  # before the same target is tried again
        self._had_last_resort = False

    async def next_target(self) -> _Target | None:
        """Return whom to ask now, after the delay before a retry; None when nobody is left, and `error` says why."""
        if self._attempts >= MAX_ATTEMPTS:
            return None
        if self._retry_delay_seconds is not None:
            await asyncio.sleep(self._retry_delay_seconds)
            self._retry_delay_seconds = None
        await breakers().refresh()
        while self._queue:
            while self._queue[0]:
                target = await self._pass_breaker(self._queue[0][0])
                if target is not None:
                    return target
                self._queue[0].pop(0)
            self._drop_candidate()
        return None if self._attempts or self._had_last_resort else await self._last_resort()

    def started_event(self, target: _Target) -> AnswerStarted:
        if target.candidate is self._first:
            return AnswerStarted(target.candidate)
        FAILOVERS.labels(self._first.model.key, self._first_error_code).inc()
        return AnswerStarted(target.candidate, self._first, self._first_error_code)

    def note_failure(self, target: _Target, error: ProviderError) -> None:
        """Note that an attempt failed before its first token, and decide who comes after it."""
        self.error = error
        self._attempts += 1
        self._candidate_attempts += 1
        if target.candidate is self._first:
            self._first_error_code = error.code
        if not self._queue:  # it was the last resort
            return
        if isinstance(error, PromptTooLong):
            window = target.candidate.model.context_window
            self._drop_candidate()
            self._queue = [targets for targets in self._queue if targets[0].candidate.model.context_window > window]
            return
        other_candidates = len(self._queue) - 1
        may_stay = (
            MAX_ATTEMPTS - self._attempts > other_candidates and self._candidate_attempts < MAX_ATTEMPTS_PER_MODEL
        )
        other_keys = self._queue[0][1:]
        if isinstance(error, API_KEY_ERRORS) and other_keys and (may_stay or not other_candidates):
            self._queue[0] = other_keys
        elif _may_retry(error) and may_stay and not target.trial:
            self._retry_delay_seconds = error.retry_after or random.uniform(0.2, 0.8)  # noqa: S311  jitter
        else:
            self._drop_candidate()

    def _drop_candidate(self) -> None:
        self._queue.pop(0)
        self._candidate_attempts = 0

    async def _pass_breaker(self, target: _Target) -> _Target | None:
        """Return the target if its breaker is closed, or lets it be tried as a trial; else None."""
        opened = breakers().find_open(target.breaker)
        if opened is None:
            return target
        if opened.seconds_left <= 0 and not opened.is_pause:
            trial = await breakers().claim_trial(target.breaker, timeout_seconds=target.timeout_seconds)
            if trial is not None:
                return replace(target, trial=trial)
        self._skipped.append((opened, target))
        if target.candidate is self._first and not self._first_error_code:
            self._first_error_code = opened.code
        return None

    async def _last_resort(self) -> _Target | None:
        """Return whom to ask although every breaker is open; None, with `error`, if all are long pauses."""
        self._had_last_resort = True
        pauses = [(opened.seconds_left, target) for opened, target in self._skipped if opened.is_pause]
        failed = [(opened, target) for opened, target in self._skipped if not opened.is_pause]
        if pauses:
            seconds, target = min(pauses, key=lambda pause: pause[0])
            if seconds <= MAX_WAIT_SECONDS:
                await asyncio.sleep(max(0.0, seconds))
                return target
            if not failed:
                self.error = ProviderRateLimited(status=429, retry_after=seconds)
                self.error.model = target.candidate.model.key
                return None
        _opened, target = min(failed, key=lambda one: (one[0].code in OPERATOR_CODES, -one[0].failed_seconds_ago))
        return replace(target, trial=LAST_RESORT)


def _targets_of(candidate: Candidate, cache_key: str) -> list[_Target]:
    """Return a candidate once for each API key. A conversation begins with the same one: its prefix is cached there."""
    providers: Iterable[Provider] = candidate.provider.with_each_api_key()
    if cache_key and len(candidate.provider.api_keys) > 1:
        providers = sorted(
            providers, key=lambda one: blake2b(f"{cache_key}{one.api_key}".encode(), digest_size=8).digest()
        )
    return [_Target(candidate, one, breaker_id(one, candidate.model.key)) for one in providers]


class _Attempt:
    """One request to one target, and its report to the breakers. One that was stopped neither succeeded nor failed."""

    __slots__ = ("begun_at", "first_at", "request", "target", "trial")

    def __init__(self, target: _Target, request: AnswerRequest) -> None:
        self.target = target
        self.request = request
        self.trial = target.trial  # until it is reported
        self.begun_at = monotonic()
        self.first_at = 0.0

    def note_first_event(self) -> None:
        """Report a trial that succeeds: others need not wait for its end."""
        self.first_at = monotonic()
        if self.trial:
            self._report("success")

    def note_success(self) -> None:
        usage = self.request.find_usage()
        first_seconds, streaming_seconds = self.first_at - self.begun_at, monotonic() - self.first_at
        names = self.target.candidate.model.provider, self.target.candidate.model.key
        ATTEMPTS.labels(*names, "ok").inc()
        PROVIDER_FIRST.labels(*names).observe(first_seconds)
        if usage and usage.output >= MIN_SPEED_TOKENS and streaming_seconds >= MIN_SPEED_SECONDS:
            TOKEN_RATE.labels(*names).observe(usage.output / streaming_seconds)
        self._note_span("ok")
        fields = success_fields(self.target.candidate.model, usage, first_seconds, streaming_seconds)
        self._report("success", counter_fields=fields)

    def note_failure(self, error: ProviderError) -> None:
        error.model = self.target.candidate.model.key
        has_begun = bool(self.first_at)
        if not has_begun:
            self.request.note_failed(error)
        _log_failure(self.target, error, has_begun=has_begun)
        verdict, pause_ms = verdict_on(error, has_begun=has_begun)
        model = self.target.candidate.model
        ATTEMPTS.labels(model.provider, model.key, error.code).inc()
        self._note_span(error.code)
        tell_operators = partial(alert_of_error, self.target.provider, model.key, error.code)
        asker = self.request.end_user if may_be_the_questions(error) else ""
        # A 403 may be one question's filter; a model that is gone is told at once: a small site has no second person.
        waits_for_another = bool(asker) and error.code != "not_found"
        if not waits_for_another:
            tell_operators()
        self._report(
            verdict,
            error.code,
            pause_ms,
            failure_fields(model, error.code),
            asker=asker,
            when_opened=tell_operators if waits_for_another else None,
        )

    def _note_span(self, result: str) -> None:
        model = self.target.candidate.model
        note_span("attempt", monotonic() - self.begun_at, provider=model.provider, model=model.key, result=result)

    def end(self) -> None:
        if self.trial:
            self._report("neutral")

    def _report(
        self,
        verdict: Verdict,
        code: str = "",
        pause_ms: int = 0,
        counter_fields: tuple[str, ...] = (),
        *,
        asker: str = "",
        when_opened: Callable[[], None] | None = None,
    ) -> None:
        trial, self.trial = self.trial, ""
        report = Report(self.target.breaker, verdict, code, pause_ms, trial, counter_fields, asker)
        breakers().report(report, when_opened=when_opened)


def request_to(candidate: Candidate, request: AnswerRequest, provider: Provider | None = None) -> ModelRequest:
    """Return what one model is sent; `provider` is the candidate's with another API key."""
    model = candidate.model
    return ModelRequest(
        provider=provider or candidate.provider,
        model=model.provider_model,
        messages=request.messages,
        max_output=request.max_output,
        max_tokens_parameter=model.max_tokens_parameter,
        reasons=model.reasons,
        effort=request.effort if request.effort in model.effort_levels else "",
        options=request.options,
        cache_key=request.cache_key,
        end_user=request.end_user,
        pace=request.pace,
        note_sent=partial(request.note_sent, candidate),
    )


async def _stream_in_time(target: _Target, request: AnswerRequest) -> AsyncGenerator[Event]:
    """Yield one model's events; raises TimedOut when neither the first nor a sign of life comes in time.

    A trial gets no more time for signs of life: its claim of the breaker would end, and somebody else would try, too.
    """

    def wait_on() -> None:
        if not target.trial and deadline.when() is not None and not deadline.expired():
            deadline.reschedule(asyncio.get_running_loop().time() + target.timeout_seconds)

    asked = replace(request_to(target.candidate, request, target.provider), note_life=wait_on)
    try:
        async with asyncio.timeout(target.timeout_seconds) as deadline:
            async with aclosing(stream_of(target.provider)(asked)) as events:
                async for event in events:
                    if deadline.when() is not None:
                        deadline.reschedule(None)
                    yield event
    except TimeoutError as error:
        raise TimedOut from error


def _may_retry(error: ProviderError) -> bool:
    return error.retryable and (error.retry_after or 0) <= MAX_WAIT_SECONDS


def _log_failure(target: _Target, error: ProviderError, *, has_begun: bool) -> None:
    """Log a failure by its code alone."""
    model, digest = target.candidate.model.key, api_key_digest(target.provider.api_key)
    fields = {"model": model, "code": error.code, "status": error.status, "has_begun": has_begun}
    logger.warning("Provider failed", extra={**fields, "key": digest})
