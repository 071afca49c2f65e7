"""A DomainError as an answer over HTTP, in the same shape on every API; and whether a page is asked for, or a part of
one."""

from typing import Any, NotRequired, TypedDict

from django.http import HttpRequest
from rest_framework.request import Request
from rest_framework.response import Response

from core.errors import DomainError


class ErrorBody(TypedDict):
    """Why something was refused: `code` is for programs, `detail` a sentence for people in the language of the
    request. `fields` says of invalid input what is wrong with each field; `retry_after` is in seconds."""

    code: str
    detail: str
    request_id: str
    fields: NotRequired[Any]
    retry_after: NotRequired[int]


def error_body(error: DomainError, request_id: str = "") -> ErrorBody:
    """Return the error, with `retry_after` where waiting helps."""
    body: ErrorBody = {"code": error.code, "detail": str(error.message), "request_id": request_id}
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
