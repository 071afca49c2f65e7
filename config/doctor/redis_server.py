"""Redis: whether it keeps what it is given, and has room."""

import datetime as dt
from collections.abc import Iterator

from config.doctor.clocks import compare
from config.doctor.findings import Finding, either, fail, ok, warn
from core.redis_clients import sync_redis

FULL = 0.8


def examine_redis() -> Iterator[Finding]:
    client = sync_redis()
    info = client.info()
    yield _examine_persistence(info)
    policy = info.get("maxmemory_policy", "noeviction")
    yield either(
        policy == "noeviction",
        ok("Redis, eviction", "evicts nothing"),
        fail(
            "Redis, eviction",
            f"maxmemory-policy is {policy}: when memory is short it throws away queue, live text and sessions.",
            "Set maxmemory-policy to noeviction; on a hosted Redis that is a setting of the instance.",
        ),
    )
    used, most = int(info["used_memory"]), int(info.get("maxmemory") or info.get("total_system_memory") or 0)
    yield either(
        not most or used < FULL * most,
        ok("Redis, memory", f"{used / 1e6:,.0f} MB of {most / 1e6:,.0f} MB are used"),
        fail(
            "Redis, memory",
            f"{used / 1e6:,.0f} MB of {most / 1e6:,.0f} MB are used: when it is full every question is refused.",
            "Give it more memory (maxmemory), or look with --bigkeys at what takes it.",
        ),
    )
    clients, limit = int(info["connected_clients"]), int(info.get("maxclients") or 0)
    yield either(
        not limit or clients < FULL * limit,
        ok("Redis, connections", f"{clients} of {limit or 'any number'}"),
        fail(
            "Redis, connections",
            f"{clients} of {limit} are in use: beyond that processes are refused.",
            "Raise maxclients, take a larger plan, or run fewer processes (docs/redis.md counts them).",
        ),
    )
    seconds, microseconds = client.time()
    yield compare("clock of Redis", dt.datetime.fromtimestamp(seconds + microseconds / 1e6, dt.UTC))


def _examine_persistence(info: dict[str, object]) -> Finding:
    if not info.get("aof_enabled"):
        return warn(
            "Redis, persistence",
            "appendonly is off: when it restarts, people are logged out and temporary conversations are gone.",
            "Set appendonly to yes (docs/redis.md says what is lost without it).",
        )
    is_written = info.get("aof_last_write_status") == "ok" and info.get("aof_last_bgrewrite_status", "ok") == "ok"
    return either(
        is_written,
        ok("Redis, persistence", "appendonly"),
        fail(
            "Redis, persistence",
            "It cannot write its append-only file.",
            "Look at its log, and at the room on its disk.",
        ),
    )
