"""The pages of log-in with accounts elsewhere: on to a provider, back from it, and what is connected; and the page that
asks members once more who have no password and no second factor."""

import logging
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from allauth.account.decorators import reauthentication_required
from allauth.account.utils import get_next_redirect_url
from allauth.socialaccount import views as allauth_views
from allauth.socialaccount.adapter import get_adapter
from allauth.socialaccount.internal.flows.signup import clear_pending_signup
from allauth.socialaccount.models import SocialApp
from allauth.socialaccount.providers.base.constants import AuthError, AuthProcess
from allauth.socialaccount.providers.github.views import oauth2_callback as github_callback
from allauth.socialaccount.providers.google.views import oauth2_callback as google_callback
from allauth.socialaccount.providers.microsoft.views import oauth2_callback as microsoft_callback
from allauth.socialaccount.providers.openid_connect.views import callback as openid_callback
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ImproperlyConfigured
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from requests import RequestException

from accounts import asking_again, events, limits
from accounts.http import member_of, peer_of
from accounts.limits import Act
from accounts.models import User
from accounts.second_factor import check_may_add
from accounts.social import LastWayIn, NotBelieved, disconnect, list_connections
from accounts.social_forms import MailedCodeForm
from accounts.social_providers import SocialProvider, find_social_provider
from core.errors import DomainError

logger = logging.getLogger(__name__)

CONNECT, AGAIN = AuthProcess.CONNECT, "again"
"""What somebody goes to a provider for, besides logging in: to connect their account there, or to show once more who
they are."""
CALLBACKS: dict[str, Callable[..., HttpResponse]] = {
    "github": github_callback,
    "google": google_callback,
    "microsoft": microsoft_callback,
}
ASK_AGAIN = {
    "github": {"prompt": "select_account"},
    "google": {"prompt": "select_account"},
    "microsoft": {"prompt": "login"},
    "openid_connect": {"prompt": "login", "max_age": "0"},
}
"""What asks a provider not to let through whoever it still knows."""
MISBEHAVIOUR = (
    *(AttributeError, ImproperlyConfigured, KeyError, LookupError, NotBelieved, RequestException, TypeError),
    ValueError,
)
"""What comes of answers that are not what a provider's are: allauth catches what it expects of them."""


@require_http_methods(["GET", "HEAD", "POST"])
def social_log_in(request: HttpRequest, provider_id: str) -> HttpResponse:
    """Lead on to a provider. Nobody is sent there by a link: that would log them in as whoever made it."""
    provider = _provider_or_404(provider_id)
    process = request.POST.get("process", "")
    is_member = isinstance(request.user, User)
    if request.method != "POST" or (process in (CONNECT, AGAIN)) != is_member:
        return redirect("socialaccount_connections" if is_member else "account_login")
    limits.count(Act.LOG_IN, peer=peer_of(request))
    if process == CONNECT:
        asking_again.check(request)
        try:
            check_may_add(member_of(request))
        except DomainError as error:
            messages.error(request, str(error.message))
            return redirect("socialaccount_connections")
    try:
        url = _address_there(request, provider, process)
    except MISBEHAVIOUR as error:
        return failed(request, provider.id, provider.name, {"process": process}, exception=error)
    # A page of ours leads on. A redirect would be held to the form's policy, as would each that follows it there.
    response = render(request, "socialaccount/lead_on.html", {"url": url, "provider": provider})
    response["Refresh"] = f"0; url={url}"
    return response


@require_safe
def social_callback(request: HttpRequest, provider_id: str) -> HttpResponse:
    """Where a provider sends somebody back to."""
    provider = _provider_or_404(provider_id)
    try:
        if provider.kind in CALLBACKS:
            return CALLBACKS[provider.kind](request)
        response: HttpResponse = openid_callback(request, provider.id)
        return response
    except MISBEHAVIOUR as error:
        logger.warning("A provider's answer was not understood", extra={"provider": provider.id}, exc_info=True)
        return failed(request, provider.id, provider.name, {}, exception=error)


