"""How a turn is claimed and closed: one caller wins each step."""

import datetime as dt
from functools import partial

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from core import sweeps
from history import progress
from history.models import Turn, new_id, now
from history.progress import Outcome
from tests.billing.together import together
from tests.history.growing import ask, begin

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

Status = Turn.Status
FINISHED = [Status.COMPLETED, Status.STOPPED, Status.FAILED, Status.INTERRUPTED]
ANSWER = Outcome(
    Status.COMPLETED,
    answer="Buenos días",
    reasoning="Saluda.",
    model="scripted",
    provider="scripted",
    input_tokens=12,
    output_tokens=3,
    usage_source="provider",
    cost_micros=18,
    finish_reason="stop",
)


@pytest.fixture
def turn():
    return ask(begin(), status=Status.QUEUED)


def saved(turn: Turn) -> Turn:
    return Turn.objects.get(pk=turn.pk)


def claimed(turn: Turn) -> Turn:
    """Return another runner's view of the turn, which it has claimed."""
    theirs = saved(turn)
    assert progress.claim(theirs)
    return theirs


def test_claiming_a_turn_begins_its_first_generation(turn):
    assert progress.claim(turn)
    assert (turn.gen, turn.status) == (1, Status.STREAMING)
    assert (saved(turn).gen, saved(turn).status) == (1, Status.STREAMING)
    assert timezone.now() - saved(turn).started_at < dt.timedelta(minutes=1)


def test_a_turn_of_a_runner_that_died_is_claimed_under_the_next_generation(turn):
    progress.claim(turn)
    assert progress.claim(turn)
    assert (saved(turn).gen, saved(turn).status) == (2, Status.STREAMING)


def test_a_turn_somebody_else_has_claimed_is_not_claimed(turn):
    claimed(turn)
    assert not progress.claim(turn)
    assert (turn.gen, turn.status) == (0, Status.QUEUED)
    assert saved(turn).gen == 1


@pytest.mark.parametrize("status", FINISHED)
def test_a_finished_turn_is_not_claimed(status):
    turn = ask(begin(), status=status)
    assert not progress.claim(turn)
    assert (saved(turn).gen, saved(turn).status) == (0, status)


def test_of_many_runners_at_once_one_claims_a_turn(turn):
    answers = together([partial(progress.claim, saved(turn)) for _ in range(12)])
    assert (answers.count(True), answers.count(False)) == (1, 11)
    assert saved(turn).gen == 1


def test_closing_a_turn_writes_how_it_ended(turn):
    progress.claim(turn)
    assert progress.close(turn, ANSWER)
    found = saved(turn)
    for name in ("answer", "reasoning", "model", "provider", "input_tokens", "output_tokens", "usage_source"):
        assert getattr(found, name) == getattr(ANSWER, name)
    assert (found.status, found.cost_micros, found.finish_reason) == (Status.COMPLETED, 18, "stop")
    assert timezone.now() - found.completed_at < dt.timedelta(minutes=1)


def test_closing_a_turn_tells_the_caller_too(turn):
    progress.claim(turn)
    progress.close(turn, ANSWER)
    assert (turn.status, turn.answer, turn.is_open) == (Status.COMPLETED, "Buenos días", False)


def test_closing_a_turn_leaves_question_and_place(turn):
    progress.claim(turn)
    progress.close(turn, ANSWER)
    found = saved(turn)
    assert (found.question, found.seq, found.gen) == ("hola", 1, 1)


def test_a_closed_turn_is_found_by_question_and_answer(turn):
    progress.claim(turn)
    progress.close(turn, ANSWER)
    assert saved(turn).search_text == "hola\nbuenos dias"


def test_a_cost_that_is_unknown_stays_unknown(turn):
    progress.claim(turn)
    progress.close(turn, Outcome(Status.FAILED, error="timeout"))
    assert saved(turn).cost_micros is None


def test_a_turn_nobody_claimed_can_be_closed(turn):
    assert progress.close(turn, Outcome(Status.FAILED, error="queue_timeout"))
    assert (saved(turn).status, saved(turn).error) == (Status.FAILED, "queue_timeout")


def test_a_turn_that_was_claimed_by_another_is_not_closed(turn):
    progress.claim(turn)
    claimed(turn)
    assert not progress.close(turn, ANSWER)
    assert (saved(turn).status, saved(turn).answer) == (Status.STREAMING, "")
    assert turn.status == Status.STREAMING


@pytest.mark.parametrize("status", FINISHED)
def test_a_finished_turn_is_not_closed_again(turn, status):
    progress.claim(turn)
    progress.close(turn, Outcome(status, answer="primera"))
    assert not progress.close(turn, ANSWER)
    assert (saved(turn).status, saved(turn).answer) == (status, "primera")


def test_a_deleted_turn_is_neither_claimed_nor_closed(turn):
    Turn.objects.all().delete()
    assert not progress.claim(turn)
    assert not progress.close(turn, ANSWER)
    assert not Turn.objects.exists()


def test_of_many_at_once_one_closes_a_turn(turn):
    progress.claim(turn)
    closers = [saved(turn) for _ in range(12)]
    calls = [partial(progress.close, mine, Outcome(Status.STOPPED, answer=str(n))) for n, mine in enumerate(closers)]
    answers = together(calls)
    assert (answers.count(True), answers.count(False)) == (1, 11)
    assert saved(turn).answer == str(answers.index(True))


def test_of_closing_and_claiming_at_once_one_wins():
    for _ in range(8):
        turn = ask(begin(), status=Status.QUEUED)
        progress.claim(turn)
        answers = together([partial(progress.close, saved(turn), ANSWER), partial(progress.claim, saved(turn))])
        assert sorted(answers) == [False, True]


def test_open_turns_are_listed_oldest_first():
    minutes = [10, 30, 20, 0]
    turns = [ask(begin(), status=Status.QUEUED, created_at=timezone.now() - dt.timedelta(minutes=n)) for n in minutes]
    ask(begin(), created_at=timezone.now() - dt.timedelta(minutes=40))
    with CaptureQueriesContext(connections["history"]) as statements:
        assert list(progress.iterate_queued(older_than=dt.timedelta(minutes=5))) == [[turns[1], turns[2], turns[0]]]
    assert len(statements) == 1  # a page that is not full is the last


def test_every_page_of_open_turns_comes_even_if_those_before_it_change(monkeypatch):
    monkeypatch.setattr(sweeps, "PAGE_SIZE", 2)
    moment = now() - dt.timedelta(minutes=9)
    turns = [ask(begin(), status=Status.QUEUED, created_at=moment) for _ in range(5)]  # of the same millisecond
    found = []
    for page in progress.iterate_queued(older_than=dt.timedelta(minutes=5)):
        assert len(page) <= 2
        found += page
        progress.claim(page[0])
    assert found == sorted(turns, key=lambda turn: turn.pk)


def test_turns_being_written_are_listed_by_when_they_were_asked(turn):
    late = ask(begin(), status=Status.QUEUED, created_at=timezone.now() + dt.timedelta(hours=1))
    for one in (late, turn):
        progress.claim(one)
    assert list(progress.iterate_streaming()) == [[turn, late]]


def test_turns_are_found_by_their_ids(turn):
    other = ask(begin())
    assert progress.find_turns([turn.pk, other.pk, new_id()]) == {turn.pk: turn, other.pk: other}
    assert progress.find_turns([]) == {}
