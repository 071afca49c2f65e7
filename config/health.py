"""Is the process up; can it serve."""

import time
from collections.abc import Callable

import redis
from django.conf import settings
from django.db import connections
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from chat.turns import presence


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """200 while the process answers at all."""
    return HttpResponse("ok\n", content_type="text/plain")


@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """200 when databases, Redis and a live runner answer, else 503; each named with its time in milliseconds."""
    checks: dict[str, Callable[[], object]] = {
        "database": lambda: _ask("default"),
        "history": lambda: _ask("history"),
        "redis": lambda: redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2).ping(),
        "runner": presence.require_runner,
    }
    report = {name: _time(check) for name, check in checks.items()}
    ready = all(part["ok"] for part in report.values())
    return JsonResponse({"ready": ready, **report}, status=200 if ready else 503)


def _ask(alias: str) -> None:
    connection = connections[alias]
    if connection.vendor == "mongodb":
        connection.database.client.admin.command("ping")  # type: ignore[attr-defined]
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _time(check: Callable[[], object]) -> dict[str, object]:
    begun = time.perf_counter()
    try:
        check()
        ok = True
    except Exception:  # noqa: BLE001  whatever it is, this part is not ready; which one it is is the answer
        ok = False
    return {"ok": ok, "ms": round((time.perf_counter() - begun) * 1000, 1)}
