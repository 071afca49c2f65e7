"""Generated histories: whatever people, banks, networks and machines do, what somebody has in the end is what the
oracle says. `make soak` tries a thousand for each gateway (SEED=, HISTORIES=)."""

import copy
import datetime as dt
import os
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from accounts.models import User
from billing import reconciliation
from billing.models import Plan
from tests.billing.chaos import Clock, Deaths, Site, World, standing_clock

SOAK = os.environ.get("SOAK") == "1"
HISTORIES = int(os.environ.get("HISTORIES", 1000 if SOAK else 5))
SEED = int(os.environ.get("SEED", 14))

BIRTHS = [dt.datetime(2027, month, day, 12, tzinfo=dt.UTC) for month, day in ((1, 31), (2, 28), (3, 15))]
TIMES = [
    dt.timedelta(hours=1),
    dt.timedelta(hours=5),
    dt.timedelta(days=2),
    dt.timedelta(days=9),
    dt.timedelta(days=20),
]
PLANS, INTERVALS = st.sampled_from(["premium", "enterprise"]), st.sampled_from(["month", "month", "year"])
GATEWAYS = ["stripe", "mercadopago"]
HOW = st.sampled_from(["ok"] * 6 + ["later", "stopped"])
TRIAL_DAYS = 7
DEATHS = st.one_of(st.none(), st.integers(0, 120))


