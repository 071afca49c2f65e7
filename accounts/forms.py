"""The forms of sign-up, passwords, the second factor, a new address and the settings."""

import struct
import zoneinfo
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from allauth.account import forms as allauth_forms
from allauth.account.adapter import get_adapter
from allauth.account.internal.flows.email_verification import send_verification_email_to_address
from allauth.account.models import EmailAddress
from allauth.core import context
from allauth.mfa.adapter import get_adapter as mfa_adapter
from allauth.mfa.base import forms as mfa_forms
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.forms import GenerateRecoveryCodesForm
from allauth.mfa.totp import forms as totp_forms
from allauth.mfa.webauthn import forms as passkey_forms
from cryptography.exceptions import InvalidSignature
from django import forms
from django.conf import settings
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone, translation
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop, ngettext_lazy, pgettext_lazy
from fido2.webauthn import AuthenticationResponse, CollectedClientData, RegistrationResponse

from accounts import events, limits, log_in, second_factor, sign_up
from accounts.context import theme_of
from accounts.http import is_of_site, peer_of
from accounts.joining import check_lasting, check_may_join, find_invited, may_change_to
from accounts.limits import Act
from accounts.models import User, normalise_email, valid_email
from accounts.refusals import Refused, shown_in_form
from accounts.timing import equally_long
from core.errors import RateLimited

TRANSLATED_HERE = (
    gettext_noop("Forgot your password?"),
    gettext_noop("Your password can’t be too similar to your other personal information."),
    ngettext_lazy(
        "Your password must contain at least %(min_length)d character.",
        "Your password must contain at least %(min_length)d characters.",
    ),
    gettext_noop("Your password can’t be a commonly used password."),
    gettext_noop("Your password can’t be entirely numeric."),
)
"""Sentences of allauth's and Django's forms that our catalogues translate: their own translations are formal, ours are
not."""


class SignUpForm(allauth_forms.SignupForm):
    """A script fills in `time_zone`; without JavaScript it stays UTC."""

    field_order = ("email", "password1", "terms")
    invitation = forms.CharField(widget=forms.HiddenInput, required=False, max_length=100)
    terms = forms.BooleanField(label=_("I accept the terms of use"))
    time_zone = forms.CharField(widget=forms.HiddenInput, required=False, max_length=50)
    is_invitation_over = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if context.request and (word := context.request.GET.get("invitation", "")):
            self.fields["invitation"].initial = word
            self.fields["email"].initial = find_invited(word)
            self.is_invitation_over = not self.fields["email"].initial

    def clean_email(self) -> str:
        email: str = super().clean_email()
        return valid_email(email)

    def validate_unique_email(self, value: str) -> str:
        """Where a mail says the rest, an address that has an account is as good as any."""
        if not settings.REQUIRE_VERIFIED_EMAIL and User.objects.filter(email=normalise_email(value)).exists():
            raise get_adapter().validation_error("email_taken")
        return value

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean()
        with shown_in_form():
            try:
                limits.count(Act.SIGN_UP, peer=peer_of(context.request))
            except RateLimited:
                self.errors.clear()  # one of them may tell whether the address has an account
                raise
            if not self.errors:
                check_may_join(cleaned["email"], cleaned["invitation"])
                self.password_hash = sign_up.hash_new_password(cleaned["email"], cleaned["password1"])
        return cleaned

    def try_save(self, request: HttpRequest) -> tuple[User | None, HttpResponse | None]:
        """Make the account; return it, or the page that says to look into the mail."""
        account = {
            "email": self.cleaned_data["email"],
            "password_hash": self.password_hash,
            "terms_accepted_at": timezone.now(),
            "locale": translation.get_language() or settings.LANGUAGE_CODE,
            "theme": theme_of(request),
            "invitation": self.cleaned_data["invitation"],
        }
        if self.cleaned_data["time_zone"] in zoneinfo.available_timezones():
            account["time_zone"] = self.cleaned_data["time_zone"]
        if settings.REQUIRE_VERIFIED_EMAIL:
            sign_up.sign_up_by_mail(request, **account)
            return None, redirect("account_email_verification_sent")
        return sign_up.sign_up(request, **account), None


class ResetPasswordForm(allauth_forms.ResetPasswordForm):
    def clean_email(self) -> str:
        """Find whose the address is. Somebody who has only asked to change to it is not found by it."""
        email = valid_email(self.cleaned_data["email"])
        self.users = list(User.objects.filter(email=email, is_active=True))
        return email

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean()
        if not self.errors:
            with shown_in_form():
                limits.count(Act.RESET, peer=peer_of(context.request), account=cleaned["email"])
        return cleaned

    def save(self, request: HttpRequest, **options: Any) -> str:
        email: str = self.cleaned_data["email"]
        user_id = self.users[0].pk if self.users else None
        events.record("reset_requested", peer=peer_of(request), user_id=user_id, email=email)
        with equally_long():
            super().save(request, **options)
        return email


