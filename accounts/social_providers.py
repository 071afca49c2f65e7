"""Which providers let people in with their accounts there: those that the settings switch on."""

from dataclasses import dataclass

from allauth.socialaccount import app_settings


@dataclass(frozen=True, slots=True)
class SocialProvider:
    """`id` is part of addresses, and of the rows of connected accounts; `kind` is how allauth calls what speaks with
    it."""

    id: str
    kind: str
    name: str


def list_social_providers() -> list[SocialProvider]:
    """Return those that are switched on, in the order of the settings."""
    return [
        SocialProvider(app["provider_id"] or kind, kind, app["name"])
        for kind, found in app_settings.PROVIDERS.items()
        for app in found.get("APPS", ())
    ]


def find_social_provider(provider_id: str) -> SocialProvider | None:
    return next((one for one in list_social_providers() if one.id == provider_id), None)
