"""Middleware: an id for every request, in its logs, errors and answer; no copies of what is private; how many requests
are left; error pages for requests that are refused."""

import logging
import math
from collections.abc import Callable
from time import monotonic
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.conf import settings
from django.core.exceptions import FieldDoesNotExist
from django.db import DataError
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.middleware.gzip import GZipMiddleware
from django.middleware.security import SecurityMiddleware
from django.utils import timezone, translation
from django.utils.decorators import async_only_middleware, sync_and_async_middleware
from django.utils.deprecation import MiddlewareMixin
from django.utils.translation import gettext as _
from servestatic.middleware import ServeStaticMiddleware
from servestatic.responders import MissingFileError
from structlog.contextvars import bind_contextvars, clear_contextvars

from accounts.limits import Limit
from chat.api.openai.errors import OPENAI_PATH
from chat.batches.refusals import FILE_REFUSALS
from chat.errors import file_sentence_for
from config import pages
from config.bodies import TOO_LARGE
from config.logging import route_of
from core.errors import STORES_AWAY, DomainError, Unavailable, UnreadableRequest
from core.metrics import RESPONSES
from core.request_ids import request_id_of
from core.tracing import note_span
from history.transfer.refusals import REFUSALS

logger = logging.getLogger(__name__)

OF_THE_ADMIN = (ValueError, OverflowError, DataError, FieldDoesNotExist)
"""What Django's admin, which is left as it is, raises for some values that no field takes."""


def set_request_id(request: HttpRequest) -> str:
    """Keep the id the client or a proxy sent, if it is well formed, else make one; return it."""
    request_id = request_id_of(request.headers.get("X-Request-ID", ""))
    request.request_id = request_id  # type: ignore[attr-defined]  # read by core.http
    clear_contextvars()
    bind_contextvars(request_id=request_id)
    return request_id


def note_answer(request: HttpRequest, response: HttpResponse, used_id: str, begun: float) -> HttpResponse:
    """Give the answer its id, and count it. The rest of a stream comes after that."""
    response["X-Request-ID"] = used_id
    status = response.status_code
    RESPONSES.labels(f"{status // 100}xx").inc()
    note_span("request", monotonic() - begun, method=request.method or "", route=route_of(request), status=status)
    return response


