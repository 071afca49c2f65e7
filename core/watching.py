"""How a process shows what it does: to Prometheus at an address of its own, and to the operators' page in Redis.

Each process has its own address: the figures of one say how it is, and those of all are added up by Prometheus. What
belongs to the whole site is at `/site` of each, so that it is asked for where somebody wants to.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable
from hmac import compare_digest
from socketserver import TCPServer, ThreadingMixIn
from threading import Event
from time import monotonic, time
from typing import Annotated, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import msgspec
from django.conf import settings
from django.db import connections
from prometheus_client import REGISTRY, Gauge, make_wsgi_app
from prometheus_client.registry import Collector
from redis.exceptions import RedisError, ResponseError

from core.metrics import LAST_STEP, LOOP_LAG, read_pools
from core.redis_clients import sync_redis

logger = logging.getLogger(__name__)

ANNOUNCE_SECONDS = 5.0
SILENT_SECONDS = 20.0
"""A process that was not heard of for so long is gone."""
PROCESSES = "processes"
"""The hash of what each process says of itself: written and read here alone."""
UNKNOWN, REFUSED = "404 Not Found", "401 Unauthorized"

PROCESS = Gauge("tertulia_process", "What this process is; its value is 1.", ["kind"])

_served: dict[str, Callable[[], Collector]] = {"/metrics": lambda: REGISTRY}
_asked_of_itself: dict[str, Callable[[], float]] = {}
_started = False


_Word = Annotated[str, msgspec.Meta(max_length=300)]
_Moment = Annotated[float, msgspec.Meta(ge=0, le=1e11)]
"""Seconds since 1970."""
_Count = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]


class Announcement(msgspec.Struct, frozen=True):
    """How a process is. `lag_seconds` is the most its event loop was late lately, as far as the histogram's steps say;
    the last of them, where it was more (`is_lag_longer`); None where it has no loop."""

    name: _Word
    kind: _Word
    at: _Moment  # by Redis's clock
    began_at: _Moment
    turns: _Count = 0
    pools: dict[_Word, tuple[_Count, _Count]] = {}
    lag_seconds: Annotated[float, msgspec.Meta(ge=0, le=1e9)] | None = None
    is_lag_longer: bool = False
    megabytes: _Count = 0
    outcomes: dict[_Word, _Count] = {}  # of the turns that it has closed


def serve_also(path: str, registry: Callable[[], Collector]) -> None:
    """Show these figures, too, at another path of the same address."""
    _served[path] = registry


def start_watching(kind: str) -> None:
    """Show what this process does from now on; called once it is ready."""
    global _started
    if _started:
        return
    _started = True
    PROCESS.labels(kind).set(1)
    if settings.METRICS_ADDRESS:
        _serve_metrics(*settings.METRICS_ADDRESS)
    threading.Thread(target=_announce, args=(kind,), name="announcing", daemon=True).start()


def list_processes() -> list[Announcement]:
    """Return the processes that were heard of lately, by kind and name; forget those that are long gone, and what is
    none of ours. Raises RedisError."""
    now, known = _redis_time(), []
    for field, value in _read_announcements().items():
        try:
            one = msgspec.json.decode(value, type=Announcement)
        except (msgspec.DecodeError, RecursionError):
            one = None
        if one is None or abs(now - one.at) > 60 * SILENT_SECONDS:  # Redis's clock may have been set back
            sync_redis().hdel(PROCESSES, field)
        elif abs(now - one.at) < SILENT_SECONDS:
            known.append(one)
    return sorted(known, key=lambda one: (one.kind, one.name))


def _read_announcements() -> dict[bytes, bytes]:
    try:
        found: Any = sync_redis().hgetall(PROCESSES)
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        sync_redis().unlink(PROCESSES)
        return {}
    return dict(found)


def _redis_time() -> float:
    """Return seconds since 1970. Processes are on machines whose clocks differ."""
    now: Any = sync_redis().time()
    return float(now[0]) + float(now[1]) / 1e6


# --- For Prometheus --------------------------------------------------------------------------------------------------


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """As the base class does, but for its question to the DNS, which may take its time."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 10  # seconds for a request to come

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: it would be a line every few seconds."""


def _serve_metrics(host: str, port: int) -> None:
    try:
        server = make_server(host, port, metrics_app, _Server6 if ":" in host else _Server, _Handler)
    except OSError as error:  # people are served all the same
        logger.error("Metrics are not served", extra={"address": f"{host}:{port}", "error": str(error)})
        return
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


def metrics_app(environ: dict[str, Any], start_response: Any) -> Any:
    """Answer Prometheus, if it has the token (WSGI)."""
    path = environ.get("PATH_INFO", "")
    registry = _served.get(path)
    given = environ.get("HTTP_AUTHORIZATION", "").encode("latin-1", "replace")
    if settings.METRICS_TOKEN and not compare_digest(given, f"Bearer {settings.METRICS_TOKEN}".encode()):
        return _refuse(start_response, REFUSED)
    if registry is None or environ.get("REQUEST_METHOD") != "GET":
        return _refuse(start_response, UNKNOWN)
    try:
        return make_wsgi_app(registry())({**environ, "PATH_INFO": "/"}, start_response)
    finally:
        connections.close_all()  # of this thread, which ends


def _refuse(start_response: Any, status: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain"), ("WWW-Authenticate", "Bearer")])
    return [status.encode() + b"\n"]


# --- For the operators' page -----------------------------------------------------------------------------------------


def _announce(kind: str) -> None:
    name, began_at = f"{socket.gethostname()}-{os.getpid()}", time()
    lags = _read_lags()
    while True:
        begun = monotonic()
        before, lags = lags, _read_lags()
        lag_seconds = _most_late(before, lags)
        said = Announcement(
            name=name,
            kind=kind,
            at=0,
            began_at=began_at,
            turns=int(REGISTRY.get_sample_value("tertulia_turns_running") or 0),
            pools=read_pools(),
            lag_seconds=min(lag_seconds, LAST_STEP) if lag_seconds is not None else None,  # JSON knows no infinity
            is_lag_longer=lag_seconds == float("inf"),
            megabytes=int((REGISTRY.get_sample_value("process_resident_memory_bytes") or 0) / 1_000_000),
            outcomes=_read_outcomes(),
        )
        try:
            said = msgspec.structs.replace(said, at=_redis_time())
            sync_redis().hset(PROCESSES, name, msgspec.json.encode(said))
        except RedisError:
            pass  # readyz says so
        except Exception:
            logger.exception("Process not announced")
        Event().wait(max(0.1, ANNOUNCE_SECONDS - (monotonic() - begun)))


def _read_lags() -> dict[float, float]:
    """Return how often the loop was at most so late, by seconds."""
    samples = next(iter(LOOP_LAG.collect())).samples
    return {float(one.labels["le"]): one.value for one in samples if one.name.endswith("_bucket")}


def _most_late(before: dict[float, float], after: dict[float, float]) -> float | None:
    """Return the step that holds the longest lag between two readings; None where nothing was measured."""
    grown = {step: after[step] - before.get(step, 0) for step in sorted(after)}
    total = grown[float("inf")]
    return next(step for step, count in grown.items() if count == total) if total else None


def _read_outcomes() -> dict[str, int]:
    found: dict[str, int] = {}
    for metric in REGISTRY.restricted_registry(["tertulia_turns_ended_total"]).collect():
        for sample in metric.samples:
            outcome = sample.labels["outcome"]
            found[outcome] = found.get(outcome, 0) + int(sample.value)
    return found
