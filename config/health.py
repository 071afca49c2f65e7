"""The addresses for monitoring: whether the process is alive, and whether it can serve."""

import asyncio
import time
from collections.abc import Callable
from threading import Lock
from typing import Any

from django.db import connections
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from chat.turns import presence
from chat.turns.delivery import DELIVERY_SECONDS, prove_delivery
from core.loops import forget_this_loop, serving_loop
from core.redis_clients import close_async_redis, sync_redis

SHARED_SECONDS = 1.0
"""How long a report is good for whoever asks next: monitors ask rarely, and others must not make the stores work."""

_asking = Lock()
_reported_at = 0.0
_report: dict[str, Any] = {}


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """200 while the process answers at all."""
    return HttpResponse("ok\n", content_type="text/plain")


@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """200 when databases, Redis and a live runner answer, and a word came through Redis to a reader of this process,
    else 503; each named with its time in milliseconds."""
    global _reported_at, _report
    with _asking:
        if not _report or time.monotonic() - _reported_at >= SHARED_SECONDS:
            _report = ask_everything()
            _reported_at = time.monotonic()
        report = _report
    return JsonResponse(report, status=200 if report["ready"] else 503)


def ask_everything() -> dict[str, Any]:
    checks: dict[str, Callable[[], object]] = {
        "database": lambda: _query("default"),
        "history": lambda: _query("history"),
        "redis": sync_redis().ping,
        "runner": presence.require_runner,
        "delivery": _deliver,
    }
    report = {name: _run_timed(check) for name, check in checks.items()}
    return {"ready": all(part["ok"] for part in report.values()), **report}


def _deliver() -> None:
    """Have a word delivered on the loop that serves this process's readers; where there is none, on another."""
    if (loop := serving_loop()) is not None:
        asyncio.run_coroutine_threadsafe(prove_delivery(), loop).result(DELIVERY_SECONDS + 1)
    else:
        asyncio.run(_deliver_alone())


async def _deliver_alone() -> None:
    try:
        await prove_delivery()
    finally:
        await close_async_redis()
        forget_this_loop()


def _query(alias: str) -> None:
    connection = connections[alias]
    if connection.vendor == "mongodb":
        connection.database.client.admin.command("ping")  # type: ignore[attr-defined]
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _run_timed(check: Callable[[], object]) -> dict[str, object]:
    begun = time.perf_counter()
    try:
        check()
        ok = True
    except Exception:  # noqa: BLE001  any error means that this part is not ready
        ok = False
    return {"ok": ok, "ms": round((time.perf_counter() - begun) * 1000, 1)}