@sync_and_async_middleware
def request_id(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    if iscoroutinefunction(get_response):

        async def handle(request: HttpRequest) -> HttpResponse:
            begun, used_id = monotonic(), set_request_id(request)
            response: HttpResponse = await get_response(request)
            return note_answer(request, response, used_id, begun)

        return handle

    def handle_sync(request: HttpRequest) -> HttpResponse:
        begun, used_id = monotonic(), set_request_id(request)
        response: HttpResponse = get_response(request)
        return note_answer(request, response, used_id, begun)

    return handle_sync


class StaticFilesMiddleware(ServeStaticMiddleware):  # type: ignore[misc]  # it has no types
    """Serves static files. One there is not is not found, with DEBUG too, where the library's own makes it an error."""

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        try:
            response: HttpResponseBase = await super().__call__(request)
        except MissingFileError:
            response = await self.get_response(request)
        return response


@sync_and_async_middleware
def private(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Forbid browsers and proxies to store what is somebody's."""
    if iscoroutinefunction(get_response):

        async def handle(request: HttpRequest) -> HttpResponse:
            response: HttpResponse = await get_response(request)
            return forbid_storing(request, response)

        return handle

    return lambda request: forbid_storing(request, get_response(request))


def forbid_storing(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """Forbid it for the API and for every browser that has a session, or gets one: nobody is asked whose. An answer
    that says itself that it is everybody's may be kept."""
    if "public" in response.get("Cache-Control", ""):
        return response
    if (
        request.path.startswith(("/api/", OPENAI_PATH))
        or settings.SESSION_COOKIE_NAME in request.COOKIES
        or settings.SESSION_COOKIE_NAME in response.cookies
    ):
        response["Cache-Control"] = "no-store"
    return response


@async_only_middleware
def security_of_programs(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Django's SecurityMiddleware, which only computes, without its hops to a thread."""
    django = SecurityMiddleware(get_response)

    async def handle(request: HttpRequest) -> HttpResponseBase:
        response = django.process_request(request) or await get_response(request)
        return django.process_response(request, response)

    return handle


@async_only_middleware
def language_of_programs(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Speak the language that the request accepts, without cookies and sessions."""

    async def handle(request: HttpRequest) -> HttpResponseBase:
        with translation.override(translation.get_language_from_request(request)):
            timezone.deactivate()
            request.LANGUAGE_CODE = translation.get_language()
            response: HttpResponseBase = await get_response(request)
        return response

    return handle


@sync_and_async_middleware
def rate_limit(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Say in every answer of the API how many requests are left, where they are counted; a question says how many
    questions are."""
    if iscoroutinefunction(get_response):

        async def handle(request: HttpRequest) -> HttpResponse:
            return set_limit(request, await get_response(request))

        return handle

    return lambda request: set_limit(request, get_response(request))


def set_limit(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    limit: Limit | None = getattr(request, "limit", None)
    if limit is not None:
        response["RateLimit-Limit"] = str(limit.limit)
        response["RateLimit-Remaining"] = str(limit.remaining)
        response["RateLimit-Reset"] = str(math.ceil(limit.reset_seconds))
    return response


class CompressionMiddleware(GZipMiddleware):
    """Compresses pages, their fragments and the API documents; no streams, files and answers of the API.

    How long a compressed page is tells whoever sees its length, and can put a guess into its address, what else is in
    it (BREACH). So whoever is logged in and is sent here by another site gets the page as it is: no other site can have
    a guess compressed. Where a browser does not say who sends it there is Django's padding of random length; and of a
    token for forms each page has another one."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        kind = response.get("Content-Type", "")
        is_large_text = not response.streaming and kind.startswith(("text/html", "application/vnd.oai.openapi"))
        if not is_large_text or is_led_here_by_others(request):
            return response
        return super().process_response(request, response)


def is_led_here_by_others(request: HttpRequest) -> bool:
    """Return whether another site makes the browser of somebody who is logged in ask for this."""
    return settings.SESSION_COOKIE_NAME in request.COOKIES and request.headers.get("Sec-Fetch-Site", "none") not in (
        "none",
        "same-origin",
    )


@sync_and_async_middleware
def too_large(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Refuse a request whose body config/bodies.py stopped reading: as a page or as the API does, in its language."""

    def refuse(request: HttpRequest) -> HttpResponse:
        kind = request.scope[TOO_LARGE]  # type: ignore[attr-defined]
        if kind == "crowd":
            return pages.too_many(request)
        if kind == "file":
            return pages.error_page(request, 413, "file_too_large", file_sentence_for("file_too_large"))
        if kind == "import":
            return pages.error_page(request, 413, "import_too_large", str(REFUSALS["import_too_large"]))
        if kind == "batch":
            return pages.error_page(request, 413, "batch_too_large", str(FILE_REFUSALS["batch_too_large"]))
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
    """Shows a page for a view's DomainError, for a store that cannot be reached, and in the admin, whose forms are
    Django's, for a value that no field takes. The API answers its own errors."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if isinstance(exception, STORES_AWAY):
            logger.warning("Store unreachable", extra={"route": route_of(request), "error": type(exception).__name__})
            exception = Unavailable(retry_after=5)
        if isinstance(exception, OF_THE_ADMIN) and _is_admins(request):
            logger.warning(
                "Refused in the admin", extra={"route": route_of(request), "error": type(exception).__name__}
            )
            exception = UnreadableRequest()
        if isinstance(exception, DomainError):
            response = pages.error_page(request, exception.status, exception.code, str(exception.message))
            if exception.retry_after is not None:
                response["Retry-After"] = str(max(1, round(exception.retry_after)))
            return response
        return None


def _is_admins(request: HttpRequest) -> bool:
    return request.resolver_match is not None and request.resolver_match.app_name == "admin"
