"""Errors as OpenAI's API has them, so that its SDKs raise their own exceptions for ours: the status decides which.

`{"error": {"message", "type", "param", "code"}}`. Codes are OpenAI's where it has one for the same; else they are ours.
"""

from collections.abc import Mapping
from typing import Any

from django.http import HttpResponseBase, JsonResponse
from django.utils.translation import gettext, gettext_noop

from chat.errors import OF_ANSWERS, sentence_for
from history.models import Turn

OPENAI_PATH = "/v1/"
"""Where OpenAI's API is."""

_KEPT_HEADERS = ("Retry-After", "WWW-Authenticate")

_AS_OPENAI: dict[str, tuple[int, str]] = {
    "allowance_used_up": (429, "insufficient_quota"),
    "text_too_long": (400, "context_length_exceeded"),
    "context_exceeded": (400, "context_length_exceeded"),
    "unknown_model": (404, "model_not_found"),
    "bad_effort": (400, "unsupported_value"),
    "rate_limited": (429, "rate_limit_exceeded"),
    "too_many_at_once": (429, "rate_limit_exceeded"),
    "too_many_streams": (429, "rate_limit_exceeded"),
    "key_not_valid": (401, "invalid_api_key"),
    "token_not_valid": (401, "invalid_api_key"),
    "not_authenticated": (401, "invalid_api_key"),
    "authentication_failed": (401, "invalid_api_key"),
}
"""Where OpenAI says it in another way: by our code, its status and its code."""

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}

RETRY_SECONDS = 5
"""When to ask again where nothing says better: as long as the site says where one of its stores is away."""

_NOT_AGAIN = frozenset(
    ("insufficient_quota", "spend_limit", "conflict", "stopped", "authentication", "permission", "given_up")
)
"""What the same request would be told again: OpenAI's SDKs repeat it unless they are told not to."""

_ENDED: dict[str, int] = {
    "authentication": 503,
    "permission": 503,
    "rate_limited": 429,
    "overloaded": 503,
    "timeout": 504,
    "context_exceeded": 400,
    "bad_request": 400,
    "queue_timeout": 503,
    "runner_lost": 503,
    "asked_lost": 503,
    "given_up": 500,
    "internal_error": 500,
    "not_in_plan": 403,
    "no_model": 503,
    "no_vision": 400,
}
"""The status of a turn that failed, by its code; of others it is the provider's fault, a 502."""

STOPPED = gettext_noop("That was asked before, and its answer was stopped. Ask again with another “Idempotency-Key”.")
"""For who asks again: what there is of it must not pass for all of it."""


def openai_error(code: str, sentence: str, *, status: int, parameter: str = "") -> tuple[int, dict[str, Any]]:
    """Return the status and the body of an error of ours."""
    status, code = _AS_OPENAI.get(code, (status, code))
    if status in (413, 415, 422):
        status = 400
    kind = "insufficient_quota" if code == "insufficient_quota" else _TYPES.get(status)
    kind = kind or ("invalid_request_error" if status < 500 else "server_error")
    return status, {"error": {"message": sentence, "type": kind, "param": parameter or None, "code": code}}


def in_openai_shape(response: HttpResponseBase, body: Mapping[str, Any], *, parameter: str = "") -> JsonResponse:
    """Return an answer of our API with an error in it, whose body is given, as OpenAI's API would answer."""
    status, error = openai_error(body["code"], body["detail"], status=response.status_code, parameter=parameter)
    answer = JsonResponse(error, status=status)
    for name in _KEPT_HEADERS:
        if name in response:
            answer[name] = response[name]
    return with_retry(answer, error["error"]["code"])


def error_of_turn(turn: Turn, *, is_new: bool = True) -> tuple[int, dict[str, Any]] | None:
    """Return the status and the body for a turn that ended without an answer; None where what it has is one. `is_new`:
    whether this request began it, rather than one before with the same `Idempotency-Key`."""
    if turn.status == Turn.Status.COMPLETED or turn.error in OF_ANSWERS:
        return None
    if turn.status == Turn.Status.STOPPED:
        return None if is_new else openai_error("stopped", gettext(STOPPED), status=409)
    return openai_error(turn.error, sentence_for(turn.error), status=_ENDED.get(turn.error, 502))


def response_to_turn(turn: Turn, *, is_new: bool = True) -> JsonResponse | None:
    """Return the answer for such a turn, where nothing was answered yet."""
    found = error_of_turn(turn, is_new=is_new)
    if found is None:
        return None
    status, body = found
    return with_retry(JsonResponse(body, status=status), body["error"]["code"], is_final=not is_new)


def with_retry(response: JsonResponse, code: str, *, is_final: bool = False) -> JsonResponse:
    """Say in the headers whether the same request may be sent again, and when. `is_final`: it was, and will be told the
    same each time, since something of its answer was written and paid for."""
    if is_final or code in _NOT_AGAIN:
        response["x-should-retry"] = "false"
    elif response.status_code in (429, 503) and "Retry-After" not in response:
        response["Retry-After"] = str(RETRY_SECONDS)
    return response
