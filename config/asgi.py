"""The ASGI application: pages and API by Django, the OpenAI-compatible API by Django with less around it, the socket by
Channels."""

import asyncio
import os
import re
from typing import Any

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.handlers.asgi import ASGIHandler

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
http = get_asgi_application()  # before anything that imports models

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402

from chat.api.openai.errors import OPENAI_PATH  # noqa: E402
from chat.socket.routing import socket_urlpatterns  # noqa: E402
from config.bodies import App, Receive, Send, limit_bodies  # noqa: E402
from config.requests_at_once import limit_requests  # noqa: E402
from core import interpreter  # noqa: E402
from core.loops import serve_on_this_loop  # noqa: E402
from core.metrics import watch_loop  # noqa: E402
from core.watching import start_watching  # noqa: E402


class ProgramsHandler(ASGIHandler):
    """Django with the middleware that programs need, which ask without sessions, forms and cookies: each of the others
    is a hop to a thread and back, and all of them cost more than the request."""

    def load_middleware(self, is_async: bool = False) -> None:
        every, settings.MIDDLEWARE = settings.MIDDLEWARE, settings.MIDDLEWARE_OF_PROGRAMS
        try:
            super().load_middleware(is_async)
        finally:
            settings.MIDDLEWARE = every

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request without threads of its own: Django starts three. What it does in a thread, its signals and
        closing the response, is done by one that the process has for that; nothing there may wait for a store."""
        await self.handle(scope, receive, send)


programs = ProgramsHandler()

BEYOND_ASCII = re.compile(rb"[\x80-\xff]")


async def by_path(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    app: Any = programs if scope["path"].startswith(OPENAI_PATH) else http
    await app(scope, receive, send)


def in_utf8(app: App) -> App:
    """Return the application with bodies in UTF-8, whatever a request says, and queries as they must be written (RFC
    3986). Django would decode by any codec of Python's, be it one that decompresses, and has an answer without a word
    for other queries, before any middleware."""

    async def handle(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        scope["headers"] = [
            (name, _without_charset(value) if name == b"content-type" else value) for name, value in scope["headers"]
        ]
        scope["query_string"] = BEYOND_ASCII.sub(lambda byte: b"%%%02X" % ord(byte[0]), scope["query_string"])
        await app(scope, receive, send)

    return handle


def _without_charset(content_type: bytes) -> bytes:
    """Not by a regular expression: for 60,000 blanks one took eleven seconds, and the whole process with it."""
    kept = [part for part in content_type.split(b";") if part.partition(b"=")[0].strip().lower() != b"charset"]
    return b";".join(kept)


async def lifespan(_scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Begin and end with the server (ASGI): this process is watched while it serves."""
    watching: asyncio.Task[None] | None = None
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            serve_on_this_loop()
            start_watching("web")
            watching = asyncio.create_task(watch_loop())
        elif watching is not None:
            watching.cancel()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


pages_and_api = limit_bodies(limit_requests(in_utf8(by_path)))
socket: Any = URLRouter(socket_urlpatterns)  # type: ignore[arg-type]
application = ProtocolTypeRouter({"http": pages_and_api, "websocket": socket, "lifespan": lifespan})

interpreter.tune_for_serving()
