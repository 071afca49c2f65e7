"""Shows pages in a member's language and time zone (for visitors, the browser's language stays), leads whoever is about
to leave to the one page they have, notes where members are logged in, and gives the page of a refused form its status.
"""

import math
from contextlib import suppress

from django.conf import settings
from django.forms import BaseForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import Resolver404, resolve, reverse
from django.utils import timezone, translation
from django.utils.deprecation import MiddlewareMixin
from structlog.contextvars import bind_contextvars

from accounts.devices import add_cookie, note_session
from accounts.models import User
from accounts.refusals import find_refusal
from core.errors import STORES_AWAY
from core.http import is_fragment

APIS = ("/api/", "/v1/")
OPEN_WHILE_LEAVING = frozenset(
    (
        *("close_account", "keep_account", "account_logout"),
        *("account_reauthenticate", "mfa_reauthenticate", "mfa_reauthenticate_webauthn", "confirm_otherwise"),
        *("social_log_in", "github_callback", "google_callback", "microsoft_callback", "openid_connect_callback"),
        *("export_all", "transfer_progress", "download_export"),
        *("set_language", "set_theme", "terms", "status", "robots"),
    )
)
"""The pages, by their names, for somebody whose account is being closed."""


class MemberMiddleware(MiddlewareMixin):
    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        timezone.deactivate()
        if settings.SESSION_COOKIE_NAME not in request.COOKIES:
            return None
        try:
            if not isinstance(request.user, User):
                return None
        except STORES_AWAY:
            return None  # the view will fail in the same way, and answer with an error page
        bind_contextvars(user_id=request.user.pk)
        use_locale_of(request.user)
        request.LANGUAGE_CODE = translation.get_language() or settings.LANGUAGE_CODE
        return _lead_to_farewell(request) if request.user.closes_at else None


class DevicesMiddleware(MiddlewareMixin):
    """Notes which sessions are used, and gives browsers the cookie by which they are known."""

    def process_request(self, request: HttpRequest) -> None:
        if settings.SESSION_COOKIE_NAME not in request.COOKIES:
            return
        with suppress(*STORES_AWAY):  # the view will fail in the same way
            if isinstance(request.user, User):
                note_session(request, request.user)

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        add_cookie(request, response)
        return response


def use_locale_of(user: User) -> None:
    """Switch this thread or task to the member's language and time zone."""
    translation.activate(user.locale)
    timezone.activate(user.zone)


def _lead_to_farewell(request: HttpRequest) -> HttpResponse | None:
    """Return the way to the page on which an account that is being closed can be kept; None where the request may pass:
    the API refuses for itself."""
    try:
        match = resolve(request.path_info)
    except Resolver404:
        return None
    if request.path_info.startswith(APIS) or match.url_name in OPEN_WHILE_LEAVING:
        return None
    if is_fragment(request):  # htmx would put the page into the middle of another
        return HttpResponse(status=403, headers={"HX-Redirect": reverse("close_account")})
    return redirect("close_account")


class RefusedFormMiddleware(MiddlewareMixin):
    """The page with a form that a limit refused is a 429, and a 503 where too many are at it, with the time to wait."""

    def process_template_response(self, request: HttpRequest, response: TemplateResponse) -> TemplateResponse:
        form = (response.context_data or {}).get("form")
        if isinstance(form, BaseForm) and (refusal := find_refusal(form)):
            response.status_code = refusal.status
            if refusal.retry_after is not None:
                response["Retry-After"] = str(math.ceil(refusal.retry_after))
        return response
