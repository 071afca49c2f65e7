"""Generated lives of an account, against a model of a few lines that knows nothing of the program: what can be used at
each moment, and that no credit is lost and none given twice.

The model counts in days. It has the purchases, upgrades, payments, cancellations and uses of a life, and works out
from nothing but these which plan holds, what its month gives, and what is left of it.
"""

import datetime as dt
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from accounts.models import User
from billing import metering
from billing.entitlements import account_of, budget_of, entitlements_of
from billing.errors import AllowanceUsedUp
from billing.metering import Usage
from billing.models import Price, UsagePeriod
from billing.subscriptions import apply
from tests.billing.fake_gateway import bought, change, change_now, change_payment, paid_until, renew, state

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]

BIRTH = dt.datetime(2027, 1, 30, 12, tzinfo=dt.UTC)
GIVES = {"free": 500_000, "premium": 20_000_000, "enterprise": 100_000_000}
DAYS = 100


def day(number: int) -> dt.datetime:
    return BIRTH + dt.timedelta(days=number)


def month_starts(first: int) -> list[int]:
    """Return on which days the months begin that are counted from this one, on the last day of a shorter month."""
    begin, starts = day(first), []
    for ahead in range(5):
        year, month = divmod(begin.month - 1 + ahead, 12)
        for wanted in (begin.day, 30, 29, 28):
            try:
                moment = begin.replace(year=begin.year + year, month=month + 1, day=wanted)
            except ValueError:
                continue
            if wanted <= begin.day:
                starts.append((moment - BIRTH).days)
                break
    return starts


@dataclass
class Bought:
    """A subscription: on which days its months begin, which of them are paid, on which day it grew, which are over."""

    starts: list[int]
    paid: int = 1
    plan: str = "premium"
    grown: int | None = None
    is_cancelled: bool = False
    ended: int | None = None
    used: dict[int, int] = field(default_factory=dict)

    def end(self) -> int:
        """Return the day on which access ends."""
        paid_until = self.starts[self.paid]
        return self.ended if self.ended is not None else paid_until + (0 if self.is_cancelled else 7)

    def month(self, today: int) -> int:
        return max(number for number, start in enumerate(self.starts) if start <= today)

    def gives(self, today: int) -> int:
        """Return what the month gives that today is in."""
        number = self.month(today)
        start, full = self.starts[number], self.starts[number + 1]
        if number >= self.paid:
            return GIVES[self.plan] * (self.end() - start) // (full - start)
        if self.grown is None or not start <= self.grown < full:
            return GIVES[self.plan]
        more = GIVES["enterprise"] - GIVES["premium"]
        return GIVES["premium"] + more * (full - self.grown) // (full - start)


@dataclass
class Life:
    """An account: its subscriptions, and what it used of the calendar months that everybody has."""

    bought: list[Bought] = field(default_factory=list)
    used_free: dict[tuple[int, int], int] = field(default_factory=dict)

    def holds(self, today: int) -> Bought | None:
        return next((one for one in self.bought if one.starts[0] <= today < one.end()), None)

    def plan(self, today: int) -> str:
        found = self.holds(today)
        return found.plan if found else "free"

    def left(self, today: int) -> int:
        if found := self.holds(today):
            return found.gives(today) - found.used.get(found.month(today), 0)
        moment = day(today)
        return GIVES["free"] - self.used_free.get((moment.year, moment.month), 0)

    def use(self, today: int, micros: int) -> None:
        if found := self.holds(today):
            number = found.month(today)
            found.used[number] = found.used.get(number, 0) + micros
        else:
            key = (day(today).year, day(today).month)
            self.used_free[key] = self.used_free.get(key, 0) + micros


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["buy", "pay", "pay", "grow", "cancel", "refund", "use", "use", "use", "again", "look"]),
        st.integers(1, 9),  # days that pass before it
        st.sampled_from([1, 499_999, 500_000, 3_000_000, 20_000_000, 90_000_000]),
    ),
    min_size=8,
    max_size=20,
)


@settings(
    max_examples=40,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS)
