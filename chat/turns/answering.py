"""Answers a claimed turn: asks a model, writes the live text, saves and settles the outcome."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import msgspec
from django.conf import settings
from django.db import DatabaseError
from django.utils import timezone
from redis.exceptions import RedisError

from chat.llm import dispatch
from chat.llm.dispatch import AnswerEvent, AnswerStarted
from chat.llm.pricing import price_of
from chat.llm.providers.base import Delta, Finish, TokenUsage
from chat.llm.providers.errors import ProviderError
from chat.llm.usage import MAX_TOKEN_CHARACTERS, believed_usage
from chat.models import LanguageModel
from chat.turns import answer_cache
from chat.turns.called_tools import texts_of_calls, write_calls
from chat.turns.claiming import ClaimedTurn
from chat.turns.closing import close_turn, settle_deleted
from chat.turns.leases import find_stopped_holder
from chat.turns.log import EntryKind, encode_begun, encode_outcome
from chat.turns.outcomes import cached_outcome, priced_outcome, with_unanswered
from chat.turns.sent_requests import SentRequest, SentRequests
from chat.turns.writer import LiveText, LogWriter
from core.threads import in_thread
from history.models import Turn
from history.progress import Outcome

logger = logging.getLogger(__name__)

FLUSH_PATIENCE_SECONDS = 10
"""How long a finished answer waits for an unreachable Redis before it is saved without it."""
SAVE_PAUSES_SECONDS = (0.5, 2, 5)


async def answer_turn(claimed: ClaimedTurn, live: LiveText, writer: LogWriter, sent: SentRequests) -> bool:
    """Ask until there is an outcome, then save and settle it; return whether the turn was still ours to close."""
    asking = claimed.asking = asyncio.create_task(_ask(claimed, live, writer, sent))
    if claimed.stop_reason is not None or live.is_lost:  # stopped before it began
        claimed.cancel_asking()
    try:
        await asyncio.wait((asking, live.lost, live.broken), return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            claimed.cancel_asking()
            await asyncio.wait((asking,))
    finally:
        asking.cancel()
    await sent.written()
    if claimed.stop_reason == "drain" and live.is_empty:
        return False  # another runner may have it: nothing was shown
    stopped = await _find_stopped(claimed, sent)
    error = asyncio.CancelledError() if asking.cancelled() else asking.exception()
    try:
        outcome = _outcome(claimed, live, live.broken.exception() if live.broken.done() else error, stopped)
    except Exception as broken:  # noqa: BLE001  left for later, it would be the same then, and never end
        live.break_off(broken)
        claimed.finish = None
        outcome = _outcome(claimed, live, broken, stopped)
    outcome = with_unanswered(live.turn, outcome, sent.list_all(), answered=sent.in_flight_id)
    return await _close(claimed, live, writer, outcome)


async def _ask(claimed: ClaimedTurn, live: LiveText, writer: LogWriter, sent: SentRequests) -> None:
    """Write the answer into `live` as it comes; raises what broke it off."""
    try:
        await _write_events(claimed, live, writer, sent)
    except (SystemExit, KeyboardInterrupt) as error:  # asyncio lets these end the process, and every other turn
        raise RuntimeError from error


async def _write_events(claimed: ClaimedTurn, live: LiveText, writer: LogWriter, sent: SentRequests) -> None:
    """The same. A model that ignores its cap is cut off."""
    max_characters = claimed.turn.max_output * MAX_TOKEN_CHARACTERS
    async with asyncio.timeout(settings.TURN_SECONDS), aclosing(_stream(claimed, live, writer, sent)) as events:
        async for event in events:
            match event:
                case Delta():
                    calls = write_calls(event.tool_calls) if event.tool_calls else ""
                    claimed.characters += len(event.text) + len(event.reasoning) + len(calls)
                    too_many = claimed.characters - max_characters
                    if too_many > 0:
                        event, calls = _shorten(event, too_many - len(calls)), ""
                    is_first = live.is_empty
                    if event.reasoning:
                        if is_first:
                            claimed.reasoning_since = time.monotonic()
                        live.add(EntryKind.REASONING, event.reasoning)
                    if event.text:
                        claimed.end_reasoning()
                        live.add(EntryKind.TEXT, event.text)
                    if calls:
                        claimed.end_reasoning()
                        live.add(EntryKind.TOOL_CALLS, calls)
                    if is_first:
                        claimed.turn.first_token_at = timezone.now()
                    writer.schedule(live, urgently=is_first)
                    if too_many > 0:
                        claimed.finish = Finish("length", None)
                        return
                case AnswerStarted():
                    claimed.started = event
                    live.begun = encode_begun(
                        event.candidate.model,
                        _instead_of(event),
                        event.instead_because,
                        price=price_of(event.candidate.model, claimed.turn.created_at),
                        is_from_cache=claimed.cached is not None,
                        request=sent.in_flight_id,
                    )
                case Finish():
                    claimed.finish = event


def _shorten(delta: Delta, characters: int) -> Delta:
    """Return a delta without its last characters; its text comes after its reasoning. Less than none cuts nothing."""
    characters = max(0, characters)
    text, whole = len(delta.text), len(delta.text) + len(delta.reasoning) - characters
    return Delta(delta.text[: max(0, text - characters)], delta.reasoning[: max(0, whole)])


def _stream(claimed: ClaimedTurn, live: LiveText, writer: LogWriter, sent: SentRequests) -> AsyncGenerator[AnswerEvent]:
    """Return the answer from the cache or from a model, read no faster than `live` is written."""
    pace = partial(writer.next_tick, live)
    if claimed.cached is not None:
        return answer_cache.stream_cached(claimed.cached, claimed.candidates[0], pace)
    request = replace(
        claimed.request,
        pace=pace,
        find_usage=lambda: _find_usage(claimed, live),
        note_sent=sent.note_sent,
        note_failed=sent.note_failed,
    )
    return dispatch.answer_with_failover(claimed.candidates, request)


def _find_usage(claimed: ClaimedTurn, live: LiveText) -> TokenUsage | None:
    """Return what is believed of the reported usage. It is judged once, as a doubt is logged."""
    if claimed.started is None or claimed.finish is None:
        return None
    if claimed.judged is not claimed.finish:
        claimed.judged = claimed.finish
        claimed.usage = believed_usage(
            claimed.finish,
            model=claimed.started.candidate.model,
            messages=claimed.request.messages,
            max_output=claimed.request.max_output,
            shown=(live.text, live.reasoning, *texts_of_calls(live.tool_calls)),
            options=claimed.request.options,
            turn_id=claimed.turn.pk,
        )
    return claimed.usage


async def _find_stopped(claimed: ClaimedTurn, sent: SentRequests) -> SentRequest | None:
    """Return the request that was in flight when the turn's person stopped it. If Redis is away, nobody pays."""
    if claimed.stop_reason != "request" or sent.in_flight is None:
        return None
    try:
        return sent.in_flight if await find_stopped_holder(sent.redis, claimed.turn.pk) else None
    except (RedisError, OSError):
        return None


