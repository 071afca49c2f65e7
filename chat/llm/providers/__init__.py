"""Who can serve models: adapters by wire format, and the providers this installation has a key or an address for."""

from django.conf import settings

from chat.llm.providers import anthropic_messages, gemini, openai_chat, scripted, sdk
from chat.llm.providers.base import Provider, Stream

ADAPTERS: dict[str, Stream] = {
    "openai_chat": openai_chat.stream,
    "anthropic_messages": anthropic_messages.stream,
    "gemini": gemini.stream,
    "scripted": scripted.stream,
}


def list_providers() -> dict[str, Provider]:
    """Return the configured providers by key. A provider whose key or address is not set does not exist."""
    known = (
        (
            bool(settings.OPENAI_API_KEY),
            Provider(
                key="openai",
                name="OpenAI",
                adapter="openai_chat",
                base_url=settings.OPENAI_BASE_URL,
                api_key=settings.OPENAI_API_KEY,
                system_role="developer",
            ),
        ),
        (
            bool(settings.ANTHROPIC_API_KEY),
            Provider(
                key="anthropic",
                name="Anthropic",
                adapter="anthropic_messages",
                base_url=settings.ANTHROPIC_BASE_URL,
                api_key=settings.ANTHROPIC_API_KEY,
            ),
        ),
        (
            bool(settings.GEMINI_API_KEY),
            Provider(
                key="gemini",
                name="Google",
                adapter="gemini",
                base_url=settings.GEMINI_BASE_URL,
                api_key=settings.GEMINI_API_KEY,
            ),
        ),
        (
            bool(settings.DEEPSEEK_API_KEY),
            Provider(
                key="deepseek",
                name="DeepSeek",
                adapter="openai_chat",
                base_url=settings.DEEPSEEK_BASE_URL,
                api_key=settings.DEEPSEEK_API_KEY,
            ),
        ),
        (
            bool(settings.OPENAI_COMPATIBLE_BASE_URL),
            Provider(
                key="compatible",
                name="OpenAI-compatible",
                adapter="openai_chat",
                base_url=settings.OPENAI_COMPATIBLE_BASE_URL,
                api_key=settings.OPENAI_COMPATIBLE_API_KEY,
            ),
        ),
        (
            bool(settings.DEMO_MODEL_URL),
            Provider(key="demo", name="Demo", adapter="openai_chat", base_url=settings.DEMO_MODEL_URL),
        ),
        (settings.SCRIPTED_PROVIDER, Provider(key="scripted", name="Scripted", adapter="scripted", base_url="")),
    )
    return {provider.key: provider for is_configured, provider in known if is_configured}


def stream_of(provider: Provider) -> Stream:
    """Return what reads the provider's answers: our adapter, or its SDK where the operator says so."""
    return sdk.stream if provider.key in settings.SDK_PROVIDERS else ADAPTERS[provider.adapter]
