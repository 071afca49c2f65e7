"""The site's other processes: whether runners, workers and beat are there."""

from collections.abc import Iterator

from chat.turns import presence
from chat.turns.presence import NoRunner
from config.celery import app
from config.doctor.findings import Finding, either, fail, ok
from core.redis_clients import sync_redis
from core.sweeps import SWEEP_INTERVAL, seconds_since_sweep

ANSWER_SECONDS = 1.0
LATE_SECONDS = 4 * SWEEP_INTERVAL.total_seconds()
LONG_QUEUE = 1_000


def examine_processes() -> Iterator[Finding]:
    try:
        presence.require_runner()
        yield ok("runners", "alive")
    except NoRunner:
        yield fail("runners", "None is alive: no question is answered.", "Start “manage.py run_turns”, at least twice.")
    workers = app.control.ping(timeout=ANSWER_SECONDS) or []
    yield either(
        workers,
        ok("workers", f"{len(workers)} answered"),
        fail(
            "workers",
            "None answered: files are not read, mail is not sent, nothing is repaired.",
            "Start “celery -A config worker --pool threads --concurrency 3”.",
        ),
    )
    seconds = seconds_since_sweep(sync_redis())
    yield either(
        seconds is not None and seconds < LATE_SECONDS,
        ok("beat", f"the last sweep was {seconds or 0:.0f} s ago"),
        fail(
            "beat",
            "No sweep of late: what a process left half done is not repaired.",
            "Start “celery -A config beat”, exactly once, and a worker.",
        ),
    )
    waiting = int(sync_redis().llen("celery"))
    yield either(
        waiting < LONG_QUEUE,
        ok("workers, queue", f"{waiting} tasks wait"),
        fail("workers, queue", f"{waiting} tasks wait: workers do not keep up.", "Start more of them."),
    )