class PasswordAgainForm(allauth_forms.ReauthenticateForm):
    """Asks a member for their password once more. There is nothing else on that page, nor on that of a code."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["password"].widget.attrs["autofocus"] = True


class ChangePasswordForm(allauth_forms.ChangePasswordForm):
    def clean_oldpassword(self) -> str:
        password: str = self.cleaned_data["oldpassword"]
        with shown_in_form():
            user = log_in.find_by_password(context.request, self.user.email, password)
        if user is None:
            raise get_adapter().validation_error("enter_current_password")
        return password


class CodeField(forms.CharField):
    """A code of an app, or a recovery code: telephones show digits, and fill in what they know."""

    def __init__(self, label: Any) -> None:
        attributes = {"autocomplete": "one-time-code", "inputmode": "numeric", "autofocus": True}
        super().__init__(label=label, max_length=20, widget=forms.TextInput(attrs=attributes))


class CodeForm(mfa_forms.AuthenticateForm):
    """Asks for a code at the log-in."""

    code = CodeField(_("Code"))

    @property
    def has_app(self) -> bool:
        """Whether there is an app that shows one; else there is a passkey, and the code is one of recovery."""
        return bool(Authenticator.objects.filter(user=self.user, type=Authenticator.Type.TOTP).exists())

    def clean_code(self) -> str:
        code: str = self.cleaned_data["code"]
        self.authenticator = _find_authenticator(self.user, code)
        return code


class CodeAgainForm(mfa_forms.ReauthenticateForm):
    """Asks a member for a code once more."""

    code = CodeField(_("Code"))

    def clean_code(self) -> str:
        code: str = self.cleaned_data["code"]
        self.authenticator = _find_authenticator(self.user, code)
        return code


class ActivateCodesForm(totp_forms.ActivateTOTPForm):
    code = CodeField(_("The code that it shows"))

    def clean_code(self) -> str:
        code: str = self.cleaned_data["code"]
        with shown_in_form():
            second_factor.check_may_add(self.user)
            limits.count(Act.SECOND_FACTOR, peer=peer_of(context.request), account=self.user.email)
            if second_factor.find_step(self.secret, code) is None:
                raise mfa_adapter().validation_error("incorrect_code")
            limits.count_of_member(Act.SECOND_FACTOR, self.user.pk)
            limits.forget_attempts(Act.SECOND_FACTOR, self.user.email)
        return code


class DeactivateCodesForm(totp_forms.DeactivateTOTPForm):
    def clean(self) -> dict[str, Any] | None:
        if context.request.method == "POST":  # allauth cleans it to show it, too
            with shown_in_form():
                limits.count_of_member(Act.SECOND_FACTOR, self.authenticator.user_id)
        cleaned: dict[str, Any] | None = super().clean()
        return cleaned


class NewRecoveryCodesForm(GenerateRecoveryCodesForm):
    def clean(self) -> dict[str, Any]:
        with shown_in_form():
            limits.count_of_member(Act.SECOND_FACTOR, self.user.pk)
        cleaned: dict[str, Any] = super().clean()
        return cleaned


class AddPasskeyForm(passkey_forms.AddWebAuthnForm):
    passwordless = None
    name = forms.CharField(label=_("Name"), max_length=50, required=False)

    def clean(self) -> dict[str, Any]:
        with shown_in_form():
            second_factor.check_may_add(self.user)
            limits.count_of_member(Act.SECOND_FACTOR, self.user.pk)
        with _told_apart():
            cleaned: dict[str, Any] = super().clean()
            if given := cleaned.get("credential"):
                _check_origin(RegistrationResponse.from_dict(given).response.client_data)
        return cleaned


class PasskeyForm(passkey_forms.AuthenticateWebAuthnForm):
    """Asks for a passkey at the log-in, after the password."""

    def clean_credential(self) -> Authenticator:
        limits.count(Act.SECOND_FACTOR, peer=peer_of(context.request))
        with _told_apart():
            _check_shown(self.cleaned_data["credential"])
            return super().clean_credential()


class PasskeyAloneForm(passkey_forms.LoginWebAuthnForm):
    """Asks for a passkey in place of the password."""

    def clean_credential(self) -> Authenticator:
        with _told_apart():
            _check_shown(self.cleaned_data["credential"], alone=True)
            return super().clean_credential()


class PasskeyAgainForm(passkey_forms.ReauthenticateWebAuthnForm):
    """Asks a member for a passkey once more."""

    def clean_credential(self) -> Authenticator:
        limits.count(Act.SECOND_FACTOR, peer=peer_of(context.request))
        with _told_apart():
            _check_shown(self.cleaned_data["credential"])
            return super().clean_credential()


class ChangeEmailForm(allauth_forms.AddEmailForm):
    def clean_email(self) -> str:
        email: str = super().clean_email()
        with shown_in_form():
            check_lasting(email)
        if not may_change_to(email, former=self.user.email):
            domains = ", ".join(settings.SIGN_UP_DOMAINS)
            raise forms.ValidationError(_("Your address must be one of %(domains)s.") % {"domains": domains})
        return valid_email(email)

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean()
        if not self.errors:
            peer = peer_of(context.request)
            with shown_in_form():
                limits.count(Act.CHANGE_EMAIL, peer=peer, account=self.user.email)
                limits.count(Act.CONFIRM_EMAIL, peer=peer, account=cleaned["email"])
        return cleaned

    def save(self, request: HttpRequest) -> EmailAddress:
        """Keep the present address until the new one is confirmed. allauth would take a present address that was never
        confirmed for an earlier change and remove it, and leave the member without one."""
        events.record("email_change_requested", peer=peer_of(request), user_id=self.user.pk)
        with equally_long():
            with transaction.atomic():
                User.objects.select_for_update().get(pk=self.user.pk)  # another tab may ask for the same address
                unconfirmed = EmailAddress.objects.filter(user=self.user, verified=False)
                unconfirmed.exclude(email=self.user.email).delete()
                address = EmailAddress.objects.create(user=self.user, email=self.cleaned_data["email"])
            send_verification_email_to_address(request, address)
        return address


class ProfileForm(forms.ModelForm):  # type: ignore[type-arg]  # not generic at run time
    time_zone = forms.ChoiceField(label=_("Time zone"))

    class Meta:
        model = User
        fields = ("name", "locale", "time_zone", "theme")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        zones = sorted(zone for zone in zoneinfo.available_timezones() if "/" in zone and not zone.startswith("Etc/"))
        current = self.instance.time_zone
        extra = [] if current in zones or current == "UTC" else [current]
        field = self.fields["time_zone"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [(zone, zone.replace("_", " ")) for zone in ("UTC", *extra, *zones)]

    def save(self, commit: bool = True) -> User:
        """Change these fields alone: a password, a seal or a suspension that was saved meanwhile stays."""
        self.instance.save(update_fields=self.Meta.fields)
        user: User = self.instance
        return user


class CloseAccountForm(forms.Form):
    """Closes the account of whoever writes its address: nobody does that by mistake."""

    email = forms.CharField(label=_("Your e-mail address, to confirm it"), max_length=254)

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user = user
        self.fields["email"].widget.attrs["autocomplete"] = "off"

    def clean_email(self) -> str:
        email: str = normalise_email(self.cleaned_data["email"])
        if email != self.user.email:
            raise forms.ValidationError(_("That is not the address of this account."))
        return email


class KeepHistoryForm(forms.ModelForm):  # type: ignore[type-arg]  # not generic at run time
    keep_history_days = forms.TypedChoiceField(
        label=_("Keep conversations"),
        choices=[(0, pgettext_lazy("conversations are kept", "for ever")), *User.KeepDays.choices],
        coerce=lambda days: int(days) or None,
    )

    class Meta:
        model = User
        fields = ("keep_history_days",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["keep_history_days"] = self.instance.keep_history_days or 0

    def save(self, commit: bool = True) -> User:
        """Change this alone, and let it be looked at now what follows."""
        self.instance.history_due_at = timezone.now()
        self.instance.save(update_fields=("keep_history_days", "history_due_at"))
        user: User = self.instance
        return user


def _find_authenticator(user: User, code: str) -> Authenticator:
    with shown_in_form():
        found = second_factor.find_by_code(user, code, peer=peer_of(context.request))
    if found is None:
        raise mfa_adapter().validation_error("incorrect_code")
    return found


@contextmanager
def _told_apart() -> Iterator[None]:
    """Refuse what is no passkey of theirs, in whatever way its reader stumbles over it: a stranger wrote it."""
    try:
        yield
    except Refused:
        raise
    except forms.ValidationError as error:
        if error.code != "incorrect_code":
            raise
        raise _unknown_passkey() from error
    except (
        ArithmeticError,
        AttributeError,
        InvalidSignature,
        LookupError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise _unknown_passkey() from error


def _check_shown(given: dict[str, Any], *, alone: bool = False) -> None:
    """Raise ValueError for a passkey that was shown elsewhere, and where it lets in alone, without asking who one is.

    The session has one challenge, whatever it was made for: allauth asks for that with the one of the log-in alone, and
    would take here what was signed for the page after the password, for which a touch will do."""
    response = AuthenticationResponse.from_dict(given).response
    _check_origin(response.client_data)
    if alone and not response.authenticator_data.is_user_verified():
        raise ValueError("user not verified")


def _check_origin(shown: CollectedClientData) -> None:
    """Raise ValueError unless a page of this site has asked. fido2 takes pages of its subdomains and ports, too."""
    if not is_of_site(shown.origin, context.request):
        raise ValueError("another origin")


def _unknown_passkey() -> forms.ValidationError:
    events.record("second_factor_failed", peer=peer_of(context.request))
    return forms.ValidationError(_("That passkey is not one of this account. Try again, or log in in another way."))
