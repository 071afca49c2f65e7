"""The forms of sign-up, of a new address and of the settings."""

import zoneinfo
from typing import Any

from allauth.account import forms as allauth_forms
from allauth.account.internal.flows.email_verification import send_verification_email_to_address
from allauth.account.models import EmailAddress
from django import forms
from django.conf import settings
from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone, translation
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from accounts.context import theme_of
from accounts.models import User, normalise_email

TRANSLATED_HERE = (gettext_noop("Forgot your password?"),)
"""Sentences of allauth's forms that our catalogues translate: its own translations are formal, ours are not."""


class SignUpForm(allauth_forms.SignupForm):
    """A script fills in `time_zone`; without JavaScript it stays UTC."""

    field_order = ("email", "password1", "terms")
    terms = forms.BooleanField(label=_("I accept the terms of use"))
    time_zone = forms.CharField(widget=forms.HiddenInput, required=False, max_length=50)

    def clean_email(self) -> str:
        email: str = super().clean_email()
        return normalise_email(email)

    def save(self, request: HttpRequest) -> User:
        user: User = super().save(request)
        user.terms_accepted_at = timezone.now()
        user.locale = translation.get_language() or settings.LANGUAGE_CODE
        user.theme = theme_of(request)
        if self.cleaned_data["time_zone"] in zoneinfo.available_timezones():
            user.time_zone = self.cleaned_data["time_zone"]
        user.save(update_fields=["terms_accepted_at", "locale", "theme", "time_zone"])
        return user


class ChangeEmailForm(allauth_forms.AddEmailForm):
    def save(self, request: HttpRequest) -> EmailAddress:
        """Keep the present address until the new one is confirmed. allauth would take a present address that was never
        confirmed for an earlier change and remove it, and leave the member without one."""
        with transaction.atomic():
            unconfirmed = EmailAddress.objects.filter(user=self.user, verified=False)
            unconfirmed.exclude(email=self.user.email).delete()
            address = EmailAddress.objects.create(user=self.user, email=self.cleaned_data["email"])
        send_verification_email_to_address(request, address)
        return address


class ResetPasswordForm(allauth_forms.ResetPasswordForm):
    users: list[User]

    def clean_email(self) -> str:
        """Send no link to an address that nobody has confirmed to be the member's. allauth's own would, to the one that
        is to take the present one's place."""
        email: str = super().clean_email()
        self.users = [user for user in self.users if user.email == normalise_email(email)]
        return email


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
