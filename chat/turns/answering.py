"""One turn, run: claim, ask, write the live text, close. Nothing here calls back upward."""

import asyncio
import hashlib
import logging
import time
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import DatabaseError
from django.utils import timezone

from billing import entitlements
from chat.attachments.binding import decode_attached
from chat.errors import SENTENCES
from chat.llm import dispatch, selection
from chat.llm.catalog import Candidate
from chat.llm.dispatch import AnswerRequest, AnswerStarted
from chat.llm.pricing import Price, price_of, write_price
from chat.llm.providers.base import Delta, Finish
from chat.llm.providers.errors import ProviderError
from chat.models import LanguageModel
from chat.turns import answer_cache, prompts
from chat.turns.answer_cache import CachedAnswer, CacheLookup
from chat.turns.closing import close_turn, make_outcome
from chat.turns.log import Begun, EntryKind
from chat.turns.writer import LiveText, LogWriter
from core.errors import DomainError
from core.threads import in_thread
from history import access, progress, tree
from history.models import Turn
from history.progress import Outcome

logger = logging.getLogger(__name__)

FLUSH_PATIENCE_SECONDS = 10
"""How long a finished answer waits for an unreachable Redis before it is saved without it."""
SAVE_PAUSES_SECONDS = (0.5, 2, 5)
MAX_TOKEN_CHARACTERS = 32
"""Characters a token, at most: a provider that ignores its cap is cut off at this many times the cap."""

CutReason = Literal["stop", "drain", "lost"]


@dataclass(slots=True)
class Job:
    """A claimed turn: its prompt, who may answer, and how far it is."""

    turn: Turn
    candidates: list[Candidate]
    prompt: AnswerRequest
    recall: CacheLookup | None = None  # None where the cache has no say
    kept: CachedAnswer | None = None  # the answer it has
    answering: AnswerStarted | None = None
    finish: Finish | None = None
    characters: int = 0
    thinks_since: float | None = None  # time.monotonic() of the first reasoning, until the first text
    reasoning_ms: int = 0
    cause: CutReason | None = None  # why it is being cut short
    task: "asyncio.Task[None] | None" = field(default=None, repr=False)

    @property
    def is_by_first(self) -> bool:
        """Whether the candidate the cache was asked for is who answers."""
        return self.answering is not None and self.answering.candidate is self.candidates[0]

    @property
    def is_first_answered(self) -> bool:
        """Whether this is the first answer on its way from the root, and complete."""
        is_first = all(message.role != "assistant" for message in self.prompt.messages) and not self.turn.trimmed_turns
        return is_first and self.turn.status == Turn.Status.COMPLETED and bool(self.turn.answer)

    def cut_short(self, cause: CutReason) -> None:
        """Stop asking; what was shown is kept."""
        if self.cause is None:
            self.cause = cause
            if self.task is not None:
                self.task.cancel()

    def has_thought(self) -> None:
        """Note how long, if it was thinking."""
        if self.thinks_since is not None:
            self.reasoning_ms = max(1, round((time.monotonic() - self.thinks_since) * 1_000))
            self.thinks_since = None


def take_job(turn_id: UUID) -> tuple[Turn | None, Job | None]:
    """Return a turn, None if it was erased, and its job if nobody has claimed it yet and this call did."""
    turn = access.find_turn(turn_id)
    return turn, prepare_job(turn) if turn is not None and turn.is_open and turn.gen == 0 else None


