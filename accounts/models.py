"""Users."""

import datetime as dt
import secrets
import zoneinfo
from typing import Any, ClassVar
from uuid import uuid4

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.hashers import check_password, make_password
from django.contrib.auth.models import PermissionsMixin
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.encoding import punycode
from django.utils.translation import gettext_lazy as _

from accounts.signals import access_revoked, key_revoked


def normalise_email(email: str) -> str:
    """Return the form in which an address is stored and compared: two spellings are one person."""
    return email.strip().lower()


def valid_email(email: str) -> str:
    """Return the form that is stored of an address. Raises ValidationError where it is too long, which the one that was
    typed may not be (İ is two letters in lower case), and where no mail can be sent to it."""
    normalised = normalise_email(email)
    User._meta.get_field("email").run_validators(normalised)
    try:
        punycode(normalised.rpartition("@")[2])
    except UnicodeError:
        raise ValidationError(validate_email.message, code=validate_email.code) from None
    return normalised


def new_seal() -> str:
    return secrets.token_urlsafe(12)


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

    class KeepDays(models.IntegerChoices):
        MONTH = 30, _("30 days")
        QUARTER = 90, _("90 days")
        YEAR = 365, _("365 days")

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

    keep_history_days = models.PositiveSmallIntegerField(
        _("conversations are kept"), choices=KeepDays, null=True, blank=True, help_text=_("Empty: for ever.")
    )
    """For how many days after their last use; the plan may have a shorter limit (chat/turns/retention.py)."""
    history_due_at = models.DateTimeField(default=timezone.now, db_index=True, editable=False)
    """When it is next looked at whether some are to go."""

    has_closed_key_card = models.BooleanField(default=False, editable=False)
    """Whether the person has closed, for good, the card that says how to add a provider's key."""

    closes_at = models.DateTimeField(_("is closed at"), null=True, editable=False)
    """From then on the account is deleted; until then its owner can keep it, and nothing else (accounts/leaving.py)."""
    farewell_due_at = models.DateTimeField(null=True, editable=False)
    """Since when a mail is due that says so, or that it is kept."""

    seal = models.CharField(max_length=16, default=new_seal, editable=False)
    """What every session, token and ticket of the person carries: with a new one, all that there were are void."""

    objects: ClassVar[UserManager] = UserManager()

    _ends_access = False  # whether the next `save` does
    _ends_keys = False  # the same

    USERNAME_FIELD = "email"
    EMAIL_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        verbose_name = _("user")
        verbose_name_plural = _("users")
        permissions = (("suspend_user", "Can suspend user and let them back"),)
        indexes = (
            models.Index(fields=["closes_at"], condition=Q(closes_at__isnull=False), name="users_leaving"),
            models.Index(fields=["farewell_due_at"], condition=Q(farewell_due_at__isnull=False), name="farewells_due"),
        )

    def __str__(self) -> str:
        return self.email

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save; a new password and a suspension end every session, token, socket and stream there was, and API keys.

        A new password also forgets the address that was to take the present one's place: who asked for that, or made a
        key, may be who the password was changed against.
        """
        # Django sets `_password` for a new password.
        has_new_password = self._password is not None  # type: ignore[attr-defined]  # the stubs lack it
        ends_access = self._ends_access or has_new_password or not self.is_active
        ends_keys = self._ends_keys or has_new_password or not self.is_active
        self._ends_access = self._ends_keys = False
        if self._state.adding or not ends_access:
            super().save(*args, **kwargs)
            return
        self.seal = new_seal()
        if (fields := kwargs.get("update_fields")) is not None:
            kwargs["update_fields"] = {*fields, "seal"}
        with transaction.atomic():
            super().save(*args, **kwargs)
            self.token_families.all().delete()  # void already, by the seal
            if ends_keys and self.api_keys.filter(revoked_at=None).update(revoked_at=timezone.now()):
                key_revoked.send(type(self), user_id=self.pk)
            if has_new_password:
                addresses = self.emailaddress_set  # type: ignore[attr-defined]  # allauth is untyped
                addresses.filter(verified=False).exclude(email=self.email).delete()
            access_revoked.send(type(self), user_id=self.pk)

    def check_password(self, raw_password: str | None) -> bool:
        """Return whether this is the password. A hash with old parameters is replaced, unless somebody has chosen a new
        password meanwhile: Django's own way would bring the old one back."""
        checked = self.password

        def replace(password: str) -> None:
            User.objects.filter(pk=self.pk, password=checked).update(password=make_password(password))

        return check_password(raw_password, checked, replace)

    def set_unusable_password(self) -> None:
        super().set_unusable_password()
        self._ends_access = self._ends_keys = True

    def end_access(self, *, with_keys: bool = False) -> None:
        """Log the person out everywhere: no session, token, socket or stream of theirs lives on. API keys do, unless it
        is `with_keys`: they are no log-ins, and their page revokes each."""
        self._ends_access, self._ends_keys = True, with_keys
        self.save(update_fields=["seal"])

    def get_session_auth_hash(self) -> str:
        """Return what a session is compared with. Django's own is made of the password's hash, and would end every
        session when the parameters of hashing change."""
        return self.seal

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


