"""`manage.py run_turns`: one runner."""

import asyncio
import signal
from typing import Any

import uvloop
from django.core.management.base import BaseCommand, CommandError

from chat.turns.runner import Runner
from core import interpreter
from core.preparation import NotPrepared, check_prepared
from core.watching import start_watching


class Command(BaseCommand):
    help = "Take turns from the queue and run them, until SIGTERM or Ctrl-C."

    def handle(self, *_args: Any, **_options: Any) -> None:
        try:
            check_prepared()
        except NotPrepared as error:
            raise CommandError(str(error)) from None
        interpreter.tune_for_serving()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run())


async def _run() -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for received in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(received, stopping.set)
    runner = Runner()
    start_watching("runner")
    await runner.run(stopping)
