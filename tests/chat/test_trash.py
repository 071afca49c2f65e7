"""A conversation is put into the trash while its answers wait, run, or have lost their runner; and taken back."""

import asyncio
import datetime as dt
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings
from django.db.models import QuerySet
from redis.asyncio import Redis

from accounts.models import User
from billing.models import Reservation
from chat.turns import erasure, log
from chat.turns.erasure import erase_history, finish_erasures
from chat.turns.opening import open_turn
from chat.turns.runner import Runner
from chat.turns.sweeping import repair_turns
from core.errors import NotFound
from core.threads import in_thread
from history import access, deletion, folders, order, trash, tree
from history.models import Conversation, Turn, now
from testbed.provider import FakeProvider
from tests.chat.asking import aask, ask, closed, eventually, finished, question, reservation_of, saved
from tests.chat.attaching import attached
from tests.chat.conftest import Offer
from tests.chat.dying import Died, die, elsewhere, lose_runner
from tests.chat.live import page_of
from tests.chat.test_attachments import finish, ids, seeing  # noqa: F401  a fixture
from tests.chat.test_deletion import holds_of, nothing_left, while_writing

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

ADDRESS = "/api/v1/conversations"


def put(user: User, turn: Turn) -> None:
    assert trash.trash_conversations(user.pk, [turn.conversation_id]) == [turn.conversation_id]


def take_back(user: User, turn: Turn) -> list[UUID]:
    return trash.restore_conversations(user.pk, [turn.conversation_id])


def grow_older(turn: Turn, days: float) -> None:
    long_ago = now() - dt.timedelta(days=days)
    Conversation.objects.filter(pk=turn.conversation_id).update(trashed_at=long_ago)


def test_what_is_in_the_trash_is_found_nowhere_else(ana: User, api: Any, client: Any, seeing: Any):  # noqa: F811
    file = attached(ana)
    turn = finished(ana)
    with_file = finish(ask(ana, attachments=ids(file)))
    kept = finished(ana)
    client.force_login(ana)
    mine = api(ana)
    for of in (turn, with_file):
        assert mine.delete(f"{ADDRESS}/{of.conversation_id}").status_code == 204
        assert mine.delete(f"{ADDRESS}/{of.conversation_id}").status_code == 404
        for path in (f"{ADDRESS}/{of.conversation_id}", f"{ADDRESS}/{of.conversation_id}/turns"):
            assert mine.get(path).status_code == 404
        for path in (f"/api/v1/turns/{of.pk}", f"/api/v1/turns/{of.pk}/events"):
            assert mine.get(path).status_code == 404
        for path in (f"/c/{of.conversation_id}/", f"/turns/{of.pk}/", f"/c/{of.conversation_id}/rename/"):
            assert client.get(path).status_code == 404
        assert mine.patch(f"{ADDRESS}/{of.conversation_id}", {"title": "x"}, format="json").status_code == 404
        assert not access.title_conversation(Conversation(pk=of.conversation_id, title="say:hola"), "Saludos")
        with pytest.raises(NotFound):
            tree.get_or_create_conversation(ana.pk, of.conversation_id, title="otra vez")
    assert mine.get(f"/api/v1/attachments/{file.pk}").status_code == 404
    assert client.get(f"/attachments/{file.pk}/").status_code == 404
    assert [row["id"] for row in mine.get(ADDRESS).json()["results"]] == [str(kept.conversation_id)]
    assert str(turn.conversation_id) not in client.get("/").text + client.get("/conversations/").text
    in_trash = mine.get(f"{ADDRESS}?in=trash").json()["results"]
    assert [row["id"] for row in in_trash] == [str(with_file.conversation_id), str(turn.conversation_id)]
    assert in_trash[0]["trashed_at"]

    # All of it comes back.
    for of in (turn, with_file):
        assert mine.post(f"{ADDRESS}/{of.conversation_id}/restore").status_code == 200
        assert mine.get(f"/api/v1/turns/{of.pk}").status_code == 200
    assert mine.post(f"{ADDRESS}/{kept.pk}/restore").status_code == 404
    assert mine.get(f"/api/v1/attachments/{file.pk}").status_code == 200
    assert mine.get(f"{ADDRESS}?in=trash").json()["results"] == []