def test_in_any_life_no_credit_is_lost_and_none_given_twice(prices: Any, at: Any, steps: list[tuple[str, int, int]]):
    user, life, today, name = User.objects.create_user(f"{uuid4()}@example.com"), Life(), 0, ""
    for what, days, micros in steps:
        today += days
        if today >= DAYS:
            break
        at(day(today))
        current = life.bought[-1] if life.bought else None
        holds = life.holds(today)
        if what == "buy" and holds is None:
            name = str(uuid4())
            life.bought.append(Bought(month_starts(today)))
            apply(bought(user, prices["premium-month"], name, at=day(today)))
        elif what == "pay" and holds and not holds.is_cancelled and today >= holds.starts[holds.paid]:
            renew(name)
            apply(change(name))
            holds.paid += 1
        elif what == "grow" and holds and holds.plan == "premium" and today < holds.starts[holds.paid]:
            change_now(name, prices["enterprise-month"].reference, at=day(today))
            apply(change(name))
            holds.plan, holds.grown = "enterprise", today
        elif what == "cancel" and holds and not holds.is_cancelled and today < holds.starts[holds.paid]:
            apply(change(name, cancels_at=paid_until(name)))
            holds.is_cancelled = True
        elif what == "refund" and holds and today < holds.starts[holds.paid]:
            last = [one for one in state.snapshots[name].payments if not one.is_proration][-1]
            apply(change_payment(last.reference, refunded_minor=last.amount_minor))
            apply(change(name, status="ended"))
            holds.ended = today
        elif what == "use":
            could = use(user, micros)
            assert could == (micros <= life.left(today))
            if could:
                life.use(today, micros)
        elif what == "again" and current:
            apply(change(name))
        assert entitlements_of(user.pk).plan == life.plan(today)
        assert budget_of(user.pk).left_micros == life.left(today)
    assert not metering.list_unbalanced_periods().exists()
    assert not metering.list_unbalanced_accounts().exists()
    assert_used_is_all_there(user, life)


def use(user: User, micros: int) -> bool:
    key = uuid4()
    try:
        metering.reserve(user.pk, key, amount_micros=micros)
    except AllowanceUsedUp:
        return False
    return metering.settle(key, cost_micros=micros, usage=Usage(1, 1), label="scripted")


def assert_used_is_all_there(user: User, life: Life) -> None:
    used = sum(period.used_micros for period in UsagePeriod.objects.filter(account=account_of(user.pk)))
    in_model = sum(sum(one.used.values()) for one in life.bought) + sum(life.used_free.values())
    assert used == in_model


PRICE_STEPS = st.lists(st.tuples(st.sampled_from(["buy", "refund", "use"]), st.integers(1, 6)), max_size=12)


@settings(
    max_examples=15,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=PRICE_STEPS)
def test_packs_are_used_one_by_one_after_the_allowance(prices: Any, at: Any, steps: list[tuple[str, int]]):
    """Each piece of work is paid by one row: the month if it has room, else the pack that expires first and has."""
    user, price = User.objects.create_user(f"{uuid4()}@example.com"), prices["pack-5000"]
    assert isinstance(price, Price)
    rows, packs, first = [GIVES["free"]], list[str](), BIRTH.replace(day=1)
    at(first)
    for number, (what, amount) in enumerate(steps):
        moment = first + dt.timedelta(hours=number)
        at(moment)
        if what == "buy":
            packs.append(str(uuid4()))
            rows.append(5_000_000)
            apply(bought(user, price, packs[-1], at=moment))
        elif what == "refund" and packs:
            which = amount % len(packs)
            apply(change_payment(f"{packs[which]}-p1", refunded_minor=price.amount_minor))
            rows[which + 1] = 0
        elif what == "use":
            micros = amount * 700_000
            payer = next((row for row, left in enumerate(rows) if left >= micros), None)
            assert use(user, micros) == (payer is not None)
            if payer is not None:
                rows[payer] -= micros
        assert budget_of(user.pk).left_micros == max(rows)