def social_sign_up(request: HttpRequest) -> HttpResponse:
    """allauth's form of a sign-up. Its provider may have been switched off meanwhile."""
    try:
        response: HttpResponse = allauth_views.signup(request)
    except SocialApp.DoesNotExist:
        clear_pending_signup(request)
        return redirect("account_login")
    return response


@login_required
@require_safe
def connections_page(request: HttpRequest) -> HttpResponse:
    """Show which accounts elsewhere let a member in, and which could."""
    member = member_of(request)
    context = {"connections": list_connections(member)}
    return render(request, "socialaccount/connections.html", context)


@login_required
@require_POST
@reauthentication_required  # type: ignore[untyped-decorator]  # allauth's
def disconnect_account(request: HttpRequest, account_id: int) -> HttpResponse:
    try:
        disconnect(request, member_of(request), account_id)
    except LastWayIn as error:
        messages.error(request, str(error.message))
    else:
        messages.success(request, _("Disconnected. Whoever is logged in stays so: see your devices."))
    return redirect("socialaccount_connections")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def confirm_otherwise(request: HttpRequest) -> HttpResponse:
    """Ask who has neither a password nor a second factor who they are: their provider, or by a code by mail."""
    member, path = member_of(request), get_next_redirect_url(request) or ""
    query = urlencode({"next": path})
    if asking_again.has_own_proof(member):
        return redirect(f"{reverse('account_reauthenticate')}?{query}")
    form = MailedCodeForm(request.POST if "code" in request.POST else None, request=request)
    if request.method == "POST" and not form.is_bound and asking_again.can_mail():
        asking_again.mail_code(request)
        return redirect(f"{reverse('confirm_otherwise')}?{query}")
    if form.is_valid():
        return asking_again.go_on(request, path)
    context = {
        "form": form,
        "providers": asking_again.providers_to_ask(member),
        "can_mail": asking_again.can_mail(),
        "was_mailed": asking_again.was_code_mailed(request),
        "next": path,
    }
    status = 422 if form.is_bound else 200
    return TemplateResponse(request, "accounts/confirm_otherwise.html", context, status=status)


def failed(
    request: HttpRequest,
    provider_id: str,
    provider_name: str,
    state: Mapping[str, Any],
    error: str | None = None,
    exception: Exception | None = None,
) -> HttpResponse:
    """Say that it did not work, on the page where the person was."""
    is_cancelled = error == AuthError.CANCELLED
    if is_cancelled:
        sentence = _("You did not log in with %(provider)s. Try again, or take another way.")
    else:
        sentence = _("Logging in with %(provider)s did not work. Try again, or take another way.")
        user_id = request.user.pk if isinstance(request.user, User) else None
        reason = type(exception).__name__ if exception else "refused" if state else "state"
        events.record(
            "social_log_in_failed", peer=peer_of(request), user_id=user_id, provider=provider_id, reason=reason
        )
    messages.error(request, sentence % {"provider": provider_name})
    if not isinstance(request.user, User):
        page = "account_login"
    else:
        page = "confirm_otherwise" if state.get("process") == AGAIN else "socialaccount_connections"
    query = f"?{urlencode({'next': state['next']})}" if state.get("next") else ""
    return redirect(reverse(page) + query)


def _provider_or_404(provider_id: str) -> SocialProvider:
    provider = find_social_provider(provider_id)
    if provider is None:
        raise Http404
    return provider


def _address_there(request: HttpRequest, provider: SocialProvider, process: str) -> str:
    """Return where a provider asks who one is, and keep in the session what for. What an address of ours says is not
    added to theirs, as allauth would do. Raises what MISBEHAVIOUR has."""
    app = get_adapter(request).get_provider(request, provider=provider.id)
    more = {"auth_params": ASK_AGAIN[provider.kind]} if process == AGAIN else {}
    answer = app.redirect(
        request,
        process=process or AuthProcess.LOGIN,
        next_url=get_next_redirect_url(request),
        data={"invitation": request.POST.get("invitation", "")[:100]},
        **more,
    )
    url = str(answer.get("Location", ""))
    if urlsplit(url).scheme not in ("https", "http"):
        raise NotBelieved("That is no address of a page.")
    return url
