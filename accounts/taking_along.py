"""What the accounts have of a person, for an export of everything."""

from collections.abc import Iterator
from typing import Any

from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialAccount
from django.dispatch import receiver
from django.utils.translation import gettext as _

from accounts.export_parts import ExportPart, json_of, json_of_all
from accounts.models import ApiKey, TokenFamily, User
from accounts.signals import everything_taken_along
from core.sweeps import iterate_pages

_PROFILE = (
    *("id", "email", "name", "locale", "time_zone", "theme", "keep_history_days"),
    *("created_at", "last_login", "terms_accepted_at", "closes_at", "is_active", "is_staff", "is_superuser"),
)
_KEY = (
    *("id", "name", "prefix", "scopes", "model_ids", "monthly_credits", "requests_per_minute", "origins"),
    *("keeps_conversations", "created_at", "expires_at", "last_used_at", "revoked_at"),
)


@receiver(everything_taken_along)
def parts_of_account(user: User, **_signal: Any) -> Iterator[ExportPart]:
    yield ExportPart(
        name="profile.json",
        about=_("Your account: address, name, settings, and how you are logged in. Your password is not in it."),
        pieces=lambda: json_of(_profile_of(user)),
    )
    yield ExportPart(
        name="api-keys.json",
        about=_("Your API keys: names, first characters and what they may do. The keys themselves are not kept."),
        pieces=lambda: json_of_all(
            {name: getattr(key, name) for name in _KEY}
            for page in iterate_pages(ApiKey.objects.filter(user=user))
            for key in page
        ),
    )


def _profile_of(user: User) -> dict[str, Any]:
    addresses = EmailAddress.objects.filter(user=user).order_by("pk").values("email", "verified", "primary")
    log_ins = TokenFamily.objects.filter(user=user).order_by("expires_at").values("id", "expires_at")
    connected = SocialAccount.objects.filter(user=user).order_by("pk")
    return {
        **{name: getattr(user, name) for name in _PROFILE},
        "roles": list(user.groups.order_by("name").values_list("name", flat=True)),
        "email_addresses": list(addresses),
        "api_log_ins": list(log_ins[:1_000]),
        "connected_accounts": list(connected.values("provider", "uid", "extra_data", "date_joined", "last_login")),
    }
