"""Users."""

import datetime as dt
import zoneinfo
from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.signals import access_revoked


def normalise_email(email: str) -> str:
    """Return the form in which an address is stored and compared: two spellings are one person."""
    return email.strip().lower()


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":
        if not email:
            raise ValueError("A user needs an e-mail address.")
        user = self.model(email=normalise_email(email), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def get_by_natural_key(self, username: str | None) -> "User":
        return self.get(email=normalise_email(username or ""))


class User(AbstractBaseUser, PermissionsMixin):
    """A person, who logs in with an e-mail address."""

    class Theme(models.TextChoices):
        SYSTEM = "system", _("As my system")
        LIGHT = "light", _("Light")
        DARK = "dark", _("Dark")

    class Locale(models.TextChoices):
        SPANISH = "es", "Español"
        ENGLISH = "en", "English"
        PORTUGUESE = "pt-br", "Português (Brasil)"

    email = models.EmailField(
        _("e-mail address"), unique=True, error_messages={"unique": _("That address has an account.")}
    )
    name = models.CharField(_("name"), max_length=100, blank=True)
    locale = models.CharField(_("language"), max_length=5, choices=Locale, default=Locale.SPANISH)
    time_zone = models.CharField(_("time zone"), max_length=50, default="UTC")
    theme = models.CharField(_("theme"), max_length=6, choices=Theme, default=Theme.SYSTEM)
    is_active = models.BooleanField(_("active"), default=True, help_text=_("Unset to suspend: nothing is deleted."))
    is_staff = models.BooleanField(_("operator"), default=False, help_text=_("May use this administration."))
    created_at = models.DateTimeField(_("signed up"), default=timezone.now, editable=False)
    terms_accepted_at = models.DateTimeField(_("accepted the terms"), null=True, blank=True, editable=False)

    objects: ClassVar[UserManager] = UserManager()

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        verbose_name = _("user")
        verbose_name_plural = _("users")

    def __str__(self) -> str:
        return self.email

    def save(self, *args: Any, **kwargs: Any) -> None:
        super().save(*args, **kwargs)
        if not self.is_active:
            access_revoked.send(type(self), user_id=self.pk)

    @property
    def zone(self) -> dt.tzinfo:
        """The person's time zone; UTC if it is unknown."""
        try:
            return zoneinfo.ZoneInfo(self.time_zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError):
            return dt.UTC

    def clean(self) -> None:
        super().clean()
        self.email = normalise_email(self.email)


class Closure(models.Model):
    """A user who was deleted, until everything of theirs is erased (accounts/closure.py)."""

    user_id = models.BigIntegerField(unique=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return str(self.user_id)
