"""The providers this site knows, as data: whatever differs between them is written here, and only here.

A new provider of a known wire format is one entry, and the settings it names in config/settings.py. This module
imports only the standard library, so that the settings, the models and programs without Django can read it.
"""

from dataclasses import dataclass
from typing import Literal

NO_EFFORT = ("none", "off")
"""Providers' words for an effort that means not to think."""


@dataclass(frozen=True, slots=True)
class ChatParameters:
    """How a server that speaks OpenAI's chat completions wants to be asked.

    `effort_parameter` is `reasoning_effort`, which takes the level, or `thinking`, which is on or off. An empty
    parameter is not sent. `takes_schemas`: whether an answer can be told to match a JSON schema, else only to be JSON.
    `samples_while_reasoning`: whether models that reason take a temperature and the like, and sequences to stop at.
    `effort_with_tools` is the only effort at which its models that reason are offered tools, but for those whose names
    begin with one of `reason_with_tools`; empty is any effort.
    """

    system_role: Literal["system", "developer"] = "system"
    effort_parameter: Literal["reasoning_effort", "thinking"] = "reasoning_effort"
    cache_key_parameter: str = ""
    end_user_parameter: str = ""
    takes_schemas: bool = True
    samples_while_reasoning: bool = True
    effort_with_tools: str = ""
    reason_with_tools: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownProvider:
    """One provider.

    `adapter` is a key of chat.llm.providers.ADAPTERS. Without `api_key_setting` the provider takes no API key; with
    `requires_api_key` it is configured when it has one, else when it has a base URL. `is_paid` means that nothing it
    serves is free. `token_factor` is how many tokens it makes of what the careful estimate calls one.
    `genai_prices_id` is its id in the package `genai-prices`; without it no list price is known.
    """

    slug: str
    name: str
    adapter: str
    base_url_setting: str
    api_key_setting: str = ""
    requires_api_key: bool = False
    is_paid: bool = False
    token_factor: float = 1
    genai_prices_id: str = ""
    parameters: ChatParameters = ChatParameters()


_ENTRIES = (
    KnownProvider(
        slug="openai",
        name="OpenAI",
        adapter="openai_chat",
        base_url_setting="OPENAI_BASE_URL",
        api_key_setting="OPENAI_API_KEY",
        requires_api_key=True,
        is_paid=True,
        genai_prices_id="openai",
        parameters=ChatParameters(
            system_role="developer",
            cache_key_parameter="prompt_cache_key",
            end_user_parameter="safety_identifier",
            samples_while_reasoning=False,
            effort_with_tools="none",
            reason_with_tools=("o1", "o3", "o4", "gpt-5-"),
        ),
    ),
    KnownProvider(
        slug="anthropic",
        name="Anthropic",
        adapter="anthropic_messages",
        base_url_setting="ANTHROPIC_BASE_URL",
        api_key_setting="ANTHROPIC_API_KEY",
        requires_api_key=True,
        is_paid=True,
        token_factor=1.35,
        genai_prices_id="anthropic",
    ),
    KnownProvider(
        slug="gemini",
        name="Google",
        adapter="gemini",
        base_url_setting="GEMINI_BASE_URL",
        api_key_setting="GEMINI_API_KEY",
        requires_api_key=True,
        is_paid=True,
        genai_prices_id="google",
    ),
    KnownProvider(
        slug="deepseek",
        name="DeepSeek",
        adapter="openai_chat",
        base_url_setting="DEEPSEEK_BASE_URL",
        api_key_setting="DEEPSEEK_API_KEY",
        requires_api_key=True,
        is_paid=True,
        token_factor=1.1,
        genai_prices_id="deepseek",
        parameters=ChatParameters(effort_parameter="thinking", takes_schemas=False),
    ),
    KnownProvider(
        slug="compatible",
        name="OpenAI-compatible",
        adapter="openai_chat",
        base_url_setting="OPENAI_COMPATIBLE_BASE_URL",
        api_key_setting="OPENAI_COMPATIBLE_API_KEY",
    ),
    KnownProvider(slug="demo", name="Demo", adapter="openai_chat", base_url_setting="DEMO_MODEL_URL"),
    KnownProvider(slug="scripted", name="Scripted", adapter="scripted", base_url_setting="SCRIPTED_PROVIDER"),
)

KNOWN_PROVIDERS = {known.slug: known for known in _ENTRIES}
"""By slug, in the order in which an operator reads them."""

DEMO = "demo"
"""The small model on the site's own machine."""
COMPATIBLE = "compatible"
"""The operator's own server, whose models are named in OPENAI_COMPATIBLE_MODELS."""
PAID_PROVIDERS = tuple(known.slug for known in _ENTRIES if known.is_paid)
BILLING_PROVIDERS = tuple(known.slug for known in _ENTRIES if known.api_key_setting)
"""Those that may send a bill: what is asked with an API key is charged to its owner."""
API_KEY_SETTINGS = tuple(known.api_key_setting for known in _ENTRIES if known.api_key_setting)


def token_factor_of(slug: str) -> float:
    """Return how many tokens the provider makes of what the careful estimate calls one; 1 where nothing is known."""
    known = KNOWN_PROVIDERS.get(slug)
    return known.token_factor if known else 1


def genai_prices_id_of(slug: str) -> str:
    """Return what the package `genai-prices` calls the provider; empty where it does not know it."""
    known = KNOWN_PROVIDERS.get(slug)
    return known.genai_prices_id if known else ""
