"""A question that is sent twice: its turn is there, is being written, or was there once."""

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections
from django.test import AsyncClient
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.api.views import tokens_for
from accounts.models import User
from billing import metering
from billing.models import Reservation
from chat.turns import known_turns
from chat.turns.closing import close_queued
from chat.turns.known_turns import BeingWritten
from chat.turns.opening import Question, open_or_await_turn, open_turn
from core.errors import Conflict, Unavailable
from core.sweeps import MAX_CLOCK_DIFFERENCE
from core.threads import in_thread
from history import access, tree
from history.deletion import delete_conversation
from history.models import Conversation, Turn
from history.progress import Outcome, claim, close
from tests.chat.asking import period_of, question, saved
from tests.chat.live import page_of

pytestmark = pytest.mark.usefixtures("catalog")


def use_up(user: User, asked: Question) -> None:
    """Ask, have it answered and paid, and delete the conversation: the id was used."""
    turn = open_turn(user.pk, asked).turn
    claim(turn)
    close(turn, Outcome("completed", answer="x", cost_micros=7))
    metering.settle(turn.pk, cost_micros=7, usage=metering.Usage(1, 1), label="scripted")
    delete_conversation(access.access_conversation(user.pk, asked.conversation_id))


def hold(user: User, asked: Question, *, seconds_ago: float = 0) -> None:
    """Reserve for a question, as another request does before it writes the turn."""
    metering.reserve(user.pk, asked.turn_id, amount_micros=500)
    moment = timezone.now() - dt.timedelta(seconds=seconds_ago)
    Reservation.objects.filter(pk=asked.turn_id).update(created_at=moment)


def write(user: User, asked: Question) -> None:
    """Write the turn of a question that `hold` has reserved for."""
    ids = {"pk": asked.turn_id, "owner_id": user.pk, "conversation_id": asked.conversation_id}
    tree.start_conversation(Turn(**ids, question=asked.text, requested_model="scripted", max_output=1))


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for as long as a busy machine may take."""
    monkeypatch.setattr(known_turns, "WRITING_SECONDS", 60)
    monkeypatch.setattr(known_turns, "WRITING_GRACE", dt.timedelta(seconds=60))


# --- Opening never waits ----------------------------------------------------------------------------------------------


def test_a_used_id_is_a_conflict_at_once(ana: User):
    asked = question()
    use_up(ana, asked)
    with CaptureQueriesContext(connections["history"]) as statements, pytest.raises(Conflict) as refused:
        open_or_await_turn(ana.pk, asked)
    assert (type(refused.value), refused.value.status) == (Conflict, 409)
    assert len(statements) < 5
    assert period_of(ana).account.holds == 0


@pytest.mark.stores
def test_an_id_of_a_turn_that_failed_elsewhere_begins_no_conversation(carla: User):
    failed = open_turn(carla.pk, question()).turn
    close_queued(failed, status=Turn.Status.FAILED)
    with pytest.raises(Conflict):
        open_turn(carla.pk, question(turn_id=failed.pk))
    assert Conversation.objects.get().pk == failed.conversation_id
    assert period_of(carla).reserved_micros == 0


def test_an_id_that_is_held_for_long_is_refused_until_the_sweep_releases_it(carla: User):
    asked = question()
    hold(carla, asked, seconds_ago=20)
    with CaptureQueriesContext(connections["history"]) as statements, pytest.raises(Unavailable) as refused:
        open_or_await_turn(carla.pk, asked)
    assert refused.value.retry_after == pytest.approx(40, abs=15)
    assert len(statements) < 5
    metering.release(asked.turn_id)
    assert open_turn(carla.pk, asked).is_new


def test_a_clock_that_is_behind_does_not_make_a_request_dead(carla: User):
    asked = question()
    hold(carla, asked, seconds_ago=MAX_CLOCK_DIFFERENCE.total_seconds() - 1)  # just now, by the clock of who wrote it
    with pytest.raises(BeingWritten):
        open_turn(carla.pk, asked)


@pytest.mark.usefixtures("patience")
def test_opening_does_not_wait_for_a_turn_that_is_being_written(carla: User):
    asked = question()
    hold(carla, asked)
    with CaptureQueriesContext(connections["history"]) as statements, pytest.raises(BeingWritten):
        open_turn(carla.pk, asked)
    assert len(statements) < 5
    assert period_of(carla).account.holds == 1


# --- Every door waits, and one turn comes out -------------------------------------------------------------------------


async def ask_by_socket(user: User, asked: Question) -> str:
    async with page_of(user) as page:
        fields = {"turn_id": asked.turn_id, "conversation_id": asked.conversation_id}
        await page.start(asked.text, **fields)
        answer = await page.next("turn.started", "turn.rejected")
        return str(answer.get("code", answer["type"]))


async def ask_by_api(user: User, asked: Question) -> str:
    token = (await in_thread(tokens_for, user))["access"]
    answer: Any = await AsyncClient().post(
        f"/api/v1/conversations/{asked.conversation_id}/turns",
        {"text": asked.text, "model": "scripted", "turn_id": str(asked.turn_id), "stream": True},
        content_type="application/json",
        headers={"Authorization": f"Bearer {token}"},
    )
    return "turn.started" if answer.status_code == 200 else str(answer.status_code)


async def ask_by_form(user: User, asked: Question) -> str:
    client = AsyncClient()
    await client.aforce_login(user)
    fields = {"text": asked.text, "model": "scripted", "turn_id": str(asked.turn_id)}
    answer = await client.post(f"/c/{asked.conversation_id}/", fields)
    return "turn.started" if f"turn-{asked.turn_id}" in answer.headers.get("Location", "") else str(answer.status_code)


DOORS = pytest.mark.parametrize("ask", [ask_by_socket, ask_by_api, ask_by_form])


@DOORS
@pytest.mark.usefixtures("redis", "patience")
async def test_a_question_that_is_sent_while_it_is_being_written_is_one_turn(carla: User, ask: Callable[..., Any]):
    asked = question()
    await in_thread(hold, carla, asked)
    waiting = asyncio.create_task(ask(carla, asked))
    await asyncio.sleep(0.15)
    assert not waiting.done()
    await in_thread(write, carla, asked)
    assert await waiting == "turn.started"
    assert await in_thread(Turn.objects.count) == 1
    assert (await in_thread(period_of, carla)).account.holds == 1


@pytest.mark.usefixtures("redis", "patience")
async def test_a_question_whose_first_request_gave_up_is_opened_by_the_second(carla: User):
    asked = question()
    await in_thread(hold, carla, asked)
    waiting = asyncio.create_task(ask_by_socket(carla, asked))
    await asyncio.sleep(0.15)
    await in_thread(metering.release, asked.turn_id)
    assert await waiting == "turn.started"
    assert (await in_thread(saved, asked.turn_id)).status == "queued"


@pytest.mark.stores
@pytest.mark.usefixtures("redis", "patience")
async def test_five_repeats_of_an_id_do_not_keep_somebody_elses_question_waiting(carla: User, bo: User):
    asked = question()
    await in_thread(hold, carla, asked)
    repeats = [asyncio.create_task(ask_by_socket(carla, asked)) for _ in range(5)]
    await asyncio.sleep(0.1)
    assert await ask_by_socket(bo, question()) == "turn.started"
    assert not any(repeat.done() for repeat in repeats)
    await in_thread(write, carla, asked)
    assert await asyncio.gather(*repeats) == ["turn.started"] * 5
    assert await in_thread(Turn.objects.count) == 2
