"""Lets scripts of other sites read the API's answers, where an operator or a key says so. It is closed by itself, and
cookies never go along: what another site's script asks, it asks with a token or a key.

https://fetch.spec.whatwg.org/#http-cors-protocol
"""

import logging
from collections.abc import Awaitable

from corsheaders.middleware import CorsMiddleware
from corsheaders.signals import check_request_enabled
from django.db import OperationalError
from django.dispatch import receiver
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from accounts.origins import origins_of_keys
from chat.api.openai.errors import OPENAI_PATH
from core.threads import in_thread

logger = logging.getLogger(__name__)

PATHS = ("/api/v1/", OPENAI_PATH)


class ApiCorsMiddleware(CorsMiddleware):
    """The library's, which asks no database: what it needs to know of keys is read before, in a thread."""

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if not self.async_mode:
            read_origins(request)
        return super().__call__(request)

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        if "Origin" in request.headers:
            await in_thread(read_origins, request)
        return await super().__acall__(request)


def read_origins(request: HttpRequest) -> None:
    """Note on a request from another site's page which origins keys have."""
    if "Origin" in request.headers and request.path.startswith(PATHS):
        try:
            request.origins_of_keys = origins_of_keys()  # type: ignore[attr-defined]  # read below
        except OperationalError as error:
            logger.warning("Origins of keys unreachable", extra={"error": type(error).__name__})


@receiver(check_request_enabled)
def is_origin_of_a_key(request: HttpRequest, **_signal: object) -> bool:
    """Return whether some key may be used by scripts of that origin."""
    return request.headers.get("Origin", "") in getattr(request, "origins_of_keys", ())
