"""A batch of real processes, whose worker is killed again and again: each line is answered once, and the bill is exact.

`SOAK=1` has 10,000 lines; a run of all tests has a hundred.
"""

import asyncio
import json
import os
import random
import time
import urllib.request
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from testbed.provider import expected_text
from tests.fakes.readers import Member
from tests.processes.stores import TestedSite, run_site

LINES = 10_000 if os.environ.get("SOAK") else 100
KILLS = 20 if os.environ.get("SOAK") else 2
SECONDS = 3_000 if os.environ.get("SOAK") else 200
SEED = int(os.environ.get("SEED", "1"))
MODELS = ["fake-3t-0ms", "fake-7t-1ms"]
PLAN = {"turns_per_hour": 10, "turns_at_once": 16, "credits_per_month": None, "has_batches": True}


def call(member: Member, path: str, data: bytes | None = None, **headers: str) -> bytes:
    address = f"http://127.0.0.1:{member.port()}/api/v1/{path}"
    request = urllib.request.Request(address, data, {"Authorization": f"Bearer {member.access}", **headers})
    with urllib.request.urlopen(request, timeout=60) as answer:
        body: bytes = answer.read()
    return body


def as_form(data: bytes, **fields: str) -> tuple[bytes, str]:
    """Return a form with a file, and its content type."""
    boundary = uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="lines.jsonl"\r\n\r\n'
    body = b"".join([*parts, head.encode(), data, f"\r\n--{boundary}--\r\n".encode()])
    return body, f"multipart/form-data; boundary={boundary}"


def lines() -> Iterator[bytes]:
    for number in range(LINES):
        model = MODELS[number % len(MODELS)]
        asked = {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": f"Line {number}"}]}
        one = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": asked}
        yield json.dumps(one).encode() + b"\n"


@pytest.mark.soak
@pytest.mark.timeout(3_600)
async def test_each_line_is_answered_once_and_paid_once_whenever_the_worker_is_killed() -> None:
    with run_site(MODELS, webs=1, runners=2) as site:
        [member] = site.people(1, **PLAN)
        begun = time.monotonic()
        batch, kills = await asyncio.to_thread(run, site, member)
        lasted = time.monotonic() - begun
        await asyncio.to_thread(check, site, member, batch)
        print(f"{LINES} lines in {lasted:.0f} s, worker killed {kills} times, {batch['cost_micros']} micros paid")


def run(site: TestedSite, member: Member) -> tuple[dict[str, Any], int]:
    """Send the batch, and kill the worker at any moment until it has died often enough; return the batch at its end."""
    chance = random.Random(SEED)
    form, kind = as_form(b"".join(lines()), start="true")
    sent = json.loads(call(member, "batches", form, **{"Content-Type": kind}))
    deadline, kills = time.monotonic() + SECONDS, 0
    while True:
        batch: dict[str, Any] = json.loads(call(member, f"batches/{sent['id']}"))
        if batch["finished_at"]:
            return batch, kills
        assert time.monotonic() < deadline, batch
        # Spread over the whole batch, and the first while it is checked or has just begun.
        if kills < KILLS and batch["completed"] >= LINES * kills // KILLS:
            time.sleep(chance.uniform(0, 1))
            site.kill("worker")
            kills += 1
            site.start("worker")
        time.sleep(0.2)


def check(site: TestedSite, member: Member, batch: dict[str, Any]) -> None:
    assert (batch["status"], batch["total"], batch["completed"], batch["failed"]) == ("completed", LINES, LINES, 0)
    results = [json.loads(one) for one in call(member, f"batches/{batch['id']}/results").splitlines()]
    assert [one["custom_id"] for one in results] == [f"line-{number}" for number in range(LINES)]
    for number, one in enumerate(results):
        message = one["response"]["body"]["choices"][0]["message"]
        assert message["content"] == expected_text(MODELS[number % len(MODELS)]), one
        assert one["cost_micros"] == one["response"]["body"]["usage"]["cost_micros"] > 0
    found = site.audit()
    assert len(found["records"]) == LINES
    assert (found["held"], found["unbalanced"]) == (0, [])
    assert found["used"] == sum(found["records"].values()) == batch["cost_micros"]
    assert batch["cost_micros"] == sum(one["cost_micros"] for one in results)
    # A provider is asked once more only where a runner died, and none did.
    assert site.provider.stats().started == LINES
