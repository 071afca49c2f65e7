"""The socket's address."""

from typing import Any

from django.urls import path, re_path

from chat.socket.consumer import TurnConsumer


async def refuse_elsewhere(_scope: Any, receive: Any, send: Any) -> None:
    """Refuse a socket at any other address (ASGI): Channels would raise an error, and each is logged with its
    traceback, however often anybody asks."""
    await receive()
    await send({"type": "websocket.close"})


socket_urlpatterns = [
    path("ws/", TurnConsumer.as_asgi()),  # type: ignore[arg-type]  # an ASGI application, which Channels routes to
    re_path("", refuse_elsewhere),  # type: ignore[arg-type]
]
