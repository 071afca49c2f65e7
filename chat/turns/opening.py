"""The beginning of a turn: everything that can refuse it comes before anything is written or spent."""

import logging
import time
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal
from uuid import UUID

from django.conf import settings
from redis.exceptions import RedisError

from billing import entitlements, metering
from billing.entitlements import Budget, Entitlements
from billing.errors import AllowanceUsedUp, SpendLimitReached
from billing.spending import SupplierHold
from chat.attachments.binding import Attached, bind, check_usable, encode_attached
from chat.errors import BadText, TextTooLong
from chat.llm import health, spending
from chat.llm.difficulty import Route
from chat.llm.pricing import RESERVE_BYTES_PER_TOKEN, SETTLE_BYTES_PER_TOKEN, estimate_tokens, most_it_can_cost
from chat.llm.selection import AUTO, QuestionProfile, Selection, check_effort, choose, encode_candidates
from chat.turns import limits, prompts
from chat.turns.limits import Limit
from chat.turns.log import ENQUEUE, QUEUE, WAKE_UPS, Entry, EntryKind, encode_entries, queued_key
from chat.turns.queue import queue_room
from core.errors import Conflict, DomainError, NotFound, Unavailable
from core.redis_clients import sync_redis
from history import access, tree
from history.models import Conversation, Turn

logger = logging.getLogger(__name__)

QUEUED_SECONDS = 600
"""How long the mark of a queue entry lives; a turn waits less."""

KNOWN_TRIES = 60
KNOWN_PAUSE_SECONDS = 0.05

