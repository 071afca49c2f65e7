"""The beginning of a turn: every refusal comes before anything is written or spent."""

import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
import redis as redis_client
from django.db import connections
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from accounts.models import User
from billing import metering
from billing.errors import AllowanceUsedUp, NotInPlan, TooManyAtOnce
from billing.models import BillingAccount, Plan, Reservation, UsagePeriod
from chat.errors import BadText, ContextExceeded, FileNotUsable, NoModel, TextTooLong, UnknownModel
from chat.llm.pricing import max_cost
from chat.models import LanguageModel
from chat.turns import limits, opening, queue
from chat.turns.closing import close_turn
from chat.turns.limits import Limit
from chat.turns.opening import LATEST, OpenedTurn, Question, clean_text, open_or_await_turn, open_turn
from core.errors import Conflict, DomainError, NotFound, RateLimited, Unavailable
from core.redis_clients import sync_redis
from history import access, deletion
from history.errors import ParentNotFinished
from history.models import Conversation, Turn, new_id
from history.progress import Outcome, claim, close
from tests.chat.asking import ask, is_held, period_of, question, record_of, remaining, reservation_of, saved

pytestmark = pytest.mark.usefixtures("catalog")


def finish(turn: Turn, answer: str = "Hola.") -> Turn:
    """End a turn as its runner would, and give its reservation back."""
    claim(turn)
    assert close(turn, Outcome("completed", answer=answer))
    metering.release(turn.pk)
    return turn


def queued() -> list[bytes]:
    return [fields[b"turn"] for _, fields in sync_redis().xrange("turns")]


@pytest.fixture
def nothing_happens(foreign: Turn) -> Iterator[None]:
    """Whatever the test tries: no turn, no conversation, no reservation and no queue entry more than before."""

    def look() -> tuple[object, ...]:
        return (
            Turn.objects.count(),
            Conversation.objects.count(),
            Reservation.objects.count(),
            sum(UsagePeriod.objects.values_list("reserved_micros", flat=True)),
            sum(BillingAccount.objects.values_list("holds", flat=True)),
            len(queued()),
        )

    before = look()
    yield
    assert look() == before


# --- A question that is accepted --------------------------------------------------------------------------------------


def test_a_question_becomes_a_queued_turn(ana: User):
    asked = question("¿Qué tal?")
    opened = open_turn(ana.pk, asked)
    assert opened.is_new
    turn = saved(asked.turn_id)
    assert (turn.owner_id, turn.conversation_id, turn.question) == (ana.pk, asked.conversation_id, "¿Qué tal?")
    assert (turn.status, turn.gen, turn.seq, turn.depth, turn.parent_id) == ("queued", 0, 1, 0, None)
    assert (turn.requested_model, turn.model, turn.max_output) == ("scripted", "", 1_000)
    assert turn.input_tokens > 0
    assert queued() == [turn.pk.bytes]
    conversation = access.access_conversation(ana.pk, asked.conversation_id)
    assert (conversation.title, conversation.turn_count) == ("¿Qué tal?", 1)


def test_the_most_it_can_cost_is_held(ana: User):
    turn = ask(ana)
    held = reservation_of(turn)
    assert held.state == Reservation.State.HELD
    scripted = LanguageModel.objects.get(key="scripted")
    assert held.amount_micros >= max_cost(scripted, input_tokens=turn.input_tokens, output_tokens=1_000)
    assert held.amount_micros < 2_200
    assert (period_of(ana).reserved_micros, period_of(ana).account.holds) == (held.amount_micros, 1)


def test_it_says_how_often_one_may_still_ask(ana: User, carla: User):
    opened = open_turn(ana.pk, question())
    assert (opened.limit.limit, opened.limit.remaining) == (20, 19)
    assert 0 < opened.limit.reset_seconds <= 180
    assert open_turn(carla.pk, question()).limit is None


@pytest.mark.parametrize("model", ["scripted", "auto"])
def test_nothing_is_opened_with_many_statements(
    carla: User, model: str, django_assert_max_num_queries: Callable[..., object]
):
    ask(carla, model=model)
    with django_assert_max_num_queries(7):
        ask(carla, model=model)


