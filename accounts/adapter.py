"""Adapts allauth: its error messages, the check of a password, the mails it sends, and how second factors are kept."""

from typing import Any, ClassVar
from urllib.parse import urlsplit

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.internal.flows.password_reset import get_reset_password_url
from allauth.account.models import EmailAddress
from allauth.core import context as current
from allauth.mfa.adapter import DefaultMFAAdapter
from django.conf import settings
from django.contrib import messages
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext_lazy as _

from accounts import asking_again, encryption, log_in
from accounts.http import member_of, peer_of
from accounts.joining import SignUp
from accounts.log_in import MISMATCH
from accounts.models import User
from accounts.refusals import shown_in_form
from accounts.second_factor import WRONG_CODE
from core.mail import send_or_queue

WANTED_COOKIE = "wanted"
WANTED_SECONDS = 24 * 3600


class AccountAdapter(DefaultAccountAdapter):
    error_messages: ClassVar[dict[str, Any]] = {
        **DefaultAccountAdapter.error_messages,
        "account_inactive": _("This account is suspended."),
        "duplicate_email": _("That is your address already."),
        "email_password_mismatch": MISMATCH,
        "email_taken": _("That address has an account."),
        "enter_current_password": _("Please write the password you have now."),
        "incorrect_password": _("That is not your password."),
        "invalid_password_reset": _("This link does not work any more. Ask for a new one."),
        "same_as_current": _("That is the one you have already."),
    }

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Return whether there is a page to sign up; who may is asked of each address (accounts/joining.py)."""
        return bool(settings.SIGN_UP != SignUp.CLOSED)

    def authenticate(self, request: HttpRequest, **credentials: Any) -> User | None:
        """Return whose password this is: at the log-in, and where a member is asked for it again."""
        with shown_in_form():
            return log_in.find_by_password(request, credentials.get("email", ""), credentials["password"])

    def set_password(self, user: User, password: str) -> None:
        """Save the password alone. A hash takes time: whoever was suspended, deleted or lost a right meanwhile, stays
        so."""
        user.set_password(password)
        user.save(update_fields=["password"])

    def get_login_redirect_url(self, request: HttpRequest) -> str:
        """Return where somebody goes who is not on the way to a page: to what they wanted before they signed up, which
        they may come back to by the link of a mail."""
        wanted = request.COOKIES.get(WANTED_COOKIE, "")
        if url_has_allowed_host_and_scheme(wanted, None):
            return wanted
        return str(super().get_login_redirect_url(request))

    def get_client_ip(self, request: HttpRequest) -> str:
        return peer_of(request)

    def is_safe_url(self, url: str) -> bool:
        """Return whether a page may lead there. `http://[` is no address at all, which allauth does not expect."""
        try:
            return bool(super().is_safe_url(url))
        except ValueError:
            return False

    def confirm_email(self, request: HttpRequest, email_address: EmailAddress) -> bool:
        """Mark the address as confirmed, unless an account has taken it since its link was sent, or the member's
        password was changed meanwhile, which forgets the address: allauth would write it anew."""
        try:
            with transaction.atomic():
                member = User.objects.select_for_update().filter(pk=email_address.user_id, seal=member_of(request).seal)
                if member and EmailAddress.objects.filter(pk=email_address.pk).exists():
                    return bool(super().confirm_email(request, email_address))
        except IntegrityError:
            pass
        context = {"email": email_address.email}
        self.add_message(request, messages.ERROR, "account/messages/email_confirmation_failed.txt", context)
        return False

    def send_confirmation_mail(self, request: HttpRequest, emailconfirmation: Any, signup: bool) -> None:
        """Send the link. To an address that has an account of its own, say instead that somebody tried: who asked for
        the link sees no difference."""
        address = emailconfirmation.email_address
        if User.objects.filter(email=address.email).exclude(pk=address.user_id).exists():
            context = {"password_reset_url": get_reset_password_url(request)}
            self.send_mail("account/email/address_has_account", address.email, context)
        else:
            super().send_confirmation_mail(request, emailconfirmation, signup)

    def add_message(
        self, request: HttpRequest, level: int, message_template: str | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Mark what tells of a mail: where mail is caught, the page says where."""
        if message_template == "account/messages/email_confirmation_sent.txt":
            kwargs["extra_tags"] = "mail"
        super().add_message(request, level, message_template, *args, **kwargs)

    def get_login_stages(self) -> list[str]:
        return ["accounts.log_in_stages.CodeStage" if "mfa" in stage else stage for stage in super().get_login_stages()]

    def is_reauthentication_required(self, *, app: str, **kwargs: Any) -> bool:
        """Return whether a member is asked again, as all are. allauth asks nobody who has neither a password nor a
        second factor: they are asked in another way."""
        request = current.request
        if isinstance(request.user, User) and not asking_again.has_own_proof(request.user):
            asking_again.check(request)
            return False
        return bool(super().is_reauthentication_required(app=app, **kwargs))

    def get_reauthentication_methods(self, user: Any) -> list[dict[str, Any]]:
        """Return how a member can show who they are: there is always a way."""
        found: list[dict[str, Any]] = super().get_reauthentication_methods(user)
        if found or not user.is_authenticated:
            return found
        return [{"id": "otherwise", "description": "", "url": reverse("confirm_otherwise")}]

    def send_notification_mail(
        self, template_prefix: str, user: User, context: dict[str, Any] | None = None, email: str | None = None
    ) -> None:
        """Tell the mailbox what was done. allauth would not tell who has no row of an address, as operators made by a
        command have none."""
        super().send_notification_mail(template_prefix, user, context, email or user.email)

    def format_email_subject(self, subject: str) -> str:
        return subject

    def send_mail(self, template_prefix: str, email: str, context: dict[str, Any]) -> None:
        """Render the mail now, in the request's language; a worker sends it, so that no page waits for the server."""
        context = {name: _at_site_url(value) if name.endswith("_url") else value for name, value in context.items()}
        context |= {"email": email, "site_name": settings.SITE_NAME}
        context["must_confirm"] = settings.REQUIRE_VERIFIED_EMAIL
        send_or_queue(self.render_mail(template_prefix, email, context))


class SecondFactorAdapter(DefaultMFAAdapter):
    error_messages: ClassVar[dict[str, Any]] = {**DefaultMFAAdapter.error_messages, "incorrect_code": WRONG_CODE}

    def encrypt(self, text: str) -> str:
        return encryption.encrypt(text)

    def decrypt(self, encrypted_text: str) -> str:
        return encryption.decrypt(encrypted_text)

    def _get_site_name(self) -> str:
        return str(settings.SITE_NAME)


def remember_wanted(response: HttpResponse, path: str) -> HttpResponse:
    """Remember in this browser, for a day, what a visitor who is sent to sign up wanted."""
    secure = settings.SESSION_COOKIE_SECURE
    response.set_cookie(WANTED_COOKIE, path, max_age=WANTED_SECONDS, samesite="Lax", secure=secure, httponly=True)
    return response


def forget_wanted(response: HttpResponse) -> HttpResponse:
    """Forget that: they are there."""
    response.delete_cookie(WANTED_COOKIE, samesite="Lax")
    return response


def _at_site_url(url: str) -> str:
    """Return allauth's link at SITE_URL. Its own host and port are those of the request, which a stranger may have sent
    for the owner of the mailbox."""
    return f"{settings.SITE_URL}{urlsplit(url)._replace(scheme='', netloc='').geturl()}"