def test_somebody_elses_trash_is_out_of_reach(ana: User, bo: User, api: Any):
    turn = finished(bo)
    assert trash.trash_conversations(ana.pk, [turn.conversation_id]) == []
    put(bo, turn)
    assert take_back(ana, turn) == []
    assert trash.empty_trash(ana.pk, until=now()) == 0
    assert trash.delete_from_trash(ana.pk, [turn.conversation_id]) == []
    assert api(ana).delete(f"{ADDRESS}/{turn.conversation_id}?forever=true").status_code == 404
    assert take_back(bo, turn) == [turn.conversation_id]


async def test_what_is_answered_is_stopped_and_charged_and_other_tabs_leave_it(
    redis: Redis, runner: Runner, carla: User, offer: Offer, provider: FakeProvider
):
    model = await in_thread(offer, "fake-900t-20ms-f0")
    turn = await aask(carla, "hola", model=model.key)
    waiting = await aask(carla, "¿y tú?", model=model.key, conversation_id=turn.conversation_id, parent_id=None)
    await eventually(lambda: redis.xlen(log.log_key(turn.pk)))
    async with page_of(carla) as page:
        await in_thread(put, carla, turn)
        changed = await page.next("conversation.changed")
        assert (changed["conversation_id"], changed["html"]) == (str(turn.conversation_id), "")
        over = await closed(turn)
        await closed(waiting)
        await in_thread(take_back, carla, turn)
        changed = await page.next("conversation.changed")
        assert str(turn.conversation_id) in changed["html"]
    assert (over.status, bool(over.answer), over.cost_micros) == ("stopped", True, over.cost_micros or None)
    assert await in_thread(holds_of, carla) == (0, 0)


def test_a_question_that_waits_is_taken_back_and_stays(ana: User):
    turn = ask(ana)
    put(ana, turn)
    assert (saved(turn).status, reservation_of(turn).state) == ("stopped", Reservation.State.RELEASED)
    assert holds_of(ana) == (0, 0)
    assert take_back(ana, turn) == [turn.conversation_id]
    assert access.access_turn(ana.pk, turn.pk).status == "stopped"


async def test_who_dies_before_the_stop_leaves_it_to_the_sweep(ana: User, monkeypatch: pytest.MonkeyPatch):
    turn = await in_thread(ask, ana)
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(trash, "_announce_trashed", die)
        await in_thread(put, ana, turn)
    assert await in_thread(access.find_conversation, turn.conversation_id) is None
    await repair_turns()
    assert (await in_thread(saved, turn)).status == "stopped"
    assert await in_thread(holds_of, ana) == (0, 0)


@pytest.mark.parametrize("is_before", [True, False])
def test_what_is_asked_while_it_is_trashed_is_refused_and_free(
    ana: User, monkeypatch: pytest.MonkeyPatch, is_before: bool
):
    first = finished(ana)
    late = question("secreto", conversation_id=first.conversation_id)

    def trashed() -> None:
        elsewhere(lambda: put(ana, first))

    while_writing(monkeypatch, *((trashed, lambda: None) if is_before else (lambda: None, trashed)))
    with pytest.raises(NotFound):
        open_turn(ana.pk, late)
    assert holds_of(ana) == (0, 0)
    assert not Turn.objects.filter(status__in=Turn.OPEN).exists()
    assert take_back(ana, first) == [first.conversation_id]
    assert ask(ana, conversation_id=first.conversation_id).is_open  # it can be gone on with


# --- Its end ----------------------------------------------------------------------------------------------------------


def test_after_thirty_days_it_is_erased_and_not_before(ana: User):
    young, old, kept = finished(ana), finished(ana), finished(ana)
    for turn, days in ((young, settings.TRASH_DAYS - 0.01), (old, settings.TRASH_DAYS + 0.01)):
        put(ana, turn)
        grow_older(turn, days)
    finish_erasures()
    assert set(Turn.objects.values_list("pk", flat=True)) == {young.pk, kept.pk}
    assert take_back(ana, young) == [young.conversation_id]


