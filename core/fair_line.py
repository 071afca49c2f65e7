"""A line in which everybody is served in turn, however many places somebody takes."""

import asyncio
from collections import Counter, OrderedDict, deque

from core.errors import RateLimited


class FairLine:
    """Lets `at_once` in at the same time, and `each` of one of those who wait; of those the next one is whoever has
    waited longest since their last turn. `most_waiting` of each may wait."""

    def __init__(self, at_once: int, each: int, most_waiting: int) -> None:
        self._free, self._each, self._most_waiting = at_once, each, most_waiting
        self._inside: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Event]] = OrderedDict()

    async def enter(self, who: str) -> None:
        """Return when it is their turn; they must `leave`, then. Raises RateLimited if too many of theirs wait."""
        if self._may_enter(who):
            self._take(who)
            return
        places = self._waiting.setdefault(who, deque())
        if len(places) >= self._most_waiting:
            raise RateLimited(retry_after=1)
        turn = asyncio.Event()
        places.append(turn)
        try:
            await turn.wait()
        except asyncio.CancelledError:
            if turn.is_set():  # it had just come
                self.leave(who)
            else:
                self._give_up(who, turn)
            raise

    def leave(self, who: str) -> None:
        """Give the place to the next one."""
        self._free += 1
        self._inside[who] -= 1
        if not self._inside[who]:
            del self._inside[who]
        if following := next(filter(self._may_enter, self._waiting), None):
            places = self._waiting[following]
            self._take(following)
            places.popleft().set()
            self._waiting.move_to_end(following)
            if not places:
                del self._waiting[following]

    def _may_enter(self, who: str) -> bool:
        return self._free > 0 and self._inside[who] < self._each

    def _take(self, who: str) -> None:
        self._free -= 1
        self._inside[who] += 1

    def _give_up(self, who: str, turn: asyncio.Event) -> None:
        places = self._waiting[who]
        places.remove(turn)
        if not places:
            del self._waiting[who]
