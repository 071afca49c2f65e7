"""Are the providers there? Each is asked for its list of models once a minute, which costs nothing."""

import asyncio
import logging

from django.utils import timezone

from chat.llm import health
from chat.llm.breaker import key_digest
from chat.llm.dispatch import tell_operator
from chat.llm.health import Probe
from chat.llm.providers import list_providers, sdk
from chat.llm.providers.base import Provider
from chat.llm.providers.errors import ProviderError, TimedOut

logger = logging.getLogger(__name__)

PROBE_SECONDS = 8
"""A worker has other work: the sweep waits for the probes where there is one of its kind."""


async def probe_providers() -> None:
    """Ask every provider, by each of its keys, and keep what they said."""
    providers = [provider for provider in list_providers().values() if provider.adapter in sdk.ADAPTERS]
    try:
        await asyncio.gather(*map(_probe, providers))
    finally:
        await sdk.close_clients()


async def _probe(provider: Provider) -> None:
    served = provider.with_each_api_key()
    codes = await asyncio.gather(*map(_ask, served))
    keys = {key_digest(one.api_key): code for one, code in zip(served, codes, strict=True)}
    found = Probe("" if "" in codes else codes[0], timezone.now().timestamp(), keys)
    await asyncio.to_thread(health.save_probe, provider.slug, found)


async def _ask(provider: Provider) -> str:
    """Return the code of what went wrong; empty when it told its models."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await sdk.list_models(provider)
    except TimeoutError:
        return TimedOut.code
    except ProviderError as error:
        logger.warning("Probe failed", extra={"provider": provider.slug, "code": error.code, "status": error.status})
        if error.code == "authentication":  # a key that may not list models may still be good
            tell_operator(provider, "", error.code)
        return error.code
    return ""
