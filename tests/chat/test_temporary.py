"""Temporary conversations: kept nowhere but in Redis, gone at their time, and paid once whatever dies."""

import asyncio
import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings as django_settings
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone, translation
from pytest_django import Settings
from redis.asyncio import Redis
from rest_framework.test import APIClient

from accounts.models import Closure, User
from billing.models import Reservation, UsageRecord
from chat.attachments import sweeping as file_sweeping
from chat.attachments.sweeping import repair_attachments
from chat.models import Attachment
from chat.turns import closing, ending, opening, sweeping
from chat.turns.closing import close_turn
from chat.turns.opening import open_turn
from chat.turns.runner import Runner
from chat.turns.sweeping import repair_turns
from core.errors import NotFound
from core.redis_clients import sync_redis
from core.threads import in_thread
from history import access, branches, deletion, progress, temporary, tree
from history.errors import HasNoBranches, IdOfOtherKind, Overtaken, TemporaryGone, TooManyTemporary, TooMuchTemporary
from history.models import Conversation, Turn, new_id
from history.progress import Outcome
from testbed.provider import FakeProvider
from tests.chat.asking import eventually, is_held, question, record_of, reservation_of
from tests.chat.attaching import attached, ids, stored_names
from tests.chat.conftest import Offer, running
from tests.chat.dying import Died, die, lose_runner
from tests.chat.everything import everything_stored
from tests.chat.live import page_of

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

SECRET = "pregunta-secreta"
API = "/api/v1"


def ask_in(user: User, conversation: Conversation | UUID, text: str = f"say:{SECRET}", **fields: Any) -> Turn:
    pk = conversation if isinstance(conversation, UUID) else conversation.pk
    fields = {"turn_id": temporary.new_turn_id(pk), "conversation_id": pk} | fields
    return open_turn(user.pk, question(text, **fields)).turn


def begun(user: User, **fields: Any) -> Turn:
    """A temporary conversation with a turn that waits for a runner."""
    return ask_in(user, temporary.begin_conversation(user.pk), **fields)


async def closed(turn: Turn) -> Turn:
    """Wait until the turn is over and paid; return it."""

    async def look() -> Turn | None:
        found = await in_thread(access.find_turn, turn.pk)
        assert found is not None
        return None if found.is_open or await in_thread(is_held, turn) else found

    found: Turn = await eventually(look)
    return found


def finished_in(user: User, conversation: Conversation) -> Turn:
    turn = ask_in(user, conversation)
    close_turn(turn, Outcome(Turn.Status.STOPPED, answer="hola"))
    return turn


def expire() -> None:
    """Let the hour pass."""
    names = list(sync_redis().scan_iter("temporary:*"))
    lives = {sync_redis().ttl(name) for name in names if name != temporary.ENDED.encode()}
    assert all(3_590 < seconds <= 3_600 for seconds in lives), lives
    for name in names:
        sync_redis().delete(name)


def let_pass(seconds: int) -> None:
    """Let so much time pass for all that is kept."""
    redis: Any = sync_redis()
    for name in list(redis.scan_iter("temporary:*")):
        if redis.type(name) == b"zset":
            for member in redis.zrange(name, 0, -1):
                redis.zincrby(name, -seconds, member)
        left = redis.ttl(name)
        assert left > 0, f"{name} stays for ever"
        redis.expire(name, left - seconds)


def lose_everything() -> None:
    """Redis was emptied."""
    sync_redis().flushall()


def is_nothing_left() -> bool:
    assert not Turn.objects.exists()
    assert not Conversation.objects.exists()
    return SECRET not in everything_stored() and not list(sync_redis().scan_iter("temporary:*"))


def grow_old(turn: Turn | UUID, seconds: float = 120) -> None:
    pk = turn.pk if isinstance(turn, Turn) else turn
    Reservation.objects.filter(pk=pk).update(created_at=timezone.now() - dt.timedelta(seconds=seconds))


