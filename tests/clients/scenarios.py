"""What a client program does: scenarios in order, each with a JSON line of what came of it.

It runs in an environment of its own, and knows nothing of the site but its address, keys and models, which are in
environment variables.
"""

import asyncio
import inspect
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

SCENARIOS: list[Callable[[], Any]] = []

MODELS: dict[str, str] = json.loads(os.environ["MODELS"])
KEYS: dict[str, str] = json.loads(os.environ["KEYS"])
IMAGE = os.environ["IMAGE"]


def scenario(function: Callable[[], Any]) -> Callable[[], Any]:
    SCENARIOS.append(function)
    return function


def run_scenarios() -> None:
    """Run them one after the other; the line of one that failed has its traceback as `failed`."""
    asyncio.run(_run())


async def _run() -> None:
    for function in SCENARIOS:
        try:
            found = function()
            line = {"result": await found if inspect.isawaitable(found) else found}
        except Exception:  # noqa: BLE001  the test of this scenario fails with it
            line = {"failed": traceback.format_exc()}
        json.dump({"scenario": function.__name__, **line}, sys.stdout)
        print(flush=True)
