"""Readers whose lines are slow, and others beside them who must not notice."""

import asyncio
from dataclasses import dataclass

from bench.load import Load, Report, channels_of, open_all, run
from bench.reading import Figures, Reading
from testbed.loops import allow_many_sockets, new_loop
from testbed.script import Script

RAMP_SECONDS = 4.0
LEAD_SECONDS = 6.0  # in which the slow ones fall behind, before the others ask


@dataclass(frozen=True, slots=True)
class Crowd:
    """What the fast readers got, and how much of their text the slow ones did."""

    fast: Report
    read_share: float


def measure_beside(crowd: Load, fast: Load, *, lead_seconds: float = LEAD_SECONDS) -> Crowd:
    """Measure `fast` while the readers of `crowd` are in the midst of one turn each, which is not waited for."""
    allow_many_sockets()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(_beside(crowd, fast, lead_seconds))


async def _beside(crowd: Load, fast: Load, lead_seconds: float) -> Crowd:
    script, figures = Script.parse(crowd.model), Figures()
    channels = channels_of(crowd)
    await open_all(channels, 1)
    begun = asyncio.get_running_loop().time()
    asking = []
    try:
        for channel in channels:  # one after the other: else all their tokens would come in the same moments
            asking.append(asyncio.create_task(channel.turn(Reading(figures, script))))
            await asyncio.sleep(RAMP_SECONDS / len(channels))
        await asyncio.sleep(lead_seconds)
        report = await run(fast)
        seconds = asyncio.get_running_loop().time() - begun - RAMP_SECONDS / 2
        due = min(script.tokens, seconds * 1e3 / script.gap_ms) * len(channels)
        return Crowd(report, len(figures.token_added_ms) / due)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        for channel in channels:
            channel.close()
