"""The serializers of the account API."""

import datetime as dt
import zoneinfo
from typing import Any, TypedDict

from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from accounts.models import User, valid_email


def check_time_zone(value: str) -> None:
    if value not in zoneinfo.available_timezones():
        raise serializers.ValidationError(_("That is not a time zone we know."), code="invalid")


class TokensBody(TypedDict):
    """What a log-in gives: `access` is for `Authorization: Bearer`, `refresh` for a new pair, once."""

    access: str
    refresh: str


class MailedBody(TypedDict):
    """A mail was sent, and `detail` is a sentence about it."""

    detail: str


class ClosingBody(TypedDict):
    """Until when the account can be kept."""

    closes_at: dt.datetime


class MeSerializer(serializers.ModelSerializer[User]):
    """Your account. `keep_history_days` is for how long conversations are kept after their last use; null is for
    ever."""

    time_zone = serializers.CharField(required=False, validators=[check_time_zone])

    class Meta:
        model = User
        fields = ("id", "email", "name", "locale", "time_zone", "theme", "keep_history_days", "created_at")
        read_only_fields = ("id", "email", "created_at")

    def update(self, instance: User, validated_data: dict[str, Any]) -> User:
        """Change these fields alone: a password, a seal or a suspension that was saved meanwhile stays."""
        if "keep_history_days" in validated_data:
            validated_data["history_due_at"] = timezone.now()
        for name, value in validated_data.items():
            setattr(instance, name, value)
        instance.save(update_fields=validated_data)
        return instance


class LogInSerializer(serializers.Serializer[dict[str, str]]):
    email = serializers.CharField()
    password = serializers.CharField(trim_whitespace=False)
    code = serializers.CharField(required=False, max_length=20, default="", allow_blank=True)


class CloseSerializer(serializers.Serializer[dict[str, str]]):
    password = serializers.CharField(trim_whitespace=False)
    code = serializers.CharField(required=False, max_length=20, default="", allow_blank=True)


class RegisterSerializer(serializers.ModelSerializer[User]):
    """A new member. The address is stored in lower case; Django's validators check the password."""

    email = serializers.EmailField(max_length=254)
    time_zone = serializers.CharField(required=False, validators=[check_time_zone])
    password = serializers.CharField(write_only=True, max_length=128, trim_whitespace=False)
    invitation = serializers.CharField(write_only=True, required=False, default="", allow_blank=True, max_length=100)

    class Meta:
        model = User
        fields = ("email", "password", "name", "locale", "time_zone", "theme", "invitation")

    def validate_email(self, value: str) -> str:
        email = valid_email(value)
        if not settings.REQUIRE_VERIFIED_EMAIL and User.objects.filter(email=email).exists():
            raise serializers.ValidationError(_("That address has an account."), code="unique")
        return email

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        try:
            validate_password(attrs["password"], User(email=attrs["email"], name=attrs.get("name", "")))
        except ValidationError as error:
            raise serializers.ValidationError({"password": error.messages}) from error
        return attrs


class RegisteredSerializer(serializers.Serializer[Any]):
    """A new member, and the tokens of their first log-in."""

    user = MeSerializer()
    access = serializers.CharField()
    refresh = serializers.CharField()


class RefreshSerializer(serializers.Serializer[dict[str, str]]):
    refresh = serializers.CharField()
