"""The settings page and that of the devices, the pages of the second factor and of the address where they are not
allauth's alone, links that confirm an address, how an account is closed, and the switches of language and theme, which
visitors have too."""

import datetime as dt
from uuid import UUID

from allauth.account import views as allauth_views
from allauth.account.decorators import reauthentication_required
from allauth.account.models import EmailAddress, EmailConfirmationHMAC
from allauth.mfa.base import views as mfa_views
from allauth.mfa.models import Authenticator
from allauth.mfa.webauthn import views as passkey_views
from allauth.mfa.webauthn.internal import auth as passkeys
from allauth.mfa.webauthn.internal import flows as passkey_flows
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import logout
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.template.response import TemplateResponse
from django.utils import timezone, translation
from django.utils.formats import date_format
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from accounts import devices, limits, second_factor
from accounts.context import THEME_COOKIE
from accounts.forms import AddPasskeyForm, CloseAccountForm, ProfileForm
from accounts.http import member_of, peer_of
from accounts.leaving import begin_leaving, keep_account
from accounts.limits import Act
from accounts.log_in_stages import forget_void_log_in
from accounts.middleware import use_locale_of
from accounts.models import User, normalise_email
from accounts.social import LastWayIn, check_leaves_a_way_in
from core.errors import DomainError

YEAR_SECONDS = 365 * 24 * 3600


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def profile(request: HttpRequest) -> HttpResponse:
    """Show and change name, language, time zone and theme."""
    user = request.user
    assert isinstance(user, User)
    form = ProfileForm(request.POST or None, instance=user)
    if not form.is_valid():
        user.refresh_from_db()  # validation has already changed the object, which the page shows
        return render(request, "accounts/profile.html", {"form": form}, status=422 if form.is_bound else 200)
    form.save()
    use_locale_of(user)
    messages.success(request, _("Saved."))
    response = redirect("profile")
    set_preference(response, settings.LANGUAGE_COOKIE_NAME, user.locale)
    set_preference(response, THEME_COOKIE, user.theme)
    return response


@login_required
def change_email(request: HttpRequest) -> HttpResponse:
    """allauth's page of the address. A mail that is sent again is counted here, one to a new address by the form.

    allauth would also make an address the present one that nobody has confirmed: by choosing it, where the present one
    is not confirmed either, or by removing the present one. An error would then say that somebody else has it.
    """
    email = normalise_email(request.POST.get("email", ""))
    if "action_primary" in request.POST or ("action_remove" in request.POST and email == member_of(request).email):
        return redirect("account_email")
    theirs = EmailAddress.objects.filter(user=member_of(request)).values_list("email", flat=True)
    # allauth makes the row of a member's own address, if there is none, before it sends the mail.
    if "action_send" in request.POST and email in (member_of(request).email, *theirs):
        limits.count(Act.CONFIRM_EMAIL, peer=peer_of(request), account=email)
    response: HttpResponse = allauth_views.email(request)
    return response


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def confirm_email(request: HttpRequest, key: str) -> HttpResponse:
    """Confirm an address for the person it belongs to, who logs in first. Anybody else is told whose it is not."""
    confirmation = EmailConfirmationHMAC.from_key(key)
    if confirmation is not None and confirmation.email_address.user_id != request.user.pk:
        return render(request, "account/email_confirm.html", {"is_of_another": True}, status=403)
    response: HttpResponse = allauth_views.confirm_email(request, key=key)
    return response


