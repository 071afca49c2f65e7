"""A name for every request, in its logs, its errors and its answer."""

import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import sync_and_async_middleware

from config import logging

WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{8,64}")


def name(request: HttpRequest) -> str:
    given = request.headers.get("X-Request-ID", "")
    request_id = given if WELL_FORMED.fullmatch(given) else uuid4().hex
    request.request_id = request_id  # type: ignore[attr-defined]  # read by accounts.http
    logging.request_id.set(request_id)
    return request_id


@sync_and_async_middleware
def request_id(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    if iscoroutinefunction(get_response):

        async def handle(request: HttpRequest) -> HttpResponse:
            given = name(request)
            response: HttpResponse = await get_response(request)
            response["X-Request-ID"] = given
            return response

        return handle

    def handle_sync(request: HttpRequest) -> HttpResponse:
        given = name(request)
        response: HttpResponse = get_response(request)
        response["X-Request-ID"] = given
        return response

    return handle_sync
