"""Admits a question: it is counted in its hour and in the queue, and what it can cost is reserved; or gives all of that
back."""

from contextlib import suppress
from uuid import UUID

from redis.exceptions import RedisError

from accounts.limits import Limit
from accounts.models import ApiKey
from billing import metering
from billing.entitlements import Budget
from billing.errors import AllowanceUsedUp, PartUsedUp
from chat.errors import KeyUsedUp
from chat.turns import by_key, limits
from chat.turns.known_turns import refuse_reserved
from chat.turns.offer import Offer, make_cheaper_offer
from core.errors import Unavailable
from history import access

MAX_TRIES = 5
"""How often a question is checked at most, when others are faster each time."""


def admit(owner_id: int, turn_id: UUID, key: ApiKey | None, budget: Budget, offer: Offer) -> tuple[Offer, Limit | None]:
    """Count the question, and reserve what it can cost; return the offer that is reserved for, and the rate limit.

    A question that is refused, or known already, is not counted. Raises what `refuse_reserved` does when the id has a
    reservation that was not given back.
    """
    per_hour = budget.entitlements.turns_per_hour
    try:
        limit = limits.count_question(owner_id, turn_id, turns_per_hour=per_hour)
        try:
            offer = _reserve(owner_id, turn_id, key, budget, offer)
        except Exception:
            limits.uncount_question(owner_id, turn_id, turns_per_hour=per_hour)
            raise
    except RedisError as error:
        raise Unavailable(retry_after=5) from error
    return offer, limit


def give_back(owner_id: int, turn_id: UUID, budget: Budget) -> None:
    """Give back what was counted and reserved for a question that is refused after all.

    A turn that is there was written by another request since, and the reservation is its own.
    """
    if access.find_turn(turn_id) is None:
        metering.release(turn_id)
    uncount(owner_id, turn_id, budget)


def uncount(owner_id: int, turn_id: UUID, budget: Budget) -> None:
    """Give back what was counted, as far as Redis can be reached."""
    with suppress(RedisError):
        limits.uncount_question(owner_id, turn_id, turns_per_hour=budget.entitlements.turns_per_hour)


def _reserve(owner_id: int, turn_id: UUID, key: ApiKey | None, budget: Budget, offer: Offer) -> Offer:
    """Reserve what the offer can cost; return the offer. What costs nothing is held too: it counts among the answers at
    once, and its id is one that others can see is taken.

    Auto chose for what was left, but another question may have taken that meanwhile: then it chooses again, cheaper
    each time, before the question is refused. The same for what was left of the month of an API key.
    """
    while True:
        try:
            is_ours = metering.reserve(
                owner_id,
                turn_id,
                amount_micros=offer.max_cost_micros,
                budget=budget,
                supplier_holds=offer.supplier_holds,
                part=by_key.part_of(key),
            )
            if not is_ours:
                refuse_reserved(turn_id)
            return offer
        except PartUsedUp as error:
            cheaper = make_cheaper_offer(offer, error.left_micros)  # of the account there is more
            if cheaper is None:
                assert key is not None
                raise KeyUsedUp(key.name, resets_at=error.resets_at) from error
            offer = cheaper
        except AllowanceUsedUp:
            cheaper = make_cheaper_offer(offer, budget.left_micros)
            if cheaper is None:
                raise
            offer = cheaper