@login_required
@require_http_methods(["GET", "HEAD"])
def second_factor_page(request: HttpRequest) -> HttpResponse:
    """Show what a member logs in with besides their password."""
    member = member_of(request)
    context = {
        "app": Authenticator.objects.filter(user=member, type=Authenticator.Type.TOTP).first(),
        "passkeys": Authenticator.objects.filter(user=member, type=Authenticator.Type.WEBAUTHN).order_by("created_at"),
        "codes_left": second_factor.codes_left(member.pk),
        "must_confirm": second_factor.must_confirm_first(member),
    }
    return render(request, "mfa/index.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@reauthentication_required(app="allauth.mfa")  # type: ignore[untyped-decorator]  # allauth's
def add_passkey(request: HttpRequest) -> HttpResponse:
    """Add a passkey, with which its owner logs in, or shows who they are after the password."""
    member = member_of(request)
    data = request.POST if request.method == "POST" else None
    form = AddPasskeyForm(data, user=member, initial={"name": devices.device_name(devices.agent_of(request))})
    if not form.is_valid():
        options = passkeys.begin_registration(member, True)
        context = {"form": form, "creation_options": options}
        return TemplateResponse(request, "mfa/webauthn/add_form.html", context, status=422 if form.is_bound else 200)
    credential = form.cleaned_data["credential"]
    _passkey, codes = passkey_flows.add_authenticator(request, form.cleaned_data["name"], credential)
    return redirect("mfa_view_recovery_codes" if codes else "mfa_index")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def remove_passkey(request: HttpRequest, pk: int) -> HttpResponse:
    """allauth's, unless nothing would be left that lets the member in."""
    try:
        with transaction.atomic():
            check_leaves_a_way_in(member_of(request), passkey_id=pk)
            response: HttpResponse = passkey_views.remove_webauthn(request, pk=pk)
    except LastWayIn as error:
        messages.error(request, str(error.message))
        return redirect("mfa_index")
    return response


def log_in_by_passkey(request: HttpRequest) -> HttpResponse:
    """allauth's log-in without a password. What it asks the browser is counted: each makes a session."""
    if request.method != "POST":
        limits.count(Act.LOG_IN, peer=peer_of(request))
    response: HttpResponse = passkey_views.login_webauthn(request)
    return response


def ask_for_second_factor(request: HttpRequest) -> HttpResponse:
    """allauth's page that asks for a code at the log-in."""
    forget_void_log_in(request)
    response: HttpResponse = mfa_views.authenticate(request)
    return response


@login_required
@require_http_methods(["GET", "HEAD"])
def devices_page(request: HttpRequest) -> HttpResponse:
    """Show where a member is logged in."""
    member = member_of(request)
    context = {
        "sessions": devices.list_sessions(member, request.session.session_key),
        "programs": devices.list_programs(member),
    }
    return render(request, "accounts/devices.html", context)


@login_required
@require_POST
def end_session(request: HttpRequest, session_id: str) -> HttpResponse:
    devices.end_session(member_of(request), session_id, peer=peer_of(request))
    messages.success(request, _("Logged out there."))
    return redirect("devices")


@login_required
@require_POST
def end_program(request: HttpRequest, family_id: UUID) -> HttpResponse:
    devices.end_program(member_of(request), family_id, peer=peer_of(request))
    messages.success(request, _("Logged out there."))
    return redirect("devices")


@login_required
@require_POST
def log_out_everywhere(request: HttpRequest) -> HttpResponse:
    """End every session and token of the member, this browser's too, and whatever is open with them."""
    member_of(request).end_access()
    logout(request)
    messages.success(request, _("You are logged out everywhere."))
    return redirect("account_login")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@reauthentication_required(allow_get=True)  # type: ignore[untyped-decorator]  # allauth's
def close_account(request: HttpRequest) -> HttpResponse:
    """Say what happens when the account is closed, and close it. While it is being closed, the one page there is."""
    member = member_of(request)
    if member.closes_at is not None:
        return render(request, "accounts/closing.html")
    form = CloseAccountForm(request.POST if request.method == "POST" else None, user=member)
    status = 422
    if form.is_valid():
        try:
            closes_at = begin_leaving(member, peer=peer_of(request))
        except DomainError as error:
            form.add_error(None, str(error.message))
            status = error.status
        else:
            logout(request)
            messages.success(request, _closing_sentence(closes_at))
            return redirect("account_login")
    context = {"form": form, "days": settings.ACCOUNT_CLOSE_DAYS}
    return render(request, "accounts/close.html", context, status=status if form.is_bound else 200)


@login_required
@require_POST
def keep(request: HttpRequest) -> HttpResponse:
    """Keep the account that was to be closed."""
    keep_account(member_of(request), peer=peer_of(request))
    messages.success(request, _("You keep your account. API keys and subscriptions that ended are not taken up again."))
    return redirect("profile")


def _closing_sentence(closes_at: dt.datetime) -> str:
    day = date_format(timezone.localtime(closes_at), "DATETIME_FORMAT")
    return _("Your account will be closed on %(day)s, and a mail says so. Until then you can log in and keep it.") % {
        "day": day
    }


@require_POST
def set_language(request: HttpRequest) -> HttpResponse:
    """Change the language, in this browser and for the member."""
    response = redirect_back(request)
    language = request.POST.get("language", "")
    if language in User.Locale.values:
        set_preference(response, settings.LANGUAGE_COOKIE_NAME, language)
        if isinstance(request.user, User):
            User.objects.filter(pk=request.user.pk).update(locale=language)
        translation.activate(language)
    return response


@require_POST
def set_theme(request: HttpRequest) -> HttpResponse:
    """Change the theme (light, dark, or the system's), in this browser and for the member."""
    response = redirect_back(request)
    theme = request.POST.get("theme", "")
    if theme in User.Theme.values:
        set_preference(response, THEME_COOKIE, theme)
        if isinstance(request.user, User):
            User.objects.filter(pk=request.user.pk).update(theme=theme)
    return response


def redirect_back(request: HttpRequest) -> HttpResponseRedirect:
    """Redirect to the page with the form; to the start page if that is not on this site."""
    origin = request.POST.get("next") or request.headers.get("Referer") or "/"
    is_ours = url_has_allowed_host_and_scheme(origin, {request.get_host()}, require_https=request.is_secure())
    return HttpResponseRedirect(origin if is_ours else "/")


def set_preference(response: HttpResponse, cookie: str, value: str) -> None:
    response.set_cookie(
        cookie, value, max_age=YEAR_SECONDS, samesite="Lax", secure=settings.SESSION_COOKIE_SECURE, httponly=False
    )
