"""The ledger of usage: every promise is kept once, whoever asks at the same moment."""

import datetime as dt
from functools import partial
from uuid import UUID, uuid4

import pytest
from django.db import IntegrityError
from django.utils import timezone, translation
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from accounts.models import User
from billing import metering
from billing.entitlements import account_of, budget_of, current_period
from billing.errors import AllowanceUsedUp, TooManyAtOnce
from billing.metering import Usage
from billing.models import BillingAccount, Plan, Reservation, UsagePeriod, UsageRecord
from core import sweeps
from core.errors import Conflict
from tests.billing.together import together

pytestmark = [
    pytest.mark.stores,
    pytest.mark.django_db(transaction=True, databases=["default", "history"]),
]

FREE = 500_000  # micros a month
USAGE = Usage(input=12, output=34, cache_read=5, cache_write=6)
NOVEMBER = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
DECEMBER = dt.datetime(2026, 12, 1, 0, 0, 1, tzinfo=dt.UTC)


@pytest.fixture
def bulk(catalog):
    """A member whose plan has credits for fifty pieces of work of 10,000, and no other limit."""
    return member("bulk@example.com", Plan.objects.create(key="bulk", name="Bulk", rank=5, credits_per_month=500))


def member(email: str, plan: Plan) -> User:
    user = User.objects.create_user(email)
    BillingAccount.objects.create(user=user, plan=plan)
    return user


def period_of(user: User) -> UsagePeriod:
    return current_period(account_of(user.pk))


def counters(user: User) -> tuple[int, int, int]:
    """Return what the user's current period counts: used, reserved, holds."""
    period = period_of(user)
    return period.used_micros, period.reserved_micros, holds_of(user)


def holds_of(user: User) -> int:
    """Return how many reservations the user's account holds, of whatever period."""
    return BillingAccount.objects.get(user=user).holds


def reserve(user: User, amount: int, key: UUID | None = None) -> UUID:
    key = key or uuid4()
    assert metering.reserve(user.pk, key, amount_micros=amount)
    return key


def settle(key: UUID, cost: int, **fields: str) -> bool:
    return metering.settle(key, cost_micros=cost, usage=USAGE, label="scripted", **fields)


def assert_balanced() -> None:
    """Every counter of every period is what its rows add up to."""
    for period in UsagePeriod.objects.all():
        held = period.reservations.filter(state=Reservation.State.HELD)
        assert period.reserved_micros == sum(row.amount_micros for row in held)
        assert period.used_micros == sum(row.cost_micros for row in period.records.all())
    for account in BillingAccount.objects.all():
        held = Reservation.objects.filter(period__account=account, state=Reservation.State.HELD)
        assert account.holds == held.count()


def test_reserve_holds_the_amount(ana):
    reserve(ana, 10_000)
    assert counters(ana) == (0, 10_000, 1)


def test_settle_records_the_cost_and_ends_the_hold(ana):
    key = reserve(ana, 10_000)
    assert settle(key, 7_000)
    assert counters(ana) == (7_000, 0, 0)


def test_a_usage_record_says_what_was_used_and_for_what(ana):
    key = reserve(ana, 10_000)
    settle(key, 7_000)
    record = UsageRecord.objects.get(reservation_id=key)
    assert (record.input_tokens, record.output_tokens) == (12, 34)
    assert (record.cache_read_tokens, record.cache_write_tokens) == (5, 6)
    assert (record.label, record.source, record.cost_micros) == ("scripted", "provider", 7_000)
    assert record.period == period_of(ana)


def test_release_gives_the_hold_back_unused(ana):
    key = reserve(ana, 10_000)
    assert metering.release(key)
    assert counters(ana) == (0, 0, 0)
    assert not UsageRecord.objects.exists()


def test_the_last_credit_can_be_used(ana):
    reserve(ana, FREE)
    assert counters(ana) == (0, FREE, 1)


def test_the_same_key_again_changes_nothing(carla):
    key = reserve(carla, 10_000)
    assert not metering.reserve(carla.pk, key, amount_micros=90_000)
    assert counters(carla) == (0, 10_000, 1)


def test_a_settled_key_cannot_be_reserved_again(ana):
    key = reserve(ana, 10_000)
    settle(key, 7_000)
    assert not metering.reserve(ana.pk, key, amount_micros=10_000)
    assert counters(ana) == (7_000, 0, 0)


def test_settling_again_changes_nothing(ana):
    key = reserve(ana, 10_000)
    settle(key, 7_000)
    assert not settle(key, 9_000)
    assert counters(ana) == (7_000, 0, 0)
    assert UsageRecord.objects.get().cost_micros == 7_000


