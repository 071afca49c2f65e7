"""What sweeps share: they look at all there is, page by page, and what is wrong with one does not stop the next."""

import datetime as dt
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from django.db import OperationalError
from django.db.models import Model, Q, QuerySet
from redis import Redis

from core.errors import is_store_away

M = TypeVar("M", bound=Model)
T = TypeVar("T")

logger = logging.getLogger(__name__)

MAX_CLOCK_DIFFERENCE = dt.timedelta(seconds=5)
"""How far the clocks of two machines may be apart: who writes a row dates it, and the sweep compares with its own.

Every grace period includes it (docs/production.md)."""
SWEEP_INTERVAL = dt.timedelta(seconds=15)
"""How often beat sends the sweep of turns (config/celery.py)."""
PATIENCE_SECONDS = 3.0
"""How long whoever deletes something waits until open turns are stopped, 0.2 s while their runner lives; after that it
is left to the sweep."""
SWEPT_AT = "sweeps:at"
"""The key of Redis with the time, by its clock, at which a sweep of turns ended."""
PAGE_SIZE = 500
"""How many rows or keys are read, and how many ids one statement has, at once."""


@contextmanager
def guard(repair: str, **fields: object) -> Iterator[None]:
    """Log what breaks inside, and let the caller go on with the next item."""
    try:
        yield
    except Exception as error:
        if is_store_away(error):
            logger.warning("Store unreachable", extra={"repair": repair, "error": type(error).__name__, **fields})
            return
        logger.exception("Repair failed", extra={"repair": repair, **fields})


def note_sweep(redis: Redis) -> None:
    """Note that a sweep of turns has ended: beat and a worker are alive."""
    redis.set(SWEPT_AT, _seconds(redis))


def seconds_since_sweep(redis: Redis) -> float | None:
    """Return how long ago the last sweep of turns ended; None where Redis knows of none."""
    swept_at: Any = redis.get(SWEPT_AT)
    return None if swept_at is None else _seconds(redis) - float(swept_at)


def _seconds(redis: Redis) -> float:
    moment: Any = redis.time()
    return float(moment[0]) + float(moment[1]) / 1e6


def iterate_pages(found: "QuerySet[M, Any]") -> Iterator[list[M]]:
    """Yield all rows by `created_at`, oldest first, PAGE_SIZE at a time, also while rows come and go."""
    ordered, after, is_last_page = found.order_by("created_at", "pk"), Q(), False
    while not is_last_page:
        page, is_last_page = _read_page(ordered.filter(after))
        if not page:
            return
        last: Any = page[-1]  # before it is yielded: who deletes a row takes its key away
        later = Q(created_at__gt=last.created_at) | Q(created_at=last.created_at, pk__gt=last.pk)
        after = Q(created_at__gte=last.created_at) & later  # for the index: databases do not see it in the second
        yield page


def iterate_by_key(found: "QuerySet[M, Any]") -> Iterator[M]:
    """Yield all rows by their keys, PAGE_SIZE in memory at a time."""
    ordered, after = found.order_by("pk"), Q()
    while True:
        page = list(ordered.filter(after)[:PAGE_SIZE])
        yield from page
        if len(page) < PAGE_SIZE:
            return
        after = Q(pk__gt=page[-1].pk)


def while_time(items: Iterable[T], seconds: float) -> Iterator[T]:
    """Yield the items until so much time has passed: what is left is the next round's, and others get their turn."""
    ends_at = time.monotonic() + seconds
    for item in items:
        yield item
        if time.monotonic() > ends_at:
            return


def in_portions(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the items, PAGE_SIZE at a time: as many as one statement or command may have."""
    for start in range(0, len(items), PAGE_SIZE):
        yield items[start : start + PAGE_SIZE]


def _read_page(rows: "QuerySet[M, Any]") -> tuple[list[M], bool]:
    """Return the first PAGE_SIZE rows, and whether there are no more; without a row that cannot be read, as MongoDB may
    have one."""
    try:
        page = list(rows[:PAGE_SIZE])
    except OperationalError:
        raise
    except Exception:
        logger.exception("Rows are read one by one")
    else:
        return page, len(page) < PAGE_SIZE
    count, readable = rows.count(), list[M]()
    for at in range(min(count, PAGE_SIZE)):
        with guard("row"):
            readable += rows[at : at + 1]
    return readable, count <= PAGE_SIZE
