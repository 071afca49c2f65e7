"""When a backup was taken last: so that somebody notices where none is taken any more."""

import datetime as dt
import logging
from typing import Any

from django.utils import timezone
from redis.exceptions import RedisError

from core.redis_clients import sync_redis

logger = logging.getLogger(__name__)

TAKEN_AT = "backup:taken_at"
"""The key of Redis with the time, in seconds, at which a backup was whole."""
TOO_OLD = dt.timedelta(hours=30)
"""A backup is taken every night: one that is older was missed (deploy/prometheus/alerts.yml has the same hours)."""


def note_backup() -> None:
    """Note that a backup was taken just now. It is one also where Redis is away."""
    try:
        sync_redis().set(TAKEN_AT, f"{timezone.now().timestamp():.0f}")
    except RedisError as error:
        logger.warning("Backup not noted", extra={"error": type(error).__name__})


def last_backup_at() -> float | None:
    """Return when one was taken last, in seconds; None where Redis knows of none. Raises RedisError."""
    taken_at: Any = sync_redis().get(TAKEN_AT)
    try:
        return None if taken_at is None else float(taken_at)
    except ValueError:  # somebody else's
        return None
