"""What suppliers take in a day: exact under concurrency, counted once, and stopped at the limit."""

import datetime as dt
from uuid import UUID, uuid4

import pytest
from django.db.models import F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import User
from billing import metering, spending
from billing.errors import AllowanceUsedUp, SpendLimitReached
from billing.metering import Usage
from billing.models import BillingAccount, Reservation, Spending, SpendingEntry, UsagePeriod, UsageRecord
from billing.spending import OwnWork, SpendingToday, SupplierHold, UnpaidRequest, spending_today
from tests.billing.together import together

pytestmark = pytest.mark.stores

LIMIT = 1_000


@pytest.fixture(autouse=True)
def balanced(carla: User):
    yield
    assert not spending.list_unbalanced_days().exists()
    assert not metering.list_unbalanced_periods().exists()


def reserve(user: User, most: int = 100, *, key: UUID | None = None, limit: int = LIMIT, amount: int = 0) -> UUID:
    key = key or uuid4()
    metering.reserve(user.pk, key, amount_micros=amount or most, supplier_holds=[SupplierHold("openai", most, limit)])
    return key


def settle(key: UUID, spent: int, supplier: str = "openai") -> bool:
    told = {"usage": Usage(1, 1), "label": "m", "supplier": supplier, "spent_micros": spent}
    return metering.settle(key, cost_micros=2 * spent, **told)


def today(supplier: str = "openai") -> tuple[int, int]:
    spent = spending_today((supplier,))[supplier]
    return spent.used_micros, spent.reserved_micros


def test_what_is_promised_is_held_and_what_was_taken_counted(carla: User):
    key = reserve(carla)
    assert today() == (0, 100)
    settle(key, 30)
    assert today() == (30, 0)
    assert UsageRecord.objects.get(reservation_id=key).spent_micros == 30


def test_what_is_released_is_free_again(carla: User):
    key = reserve(carla)
    metering.release(key)
    metering.release(key)
    assert today() == (0, 0)


def test_each_is_counted_once(carla: User):
    key = reserve(carla)
    for _ in range(3):
        settle(key, 30)
        metering.release(key)
    assert today() == (30, 0)


def test_what_is_settled_after_its_release_counts(carla: User):
    key = reserve(carla)
    metering.release(key)
    settle(key, 30)
    assert today() == (30, 0)


def test_what_was_released_may_be_held_again(carla: User):
    key = reserve(carla)
    metering.release(key)
    reserve(carla, 70, key=key)
    assert today() == (0, 70)


def test_without_a_limit_nothing_is_held_and_everything_counted(carla: User):
    key = uuid4()
    metering.reserve(carla.pk, key, amount_micros=100)
    assert not Spending.objects.exists()
    settle(key, 30)
    assert today() == (30, 0)


def test_what_takes_nothing_is_never_stopped(carla: User):
    settle(reserve(carla, LIMIT), LIMIT)
    reserve(carla, 0, amount=5)
    assert today() == (LIMIT, 0)


def test_at_the_limit_the_next_one_is_refused_and_nothing_written(carla: User):
    for _ in range(10):
        reserve(carla)
    with pytest.raises(SpendLimitReached) as refused:
        reserve(carla, 1)
    assert (refused.value.code, refused.value.status) == ("spend_limit", 503)
    assert 0 < refused.value.retry_after <= 24 * 3600
    assert Reservation.objects.count() == 10
    assert BillingAccount.objects.get().holds == 10
    assert today() == (0, LIMIT)


def test_one_dearer_than_what_is_left_is_the_last(carla: User):
    """Else it would never be answered; what goes beyond the limit is less than one of them."""
    settle(reserve(carla), LIMIT - 1)
    reserve(carla, 5_000)
    with pytest.raises(SpendLimitReached):
        reserve(carla, 1)


def test_a_refusal_of_the_allowance_holds_nothing_of_the_day(ana: User):
    with pytest.raises(AllowanceUsedUp):
        reserve(ana, 100, amount=10**12)
    assert today() == (0, 0)


def test_a_raised_limit_holds_at_once(carla: User):
    settle(reserve(carla), LIMIT)
    with pytest.raises(SpendLimitReached):
        reserve(carla)
    reserve(carla, limit=2 * LIMIT)


def test_who_answers_in_place_of_another_is_who_is_paid(carla: User):
    key = reserve(carla)
    settle(key, 30, "anthropic")
    assert (today(), today("anthropic")) == ((0, 0), (30, 0))


