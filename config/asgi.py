"""The ASGI application: pages and API by Django, the socket by Channels."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
http = get_asgi_application()  # before anything that imports models

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402

from chat.socket.routing import socket_urlpatterns  # noqa: E402
from config.bodies import limit_bodies  # noqa: E402
from config.requests_at_once import limit_requests  # noqa: E402
from core import interpreter  # noqa: E402

pages_and_api = limit_bodies(limit_requests(http))  # type: ignore[arg-type]
application = ProtocolTypeRouter({"http": pages_and_api, "websocket": URLRouter(socket_urlpatterns)})  # type: ignore[arg-type]

interpreter.tune_for_serving()