def test_an_undo_and_the_sweep_agree_on_one_of_them(ana: User, monkeypatch: pytest.MonkeyPatch):
    """Whoever writes first has it: the sweep erases nothing that was taken back, and gives nothing back."""
    turn = finished(ana)
    put(ana, turn)
    grow_older(turn, 99)
    update = QuerySet.update

    def overtaken(rows: Any, **fields: Any) -> int:
        monkeypatch.setattr(QuerySet, "update", update)
        elsewhere(lambda: take_back(ana, turn))
        return update(rows, **fields)

    monkeypatch.setattr(QuerySet, "update", overtaken)
    finish_erasures()
    assert access.access_turn(ana.pk, turn.pk)
    put(ana, turn)
    grow_older(turn, 99)
    trash.delete_expired()
    assert take_back(ana, turn) == []
    with pytest.raises(NotFound):
        access.access_even_trashed(ana.pk, turn.conversation_id)
    finish_erasures()
    assert nothing_left()


def test_what_is_erased_meanwhile_is_not_said_to_be_back(ana: User, monkeypatch: pytest.MonkeyPatch):
    back, erased = finished(ana), finished(ana)
    put(ana, back)
    put(ana, erased)

    def swept_meanwhile() -> dt.datetime:
        Conversation.objects.filter(pk=erased.conversation_id).update(is_deleted=True)
        return now()

    monkeypatch.setattr(trash, "now", swept_meanwhile)
    both = [back.conversation_id, erased.conversation_id]
    assert trash.restore_conversations(ana.pk, both) == [back.conversation_id]


def test_two_tabs_delete_for_good_and_take_back(ana: User):
    turn, other = finished(ana), finished(ana)
    put(ana, turn)
    seen = access.access_even_trashed(ana.pk, turn.conversation_id)
    assert take_back(ana, turn)
    with pytest.raises(NotFound):
        deletion.delete_conversation(seen)  # as it was seen, in the trash
    with pytest.raises(NotFound):
        order.do(ana.pk, "erase", {turn.conversation_id: None})
    assert access.access_turn(ana.pk, turn.pk)
    put(ana, turn)
    until = now()
    put(ana, other)
    Conversation.objects.filter(pk=other.conversation_id).update(trashed_at=until + dt.timedelta(seconds=1))
    assert trash.empty_trash(ana.pk, until=until) == 1  # what came into it since stays
    finish_erasures()
    assert list(Turn.objects.all()) == [other]


async def test_a_person_who_goes_takes_trash_and_folders_along(ana: User):
    turn = await in_thread(lambda: lose_runner(ask(ana), "hola"))
    folder = await in_thread(lambda: folders.create_folder(ana.pk, name="Cocina"))
    await in_thread(put, ana, turn)
    await asyncio.sleep(0)
    assert not await in_thread(lambda: erase_history(ana.pk, patience_seconds=0))  # its runner is dead
    assert await in_thread(lambda: folders.find_folder(ana.pk, folder.pk)) is None
    await in_thread(take_back, ana, turn)
    assert await in_thread(access.find_conversation, turn.conversation_id) is None


async def test_the_sweep_erases_for_a_while_and_goes_on_the_next_time(ana: User, monkeypatch: pytest.MonkeyPatch):
    turns = [await in_thread(finished, ana) for _ in range(3)]
    for turn in turns:
        await in_thread(put, ana, turn)
    await in_thread(lambda: trash.empty_trash(ana.pk, until=now()))
    monkeypatch.setattr(deletion, "SWEEP_SECONDS", 0)
    await in_thread(erasure.finish_erasures)
    assert await in_thread(Turn.objects.count) == 2
    monkeypatch.undo()
    await in_thread(erasure.finish_erasures)
    assert await in_thread(nothing_left)
