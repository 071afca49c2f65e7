"""`manage.py serve`: runs the whole site on one machine, with the services it needs (`config/embedded/services.py`)."""

import asyncio
import contextlib
import os
import signal
import sys
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from chat.turns.presence import ALIVE_KEY, ALIVE_SECONDS
from config.embedded.addresses import remove_addresses, write_addresses
from config.embedded.data_dir_lock import AlreadyRunningError, lock_data_dir
from config.embedded.readiness import answers_http
from config.embedded.services import ServiceMissingError, Services, find_needed
from config.embedded.supervision import NotReadyError, Process, Supervisor
from config.reachability import StoreUnreachableError, check_stores
from core.loopback import is_loopback


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
        host = options["host"]
        if settings.DEBUG and not is_loopback(host):
            raise CommandError(
                f"With DEBUG the site is for this machine alone, and HOST={host} would let others read its errors: "
                f"`make run HOST={host} DEBUG=false`, with the site's name in ALLOWED_HOSTS."
            )
        try:
            lock = lock_data_dir(settings.DATA_DIR)
            remove_addresses(os.environ, settings.DATA_DIR)
            check_stores()
            simulates_for = f"http://127.0.0.1:{options['port']}" if settings.DEBUG else ""
            needed = find_needed(os.environ, settings.DATA_DIR, simulates_for=simulates_for)
            with contextlib.suppress(asyncio.CancelledError):  # a signal stopped it
                asyncio.run(
                    serve_site(needed, host, options["port"], lock, stop_with_parent=options["stop_with_parent"])
                )
        except (AlreadyRunningError, ServiceMissingError, NotReadyError, StoreUnreachableError) as error:
            raise CommandError(str(error)) from error


async def serve_site(needed: Services, host: str, port: int, lock: int, *, stop_with_parent: bool) -> None:
    """Run the site until a signal cancels this."""
    parent = os.getppid()
    site_url = os.environ.get("SITE_URL") or f"http://localhost:{port}"
    addresses = {**needed.environment, "SITE_URL": site_url}
    os.environ.update(addresses)  # the processes inherit them
    try:
        async with Supervisor(settings.BASE_DIR, inherited_files=[lock]) as supervisor:
            stop_on_signals(supervisor)
            for sentence in needed.missing:
                supervisor.print_line(sentence)
            for service in (*needed.stores, *needed.gateways):
                await supervisor.start(service)
            write_addresses(addresses, settings.DATA_DIR)
            await prepare_release(supervisor)
            if needed.demo_model:
                supervisor.start_soon(needed.demo_model)
            await start_site(supervisor, host, port)
            print_greeting(supervisor, port, needed)
            await (wait_for_end_of(parent) if stop_with_parent else asyncio.Event().wait())
    finally:
        remove_addresses(os.environ, settings.DATA_DIR)


def stop_on_signals(supervisor: Supervisor) -> None:
    task = asyncio.current_task()

    def stop() -> None:
        if supervisor.is_stopping or not task or task.cancelling():
            supervisor.kill()
        else:
            supervisor.print_line("Stopping. Ctrl-C once more kills at once.")
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores it on purpose
            loop.add_signal_handler(number, stop)


async def wait_for_end_of(parent: int) -> None:
    """Wait until the parent has ended: `make` may be killed, and then nobody can press Ctrl-C."""
    while os.getppid() == parent:  # noqa: ASYNC110  there is no event for this on every platform
        await asyncio.sleep(1)


async def prepare_release(supervisor: Supervisor) -> None:
    supervisor.print_line("Preparing the databases.")
    code, printed = await supervisor.run(Process("prepare", [sys.executable, "manage.py", "prepare"]))
    for line in printed.splitlines():
        supervisor.print_line(line)
    if code:
        raise CommandError("The databases could not be prepared: the reason is above.")


async def start_site(supervisor: Supervisor, host: str, port: int) -> None:
    """Return when the web process answers and a runner waits for turns."""
    reachable_host = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104  compared, not bound
    name = next((name for name in settings.ALLOWED_HOSTS if name[0] not in "*.["), "localhost")
    web = [sys.executable, "manage.py", "run_web", "--host", host, "--port", str(port)]
    probe = answers_http(port, "/healthz", host=reachable_host, name=name)
    await supervisor.start(Process("web", web, probe=probe, stop_seconds=8))

    command = [sys.executable, "manage.py", "run_turns"]
    runner = Process("runner", command, probe=is_runner_alive, stop_seconds=settings.DRAIN_SECONDS + 5)

    quiet = ["-W", "ignore:You're running the worker with superuser privileges"]  # eight lines, when root
    celery = [sys.executable, *quiet, "-m", "celery", "--quiet", "-A", "config"]
    # Threads: one process instead of the two that "prefork" needs, and pings are answered during a long task.
    command = [*celery, "worker", "--pool", "threads", "--concurrency", "3", "--loglevel", "warning"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    worker = Process("worker", command, stop_seconds=15)
    beat = Process("beat", [*celery, "beat", "--loglevel", "warning"])
    await asyncio.gather(*map(supervisor.start, (runner, worker, beat)))


async def is_runner_alive() -> bool:
    try:
        async with Redis.from_url(os.environ["REDIS_URL"]) as redis:
            seconds, _microseconds = await redis.time()
            return await redis.zcount(ALIVE_KEY, seconds - ALIVE_SECONDS, "+inf") > 0
    except RedisError:
        return False


def print_greeting(supervisor: Supervisor, port: int, needed: Services) -> None:
    python = os.path.relpath(sys.executable, settings.BASE_DIR)
    supervisor.print_line(f"Tertulia is ready: http://localhost:{port}/")
    supervisor.print_line(f"To become an operator: {python} manage.py createsuperuser")
    for name, variable in (("Stripe", "SIMULATED_STRIPE_URL"), ("Mercado Pago", "SIMULATED_MERCADOPAGO_URL")):
        if address := needed.environment.get(variable):
            supervisor.print_line(f"{name} is simulated, and costs nothing: renew, fail and dispute at {address}/")
    supervisor.print_line("Ctrl-C stops it.")