# --- Text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("hola", "hola"),
        ("  hola \n\n", "  hola"),
        ("\n\n    código\n  más", "    código\n  más"),
        ("e\u0301", "é"),
        ("a\0b", "ab"),
        ("a\ud83db\ude00", "ab"),
        ("\ud83d\ude00", "😀"),
        ("\ufeffhola", "\ufeffhola"),
        ("\u202eabc", "\u202eabc"),
        ("<script>", "<script>"),
    ],
)
def test_text_is_cleaned(text: str, cleaned: str):
    assert clean_text(text, max_characters=100) == cleaned


@pytest.mark.parametrize("text", ["", " ", "\n\t \r\n", "\0", "\0 \0", "\ud83d", "\u3000\u00a0"])
def test_text_of_nothing_is_refused(text: str):
    with pytest.raises(BadText):
        clean_text(text, max_characters=100)


def test_text_as_long_as_the_plan_allows():
    assert clean_text("x" * 10, max_characters=10) == "x" * 10
    with pytest.raises(TextTooLong):
        clean_text("x" * 11, max_characters=10)


@given(st.text(st.characters(), max_size=30) | st.text("\ud83d\ude00\0e\u0301 \n", max_size=12))
def test_clean_text_can_be_stored_and_stays_clean(text: str):
    try:
        cleaned = clean_text(text, max_characters=100)
    except BadText:
        return
    cleaned.encode()
    assert "\0" not in cleaned
    assert unicodedata.is_normalized("NFC", cleaned)
    assert cleaned == cleaned.rstrip() != ""
    assert clean_text(cleaned, max_characters=300) == cleaned


def test_the_cleaned_text_is_what_is_asked(ana: User):
    assert saved(ask(ana, "\n  e\u0301\0 \n")).question == "  é"


# --- Refusals ---------------------------------------------------------------------------------------------------------


def refuse(kind: type[DomainError], user: User, asked: Question) -> DomainError:
    """Check that a question is refused with this error, and that it was not counted."""
    left = remaining(user)
    with pytest.raises(kind) as caught:
        open_turn(user.pk, asked)
    assert type(caught.value) is kind
    assert remaining(user) == left
    return caught.value


