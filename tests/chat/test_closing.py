"""The end of a turn: saved once, paid once, whatever fails in between."""

import logging

import msgspec
import pytest
from django.db import DatabaseError, connections
from django.test import Client

from accounts.models import User
from billing import metering
from billing.models import Reservation, UsageRecord
from chat.llm.pricing import SETTLE_BYTES_PER_TOKEN, Stamp, cost_of, estimate_tokens, read_stamp, write_stamp
from chat.llm.providers.base import TokenUsage
from chat.models import LanguageModel
from chat.turns.closing import can_continue, close_queued, close_turn, settle_turn
from chat.turns.outcomes import priced_outcome
from core import rows
from history import access, progress
from history.models import Turn
from history.progress import Outcome
from tests.chat.asking import ask, is_held, period_of, record_of, reservation_of, saved

PAID = Outcome(
    "completed",
    answer="hola",
    model="scripted",
    provider="scripted",
    input_tokens=10,
    output_tokens=3,
    usage_source="provider",
    cost_micros=16,
)
UNPAID = Outcome("failed", error="overloaded")


@pytest.fixture
def turn(ana: User) -> Turn:
    """A turn that is being written."""
    turn = ask(ana)
    assert progress.claim(turn)
    return turn


@pytest.fixture
def scripted(catalog: None) -> LanguageModel:
    return LanguageModel.objects.get(key="scripted")


def delete(turn: Turn) -> None:
    Turn.objects.filter(pk=turn.pk).delete()


# --- Saved and paid ---------------------------------------------------------------------------------------------------


def test_a_closed_turn_is_saved_and_settled(ana: User, turn: Turn):
    assert close_turn(turn, PAID)
    found = saved(turn)
    assert (found.status, found.answer, found.model, found.cost_micros) == ("completed", "hola", "scripted", 16)
    assert found.completed_at is not None
    record = record_of(turn)
    assert (record.input_tokens, record.output_tokens, record.source) == (10, 3, "provider")
    assert (record.label, record.cost_micros, period_of(ana).used_micros) == ("scripted", 16, 16)
    assert not is_held(turn)


def test_what_used_nothing_is_released(ana: User, turn: Turn):
    assert close_turn(turn, UNPAID)
    assert reservation_of(turn).state == Reservation.State.RELEASED
    assert record_of(turn) is None
    assert period_of(ana).used_micros == 0


def test_what_cost_nothing_is_settled_and_not_released(turn: Turn):
    """A model that is free was used all the same."""
    assert close_turn(turn, msgspec.structs.replace(PAID, cost_micros=0))
    assert reservation_of(turn).state == Reservation.State.SETTLED
    assert record_of(turn).output_tokens == 3


def test_the_callers_turn_is_the_saved_one(turn: Turn):
    close_turn(turn, PAID)
    assert (turn.status, turn.answer, turn.cost_micros) == ("completed", "hola", 16)
    assert turn.search_text == saved(turn).search_text


def test_a_closed_turn_is_not_closed_again(ana: User, turn: Turn):
    stale = saved(turn)
    assert close_turn(turn, PAID)
    assert not close_turn(stale, Outcome("interrupted", answer="ho", cost_micros=999, usage_source="estimated"))
    assert not close_turn(turn, PAID)
    assert (saved(turn).status, saved(turn).answer) == ("completed", "hola")
    assert period_of(ana).used_micros == 16
    assert UsageRecord.objects.count() == 1


def test_a_turn_another_runner_has_is_neither_closed_nor_paid(turn: Turn):
    stale = saved(turn)
    assert progress.claim(turn)
    assert not close_turn(stale, PAID)
    assert saved(turn).status == "streaming"
    assert is_held(turn)


def test_a_turn_deleted_meanwhile_is_paid(ana: User, turn: Turn):
    delete(turn)
    assert not close_turn(turn, PAID)
    assert access.find_turn(turn.pk) is None
    assert reservation_of(turn).state == Reservation.State.SETTLED
    assert period_of(ana).used_micros == 16


def test_a_turn_deleted_before_it_used_anything_is_released(turn: Turn):
    delete(turn)
    close_turn(turn, UNPAID)
    assert reservation_of(turn).state == Reservation.State.RELEASED


# --- A database that fails --------------------------------------------------------------------------------------------


