"""Workers that are killed with SIGKILL while they handle what was bought, cancelled, refunded and bought twice."""

import datetime as dt
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings as site_settings
from django.db import connection
from django.utils import timezone

from accounts.models import User
from billing import reconciliation
from billing.models import GatewayEvent, GatewayTask
from tests.billing import mercadopago, stripe_site
from tests.billing.chaos import Clock, Deaths, Site, World
from tests.services import STORES

SOAK = os.environ.get("SOAK") == "1"
LIVES = int(os.environ.get("LIVES", 10))
SEED = int(os.environ.get("SEED", 14))


class RealClock(Clock):
    """The machine's."""

    def now(self) -> dt.datetime:
        return timezone.now()


class RealWorld(World):
    """A world that waits for its gateways."""

    def _pass(self, duration: dt.timedelta) -> None:
        time.sleep(min(duration.total_seconds(), 6))
        for site in self.sites.values():
            site.post("/_control/clock", {"forward": 0})


@pytest.mark.timeout(3_600)
@pytest.mark.soak
@pytest.mark.skipif(not SOAK or STORES not in ("postgresql", "production"), reason="make soak, on PostgreSQL")
@pytest.mark.django_db(transaction=True, databases=["default", "history"])
@pytest.mark.parametrize("gateway", ["stripe", "mercadopago"])
def test_whatever_killed_workers_leave_is_done_once(
    gateway: str, sites: dict[str, Site], olga: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance, deaths, kills = random.Random(SEED), Deaths(monkeypatch), 0
    with workers(site_settings) as pool:
        for _ in range(LIVES):
            world = RealWorld(sites, RealClock(), deaths, operator=olga)
            assert world.open_checkout(gateway, "premium", "month")
            world.pay_tab(0)
            if chance.random() < 0.5:
                world.open_unguarded_checkout(gateway, "enterprise", "month")
                world.pay_tab(0)
            act_somehow(world, gateway, chance)
            world.deliver(gateway, chance.choice(["all", "backwards", "twice", "half"]))
            kills += work_until_done(pool, chance)
            act_somehow(world, gateway, chance)
            kills += work_until_done(pool, chance)
            settle()
            world.judge()
    print(f"{LIVES} lives at {gateway}, {kills} workers killed, SEED={SEED}: each ends as the oracle says")
    assert kills > LIVES


def act_somehow(world: World, gateway: str, chance: random.Random) -> None:
    act = chance.choice(["cancel", "upgrade", "refund", "part", "nothing"])
    if act == "cancel":
        world.cancel()
    elif act == "upgrade":
        world.change("enterprise", "month")
    elif act in ("refund", "part"):
        world.refund(0, 100 if act == "refund" else 30, at_the_gateway=chance.random() < 0.5)


@contextmanager
def workers(settings: Any) -> Iterator["subprocess.Popen[str]"]:
    """Give a process that forks a worker for each line it is sent."""
    address = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{connection.settings_dict['NAME']}").geturl()
    environment = {
        "DATABASE_URL": address,
        "DJANGO_SETTINGS_MODULE": "config.settings_test",
        "STRIPE_SECRET_KEY": stripe_site.SETTINGS["STRIPE_SECRET_KEY"],
        "SIMULATED_STRIPE_URL": settings.SIMULATED_STRIPE_URL,
        "MERCADOPAGO_ACCESS_TOKEN": mercadopago.SETTINGS["MERCADOPAGO_ACCESS_TOKEN"],
        "MERCADOPAGO_COUNTRY": "AR",
        "MERCADOPAGO_MODE": "test",
        "SIMULATED_MERCADOPAGO_URL": settings.SIMULATED_MERCADOPAGO_URL,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tests.billing.money_worker"],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as pool:
        assert _read(pool) == "ready"
        yield pool
        assert pool.stdin is not None
        pool.stdin.close()


def work_until_done(pool: "subprocess.Popen[str]", chance: random.Random) -> int:
    """Let workers work, and kill each at some moment, until one comes to its end; return how many were killed."""
    assert pool.stdin is not None
    for kills in range(8):
        pool.stdin.write(f"{chance.uniform(0, 0.8):.3f}\n" if kills < 7 else "\n")
        pool.stdin.flush()
        answer = _read(pool)
        assert answer in ("killed", "ended")
        for model in (GatewayEvent, GatewayTask):  # a minute later it is anybody's
            model.objects.filter(done_at=None).update(due_at=timezone.now())
        if answer == "ended":
            break
    return kills


def _read(pool: "subprocess.Popen[str]") -> str:
    assert pool.stdout is not None
    return pool.stdout.readline().strip()


def settle() -> None:
    for _ in range(5):
        reconciliation.work_off()
        reconciliation.reconcile()
        for model in (GatewayEvent, GatewayTask):
            model.objects.filter(done_at=None).update(due_at=timezone.now())
    assert not GatewayEvent.objects.filter(done_at=None).exists()
    assert not GatewayTask.objects.filter(done_at=None).exists()
