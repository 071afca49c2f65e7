"""Middleware: an id for every request, in its logs, errors and answer; error pages for requests that are refused."""

import logging as log
import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import sync_and_async_middleware
from django.utils.deprecation import MiddlewareMixin
from django.utils.translation import gettext as _
from redis.exceptions import RedisError

from chat.errors import file_sentence_for
from config import logging, pages
from config.bodies import TOO_LARGE
from core.errors import DomainError, Unavailable

logger = log.getLogger(__name__)

VALID_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


def set_request_id(request: HttpRequest) -> str:
    """Keep the id the client or a proxy sent, if it is well formed, else make one; return it."""
    given = request.headers.get("X-Request-ID", "")
    request_id = given if VALID_ID.fullmatch(given) else uuid4().hex
    request.request_id = request_id  # type: ignore[attr-defined]  # read by core.http
    logging.current_request_id.set(request_id)
    return request_id


@sync_and_async_middleware
def request_id(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    if iscoroutinefunction(get_response):

        async def handle(request: HttpRequest) -> HttpResponse:
            used_id = set_request_id(request)
            response: HttpResponse = await get_response(request)
            response["X-Request-ID"] = used_id
            return response

        return handle

    def handle_sync(request: HttpRequest) -> HttpResponse:
        used_id = set_request_id(request)
        response: HttpResponse = get_response(request)
        response["X-Request-ID"] = used_id
        return response

    return handle_sync


@sync_and_async_middleware
def too_large(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Refuse a request whose body config/bodies.py stopped reading: as a page or as the API does, in its language."""

    def refuse(request: HttpRequest) -> HttpResponse:
        if request.scope[TOO_LARGE] == "file":  # type: ignore[attr-defined]
            return pages.error_page(request, 413, "file_too_large", file_sentence_for("file_too_large"))
        return pages.error_page(request, 413, "too_large", _("That is too large to send."))

    if iscoroutinefunction(get_response):

        async def handle(request: HttpRequest) -> HttpResponse:
            if getattr(request, "scope", {}).get(TOO_LARGE, "notification") != "notification":
                return await sync_to_async(refuse)(request)
            response: HttpResponse = await get_response(request)
            return response

        return handle

    return get_response


class RefusalMiddleware(MiddlewareMixin):
    """Shows a page for a view's DomainError, and for a store that cannot be reached. The API answers its own errors."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if isinstance(exception, RedisError | OperationalError):
            logger.warning("Store unreachable", extra={"path": request.path, "error": type(exception).__name__})
            exception = Unavailable(retry_after=5)
        if isinstance(exception, DomainError):
            response = pages.error_page(request, exception.status, exception.code, str(exception.message))
            if exception.retry_after is not None:
                response["Retry-After"] = str(max(1, round(exception.retry_after)))
            return response
        return None
