"""The addresses for monitoring: whether the process is alive, and whether it can serve."""

import time
from collections.abc import Callable

import redis
from django.conf import settings
from django.db import connections
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from chat.turns import presence
from core.redis_clients import SYNC_OPTIONS


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """200 while the process answers at all."""
    return HttpResponse("ok\n", content_type="text/plain")


@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """200 when databases, Redis and a live runner answer, else 503; each named with its time in milliseconds."""
    checks: dict[str, Callable[[], object]] = {
        "database": lambda: _query("default"),
        "history": lambda: _query("history"),
        "redis": lambda: redis.Redis.from_url(settings.REDIS_URL, **SYNC_OPTIONS).ping(),
        "runner": presence.require_runner,
    }
    report = {name: _run_timed(check) for name, check in checks.items()}
    ready = all(part["ok"] for part in report.values())
    return JsonResponse({"ready": ready, **report}, status=200 if ready else 503)


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
