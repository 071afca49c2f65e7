"""The ledger under many threads of two processes, on PostgreSQL: its invariants hold, and how fast it is."""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.db import connection
from django.db.models import F, Sum

from accounts.models import User
from billing import metering
from billing.entitlements import period_of
from billing.models import BillingAccount, Plan, Reservation, UsagePeriod, UsageRecord
from tests.services import STORES

SOAK = os.environ.get("SOAK") == "1"
OPERATIONS = 10_000 if SOAK else 400
SEED = int(os.environ.get("SEED", 14))
THREADS, PROCESSES = 64 if SOAK else 16, 2  # each has a connection: in a run of all tests, others have theirs


@pytest.mark.soak
@pytest.mark.stores
@pytest.mark.skipif(STORES not in ("postgresql", "production"), reason="SQLite has one writer at a time")
@pytest.mark.django_db(transaction=True, databases=["default", "history"])
def test_threads_of_two_processes_keep_the_ledger(catalog: None) -> None:
    plan = Plan.objects.create(key="load", name="Load", rank=5, credits_per_month=OPERATIONS // 4, turns_at_once=40)
    users = [User.objects.create_user(f"load{number}@example.com").pk for number in range(5)]
    for user in users:
        BillingAccount.objects.create(user_id=user, plan=plan)
        period_of(user)
    did = work(users)
    total = {name: sum(result[name] for result in did) for name in did[0]}
    assert Reservation.objects.count() == total["reserved"]
    costs = UsageRecord.objects.values_list("cost_micros", flat=True)
    assert (len(costs), sum(costs)) == (total["settled"], total["settled_micros"])
    assert not metering.list_unbalanced_periods().exists()
    assert not metering.list_unbalanced_accounts().exists()
    rows = UsagePeriod.objects.aggregate(all=Sum(F("used_micros") + F("reserved_micros")), has=Sum("allowance_micros"))
    assert rows["all"] <= rows["has"] + total["late_micros"]
    assert total["refused"] > 0
    seconds = max(result["seconds"] for result in did)
    print(
        f"{total['operations']:,} operations from {THREADS} threads in {PROCESSES} processes: "
        f"{total['operations'] / seconds:,.0f} a second; {total['refused']:,} were refused; SEED={SEED}"
    )


def work(users: list[int]) -> list[dict[str, int]]:
    """Let the processes work at the same time; return what each did."""
    address = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{connection.settings_dict['NAME']}").geturl()
    threads = THREADS // PROCESSES
    environment = {**os.environ, "DATABASE_URL": address, "DATABASE_POOL": str(threads)}
    command = [sys.executable, "-m", "tests.billing.ledger_load"]
    children = [
        subprocess.Popen(
            command,
            cwd=Path(__file__).resolve().parents[2],
            env={**environment, "DJANGO_SETTINGS_MODULE": "config.settings_test"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    for number, child in enumerate(children):
        asked = {
            "users": users,
            "threads": threads,
            "operations": OPERATIONS // PROCESSES,
            "seed": SEED + 1_000 * number,
        }
        assert child.stdin is not None
        child.stdin.write(json.dumps(asked) + "\n")
        child.stdin.flush()
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    answers = []
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        out, _errors = child.communicate(timeout=280)
        answers.append(json.loads(out))
    return answers
