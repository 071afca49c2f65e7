"""The beginning of a turn: everything that can refuse it comes before anything is written or spent."""

import logging
import time
import unicodedata
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from django.conf import settings
from redis.exceptions import RedisError

from accounts.errors import Conflict, DomainError, NotFound, Unavailable
from billing import entitlements, metering
from billing.entitlements import Entitlements
from chat.attachments.using import bind, check_usable, encode_attached
from chat.errors import BadText, TextTooLong
from chat.llm.catalog import Candidate
from chat.llm.pricing import SETTLE_BYTES_PER_TOKEN, most_it_can_cost
from chat.llm.selection import AUTO, candidates
from chat.turns import limits, prompts
from chat.turns.connections import sync_redis
from chat.turns.limits import Limit
from chat.turns.log import ENQUEUE, QUEUE, WAKE_UPS, Entry, Kind, encode_entries, queued_key
from chat.turns.waiting import line
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
    """What somebody asks. `parent_id` None begins a new branch at the root, LATEST continues the last turn."""

    turn_id: UUID
    conversation_id: UUID
    text: str
    model: str = ""
    parent_id: UUID | Literal["latest"] | None = LATEST
    attachments: tuple[UUID, ...] = ()


@dataclass(frozen=True, slots=True)
class Opened:
    """A turn that is waiting for a runner, or was known already. `limit` is None where there is none."""

    turn: Turn
    conversation: Conversation | None = None  # None for a turn that was known already
    limit: Limit | None = None

    @property
    def is_new(self) -> bool:
        return self.conversation is not None


def open_turn(owner_id: int, question: Question) -> Opened:
    """Check, reserve, write and queue one turn; the same id again, from its owner, returns what is there.

    Raises DomainError with nothing written or spent: NotFound, Conflict, BadText, TextTooLong, ContextExceeded,
    UnknownModel, NotInPlan, NoModel, QueueFull, RateLimited, TooManyAtOnce, AllowanceUsedUp, ParentNotFinished,
    Unavailable, and what `attachments.using.check_usable`, `bind` and `prompts.able` raise.
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
    word = encode_entries([Entry(turn.pk.bytes, Kind.OPENED, turn.gen, text=str(turn.owner_id))])
    try:
        script = sync_redis().register_script(ENQUEUE)
        script(keys=(QUEUE, queued_key(turn.pk)), args=(turn.pk.bytes, QUEUED_SECONDS, WAKE_UPS, word))
    except RedisError:
        logger.warning("Turn not queued yet", extra={"turn_id": turn.pk})


def _open_new(owner_id: int, question: Question) -> Opened:
    allowed = entitlements.entitlements_of(owner_id)
    text = clean_text(question.text, longest=allowed.question_characters)
    conversation = access.find_conversation(question.conversation_id)
    if conversation is not None and conversation.owner_id != owner_id:
        raise NotFound
    parent = _find_parent(owner_id, question, conversation)
    files = check_usable(
        owner_id, question.attachments, turn_id=question.turn_id, conversation_id=question.conversation_id
    )
    offered = prompts.able(candidates(question.model, allowed), files)
    longest_answer = _longest_answer(offered, allowed)
    prompt = prompts.build_for(offered, tree.path_to(parent), text, files, max_output=longest_answer)
    try:
        limit = _reserve(owner_id, question.turn_id, allowed, offered, prompt.tokens(), longest_answer)
    except _AlreadyReserved:
        return _await_known(owner_id, question)
    try:
        bind(files, turn_id=question.turn_id, conversation_id=question.conversation_id)
    except DomainError:
        metering.release(question.turn_id)
        limits.give_back(owner_id, allowed.turns_per_hour)
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
        requested_model=question.model or (offered[0].model.key if len(offered) == 1 else AUTO),
        max_output=longest_answer,
        trimmed_turns=prompt.trimmed_turns,
        input_tokens=prompt.tokens(SETTLE_BYTES_PER_TOKEN),  # until the provider says better
    )
    if conversation is None:
        conversation, written = tree.begin(turn)
    else:
        written = tree.add_turn(turn)
    if written is not turn:
        return _return_known(written, owner_id, question, allowed)
    enqueue(turn)
    return Opened(turn, conversation, limit)


def _return_known(turn: Turn, owner_id: int, question: Question, allowed: Entitlements) -> Opened:
    """Return a turn that was there under a reservation given back before: it failed without costing anything."""
    limits.give_back(owner_id, allowed.turns_per_hour)
    if not turn.is_open:
        metering.release(turn.pk)
    return Opened(_check_known(turn, owner_id, question))


def _find_known(owner_id: int, question: Question) -> Opened | None:
    known = access.find_turn(question.turn_id)
    return Opened(_check_known(known, owner_id, question)) if known else None


def _check_known(turn: Turn, owner_id: int, question: Question) -> Turn:
    if turn.owner_id != owner_id or turn.conversation_id != question.conversation_id:
        raise Conflict
    return turn


def _await_known(owner_id: int, question: Question) -> Opened:
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


def _longest_answer(offered: list[Candidate], allowed: Entitlements) -> int:
    """Return the cap on the answer in tokens: the smallest of model, plan and MAX_TOKENS."""
    longest: int = settings.MAX_TOKENS
    return min(*(candidate.model.max_output for candidate in offered), allowed.answer_tokens, longest)


def _reserve(
    owner_id: int, key: UUID, allowed: Entitlements, offered: list[Candidate], input_tokens: int, output_tokens: int
) -> Limit | None:
    """Count the question and hold the most it can cost; a question that is refused, or known, is not counted.

    Raises _AlreadyReserved when the id has a reservation that was not given back.
    """
    amount = max(
        most_it_can_cost(candidate.model, input_tokens=input_tokens, output_tokens=output_tokens)
        for candidate in offered
    )
    line.join()
    try:
        limit = limits.take(owner_id, allowed.turns_per_hour)
        try:
            is_ours = metering.reserve(owner_id, key, amount_micros=amount)
        except Exception:
            limits.give_back(owner_id, allowed.turns_per_hour)
            raise
        if not is_ours:
            limits.give_back(owner_id, allowed.turns_per_hour)
            raise _AlreadyReserved
    except RedisError as error:
        raise Unavailable(retry_after=5) from error
    return limit
