"""All that is kept anywhere."""

from collections.abc import Callable
from typing import Any

from django.apps import apps

from core.redis_clients import sync_redis
from tests.chat.attaching import stored_names


def everything_stored() -> str:
    """All rows of both databases, all keys and values of Redis, and the names of all files, as one text."""
    stored = [repr(list(model._default_manager.values())) for model in apps.get_models() if model._meta.managed]
    readers: dict[bytes, Callable[[bytes], Any]] = {
        b"string": sync_redis().get,
        b"hash": sync_redis().hgetall,
        b"stream": sync_redis().xrange,
        b"list": lambda key: sync_redis().lrange(key, 0, -1),
        b"set": sync_redis().smembers,
        b"zset": lambda key: sync_redis().zrange(key, 0, -1),
    }
    for key in sync_redis().scan_iter():
        stored.append(f"{key!r} {readers[sync_redis().type(key)](key)!r}")
    return "\n".join([*stored, *stored_names()])