class TokenFamily(models.Model):
    """One log-in over the API: its tokens are good while this is there.

    It goes when they log out, and when a refresh token is used twice: then one of the two is not whose it was.
    """

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    user = models.ForeignKey(User, models.CASCADE, related_name="token_families")
    refresh_jti = models.CharField(max_length=32)
    """The id of the one refresh token that works."""
    expires_at = models.DateTimeField()
    created_at = models.DateTimeField(default=timezone.now, null=True, editable=False)
    used_at = models.DateTimeField(null=True)
    """When the refresh token was last used."""
    peer = models.CharField(max_length=64, blank=True, default="", null=True)  # noqa: DJ001  as below
    agent = models.CharField(max_length=200, blank=True, default="", null=True)  # noqa: DJ001  as below
    """From where they logged in, and what the program called itself. These are null where a process of the release
    before made the row, which is still there after `prepare`."""

    def __str__(self) -> str:
        return str(self.pk)


class ApiKey(models.Model):
    """What lets a program in as its user, to what `scopes` say. The key itself is shown when it is made and not kept:
    `digest` is its SHA-256, which says nothing of 256 random bits; `prefix` is how its owner knows it again.

    Nothing of it changes but `last_used_at`, to the minute, and `revoked_at`: a revoked one stays, so that what was
    used can be told by its name.
    """

    class Scope(models.TextChoices):
        CHAT = "chat", _("Ask")
        HISTORY = "history", _("Read the history")
        USAGE = "usage", _("See plan, credits and usage")

    id = models.UUIDField(primary_key=True, default=uuid4, editable=False)
    user = models.ForeignKey(User, models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16)
    digest = models.CharField(max_length=64, unique=True)
    scopes = models.JSONField()
    model_ids = models.JSONField(default=list)
    """The ids of the models it may ask; empty: all of the plan."""
    monthly_credits = models.PositiveIntegerField(null=True)
    """The most it may use in a calendar month (UTC); null: no limit of its own."""
    requests_per_minute = models.PositiveIntegerField(null=True)
    """Null: no limit of its own; that of its user counts anyway."""
    origins = models.TextField(blank=True, default="", null=True)  # noqa: DJ001  null where a former release made it
    """Separated by spaces: the pages whose scripts may use it; empty or null: those that the operator allows."""
    keeps_conversations = models.BooleanField(null=True)
    """Whether what it asks over the OpenAI-compatible API is kept in its user's history: True or null."""
    expires_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        indexes = (
            models.Index(fields=["id"], condition=Q(origins__gt="", revoked_at=None), name="api_key_with_origins"),
        )

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()


class Invitation(models.Model):
    """Somebody was asked by mail to join (accounts/joining.py). `digest` is the SHA-256 of the word in the link."""

    email = models.EmailField(_("e-mail address"), max_length=254, unique=True)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    invited_by = models.ForeignKey(
        User, models.SET_NULL, null=True, related_name="+", editable=False, verbose_name=_("invited by")
    )
    created_at = models.DateTimeField(_("invited"), default=timezone.now, editable=False)
    expires_at = models.DateTimeField(_("valid until"), editable=False)
    accepted_at = models.DateTimeField(_("joined"), null=True, editable=False)

    class Meta:
        verbose_name = _("invitation")
        verbose_name_plural = _("invitations")

    def __str__(self) -> str:
        return self.email


class Closure(models.Model):
    """A user who was deleted, until everything of theirs is erased (accounts/closure.py)."""

    user_id = models.BigIntegerField(unique=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return str(self.user_id)
