"""`manage.py serve`: the whole site on one machine, with the services it needs (see `config/embedded/services.py`)."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from chat.turns.presence import ALIVE_KEY, ALIVE_SECONDS
from config.embedded import services
from config.embedded.supervision import Manager, NotReadyError, Process, answers_http


class Command(BaseCommand):
    help = "Run the site and everything it needs. Ctrl-C stops it."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default=os.environ.get("HOST") or "127.0.0.1")
        parser.add_argument("--port", type=int, default=os.environ.get("PORT") or 8000)
        parser.add_argument(
            "--stop-with-parent", action="store_true", help="stop when the process that started it ends"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        try:
            lock = services.lock_data_dir(settings.DATA_DIR)
            services.forget_addresses(os.environ, settings.DATA_DIR)
            needed = services.services(os.environ, settings.DATA_DIR)
            with contextlib.suppress(asyncio.CancelledError):  # asked to stop, and has stopped
                asyncio.run(
                    serve_site(needed, options["host"], options["port"], lock, watch=options["stop_with_parent"])
                )
        except (services.AlreadyRunningError, services.MissingError, NotReadyError) as error:
            raise CommandError(str(error)) from error


async def serve_site(needed: services.Services, host: str, port: int, lock: int, *, watch: bool) -> None:
    """Runs until cancelled, which a signal does."""
    parent = os.getppid()
    site_url = os.environ.get("SITE_URL") or f"http://localhost:{port}"
    addresses = {**needed.environment, "SITE_URL": site_url}
    os.environ.update(addresses)  # the children inherit it
    try:
        async with Manager(settings.BASE_DIR, held=[lock]) as manager:
            stop_on_signals(manager)
            for sentence in needed.missing:
                manager.say(sentence)
            for store in needed.stores:
                await manager.start(store)
            services.write_addresses(addresses, settings.DATA_DIR)
            await check_redis()
            await prepare_release(manager)
            if needed.demo_model:
                manager.start_soon(needed.demo_model)
            await start_site(manager, host, port)
            greet(manager, port)
            await (end_of(parent) if watch else asyncio.Event().wait())
    finally:
        services.forget_addresses(os.environ, settings.DATA_DIR)


def stop_on_signals(manager: Manager) -> None:
    task = asyncio.current_task()

    def stop() -> None:
        if manager.stopping or not task or task.cancelling():
            manager.kill()
        else:
            manager.say("Stopping. Ctrl-C once more kills at once.")
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it on purpose
            loop.add_signal_handler(number, stop)


async def end_of(parent: int) -> None:
    """Under `make`, which may be killed: nobody would be left to press Ctrl-C."""
    while os.getppid() == parent:  # noqa: ASYNC110  there is no event for this on every platform
        await asyncio.sleep(1)


async def check_redis() -> None:
    try:
        async with Redis.from_url(os.environ["REDIS_URL"]) as redis:
            await redis.ping()
    except (RedisError, ValueError) as error:
        raise CommandError(f"Redis does not answer: look at REDIS_URL in .env ({error}).") from error


async def prepare_release(manager: Manager) -> None:
    manager.say("Preparing the databases.")
    code, printed = await manager.run(Process("prepare", [sys.executable, "manage.py", "prepare"]))
    if code:
        for line in printed.splitlines():
            manager.say(line)
        raise CommandError("The databases could not be prepared: the reason is above.")


async def start_site(manager: Manager, host: str, port: int) -> None:
    """Returns when pages are answered and a runner waits for turns."""
    reached = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104  compared, not bound
    name = next((name for name in settings.ALLOWED_HOSTS if name[0] not in "*.["), "localhost")
    web = [sys.executable, "-m", "uvicorn", "config.asgi:application", "--host", host, "--port", str(port)]
    web += ["--loop", "uvloop", "--http", "httptools", "--timeout-graceful-shutdown", "5"]
    web += ["--ws-per-message-deflate", "false", "--ws-max-size", "1048576"]
    web += ["--no-access-log", "--log-level", "warning"]
    up = answers_http(port, "/healthz", host=reached, name=name)
    await manager.start(Process("web", web, ready=up, stop_seconds=8))

    command = [sys.executable, "manage.py", "run_turns"]
    runner = Process("runner", command, ready=runner_is_alive, stop_seconds=settings.DRAIN_SECONDS + 5)

    quiet = ["-W", "ignore:You're running the worker with superuser privileges"]  # eight lines, when root
    celery = [sys.executable, *quiet, "-m", "celery", "--quiet", "-A", "config"]
    # Threads: one process instead of the two that "prefork" needs, and pings are answered during a long task.
    command = [*celery, "worker", "--pool", "threads", "--concurrency", "3", "--loglevel", "warning"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    worker = Process("worker", command, stop_seconds=15)
    beat = Process("beat", [*celery, "beat", "--loglevel", "warning"])
    await asyncio.gather(*map(manager.start, (runner, worker, beat)))


async def runner_is_alive() -> bool:
    try:
        async with Redis.from_url(os.environ["REDIS_URL"]) as redis:
            return await redis.zcount(ALIVE_KEY, time.time() - ALIVE_SECONDS, "+inf") > 0
    except RedisError:
        return False


def greet(manager: Manager, port: int) -> None:
    python = os.path.relpath(sys.executable, settings.BASE_DIR)
    manager.say(f"Tertulia is ready: http://localhost:{port}/")
    manager.say(f"To become an operator: {python} manage.py createsuperuser")
    manager.say("Ctrl-C stops it.")