def test_releasing_again_changes_nothing(carla):
    key = reserve(carla, 10_000)
    reserve(carla, 5_000)
    metering.release(key)
    assert not metering.release(key)
    assert counters(carla) == (0, 5_000, 1)


def test_releasing_what_was_settled_changes_nothing(ana):
    key = reserve(ana, 10_000)
    settle(key, 7_000)
    assert not metering.release(key)
    assert counters(ana) == (7_000, 0, 0)


def test_an_unknown_key_is_neither_settled_nor_released(ana):
    assert not settle(uuid4(), 7_000)
    assert not metering.release(uuid4())
    assert counters(ana) == (0, 0, 0)


def test_without_a_reason_no_more_is_charged_than_was_reserved(ana, caplog):
    key = reserve(ana, 10_000)
    assert settle(key, 10_001)
    assert counters(ana) == (10_000, 0, 0)
    record = UsageRecord.objects.get()
    assert (record.cost_micros, record.above_because) == (10_000, None)
    assert "Cost above its reservation without a reason" in caplog.messages


def test_without_a_reason_no_more_is_charged_than_was_released(ana):
    key = reserve(ana, 10_000)
    metering.release(key)
    settle(key, 10**15)
    assert counters(ana) == (10_000, 0, 0)


def test_a_cost_above_the_reservation_is_recorded_with_its_reason(ana):
    key = reserve(ana, FREE)
    settle(key, FREE + 20_000, above_because="input")
    assert counters(ana) == (FREE + 20_000, 0, 0)
    assert UsageRecord.objects.get().above_because == "input"
    with pytest.raises(AllowanceUsedUp):
        reserve(ana, 1)


def test_a_cost_within_its_reservation_needs_no_reason_and_has_none(ana):
    settle(reserve(ana, 10_000), 10_000, above_because="input")
    assert UsageRecord.objects.get().above_because is None


def test_what_is_settled_after_its_release_counts_and_frees_nothing_twice(carla):
    key = reserve(carla, 10_000)
    reserve(carla, 5_000)
    metering.release(key)
    assert settle(key, 7_000)
    assert counters(carla) == (7_000, 5_000, 1)


def test_a_reservation_released_before_its_work_began_can_be_held_again(ana):
    key = reserve(ana, 10_000)
    metering.release(key)
    reserve(ana, 30_000, key)
    assert counters(ana) == (0, 30_000, 1)
    settle(key, 7_000)
    assert counters(ana) == (7_000, 0, 0)


def test_holding_again_asks_for_room(ana):
    key = reserve(ana, 10_000)
    metering.release(key)
    with pytest.raises(AllowanceUsedUp):
        metering.reserve(ana.pk, key, amount_micros=FREE + 1)
    assert Reservation.objects.get(pk=key).state == Reservation.State.RELEASED
    assert counters(ana) == (0, 0, 0)


def test_a_reservation_held_again_is_young(carla):
    key = reserve(carla, 10_000)
    Reservation.objects.update(created_at=timezone.now() - dt.timedelta(hours=1))
    metering.release(key)
    reserve(carla, 10_000, key)
    assert list(metering.iterate_held(older_than=dt.timedelta(minutes=1))) == []


def test_a_key_that_is_somebody_elses_is_a_conflict(ana, bo):
    key = reserve(ana, 10_000)
    with pytest.raises(Conflict):
        metering.reserve(bo.pk, key, amount_micros=10_000)
    assert counters(ana) == (0, 10_000, 1)
    assert counters(bo) == (0, 0, 0)


def test_a_released_key_of_somebody_else_is_a_conflict_too(ana, bo):
    key = reserve(ana, 10_000)
    metering.release(key)
    with pytest.raises(Conflict):
        metering.reserve(bo.pk, key, amount_micros=10_000)
    assert Reservation.objects.get(pk=key).period.account.user == ana


def test_more_than_is_left_is_refused_and_nothing_is_written(ana):
    key = uuid4()
    with pytest.raises(AllowanceUsedUp):
        metering.reserve(ana.pk, key, amount_micros=FREE + 1)
    assert not Reservation.objects.exists()
    assert counters(ana) == (0, 0, 0)


def test_what_was_used_and_what_is_held_leave_less(bulk):
    settle(reserve(bulk, 100_000), 100_000)
    reserve(bulk, 300_000)
    with pytest.raises(AllowanceUsedUp):
        reserve(bulk, 100_001)
    reserve(bulk, 100_000)