def paid(turn: Turn | UUID) -> tuple[str, int | None]:
    """What became of a reservation, and what was charged."""
    pk = turn.pk if isinstance(turn, Turn) else turn
    record = UsageRecord.objects.filter(reservation_id=pk).first()
    return Reservation.objects.get(pk=pk).state, record.cost_micros if record else None


def clients(user: User) -> tuple[APIClient, Client]:
    api, browser = APIClient(HTTP_ACCEPT_LANGUAGE="en"), Client(HTTP_ACCEPT_LANGUAGE="en")
    api.force_authenticate(user)
    browser.force_login(user)
    return api, browser


@pytest.fixture(autouse=True)
def own_storage(settings: Settings, tmp_path: Path) -> None:
    options = {**settings.STORAGES["attachments"]["OPTIONS"], "location": tmp_path / "attachments"}
    settings.STORAGES = {**settings.STORAGES, "attachments": {**settings.STORAGES["attachments"], "OPTIONS": options}}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps wait for nobody, and nobody waits for a runner that is dead."""
    monkeypatch.setattr(sweeping, "ORPHAN_SECONDS", 0)
    monkeypatch.setattr(deletion, "PATIENCE_SECONDS", 0)
    monkeypatch.setattr(file_sweeping, "BOUND_GRACE", dt.timedelta(0))


# --- A life -----------------------------------------------------------------------------------------------------------


async def test_a_temporary_conversation_is_asked_in_read_again_and_ended(
    redis: Redis, runner: Runner, carla: User, offer: Offer, provider: FakeProvider, settings: Settings
):
    settings.CACHE_TTL = 60  # it is on, and keeps nothing of this
    model = await in_thread(offer, "fake-5t-1ms-f0")
    api, browser = await in_thread(clients, carla)
    answer = await in_thread(lambda: api.post(f"{API}/conversations", {"temporary": True}, format="json"))
    assert answer.status_code == 201
    pk = UUID(answer.json()["id"])
    asked_at = timezone.now()
    body = {"text": f"say:{SECRET}", "model": "scripted"}
    asked = await in_thread(lambda: api.post(f"{API}/conversations/{pk}/turns", body, format="json"))
    answered = json.loads(b"".join([part async for part in asked.streaming_content]))
    first, second = UUID(answered["id"]), temporary.new_turn_id(pk)
    assert answered["answer"] == f"{SECRET} "
    async with page_of(carla) as page, page_of(carla) as other:
        await page.start("hola", turn_id=second, conversation_id=pk, model=model.key)
        assert (await page.ended())["type"] == "turn.completed"
        assert (await other.next("turn.started"))["seq"] == 2
        assert [message["content"] for message in provider.requests[-1]["messages"]][1:3] == [
            f"say:{SECRET}",
            f"{SECRET} ",
        ]
        for tab in (page, other):  # it has no line in their lists
            assert not [event for event in await tab.settled() if event["type"] == "conversation.changed"]
        await in_thread(look_around, api, browser, pk, asked_at)
        assert (await in_thread(browser.post, f"/c/{pk}/end/")).status_code == 302
        gone = await page.next("conversation.changed")
        assert (gone["conversation_id"], gone["html"]) == (str(pk), "")
    assert await in_thread(is_nothing_left)
    assert [state for state, _cost in await in_thread(lambda: [paid(first), paid(second)])] == ["settled"] * 2


def look_around(api: APIClient, browser: Client, pk: UUID, asked_at: dt.datetime) -> None:
    """See the conversation where it is, and nowhere else."""
    read = api.get(f"{API}/conversations/{pk}").json()
    assert (read["turn_count"], read["title"]) == (2, "Temporary chat")
    assert dt.datetime.fromisoformat(read["gone_at"]) - asked_at > dt.timedelta(minutes=59, seconds=59)
    turns = api.get(f"{API}/conversations/{pk}/turns").json()["results"]
    assert [turn["seq"] for turn in turns] == [1, 2]
    shown = browser.get(f"/c/{pk}/").content.decode()
    assert SECRET in shown
    assert "data-temporary" in shown
    for button in ("data-edit>", 'name="again"', "/share/", "/fork/", 'name="beside"'):
        assert button not in shown, button
    assert not Turn.objects.exists()
    assert not Conversation.objects.exists()
    assert not api.get(f"{API}/conversations").json()["results"]
    assert not api.get(f"{API}/search", {"q": SECRET}).json()["results"]
    assert str(pk) not in browser.get("/").content.decode()
    assert not list(sync_redis().scan_iter("answers:*"))
    assert not list(sync_redis().scan_iter("title:*"))


def test_what_is_gone_somebody_elses_or_was_never_there_is_the_same_404(carla: User, bo: User) -> None:
    theirs = temporary.begin_conversation(carla.pk)
    turn = finished_in(carla, theirs)
    gone = ask_in(carla, temporary.begin_conversation(carla.pk))
    temporary.end_conversations(carla.pk, [gone.conversation_id])
    never = temporary.new_turn_id(theirs.pk)

    def answers(user: User, pk: UUID, turn_id: UUID) -> set[tuple[int, bool]]:
        api, browser = clients(user)
        at, of = f"{API}/conversations/{pk}", f"{API}/turns/{turn_id}"
        ask = {"text": "hola", "model": "scripted", "turn_id": str(temporary.new_turn_id(pk))}
        found: list[Any] = [api.get(at), api.delete(at), api.get(f"{at}/turns"), api.get(of)]
        found += [api.post(f"{at}/turns", ask, format="json"), api.get(f"{of}/events"), api.post(f"{of}/stop")]
        found += [browser.get(f"/c/{pk}/"), browser.get(f"/turns/{turn_id}/"), browser.post(f"/c/{pk}/end/")]
        found += [browser.post(f"/c/{pk}/", {"text": "hola"}), browser.post(f"/turns/{turn_id}/stop/")]
        return {(answer.status_code, says_gone(answer)) for answer in found}

    assert answers(bo, theirs.pk, turn.pk) == {(404, True)}
    assert temporary.end_conversations(bo.pk, [theirs.pk]) == []
    assert answers(carla, gone.conversation_id, gone.pk) == {(404, True)}
    assert answers(carla, never, never) == {(404, True)}
    assert not Conversation.objects.exists()
    # Nothing of it is shared, forked, renamed, moved, changed, taken along or taken back by its owner either.
    api, browser = clients(carla)
    at, of = f"{API}/conversations/{theirs.pk}", f"{API}/turns/{turn.pk}"
    refused = [
        *(api.patch(at, {"title": "x"}, format="json"), api.post(f"{at}/shares"), api.get(f"{at}/export")),
        *(api.post(f"{of}/fork"), api.post(f"{at}/restore")),
        *(browser.get(f"/c/{theirs.pk}/{act}/") for act in ("share", "rename", "move", "export", "export/markdown")),
        *(browser.get(f"/turns/{turn.pk}/share/"), browser.post(f"/turns/{turn.pk}/fork/")),
    ]
    assert {answer.status_code for answer in refused} == {404}
    assert browser.get(f"/c/{theirs.pk}/").status_code == 200


def says_gone(answer: HttpResponse) -> bool:
    """Whether an answer says in some language that there is no such temporary conversation."""
    text = answer.content.decode()
    for language, _name in django_settings.LANGUAGES:
        with translation.override(language):
            if str(TemporaryGone.message) in text:
                return True
    return False


async def test_after_its_hour_nothing_is_left_and_nothing_asked_in_it_is_stored(
    redis: Redis, carla: User, at_once: None
):
    def live() -> None:
        file = attached(carla, b"una nota", "a.txt")
        turn = begun(carla, attachments=ids(file))
        close_turn(turn, Outcome(Turn.Status.STOPPED, answer=SECRET))
        ending.erase_logs(sync_redis(), [turn.pk])
        repair_attachments()
        assert access.access_turn(carla.pk, turn.pk).answer == SECRET
        assert Attachment.objects.get().status == Attachment.Status.READY
        expire()
        with pytest.raises(TemporaryGone):
            ask_in(carla, turn.conversation_id)
        repair_attachments()
        assert not Attachment.objects.exists()
        assert not stored_names()
        assert is_nothing_left()

    await in_thread(live)


def test_each_question_keeps_all_of_it_for_another_hour(carla: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "MAX_CONVERSATIONS", 2)
    asked_in, _forgotten = (temporary.begin_conversation(carla.pk) for _ in range(2))
    let_pass(60)
    first = finished_in(carla, asked_in)
    let_pass(3_500)
    second = finished_in(carla, asked_in)
    let_pass(3_500)
    assert temporary.list_temporary_turns(asked_in.pk) == [first, second]
    assert access.access_turn(carla.pk, first.pk).answer == "hola"
    temporary.begin_conversation(carla.pk)  # in the place of the one that is gone
    with pytest.raises(TooManyTemporary):
        temporary.begin_conversation(carla.pk)
    let_pass(3_600)
    assert is_nothing_left()


# --- One branch, and limits -------------------------------------------------------------------------------------------


def test_it_has_one_branch_and_ids_of_its_kind(carla: User) -> None:
    conversation = temporary.begin_conversation(carla.pk)
    first = finished_in(carla, conversation)
    second = finished_in(carla, conversation)
    assert ask_in(carla, conversation, turn_id=second.pk).pk == second.pk  # sent again, it is the same
    for parent_id in (None, first.pk):
        with pytest.raises(HasNoBranches):
            ask_in(carla, conversation, parent_id=parent_id)
    for turn_id, conversation_id in ((new_id(), conversation.pk), (temporary.new_turn_id(first.pk), new_id())):
        with pytest.raises(IdOfOtherKind):
            ask_in(carla, conversation_id, turn_id=turn_id)
    with pytest.raises(IdOfOtherKind):
        tree.get_or_create_conversation(carla.pk, temporary.new_turn_id(first.pk), title="x")
    with pytest.raises(Overtaken):
        temporary.add_temporary_turn(Turn(**_fields_of(second) | {"id": temporary.new_turn_id(first.pk), "seq": 2}))
    assert not Reservation.objects.filter(state=Reservation.State.HELD).exists()
    third = finished_in(carla, conversation)
    windows = [
        branches.list_branch(conversation, limit=2, **place)
        for place in ({}, {"before": second}, {"after": first}, {"at": first})
    ]
    shown = [([turn.seq for turn in one.turns], one.has_earlier, one.has_later) for one in windows]
    assert shown == [([2, 3], True, False), ([1], False, False), ([2, 3], True, False), ([1, 2], False, True)]
    assert access.list_turns(conversation, after=1, limit=1).rows[0].pk == second.pk
    with pytest.raises(NotFound):
        branches.get_turn(conversation, new_id())
    assert tree.find_latest(carla.pk, conversation.pk) == third


def _fields_of(turn: Turn) -> dict[str, Any]:
    return {field.attname: getattr(turn, field.attname) for field in Turn._meta.concrete_fields}


def test_how_many_and_how_long_they_may_be_is_bounded(carla: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "MAX_CONVERSATIONS", 2)
    monkeypatch.setattr(temporary, "MAX_BYTES", 5_000)
    one, other = (temporary.begin_conversation(carla.pk) for _ in range(2))
    with pytest.raises(TooManyTemporary) as refused:
        temporary.begin_conversation(carla.pk)
    assert 3_590 < (refused.value.retry_after or 0) <= 3_600
    close_turn(ask_in(carla, one), Outcome(Turn.Status.COMPLETED, answer="x" * 4_000))
    with pytest.raises(TooMuchTemporary):
        ask_in(carla, other)
    deletion.delete_conversation(one)
    assert ask_in(carla, other).seq == 1
    temporary.begin_conversation(carla.pk)


# --- Whatever dies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "step",
    ["reserved", "written", "silent", "shown", "closed"],
)
async def test_whatever_dies_a_turn_ends_and_is_paid_once(
    redis: Redis, carla: User, at_once: None, monkeypatch: pytest.MonkeyPatch, step: str
):
    def die_at(step: str) -> UUID:
        conversation = temporary.begin_conversation(carla.pk)
        turn_id = temporary.new_turn_id(conversation.pk)
        places: dict[str, tuple[Any, str]] = {
            "reserved": (tree, "add_turn"),
            "written": (opening, "enqueue"),
            "closed": (closing, "settle_turn"),
        }
        with monkeypatch.context() as patch:
            if step in places:
                patch.setattr(*places[step], die)
            try:
                turn = ask_in(carla, conversation, turn_id=turn_id)
                if step == "closed":
                    progress.claim(turn)
                    close_turn(turn, Outcome(Turn.Status.STOPPED, answer="hola", cost_micros=12, price=""))
            except Died:
                pass
        if step in ("silent", "shown"):
            lose_runner(turn, SECRET if step == "shown" else "")
        sync_redis().delete("turns", f"turn:{turn_id}:queued")
        grow_old(turn_id)
        return turn_id

    turn_id = await in_thread(die_at, step)
    await repair_turns()
    if step in ("written", "silent"):
        async with running():
            found = await in_thread(access.find_turn, turn_id)
            assert found is not None
            found = await closed(found)
        assert (found.status, found.gen) == ("completed", 2 if step == "silent" else 1)
    found = await in_thread(access.find_turn, turn_id)
    state, cost = await in_thread(paid, turn_id)
    match step:
        case "reserved":
            assert (found, state, cost) == (None, "released", None)
        case "shown":
            assert found is not None
            assert (found.status, found.answer, state, cost) == ("interrupted", SECRET, "settled", found.cost_micros)
        case "closed":
            assert (state, cost) == ("settled", 12)
        case _:
            assert found is not None
            assert (state, cost) == ("settled", found.cost_micros)
    assert cost != 0
    await repair_turns()
    assert await in_thread(paid, turn_id) == (state, cost)
    await in_thread(deletion.end_temporaries, carla.pk)
    assert await in_thread(is_nothing_left)


async def test_what_nobody_of_ours_has_written_costs_no_other_turn(redis: Redis, carla: User, at_once: None):
    broken, hidden, turn = [await in_thread(begun, carla) for _ in range(3)]
    await in_thread(lose_runner, turn, SECRET)
    await redis.hset(f"temporary:{broken.conversation_id}", f"turn:{broken.pk}", b"\xc1")
    await redis.set(f"temporary:{hidden.conversation_id}", b"no hash")
    for one in (broken, hidden, turn):
        await in_thread(grow_old, one)
    await repair_turns()
    assert (await closed(turn)).answer == SECRET
    assert await in_thread(lambda: [paid(one)[0] for one in (broken, hidden)]) == ["released"] * 2


async def test_a_question_that_no_runner_takes_fails_for_nothing(redis: Redis, carla: User, settings: Settings):
    turn = await in_thread(begun, carla)
    await in_thread(grow_old, turn)
    settings.QUEUE_SECONDS = 0
    await repair_turns()
    found = await closed(turn)
    assert (found.status, found.error, await in_thread(paid, turn)) == ("failed", "queue_timeout", ("released", None))


@pytest.mark.parametrize("is_alive", [True, False], ids=["its runner lives", "its runner dies, too"])
async def test_a_turn_that_went_with_redis_is_paid_by_what_its_runner_has(
    redis: Redis, carla: User, offer: Offer, provider: FakeProvider, is_alive: bool
):
    model = await in_thread(offer, "fake-900t-20ms-f0")
    if is_alive:
        async with running():
            turn = await in_thread(begun, carla, model=model.key)
            await eventually(lambda: redis.xlen(f"turn:{turn.pk}:log"))
            await in_thread(lose_everything)
            await eventually(lambda: in_thread(lambda: not is_held(turn)))
            await eventually(lambda: in_thread(lambda: provider.stats().active == 0))
        assert await in_thread(access.find_turn, turn.pk) is None
        record = await in_thread(record_of, turn)
        assert 0 < record.cost_micros <= (await in_thread(reservation_of, turn)).amount_micros
    else:
        turn = await in_thread(begun, carla)
        await in_thread(lose_runner, turn, SECRET)
        await in_thread(lose_everything)
        await in_thread(grow_old, turn)
        await repair_turns()
        assert await in_thread(paid, turn) == ("released", None)
    before = await in_thread(paid, turn)
    await in_thread(grow_old, turn)
    await repair_turns()
    assert await in_thread(paid, turn) == before


# --- Ended at once ----------------------------------------------------------------------------------------------------


def _end_by_button(user: User, turn: Turn) -> None:
    browser = Client()
    browser.force_login(user)
    assert browser.post(f"/c/{turn.conversation_id}/end/").status_code == 302


def _log_out(user: User, turn: Turn) -> None:
    browser = Client()
    browser.force_login(user)
    assert browser.post("/accounts/logout/").status_code == 302


def _close_account(user: User, turn: Turn) -> None:
    User.objects.get(pk=user.pk).delete()
    assert Closure.objects.exists()


@pytest.mark.parametrize("end", [_end_by_button, _log_out, _close_account])
@pytest.mark.parametrize("is_alive", [True, False], ids=["its runner lives", "its runner is dead"])
async def test_what_is_ended_while_it_is_answered_is_gone_and_paid_once(
    redis: Redis,
    carla: User,
    offer: Offer,
    at_once: None,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[User, Turn], None],
    is_alive: bool,
):
    file = await in_thread(attached, carla, b"una nota", "a.txt")
    if is_alive:
        model = await in_thread(offer, "fake-900t-20ms-f0")
        async with running():
            turn = await in_thread(begun, carla, text=SECRET, model=model.key, attachments=ids(file))
            await eventually(lambda: redis.xlen(f"turn:{turn.pk}:log"))
            await in_thread(end, carla, turn)
            assert await in_thread(access.find_even_temporary, turn.conversation_id) is None
            await eventually(lambda: in_thread(lambda: not is_held(turn)))
    else:
        turn = await in_thread(begun, carla, attachments=())
        await in_thread(lose_runner, turn, "hola")
        await in_thread(end, carla, turn)
        assert await in_thread(access.find_even_temporary, turn.conversation_id) is None
        await in_thread(grow_old, turn)
        # A worker dies over it, wherever it is, and the next one goes on.
        for name in ("_is_all_else_erased", "erase_ended"):
            with monkeypatch.context() as patch:
                patch.setattr(deletion, name, die)
                with pytest.raises(BaseException) as died:  # in the group of asyncio, or alone
                    await repair_turns()
                assert died.type is Died
    await repair_turns()
    assert (await in_thread(paid, turn))[0] == "settled"
    assert await in_thread(UsageRecord.objects.count) == 1
    await in_thread(repair_attachments)
    assert await in_thread(is_nothing_left)
    if is_alive:
        assert not await in_thread(stored_names)


async def test_two_who_end_it_and_one_who_asks_at_once_leave_nothing(redis: Redis, carla: User, at_once: None):
    conversation = await in_thread(temporary.begin_conversation, carla.pk)
    await in_thread(finished_in, carla, conversation)

    def ask() -> None:
        try:
            ask_in(carla, conversation)
        except TemporaryGone:
            pass

    await asyncio.gather(
        in_thread(deletion.delete_conversation, conversation),
        in_thread(ask),
        in_thread(deletion.delete_conversation, conversation),
    )
    await repair_turns()
    assert await in_thread(is_nothing_left)
    assert not await in_thread(Reservation.objects.filter(state=Reservation.State.HELD).exists)