@pytest.mark.usefixtures("nothing_happens")
class TestRefusals:
    @pytest.mark.parametrize("text", ["", "  \n", "\0"])
    def test_an_empty_question(self, ana: User, text: str):
        refuse(BadText, ana, question(text))

    def test_a_question_longer_than_the_plan_allows(self, ana: User):
        refuse(TextTooLong, ana, question("x" * 32_001))

    def test_a_question_longer_than_the_window(self, ana: User):
        refuse(ContextExceeded, ana, question("x" * 22_000))

    def test_an_unknown_model(self, ana: User):
        refuse(UnknownModel, ana, question(model="gpt-2"))
        refuse(UnknownModel, ana, question(model="x" * 500))

    def test_a_model_that_is_switched_off(self, ana: User):
        model = LanguageModel.objects.get(key="scripted")
        model.enabled = False
        model.save()
        refuse(UnknownModel, ana, question())
        refuse(NoModel, ana, question(model=""))

    def test_a_model_above_the_plan(self, ana: User):
        model = LanguageModel.objects.get(key="scripted")
        model.tier = "strong"
        model.save()
        refuse(NotInPlan, ana, question())
        refuse(NoModel, ana, question(model="auto"))

    def test_a_conversation_of_somebody_else(self, ana: User, foreign: Turn):
        refuse(NotFound, ana, question(conversation_id=foreign.conversation_id))

    def test_a_parent_that_does_not_exist(self, ana: User, foreign: Turn):
        refuse(NotFound, ana, question(parent_id=new_id()))
        refuse(NotFound, ana, question(parent_id=foreign.pk))
        refuse(NotFound, ana, question(parent_id=foreign.pk, conversation_id=foreign.conversation_id))

    def test_the_id_of_somebody_elses_turn(self, ana: User, foreign: Turn):
        """Without a detail: it is the same error as for an own turn of another conversation."""
        refuse(Conflict, ana, question(turn_id=foreign.pk))
        refuse(Conflict, ana, question(turn_id=foreign.pk, conversation_id=foreign.conversation_id))

    def test_credits_that_do_not_suffice(self, ana: User):
        free = Plan.objects.get(key="free")
        free.credits_per_month = 1
        free.save()
        error = refuse(AllowanceUsedUp, ana, question())
        assert 0 < error.retry_after <= 31 * 24 * 3600

    def test_no_redis_to_count_with(self, ana: User, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(limits, "sync_redis", unreachable)
        with pytest.raises(Unavailable) as caught:
            open_turn(ana.pk, question())
        assert caught.value.retry_after == 5


@pytest.fixture
def foreign(bo: User) -> Turn:
    """A finished turn of Bo's."""
    return finish(ask(bo))


def unreachable() -> "redis_client.Redis":
    """A client of a Redis that is down."""
    return redis_client.Redis.from_url("redis://127.0.0.1:1/0", socket_connect_timeout=0.5)


def test_a_second_answer_at_once_is_above_the_plan(ana: User):
    first = ask(ana)
    refuse(TooManyAtOnce, ana, question())
    assert Turn.objects.count() == 1
    finish(first)
    assert ask(ana).status == "queued"


def test_asking_too_often(ana: User):
    Plan.objects.get(key="free").delete()
    Plan.objects.create(key="free", name="Free", is_default=True, turns_per_hour=2)
    ask(ana)
    ask(ana)
    with pytest.raises(RateLimited) as caught:
        ask(ana)
    assert 0 < caught.value.retry_after <= 1_800
    assert (Turn.objects.count(), Reservation.objects.count(), len(queued())) == (2, 2, 2)


# --- The same question again ------------------------------------------------------------------------------------------


def test_the_same_id_again_is_the_same_turn(ana: User):
    asked = question("first")
    first = open_turn(ana.pk, asked)
    again = open_turn(ana.pk, asked)
    assert (again.turn, again.is_new, again.limit) == (first.turn, False, None)
    assert (Turn.objects.count(), Reservation.objects.count(), remaining(ana)) == (1, 1, 19)


def test_the_same_id_again_is_the_same_turn_when_it_is_finished(ana: User):
    asked = question("first")
    finish(open_turn(ana.pk, asked).turn)
    again = open_turn(ana.pk, asked)
    assert (again.turn.answer, again.is_new) == ("Hola.", False)
    assert reservation_of(again.turn).state == Reservation.State.RELEASED


def fail(turn: Turn, error: str = "overloaded") -> Turn:
    """End a turn as its runner does when nobody answered: it costs nothing."""
    claim(turn)
    assert close_turn(turn, Outcome("failed", error=error))
    return turn


@pytest.mark.parametrize("parent_id", [LATEST, None])
def test_the_same_id_again_is_the_same_turn_when_it_failed_at_no_cost(ana: User, parent_id: UUID | None):
    asked = question("first", parent_id=parent_id)
    turn = fail(open_turn(ana.pk, asked).turn)
    left, before = remaining(ana), saved(turn)
    assert reservation_of(turn).state == Reservation.State.RELEASED
    for _ in range(2):
        again = open_turn(ana.pk, asked)
        assert (again.turn, again.is_new, again.conversation) == (turn, False, None)
        assert (again.turn.status, again.turn.error) == ("failed", "overloaded")
        assert reservation_of(turn).state == Reservation.State.RELEASED
        assert (period_of(ana).account.holds, period_of(ana).reserved_micros, period_of(ana).used_micros) == (0, 0, 0)
        assert remaining(ana) == left
    assert (Turn.objects.count(), Reservation.objects.count(), record_of(turn)) == (1, 1, None)
    assert saved(turn).gen == before.gen
    assert queued() == [turn.pk.bytes]
    assert Conversation.objects.get().turn_count == 1
    assert ask(ana, conversation_id=asked.conversation_id, parent_id=None).seq == 2


def test_the_same_id_again_is_the_same_turn_when_one_may_ask_no_more(ana: User):
    asked = question("first")
    turn = fail(open_turn(ana.pk, asked).turn)
    while remaining(ana):
        limits.count_question(ana.pk, new_id(), turns_per_hour=20)
    assert open_turn(ana.pk, asked).turn == turn
    assert remaining(ana) == 0
    assert period_of(ana).account.holds == 0


def test_a_failed_turn_asked_again_in_another_conversation_is_a_conflict(ana: User):
    asked = question("first")
    turn = fail(open_turn(ana.pk, asked).turn)
    left = remaining(ana)
    with pytest.raises(Conflict):
        open_turn(ana.pk, question("first", turn_id=turn.pk))
    assert Turn.objects.count() == 1
    assert reservation_of(turn).state == Reservation.State.RELEASED
    assert (remaining(ana), period_of(ana).account.holds) == (left, 0)


def test_a_failed_turn_of_somebody_else_is_a_conflict(ana: User, bo: User):
    turn = fail(ask(bo))
    left = remaining(ana)
    with pytest.raises(DomainError):
        open_turn(ana.pk, question(turn_id=turn.pk))
    assert Turn.objects.count() == 1
    assert (remaining(ana), period_of(ana).account.holds, period_of(bo).account.holds) == (left, 0, 0)


def test_a_failed_turn_asked_again_by_many_at_once_holds_nothing(ana: User):
    asked = question()
    turn = fail(open_turn(ana.pk, asked).turn)
    left = remaining(ana)
    found = together([lambda: open_or_await_turn(ana.pk, asked)] * 10)
    assert {opened.turn for opened in found} == {turn}
    assert reservation_of(turn).state == Reservation.State.RELEASED
    assert (period_of(ana).account.holds, period_of(ana).reserved_micros, remaining(ana)) == (0, 0, left)


def test_an_own_id_in_another_conversation_is_a_conflict(carla: User):
    turn = ask(carla)
    with pytest.raises(Conflict):
        ask(carla, turn_id=turn.pk)
    assert Turn.objects.count() == 1


def together(asks: list[Callable[[], OpenedTurn]]) -> list[OpenedTurn | DomainError]:
    """Call all of them at once, each in a thread and with a connection of its own."""
    barrier = Barrier(len(asks))

    def call(ask: Callable[[], OpenedTurn]) -> OpenedTurn | DomainError:
        barrier.wait()
        try:
            return ask()
        except DomainError as error:
            return error
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(asks)) as pool:
        return list(pool.map(call, asks))


