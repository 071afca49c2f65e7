"""A part of an account, with a limit of its own for each calendar month: as exact as the account's."""

import datetime as dt
from functools import partial
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from accounts.models import User
from billing import metering
from billing.errors import AllowanceUsedUp, PartUsedUp, SpendLimitReached, TooManyAtOnce
from billing.metering import Part, Usage
from billing.models import BillingAccount, PartMonth, Plan, Reservation, UsageRecord
from billing.reconciliation import prove
from billing.spending import SupplierHold
from tests.billing.together import together

pytestmark = [
    pytest.mark.stores,
    pytest.mark.django_db(transaction=True, databases=["default", "history"]),
]

TEN = Part("ten", monthly_credits=10)  # 10,000 micros
NOVEMBER = dt.datetime(2026, 11, 24, 12, tzinfo=dt.UTC)
DECEMBER = dt.datetime(2026, 12, 1, 0, 0, 1, tzinfo=dt.UTC)


@pytest.fixture
def bulk(catalog: None) -> User:
    """A member whose plan has 100 credits, and no other limit."""
    user = User.objects.create_user("bulk@example.com")
    plan = Plan.objects.create(key="bulk", name="Bulk", rank=5, credits_per_month=100)
    BillingAccount.objects.create(user=user, plan=plan)
    return user


def reserve(user: User, amount: int, part: Part | None = TEN, key: UUID | None = None) -> UUID:
    key = key or uuid4()
    assert metering.reserve(user.pk, key, amount_micros=amount, part=part)
    return key


def settle(key: UUID, cost: int) -> bool:
    return metering.settle(key, cost_micros=cost, usage=Usage(input=1, output=1), label="scripted")


def counters(label: str = "ten") -> tuple[int, int]:
    month = PartMonth.objects.get(label=label)
    return month.used_micros, month.reserved_micros


def test_a_part_is_held_used_and_given_back_with_the_account(bulk):
    first, second = reserve(bulk, 4_000), reserve(bulk, 5_000)
    assert counters() == (0, 9_000)
    settle(first, 3_000)
    metering.release(second)
    assert counters() == (3_000, 0)
    assert (settle(first, 3_000), metering.release(second)) == (False, False)
    assert counters() == (3_000, 0)
    assert (metering.used_by_parts(bulk.pk), metering.find_part(first)) == ({"ten": 3_000}, "ten")


def test_more_than_the_part_has_left_is_refused_and_nothing_is_written(bulk):
    settle(reserve(bulk, 4_000), 4_000)
    reserve(bulk, 5_000)
    with pytest.raises(PartUsedUp) as refused:
        reserve(bulk, 1_001)
    assert refused.value.left_micros == 1_000
    assert counters() == (4_000, 5_000)
    assert Reservation.objects.count() == 2
    reserve(bulk, 1_000)
    reserve(bulk, 1_001, Part("other", monthly_credits=2))
    reserve(bulk, 1_001, None)


def test_what_is_refused_elsewhere_takes_nothing_of_the_part(bulk):
    with pytest.raises(AllowanceUsedUp) as refused:
        reserve(bulk, 100_001, Part("ten", monthly_credits=1_000))
    assert not isinstance(refused.value, PartUsedUp)
    held = SupplierHold("acme", 1_000, daily_limit_micros=0)
    with pytest.raises(SpendLimitReached):
        metering.reserve(bulk.pk, uuid4(), amount_micros=1_000, part=TEN, supplier_holds=[held])
    assert counters() == (0, 0)


def test_a_part_without_a_limit_is_counted(bulk):
    settle(reserve(bulk, 90_000, Part("free")), 80_000)
    assert counters("free") == (80_000, 0)


def test_two_accounts_with_the_same_label_are_two(bulk, carla):
    reserve(bulk, 10_000)
    reserve(carla, 10_000)
    assert PartMonth.objects.count() == 2


def test_a_month_is_another_and_what_was_reserved_settles_in_its_own(bulk, monkeypatch):
    monkeypatch.setattr(timezone, "now", lambda: NOVEMBER)
    key = reserve(bulk, 10_000)
    monkeypatch.setattr(timezone, "now", lambda: DECEMBER)
    reserve(bulk, 9_000)
    settle(key, 8_000)
    months = PartMonth.objects.order_by("month").values_list("month", "used_micros", "reserved_micros")
    assert list(months) == [(dt.date(2026, 11, 1), 8_000, 0), (dt.date(2026, 12, 1), 0, 9_000)]


def test_what_is_held_again_asks_for_room(bulk):
    key = reserve(bulk, 6_000)
    metering.release(key)
    reserve(bulk, 6_000)
    with pytest.raises(PartUsedUp):
        reserve(bulk, 6_000, key=key)
    assert counters() == (0, 6_000)
    assert reserve(bulk, 4_000, key=key) == key
    assert counters() == (0, 10_000)


def test_work_that_was_released_is_counted_all_the_same(bulk):
    key = reserve(bulk, 6_000)
    metering.release(key)
    settle(key, 5_000)
    assert counters() == (5_000, 0)


def test_of_forty_at_once_exactly_those_with_room_are_admitted(bulk):
    answers = together([partial(metering.reserve, bulk.pk, uuid4(), amount_micros=1_000, part=TEN) for _ in range(40)])
    assert answers.count(True) == 10
    assert {type(answer) for answer in answers if answer is not True} == {PartUsedUp}
    assert counters() == (0, 10_000)


def test_of_two_at_once_that_each_take_all_one_is_admitted(bulk):
    for _ in range(5):
        keys = [uuid4(), uuid4()]
        answers = together([partial(metering.reserve, bulk.pk, key, amount_micros=10_000, part=TEN) for key in keys])
        assert {type(answer) for answer in answers} == {bool, PartUsedUp}
        assert metering.release(keys[answers.index(True)])


def test_whatever_ends_at_once_is_counted_once(bulk):
    part = Part("many", monthly_credits=90)
    keys = [reserve(bulk, 6_000, part) for _ in range(15)]
    calls = [call for key in keys for call in (partial(settle, key, 5_000), partial(metering.release, key))]
    together([*calls, *(partial(metering.reserve, bulk.pk, key, amount_micros=6_000, part=part) for key in keys)])
    assert UsageRecord.objects.count() == 15
    assert counters("many") == (75_000, 0)
    assert not metering.list_unbalanced_parts().exists()
    assert not metering.list_unbalanced_periods().exists()


def test_a_part_that_counts_wrong_is_found_out(bulk):
    settle(reserve(bulk, 2_000), 1_000)
    reserve(bulk, 2_000)
    assert prove() == 0
    PartMonth.objects.update(used_micros=2_000)
    assert prove() == 1
    PartMonth.objects.update(used_micros=1_000, reserved_micros=0)
    assert prove() == 1


def test_what_is_refused_by_the_account_first_is_no_part_used_up(ana):
    reserve(ana, 1_000)
    with pytest.raises(TooManyAtOnce):
        reserve(ana, 1_000)
