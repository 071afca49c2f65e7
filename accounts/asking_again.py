"""Asks a member who they are once more before something dangerous: for their password or their second factor. Who has
neither shows it to the provider they log in with, or by a code that is mailed to them.

allauth lets who has neither pass unasked (its `did_recently_reauthenticate`).
"""

import time
from typing import Any
from urllib.parse import urlencode

from allauth.account import app_settings
from allauth.account.internal.flows.login import get_authentication_records, record_authentication
from allauth.account.internal.flows.reauthentication import get_reauthentication_flows, resume_request
from allauth.core.exceptions import ReauthenticationRequired
from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.core.mail import EmailMessage
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.utils import timezone, translation
from django.utils.crypto import constant_time_compare, get_random_string, salted_hmac
from django.utils.translation import gettext_lazy as _
from rest_framework.request import Request

from accounts import limits
from accounts.http import member_of, peer_of
from accounts.leaving import SessionAuthentication
from accounts.limits import Act
from accounts.models import User
from accounts.social_providers import SocialProvider, list_social_providers
from core.errors import DomainError
from core.mail import send_or_queue

CODE_DIGITS = 8
CODE_SECONDS = 600
_CODE = "asked_again_code"
_SALT = "accounts.asking_again"


class AskedAgain(DomainError):
    """A page's session asks the API for what the pages ask for once more."""

    code = "confirmation_needed"
    status = 403
    message = _("Confirm first on the pages of this site that it is you.")


def has_own_proof(user: User) -> bool:
    """Return whether the member has a password or a second factor, of which they are asked then and nothing else: a
    provider may let in whoever sits at the screen, and the mailbox may be open."""
    return bool(get_reauthentication_flows(user))


def was_asked(request: HttpRequest) -> bool:
    """Return whether the member has shown who they are within the last minutes, beyond the log-in."""
    records = get_authentication_records(request, request.user)
    last = next((one["at"] for one in reversed(records) if one.get("reauthenticated")), 0)
    return bool(time.time() - last < app_settings.REAUTHENTICATION_TIMEOUT)


def check(request: HttpRequest) -> None:
    """Raise ReauthenticationRequired, which asks the member and then goes on, unless they were asked lately."""
    if not was_asked(request):
        raise ReauthenticationRequired


def check_session(request: Request) -> None:
    """Raise AskedAgain where the API is used with a page's session: it does nothing unasked that the page would ask
    for. A token was given for a password, and for the code of a second factor."""
    if isinstance(request.successful_authenticator, SessionAuthentication) and not was_asked(request._request):
        raise AskedAgain


def providers_to_ask(user: User) -> list[SocialProvider]:
    """Return with which providers a member may show who they are."""
    connected = set(SocialAccount.objects.filter(user=user).values_list("provider", flat=True))
    return [one for one in list_social_providers() if one.id in connected] if not has_own_proof(user) else []


def can_mail() -> bool:
    """Return whether a mail arrives: without a server it is dropped, but for development."""
    return bool(settings.HAS_MAIL_SERVER or settings.DEBUG)


def mail_code(request: HttpRequest) -> None:
    """Mail a code that works once, in this session, for some minutes. Raises RateLimited."""
    member = member_of(request)
    limits.count(Act.CONFIRM_EMAIL, peer=peer_of(request), account=member.email)
    code = get_random_string(CODE_DIGITS, "0123456789")
    request.session[_CODE] = {"digest": _digest(member, code), "until": time.time() + CODE_SECONDS}
    with translation.override(member.locale), timezone.override(member.zone):
        context = {"code": code, "site_name": settings.SITE_NAME, "minutes": CODE_SECONDS // 60}
        text = render_to_string("accounts/mail/code.txt", context).strip()
    subject, _line, body = text.partition("\n")
    send_or_queue(EmailMessage(subject.strip(), body.strip() + "\n", settings.DEFAULT_FROM_EMAIL, [member.email]))


def was_code_mailed(request: HttpRequest) -> bool:
    return _CODE in request.session


def use_code_of_mail(request: HttpRequest, code: str) -> bool:
    """Return whether this is the code, and use it up. Raises RateLimited."""
    member = member_of(request)
    limits.count(Act.SECOND_FACTOR, peer=peer_of(request), account=member.email)
    mailed: dict[str, Any] = request.session.get(_CODE) or {}
    if not mailed or mailed["until"] < time.time():
        return False
    if not constant_time_compare(mailed["digest"], _digest(member, code.strip())):
        return False
    del request.session[_CODE]
    limits.forget_attempts(Act.SECOND_FACTOR, member.email)
    record_authentication(request, member, "code", reauthenticated=True)
    return True


def go_on(request: HttpRequest, path: str) -> HttpResponse:
    """Go on with what the member was doing when they were asked: `path` is where, and is safe."""
    request.GET = QueryDict(urlencode({"next": path}))
    response: HttpResponse | None = resume_request(request)
    return response or redirect(path or "profile")


def _digest(user: User, code: str) -> str:
    # Of the address too: with another, whoever has the mailbox of before shows nothing.
    return salted_hmac(_SALT, f"{user.pk}:{user.seal}:{user.email}:{code}").hexdigest()