def test_the_same_question_ten_times_at_once_is_one_turn(ana: User):
    asked = question()
    found = together([lambda: open_or_await_turn(ana.pk, asked)] * 10)
    assert {opened.turn.pk for opened in found} == {asked.turn_id}
    assert (Turn.objects.count(), Conversation.objects.count(), Reservation.objects.count()) == (1, 1, 1)
    assert Conversation.objects.get().turn_count == 1
    assert (period_of(ana).account.holds, remaining(ana)) == (1, 19)


def test_only_one_of_ten_at_once_is_the_new_one(ana: User):
    asked = question()
    found = together([lambda: open_or_await_turn(ana.pk, asked)] * 10)
    assert [opened.is_new for opened in found].count(True) == 1
    assert set(queued()) == {asked.turn_id.bytes}


def test_ten_questions_at_once_in_one_conversation_are_ten_turns(carla: User):
    conversation_id = new_id()
    asks = [question(conversation_id=conversation_id, parent_id=None) for _ in range(10)]
    found = together([lambda asked=asked: open_turn(carla.pk, asked) for asked in asks])
    assert all(isinstance(opened, OpenedTurn) for opened in found)
    turns = Turn.objects.filter(conversation_id=conversation_id)
    assert sorted(turns.values_list("seq", flat=True)) == list(range(1, 11))
    assert Conversation.objects.get().turn_count == 10


def test_of_ten_questions_at_once_a_plan_for_one_admits_one(ana: User):
    found = together([lambda: open_turn(ana.pk, question())] * 10)
    assert [type(one) for one in found].count(OpenedTurn) == 1
    assert [type(one) for one in found].count(TooManyAtOnce) == 9
    assert (Turn.objects.count(), Reservation.objects.count(), remaining(ana)) == (1, 1, 19)


def test_two_people_with_the_same_id_at_once_are_one_turn(ana: User, bo: User):
    asked = question()
    found = together([lambda: open_turn(ana.pk, asked), lambda: open_turn(bo.pk, asked)])
    assert sorted(type(one).__name__ for one in found) in (["Conflict", "OpenedTurn"], ["NotFound", "OpenedTurn"])
    assert (Turn.objects.count(), Reservation.objects.count()) == (1, 1)