def prepare_job(turn: Turn) -> Job | None:
    """Claim the turn and make its job; None if somebody else was faster, or if it cannot be run any more.

    The latter, its model is gone, say, closes it.
    """
    if not progress.claim(turn):
        return None
    try:
        files = decode_attached(turn.attachments)
        offered = prompts.filter_capable(_candidates(turn), files)
        parent = access.find_turn(turn.parent_id) if turn.parent_id else None
        prompt = prompts.build_for(
            offered, tree.path_to_root(parent), turn.question, files, max_output=turn.max_output, owner_id=turn.owner_id
        )
    except DomainError as error:
        logger.warning("Turn cannot run", extra={"turn_id": turn.pk, "code": error.code})
        code = error.code if error.code in SENTENCES else "not_found"
        close_turn(turn, Outcome(Turn.Status.FAILED, error=code))
        return None
    asked = AnswerRequest(
        messages=prompt.messages,
        max_output=turn.max_output,
        effort=turn.effort,
        cache_key=str(turn.conversation_id),
        end_user=_pseudonym(turn.owner_id),
    )
    return Job(turn, offered, asked, _recall(turn, parent, offered[0], asked))


def _recall(turn: Turn, parent: Turn | None, first: Candidate, asked: AnswerRequest) -> CacheLookup | None:
    """Return the turn's place in the answer cache; None when there is none, or when something is attached.

    A turn that does not come right after its parent has turns beside it that came before: somebody asks again, and
    wants another answer.
    """
    if settings.CACHE_TTL <= 0 or turn.attachments:
        return None
    is_again = turn.seq != (parent.seq if parent else 0) + 1
    digest = answer_cache.question_digest(turn.owner_id, dispatch.request_to(first, asked))
    return CacheLookup(turn.owner_id, digest, is_wanted=not is_again)


def _candidates(turn: Turn) -> list[Candidate]:
    """Return whom the reservation was made for; a turn that was opened before those were kept has whoever may answer."""
    allowed = entitlements.entitlements_of(turn.owner_id)
    if turn.candidates and turn.requested_model == selection.AUTO:
        return selection.decode_candidates(turn.candidates, allowed)
    return selection.candidates_for(turn.requested_model, allowed)


async def run_turn(job: Job, live: LiveText, writer: LogWriter) -> bool:
    """Ask until there is an outcome, then save and settle it; return whether the turn was still ours to close."""
    job.task = asyncio.create_task(_ask(job, live, writer))
    live.told = lambda: job.cut_short("lost")
    if job.cause is not None or live.is_lost:  # stopped before it began
        job.task.cancel()
    try:
        await asyncio.wait([job.task])
    finally:
        job.task.cancel()
    if live.is_lost or (job.cause == "drain" and live.is_empty):
        return False  # somebody else has it, or may have it: nothing was shown
    outcome = _outcome(job, live, asyncio.CancelledError() if job.task.cancelled() else job.task.exception())
    return await _close(job, live, writer, outcome)


async def _ask(job: Job, live: LiveText, writer: LogWriter) -> None:
    """Write the answer into `live` as it comes; raises what broke it off."""
    longest = job.turn.max_output * MAX_TOKEN_CHARACTERS
    prompt = replace(job.prompt, pace=partial(writer.beat, live))
    if job.kept is not None:
        answers = answer_cache.stream_cached(job.kept, job.candidates[0], prompt.pace)
    else:
        answers = dispatch.answer_with_failover(job.candidates, prompt)
    async with asyncio.timeout(settings.TURN_SECONDS), aclosing(answers) as events:
        async for event in events:
            match event:
                case Delta():
                    is_first = live.is_empty
                    if event.reasoning:
                        if is_first:
                            job.thinks_since = time.monotonic()
                        live.add(EntryKind.REASONING, event.reasoning)
                    if event.text:
                        job.has_thought()
                        live.add(EntryKind.TEXT, event.text)
                    if is_first:
                        job.turn.first_token_at = timezone.now()
                    writer.changed(live, urgently=is_first)
                    job.characters += len(event.text) + len(event.reasoning)
                    if job.characters > longest:
                        job.finish = Finish("length", None)
                        return
                case AnswerStarted():
                    job.answering = event
                    live.notes[EntryKind.BEGUN] = encode_begun(
                        event.candidate.model,
                        _replaced(event),
                        event.instead_because,
                        price=price_of(event.candidate.model, job.turn.created_at),
                        is_from_cache=job.kept is not None,
                    )
                case Finish():
                    job.finish = event


