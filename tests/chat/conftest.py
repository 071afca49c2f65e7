"""A provider on the wire, models that are served by it, and a runner beside the test."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from django.db.models import F
from pytest_django import Settings
from redis.asyncio import Redis

from billing import metering, spending
from billing.models import UsageRecord
from chat.llm.breaker import close_breakers
from chat.llm.providers.http import close_session
from chat.models import LanguageModel
from chat.turns.runner import Runner
from chat.turns.watching import Hub
from core.redis_clients import async_redis, close_async_redis, sync_redis
from core.threads import cancel_and_wait
from testbed.provider import FakeProvider

Offer = Callable[..., LanguageModel]


@pytest.fixture(scope="session")
def fake_provider() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def provider(fake_provider: FakeProvider) -> FakeProvider:
    """The provider, with everything forgotten that earlier tests did."""
    fake_provider.reset()
    return fake_provider


@pytest.fixture
def offer(provider: FakeProvider, catalog: None, settings: Settings) -> Offer:
    """Return a function that offers a model whose name is the script of its answers."""
    settings.OPENAI_COMPATIBLE_BASE_URL = provider.url
    settings.OPENAI_COMPATIBLE_API_KEY = "sk-secret-of-the-house"

    def offer(name: str, **fields: Any) -> LanguageModel:
        prices = {"input_price": 1_000_000, "output_price": 2_000_000}
        defaults = {"tier": "cheap", "context_window": 8_000, "max_output": 1_000, "label": name} | prices
        model: LanguageModel = LanguageModel.objects.create(
            key=name, provider="compatible", provider_model=name, **(defaults | fields)
        )
        return model

    return offer


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    """This loop's connection to the store, closed when the test is over."""
    client = async_redis()
    yield client
    await end_subscription()
    await close_breakers()
    await close_session()
    await close_async_redis()
    await client.aclose(
        close_connection_pool=True
    )  # of two runners in one loop, the first that left took it out of use


async def end_subscription() -> None:
    """End this loop's reading of live text, before the connection under it is closed."""
    name = Hub._keep_subscribed.__qualname__
    await cancel_and_wait(
        [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__qualname__", "") == name]
    )


@asynccontextmanager
async def running() -> AsyncIterator[Runner]:
    """A runner in this loop; leaving stops it, as SIGTERM would."""
    stopping = asyncio.Event()
    runner = Runner()
    task = asyncio.create_task(runner.run(stopping))
    try:
        yield runner
    finally:
        await end_subscription()  # a runner that leaves closes the loop's connections
        stopping.set()
        await task


@pytest.fixture
async def runner(redis: Redis, settings: Settings) -> AsyncIterator[Runner]:
    """A runner for the whole test. What still runs at the end is not waited for."""
    settings.DRAIN_SECONDS = 0
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(running())


@pytest.fixture(autouse=True)
def ledger_balances(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did: the counters of every period and of every day are still the sums of their rows, and nobody
    paid more than was reserved, unless it is said why."""
    if "catalog" not in request.fixturenames:
        yield
        return
    request.getfixturevalue("catalog")
    yield
    assert not metering.list_unbalanced_periods().exists()
    assert not metering.list_unbalanced_parts().exists()
    assert not spending.list_unbalanced_days().exists()
    above = UsageRecord.objects.filter(cost_micros__gt=F("reservation__amount_micros"))
    assert not above.filter(above_because=None).exists()


@pytest.fixture
def queue_length() -> Callable[[], int]:
    return lambda: int(sync_redis().xlen("turns"))
