"""What sweeps share: they look at all there is, page by page, and what is wrong with one does not stop the next."""

import datetime as dt
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from django.db.models import Model, Q, QuerySet

M = TypeVar("M", bound=Model)

logger = logging.getLogger(__name__)

MAX_CLOCK_DIFFERENCE = dt.timedelta(seconds=5)
"""How far the clocks of two machines may be apart: who writes a row dates it, and the sweep compares with its own.

Every grace period includes it (docs/production.md)."""
PAGE_SIZE = 500


@contextmanager
def guard(repair: str, **fields: object) -> Iterator[None]:
    """Log what breaks inside, and let the caller go on with the next item."""
    try:
        yield
    except Exception:
        logger.exception("Repair failed", extra={"repair": repair, **fields})


def iterate_pages(found: "QuerySet[M, Any]") -> Iterator[list[M]]:
    """Yield all rows by `created_at`, oldest first, PAGE_SIZE at a time, also while rows come and go."""
    ordered, after = found.order_by("created_at", "pk"), Q()
    while page := list(ordered.filter(after)[:PAGE_SIZE]):
        last: Any = page[-1]  # before it is yielded: who deletes a row takes its key away
        after = Q(created_at__gt=last.created_at) | Q(created_at=last.created_at, pk__gt=last.pk)
        yield page
