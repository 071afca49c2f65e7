"""Claims a turn for this runner, and prepares what its models are sent."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Literal
from uuid import UUID

from django.conf import settings

from billing import entitlements
from chat.attachments.binding import decode_attached
from chat.errors import SENTENCES
from chat.llm import catalog, dispatch, recordings, selection
from chat.llm.catalog import RECORDED, Candidate
from chat.llm.dispatch import AnswerRequest, AnswerStarted
from chat.llm.pricing import RESERVE_BYTES_PER_TOKEN, SETTLE_BYTES_PER_TOKEN
from chat.llm.providers.base import Finish, TokenUsage
from chat.llm.providers.streaming import END_SECONDS
from chat.models import LanguageModel
from chat.turns import answer_cache, prompts
from chat.turns.answer_cache import CachedAnswer, CacheSlot
from chat.turns.asked import read_asked
from chat.turns.closing import close_turn
from chat.turns.needs import knows_needs_of
from chat.turns.outcomes import with_unanswered
from chat.turns.sent_requests import SentRequest
from core.errors import DomainError
from history import access, progress, tree
from history.models import Turn
from history.progress import Outcome
from history.temporary import is_temporary

logger = logging.getLogger(__name__)

StopReason = Literal["request", "drain"]


@dataclass(slots=True)
class ClaimedTurn:
    """A turn this runner has claimed: who may answer, what they are sent, and how far the answer is."""

    turn: Turn
    candidates: list[Candidate]
    request: AnswerRequest
    sent_before: Sequence[SentRequest] = ()  # by runners that had the turn and are gone
    cache_slot: CacheSlot | None = None  # None where the cache is not used
    cached: CachedAnswer | None = None  # the answer that the cache has, or that was recorded
    started: AnswerStarted | None = None
    finish: Finish | None = None
    judged: Finish | None = None  # the last one whose usage was believed or not
    usage: TokenUsage | None = None  # what is believed of it
    characters: int = 0
    reasoning_since: float | None = None  # time.monotonic() of the first reasoning, until the first text
    reasoning_ms: int = 0
    stop_reason: StopReason | None = None
    asking: "asyncio.Task[None] | None" = field(default=None, repr=False)
    _is_asking_cancelled: bool = field(default=False, init=False, repr=False)

    @property
    def is_by_first_candidate(self) -> bool:
        """Whether who answers is the candidate the cache was read for."""
        return self.started is not None and self.started.candidate is self.candidates[0]

    @property
    def is_recorded(self) -> bool:
        return self.candidates[0] is RECORDED

    @property
    def is_first_answer(self) -> bool:
        """Whether this is the first answer on its way from the root, and complete: what a program asks has no title,
        unless it is kept."""
        if self.turn.is_completion and is_temporary(self.turn.pk):
            return False
        is_first = all(message.role != "assistant" for message in self.request.messages) and not self.turn.trimmed_turns
        return is_first and self.turn.status == Turn.Status.COMPLETED and bool(self.turn.answer)

    def stop(self, reason: StopReason) -> None:
        """Stop asking; what was shown is kept. The first reason holds.

        After the finish reason nothing more is written, and the usage has its time: else a stop made hidden reasoning
        free.
        """
        if self.stop_reason is None:
            self.stop_reason = reason
            if self.finish is None:
                self.cancel_asking()
            else:
                asyncio.get_running_loop().call_later(END_SECONDS, self.cancel_asking)

    def cancel_asking(self) -> None:
        """Cancel it once: a second time would cut short what it does to clean up."""
        if self.asking is not None and not self._is_asking_cancelled:
            self._is_asking_cancelled = True
            self.asking.cancel()

    def end_reasoning(self) -> None:
        """Note how long the model reasoned, if it did until now."""
        if self.reasoning_since is not None:
            self.reasoning_ms = max(1, round((time.monotonic() - self.reasoning_since) * 1_000))
            self.reasoning_since = None


def find_and_claim(turn_id: UUID, *, may_run: bool) -> tuple[Turn | None, ClaimedTurn | None]:
    """Return the turn, None if it was erased; and the claimed turn, None unless it was unclaimed until this call, and
    this release knows all it needs."""
    turn = access.find_turn(turn_id)
    if turn is None or not may_run or not turn.is_open or turn.gen > 0 or not knows_needs_of(turn):
        return turn, None
    return turn, claim_turn(turn)


def claim_turn(turn: Turn, sent_before: Sequence[SentRequest] = ()) -> ClaimedTurn | None:
    """Claim the turn under its next generation; None if somebody else was faster. `sent_before` are the requests of
    runners that are gone.

    None, too, if it cannot be run any more, because its model is gone, say: then the turn is closed as failed. What may
    fail comes before the claim: a store that is away uses up no generation.
    """
    try:
        claimed = _prepare(turn)
    except DomainError as error:
        logger.warning("Turn cannot run", extra={"turn_id": turn.pk, "code": error.code})
        code = error.code if error.code in SENTENCES else "not_found"
        close_turn(turn, with_unanswered(turn, Outcome(Turn.Status.FAILED, error=code), sent_before))
        return None
    claimed.sent_before = sent_before
    return claimed if progress.claim(turn) else None


def _prepare(turn: Turn) -> ClaimedTurn:
    return _prepare_completion(turn) if turn.is_completion else _prepare_question(turn)


def _prepare_completion(turn: Turn) -> ClaimedTurn:
    asked = read_asked(turn.pk)
    request = AnswerRequest(
        messages=asked.messages,
        max_output=turn.max_output,
        effort=turn.effort,
        options=asked.options,
        cache_key=_digest(f"{turn.owner_id}\n{asked.beginning}"),
        end_user=_pseudonym(turn.owner_id),
    )
    return ClaimedTurn(turn, prompts.filter_seeing(_list_candidates(turn), asked), request)


def _prepare_question(turn: Turn) -> ClaimedTurn:
    files = decode_attached(turn.attachments)
    candidates = prompts.filter_capable(_list_candidates(turn), files)
    parent = access.find_turn(turn.parent_id) if turn.parent_id else None
    prompt = prompts.build_prompt(
        _list_models(turn, candidates),
        takewhile(lambda past: past.depth >= turn.trimmed_turns, tree.path_to_root(parent)),
        turn.question,
        files,
        max_output=turn.max_output,
        max_tokens=turn.input_tokens * SETTLE_BYTES_PER_TOKEN // RESERVE_BYTES_PER_TOKEN,
        owner_id=turn.owner_id,
        instructions=turn.instructions or "",
    )
    request = AnswerRequest(
        messages=prompt.messages,
        max_output=turn.max_output,
        effort=turn.effort,
        cache_key=str(turn.conversation_id),
        end_user=_pseudonym(turn.owner_id),
    )
    if candidates[0] is RECORDED:
        cached = answer_cache.recorded_answer(recordings.get_answer(turn.question))
        return ClaimedTurn(turn, candidates, request, cached=cached)
    slot = _find_cache_slot(turn, parent, candidates[0], request)
    return ClaimedTurn(turn, candidates, request, cache_slot=slot)


def _find_cache_slot(turn: Turn, parent: Turn | None, first: Candidate, request: AnswerRequest) -> CacheSlot | None:
    """Return the turn's place in the answer cache; None where the cache is off, when something is attached, and in a
    temporary conversation, whose answers are kept nowhere else.

    A turn that does not come right after its parent has siblings that came before: the question is asked again, and
    another answer is wanted.
    """
    if settings.CACHE_TTL <= 0 or turn.attachments or is_temporary(turn.pk):
        return None
    is_asked_again = turn.seq != (parent.seq if parent else 0) + 1
    digest = answer_cache.question_digest(turn.owner_id, dispatch.request_to(first, request))
    return CacheSlot(turn.owner_id, digest, may_reuse=not is_asked_again)


def _list_candidates(turn: Turn) -> list[Candidate]:
    """Return the chosen candidates that are still on offer and in the plan; raises the reason when none is."""
    allowed = entitlements.entitlements_of(turn.owner_id)
    if turn.requested_model == selection.AUTO:
        return selection.decode_candidates(turn.candidates, allowed)
    return [selection.get_named(turn.requested_model, allowed)]


def _list_models(turn: Turn, candidates: list[Candidate]) -> list[LanguageModel]:
    """Return the models the prompt was made for when the question was asked, on offer or not.

    Nothing dearer is sent than what was reserved: were those forgotten that cannot answer any more, a PDF might go as
    its pages where its text was reserved. What an operator changed meanwhile is left to the limit of tokens.
    """
    chosen = map(catalog.find_model, selection.decode_keys(turn.candidates))
    return [model for model in chosen if model is not None] or [candidate.model for candidate in candidates]


def _pseudonym(owner_id: int) -> str:
    """Return a name for the person that a provider may see: always the same, and not traceable to them."""
    return _digest(str(owner_id))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), key=settings.SECRET_KEY.encode()[:64], digest_size=16).hexdigest()
