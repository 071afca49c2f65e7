"""A line in which one who takes many places keeps nobody waiting."""

import asyncio

import pytest

from core.errors import RateLimited
from core.fair_line import FairLine


class Visits:
    """Who is inside, in the order in which they came in."""

    def __init__(self, line: FairLine) -> None:
        self.line = line
        self.inside: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def come(self, who: str, count: int = 1) -> None:
        for _ in range(count):
            self.tasks.append(asyncio.create_task(self._enter(who)))
            await asyncio.sleep(0)

    async def _enter(self, who: str) -> None:
        await self.line.enter(who)
        self.inside.append(who)

    async def leave(self) -> None:
        self.line.leave(self.inside.pop(0))
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_as_many_are_inside_as_there_are_places():
    visits = Visits(FairLine(at_once=3, each=2, most_waiting=9))
    await visits.come("ana", 5)
    assert visits.inside == ["ana", "ana"]  # one place is left for the others
    await visits.come("bo")
    await visits.come("eva")
    assert visits.inside == ["ana", "ana", "bo"]
    await visits.leave()
    assert visits.inside == ["ana", "bo", "ana"]
    await visits.come("ana")
    await visits.leave()
    assert visits.inside == ["bo", "ana", "eva"]


async def test_who_waits_is_served_in_turn_however_many_places_somebody_takes():
    visits = Visits(FairLine(at_once=1, each=1, most_waiting=99))
    await visits.come("ana", 50)
    await visits.come("bo", 2)
    await visits.come("eva")
    served = []
    for _ in range(6):
        served += visits.inside
        await visits.leave()
    assert served == ["ana", "ana", "bo", "eva", "ana", "bo"]


async def test_more_than_so_many_of_one_do_not_wait():
    line = FairLine(at_once=1, each=1, most_waiting=2)
    visits = Visits(line)
    await visits.come("ana", 3)
    with pytest.raises(RateLimited):
        await line.enter("ana")
    await visits.come("bo")
    await visits.leave()
    assert visits.inside == ["ana"]
    await visits.leave()
    assert visits.inside == ["bo"]


@pytest.mark.parametrize("when", ["while it waits", "just before its turn comes", "when its turn has just come"])
async def test_who_goes_away_takes_no_place(when: str):
    visits = Visits(FairLine(at_once=1, each=1, most_waiting=9))
    await visits.come("ana")
    await visits.come("bo")
    await visits.come("eva")
    if when == "when its turn has just come":
        visits.line.leave(visits.inside.pop(0))
        visits.tasks[1].cancel()
        await settle()
    else:
        visits.tasks[1].cancel()
        if when == "while it waits":
            await settle()
        await visits.leave()
    assert visits.inside == ["eva"]
    await visits.leave()
    assert (visits.line._free, dict(visits.line._inside), dict(visits.line._waiting)) == (1, {}, {})
