"""Reserves, settles and releases from many threads, as a process of its own: `python -m tests.billing.ledger_load`.

It is given JSON on its standard input, waits for a line, and answers with what it did.
"""

import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import django

django.setup()

from django.db import connections  # noqa: E402

from billing import metering  # noqa: E402
from billing.errors import AllowanceUsedUp, TooManyAtOnce  # noqa: E402
from billing.metering import Usage  # noqa: E402


class Worker:
    """One thread: it counts what it did, and what came of it."""

    def __init__(self, users: list[int], seed: int, operations: int) -> None:
        self._users, self._random, self._left = users, random.Random(seed), operations
        names = ("operations", "reserved", "refused", "released", "settled", "settled_micros", "late_micros")
        self.done = dict.fromkeys(names, 0)

    def run(self) -> dict[str, int]:
        while self.done["operations"] < self._left:
            self._work()
        connections.close_all()
        return self.done

    def _work(self) -> None:
        key, amount = UUID(int=self._random.getrandbits(128)), self._random.randrange(1, 50_000)
        self.done["operations"] += 1
        try:
            metering.reserve(self._random.choice(self._users), key, amount_micros=amount)
        except (AllowanceUsedUp, TooManyAtOnce):
            self.done["refused"] += 1
            return
        self.done["reserved"] += 1
        ends = self._random.choices(["settle", "release", "both", "nothing"], [6, 2, 1, 1])[0]
        if ends in ("release", "both"):
            self._end(key, None)
        if ends in ("settle", "both"):  # work that was done counts, though it was released
            for _ in range(self._random.choice([1, 1, 2])):  # whoever repeats it changes nothing
                self._end(key, self._random.randrange(1, amount + 1), is_late=ends == "both")

    def _end(self, key: UUID, cost: int | None, *, is_late: bool = False) -> None:
        self.done["operations"] += 1
        if cost is None:
            self.done["released"] += metering.release(key)
        elif metering.settle(key, cost_micros=cost, usage=Usage(1, 1), label="load"):
            self.done["settled"] += 1
            self.done["settled_micros"] += cost
            self.done["late_micros"] += cost if is_late else 0


def main() -> None:
    asked: dict[str, Any] = json.loads(sys.stdin.readline())
    each = asked["operations"] // asked["threads"]
    workers = [Worker(asked["users"], asked["seed"] + number, each) for number in range(asked["threads"])]
    with ThreadPoolExecutor(asked["threads"]) as threads:
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.monotonic()
        results = list(threads.map(Worker.run, workers))
    total = {name: sum(result[name] for result in results) for name in results[0]}
    print(json.dumps({**total, "seconds": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    main()
