"""The address that `manage.py doctor` asks through whatever stands before the site: what arrives of its request here.

It answers whoever has a word that doctor has just put into Redis, once, and nobody else.
"""

import asyncio
from collections.abc import AsyncGenerator

import msgspec
from django.http import Http404, HttpRequest, StreamingHttpResponse
from django.views.decorators.http import require_GET

from accounts.http import peer_of
from core.redis_clients import async_redis, sync_redis

FORGED = "192.0.2.1"
"""An address of nobody (RFC 5737), which doctor claims to have, as a stranger might."""
GAP_SECONDS = 1.0
"""Between the first part of the answer and the last: a proxy that holds answers back sends both at once."""
WORD_SECONDS = 60


class Seen(msgspec.Struct, frozen=True):
    """`peer` is whom the site takes the client for; `added` is how many addresses of X-Forwarded-For proxies wrote."""

    peer: str
    added: int
    is_secure: bool


def allow_probe(word: str) -> None:
    sync_redis().set(_key(word), b"1", ex=WORD_SECONDS)


@require_GET
async def probed(request: HttpRequest, word: str) -> StreamingHttpResponse:
    if not await async_redis().delete(_key(word)):
        raise Http404
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR", "")
    added = sum(address.strip() not in ("", FORGED) for address in forwarded.split(","))
    seen = Seen(peer_of(request), added, request.is_secure())
    response = StreamingHttpResponse(_parts(seen), content_type="text/event-stream")
    response["X-Accel-Buffering"] = "no"  # as every event stream of ours
    return response


async def _parts(seen: Seen) -> AsyncGenerator[bytes]:
    yield msgspec.json.encode(seen) + b"\n"
    await asyncio.sleep(GAP_SECONDS)
    yield b"\n"


def _key(word: str) -> str:
    return f"probed:{word}"
