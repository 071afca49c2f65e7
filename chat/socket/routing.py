"""The socket's address."""

from django.urls import path

from chat.socket.consumer import TurnConsumer

socket_urlpatterns = [
    path("ws/", TurnConsumer.as_asgi()),  # type: ignore[arg-type]  # an ASGI application, which Channels routes to
]