def test_a_conversation_that_is_somebody_elses_since_a_moment_costs_nothing(
    ana: User, bo: User, monkeypatch: pytest.MonkeyPatch
):
    foreign = ask(bo)
    monkeypatch.setattr(access, "find_to_ask_in", lambda _owner, _id: None)
    for _ in range(2):
        with pytest.raises(Conflict):
            open_turn(ana.pk, question(conversation_id=foreign.conversation_id))
    assert (period_of(ana).reserved_micros, period_of(ana).account.holds, remaining(ana)) == (0, 0, 20)
    assert Turn.objects.count() == 1


def test_the_id_of_a_turn_that_was_paid_and_deleted_is_not_free(ana: User):
    """Its reservation is settled: nothing would be charged for a second answer under it."""
    asked = question()
    turn = open_turn(ana.pk, asked).turn
    claim(turn)
    close(turn, Outcome("completed", answer="x", cost_micros=7))
    metering.settle(turn.pk, cost_micros=7, usage=metering.Usage(1, 1), label="scripted")
    deletion.delete_conversation(access.access_conversation(ana.pk, asked.conversation_id))
    left = remaining(ana)
    with pytest.raises(Conflict):
        open_turn(ana.pk, asked)
    assert (Turn.objects.count(), remaining(ana)) == (0, left)