LATEST: Literal["latest"] = "latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What somebody asks. `parent_id` None begins a new branch at the root, LATEST continues the last turn.

    `effort` is one of the model's levels, or empty: as hard as the model thinks by itself.
    """

    turn_id: UUID
    conversation_id: UUID
    text: str
    model: str = ""
    effort: str = ""
    parent_id: UUID | Literal["latest"] | None = LATEST
    attachments: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenedTurn:
    """A turn that is waiting for a runner, or was known already. `limit` is None where there is none."""

    turn: Turn
    conversation: Conversation | None = None  # None for a turn that was known already
    limit: Limit | None = None

    @property
    def is_new(self) -> bool:
        return self.conversation is not None


def open_turn(owner_id: int, question: Question) -> OpenedTurn:
    """Check, reserve, write and queue one turn; the same id again, from its owner, returns what is there.

    Raises DomainError with nothing written or spent: NotFound, Conflict, BadText, TextTooLong, ContextExceeded,
    UnknownModel, NotInPlan, NoModel, BadEffort, QueueFull, RateLimited, TooManyAtOnce, AllowanceUsedUp, SpendLimitReached,
    ParentNotFinished, Unavailable, and what `attachments.using.check_usable`, `bind` and `prompts.able` raise.
    """
    try:
        return _open_new(owner_id, question)
    except DomainError:
        # The same question may have come in before, and only its own turn be in the way: looked up here, new
        # questions do not pay for it.
        if known := _find_known(owner_id, question):
            return known
        raise


class _AlreadyReserved(Exception):
    """Another request has, or had, a reservation for this turn."""


def clean_text(text: str, *, longest: int) -> str:
    """Return the text in NFC, without NUL and lone surrogates; raises BadText when nothing is left, or TextTooLong."""
    if len(text) > longest:
        raise TextTooLong
    whole = text.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "ignore")
    cleaned = unicodedata.normalize("NFC", whole).rstrip().lstrip("\r\n")  # the first line keeps its indentation
    if not cleaned:
        raise BadText
    return cleaned


def enqueue(turn: Turn) -> None:
    """Hand the turn to the runners, and tell the owner's open pages of it.

    An unreachable Redis is no error: the sweep finds queued turns without an entry.
    """
    word = encode_entries([Entry(turn.pk.bytes, EntryKind.OPENED, turn.gen, text=str(turn.owner_id))])
    try:
        script = sync_redis().register_script(ENQUEUE)
        script(keys=(QUEUE, queued_key(turn.pk)), args=(turn.pk.bytes, QUEUED_SECONDS, WAKE_UPS, word))
    except RedisError:
        logger.warning("Turn not queued yet", extra={"turn_id": turn.pk})


def _open_new(owner_id: int, question: Question) -> OpenedTurn:
    budget = entitlements.budget_of(owner_id)
    allowed = budget.entitlements
    text = clean_text(question.text, longest=allowed.question_characters)
    conversation = access.find_conversation(question.conversation_id)
    if conversation is not None and conversation.owner_id != owner_id:
        raise NotFound
    parent = _find_parent(owner_id, question, conversation)
    check_effort(question.effort, question.model)
    files = check_usable(
        owner_id, question.attachments, turn_id=question.turn_id, conversation_id=question.conversation_id
    )
    offer = _offer(question.model, allowed, _asked(text, files, parent, budget), files, parent)
    try:
        offer, limit = _reserve(owner_id, question.turn_id, budget, offer)
    except _AlreadyReserved:
        return _await_known(owner_id, question)
    except SpendLimitReached:
        spending.forget_spending()
        if question.model not in ("", AUTO):
            raise
        return _open_new(owner_id, question)  # the first one's day is over since a moment: another may answer
    try:
        bind(files, turn_id=question.turn_id, conversation_id=question.conversation_id)
    except Exception:
        metering.release(question.turn_id)
        with suppress(RedisError):
            limits.uncount_question(owner_id, allowed.turns_per_hour)
        raise
    turn = Turn(
        pk=question.turn_id,
        owner_id=owner_id,
        conversation_id=question.conversation_id,
        parent_id=parent.pk if parent else None,
        seq=parent.seq + 1 if parent and question.parent_id == LATEST else 0,  # a guess, 0 for none
        depth=parent.depth + 1 if parent else 0,
        question=text,
        attachments=encode_attached(files),
        **_chosen(question.model, offer.choice),
        effort=question.effort,
        max_output=offer.longest_answer,
        trimmed_turns=offer.prompt.trimmed_turns,
        input_tokens=offer.prompt.tokens(SETTLE_BYTES_PER_TOKEN),  # until the provider says better
    )
    if conversation is None:
        conversation, written = tree.start_conversation(turn)
    else:
        written = tree.add_turn(turn)
    if written is not turn:
        return _return_known(written, owner_id, question, allowed)
    if not conversation.title:
        tree.title_from_question(conversation, text)
    enqueue(turn)
    return OpenedTurn(turn, conversation, limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """Who may answer, what they are sent, and the most that can cost."""

    choice: Selection
    prompt: prompts.Prompt
    longest_answer: int
    amount_micros: int
    supplier_hold: SupplierHold | None
    cheaper: Callable[[int | None], "_Offer"]  # the same question again, for less than what it gets


def _asked(text: str, files: Sequence[Attached], parent: Turn | None, budget: Budget) -> QuestionProfile:
    """Return what matters for the choice."""
    words = estimate_tokens((prompts.INSTRUCTIONS, text))
    return QuestionProfile(
        question=text,
        least_tokens=words + prompts.least_tokens(files),
        tokens=words + prompts.most_tokens(files) + _tokens_before(parent),
        answer_tokens=min(budget.entitlements.answer_tokens, settings.MAX_TOKENS),
        last_model=parent.model if parent else "",
        has_images=any(file.kind == "image" for file in files),
        has_pdfs=any(file.kind == "pdf" for file in files),
        has_scans=any(map(prompts.is_scan, files)),
        left_micros=budget.left_micros,
    )


def _tokens_before(parent: Turn | None) -> int:
    """Return how long the conversation is, by the careful estimate.

    The turn before has been told; one that used nothing, it failed or came from the cache, has not, and is added up.
    """
    if parent is None:
        return 0
    if parent.input_tokens:
        told = parent.input_tokens + parent.output_tokens - parent.reasoning_tokens
        return told * SETTLE_BYTES_PER_TOKEN // RESERVE_BYTES_PER_TOKEN
    return estimate_tokens(text for turn in tree.path_to_root(parent) for text in (turn.question, turn.answer))


def _offer(
    model: str, allowed: Entitlements, asked: QuestionProfile, files: Sequence[Attached], parent: Turn | None
) -> _Offer:
    choice = choose(model, allowed, asked, resting=health.resting_models(), stopped=spending.stopped_providers())
    choice = replace(choice, candidates=prompts.filter_capable(choice.candidates, files))
    longest_answer = min(asked.answer_tokens, *(candidate.model.max_output for candidate in choice.candidates))
    prompt = prompts.build_for(
        choice.candidates, tree.path_to_root(parent), asked.question, files, max_output=longest_answer
    )
    tokens = prompt.tokens()
    amount = max(
        most_it_can_cost(candidate.model, input_tokens=tokens, output_tokens=longest_answer)
        for candidate in choice.candidates
    )

    def cheaper(left_micros: int | None) -> _Offer:
        less = amount - 1 if left_micros is None else min(left_micros, amount - 1)
        return _offer(model, allowed, replace(asked, tokens=tokens, left_micros=less), files, parent)

    return _Offer(
        choice=choice,
        prompt=prompt,
        longest_answer=longest_answer,
        amount_micros=amount,
        supplier_hold=spending.supplier_hold_for(
            choice.candidates[0], input_tokens=tokens, output_tokens=longest_answer
        ),
        cheaper=cheaper,
    )


def _chosen(model: str, choice: Selection) -> dict[str, str]:
    """Return what a turn keeps of the choice. Where nothing was named and there is one model, nobody chose."""
    is_plain = choice.route is None or (choice.route == Route.ONLY_ONE and not model)
    return {
        "requested_model": model or (choice.candidates[0].model.key if is_plain else AUTO),
        "candidates": encode_candidates(choice.candidates),
        "route": "" if is_plain or choice.route is None else choice.route.value,
    }


def _return_known(turn: Turn, owner_id: int, question: Question, allowed: Entitlements) -> OpenedTurn:
    """Return a turn that was there under a reservation given back before: it failed without costing anything."""
    limits.uncount_question(owner_id, allowed.turns_per_hour)
    if not turn.is_open:
        metering.release(turn.pk)
    return OpenedTurn(_check_known(turn, owner_id, question))


def _find_known(owner_id: int, question: Question) -> OpenedTurn | None:
    known = access.find_turn(question.turn_id)
    return OpenedTurn(_check_known(known, owner_id, question)) if known else None


def _check_known(turn: Turn, owner_id: int, question: Question) -> Turn:
    if turn.owner_id != owner_id or turn.conversation_id != question.conversation_id:
        raise Conflict
    return turn


def _await_known(owner_id: int, question: Question) -> OpenedTurn:
    """Return the turn of a question that was sent twice at once: the other request has reserved, and is writing it.

    Raises Conflict when it does not appear: the id was used, and its turn deleted.
    """
    for _ in range(KNOWN_TRIES):
        if known := _find_known(owner_id, question):
            return known
        time.sleep(KNOWN_PAUSE_SECONDS)
    raise Conflict


def _find_parent(owner_id: int, question: Question, conversation: Conversation | None) -> Turn | None:
    if question.parent_id is None:
        return None
    if isinstance(question.parent_id, UUID):
        return tree.find_parent(owner_id, question.conversation_id, question.parent_id)
    if conversation is None:
        return None
    latest = tree.find_latest(owner_id, question.conversation_id)
    return tree.check_finished(latest) if latest else None


def _reserve(owner_id: int, key: UUID, budget: Budget, offer: _Offer) -> tuple[_Offer, Limit | None]:
    """Count the question and hold the most it can cost; return for which offer. What is refused, or known, is not counted.

    Raises _AlreadyReserved when the id has a reservation that was not given back.
    """
    per_hour = budget.entitlements.turns_per_hour
    queue_room.join()
    try:
        limit = limits.count_question(owner_id, per_hour)
        try:
            offer, is_ours = _hold(owner_id, key, budget, offer)
        except Exception:
            limits.uncount_question(owner_id, per_hour)
            raise
        if not is_ours:
            limits.uncount_question(owner_id, per_hour)
            raise _AlreadyReserved
    except RedisError as error:
        raise Unavailable(retry_after=5) from error
    return offer, limit


def _hold(owner_id: int, key: UUID, budget: Budget, offer: _Offer) -> tuple[_Offer, bool]:
    """Hold what the offer can cost; what Auto chose is chosen again, cheaper each time, before it is refused.

    It was chosen for what was left, but another question may have taken that meanwhile.
    """
    while True:
        try:
            is_ours = metering.reserve(
                owner_id, key, amount_micros=offer.amount_micros, budget=budget, supplier_hold=offer.supplier_hold
            )
            return offer, is_ours
        except AllowanceUsedUp:
            if offer.choice.route is None:
                raise
            cheaper = offer.cheaper(budget.left_micros)
            if cheaper.amount_micros >= offer.amount_micros:
                raise
            offer = cheaper