def test_a_used_up_allowance_says_how_long_and_until_when(ana, at):
    at(NOVEMBER)
    with translation.override("en"), pytest.raises(AllowanceUsedUp) as refused:
        reserve(ana, FREE + 1)
    assert refused.value.status == 402
    assert refused.value.retry_after == dt.timedelta(days=6, hours=12).total_seconds()
    assert "December 1, 2026" in str(refused.value.message)


def test_more_at_once_than_the_plan_allows_is_refused_and_nothing_is_written(ana):
    key = reserve(ana, 10_000)
    with pytest.raises(TooManyAtOnce) as refused:
        reserve(ana, 10_000)
    assert refused.value.status == 429
    assert list(Reservation.objects.values_list("pk", flat=True)) == [key]
    assert counters(ana) == (0, 10_000, 1)


def test_the_end_of_one_piece_of_work_lets_the_next_one_begin(ana):
    settle(reserve(ana, 10_000), 7_000)
    metering.release(reserve(ana, 10_000))
    reserve(ana, 10_000)


def test_without_an_allowance_everything_is_admitted_and_counted(carla):
    key = reserve(carla, 10**12)
    settle(key, 10**12)
    reserve(carla, 10**12)
    assert counters(carla) == (10**12, 10**12, 1)


def test_a_new_month_brings_a_new_allowance(ana, at):
    at(NOVEMBER)
    settle(reserve(ana, FREE), FREE)
    at(DECEMBER)
    reserve(ana, FREE)
    assert counters(ana) == (0, FREE, 1)
    assert UsagePeriod.objects.count() == 2


def test_what_was_reserved_last_month_is_settled_there(ana, at):
    at(NOVEMBER)
    key = reserve(ana, 10_000)
    november = period_of(ana)
    at(DECEMBER)
    settle(key, 7_000)
    november.refresh_from_db()
    assert (november.used_micros, november.reserved_micros) == (7_000, 0)
    assert counters(ana) == (0, 0, 0)


def test_what_is_still_held_of_last_month_counts_among_what_is_done_at_once(ana, at):
    at(NOVEMBER)
    key = reserve(ana, 10_000)
    at(DECEMBER)
    with pytest.raises(TooManyAtOnce):
        reserve(ana, 10_000)
    assert counters(ana) == (0, 0, 1)
    settle(key, 7_000)
    reserve(ana, 10_000)


def test_what_somebody_else_holds_does_not_count(ana, bo, at):
    at(NOVEMBER)
    reserve(bo, 10_000)
    at(DECEMBER)
    reserve(ana, 10_000)
    assert counters(ana) == (0, 10_000, 1)


def test_of_many_at_once_after_the_months_end_those_are_admitted_that_last_month_leaves_room_for(catalog, at):
    user = member("two@example.com", Plan.objects.create(key="three", name="Three", rank=5, turns_at_once=3))
    at(NOVEMBER)
    last = reserve(user, 1_000)
    at(DECEMBER)
    for _ in range(3):
        keys = [uuid4() for _ in range(8)]
        answers = together([partial(metering.reserve, user.pk, key, amount_micros=1_000) for key in keys])
        assert answers.count(True) == 2
        assert {type(answer) for answer in answers} == {bool, TooManyAtOnce}
        assert counters(user) == (0, 2_000, 3)
        for key in keys:
            metering.release(key)
    metering.release(last)
    assert_balanced()


def test_what_is_held_again_in_a_new_month_counts_there(ana, at):
    at(NOVEMBER)
    key = reserve(ana, 10_000)
    metering.release(key)
    at(DECEMBER)
    reserve(ana, 20_000, key)
    assert counters(ana) == (0, 20_000, 1)
    settle(key, 7_000)
    assert counters(ana) == (7_000, 0, 0)
    assert_balanced()


def test_a_negative_cost_is_refused_and_the_hold_stays(ana):
    key = reserve(ana, 10_000)
    with pytest.raises(IntegrityError):
        settle(key, -1)
    assert counters(ana) == (0, 10_000, 1)
    assert Reservation.objects.get(pk=key).state == Reservation.State.HELD


def test_a_negative_reservation_is_refused(ana):
    with pytest.raises(IntegrityError):
        metering.reserve(ana.pk, uuid4(), amount_micros=-1)
    assert counters(ana) == (0, 0, 0)


def test_what_is_held_too_long_is_listed_oldest_first(carla, monkeypatch):
    keys = [reserve(carla, 1_000) for _ in range(4)]
    for key, minutes in zip(keys, (10, 30, 20, 0), strict=True):
        moment = timezone.now() - dt.timedelta(minutes=minutes)
        Reservation.objects.filter(pk=key).update(created_at=moment)
    metering.release(keys[2])
    assert list(metering.iterate_held(older_than=dt.timedelta(minutes=5))) == [[keys[1], keys[0]]]
    monkeypatch.setattr(sweeps, "PAGE_SIZE", 1)
    assert list(metering.iterate_held(older_than=dt.timedelta(minutes=5))) == [[keys[1]], [keys[0]]]