def test_the_id_of_a_turn_that_is_deleted_while_it_runs_is_not_free(ana: User, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(deletion, "PATIENCE_SECONDS", 0)
    asked = question()
    claim(open_turn(ana.pk, asked).turn)
    deletion.delete_conversation(access.access_conversation(ana.pk, asked.conversation_id))
    with pytest.raises(NotFound):
        open_turn(ana.pk, asked)


def test_a_request_that_died_before_it_wrote_may_be_sent_again(ana: User):
    """Its reservation was released by the sweep, and is held again."""
    asked = question()
    metering.reserve(ana.pk, asked.turn_id, amount_micros=500)
    metering.release(asked.turn_id)
    assert open_turn(ana.pk, asked).is_new
    assert reservation_of(saved(asked.turn_id)).state == Reservation.State.HELD
    assert remaining(ana) == 19


# --- The tree ---------------------------------------------------------------------------------------------------------


def test_a_question_continues_the_latest_turn(carla: User):
    first = finish(ask(carla))
    finish(ask(carla, conversation_id=first.conversation_id, parent_id=None))
    branch = Turn.objects.latest("seq")
    third = ask(carla, conversation_id=first.conversation_id)
    assert (third.parent_id, third.depth, third.seq) == (branch.pk, 1, 3)


def test_null_as_the_parent_is_a_new_branch_at_the_root(carla: User):
    first = finish(ask(carla))
    second = ask(carla, conversation_id=first.conversation_id, parent_id=None)
    assert (second.parent_id, second.depth, second.seq) == (None, 0, 2)


def test_a_parent_that_is_named(carla: User):
    first = finish(ask(carla))
    finish(ask(carla, conversation_id=first.conversation_id))
    sibling = ask(carla, conversation_id=first.conversation_id, parent_id=first.pk)
    assert (sibling.parent_id, sibling.depth, sibling.seq) == (first.pk, 1, 3)


@pytest.mark.parametrize("named", [True, False])
def test_a_parent_that_is_being_written_is_waited_for(carla: User, named: bool):
    first = ask(carla)
    parent = {"parent_id": first.pk} if named else {}
    for _ in range(2):
        with pytest.raises(ParentNotFinished):
            ask(carla, conversation_id=first.conversation_id, **parent)
        claim(first)  # neither while it waits nor while it is written
    assert Turn.objects.count() == 1


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Have something happen once the next question has looked at its conversation, before it is counted."""
    count = limits.count_question

    def act_and_count(*arguments: Any, **fields: Any) -> Limit | None:
        monkeypatch.setattr(limits, "count_question", count)
        act()
        return count(*arguments, **fields)

    monkeypatch.setattr(limits, "count_question", act_and_count)


def test_who_is_refused_late_gives_back_nothing_of_who_asked_again(carla: User, monkeypatch: pytest.MonkeyPatch):
    """The first request slept until the sweep had released its reservation, and the same question was asked again."""
    asked, again = question(), list[Turn]()
    bind = opening.bind_files

    def bind_late(*files: Any, **ids: Any) -> None:
        monkeypatch.setattr(opening, "bind_files", bind)
        metering.release(asked.turn_id)
        again.append(open_turn(carla.pk, asked).turn)
        raise FileNotUsable

    monkeypatch.setattr(opening, "bind_files", bind_late)
    open_turn(carla.pk, asked)  # is known by now
    assert is_held(again[0])
    assert period_of(carla).account.holds == 1
    metering.release(asked.turn_id)


@pytest.mark.stores
@pytest.mark.parametrize("is_begun", [True, False])
def test_of_questions_that_continue_a_conversation_at_once_one_is_asked(carla: User, is_begun: bool):
    for _ in range(3):
        conversation_id = finish(ask(carla)).conversation_id if is_begun else new_id()
        before = Turn.objects.filter(conversation_id=conversation_id).count()
        asks = [question(f"{number}", conversation_id=conversation_id) for number in range(5)]
        found = together([lambda asked=asked: open_turn(carla.pk, asked) for asked in asks])
        assert sorted(type(one).__name__ for one in found) == ["OpenedTurn"] + ["ParentNotFinished"] * 4
        assert Turn.objects.filter(conversation_id=conversation_id).count() == before + 1
        assert Conversation.objects.get(pk=conversation_id).turn_count == before + 1
        finish(next(one.turn for one in found if isinstance(one, OpenedTurn)))
        assert (period_of(carla).account.holds, period_of(carla).reserved_micros) == (0, 0)


@pytest.mark.stores
@pytest.mark.parametrize("is_begun", [True, False])
def test_a_question_that_another_has_overtaken_is_told_so_and_costs_nothing(
    ana: User, is_begun: bool, monkeypatch: pytest.MonkeyPatch
):
    free = Plan.objects.get(key="free")
    free.turns_at_once = 2
    free.save()
    conversation_id = finish(ask(ana)).conversation_id if is_begun else new_id()
    before, left = Turn.objects.count(), remaining(ana)
    meanwhile(monkeypatch, lambda: ask(ana, "first", conversation_id=conversation_id))
    with pytest.raises(ParentNotFinished) as refused:
        ask(ana, "second", conversation_id=conversation_id)
    assert (refused.value.code, refused.value.status) == ("parent_not_finished", 409)
    assert (Turn.objects.count(), period_of(ana).account.holds, remaining(ana)) == (before + 1, 1, left - 1)
    assert len(queued()) == before + 1


@pytest.mark.stores
@pytest.mark.parametrize("is_begun", [True, False])
def test_a_question_that_was_overtaken_continues_an_answer_that_is_there_already(
    carla: User, is_begun: bool, monkeypatch: pytest.MonkeyPatch
):
    conversation_id = finish(ask(carla)).conversation_id if is_begun else new_id()
    meanwhile(monkeypatch, lambda: finish(ask(carla, "first", conversation_id=conversation_id)))
    second = saved(ask(carla, "second", conversation_id=conversation_id))
    first = Turn.objects.get(question="first")
    assert (second.parent_id, second.depth, second.seq) == (first.pk, first.depth + 1, first.seq + 1)
    assert reservation_of(second).state == Reservation.State.HELD
    assert period_of(carla).account.holds == 1


@pytest.mark.stores
def test_named_parents_at_once_are_siblings_all_the_same(carla: User):
    first = finish(ask(carla))
    asks = [question(conversation_id=first.conversation_id, parent_id=first.pk) for _ in range(5)]
    found = together([lambda asked=asked: open_turn(carla.pk, asked) for asked in asks])
    assert all(isinstance(opened, OpenedTurn) for opened in found)
    assert Turn.objects.filter(parent_id=first.pk).count() == 5


def test_an_own_turn_of_another_conversation_is_no_parent(carla: User):
    first = finish(ask(carla))
    with pytest.raises(NotFound):
        ask(carla, parent_id=first.pk)


def test_a_failed_turn_may_be_continued(carla: User):
    first = ask(carla)
    claim(first)
    close(first, Outcome("failed", error="overloaded"))
    assert ask(carla, conversation_id=first.conversation_id).parent_id == first.pk


def test_what_does_not_fit_the_window_is_left_out_and_counted(carla: User):
    first = finish(ask(carla), "x" * 21_500)
    second = ask(carla, conversation_id=first.conversation_id)
    assert second.trimmed_turns == 1


# --- Which model, and how long ----------------------------------------------------------------------------------------


def test_without_a_model_it_is_the_default(carla: User, settings: Settings, offer: Callable[..., LanguageModel]):
    offer("fake-1t-0ms")
    settings.DEFAULT_LLM = "fake-1t-0ms"
    assert ask(carla, model="").requested_model == "fake-1t-0ms"


def test_without_a_model_and_without_a_default_it_is_auto(carla: User, offer: Callable[..., LanguageModel]):
    assert ask(carla, model="").requested_model == "scripted"
    offer("fake-1t-0ms")
    assert ask(carla, model="").requested_model == "auto"
    assert ask(carla, model="auto").requested_model == "auto"


@pytest.mark.parametrize(
    ("model", "plan", "site", "expected"), [(900, 4_096, 8_192, 900), (1_000, 70, 8_192, 70), (1_000, 4_096, 60, 60)]
)
def test_an_answer_is_as_long_as_the_strictest_allows(
    ana: User, settings: Settings, model: int, plan: int, site: int, expected: int
):
    scripted = LanguageModel.objects.get(key="scripted")
    scripted.max_output = model
    scripted.save()
    free = Plan.objects.get(key="free")
    free.answer_tokens = plan
    free.save()
    settings.MAX_TOKENS = site
    turn = ask(ana)
    assert turn.max_output == expected
    assert reservation_of(turn).amount_micros - 2 * expected < 100


def test_auto_holds_for_the_dearest_and_fits_the_smallest(carla: User, offer: Callable[..., LanguageModel]):
    offer("fake-1t-0ms", output_price=50_000_000, max_output=500)
    turn = ask(carla, model="auto")
    assert turn.max_output == 500
    assert reservation_of(turn).amount_micros >= 25_000


# --- Auto -------------------------------------------------------------------------------------------------------------

HARD = "Prove that there are infinitely many primes of the form 4k + 3."
AN_ANSWER = {"cheap": 300, "mid": 3_000, "strong": 30_000}
"""What the longest answer costs at least, in micros, with the models of `ladder`."""


@pytest.fixture
def ladder(offer: Callable[..., LanguageModel]) -> None:
    """One model a tier, ten times as dear each."""
    LanguageModel.objects.get(key="scripted").delete()
    for tier, price in (("cheap", 30_000), ("mid", 300_000), ("strong", 3_000_000)):
        offer(f"{tier}-1", tier=tier, input_price=price, output_price=price * 10, context_window=100_000)


def grant(user: User, micros: int) -> None:
    """Leave the user, on a plan with every tier, just so much in this month."""
    plan, _ = Plan.objects.get_or_create(key="paid", defaults={"name": "Paid", "best_tier": "strong", "rank": 5})
    BillingAccount.objects.update_or_create(user=user, defaults={"plan": plan})
    period = period_of(user)
    spent = period.used_micros + period.reserved_micros
    UsagePeriod.objects.filter(pk=period.pk).update(allowance_micros=spent + micros)


@pytest.mark.usefixtures("ladder")
class TestAuto:
    def test_a_turn_keeps_who_may_answer_and_why(self, carla: User):
        turn = saved(ask(carla, HARD, model="auto"))
        assert (turn.requested_model, turn.candidates.split(), turn.route) == (
            "auto",
            ["strong-1", "mid-1", "cheap-1"],
            "math",
        )
        turn = saved(ask(carla, "hola", model=""))
        assert (turn.requested_model, turn.candidates.split()[0], turn.route) == ("auto", "cheap-1", "short")

    def test_a_turn_whose_model_was_named_has_no_reason(self, carla: User):
        turn = saved(ask(carla, "hola", model="strong-1"))
        assert (turn.requested_model, turn.candidates, turn.route) == ("strong-1", "strong-1", "")

    def test_the_dearest_that_may_answer_is_held(self, carla: User):
        turn = ask(carla, HARD, model="auto")
        strong = LanguageModel.objects.get(key="strong-1")
        assert reservation_of(turn).amount_micros >= max_cost(strong, input_tokens=50, output_tokens=1_000)

    def test_a_conversation_goes_on_with_the_model_it_had(self, carla: User):
        first = ask(carla, HARD, model="auto")
        claim(first)
        outcome = Outcome("completed", answer="Sea p…", model="strong-1", input_tokens=90, output_tokens=900)
        assert close(first, outcome)
        metering.release(first.pk)
        then = saved(ask(carla, "gracias", model="auto", conversation_id=first.conversation_id))
        assert (then.parent_id, then.candidates.split()[0], then.route) == (first.pk, "strong-1", "follow_up")

    def test_a_long_conversation_is_reckoned_without_reading_it(self, carla: User):
        first = ask(carla, "hola", model="auto")
        claim(first)
        assert close(first, Outcome("completed", answer="Sí.", model="cheap-1", input_tokens=200_000))
        metering.release(first.pk)
        offer = LanguageModel.objects.get(key="mid-1")
        offer.context_window = 1_000_000
        offer.save()
        then = saved(ask(carla, "y?", model="auto", conversation_id=first.conversation_id))
        assert then.candidates.split()[0] == "mid-1"

    @pytest.mark.parametrize(
        ("answers", "first", "route"),
        [(3.2, "strong-1", "math"), (2, "mid-1", "low_credits"), (0.9, "cheap-1", "last_credits")],
    )
    def test_it_lands_softly(self, ana: User, answers: float, first: str, route: str):
        grant(ana, round(answers * AN_ANSWER["strong"]))
        turn = saved(ask(ana, HARD, model="auto"))
        assert (turn.candidates.split()[0], turn.route) == (first, route)

    def test_when_nothing_is_payable_the_ledger_refuses(self, ana: User):
        grant(ana, AN_ANSWER["cheap"] - 50)
        refuse(AllowanceUsedUp, ana, question(HARD, model="auto"))
        grant(ana, AN_ANSWER["strong"] - 50)
        refuse(AllowanceUsedUp, ana, question(HARD, model="strong-1"))

    def test_who_is_too_late_for_the_dear_model_has_a_cheaper_one(self, ana: User, monkeypatch: pytest.MonkeyPatch):
        """Another question took the credits after this one had looked at them."""
        grant(ana, 4 * AN_ANSWER["strong"])
        other = new_id()
        taken = 3 * AN_ANSWER["strong"] + 25_000
        meanwhile(monkeypatch, lambda: metering.reserve(ana.pk, other, amount_micros=taken))
        turn = saved(ask(ana, HARD, model="auto"))
        assert (turn.candidates, turn.route) == ("cheap-1", "last_credits")
        assert reservation_of(turn).amount_micros < AN_ANSWER["mid"]
        metering.release(other)

    def test_of_many_at_once_at_the_edge_none_overdraws_and_some_land_softly(self, ana: User):
        grant(ana, 3 * AN_ANSWER["strong"] + 3 * AN_ANSWER["mid"])
        found = together([lambda: open_turn(ana.pk, question(HARD, model="auto"))] * 8)
        turns = [one.turn for one in found if isinstance(one, OpenedTurn)]
        assert {type(one) for one in found} <= {OpenedTurn, AllowanceUsedUp}
        period = period_of(ana)
        assert period.used_micros + period.reserved_micros <= period.allowance_micros
        assert period.reserved_micros == sum(reservation_of(turn).amount_micros for turn in turns)
        assert len(turns) == 8  # the last of them with the cheapest model
        assert {saved(turn).candidates.split()[0] for turn in turns} >= {"strong-1", "cheap-1"}


# --- Redis is down ----------------------------------------------------------------------------------------------------


def test_a_question_that_cannot_be_queued_is_accepted(carla: User, monkeypatch: pytest.MonkeyPatch):
    """The row is there: the sweep finds it."""
    monkeypatch.setattr(queue, "sync_redis", unreachable)
    opened = open_turn(carla.pk, question())
    assert opened.is_new
    assert saved(opened.turn).status == "queued"
    assert queued() == []
