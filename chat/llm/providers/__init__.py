"""Who can serve models: adapters by wire format, and the providers this installation has a key or an address for."""

from typing import Literal

from django.conf import settings

from chat.llm.providers import anthropic_messages, gemini, openai_chat, scripted, sdk
from chat.llm.providers.base import Provider, Stream
from chat.llm.providers.keys import api_keys_of

ADAPTERS: dict[str, Stream] = {
    "openai_chat": openai_chat.stream,
    "anthropic_messages": anthropic_messages.stream,
    "gemini": gemini.stream,
    "scripted": scripted.stream,
}


def list_providers() -> dict[str, Provider]:
    """Return the configured providers by key. A provider whose key or address is not set does not exist."""
    known = (
        _with_keys("OPENAI_API_KEY", "openai", "OpenAI", "openai_chat", settings.OPENAI_BASE_URL, "developer"),
        _with_keys("ANTHROPIC_API_KEY", "anthropic", "Anthropic", "anthropic_messages", settings.ANTHROPIC_BASE_URL),
        _with_keys("GEMINI_API_KEY", "gemini", "Google", "gemini", settings.GEMINI_BASE_URL),
        _with_keys("DEEPSEEK_API_KEY", "deepseek", "DeepSeek", "openai_chat", settings.DEEPSEEK_BASE_URL),
        _compatible(settings.OPENAI_COMPATIBLE_BASE_URL),
        _at_address("demo", "Demo", "openai_chat", settings.DEMO_MODEL_URL),
        _at_address("scripted", "Scripted", "scripted", "here" if settings.SCRIPTED_PROVIDER else ""),
    )
    return {provider.key: provider for provider in known if provider}


def stream_of(provider: Provider) -> Stream:
    """Return what reads the provider's answers: our adapter, or its SDK where the operator says so."""
    return sdk.stream if provider.key in settings.SDK_PROVIDERS else ADAPTERS[provider.adapter]


def _with_keys(
    setting: str,
    key: str,
    name: str,
    adapter: str,
    base_url: str,
    system_role: Literal["system", "developer"] = "system",
) -> Provider | None:
    """Return a provider that is there when it has a key."""
    found = api_keys_of(setting)
    return Provider(key, name, adapter, base_url, found[0], system_role, found) if found else None


def _compatible(base_url: str) -> Provider | None:
    """Return the server of the operator's own, which may want no key."""
    if not base_url:
        return None
    found = api_keys_of("OPENAI_COMPATIBLE_API_KEY") or ("",)
    return Provider("compatible", "OpenAI-compatible", "openai_chat", base_url, found[0], keys=found)


def _at_address(key: str, name: str, adapter: str, base_url: str) -> Provider | None:
    """Return a provider that is there when it has an address."""
    return Provider(key, name, adapter, base_url) if base_url else None
