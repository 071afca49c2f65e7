"""Of three providers one stalls, one answers 429 and one works: everybody gets one answer, and pays for that one."""

import asyncio
import os
import time
from collections import Counter
from math import ceil
from typing import Any

import pytest
from redis.asyncio import Redis

from testbed.provider import FakeProvider, expected_text
from tests.fakes.readers import Member, Shown, read_by_socket
from tests.processes.stores import TestedSite, run_site

TURNS = 300 if os.environ.get("SOAK") else 60
SIDE_BY_SIDE = 20
FIRST_TOKEN_SECONDS = 1
OPEN = {"turns_per_hour": None, "turns_at_once": None, "credits_per_month": None}
BROKEN = {"stalling": "fake-40t-5ms-p3-stall0", "refusing": "status-429-retry30", "working": "fake-40t-5ms"}
WELL = BROKEN | {"stalling": "fake-40t-5ms-p3", "refusing": "fake-30t-5ms-p5"}
SERVED_BY = {"stalling": "openai", "refusing": "deepseek", "working": "compatible"}
PRICES = {"stalling": 1_000_000, "refusing": 2_000_000, "working": 3_000_000}
UNUSED = "fake-1t-0ms"
RETIRED = (UNUSED, "gpt-6-luna", "gpt-6.1-terra", "gpt-6.1-sol", "deepseek-flash")


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_of_three_providers_one_is_enough() -> None:
    with FakeProvider() as stalling, FakeProvider() as refusing:
        addresses = {
            "OPENAI_API_KEY": "sk-one",
            "OPENAI_BASE_URL": stalling.url,
            "DEEPSEEK_API_KEY": "sk-one,sk-two",
            "DEEPSEEK_BASE_URL": refusing.url,
            "FIRST_TOKEN_SECONDS": str(FIRST_TOKEN_SECONDS),
        }
        with run_site([UNUSED], webs=1, runners=2, **addresses) as site:
            providers = {"stalling": stalling, "refusing": refusing, "working": site.provider}
            async with Redis.from_url(site.environment["REDIS_URL"]) as redis:
                await check(site, redis, providers)


async def check(site: TestedSite, redis: Redis, providers: dict[str, FakeProvider]) -> None:
    offer(site, BROKEN, *({"key": key, "enabled": False} for key in RETIRED))
    members = site.people(SIDE_BY_SIDE, **OPEN)
    begun = time.monotonic()
    everybody: list[Shown] = []
    while len(everybody) < TURNS:
        everybody += await ask(members, "auto")
    lasted = time.monotonic() - begun
    opened = await open_models(redis)
    counts = {name: provider.stats() for name, provider in providers.items()}
    asked = {name: count.started + count.refused for name, count in counts.items()}
    assert set(opened) == {"stalling", "refusing"}
    assert asked["working"] == TURNS
    assert asked["stalling"] <= 2 * SIDE_BY_SIDE + lasted / 30  # the first wave, and one request a trial after it
    assert asked["refusing"] <= 3 * SIDE_BY_SIDE + lasted / 30 * 2

    offer(site, WELL)
    recovered = []
    for name in ("stalling", "refusing"):
        await until_due(redis, name)
        recovered += await ask(members[:1], name)
    assert await open_models(redis) == {}
    recovered += await ask(members, "auto")

    found = await settled(site)
    report = ledger(everybody, recovered, found)
    print(f"{TURNS} turns in {lasted:.1f} s, asked {asked}, opened {opened}, recovered {len(recovered)}: {report}")


def offer(site: TestedSite, scripts: dict[str, str], *others: dict[str, Any]) -> None:
    rows = [
        {
            "key": name,
            "label": name,
            "provider": SERVED_BY[name],
            "provider_model": script,
            "tier": "cheap",
            "position": place,
            "context_window": 32_000,
            "max_output": 1_000,
            "input_price": PRICES[name],
            "output_price": 2 * PRICES[name],
        }
        for place, (name, script) in enumerate(scripts.items())
    ]
    site.offer(*others, *rows)


async def ask(members: list[Member], model: str) -> list[Shown]:
    """Let each member ask once, all at the same time, in a new conversation; return what they were shown."""
    shown = [Shown() for _ in members]
    reading = [
        read_by_socket(member, one, asks={"model": model, "text": "What is new?"})
        for member, one in zip(members, shown, strict=True)
    ]
    await asyncio.wait_for(asyncio.gather(*reading), 120)
    return shown


async def open_models(redis: Redis) -> dict[str, str]:
    """Return the models whose breakers are open, and the codes."""
    entries = await redis.hgetall("breakers:open")
    return {name.decode().split(":", 2)[2]: value.decode().split(" ")[3] for name, value in entries.items()}


async def until_due(redis: Redis, model: str) -> None:
    """Wait until the model may be tried, by every key."""
    while True:
        seconds, _ = await redis.time()
        entries = await redis.hgetall("breakers:open")
        ends = [int(value.split(b" ")[0]) for name, value in entries.items() if name.decode().endswith(f":{model}")]
        if all(end < seconds * 1000 for end in ends):
            return
        await asyncio.sleep(0.5)


async def settled(site: TestedSite) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while (found := await asyncio.to_thread(site.audit))["held"]:
        assert time.monotonic() < deadline, found["held"]
        await asyncio.sleep(0.5)
    return found


def ledger(everybody: list[Shown], recovered: list[Shown], found: dict[str, Any]) -> str:
    """Check every turn against what its reader saw and what its owner paid; return a summary."""
    turns = {turn["pk"]: turn for turn in found["turns"]}
    assert len(turns) == len(everybody) + len(recovered)
    who: Counter[str] = Counter()
    because: Counter[str] = Counter()
    for shown in (*everybody, *recovered):
        turn = turns[str(shown.turn_id)]
        scripts = WELL if shown in recovered else BROKEN
        assert shown.complaints == [], shown
        assert (turn["status"], shown.status, turn["error"]) == ("completed", "completed", ""), turn
        assert turn["answer"] == shown.text == expected_text(scripts[turn["model"]]), turn
        price = PRICES[turn["model"]]
        assert turn["cost_micros"] == ceil((turn["input_tokens"] + 2 * turn["output_tokens"]) * price / 1_000_000)
        assert (turn["usage_source"], found["records"][turn["pk"]]) == ("provider", turn["cost_micros"])
        assert bool(turn["instead_of"]) == bool(turn["instead_because"])
        who[turn["model"]] += 1
        because[turn["instead_because"]] += 1
    assert set(found["records"]) == set(turns)
    assert set(found["states"].values()) == {"settled"}
    assert (found["held"], found["unbalanced"]) == (0, [])
    total = sum(turn["cost_micros"] for turn in turns.values())
    assert found["used"] == sum(found["records"].values()) == total > 0
    return f"answered by {dict(who)}, because {dict(because)}, {total} micros paid, nothing held"
