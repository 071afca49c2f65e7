"""A conversation is deleted while its answers wait, run, or have lost their runner."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone
from redis.asyncio import Redis
from rest_framework.test import APIClient

from accounts.models import User
from billing.errors import TooManyAtOnce
from billing.models import Reservation, UsageRecord
from chat.llm.pricing import SETTLE_BYTES_PER_TOKEN, estimate_tokens
from chat.turns import leases, log, sweeping
from chat.turns.log import EntryKind, decode_entry
from chat.turns.opening import open_turn
from chat.turns.runner import Runner
from chat.turns.sweeping import repair_turns
from chat.turns.watching import watch
from core import rows
from core.errors import DomainError, NotFound
from core.redis_clients import sync_redis
from core.threads import in_thread
from history import access, deletion, progress, tree
from history.models import Conversation, Turn
from history.queries import Query
from history.search import search_turns
from history.signals import conversation_deleted
from testbed.provider import FakeProvider
from tests.chat.asking import (
    aask,
    ask,
    eventually,
    finished,
    period_of,
    question,
    record_of,
    remaining,
    reservation_of,
    saved,
)
from tests.chat.conftest import Offer
from tests.chat.dying import Died, die, elsewhere, grow_old, lose_runner
from tests.chat.writing import follow

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

ADDRESS = "/api/v1/conversations"


def delete(user: User, turn: Turn) -> int:
    """Delete the turn's conversation for good over the API; return the status."""
    client = APIClient()
    client.force_authenticate(user)
    return client.delete(f"{ADDRESS}/{turn.conversation_id}?forever=true").status_code


def nothing_left() -> bool:
    """Whether nobody's text is in the history, and in no log."""
    logged = [entry for key in sync_redis().scan_iter("turn:*:log") for entry in sync_redis().xrange(key)]
    kinds = {decode_entry(fields[b"e"]).kind for _, fields in logged}
    return not Turn.objects.exists() and not Conversation.objects.exists() and kinds <= {EntryKind.END}


