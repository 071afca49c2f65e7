"""The configured providers, and the adapter of each wire format."""

from django.conf import settings

from chat.llm.providers import anthropic_messages, gemini, openai_chat, scripted, sdk
from chat.llm.providers.api_keys import api_keys_of
from chat.llm.providers.base import Provider, Stream
from chat.provider_registry import KNOWN_PROVIDERS, KnownProvider

ADAPTERS: dict[str, Stream] = {
    "openai_chat": openai_chat.stream,
    "anthropic_messages": anthropic_messages.stream,
    "gemini": gemini.stream,
    "scripted": scripted.stream,
}


def list_providers() -> dict[str, Provider]:
    """Return the configured providers by slug. A provider whose API key or base URL is not set is left out."""
    configured = map(_configured, KNOWN_PROVIDERS.values())
    return {provider.slug: provider for provider in configured if provider}


def stream_of(provider: Provider) -> Stream:
    """Return what streams the provider's answers: our adapter, or its official SDK where the operator says so."""
    return sdk.stream if provider.slug in settings.SDK_PROVIDERS else ADAPTERS[provider.adapter]


def _configured(known: KnownProvider) -> Provider | None:
    base_url = getattr(settings, known.base_url_setting)
    if not (base_url or known.requires_api_key):
        return None
    api_keys = api_keys_of(known.api_key_setting) if known.api_key_setting else ()
    if known.requires_api_key and not api_keys:
        return None
    return Provider(
        known.slug,
        known.name,
        known.adapter,
        str(base_url),
        api_keys[0] if api_keys else "",
        api_keys,
        known.parameters,
    )
