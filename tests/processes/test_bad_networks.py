"""Readers that lose the connection, reload, and look over each other's shoulder: no character missing, none twice."""

import asyncio
import os
import random

import pytest

from testbed.provider import expected_reasoning, expected_text
from tests.fakes.proxy import CuttingProxy
from tests.fakes.readers import Member, Shown, read_by_events, read_by_socket
from tests.processes.stores import TestedSite

SEED = int(os.environ.get("SEED", "20261124"))
WANTED = 500 if os.environ.get("SOAK") else 60
"""Disconnects, reloads and second readers together."""
MODEL = "fake-300t-20ms-r20"
SIDE_BY_SIDE = 10


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_disconnects_reloads_and_second_readers_lose_nothing(site: TestedSite) -> None:
    rng = random.Random(SEED)
    happened = {"cut": 0, "reload": 0, "second reader": 0}
    while sum(happened.values()) < WANTED:
        members = site.people(SIDE_BY_SIDE)
        async with CuttingProxy(site.port(0)) as first, CuttingProxy(site.port(1)) as second:
            shown = await asyncio.gather(*(_one_turn(m, first, second, rng, happened) for m in members))
        for readers in shown:
            for reader in readers:
                assert reader.complaints == []
                assert (reader.status, reader.text) == ("completed", expected_text(MODEL))
                assert reader.reasoning == expected_reasoning(MODEL)
    found = site.audit()
    assert {turn["answer"] for turn in found["turns"] if turn["requested_model"] == MODEL} == {expected_text(MODEL)}
    assert (found["held"], found["unbalanced"]) == (0, [])
    print(f"seed {SEED}: {happened}")


async def _one_turn(
    member: Member, first: CuttingProxy, second: CuttingProxy, rng: random.Random, happened: dict[str, int]
) -> list[Shown]:
    """Ask once, make trouble until the answer is there, and return what every reader was shown."""
    through = Member(member.access, lambda: first.port)
    beside = Member(member.access, lambda: second.port)
    readers = [Shown()]
    asking = asyncio.create_task(read_by_socket(through, readers[0], asks={"model": MODEL, "text": "Hola"}))
    tasks = [asking]
    while not readers[0].is_over:
        await asyncio.sleep(rng.uniform(0.2, 1.2))
        if not readers[0].gen:
            continue
        match rng.choice(("cut", "cut", "reload", "second reader")):
            case "cut":
                happened["cut"] += first.cut(0.2, rng) + second.cut(0.2, rng)
            case "reload":  # a page that knows nothing, over the other process
                readers.append(_page(readers[0]))
                tasks.append(asyncio.create_task(read_by_socket(beside, readers[-1])))
                happened["reload"] += 1
            case "second reader":
                readers.append(_page(readers[0]))
                tasks.append(asyncio.create_task(read_by_events(beside, readers[-1])))
                happened["second reader"] += 1
    await asyncio.gather(*tasks)
    return readers


def _page(of: Shown) -> Shown:
    return Shown(turn_id=of.turn_id, conversation_id=of.conversation_id)