def test_a_new_day_begins_at_nothing(carla: User, monkeypatch: pytest.MonkeyPatch):
    settle(reserve(carla), LIMIT)
    held = reserve(carla, limit=2 * LIMIT)
    tomorrow = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    monkeypatch.setattr(spending, "_today", tomorrow.date)
    assert today() == (0, 0)
    settle(held, 40)  # it ends on the day it is paid, and frees what it held the day before
    assert today() == (40, 0)
    assert sorted(Spending.objects.values_list("used_micros", "reserved_micros")) == [(40, 0), (LIMIT, 0)]


def test_the_operator_is_told_once_of_each_step(carla: User):
    settle(reserve(carla), 10)
    assert [spending.record_alert("openai", percent) for percent in (80, 80, 100, 100, 80)] == [
        True,
        False,
        True,
        False,
        False,
    ]
    assert spending_today(("openai", "gemini")) == {"openai": SpendingToday(10, 0, 100), "gemini": SpendingToday()}


def test_what_dies_half_way_counts_nothing_and_then_once(carla: User, monkeypatch: pytest.MonkeyPatch):
    """The record, the period and the day are one transaction."""
    key = reserve(carla)
    with monkeypatch.context() as patch:

        def die(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(spending, "end_holds", die)
        for end in (lambda: settle(key, 30), lambda: metering.release(key)):
            with pytest.raises(KeyboardInterrupt):
                end()
    assert today() == (0, 100)
    assert not UsageRecord.objects.exists()
    assert BillingAccount.objects.get().holds == 1
    settle(key, 30)
    assert today() == (30, 0)


def test_a_burst_goes_beyond_the_limit_by_less_than_one(carla: User):
    """Sixty at once of 70 each, where 1,000 may be spent: fifteen are admitted, which promise 1,050."""
    done = together([lambda: reserve(carla, 70) for _ in range(60)])
    admitted = [one for one in done if isinstance(one, UUID)]
    assert len(admitted) == 15
    assert {type(one) for one in done} == {UUID, SpendLimitReached}
    assert today() == (0, 1_050)


def test_settling_and_releasing_at_once_counts_once(carla: User):
    keys = [reserve(carla) for _ in range(10)]
    calls = [call for key in keys for call in (lambda k=key: settle(k, 30), lambda k=key: metering.release(k))]
    assert not [one for one in together(calls + calls) if isinstance(one, Exception)]
    assert today() == (300, 0)


def test_two_suppliers_crosswise_do_not_wait_for_each_other_for_ever(carla: User):
    keys = [uuid4() for _ in range(40)]
    for number, key in enumerate(keys):
        supplier = "openai" if number % 2 else "anthropic"
        metering.reserve(carla.pk, key, amount_micros=1, supplier_holds=[SupplierHold(supplier, 10, 10**6)])
    calls = [
        lambda k=key, s="anthropic" if number % 2 else "openai": settle(k, 7, s) for number, key in enumerate(keys)
    ]
    assert together(calls) == [True] * 40
    assert (today(), today("anthropic")) == ((140, 0), (140, 0))


def reserve_of_three(user: User, *, key: UUID | None = None, anthropic: int = LIMIT) -> UUID:
    """Reserve for work that any of three suppliers may do."""
    holds = [SupplierHold("openai", 100, LIMIT), SupplierHold("gemini", 70, LIMIT)]
    holds.insert(1, SupplierHold("anthropic", 80, anthropic))
    metering.reserve(user.pk, key := key or uuid4(), amount_micros=100, supplier_holds=holds)
    return key


def held() -> dict[str, int]:
    return {supplier: today(supplier)[1] for supplier in ("openai", "anthropic", "gemini")}


def test_every_supplier_that_may_do_the_work_is_held_until_it_ends(carla: User):
    settled, released = reserve_of_three(carla), reserve_of_three(carla)
    assert held() == {"openai": 200, "anthropic": 160, "gemini": 140}
    settle(settled, 30, "gemini")
    assert held() == {"openai": 100, "anthropic": 80, "gemini": 70}
    metering.release(released)
    assert held() == {"openai": 0, "anthropic": 0, "gemini": 0}
    assert (today(), today("gemini")) == ((0, 0), (30, 0))
    reserve_of_three(carla, key=released)
    assert held() == {"openai": 100, "anthropic": 80, "gemini": 70}


def test_one_supplier_at_its_limit_refuses_and_nothing_of_the_others_is_held(carla: User):
    with pytest.raises(SpendLimitReached):
        reserve_of_three(carla, anthropic=0)
    assert held() == {"openai": 0, "anthropic": 0, "gemini": 0}
    assert not Reservation.objects.exists()


def test_holding_three_days_and_settling_in_another_at_once_waits_for_nobody_for_ever(carla: User):
    keys = [reserve_of_three(carla, anthropic=10**6) for _ in range(5)]
    suppliers = ("gemini", "openai", "anthropic")
    calls = [lambda k=key, s=suppliers[n % 3]: settle(k, 1, s) for n, key in enumerate(keys)]
    calls += [lambda: reserve_of_three(carla, anthropic=10**6) for _ in range(4)]
    done = together(calls)
    assert not [one for one in done if isinstance(one, Exception)]
    assert held() == {"openai": 400, "anthropic": 320, "gemini": 280}


def test_what_is_taken_for_requests_without_an_answer_counts_once_and_nobody_pays_it(carla: User):
    key = reserve_of_three(carla)
    unpaid = [UnpaidRequest("openai", "m", 5), UnpaidRequest("openai", "m", 6), UnpaidRequest("gemini", "n", 7)]
    told = {"usage": Usage(1, 1), "label": "m", "supplier": "openai", "unpaid": unpaid}
    assert metering.settle(key, cost_micros=9, spent_micros=4, **told)
    assert not metering.settle(key, cost_micros=9, spent_micros=4, **told)
    assert not metering.release(key)
    assert (today(), today("anthropic"), today("gemini")) == ((15, 0), (0, 0), (7, 0))
    assert UsagePeriod.objects.get().used_micros == 9
    assert SpendingEntry.objects.count() == 3


def test_what_nobody_pays_is_given_back_and_its_requests_count_once(carla: User):
    unpaid = [UnpaidRequest("openai", "m", 5), UnpaidRequest("anthropic", "n", 7)]
    key, lost = reserve_of_three(carla), reserve_of_three(carla)
    metering.release(lost)  # nobody knew of the work
    for _ in range(3):
        together([lambda: metering.release(key, unpaid), lambda: metering.release(lost, unpaid)] * 2)
    assert (today(), today("anthropic"), today("gemini")) == ((10, 0), (14, 0), (0, 0))
    assert (UsagePeriod.objects.get().used_micros, BillingAccount.objects.get().holds) == (0, 0)
    assert set(Reservation.objects.values_list("state", flat=True)) == {Reservation.State.RELEASED}


def own_work(limit: int | None = LIMIT, most: int = 40) -> OwnWork:
    return spending.begin_own_work(SupplierHold("openai", most, limit), "titles")


@pytest.mark.parametrize("limit", [LIMIT, None])
def test_our_own_work_is_held_and_counted_once(limit: int | None):
    work = own_work(limit)
    assert today() == (0, 40)
    done = together([lambda: spending.end_own_work(work, spent_micros=30) for _ in range(4)])
    assert sorted(done) == [False, False, False, True]
    assert today() == (30, 0)


def test_our_own_work_is_refused_at_the_limit(carla: User):
    settle(reserve(carla), LIMIT)
    with pytest.raises(SpendLimitReached):
        own_work()
    assert not SpendingEntry.objects.exists()
    own_work(None)


def test_our_own_work_that_nobody_ended_counts_as_the_most_it_could_cost():
    work = own_work()
    spending.end_forgotten_work(older_than=dt.timedelta(seconds=60))
    assert today() == (0, 40)
    SpendingEntry.objects.update(created_at=F("created_at") - dt.timedelta(seconds=61))
    for _ in range(2):
        spending.end_forgotten_work(older_than=dt.timedelta(seconds=60))
    assert not spending.end_own_work(work, spent_micros=30)
    assert today() == (40, 0)


def test_a_counter_that_is_wrong_is_unbalanced(carla: User):
    settle(reserve(carla), 10)
    Spending.objects.update(used_micros=11)
    assert spending.list_unbalanced_days().count() == 1
    Spending.objects.update(used_micros=10)


steps = st.lists(
    st.tuples(st.sampled_from(["reserve", "settle", "release"]), st.integers(0, 4), st.integers(0, 400)), max_size=25
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(steps)
def test_any_order_of_calls_keeps_the_day_true(catalog: None, steps: list[tuple[str, int, int]]):
    UsageRecord.objects.all().delete()
    SpendingEntry.objects.all().delete()
    Reservation.objects.all().delete()
    UsagePeriod.objects.all().delete()
    Spending.objects.all().delete()
    spending._ids.forget()
    user = User.objects.get(email="carla@example.com")
    keys = [uuid4() for _ in range(5)]
    for what, which, amount in steps:
        if what == "reserve":
            before = sum(today())
            try:
                reserve(user, amount, key=keys[which])
            except SpendLimitReached:
                assert before >= LIMIT
        elif what == "settle":
            settle(keys[which], amount, ("openai", "anthropic")[amount % 2])
        else:
            metering.release(keys[which])
        assert not spending.list_unbalanced_days().exists()
