"""The registry of providers: each entry has what it names."""

import subprocess
import sys

import pytest
from pytest_django import Settings

from chat.llm.providers import ADAPTERS, list_providers
from chat.provider_registry import API_KEY_SETTINGS, KNOWN_PROVIDERS, PAID_PROVIDERS, KnownProvider, token_factor_of


@pytest.fixture(params=KNOWN_PROVIDERS.values(), ids=KNOWN_PROVIDERS)
def known(request: pytest.FixtureRequest) -> KnownProvider:
    return request.param


def test_an_entry_names_settings_and_an_adapter_that_exist(known: KnownProvider, settings: Settings):
    assert known.adapter in ADAPTERS
    assert hasattr(settings, known.base_url_setting)
    if known.api_key_setting:
        assert hasattr(settings, known.api_key_setting)
        assert hasattr(settings, f"{known.api_key_setting}_FILE")


def test_an_entry_is_configured_by_its_settings_alone(known: KnownProvider, settings: Settings):
    for other in KNOWN_PROVIDERS.values():
        setattr(settings, other.base_url_setting, "")
    for setting in API_KEY_SETTINGS:
        setattr(settings, setting, "")
    assert list_providers() == {}
    setattr(settings, known.base_url_setting, "http://127.0.0.1:1/v1")
    if known.requires_api_key:
        assert list_providers() == {}
        setattr(settings, known.api_key_setting, "k")
    [provider] = list_providers().values()
    assert (provider.slug, provider.name, provider.adapter) == (known.slug, known.name, known.adapter)
    assert (provider.base_url, provider.parameters) == ("http://127.0.0.1:1/v1", known.parameters)


def test_who_is_paid_has_list_prices():
    assert {slug for slug, known in KNOWN_PROVIDERS.items() if known.genai_prices_id} == set(PAID_PROVIDERS)


def test_a_provider_nobody_knows_counts_tokens_as_the_estimate_does():
    assert token_factor_of("retired") == 1


def test_the_registry_needs_nothing_else():
    """The settings read it, and programs without Django."""
    program = "import sys, chat.provider_registry; sys.exit('django' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
