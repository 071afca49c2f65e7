"""Opens the turn of what a program asks over the OpenAI-compatible API: it is in no conversation, and nothing of it is
kept when it is over, unless the API key says so. The checks, the reservation, the runner and the settlement are those
of any other turn."""

from dataclasses import dataclass, replace
from uuid import UUID

from django.utils.translation import gettext_lazy as _
from redis.exceptions import RedisError

from accounts.confirmation import must_confirm_email
from accounts.limits import Limit
from accounts.models import ApiKey
from billing import entitlements, metering
from billing.entitlements import Budget
from billing.errors import SpendLimitReached
from chat.errors import TextTooLong, UnknownModel
from chat.llm import spending
from chat.llm.catalog import RECORDED
from chat.llm.pricing import SETTLE_BYTES_PER_TOKEN
from chat.llm.selection import AUTO, check_effort
from chat.turns.admitting import MAX_TRIES, admit, give_back, uncount
from chat.turns.asked import Asked, forget_asked, keep_asked
from chat.turns.keeping import keep_turn
from chat.turns.needs import COMPLETION
from chat.turns.offer import Offer, OfferRequest, make_cheaper_offer, make_offer, profile_asked, selection_fields
from chat.turns.queue import enqueue
from core.errors import Conflict, DomainError, Unavailable
from history import access
from history.models import Turn
from history.temporary import add_completion, is_temporary, new_completion_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a program asks. `max_output` is in tokens; None is as much as plan and model allow. The id is of the kind of
    a stored turn where it is kept, which takes a key, and else of a temporary one. `in_batch`: it is a line of a batch,
    which is not counted among the questions of an hour, and may cost no more than `most_micros`; None is no limit."""

    turn_id: UUID
    asked: Asked
    model: str = ""
    effort: str = ""
    max_output: int | None = None
    key: ApiKey | None = None
    in_batch: bool = False
    most_micros: int | None = None

    @property
    def keeper(self) -> ApiKey | None:
        """The key in whose dialogues it is kept; None where it is not."""
        return None if is_temporary(self.turn_id) else self.key


class AboveLimit(DomainError):
    """It may cost more than it is allowed to: `needed_micros`."""

    code = "max_cost"
    status = 402
    message = _("That may cost more than the limit you have set.")

    def __init__(self, needed_micros: int) -> None:
        super().__init__()
        self.needed_micros = needed_micros


@dataclass(frozen=True, slots=True)
class OpenedCompletion:
    """A turn that is waiting for a runner, or was known already. `limit` is None where there is none."""

    turn: Turn
    is_new: bool
    limit: Limit | None = None


def open_completion(owner_id: int, completion: Completion) -> OpenedCompletion:
    """Check, reserve, write and queue; the same id again, from its owner, returns the turn that is there.

    Raises BeingWritten while another request writes it, and otherwise what `open_turn` does, with nothing written or
    spent.
    """
    try:
        return _open_or_find(owner_id, completion)
    except RedisError as error:
        raise Unavailable(retry_after=5) from error


def _open_or_find(owner_id: int, completion: Completion) -> OpenedCompletion:
    try:
        return _open(owner_id, completion)
    except DomainError:
        known = access.find_turn(completion.turn_id)
        if known is None:
            raise
        if known.owner_id != owner_id or not known.is_completion:
            raise Conflict from None
        return OpenedCompletion(known, is_new=False)


def offer_for(owner_id: int, completion: Completion, budget: Budget) -> Offer:
    """Return who may answer and what that can cost, with nothing written or spent; raises what `make_offer` does,
    UnknownModel, BadEffort and TextTooLong."""
    if completion.model == RECORDED.model.key:  # its examples are questions of pages
        raise UnknownModel
    check_effort(completion.effort, completion.model)
    return make_offer(_read_request(owner_id, completion, budget))


def _open(owner_id: int, completion: Completion) -> OpenedCompletion:
    for tries_left in reversed(range(MAX_TRIES)):
        budget = _budget_of(owner_id, completion)
        offer = offer_for(owner_id, completion, budget)
        most_micros = completion.most_micros
        if most_micros is not None and offer.max_cost_micros > most_micros:
            cheaper = make_cheaper_offer(offer, most_micros)
            if cheaper is None or cheaper.max_cost_micros > most_micros:
                raise AboveLimit(offer.max_cost_micros)
            offer = cheaper
        try:
            offer, limit = admit(owner_id, completion.turn_id, completion.key, budget, offer)
            break
        except SpendLimitReached:
            spending.forget_spending()
            if not tries_left or completion.model not in ("", AUTO):
                raise
            # A provider reached its limit just now: another may answer.
    turn = _make_turn(owner_id, completion, offer)
    try:
        keep_asked(owner_id, turn.pk, completion.asked)
        keeper = completion.keeper
        written = keep_turn(turn, completion.asked, keeper) if keeper else add_completion(turn)
    except DomainError:
        forget_asked(turn.pk)
        give_back(owner_id, turn.pk, budget)
        raise
    if written is not turn:  # its reservation had been given back: it failed without costing anything
        return _return_written_before(owner_id, written, budget)
    enqueue(turn)
    return OpenedCompletion(turn, is_new=True, limit=limit)


def _budget_of(owner_id: int, completion: Completion) -> Budget:
    budget = entitlements.budget_of(owner_id)
    if not completion.in_batch:
        return budget
    return replace(budget, entitlements=replace(budget.entitlements, turns_per_hour=None))


def _read_request(owner_id: int, completion: Completion, budget: Budget) -> OfferRequest:
    asked = completion.asked
    most = budget.entitlements.question_characters
    if any(len(message.text) > most for message in asked.messages if message.role == "user"):
        raise TextTooLong
    return OfferRequest(
        model=completion.model,
        only_free=must_confirm_email(owner_id),
        entitlements=budget.entitlements,
        profile=profile_asked(asked, budget, max_output=completion.max_output),
        files=(),
        parent=None,
        only=frozenset(completion.key.model_ids) if completion.key else frozenset(),
        asked=asked,
    )


def _make_turn(owner_id: int, completion: Completion, offer: Offer) -> Turn:
    return Turn(
        pk=completion.turn_id,
        owner_id=owner_id,
        conversation_id=new_completion_id(is_kept=completion.keeper is not None),
        is_completion=True,
        needs=COMPLETION,
        seq=1,
        **selection_fields(completion.model, offer.selection),
        effort=completion.effort,
        max_output=offer.max_output,
        max_cost_micros=offer.max_cost_micros,
        input_tokens=offer.prompt.tokens(SETTLE_BYTES_PER_TOKEN),  # until the provider reports its own count
    )


def _return_written_before(owner_id: int, turn: Turn, budget: Budget) -> OpenedCompletion:
    if turn.owner_id != owner_id:
        raise Conflict
    if not turn.is_open:
        metering.release(turn.pk)
        forget_asked(turn.pk)  # what was asked now: nobody will ask for it, and end it
    uncount(owner_id, turn.pk, budget)
    return OpenedCompletion(turn, is_new=False)
