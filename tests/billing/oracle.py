"""What somebody must have, worked out from what people, banks and gateways did: a model that knows neither the program
nor the simulated gateways, and no time but the one it is asked about.

A contract is something that was bought at a gateway. A charge is money that a bank gave for it. What they are worth is
the policy: a month that is paid gives its plan, one that is not gives seven days while it is still to be charged for;
money that went back gives nothing, and while a bank disputes some, nothing is given. One trial gives credits of its
own. A grant and what is paid are not added: the higher plan holds. Packs follow their own money.
"""

import calendar
import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

GRACE = dt.timedelta(days=7)
GIVES = {"free": 500_000, "premium": 20_000_000, "enterprise": 100_000_000}
TRIAL_GIVES = 1_000_000
PACK_MONTHS = 12
RANKS = ["free", "premium", "enterprise"]
MICROSECOND = dt.timedelta(microseconds=1)


@dataclass(frozen=True)
class Charge:
    """Money for the months from `due` on, or, of an upgrade, for what is left of the time that `due` is in.

    `refunded_by` is who gave all of it back: nobody, "operator", or "site" by itself. `is_credited`: no money was taken
    for it, but the rest of another charge.
    """

    name: str
    at: dt.datetime
    due: dt.datetime
    plan: str
    months: int
    is_upgrade: bool = False
    is_credited: bool = False
    refunded_by: str = ""
    dispute: str = ""

    @property
    def counts(self) -> bool:
        return not self.refunded_by and self.dispute != "lost"


@dataclass(frozen=True)
class Contract:
    """`renews`: the gateway will charge again; `plan` is what for. `counts_from_payment`: its months begin when the
    first one was paid, not when it was due. `is_cancelled`: who bought it wanted that. `was_declined`: the gateway may
    have given up. `trial_until`: it began with a trial, of the plan `tried`; `is_alive`: which the gateway has not
    ended.
    """

    name: str
    plan: str
    renews: bool
    charges: tuple[Charge, ...]
    counts_from_payment: bool = False
    is_cancelled: bool = False
    was_declined: bool = False
    trial_until: dt.datetime | None = None
    tried: str = ""
    is_alive: bool = False

    @property
    def is_given_back(self) -> bool:
        return any(charge.refunded_by == "site" for charge in self.charges)

    @property
    def was_tried(self) -> bool:
        """Whether its trial was let go on, to its end also when who tries it wants no more."""
        was_ended = self.is_cancelled or self.was_declined
        return self.trial_until is not None and (self.is_alive or was_ended or bool(self.charges))


@dataclass(frozen=True)
class Pack:
    """Credits that were paid beside a plan."""

    name: str
    at: dt.datetime
    micros: int
    refunded_by: str = ""
    dispute: str = ""

    @property
    def until(self) -> dt.datetime:
        return months_on(self.at, PACK_MONTHS)


@dataclass(frozen=True)
class Grant:
    """A plan that an operator gave, `until` then or without end, unless it was `replaced` before."""

    plan: str
    at: dt.datetime
    until: dt.datetime | None
    replaced: dt.datetime | None = None

    def holds(self, now: dt.datetime) -> bool:
        return self.at <= now and all(end is None or now < end for end in (self.until, self.replaced))


@dataclass
class History:
    contracts: list[Contract] = field(default_factory=list)
    packs: list[Pack] = field(default_factory=list)
    grants: list[Grant] = field(default_factory=list)


@dataclass(frozen=True)
class Given:
    """What somebody has: `until` None without an end; `start` None where it is when the site heard of it. The allowance
    is between `low` and `high`: what is taken back of an upgrade depends on when it was heard of, and is known exactly
    where nothing was."""

    plan: str
    until: dt.datetime | None
    start: dt.datetime | None
    low: int
    high: int


@dataclass(frozen=True)
class Paid:
    """A charge with the time it pays for."""

    charge: Charge
    start: dt.datetime
    end: dt.datetime
    anchor: dt.datetime


def months_on(moment: dt.datetime, months: int) -> dt.datetime:
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    return moment.replace(year=year, month=month + 1, day=min(moment.day, calendar.monthrange(year, month + 1)[1]))


def given_at(now: dt.datetime, history: History) -> Given:
    """Return the highest plan of what is paid, or else in grace, and what was granted; the paid one of equals, but
    not its grace."""
    found = [given for contract in history.contracts if (given := given_by(contract, now))]
    is_grace = all(is_grace for _given, is_grace in found)
    held = [(given, not is_grace) for given, is_its_grace in found if is_its_grace == is_grace]
    start = _calendar_month(now)
    for grant in history.grants:
        if grant.holds(now):
            most = max(GIVES[one.plan] for one in history.grants if start in _calendar_months(one, now))
            held.append((Given(grant.plan, grant.until, start, GIVES[grant.plan], most), not held or is_grace))
    if held:
        return max(held, key=lambda one: (RANKS.index(one[0].plan), one[1]))[0]
    return Given("free", None, start, GIVES["free"], GIVES["free"])


