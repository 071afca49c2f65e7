"""Probes: each provider is asked for its list of models once a minute, which costs nothing."""

import asyncio
import logging

from django.utils import timezone

from chat.llm.breaker import api_key_digest
from chat.llm.health.alerts import WHOLE_PROVIDER_CODES, alert_of_error
from chat.llm.health.counters import Probe, save_probe
from chat.llm.providers import list_providers, sdk
from chat.llm.providers.base import Provider
from chat.llm.providers.errors import ProviderError, TimedOut

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_SECONDS = 8
"""Short, as the worker that probes may be the only one."""


async def probe_providers() -> None:
    """Ask every provider for its models, with each of its API keys, and save what came of it."""
    for slug, keys in (await ask_providers()).items():
        codes = list(keys.values())
        probe = Probe("" if "" in codes else codes[0], timezone.now().timestamp(), keys)
        await asyncio.to_thread(save_probe, slug, probe)


async def ask_providers() -> dict[str, dict[str, str]]:
    """Ask every provider for its models, with each of its API keys. Return, for each, the codes of what went wrong by
    the digest of the key; empty where the models were listed."""
    providers = [provider for provider in list_providers().values() if provider.adapter in sdk.ADAPTERS]
    try:
        found = await asyncio.gather(*map(_ask, providers))
    finally:
        await sdk.close_clients()
    return {provider.slug: keys for provider, keys in zip(providers, found, strict=True)}


async def _ask(provider: Provider) -> dict[str, str]:
    with_keys = provider.with_each_api_key()
    codes = await asyncio.gather(*map(_error_code, with_keys))
    return {api_key_digest(one.api_key): code for one, code in zip(with_keys, codes, strict=True)}


async def _error_code(provider: Provider) -> str:
    """Return the code of what went wrong; empty when the provider listed its models."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
            await sdk.list_models(provider)
    except TimeoutError:
        return TimedOut.code
    except ProviderError as error:
        logger.warning("Probe failed", extra={"provider": provider.slug, "code": error.code, "status": error.status})
        if error.code in WHOLE_PROVIDER_CODES:  # a key that may not list models may still answer
            alert_of_error(provider, "", error.code)
        return error.code
    return ""