def test_nothing_is_unbalanced_in_ordinary_life(carla):
    settle(reserve(carla, 10_000), 12_000)
    metering.release(reserve(carla, 10_000))
    reserve(carla, 10_000)
    late = reserve(carla, 10_000)
    metering.release(late)
    settle(late, 7_000)
    assert not metering.list_unbalanced_periods().exists()


@pytest.mark.parametrize("counter", ["used_micros", "reserved_micros"])
def test_a_period_whose_counter_is_wrong_is_unbalanced(carla, bo, counter):
    for user in (carla, bo):
        settle(reserve(user, 10_000), 7_000)
        reserve(user, 10_000)
    UsagePeriod.objects.filter(account__user=bo).update(**{counter: 3})
    assert [period.account.user for period in metering.list_unbalanced_periods()] == [bo]


def test_an_account_that_counts_its_holds_wrong_is_unbalanced(carla, bo):
    for user in (carla, bo):
        reserve(user, 10_000)
    assert not metering.list_unbalanced_accounts().exists()
    BillingAccount.objects.filter(user=bo).update(holds=3)
    assert [account.user for account in metering.list_unbalanced_accounts()] == [bo]


def test_of_200_at_once_exactly_those_with_room_are_admitted(bulk):
    answers = together([partial(metering.reserve, bulk.pk, uuid4(), amount_micros=10_000) for _ in range(200)])
    assert answers.count(True) == 50
    assert {type(answer) for answer in answers if answer is not True} == {AllowanceUsedUp}
    assert counters(bulk) == (0, FREE, 50)
    assert_balanced()


def test_of_two_at_once_on_free_one_is_admitted(ana):
    for _ in range(5):
        keys = [uuid4(), uuid4()]
        answers = together([partial(metering.reserve, ana.pk, key, amount_micros=1_000) for key in keys])
        assert answers.count(True) == 1
        assert {type(answer) for answer in answers} == {bool, TooManyAtOnce}
        assert metering.release(keys[answers.index(True)])


def test_the_same_key_thirty_times_at_once_is_held_once(bulk):
    answers = together([partial(metering.reserve, bulk.pk, UUID(int=7), amount_micros=10_000)] * 30)
    assert answers.count(True) == 1
    assert answers.count(False) == 29
    assert counters(bulk) == (0, 10_000, 1)
    assert Reservation.objects.count() == 1


def test_a_released_key_thirty_times_at_once_is_held_again_once(bulk):
    key = reserve(bulk, 10_000)
    metering.release(key)
    answers = together([partial(metering.reserve, bulk.pk, key, amount_micros=10_000)] * 30)
    assert (answers.count(True), answers.count(False)) == (1, 29)
    assert counters(bulk) == (0, 10_000, 1)


def test_settling_three_times_at_once_is_one_record(bulk):
    keys = [reserve(bulk, 10_000) for _ in range(10)]
    answers = together([partial(settle, key, 7_000) for key in keys for _ in range(3)])
    assert (answers.count(True), answers.count(False)) == (10, 20)
    assert UsageRecord.objects.count() == 10
    assert counters(bulk) == (70_000, 0, 0)


def test_settle_and_release_at_once_record_the_work_and_free_the_hold_once(bulk):
    keys = [reserve(bulk, 10_000) for _ in range(15)]
    together([call for key in keys for call in (partial(settle, key, 7_000), partial(metering.release, key))])
    assert counters(bulk) == (15 * 7_000, 0, 0)
    assert_balanced()


def test_settle_and_hold_again_at_once_stay_balanced(bulk):
    keys = [reserve(bulk, 10_000) for _ in range(12)]
    for key in keys:
        metering.release(key)
    again = [partial(metering.reserve, bulk.pk, key, amount_micros=10_000) for key in keys]
    answers = together(
        [call for key, hold in zip(keys, again, strict=True) for call in (partial(settle, key, 1), hold)]
    )
    assert {type(answer) for answer in answers} == {bool}
    assert UsageRecord.objects.count() == 12
    assert counters(bulk) == (12, 0, 0)
    assert_balanced()


