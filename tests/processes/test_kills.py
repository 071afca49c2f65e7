"""Web, runner and Valkey are killed with -9 at random moments: every turn ends, keeps its text, and is paid once."""

import asyncio
import os
import random
import time

import pytest

from tests.fakes.readers import TERMINAL, Member, Shown, read_by_socket
from tests.processes.stores import TestedSite, run_site

SEED = int(os.environ.get("SEED", "20261124"))
TURNS = 100 if os.environ.get("SOAK") else 20
SIDE_BY_SIDE = 10
MODELS = ["fake-200t-20ms", "fake-100t-20ms-r20", "fake-150t-20ms-f800", "fake-60t-20ms-nousage"]
TERMINAL_WITHIN_SECONDS = 60
VICTIMS = ("valkey", "web0", "web1", "runner0", "runner1")
OPEN = {"turns_per_hour": None, "turns_at_once": None, "credits_per_month": None}


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_whatever_is_killed_every_turn_ends_once_with_its_text() -> None:
    rng = random.Random(SEED)
    with run_site(MODELS, webs=2, runners=2) as site:
        killer = asyncio.create_task(_kill(site, rng, kills := list[str]()))
        members = site.people(SIDE_BY_SIDE, **OPEN)
        everybody: list[Shown] = []
        while len(everybody) < TURNS or len(set(kills)) < len(VICTIMS):  # each was killed at least once
            shown = [Shown() for _ in members]
            everybody += shown
            readers = [_read(site, member, one, rng) for member, one in zip(members, shown, strict=True)]
            # Each ends within its own length and, after the last kill that met it, TERMINAL_WITHIN_SECONDS.
            try:
                await asyncio.wait_for(asyncio.gather(*readers), 150)
            except TimeoutError:
                print([one for one in shown if not one.is_over])
                raise
        killer.cancel()
        last_kill = time.monotonic()
        await _until_settled(site, last_kill)
        found = site.audit()
        _check(everybody, found)
        statuses = {status: sum(one.status == status for one in everybody) for status in TERMINAL_STATUSES}
        print(f"seed {SEED}: {len(everybody)} turns, kills {_count(kills)}, {statuses}")


TERMINAL_STATUSES = [event.removeprefix("turn.") for event in TERMINAL]


async def _read(site: TestedSite, member: Member, shown: Shown, rng: random.Random) -> None:
    number = rng.randrange(2)
    through = Member(member.access, lambda: site.port(number))
    await read_by_socket(through, shown, asks={"model": rng.choice(MODELS), "text": "Hola"})


async def _kill(site: TestedSite, rng: random.Random, kills: list[str]) -> None:
    """Kill one process after another, each kind in every round; it comes back half a second later."""
    left: list[str] = []
    while True:
        await asyncio.sleep(rng.uniform(1.5, 4))
        left = left or rng.sample(VICTIMS, len(VICTIMS))
        name = left.pop()
        kills.append(name)
        site.kill(name)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(site.start, name)


async def _until_settled(site: TestedSite, since: float) -> None:
    while True:
        found = await asyncio.to_thread(site.audit)
        is_open = [turn for turn in found["turns"] if turn["status"] in ("queued", "streaming")]
        if not is_open and not found["held"]:
            print(f"all settled {time.monotonic() - since:.0f} s after the last kill")
            return
        assert time.monotonic() - since < TERMINAL_WITHIN_SECONDS + 15, (is_open, found["held"], site.logs())
        await asyncio.sleep(2)


def _check(everybody: list[Shown], found: dict[str, object]) -> None:
    turns = {turn["pk"]: turn for turn in found["turns"]}  # type: ignore[attr-defined]
    for shown in everybody:
        turn = turns[str(shown.turn_id)]
        assert shown.complaints == [], shown
        assert (turn["status"], turn["answer"]) == (shown.status, shown.text), (turn, shown)
        assert turn["reasoning"] == shown.reasoning
        state = found["states"][turn["pk"]]  # type: ignore[index]
        has_record = turn["pk"] in found["records"]  # type: ignore[operator]
        assert (state, has_record) in (("settled", True), ("released", False)), (turn, state)
        assert has_record == bool(turn["answer"] or turn["reasoning"]), (turn, state)
        if has_record:
            assert found["records"][turn["pk"]] == turn["cost_micros"]  # type: ignore[index]
    assert len(turns) == len(everybody)
    assert found["unbalanced"] == []
    assert found["used"] == sum(found["records"].values())  # type: ignore[attr-defined]


def _count(names: list[str]) -> dict[str, int]:
    return {name: names.count(name) for name in sorted(set(names))}
