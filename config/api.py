"""The addresses of the API, and its error answers, which all have one shape."""

import logging
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import include, path, re_path
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_exempt
from redis.exceptions import RedisError
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from accounts import limits
from accounts.http import peer_of
from chat.api.openai.errors import OPENAI_PATH, in_openai_shape
from config.logging import route_of
from core.errors import DomainError, NotFound, RateLimited, Unavailable, UnreadableRequest
from core.http import error_response

logger = logging.getLogger(__name__)


@csrf_exempt
def unknown(request: HttpRequest) -> HttpResponse:
    """No address of ours. Without it Django would answer, in DEBUG with a page."""
    raise NotFound


urlpatterns = [
    path("", include("accounts.api.urls")),
    path("", include("billing.api.urls")),
    path("", include("history.api.urls")),
    path("", include("chat.api.urls")),
    path("", include("chat.batches.api_urls")),
    re_path("", unknown),
]


BEFORE_THROTTLES = (DomainError, PermissionDenied, exceptions.APIException)


class Unexpected(DomainError):
    code = "internal_error"
    status = 500


class TooLarge(DomainError):
    code = "too_large"
    status = 413


def exception_handler(error: Exception, context: dict[str, Any]) -> HttpResponse:
    """Answer every error as `{"code", "detail", "request_id"}`, plus `fields` and `retry_after` where they apply; under
    `/v1/` as OpenAI's API does."""
    response = _answer(_count_refused(error, context), context)
    if not context["request"].path.startswith(OPENAI_PATH):
        return response
    return in_openai_shape(response, response.data, parameter=getattr(error, "parameter", ""))


def _count_refused(error: Exception, context: dict[str, Any]) -> Exception:
    """Count a request that REST framework refused before it asked the throttles, for who sent it or for what they may;
    return the error, or the one of the limit."""
    request = context["request"]
    if hasattr(request._request, "limit") or not isinstance(error, BEFORE_THROTTLES):
        return error
    try:
        limit = limits.count_request(user_id=None, peer=peer_of(request))
    except RateLimited as limited:
        error, limit = limited, limited.limit
    except RedisError as away:
        return away
    limits.say_limit(request, limit)
    return error


def _answer(error: Exception, context: dict[str, Any]) -> Response:
    set_rollback()
    request = context["request"]
    match error:
        case DomainError():
            return error_response(error, request)
        case Http404():
            return error_response(NotFound(), request)
        case RequestDataTooBig():
            return error_response(TooLarge(_("That is too large to send.")), request)
        case SuspiciousOperation():  # such as a form of more than 1,000 fields
            return error_response(UnreadableRequest(), request)
        case exceptions.Throttled():
            return error_response(RateLimited(retry_after=getattr(error, "wait", None)), request)
        case exceptions.ValidationError():
            response = error_response(_domain_error(error, "invalid", _("Some of that is not valid.")), request)
            response.data["fields"] = error.detail
            return response
        case PermissionDenied():
            return error_response(_domain_error(exceptions.PermissionDenied(), "forbidden"), request)
        case exceptions.APIException():
            response = error_response(_domain_error(error), request)
            if isinstance(error, exceptions.AuthenticationFailed | exceptions.NotAuthenticated):
                # REST framework makes it a 403 where a view has no authenticators, as logging in has none.
                response.status_code = 401
                response["WWW-Authenticate"] = getattr(error, "auth_header", None) or 'Bearer realm="api"'
            return response
        case RedisError() | OperationalError():
            logger.warning(
                "Store unreachable", extra={"route": route_of(request._request), "error": type(error).__name__}
            )
            return error_response(Unavailable(retry_after=5), request)
    logger.error("Unexpected error in the API", exc_info=error, extra={"route": route_of(request._request)})
    return error_response(
        Unexpected(_("Something went wrong on our side. Nothing was lost; please try again.")), request
    )


def _domain_error(error: exceptions.APIException, code: str = "", message: str = "") -> DomainError:
    """Return a REST framework error as ours."""
    detail: Any = error.detail
    if isinstance(detail, dict):  # simplejwt's errors
        detail = detail.get("detail", "")
    codes = error.get_codes()
    domain_error = DomainError(
        message or str(detail), code=code or (codes if isinstance(codes, str) else error.default_code)
    )
    domain_error.status = error.status_code
    return domain_error