class Book:
    """What the ledger should say: for each key, the month it counts in and the amount, which is never exceeded."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.month = 1
        self.held: dict[UUID, tuple[int, int]] = {}
        self.settled: dict[UUID, tuple[int, int]] = {}
        self.released: dict[UUID, tuple[int, int]] = {}

    def counters(self) -> tuple[int, int, int]:
        return self._sum(self.settled), self._sum(self.held), self._holds()

    def reserve(self, key: UUID, micros: int) -> bool | type[Exception]:
        if key in self.held or key in self.settled:
            return False
        if self._is_busy():
            return TooManyAtOnce
        allowance = self.plan.allowance_micros
        if allowance is not None and self._sum(self.settled) + self._sum(self.held) + micros > allowance:
            return AllowanceUsedUp
        self.released.pop(key, None)
        self.held[key] = (self.month, micros)
        return True

    def settle(self, key: UUID, micros: int) -> bool:
        if key in self.held:
            month, reserved = self.held.pop(key)
        elif key in self.released:
            month, reserved = self.released.pop(key)
        else:
            return False
        self.settled[key] = (month, min(micros, reserved))
        return True

    def release(self, key: UUID) -> bool:
        if key not in self.held:
            return False
        self.released[key] = self.held.pop(key)
        return True

    def _sum(self, rows: dict[UUID, tuple[int, int]]) -> int:
        return sum(micros for month, micros in rows.values() if month == self.month)

    def _holds(self) -> int:
        return len(self.held)

    def _is_busy(self) -> bool:
        """Return whether there is as much held as the plan allows at once, in whatever month."""
        return self.plan.turns_at_once is not None and len(self.held) >= self.plan.turns_at_once


def outcome(user: User, key: UUID, micros: int) -> bool | type[Exception]:
    try:
        return metering.reserve(user.pk, key, amount_micros=micros)
    except (AllowanceUsedUp, TooManyAtOnce) as refused:
        return type(refused)


@pytest.mark.stores
def test_who_asks_as_another_answer_ends_is_never_told_that_credits_are_used_up(catalog):
    """What was in the way is over when it is looked for: it was not the credits, of which there is no end."""
    user = member("endless@example.com", Plan.objects.create(key="endless", name="Endless", turns_at_once=1))

    def ask_and_end() -> set[object]:
        answers: set[object] = set()
        for _ in range(40):
            key = uuid4()
            answers.add(outcome(user, key, 1_000))
            metering.release(key)
        return answers

    answers = together([ask_and_end] * 6)
    assert set().union(*answers) <= {True, TooManyAtOnce}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve"] * 5 + ["settle"] * 2 + ["release"] * 2 + ["next month"]),
        st.integers(0, 2),  # which of three keys
        st.sampled_from([0, 1, 400, 600, 1_000]),  # micros; a plan has 1,000, none or any number
    ),
    min_size=15,
    max_size=40,
)


@settings(
    max_examples=20,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # making an example smaller would take minutes here
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    steps=STEPS,
    credits_per_month=st.sampled_from([None, 0, 1, 1, 1]),
    at_once=st.sampled_from([None, None, None, 1, 2]),
)
def test_any_order_of_calls_keeps_the_ledger_true(catalog, at, steps, credits_per_month, at_once):
    plan = Plan.objects.create(key=uuid4(), name="Any", credits_per_month=credits_per_month, turns_at_once=at_once)
    user, book, keys = member(f"{uuid4()}@example.com", plan), Book(plan), [uuid4() for _ in range(3)]
    at(dt.datetime(2026, 1, 15, tzinfo=dt.UTC))
    for step, which, micros in steps:
        key = keys[which]
        match step:
            case "reserve":
                assert outcome(user, key, micros) == book.reserve(key, micros)
            case "settle":
                assert settle(key, micros) == book.settle(key, micros)
            case "release":
                assert metering.release(key) == book.release(key)
            case _ if book.month < 12:
                book.month += 1
                at(dt.datetime(2026, book.month, 15, tzinfo=dt.UTC))
        assert counters(user) == book.counters()
    assert_balanced()
    assert not metering.list_unbalanced_periods().exists()


def test_a_budget_that_was_read_before_pays_and_says_what_is_left(bulk: User):
    budget = budget_of(bulk.pk)
    assert (budget.entitlements.plan, budget.left_micros) == ("bulk", 500_000)
    metering.reserve(bulk.pk, uuid4(), amount_micros=400_000)
    assert budget.left_micros == 500_000  # as it was read
    with pytest.raises(AllowanceUsedUp):
        metering.reserve(bulk.pk, uuid4(), amount_micros=100_001, budget=budget)
    assert budget.left_micros == 100_000
    assert metering.reserve(bulk.pk, uuid4(), amount_micros=100_000, budget=budget)
    assert counters(bulk) == (0, 500_000, 2)


def test_a_budget_without_a_limit(carla: User):
    assert budget_of(carla.pk).left_micros is None