class Lives(RuleBasedStateMachine):
    """One history. Most is bought at `main`."""

    main: str
    sites: dict[str, Site]
    empty: dict[str, Any]
    clock: Clock
    deaths: Deaths
    operator: User
    met: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        for name, site in self.sites.items():
            site.server.state = copy.deepcopy(self.empty[name])
            site.server._faults.clear()
        self.world = World(self.sites, self.clock, self.deaths, operator=self.operator)

    @initialize(birth=st.sampled_from(BIRTHS), plan=PLANS, interval=INTERVALS, how=HOW, is_confirmed=st.booleans())
    def begin(self, birth: dt.datetime, plan: str, interval: str, how: str, is_confirmed: bool) -> None:
        self.world.begin(birth)
        if is_confirmed:
            self.world.confirm_address()
        if self.world.open_checkout(self.main, plan, interval):
            self.world.pay_tab(0, how)

    # --- Somebody

    @rule(plan=PLANS, interval=INTERVALS, death=DEATHS)
    def open_checkout(self, plan: str, interval: str, death: int | None) -> None:
        with self.deaths.after(death):
            self.world.open_checkout(self.main, plan, interval)

    @rule(plan=PLANS)
    def open_second_tab(self, plan: str) -> None:
        self.world.open_unguarded_checkout(self.main, plan, "month")

    @rule(plan=PLANS, gateway=st.sampled_from(GATEWAYS))
    def change_gateway(self, plan: str, gateway: str) -> None:
        self.world.open_checkout(gateway, plan, "month", replaces=True)

    @rule(plan=PLANS, replaces=st.booleans(), death=DEATHS)
    def prepay(self, plan: str, replaces: bool, death: int | None) -> None:
        """Of the two gateways, one sells that."""
        with self.deaths.after(death):
            self.world.open_checkout("mercadopago", plan, "month", kind="prepaid", replaces=replaces)

    @rule(gateway=st.sampled_from(GATEWAYS), pack_credits=st.sampled_from([5_000, 20_000]), how=HOW, death=DEATHS)
    def buy_pack(self, gateway: str, pack_credits: int, how: str, death: int | None) -> None:
        is_open = False
        with self.deaths.after(death):
            is_open = self.world.open_pack(gateway, pack_credits)
        if is_open:
            self.world.pay_tab(-1, how)

    @rule(number=st.integers(0, 3), how=HOW)
    def pay(self, number: int, how: str) -> None:
        if self.world.tabs:  # no precondition: what is drawn must not hang on how fast a gateway answered
            self.world.pay_tab(number % len(self.world.tabs), how)

    @rule()
    def pay_vouchers(self) -> None:
        self.world.pay_vouchers()

    @rule(death=DEATHS)
    def come_back(self, death: int | None) -> None:
        with self.deaths.after(death):
            self.world.come_back()

    @rule(plan=PLANS, interval=INTERVALS, death=DEATHS)
    def change(self, plan: str, interval: str, death: int | None) -> None:
        with self.deaths.after(death):
            self.world.change(plan, interval)

    @rule(death=DEATHS)
    def cancel(self, death: int | None) -> None:
        with self.deaths.after(death):
            self.world.cancel()

    @rule(death=DEATHS)
    def resume(self, death: int | None) -> None:
        with self.deaths.after(death):
            self.world.resume()

    @rule(micros=st.sampled_from([1, 400_000, 3_000_000, 19_000_000, 70_000_000]))
    def use(self, micros: int) -> None:
        self.world.use(micros)

    # --- Banks and operators

    @rule(outcome=st.sampled_from(["ok", "decline", "decline", "confirm"]))
    def set_card(self, outcome: str) -> None:
        self.world.set_card(outcome)

    @rule()
    def pay_what_is_due(self) -> None:
        self.world.pay_what_is_due()

    @rule(number=st.integers(-3, 2), share=st.sampled_from([30, 100]), there=st.booleans(), death=DEATHS)
    def refund(self, number: int, share: int, there: bool, death: int | None) -> None:
        with self.deaths.after(death):
            self.world.refund(number, share, at_the_gateway=there)

    @rule(plan=st.sampled_from(["", "premium", "enterprise"]), days=st.sampled_from([None, 5, 40]))
    def grant(self, plan: str, days: int | None) -> None:
        self.world.grant(plan, days)

    @rule(number=st.integers(0, 5), result=st.sampled_from(["won", "lost"]))
    def dispute(self, number: int, result: str) -> None:
        self.world.dispute(number, result)

    # --- Gateways, networks, machines

    @rule(time=st.sampled_from(TIMES))
    def wait(self, time: dt.timedelta) -> None:
        self.world.pass_time(time)

    @rule(first=st.sampled_from(["all", "lost", "half"]))
    def wait_for_the_next_month(self, first: str) -> None:
        self.world.deliver(self.main, first)
        self.world.pass_time(dt.timedelta(days=31, hours=2))

    @rule(micros=st.sampled_from([1, 400_000]))
    def wait_for_a_renewal_that_fails(self, micros: int) -> None:
        """And go on asking in the month that is not paid yet."""
        self.world.set_card("decline")
        self.world.pass_time(dt.timedelta(days=31, hours=2))
        reconciliation.work_off()
        self.world.use(micros)
        self.world.set_card("ok")

    @rule(seconds=st.sampled_from([-30, 0, 30]))
    def set_own_clock(self, seconds: int) -> None:
        self.clock.ahead = dt.timedelta(seconds=seconds)

    @rule(gateway=st.sampled_from(GATEWAYS), how=st.sampled_from(["all", "backwards", "twice", "half", "lost"]))
    def tell(self, gateway: str, how: str) -> None:
        self.world.deliver(gateway, how)

    @rule(gateway=st.sampled_from(GATEWAYS))
    def forge(self, gateway: str) -> None:
        self.world.forge(gateway)

    @rule(
        gateway=st.sampled_from(GATEWAYS),
        kind=st.sampled_from(["html", "cut", "lost"]),
        times=st.integers(1, 4),
        path=st.integers(0, 3),
    )
    def fail(self, gateway: str, kind: str, times: int, path: int) -> None:
        self.world.sites[gateway].fail(kind, times, path)

    @rule(death=DEATHS)
    def work(self, death: int | None) -> None:
        with self.deaths.after(death):
            reconciliation.work_off()

    @rule(death=DEATHS)
    def ask(self, death: int | None) -> None:
        with self.deaths.after(death):
            reconciliation.ask_about_expected()

    @rule(death=DEATHS)
    def reconcile(self, death: int | None) -> None:
        with self.deaths.after(death):
            reconciliation.reconcile()

    def teardown(self) -> None:
        self.world.settle()
        self.world.judge()
        self.met.update(self.world.sights())


@pytest.mark.timeout(36_000)
@pytest.mark.soak
@pytest.mark.stores
@pytest.mark.parametrize("main", GATEWAYS)
def test_in_any_history_somebody_has_what_they_paid_for(
    main: str, sites: dict[str, Site], olga: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    premium = Plan.objects.get(key="premium")
    premium.trial_days = TRIAL_DAYS
    premium.save()
    with standing_clock(monkeypatch) as clock:
        found = {"main": main, "sites": sites, "clock": clock, "deaths": Deaths(monkeypatch), "operator": olga}
        found["met"] = Counter()
        found["empty"] = {name: copy.deepcopy(site.server.state) for name, site in sites.items()}
        machine = seed(SEED)(type("Lives", (Lives,), found))
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=HISTORIES,
                stateful_step_count=25,
                deadline=None,
                database=None,
                phases=[Phase.explicit, Phase.generate, Phase.shrink] if SOAK else [Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
                print_blob=False,
                report_multiple_bugs=False,
            ),
        )
    met = ", ".join(f"{times} {what}" for what, times in sorted(machine.met.items()))
    print(f"{HISTORIES} histories of {main}, SEED={SEED}: each ends as the oracle says. There were {met}.")