def _outcome(job: Job, live: LiveText, error: BaseException | None) -> Outcome:
    """Return how the turn ended, by what the asking raised."""
    status, code = _status(job, live, error)
    answering = job.answering
    return make_outcome(
        job.turn,
        status=status,
        answer=live.text,
        reasoning=live.reasoning,
        model=answering.candidate.model if answering else None,
        instead_of=_replaced(answering) if answering else "",
        instead_because=answering.instead_because if answering else "",
        usage=job.finish.usage if job.finish else None,
        is_from_cache=job.kept is not None,
        finish_reason=job.finish.reason if job.finish else "",
        error=code,
    )


def _status(job: Job, live: LiveText, error: BaseException | None) -> tuple[str, str]:
    """Return the status and error code. What showed something is interrupted, what showed nothing failed."""
    broken = Turn.Status.FAILED if live.is_empty else Turn.Status.INTERRUPTED
    match error:
        case None if job.finish and job.finish.reason == "content_filter":
            return broken, "content_filter"
        case None:
            return Turn.Status.COMPLETED, ""
        case asyncio.CancelledError() if job.cause == "stop":
            return Turn.Status.STOPPED, ""
        case asyncio.CancelledError():
            return broken, "runner_lost"
        case ProviderError():
            return broken, error.code
        case TimeoutError():
            return broken, "timeout"
    logger.error("Turn broke", exc_info=error, extra={"turn_id": job.turn.pk})
    return broken, "internal_error"


async def _close(job: Job, live: LiveText, writer: LogWriter, outcome: Outcome) -> bool:
    """Put the outcome into the log, then save and settle it.

    The log first: if this process dies in between, whoever finds the turn closes it with what the provider reported.
    """
    job.has_thought()
    reasoning_ms = job.kept.reasoning_ms if job.kept else job.reasoning_ms
    outcome = msgspec.structs.replace(outcome, first_token_at=job.turn.first_token_at, reasoning_ms=reasoning_ms)
    live.notes[EntryKind.OUTCOME] = encode_outcome(outcome)
    told = asyncio.Event()
    live.told = told.set
    writer.changed(live, urgently=True)
    with suppress(TimeoutError):
        async with asyncio.timeout(FLUSH_PATIENCE_SECONDS):
            await told.wait()
    if live.is_lost:
        return False
    return await _save(job.turn, outcome)


async def _save(turn: Turn, outcome: Outcome) -> bool:
    """Save and settle; a database that is away for a moment is waited for. After that the sweep does it."""
    for pause in SAVE_PAUSES_SECONDS:
        try:
            return await in_thread(close_turn, turn, outcome)
        except DatabaseError as error:
            fields = {"turn_id": turn.pk, "error": type(error).__name__}
            logger.warning("Turn not saved yet", extra=fields)
            await asyncio.sleep(pause)
    return await in_thread(close_turn, turn, outcome)


def encode_begun(
    model: LanguageModel,
    instead_of: str = "",
    instead_because: str = "",
    *,
    price: Price | None = None,
    is_from_cache: bool = False,
) -> str:
    """Return what the log says of who answers; with the price, so that whoever closes the turn reckons as this process
    would."""
    begun = Begun(
        model=model.key,
        provider=model.provider,
        instead_of=instead_of,
        instead_because=instead_because,
        price=write_price(price) if price else "",
        is_from_cache=is_from_cache,
    )
    return msgspec.json.encode(begun).decode()


def _replaced(answering: AnswerStarted) -> str:
    return answering.instead_of.model.key if answering.instead_of else ""


def encode_outcome(outcome: Outcome) -> str:
    """Return the outcome without its texts, which the log has already."""
    return msgspec.json.encode(msgspec.structs.replace(outcome, answer="", reasoning="")).decode()


def _pseudonym(owner_id: int) -> str:
    """Return a name for the person that a provider may see: stable, and not to be turned back."""
    return hashlib.blake2b(str(owner_id).encode(), key=settings.SECRET_KEY.encode()[:64], digest_size=16).hexdigest()