def packs_at(now: dt.datetime, history: History) -> dict[dt.datetime, tuple[int, dt.datetime]]:
    """Return what of packs can be used, by when they were paid: how much each has, and until when."""
    return {
        pack.at: (pack.micros, pack.until)
        for pack in history.packs
        if pack.at <= now < pack.until and not pack.refunded_by and pack.dispute not in ("open", "lost")
    }


def which_pays(left: Sequence[int], micros: int) -> int | None:
    """Return which of several rows pays, of the plan first and then of packs as they expire: the first that has it
    all."""
    return next((place for place, has in enumerate(left) if has >= micros), None)


def given_by(contract: Contract, now: dt.datetime) -> tuple[Given, bool] | None:
    """Return what a contract gives, and whether that is its grace."""
    disputes = {charge.dispute for charge in contract.charges}
    if contract.is_given_back or disputes & {"open", "lost"}:
        return None
    everything = _paid_times(contract, contract.charges)
    counting = _counting(everything)
    regular = [one for one in counting if not one.charge.is_upgrade]
    if not contract.charges and contract.was_tried and contract.trial_until and now < contract.trial_until:
        return Given(contract.tried, contract.trial_until, None, TRIAL_GIVES, TRIAL_GIVES), False
    if not regular or now < regular[0].start:
        return None
    last = max(_replaced(regular), key=lambda one: one.end)
    if now < last.end:
        until = last.end + (GRACE if contract.renews and not _was_taken_back(everything, last.end) else GRACE * 0)
        anchor = max((one for one in everything if one.start <= now), key=lambda one: one.start).anchor
        start, end = _month_of(anchor, now)
        low = _granted(counting, start, end)
        return Given(_plan_at(counting, now), until, start, low, max(low, _granted(everything, start, end))), False
    until = last.end + GRACE
    if not contract.renews or now >= until or _was_taken_back(everything, last.end):
        return None
    plan = min(_plan_at(counting, now), contract.plan, key=RANKS.index)
    start, end = _month_of(last.anchor, now)
    low = GIVES[plan] * ((until - start) // MICROSECOND) // ((end - start) // MICROSECOND)
    return Given(plan, until, start, low, low), True


def most_of_months(history: History, now: dt.datetime) -> dict[dt.datetime, int]:
    """Return the most that a month can ever have been given, by its start, for every month that was ever paid for,
    granted or waited for."""
    found: dict[dt.datetime, int] = {}
    for grant in history.grants:
        for start in _calendar_months(grant, now):
            found[start] = max(found.get(start, 0), GIVES[grant.plan])
    for contract in history.contracts:
        paid = _paid_times(contract, contract.charges)
        regular = [one for one in paid if not one.charge.is_upgrade]
        for one in regular:
            for number in range(13):  # the month after the last is the one in grace
                start, end = _month(one.anchor, one.start, number)
                if start < one.end:
                    most = _granted(paid, start, end)
                elif start == one.end:
                    most = GIVES[_plan_at(paid, start)] * GRACE // (end - start)  # an upgrade counts on
                else:
                    break
                found[start] = max(found.get(start, 0), most)
    return found


def complaints_about(history: History, now: dt.datetime) -> list[str]:
    """Return what must not be, whatever somebody has: contracts that were not cancelled, or cancelled unasked; money
    that went back for no reason; two that are charged for at once."""
    found = []
    for contract in history.contracts:
        others = [other for other in history.contracts if other is not contract]
        was_disputed = any(charge.dispute for charge in contract.charges)
        if contract.renews and contract.is_cancelled:
            found.append(f"{contract.name} was cancelled, and renews")
        if contract.renews and any(charge.dispute in ("open", "lost") for charge in contract.charges):
            found.append(f"{contract.name} is disputed, and renews")  # one that is won was maybe never heard of
        was_refunded = any(charge.refunded_by == "operator" for charge in contract.charges)
        is_bought = contract.charges or contract.trial_until
        asked = contract.is_cancelled or was_disputed or was_refunded or contract.was_declined or not is_bought
        if not contract.renews and not asked and not others:
            found.append(f"{contract.name} was cancelled by nobody")
        regular = [charge for charge in contract.charges if not (charge.is_upgrade or charge.is_credited)]
        last = max(regular, key=lambda charge: (charge.due, charge.at), default=None)
        if contract.renews and last is not None and last.refunded_by == "operator":
            found.append(f"{contract.name} was given back for the time that was paid last, and renews")
        if contract.is_given_back and not others:
            found.append(f"{contract.name} was refunded for nothing")
        if contract.is_given_back and contract.renews:
            found.append(f"{contract.name} was refunded, and renews")
        kept = [charge for charge in contract.charges if charge.refunded_by != "site" and not charge.dispute]
        if contract.is_given_back and any(charge.counts for charge in kept):
            found.append(f"{contract.name} was refunded in part")
    found += [f"{pack.name} was refunded for nothing" for pack in history.packs if pack.refunded_by == "site"]
    if len(tried := [one.name for one in history.contracts if one.was_tried]) > 1:
        found.append(f"{tried} had a trial each")
    kept_ones = [one for one in history.contracts if (one.charges or one.trial_until) and not one.is_given_back]
    if any(contract.is_given_back for contract in history.contracts) and not kept_ones:
        found.append("whatever was bought was given back")
    paid_now = [one for one in kept_ones if (given := given_by(one, now)) and not given[1]]
    if len(paid_now) > 1:
        found.append(f"{[one.name for one in paid_now]} are paid at once")
    renewing = [one for one in kept_ones if one.renews]
    if len(renewing) > 1:
        found.append(f"{[one.name for one in renewing]} are charged for at once")
    return found


def _paid_times(contract: Contract, charges: Sequence[Charge]) -> list[Paid]:
    """Return the charges with their times, by which these begin. The months are counted from an anchor: the first
    charge's, and anew when somebody changes between months and years."""
    found: list[Paid] = []
    first: Charge | None = None
    for charge in sorted(charges, key=lambda charge: (charge.due, charge.is_upgrade, charge.at)):
        if charge.is_upgrade:
            base = next((one for one in reversed(found) if not one.charge.is_upgrade and one.start <= charge.due), None)
            if base is not None and charge.due < base.end:
                found.append(Paid(charge, charge.due, base.end, base.anchor))
            continue
        if first is None or charge.months != first.months:
            first, anchor = charge, (charge.at if contract.counts_from_payment else charge.due)
        passed = round((charge.due - first.due).days / 30.4)
        found.append(Paid(charge, months_on(anchor, passed), months_on(anchor, passed + charge.months), anchor))
    return found


def _counting(paid: Sequence[Paid]) -> list[Paid]:
    """Return those that give something: an upgrade does while what it is an upgrade of does, and what was paid with the
    rest of another one while that does."""
    back = [one for one in paid if not one.charge.counts and not one.charge.is_upgrade]
    counting = [
        one
        for one in paid
        if one.charge.counts
        and not (one.charge.is_credited and any(other.start <= one.start < other.end for other in back))
    ]
    regular = [one for one in counting if not one.charge.is_upgrade]
    return [
        one
        for one in counting
        if (not one.charge.is_upgrade or any(base.start <= one.start < base.end for base in regular))
    ]


def _replaced(regular: Sequence[Paid]) -> list[Paid]:
    """Return what was paid, each until something else took its place: the rest of a year is made good in the month that
    replaces it."""
    return [
        replace(one, end=min([one.end, *(other.start for other in regular[n + 1 :])])) for n, one in enumerate(regular)
    ]


def _was_taken_back(everything: Sequence[Paid], until: dt.datetime) -> bool:
    return any(one.end > until and not one.charge.counts for one in everything)


def _plan_at(counting: Sequence[Paid], now: dt.datetime) -> str:
    return [one for one in counting if one.start <= now][-1].charge.plan


def _granted(paid: Sequence[Paid], start: dt.datetime, end: dt.datetime) -> int:
    """Return what a month is given: the plan it begins with, and of each upgrade the share of the time left."""
    plan = _plan_at(paid, start)
    micros = GIVES[plan]
    for one in paid:
        if start < one.start < end and one.charge.is_upgrade:
            left, length = (end - one.start) // MICROSECOND, (end - start) // MICROSECOND
            micros += (GIVES[one.charge.plan] - GIVES[plan]) * left // length
            plan = one.charge.plan
    return micros


def _calendar_month(moment: dt.datetime) -> dt.datetime:
    return moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _calendar_months(grant: Grant, now: dt.datetime) -> list[dt.datetime]:
    """Return the months in which a grant held."""
    found, until = [_calendar_month(grant.at)], min(filter(None, (grant.until, grant.replaced, now)))
    while (after := months_on(found[-1], 1)) < until:
        found.append(after)
    return found


def _month_of(anchor: dt.datetime, now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
    number = 0
    while months_on(anchor, number + 1) <= now:
        number += 1
    return months_on(anchor, number), months_on(anchor, number + 1)


def _month(anchor: dt.datetime, start: dt.datetime, number: int) -> tuple[dt.datetime, dt.datetime]:
    """Return the month that is so many after the one that begins at `start`."""
    first = round((start - anchor).days / 30.4)
    return months_on(anchor, first + number), months_on(anchor, first + number + 1)
