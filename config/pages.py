"""Pages that belong to no app: the terms, the status of the providers, and error pages."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.clickjacking import xframe_options_sameorigin
from django.views.decorators.http import require_safe

from accounts.context import THEME_COOKIE
from chat.api.openai.errors import OPENAI_PATH, openai_error
from chat.llm.health.overview import list_provider_health
from core.errors import DomainError, NotFound, RateLimited, UnreadableRequest
from core.http import error_body, is_fragment

STATES = ("operational", "unknown", "degraded", "unavailable")
"""From the best to the worst."""
DIAGRAM_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'self' blob:; style-src 'self' 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
INTO_THE_DIALOG = {"HX-Retarget": "#dialog-content", "HX-Reswap": "innerHTML"}


@require_safe
def terms(request: HttpRequest) -> HttpResponse:
    return render(request, "pages/terms.html")


@require_safe
def robots(request: HttpRequest) -> HttpResponse:
    """What robots may read. Search engines that heed `noindex` may read shared pages, or they would list the bare links
    they find elsewhere; all others are to stay away."""
    return render(request, "pages/robots.txt", content_type="text/plain; charset=utf-8")


@require_safe
def status(request: HttpRequest) -> HttpResponse:
    """The state of the providers, for everybody, as Redis has it: no provider is called."""
    providers = list_provider_health()
    worst = max((STATES.index(one.state) for one in providers or ()), default=0)
    page = {"providers": providers, "worst": STATES[worst], "now": timezone.now()}
    return render(request, "pages/status.html", page)


@require_safe
@xframe_options_sameorigin
def diagram(request: HttpRequest) -> HttpResponse:
    """The frame that draws a diagram (static/js/diagram.js): whatever runs in it has no origin and reaches nothing."""
    response = render(request, "pages/diagram.html")
    response["Content-Security-Policy"] = DIAGRAM_POLICY
    return response


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_page(request, UnreadableRequest.status, UnreadableRequest.code, str(UnreadableRequest.message))


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_page(request, 403, "forbidden", _("This page is not for your account."))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_page(request, 404, NotFound.code, str(NotFound.message))


def too_many(request: HttpRequest) -> HttpResponse:
    """The answer to a request that exceeds one of allauth's limits."""
    return error_page(request, RateLimited.status, RateLimited.code, str(RateLimited.message))


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    sentence = _(
        "This form is too old, or was opened before you logged in. Go back, reload the page and send it again."
    )
    return error_page(request, 403, "csrf", sentence)


def server_error(request: HttpRequest) -> HttpResponse:
    sentence = _("Something went wrong on our side. Nothing was lost; please try again.")
    return error_page(request, 500, "internal_error", sentence)


def error_page(request: HttpRequest, status: int, code: str, sentence: str) -> HttpResponse:
    """Return the error: under `/api/` and `/v1/` as the API does, for htmx as what fits into the dialog, else as a page
    with links to go on."""
    request_id = getattr(request, "request_id", "")
    if request.path.startswith(OPENAI_PATH):
        status, body = openai_error(code, sentence, status=status)
        return JsonResponse(body, status=status)
    if request.path.startswith("/api/"):
        return JsonResponse(error_body(DomainError(sentence, code=code), request_id), status=status)
    if is_fragment(request):
        fragment = render_to_string("pages/_error.html", {"sentence": sentence})
        return HttpResponse(fragment, status=status, headers=INTO_THE_DIALOG)
    context = {"status": status, "sentence": sentence, "request_id": request_id}
    if status < 500:
        return render(request, "pages/error.html", context, status=status)
    # Without the member: the store of sessions may be what cannot be reached.
    page = {**context, "site_name": settings.SITE_NAME, "theme": request.COOKIES.get(THEME_COOKIE, "system")}
    return HttpResponse(render_to_string("pages/error.html", page), status=status)