def holds_of(user: User) -> tuple[int, int]:
    period = period_of(user)
    return period.account.holds, period.reserved_micros


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a runner that is dead, and the sweep closes its turns at once."""
    monkeypatch.setattr(deletion, "PATIENCE_SECONDS", 0)
    monkeypatch.setattr(sweeping, "ORPHAN_SECONDS", 0)


# --- Its runner lives -------------------------------------------------------------------------------------------------


async def test_deleting_a_conversation_stops_its_answer_and_charges_what_was_shown(
    redis: Redis, runner: Runner, ana: User, offer: Offer, provider: FakeProvider
):
    model = await in_thread(offer, "fake-900t-20ms-f0")
    turn = await aask(ana, "hola", model=model.key)
    reading = asyncio.create_task(follow(turn))
    await eventually(lambda: redis.xlen(log.log_key(turn.pk)))
    assert await in_thread(delete, ana, turn) == 204
    await eventually(lambda: in_thread(lambda: provider.stats().aborted == 1))
    assert provider.stats().active == 0
    shown = (await reading).text
    record = await in_thread(record_of, turn)
    assert record.output_tokens == estimate_tokens([shown], bytes_per_token=SETTLE_BYTES_PER_TOKEN) > 0
    assert record.cost_micros == turn.input_tokens + 2 * record.output_tokens
    assert await in_thread(holds_of, ana) == (0, 0)
    assert await in_thread(nothing_left)


async def test_asking_and_deleting_in_turns_gets_no_second_answer_at_once(
    redis: Redis, runner: Runner, ana: User, offer: Offer, provider: FakeProvider
):
    model = await in_thread(offer, "fake-900t-20ms-f0")
    turns = []
    for number in range(1, 5):
        turns.append(await aask(ana, "hola", model=model.key))
        await eventually(lambda: redis.xlen(log.log_key(turns[-1].pk)))
        assert (provider.stats().active, provider.stats().started) == (1, number)
        assert await in_thread(delete, ana, turns[-1]) == 204
        # So much later that a sweep would take the hold for that of a turn that was never written.
        await in_thread(Reservation.objects.update, created_at=timezone.now() - sweeping.HELD_GRACE * 2)
        await repair_turns()
    assert await in_thread(UsageRecord.objects.count) == len(turns)
    assert await in_thread(holds_of, ana) == (0, 0)


async def test_two_deletions_at_once_charge_once(redis: Redis, runner: Runner, ana: User, offer: Offer):
    model = await in_thread(offer, "fake-900t-20ms-f0")
    turn = await aask(ana, "hola", model=model.key)
    await eventually(lambda: redis.xlen(log.log_key(turn.pk)))
    conversation = await in_thread(access.find_conversation, turn.conversation_id)
    deleted = (asyncio.to_thread(elsewhere, lambda: deletion.delete_conversation(conversation)) for _ in range(2))
    await asyncio.gather(*deleted)
    assert await in_thread(UsageRecord.objects.count) == 1
    assert await in_thread(holds_of, ana) == (0, 0)
    assert await in_thread(nothing_left)


@pytest.mark.parametrize("is_early", [True, False])
def test_a_second_deletion_does_not_reach_who_uses_the_id_again(
    ana: User, monkeypatch: pytest.MonkeyPatch, is_early: bool
):
    """It has found the conversation, then the first one is done, and the id is used once more."""
    old = ask(ana)
    again = question(conversation_id=old.conversation_id)
    list_turn_ids = deletion.list_turn_ids

    def overtaken() -> None:
        monkeypatch.setattr(deletion, "list_turn_ids", list_turn_ids)
        conversation_deleted.disconnect(overtaken_late)
        deletion.finish_deletions()
        open_turn(ana.pk, again)

    def overtaken_early(*arguments: Any, **named: Any) -> list[UUID]:
        overtaken()
        return list_turn_ids(*arguments, **named)

    def overtaken_late(**_signal: Any) -> bool:
        overtaken()
        return True

    if is_early:
        monkeypatch.setattr(deletion, "list_turn_ids", overtaken_early)
    else:
        conversation_deleted.connect(overtaken_late)
    deletion.delete_conversation(access.access_conversation(ana.pk, old.conversation_id))
    assert access.access_turn(ana.pk, again.turn_id).is_open
    assert not Turn.objects.filter(pk=old.pk).exists()
    assert holds_of(ana)[0] == 1


# --- No runner has it -------------------------------------------------------------------------------------------------


def test_a_question_that_waits_is_taken_back(ana: User):
    turn = ask(ana)
    assert delete(ana, turn) == 204
    assert reservation_of(turn).state == Reservation.State.RELEASED
    assert holds_of(ana) == (0, 0)
    assert nothing_left()


def test_what_a_process_died_on_before_it_was_settled_is_settled_by_the_deletion(ana: User):
    turn = ask(ana)
    progress.close(turn, progress.Outcome("completed", answer="hola", model="scripted", cost_micros=17))
    assert delete(ana, turn) == 204
    assert record_of(turn).cost_micros == 17
    assert holds_of(ana) == (0, 0)
    assert nothing_left()


async def test_who_waits_for_a_deleted_answer_is_told_its_end(redis: Redis, ana: User):
    turn = await aask(ana)
    async with asyncio.timeout(30), aclosing(watch(turn)) as batches:
        reading = asyncio.ensure_future(anext(batches))
        await in_thread(delete, ana, turn)
        entries = await reading
        while not entries or entries[-1].kind != EntryKind.END:
            entries = await anext(batches)


def test_what_is_deleted_while_its_runner_is_dead_is_gone_and_still_counts(ana: User, at_once: None):
    turn = lose_runner(ask(ana, "secreto"), "hola")
    assert delete(ana, turn) == 204
    client = APIClient()
    client.force_authenticate(ana)
    for path in (
        f"{ADDRESS}/{turn.conversation_id}",
        f"{ADDRESS}/{turn.conversation_id}/turns",
        f"/api/v1/turns/{turn.pk}",
    ):
        assert client.get(path).status_code == 404
    assert client.get(ADDRESS).json()["results"] == client.get("/api/v1/search?q=secreto").json()["results"] == []
    for _ in range(3):
        with pytest.raises(TooManyAtOnce):
            ask(ana)


async def test_the_sweep_finishes_a_deletion_whose_runner_was_dead(redis: Redis, ana: User, at_once: None):
    turn = await in_thread(lose_runner, await aask(ana, "secreto"), "hola")
    await in_thread(delete, ana, turn)
    await in_thread(grow_old, turn, 3_600)
    for _ in range(2):
        await repair_turns()
        record = await in_thread(record_of, turn)
        assert record.output_tokens == estimate_tokens(["hola"], bytes_per_token=SETTLE_BYTES_PER_TOKEN)
        assert await in_thread(holds_of, ana) == (0, 0)
    assert await in_thread(nothing_left)


async def test_a_lease_keeps_what_was_deleted_from_being_given_back(redis: Redis, ana: User, at_once: None):
    """Its runner is frozen: it may still show something, and its provider goes on."""
    turn = await in_thread(lose_runner, await aask(ana), "hola")
    await redis.set(leases.lease_key(turn.pk), "frozen:1")
    await in_thread(delete, ana, turn)
    await in_thread(grow_old, turn, 3_600)
    await repair_turns()
    assert (await in_thread(holds_of, ana))[0] == 1
    await redis.delete(leases.lease_key(turn.pk))
    await repair_turns()
    assert await in_thread(holds_of, ana) == (0, 0)
    assert await in_thread(nothing_left)


# --- A deletion that dies, or cannot go on ----------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["erase_if_over", "erase_turns", "list_turn_ids"])
def test_a_deletion_that_dies_at_any_step_is_finished_by_the_sweep(
    ana: User, monkeypatch: pytest.MonkeyPatch, step: str
):
    turn = ask(ana, "secreto")
    conversation = access.access_conversation(ana.pk, turn.conversation_id)
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(deletion, step, die)
        deletion.delete_conversation(conversation)
    assert access.list_conversations(ana.pk).rows == []
    deletion.finish_deletions()
    assert nothing_left()
    assert holds_of(ana) == (0, 0)


def test_a_deletion_that_fails_keeps_no_other_from_its_end(ana: User, carla: User, monkeypatch: pytest.MonkeyPatch):
    bad, good = ask(carla), ask(carla)

    def fail(conversation: Conversation, **_signal: Any) -> bool:
        if conversation.pk == bad.conversation_id:
            raise RuntimeError
        return True

    conversation_deleted.connect(fail)
    try:
        for turn in (bad, good):
            assert delete(carla, turn) == 204
            deletion.finish_deletions()
        assert [row.pk for row in Conversation.objects.all()] == [bad.conversation_id]
    finally:
        conversation_deleted.disconnect(fail)
    deletion.finish_deletions()
    assert nothing_left()


# --- Somebody asks meanwhile ------------------------------------------------------------------------------------------


def while_writing(monkeypatch: pytest.MonkeyPatch, before: Callable[[], Any], after: Callable[[], Any]) -> None:
    """Have something happen just before and just after the next turn is written; it is counted after that."""
    insert = rows.insert

    def disturbed(row: Any) -> None:
        if not isinstance(row, Turn):
            return insert(row)
        monkeypatch.setattr(rows, "insert", insert)
        before()
        insert(row)
        after()

    monkeypatch.setattr(rows, "insert", disturbed)


def nothing() -> None:
    pass


@pytest.mark.parametrize("is_before", [True, False])
def test_a_turn_written_while_its_conversation_is_deleted_is_undone(
    ana: User, monkeypatch: pytest.MonkeyPatch, is_before: bool
):
    first = finished(ana)
    left = remaining(ana)
    late = question("secreto", conversation_id=first.conversation_id)

    def deleted() -> None:
        elsewhere(lambda: delete(ana, first))

    while_writing(monkeypatch, deleted if is_before else nothing, nothing if is_before else deleted)
    with pytest.raises(NotFound):
        open_turn(ana.pk, late)
    assert reservation_of(Turn(pk=late.turn_id)).state == Reservation.State.RELEASED
    assert (holds_of(ana), remaining(ana)) == ((0, 0), left)
    assert nothing_left()


@pytest.mark.parametrize("age_seconds", [60, 3_600])
async def test_a_turn_written_into_nothing_by_a_process_that_died_is_erased_by_the_sweep(
    redis: Redis, ana: User, monkeypatch: pytest.MonkeyPatch, age_seconds: int
):
    first = await in_thread(finished, ana)
    late = question("secreto", conversation_id=first.conversation_id)
    while_writing(monkeypatch, lambda: elsewhere(lambda: delete(ana, first)), die)
    with pytest.raises(Died):
        await in_thread(open_turn, ana.pk, late)
    assert (await in_thread(search_turns, ana.pk, Query(words=("secreto",)))).rows == []
    await in_thread(grow_old, await in_thread(saved, late.turn_id), age_seconds)
    await repair_turns()
    assert await in_thread(nothing_left)
    assert await in_thread(holds_of, ana) == (0, 0)


def test_nothing_is_added_to_what_is_being_deleted(ana: User, carla: User, at_once: None):
    turn = lose_runner(ask(carla), "hola")
    delete(carla, turn)
    left = remaining(carla)
    for parent in (turn.pk, None):
        with pytest.raises(DomainError):
            ask(carla, conversation_id=turn.conversation_id, parent_id=parent)
    assert (Turn.objects.count(), holds_of(carla)[0], remaining(carla)) == (1, 1, left)
    with pytest.raises(NotFound):
        tree.get_or_create_conversation(carla.pk, turn.conversation_id, title="otra vez")
