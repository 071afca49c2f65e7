"""Ask, look, and wait: what most tests of the chat do."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from accounts.models import User
from billing.entitlements import account_of, current_period
from billing.models import Reservation, UsagePeriod, UsageRecord
from chat.turns import limits
from chat.turns.closing import close_turn
from chat.turns.opening import Question, open_turn
from core.errors import RateLimited
from core.threads import in_thread
from history.models import Turn, new_id
from history.progress import Outcome

PATIENCE_SECONDS = 30


def question(text: str = "say:hola", *, model: str = "scripted", **fields: Any) -> Question:
    ids = {"turn_id": new_id(), "conversation_id": new_id()}
    return Question(text=text, model=model, **(ids | fields))


def ask(user: User, text: str = "say:hola", **fields: Any) -> Turn:
    """Open a turn and return it, waiting for a runner."""
    return open_turn(user.pk, question(text, **fields)).turn


async def aask(user: User, text: str = "say:hola", **fields: Any) -> Turn:
    return await in_thread(ask, user, text, **fields)


def saved(turn: Turn | UUID) -> Turn:
    """Return the turn as the database has it."""
    found: Turn = Turn.objects.get(pk=turn.pk if isinstance(turn, Turn) else turn)
    return found


async def eventually(check: Callable[[], Awaitable[Any]], *, seconds: float = PATIENCE_SECONDS) -> Any:
    """Return the first true value of `check`; fail when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := await check()):
        assert time.monotonic() < deadline, "It did not happen in time."
        await asyncio.sleep(0.01)
    return value


async def until(check: Callable[[], Any]) -> None:
    await eventually(lambda: asyncio.sleep(0, check()))


async def closed(turn: Turn, *, seconds: float = PATIENCE_SECONDS) -> Turn:
    """Wait until the turn is over and paid; return it as the database has it."""

    async def look() -> Turn | None:
        found = await in_thread(saved, turn)
        return None if found.is_open or await in_thread(is_held, turn) else found

    found: Turn = await eventually(look, seconds=seconds)
    return found


def is_held(turn: Turn) -> bool:
    return Reservation.objects.filter(pk=turn.pk, state=Reservation.State.HELD).exists()


def reservation_of(turn: Turn) -> Reservation:
    return Reservation.objects.get(pk=turn.pk)


def record_of(turn: Turn) -> UsageRecord | None:
    return UsageRecord.objects.filter(reservation_id=turn.pk).first()


def period_of(user: User) -> UsagePeriod:
    return current_period(account_of(user.pk))


def finished(user: User) -> Turn:
    """Return a turn of a conversation that can be gone on with."""
    turn = ask(user)
    close_turn(turn, Outcome(Turn.Status.STOPPED))
    return turn


def remaining(user: User) -> int:
    """How often the user may still ask; looking is not counted."""
    nothing = new_id()
    try:
        limit = limits.count_question(user.pk, nothing, turns_per_hour=20)
    except RateLimited:
        return 0
    limits.uncount_question(user.pk, nothing, turns_per_hour=20)
    return limit.remaining + 1
