"""Opens a turn: everything that can refuse a question comes before anything is written or spent."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal
from uuid import UUID

from asgiref.sync import async_to_sync
from django.db import close_old_connections
from redis.exceptions import RedisError

from accounts.confirmation import must_confirm_email
from accounts.limits import Limit
from accounts.models import ApiKey
from billing import entitlements, metering
from billing.entitlements import Budget
from billing.errors import ComparisonNotInPlan, SpendLimitReached
from chat.attachments.binding import (
    Attached,
    bind_files,
    decode_attached,
    encode_attached,
    get_usable_files,
    unbind_files,
)
from chat.errors import BadText, TextTooLong
from chat.llm import spending
from chat.llm.pricing import SETTLE_BYTES_PER_TOKEN
from chat.llm.selection import AUTO, check_effort
from chat.turns import by_key
from chat.turns.admitting import MAX_TRIES, admit, give_back, uncount
from chat.turns.known_turns import BeingWritten, await_written, check_same_question, find_known_turn
from chat.turns.offer import (
    Offer,
    OfferRequest,
    make_offer,
    make_other_offer,
    profile_question,
    selection_fields,
)
from chat.turns.queue import enqueue
from core.errors import DomainError, NotFound, Unavailable
from core.unicode import normalise
from history import access, branches, tree
from history.errors import Overtaken
from history.folders import find_folder
from history.models import Conversation, Folder, Turn
from history.temporary import check_turn_id, is_temporary

LATEST: Literal["latest"] = "latest"
"""The end of the branch that is chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What somebody asks. `parent_id` None begins a new branch at the root, LATEST continues the chosen branch.

    `folder_id` is the folder a new conversation is to be in; one that is gone is none. `effort` is one of the model's
    levels, or empty: as hard as the model thinks by itself. With `beside_id` it is that turn's question once more, with
    its files and in its place, for another model to answer side by side. `key` is the API key that asks, if one does:
    its models answer, its month pays too, and it goes on only from what it may read.
    """

    turn_id: UUID
    conversation_id: UUID
    text: str
    model: str = ""
    effort: str = ""
    parent_id: UUID | Literal["latest"] | None = LATEST
    attachments: tuple[UUID, ...] = ()
    beside_id: UUID | None = None
    folder_id: UUID | None = None
    key: ApiKey | None = None


@dataclass(frozen=True, slots=True)
class OpenedTurn:
    """A turn that is waiting for a runner, or was known already. `limit` is None where there is none."""

    turn: Turn
    conversation: Conversation | None = None  # None for a turn that was known already
    limit: Limit | None = None

    @property
    def is_new(self) -> bool:
        return self.conversation is not None


@dataclass(frozen=True, slots=True)
class TreePlace:
    """The turn a new one follows, and the number it must get there; 0 is any."""

    parent: Turn | None
    seq: int = 0


def open_turn(owner_id: int, question: Question) -> OpenedTurn:
    """Check, reserve, write and queue one turn; the same id again, from its owner, returns what is there.

    Never waits: raises BeingWritten while another request writes the same turn. The other DomainErrors, too, are raised
    with nothing written or spent: NotFound, Conflict, BadText, TextTooLong, ContextExceeded, UnknownModel, NotInPlan,
    ComparisonNotInPlan, ModelNotInKey, KeyUsedUp, NoModel, EmailUnconfirmed, BadEffort, QueueFull, RateLimited,
    TooManyAtOnce, AllowanceUsedUp, SpendLimitReached, ParentNotFinished, Unavailable, IdOfOtherKind, and what
    `get_usable_files`, `bind_files`, `prompts.filter_capable` and `add_temporary_turn` raise.
    """
    try:
        return _open_or_find(owner_id, question)
    except RedisError as error:  # a temporary conversation is nowhere else
        raise Unavailable(retry_after=5) from error


def open_or_await_turn(owner_id: int, question: Question) -> OpenedTurn:
    """Open a turn as `open_turn` does; while another request writes the same one, wait for that. For synchronous views:
    the waiting is done on the event loop, and without their database connections."""
    try:
        return open_turn(owner_id, question)
    except BeingWritten:
        close_old_connections()
    async_to_sync(await_written)(question.turn_id)
    return open_turn(owner_id, question)


def find_other_offer(owner_id: int, question: Question) -> Offer | None:
    """Return an offer of another model for a question that was refused: one that the credits left pay for. None when
    there is none, or the question itself is refused."""
    budget = entitlements.budget_of(owner_id)
    try:
        conversation = _find_conversation(owner_id, question)
        folder = _find_folder(owner_id, question, conversation)
        question = _as_asked_beside(question, conversation, budget)
        place = _find_place(owner_id, question, conversation)
        request = _read_request(owner_id, question, place.parent, folder, budget)
        offer = make_other_offer(request)
    except DomainError:
        return None
    left = budget.left_micros
    return offer if offer and (left is None or offer.max_cost_micros <= max(left, 0)) else None


def clean_text(text: str, *, max_characters: int) -> str:
    """Return the text in NFC, without NUL and lone surrogates; raises BadText when nothing is left, or TextTooLong."""
    if len(text) > max_characters:
        raise TextTooLong
    whole = text.replace("\0", "").encode("utf-16", "surrogatepass").decode("utf-16", "ignore")
    cleaned = normalise("NFC", whole).rstrip().lstrip("\r\n")  # the first line keeps its indentation
    if not cleaned:
        raise BadText
    return cleaned


def _open_or_find(owner_id: int, question: Question) -> OpenedTurn:
    try:
        return _open_new(owner_id, question, tries_left=MAX_TRIES - 1)
    except DomainError:
        # The same question may have come in before, and only its own turn be in the way. It is looked up here, so that
        # new questions do not pay for it.
        if known := find_known_turn(owner_id, question.turn_id, question.conversation_id):
            return OpenedTurn(known)
        raise


def _open_new(owner_id: int, question: Question, *, tries_left: int) -> OpenedTurn:
    # 1. What the person may do.
    budget = entitlements.budget_of(owner_id)

    # 2. What is asked: the text, the conversation and the turn before, the effort, the files.
    conversation = _find_conversation(owner_id, question)
    folder = _find_folder(owner_id, question, conversation)
    check_effort(question.effort, question.model)
    question = _as_asked_beside(question, conversation, budget)
    place = _find_place(owner_id, question, conversation)
    if place.parent is not None:
        by_key.check_may_read(question.key, place.parent.pk)
    request = _read_request(owner_id, question, place.parent, folder, budget)
    text, files = request.profile.question, request.files

    # 3. Who may answer, and the most that can cost.
    offer = make_offer(request)

    # 4. A place in the queue, the rate limit, and the money.
    try:
        offer, limit = admit(owner_id, question.turn_id, question.key, budget, offer)
    except SpendLimitReached:
        spending.forget_spending()
        if not tries_left or question.model not in ("", AUTO):
            raise
        # A provider reached its limit just now: another may answer.
        return _open_new(owner_id, question, tries_left=tries_left - 1)

    # 5. The files become the turn's.
    _bind_or_give_back(owner_id, question, budget, files)

    # 6. The turn is written.
    turn = _make_turn(owner_id, question, text, place, files, offer)
    try:
        conversation, written = _write_or_give_back(turn, conversation, folder, budget)
    except Overtaken:
        if not tries_left:
            raise
        # All was given back. The other question is the latest now: it is continued if it has its answer already.
        return _open_new(owner_id, question, tries_left=tries_left - 1)
    if written is not turn:
        return _return_written_before(written, owner_id, question, budget)
    if not conversation.title:
        tree.title_from_question(conversation, text)

    # 7. A runner takes it from the queue.
    enqueue(turn)
    return OpenedTurn(turn, conversation, limit)


def _read_request(
    owner_id: int, question: Question, parent: Turn | None, folder: Folder | None, budget: Budget
) -> OfferRequest:
    """Return what the question asks an offer for, with its text cleaned."""
    text = clean_text(question.text, max_characters=budget.entitlements.question_characters)
    files = get_usable_files(
        owner_id, question.attachments, turn_id=question.turn_id, conversation_id=question.conversation_id
    )
    instructions = folder.instructions if folder else ""
    return OfferRequest(
        model=question.model,
        only_free=must_confirm_email(owner_id),
        entitlements=budget.entitlements,
        profile=profile_question(text, files, parent, budget, instructions=instructions),
        files=files,
        parent=parent,
        instructions=instructions,
        only=frozenset(question.key.model_ids) if question.key else frozenset(),
    )


def _find_folder(owner_id: int, question: Question, conversation: Conversation | None) -> Folder | None:
    """Return the folder the question is asked in. It may just have been deleted: then it is in none."""
    return find_folder(owner_id, conversation.folder_id if conversation else question.folder_id)


def _find_conversation(owner_id: int, question: Question) -> Conversation | None:
    """Return the conversation, None for one that the question begins. It begins no temporary one: that would be stored
    by whoever asks on after its end."""
    check_turn_id(question.turn_id, question.conversation_id)
    if is_temporary(question.conversation_id):
        return access.access_even_temporary(owner_id, question.conversation_id)
    return access.find_to_ask_in(owner_id, question.conversation_id)


def _as_asked_beside(question: Question, conversation: Conversation | None, budget: Budget) -> Question:
    """Return the question of the turn it is to be answered beside; raises ComparisonNotInPlan or NotFound."""
    if question.beside_id is None:
        return question
    if not budget.entitlements.has_comparison:
        raise ComparisonNotInPlan
    if conversation is None:
        raise NotFound
    turn = branches.get_turn(conversation, question.beside_id)
    by_key.check_may_read(question.key, turn.pk)
    files = tuple(file.id for file in decode_attached(turn.attachments))
    return replace(question, text=turn.question, parent_id=turn.parent_id, attachments=files)


def _find_place(owner_id: int, question: Question, conversation: Conversation | None) -> TreePlace:
    if question.parent_id is None:
        return TreePlace(None)
    if isinstance(question.parent_id, UUID):
        return TreePlace(tree.find_parent(owner_id, question.conversation_id, question.parent_id))
    if conversation is None:
        return TreePlace(None, seq=1)
    end = branches.find_branch_end(conversation)
    return TreePlace(tree.check_finished(end.leaf) if end.leaf else None, seq=end.last_seq + 1)


def _bind_or_give_back(owner_id: int, question: Question, budget: Budget, files: Sequence[Attached]) -> None:
    """Give the files to the turn; if that fails, give back what was counted and reserved for it."""
    try:
        bind_files(files, turn_id=question.turn_id, conversation_id=question.conversation_id)
    except Exception:
        give_back(owner_id, question.turn_id, budget)
        raise


def _make_turn(
    owner_id: int, question: Question, text: str, place: TreePlace, files: Sequence[Attached], offer: Offer
) -> Turn:
    parent = place.parent
    return Turn(
        pk=question.turn_id,
        owner_id=owner_id,
        conversation_id=question.conversation_id,
        parent_id=parent.pk if parent else None,
        beside_id=question.beside_id,
        seq=place.seq,
        depth=parent.depth + 1 if parent else 0,
        question=text,
        instructions=offer.request.instructions or None,
        attachments=encode_attached(files),
        **selection_fields(question.model, offer.selection),
        effort=question.effort,
        max_output=offer.max_output,
        max_cost_micros=offer.max_cost_micros,
        trimmed_turns=offer.prompt.trimmed_turns,
        input_tokens=offer.prompt.tokens(SETTLE_BYTES_PER_TOKEN),  # until the provider reports its own count
    )


def _write_or_give_back(
    turn: Turn, conversation: Conversation | None, folder: Folder | None, budget: Budget
) -> tuple[Conversation, Turn]:
    """Write the turn, and its conversation if that is new; return both as they are written.

    A refusal gives everything back: another question was faster, or the conversation is somebody else's since a moment.
    After any other error nobody knows what was written: the sweep looks.
    """
    try:
        if conversation is None:
            return tree.start_conversation(turn, folder_id=folder.pk if folder else None)
        written = tree.add_turn(turn)
        conversation.leaf_id = turn.beside_id
        return conversation, written
    except DomainError:
        unbind_files(turn.pk)
        give_back(turn.owner_id, turn.pk, budget)
        raise


def _return_written_before(turn: Turn, owner_id: int, question: Question, budget: Budget) -> OpenedTurn:
    """Return a turn that was there although its reservation had been given back: it failed without costing anything."""
    if not turn.is_open:
        metering.release(turn.pk)
    uncount(owner_id, turn.pk, budget)
    return OpenedTurn(check_same_question(turn, owner_id, question.conversation_id))
