"""Whether the addresses of the stores lead to stores, before anything is started: one sentence where one does not.

A sentence may name the host and the user, as the driver's own words do, and never a password: an address in which a
password may have been taken for something else is refused without a word of it.
"""

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import psycopg
import redis
from django.conf import settings
from django.db import connections
from pymongo import MongoClient
from pymongo.errors import ConfigurationError, PyMongoError

from core.redis_clients import SYNC_OPTIONS


class StoreUnreachableError(Exception):
    """An address does not lead to a store. The message is one sentence."""


def check_stores() -> None:
    """Ask every store whose address is configured, for a few seconds each. Raises StoreUnreachableError."""
    checks: dict[str, Callable[[], object]] = {
        "DATABASE_URL": _ask_postgresql,
        "MONGODB_URI": _ask_mongodb,
        "REDIS_URL": _ask_redis,
    }
    for name, ask in checks.items():
        address = os.environ.get(name)
        if not address:
            continue
        try:
            _check_password(address)
            ask()
        except (ConfigurationError, ValueError):
            raise StoreUnreachableError(f"{name} is not a valid address: look at .env.") from None
        except (psycopg.Error, PyMongoError, redis.RedisError, OSError) as error:
            raise StoreUnreachableError(f"{name} does not answer: look at .env ({_reason(error)}).") from None


def _check_password(address: str) -> None:
    """Raise ValueError where "/", "?" or "#" in a password ends the host early: its first half looks like a port."""
    _scheme, _netloc, *rest = urlsplit(address)
    if "@" in "".join(rest):
        raise ValueError("a password is not escaped")


def _ask_postgresql() -> None:
    psycopg.connect(**connections["default"].get_connection_params()).close()


def _ask_mongodb() -> None:
    options: dict[str, Any] = settings.DATABASES["history"]["OPTIONS"]
    with MongoClient[dict[str, Any]](os.environ["MONGODB_URI"], **options) as client:
        client.admin.command("ping")


def _ask_redis() -> None:
    with redis.Redis.from_url(os.environ["REDIS_URL"], **SYNC_OPTIONS) as client:
        client.ping()


def _reason(error: Exception) -> str:
    """Return the first words of a driver's error, which go on for many lines."""
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    return first_line.partition(" (configured timeouts")[0].strip().rstrip(".:,")
