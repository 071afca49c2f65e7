"""`manage.py smoke_providers`: asks every configured provider a few questions, and says what is not as expected.

It is for the operator: it asks the models of this installation's catalogue, with its API keys, and computes costs
by its prices.
"""

import asyncio
import sys
from typing import Any

from django.core.management.base import BaseCommand

from chat.llm.catalog import Candidate, list_offered
from chat.llm.providers import list_providers, sdk
from chat.llm.providers.http import close_session
from chat.llm.smoke import SmokeResult, try_all


class Command(BaseCommand):
    help = (
        "Ask every provider whose key is set four short questions, by both transports. It costs a fraction of a cent."
    )

    def handle(self, *_args: Any, **_options: Any) -> None:
        configured = [slug for slug, provider in list_providers().items() if provider.adapter in sdk.ADAPTERS]
        if not configured:
            self.stdout.write("No provider has a key: nothing was asked.")
            return
        results = asyncio.run(self._ask(list_offered(), configured))
        differing = sum(bool(one.differences) for one in results)
        asked = sum(one.transport is not None for one in results)
        cost = sum(one.cost_micros or 0 for one in results)
        self.stdout.write(f"{asked} questions, {differing} not as expected, {cost / 1_000_000:.6f} US dollars.")
        if differing:
            sys.exit(1)

    async def _ask(self, offered: list[Candidate], configured: list[str]) -> list[SmokeResult]:
        results = []
        try:
            async for one in try_all(offered, configured):
                self.stdout.write(_line(one))
                results.append(one)
        finally:
            await close_session()
            await sdk.close_clients()
        return results


def _line(one: SmokeResult) -> str:
    who = f"{one.provider:<10} {one.question:<8} {one.transport or '–':<4} {one.model}"
    if one.differences:
        return f"{who}: DIFFERS: {'; '.join(one.differences)}"
    if one.transport is None:
        return f"{who}: not asked, none of its models takes that"
    read, written = one.tokens
    times = f"{one.first_seconds:.1f} s to the first token, {one.seconds:.1f} s in all"
    return f"{who}: as expected; {times}; {read} tokens in, {written} out, {one.cost_micros} micros"