def _outcome(claimed: ClaimedTurn, live: LiveText, error: BaseException | None, stopped: SentRequest | None) -> Outcome:
    """Return how the turn ended, by what the asking raised and the request that was in flight when it was stopped."""
    status, code = _status(claimed, live, error)
    started, finish = claimed.started, claimed.finish
    if status != Turn.Status.STOPPED:
        stopped = None
    model = started.candidate.model if started else _asked_model(claimed, error, stopped)
    ended = Outcome(
        status,
        live.text,
        live.reasoning,
        live.tool_calls or None,
        instead_of=_instead_of(started) if started else "",
        instead_because=started.instead_because if started else "",
        finish_reason=finish.reason if finish else "",
        error=code,
        first_token_at=claimed.turn.first_token_at,
    )
    if claimed.cached is not None and model is not None:
        return cached_outcome(ended, model)
    usage = _find_usage(claimed, live)
    return priced_outcome(claimed.turn, ended, model=model, usage=usage, stopped=stopped)


def _asked_model(
    claimed: ClaimedTurn, error: BaseException | None, stopped: SentRequest | None
) -> LanguageModel | None:
    """Return the last model that was asked where nobody began to answer."""
    key = error.model if isinstance(error, ProviderError) else stopped.model if stopped else ""
    return next((one.model for one in claimed.candidates if one.model.key == key), None)


def _status(claimed: ClaimedTurn, live: LiveText, error: BaseException | None) -> tuple[str, str]:
    """Return the status and error code. What showed something is interrupted, what showed nothing failed."""
    broken = Turn.Status.FAILED if live.is_empty else Turn.Status.INTERRUPTED
    match error:
        case None if code := _missing_answer(claimed.finish, live):
            return broken, code
        case None:
            return Turn.Status.COMPLETED, ""
        case asyncio.CancelledError() if claimed.stop_reason == "request":
            return Turn.Status.STOPPED, ""
        case asyncio.CancelledError():
            return broken, "runner_lost"
        case ProviderError():
            return broken, error.code
        case TimeoutError():
            return broken, "timeout"
    logger.error("Turn broke", exc_info=error, extra={"turn_id": claimed.turn.pk})
    return broken, "internal_error"


def _missing_answer(finish: Finish | None, live: LiveText) -> str:
    """Return the code of a finished answer that is none: withheld, declined, a call of a tool that was not offered, or
    without a word."""
    if live.tool_calls and finish is not None and finish.reason == "tool_call":
        return ""
    if finish is not None and finish.reason in ("content_filter", "refusal", "tool_call"):
        return finish.reason
    if live.text.strip():
        return ""
    return "thought_too_long" if finish is not None and finish.reason == "length" else "empty_answer"


async def _close(claimed: ClaimedTurn, live: LiveText, writer: LogWriter, outcome: Outcome) -> bool:
    """Put the outcome into the log, then save and settle it; return whether the turn was still ours.

    The log comes first: if this process dies in between, whoever finds the turn closes it with this outcome.
    """
    claimed.end_reasoning()
    reasoning_ms = claimed.cached.reasoning_ms if claimed.cached else claimed.reasoning_ms
    outcome = msgspec.structs.replace(outcome, reasoning_ms=reasoning_ms)
    live.outcome = encode_outcome(outcome)
    if not live.is_lost:
        writer.schedule(live, urgently=True)
    await asyncio.wait(
        (live.outcome_logged, live.lost), timeout=FLUSH_PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED
    )
    if live.is_lost:  # another runner has it, or it was deleted
        await in_thread(settle_deleted, live.turn, outcome)
        return False
    return await _save(live, outcome)


async def _save(live: LiveText, outcome: Outcome) -> bool:
    """Save and settle; a database that is away for a moment is waited for. After that the sweep does it."""
    for pause in SAVE_PAUSES_SECONDS:
        try:
            return await _save_once(live, outcome)
        except DatabaseError as error:
            fields = {"turn_id": live.turn.pk, "error": type(error).__name__}
            logger.warning("Turn not saved yet", extra=fields)
            await asyncio.sleep(pause)
    return await _save_once(live, outcome)


async def _save_once(live: LiveText, outcome: Outcome) -> bool:
    """Save and settle, once the turn is not being claimed again: either one goes by its present generation."""
    async with live.taking:
        return await in_thread(close_turn, live.turn, outcome)


def _instead_of(started: AnswerStarted) -> str:
    return started.instead_of.model.key if started.instead_of else ""
