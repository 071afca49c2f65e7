"""The serializers of the account API."""

import zoneinfo
from typing import Any

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


class MeSerializer(serializers.ModelSerializer[User]):
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


class CloseSerializer(serializers.Serializer[dict[str, str]]):
    password = serializers.CharField(trim_whitespace=False)


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


class RefreshSerializer(serializers.Serializer[dict[str, str]]):
    refresh = serializers.CharField()
