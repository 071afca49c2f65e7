"""The forms of a sign-up with an account elsewhere, and of a code that is mailed."""

import zoneinfo
from typing import Any

from allauth.account.adapter import get_adapter
from allauth.core import context
from allauth.socialaccount.models import SocialLogin
from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone, translation
from django.utils.translation import gettext_lazy as _

from accounts import limits
from accounts.asking_again import use_code_of_mail
from accounts.context import theme_of
from accounts.forms import CodeField
from accounts.http import peer_of
from accounts.joining import check_may_join
from accounts.limits import Act
from accounts.models import User, normalise_email, valid_email
from accounts.refusals import shown_in_form
from accounts.social import confirmed_address, join, join_by_mail, suggested_address
from core.errors import Conflict


class SocialSignUpForm(forms.Form):
    """What is still to be said: that one accepts the terms, and the address, unless the provider has made sure of it.
    A script fills in `time_zone`."""

    email = forms.EmailField(label=_("E-mail address"), max_length=254)
    terms = forms.BooleanField(label=_("I accept the terms of use"))
    time_zone = forms.CharField(widget=forms.HiddenInput, required=False, max_length=50)

    def __init__(self, *args: Any, sociallogin: SocialLogin, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sociallogin = sociallogin
        self.invitation = str((sociallogin.state.get("data") or {}).get("invitation", ""))
        self.address = confirmed_address(sociallogin)
        self.fields["email"].initial = self.address or suggested_address(sociallogin)
        self.fields["email"].disabled = bool(self.address)
        self.fields["email"].widget.attrs["autocomplete"] = "email"

    def clean_email(self) -> str:
        email = valid_email(self.cleaned_data["email"])
        if not self.address and not settings.REQUIRE_VERIFIED_EMAIL and User.objects.filter(email=email).exists():
            raise get_adapter().validation_error("email_taken")
        return email

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        with shown_in_form():
            limits.count(Act.SIGN_UP, peer=peer_of(context.request))
            if not self.errors:
                check_may_join(cleaned["email"], self.invitation)
                limits.count(Act.SIGN_UP, account=cleaned["email"])
        return cleaned

    def try_save(self, request: HttpRequest) -> tuple[User | None, HttpResponse | None]:
        """Make the account; return it, or the page that says to look into the mail."""
        account = {
            "email": self.cleaned_data["email"],
            "name": self.sociallogin.user.name,
            "terms_accepted_at": timezone.now(),
            "locale": translation.get_language() or settings.LANGUAGE_CODE,
            "theme": theme_of(request),
            "invitation": self.invitation,
        }
        if self.cleaned_data["time_zone"] in zoneinfo.available_timezones():
            account["time_zone"] = self.cleaned_data["time_zone"]
        if settings.REQUIRE_VERIFIED_EMAIL and normalise_email(account["email"]) != self.address:
            join_by_mail(request, self.sociallogin, **account)
            return None, redirect("account_email_verification_sent")
        try:
            return join(request, self.sociallogin, **account), None
        except Conflict:  # somebody was faster: another tab of theirs, or who has signed up with that address
            messages.error(request, _("That address has an account. Log in to it."))
            return None, redirect("account_login")


class MailedCodeForm(forms.Form):
    code = CodeField(_("Code"))

    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.request = request

    def clean_code(self) -> str:
        code: str = self.cleaned_data["code"]
        with shown_in_form():
            if not use_code_of_mail(self.request, code):
                raise forms.ValidationError(_("That is not the code of the last mail, or it is too old."))
        return code
