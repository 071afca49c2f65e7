"""Adapts allauth's log-in with accounts elsewhere: who is let in, who is told what, and what goes wrong there."""

import time
from contextlib import suppress
from typing import Any, NoReturn
from urllib.parse import urlencode

from allauth.account.internal.flows.login import record_authentication
from allauth.account.models import EmailAddress
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.socialaccount import app_settings
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialApp, SocialLogin
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts import asking_again, events, limits, log_in
from accounts.http import peer_of
from accounts.joining import SignUp
from accounts.limits import Act
from accounts.models import User
from accounts.social import believe, confirmed_address, connect, storable, was_shown_lately
from accounts.social_views import AGAIN, CONNECT, failed
from core.errors import DomainError, RateLimited


class SocialAdapter(DefaultSocialAccountAdapter):
    def list_apps(
        self, request: HttpRequest, provider: str | None = None, client_id: str | None = None
    ) -> list[SocialApp]:
        """Return the providers of the settings. allauth would look for rows, too: a second place for secrets."""
        return [
            app
            for kind, found in app_settings.PROVIDERS.items()
            for fields in found.get("APPS", ())
            if (app := SocialApp(provider=kind, **fields))
            and provider in (None, app.provider, app.provider_id)
            and client_id in (None, app.client_id)
        ]

    def is_open_for_signup(self, request: HttpRequest, sociallogin: SocialLogin) -> bool:
        """Return whether anybody may sign up; who may is asked of each address (accounts/joining.py)."""
        return bool(settings.SIGN_UP != SignUp.CLOSED)

    def populate_user(self, request: HttpRequest, sociallogin: SocialLogin, data: dict[str, Any]) -> User:
        """Called as soon as the provider has answered, before anything is looked up or kept."""
        believe(sociallogin)
        user: User = sociallogin.user
        user.name = storable(str(data.get("name") or data.get("first_name") or ""))[:100]
        return user

    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> None:
        """Called with who came back from a provider, whose account was looked up by its id there alone."""
        sociallogin.token = None  # a sign-up that waits for its form would have it in the session
        process = sociallogin.state.get("process")
        if process == CONNECT:
            raise ImmediateHttpResponse(_connect(request, sociallogin))
        if process == AGAIN:
            raise ImmediateHttpResponse(_confirm(request, sociallogin))
        if isinstance(request.user, User) and sociallogin.user != request.user:
            # They went there before they logged in, or whoever had this browser before did, whose address this may be.
            app = sociallogin.provider.app
            raise ImmediateHttpResponse(failed(request, sociallogin.provider.sub_id, app.name, {}))
        sociallogin.state["answered_at"] = time.time()
        if sociallogin.is_existing:
            _check_confirmed(request, sociallogin)
        elif User.objects.filter(email=confirmed_address(sociallogin)).exists():
            raise ImmediateHttpResponse(_send_to_log_in(request, sociallogin))

    def on_authentication_error(
        self, request: HttpRequest, provider: Any, error: Any = None, exception: Any = None, extra_context: Any = None
    ) -> NoReturn:
        """Say in one sentence that it did not work, where the person was. What the provider said stays unread."""
        state = (extra_context or {}).get("state") or {}
        raise ImmediateHttpResponse(failed(request, provider.sub_id, provider.app.name, state, error, exception))


def _connect(request: HttpRequest, sociallogin: SocialLogin) -> HttpResponse:
    if not isinstance(request.user, User):
        return redirect("account_login")
    # They have shown who they are before they went there (accounts/social_views.py), not too long ago.
    asking_again.check(request)
    try:
        connect(request, request.user, sociallogin)
    except DomainError as error:
        messages.error(request, str(error.message))
    else:
        messages.success(request, _("Connected: you can log in with it from now on."))
    return redirect("socialaccount_connections")


def _confirm(request: HttpRequest, sociallogin: SocialLogin) -> HttpResponse:
    """Go on with what a member was asked for before, who has shown their provider again who they are."""
    path = sociallogin.state.get("next") or ""
    member = request.user
    if not isinstance(member, User):
        return redirect("account_login")
    is_theirs = sociallogin.account.pk and sociallogin.user == member
    if not is_theirs or not was_shown_lately(sociallogin) or asking_again.has_own_proof(member):
        messages.error(
            request, _("That is not the account that lets you in here, or you have not logged in there anew.")
        )
        return redirect(f"{reverse('confirm_otherwise')}?{urlencode({'next': path})}")
    record_authentication(request, member, "socialaccount", reauthenticated=True, provider=sociallogin.account.provider)
    return asking_again.go_on(request, path)


def _check_confirmed(request: HttpRequest, sociallogin: SocialLogin) -> None:
    """Send whoever waits for their address to be confirmed to their mailbox, where the link is: once more, within the
    limits."""
    user = sociallogin.user
    if not user.is_active or not log_in.must_wait(request, user, sociallogin.state.get("next") or ""):
        return
    address = EmailAddress.objects.filter(user=user, email=user.email).first()
    with suppress(RateLimited):
        limits.count(Act.CONFIRM_EMAIL, peer=peer_of(request), account=user.email)
        if address is not None:
            address.send_confirmation(request)
    raise ImmediateHttpResponse(redirect("account_email_verification_sent"))


def _send_to_log_in(request: HttpRequest, sociallogin: SocialLogin) -> HttpResponse:
    """Have whoever owns an address that has an account log in to it, and connect the other one there. That there is one
    may be said: the provider has made sure that the address is theirs."""
    events.record("sign_up_of_known", peer=peer_of(request), email=confirmed_address(sociallogin))
    name = sociallogin.provider.app.name
    messages.info(
        request,
        _(
            "Your address has an account here already. Log in as you always do, or choose a new password by mail; then "
            "connect %(provider)s in your settings, under “Ways to log in”."
        )
        % {"provider": name},
    )
    query = urlencode({"next": reverse("socialaccount_connections")})
    return redirect(f"{reverse('account_login')}?{query}")
