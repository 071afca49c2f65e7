"""A DomainError as an answer over HTTP, in the same shape on every API; and whether a page is asked for, or a part of
one."""

from typing import Any

from django.http import HttpRequest
from rest_framework.request import Request
from rest_framework.response import Response

from core.errors import DomainError


def error_body(error: DomainError, request_id: str = "") -> dict[str, Any]:
    """Return `{"code", "detail", "request_id"}`, and `retry_after` (seconds) where waiting helps."""
    body: dict[str, Any] = {"code": error.code, "detail": str(error.message), "request_id": request_id}
    if error.retry_after is not None:
        body["retry_after"] = max(1, round(error.retry_after))
    return body


def error_response(error: DomainError, request: HttpRequest | Request) -> Response:
    body = error_body(error, getattr(request, "request_id", ""))
    response = Response(body, status=error.status)
    if "retry_after" in body:
        response["Retry-After"] = str(body["retry_after"])
    return response


def is_fragment(request: HttpRequest) -> bool:
    """Return whether htmx asks, or a script of ours: for a part of a page."""
    return request.headers.get("HX-Request") == "true"