@pytest.fixture
def failing_write(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Every save fails, until the fixture is undone."""

    def fail(turn: Turn, outcome: Outcome) -> bool:
        raise DatabaseError("The history is away.")

    monkeypatch.setattr(progress, "close", fail)
    return monkeypatch


def test_what_was_used_is_paid_even_if_it_cannot_be_saved(ana: User, turn: Turn, failing_write: pytest.MonkeyPatch):
    with pytest.raises(DatabaseError):
        close_turn(turn, PAID)
    assert saved(turn).status == "streaming"
    assert record_of(turn).cost_micros == period_of(ana).used_micros == 16


def test_what_used_nothing_is_released_even_if_it_cannot_be_saved(turn: Turn, failing_write: pytest.MonkeyPatch):
    with pytest.raises(DatabaseError):
        close_turn(turn, UNPAID)
    assert reservation_of(turn).state == Reservation.State.RELEASED


def test_a_save_that_works_at_the_second_try_is_paid_once(ana: User, turn: Turn, failing_write: pytest.MonkeyPatch):
    for _ in range(2):
        with pytest.raises(DatabaseError):
            close_turn(turn, PAID)
    failing_write.undo()
    assert close_turn(turn, PAID)
    assert saved(turn).answer == "hola"
    assert period_of(ana).used_micros == 16
    assert UsageRecord.objects.count() == 1


# --- Settling ---------------------------------------------------------------------------------------------------------


def test_settling_may_be_repeated(ana: User, turn: Turn):
    for _ in range(3):
        settle_turn(turn, PAID)
    assert period_of(ana).used_micros == 16


def test_a_saved_turn_settles_like_its_outcome(ana: User, turn: Turn):
    progress.close(turn, PAID)
    found = saved(turn)
    settle_turn(found, found)
    record = record_of(turn)
    assert (record.cost_micros, record.input_tokens, record.output_tokens) == (16, 10, 3)
    assert (record.label, record.source) == ("scripted", "provider")


def test_what_was_released_too_early_is_paid_when_it_turns_out_to_be_used(ana: User, turn: Turn):
    metering.release(turn.pk)
    assert close_turn(turn, PAID)
    assert (period_of(ana).used_micros, period_of(ana).reserved_micros, period_of(ana).account.holds) == (16, 0, 0)


def test_a_cost_above_the_reservation_is_paid_and_says_why(ana: User, turn: Turn):
    dear = reservation_of(turn).amount_micros + 1
    assert turn.max_cost_micros == dear - 1
    close_turn(turn, msgspec.structs.replace(PAID, cost_micros=dear))
    assert period_of(ana).used_micros == dear
    assert record_of(turn).above_because == "input"


def test_where_nobody_knows_what_was_reserved_no_more_is_paid_than_that(ana: User, turn: Turn):
    """As of a turn that a process of yesterday wrote."""
    reserved, turn.max_cost_micros = turn.max_cost_micros, None
    close_turn(turn, msgspec.structs.replace(PAID, cost_micros=reserved + 1))
    assert period_of(ana).used_micros == reserved


def write_fraction(turn: Turn) -> None:
    """Write a cost that no process of ours writes, and prices with a fraction."""
    rates = {"input": 1, "output": 2, "cache_read": 1, "cache_write": 1}
    price = write_stamp(Stamp(**rates, above=0, markup_percent=0, as_of="", provider_micros=16)).replace(
        '"provider_micros":16', '"provider_micros":16.5'
    )
    Turn.objects.filter(pk=turn.pk).update(price=price)
    if rows.speaks_sql(Turn):
        connection = connections["history"]
        with connection.cursor() as cursor:
            cursor.execute(f"UPDATE {connection.ops.quote_name(Turn._meta.db_table)} SET cost_micros = 16.5")
    else:
        connections["history"].get_collection(Turn._meta.db_table).update_many({}, {"$set": {"cost_micros": 16.5}})


@pytest.mark.stores
def test_a_cost_with_a_fraction_is_paid_in_whole_micros(ana: User, turn: Turn):
    progress.close(turn, PAID)
    write_fraction(turn)
    found = saved(turn)
    settle_turn(found, found)
    record = record_of(turn)
    assert record.cost_micros == record.spent_micros == period_of(ana).used_micros
    assert record.cost_micros in (16, 17)  # some stores round


@pytest.mark.stores
def test_a_cost_with_a_fraction_keeps_no_page_from_being_shown(ana: User, turn: Turn, client: Client, api):
    progress.close(turn, PAID)
    settle_turn(turn, PAID)
    write_fraction(turn)
    client.force_login(ana)
    assert "hola" in client.get(f"/c/{turn.conversation_id}/").text
    [found] = api(ana).get(f"/api/v1/conversations/{turn.conversation_id}/turns").json()["results"]
    assert found == api(ana).get(f"/api/v1/turns/{turn.pk}").json()
    [result] = api(ana).get("/api/v1/search?q=hola").json()["results"]
    assert found.items() <= result.items()
    assert (found["cost_micros"] in (16, 17), found["price"]) == (True, None)


# --- Turns nobody has begun -------------------------------------------------------------------------------------------


def test_a_waiting_turn_is_closed_for_nothing(ana: User):
    turn = ask(ana)
    assert close_queued(turn, status="failed", error="queue_timeout")
    assert (saved(turn).status, saved(turn).error, saved(turn).cost_micros) == ("failed", "queue_timeout", None)
    assert reservation_of(turn).state == Reservation.State.RELEASED


def test_a_turn_somebody_has_begun_is_not_closed_as_waiting(turn: Turn):
    assert not close_queued(turn, status="stopped")
    assert saved(turn).status == "streaming"
    assert is_held(turn)


def test_a_turn_claimed_since_it_was_looked_at_is_not_closed_as_waiting(ana: User):
    turn = ask(ana)
    assert progress.claim(saved(turn))
    assert not close_queued(turn, status="stopped")
    assert saved(turn).status == "streaming"
    assert is_held(turn)


# --- Going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "answer", "finish_reason", "error", "may"),
    [
        ("stopped", "hola", "", "", True),
        ("interrupted", "hola", "", "timeout", True),
        ("interrupted", "hola", "", "runner_lost", True),
        ("completed", "hola", "length", "", True),
        ("completed", "hola", "stop", "", False),
        ("stopped", "", "", "", False),
        ("completed", "", "length", "", False),
        ("interrupted", "hola", "content_filter", "content_filter", False),
        ("failed", "", "", "overloaded", False),
        ("queued", "", "", "", False),
        ("streaming", "", "", "", False),
    ],
)
def test_an_answer_that_broke_off_may_go_on(status: str, answer: str, finish_reason: str, error: str, may: bool):
    assert can_continue(Turn(status=status, answer=answer, finish_reason=finish_reason, error=error)) is may


# --- What it cost -----------------------------------------------------------------------------------------------------


def outcome_of(
    turn: Turn,
    model: LanguageModel | None,
    answer: str = "",
    reasoning: str = "",
    *,
    usage: TokenUsage | None = None,
    **fields: str,
) -> Outcome:
    ended = Outcome(**({"status": "completed", "answer": answer, "reasoning": reasoning} | fields))
    return priced_outcome(turn, ended, model=model, usage=usage)


def test_what_the_provider_counted_is_what_it_costs(turn: Turn, scripted: LanguageModel):
    usage = TokenUsage(input=1_000, output=200, cache_read=400, cache_write=100, reasoning=50)
    found = outcome_of(turn, scripted, "hola", "hmm", usage=usage, finish_reason="stop")
    assert (found.input_tokens, found.output_tokens, found.reasoning_tokens) == (1_000, 200, 50)
    assert (found.cache_read_tokens, found.cache_write_tokens, found.usage_source) == (400, 100, "provider")
    assert found.cost_micros == 1_000 * 1 + 200 * 2
    assert (found.model, found.provider, found.finish_reason) == ("scripted", "scripted", "stop")


def test_what_came_from_a_cache_has_its_own_price(turn: Turn, scripted: LanguageModel):
    scripted.cache_read_price, scripted.cache_write_price = 100_000, 3_000_000
    usage = TokenUsage(input=1_000, output=0, cache_read=400, cache_write=100)
    assert outcome_of(turn, scripted, usage=usage).cost_micros == 500 * 1 + 400 // 10 + 100 * 3


def test_what_nobody_counted_is_estimated_by_what_was_shown(turn: Turn, scripted: LanguageModel):
    answer, reasoning = "ñandú " * 40, "hmm " * 30
    found = outcome_of(turn, scripted, answer, reasoning)
    written, reasoned = (
        estimate_tokens([text], bytes_per_token=SETTLE_BYTES_PER_TOKEN) for text in (answer, reasoning)
    )
    assert found.usage_source == "estimated"
    assert (found.input_tokens, found.reasoning_tokens) == (turn.input_tokens, reasoned)
    assert found.output_tokens == written + reasoned
    assert found.cost_micros == cost_of(scripted, metering.Usage(turn.input_tokens, written + reasoned)) > 0


def test_the_estimate_of_an_answer_alone_has_no_reasoning(turn: Turn, scripted: LanguageModel):
    found = outcome_of(turn, scripted, "hola")
    assert found.reasoning_tokens == 0
    assert found.output_tokens == estimate_tokens(["hola"], bytes_per_token=SETTLE_BYTES_PER_TOKEN)


def test_reasoning_that_was_shown_is_paid_without_an_answer(turn: Turn, scripted: LanguageModel):
    found = outcome_of(turn, scripted, reasoning="hmm", status="interrupted", error="timeout")
    assert found.cost_micros > 0
    assert found.output_tokens == found.reasoning_tokens > 0


def test_what_showed_nothing_and_counted_nothing_costs_nothing(turn: Turn, scripted: LanguageModel):
    found = outcome_of(turn, scripted, status="failed", error="timeout")
    assert (found.status, found.error, found.cost_micros, found.usage_source) == ("failed", "timeout", None, "")


def test_what_the_provider_counted_is_paid_though_nothing_was_shown(turn: Turn, scripted: LanguageModel):
    found = outcome_of(turn, scripted, usage=TokenUsage(input=10, output=0))
    assert (found.cost_micros, found.usage_source) == (10, "provider")


def test_a_part_of_a_micro_is_a_whole_one(turn: Turn, scripted: LanguageModel):
    scripted.input_price, scripted.output_price = 1, 0
    assert outcome_of(turn, scripted, usage=TokenUsage(input=1, output=0)).cost_micros == 1


def test_the_estimate_of_a_short_answer_fits_its_reservation(turn: Turn, scripted: LanguageModel):
    found = outcome_of(turn, scripted, "hola " * 100)
    assert found.cost_micros <= reservation_of(turn).amount_micros


def test_a_long_answer_is_estimated_as_no_longer_than_its_cap(turn: Turn, scripted: LanguageModel):
    found = outcome_of(turn, scripted, "hola " * 10_000, "hmm " * 10_000)
    assert (found.output_tokens, found.reasoning_tokens) == (turn.max_output, turn.max_output)
    assert found.cost_micros <= reservation_of(turn).amount_micros


def test_output_beyond_the_cap_is_the_operators_to_pay(
    turn: Turn, scripted: LanguageModel, caplog: pytest.LogCaptureFixture
):
    """It came, and its provider takes money for it; nobody asked for so much."""
    usage = TokenUsage(input=turn.input_tokens, output=5 * turn.max_output)
    found = outcome_of(turn, scripted, "hola", usage=usage)
    assert (found.output_tokens, found.usage_source) == (5 * turn.max_output, "provider")
    assert found.cost_micros == turn.max_cost_micros == reservation_of(turn).amount_micros
    assert read_stamp(found.price).provider_micros == turn.input_tokens + 2 * 5 * turn.max_output
    record, needed = caplog.records[:2]
    assert (record.levelno, record.message) == (logging.WARNING, "Cost above its reservation")
    assert (needed.message, needed.subject) == ("Operator needed", "scripted:scripted:reservation")
    assert record.charged_micros == record.reserved_micros < record.cost_micros


def test_input_beyond_the_estimate_is_charged(turn: Turn, scripted: LanguageModel):
    usage = TokenUsage(input=turn.input_tokens + 900, output=turn.max_output)
    found = outcome_of(turn, scripted, "hola", usage=usage)
    assert turn.max_cost_micros + 850 < found.cost_micros <= usage.input + 2 * usage.output
    assert close_turn(turn, found)
    record = record_of(turn)
    assert (record.cost_micros, record.above_because) == (found.cost_micros, "input")


def test_output_beyond_the_cap_is_not_charged_as_input(turn: Turn, scripted: LanguageModel):
    usage = TokenUsage(input=turn.input_tokens + 900, output=5 * turn.max_output)
    found = outcome_of(turn, scripted, "hola", usage=usage)
    assert turn.max_cost_micros < found.cost_micros <= turn.max_cost_micros + 900


def test_a_price_that_rose_since_the_reservation_charges_no_more_than_that(turn: Turn, scripted: LanguageModel):
    scripted.output_price *= 50
    usage = TokenUsage(input=turn.input_tokens, output=turn.max_output)
    assert outcome_of(turn, scripted, "hola", usage=usage).cost_micros == turn.max_cost_micros
    assert outcome_of(turn, scripted, "hola " * 1_000).cost_micros == turn.max_cost_micros


def test_an_answer_of_a_model_nobody_knows_any_more_keeps_its_text(turn: Turn):
    found = outcome_of(turn, None, "hola", "hmm", status="interrupted", error="runner_lost")
    assert (found.answer, found.reasoning, found.error, found.cost_micros) == ("hola", "hmm", "runner_lost", None)
