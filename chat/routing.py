"""The socket's address."""

from django.urls import path

from chat.consumers import TurnConsumer

socket_urlpatterns = [path("ws/", TurnConsumer.as_asgi())]
