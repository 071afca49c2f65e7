"""Measures whether slow readers delay others."""

import asyncio
from dataclasses import dataclass

from bench.load import Load, LoadReport, make_clients, open_clients, run
from bench.measurement import Totals, TurnMeasurement
from testbed.many_connections import allow_many_sockets, new_fast_loop
from testbed.script import Script

RAMP_SECONDS = 4.0
LEAD_SECONDS = 6.0  # in which the slow readers fall behind, before the others ask


@dataclass(frozen=True, slots=True)
class CrowdResult:
    """The report of the fast readers, and the share of its text that the crowd received."""

    fast: LoadReport
    read_share: float


def measure_with_crowd(crowd: Load, fast: Load, *, lead_seconds: float = LEAD_SECONDS) -> CrowdResult:
    """Measure `fast` while each reader of `crowd` is in the middle of a turn, which is then cut off."""
    allow_many_sockets()
    with asyncio.Runner(loop_factory=new_fast_loop) as runner:
        return runner.run(_measure_with_crowd(crowd, fast, lead_seconds))


async def _measure_with_crowd(crowd: Load, fast: Load, lead_seconds: float) -> CrowdResult:
    script, totals = Script.parse(crowd.model), Totals()
    clients = make_clients(crowd)
    await open_clients(clients, 1)
    begun = asyncio.get_running_loop().time()
    asking = []
    try:
        for client in clients:  # spread out, so that not all tokens come at the same moments
            asking.append(asyncio.create_task(client.turn(TurnMeasurement(totals, script))))
            await asyncio.sleep(RAMP_SECONDS / len(clients))
        await asyncio.sleep(lead_seconds)
        report = await run(fast)
        seconds = asyncio.get_running_loop().time() - begun - RAMP_SECONDS / 2
        due = min(script.tokens, seconds * 1e3 / script.gap_ms) * len(clients)
        return CrowdResult(report, len(totals.token_added_ms) / due)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        for client in clients:
            client.close()
