"""Browser tests: Chromium, on a site of real processes, through a proxy that can cut."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright, expect

from config.embedded.simulated_mercadopago import SimulatedMercadoPago
from config.embedded.simulated_stripe import SimulatedStripe
from tests.e2e.browsing import ANSWER_MS, OPEN, Person, Tab
from tests.fakes.identity import CLIENT_ID, CLIENT_SECRET, IdentityProvider
from tests.fakes.proxy import CuttingProxy
from tests.processes.stores import TestedSite, run_site

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser")
"""The first is the same engine without windows, and takes half the processor."""
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MODELS = [
    "fake-900t-5ms-echo8",
    "fake-20t-5ms",
    "fake-300t-10ms-unicode",
    "fake-600t-10ms-unicode",
    "fake-60t-20ms-r20",
    "fake-3000t-50ms",
    "fake-9000t-2ms",
    "fake-10000t-1ms",
    "fake-900t-0ms-echo8-length",
    "fake-900t-60ms-echo8",
    "fake-100t-10ms-error40",
    "fake-100t-60ms-error60",
    "status-503",
]
PEOPLE = 150
WHAT = ("ID", "SECRET")
SECRET, WEBHOOK = "whsec_of-the-browser-tests", "4a0c6a52-8f0c-4a4e-9d4b-0c8a6f9c2b11"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
            item.add_marker(pytest.mark.browser)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail("Chromium is not installed, and REQUIRE_BROWSER=1.", pytrace=False)
        pytest.skip("Chromium is not installed: on Debian, apt install chromium-headless-shell.")
    expect.set_options(timeout=ANSWER_MS)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def identities() -> Iterator[IdentityProvider]:
    """The OpenID server of the site."""
    with IdentityProvider() as provider:
        yield provider


@pytest.fixture(scope="session")
def site(browser: Browser, identities: IdentityProvider, request: pytest.FixtureRequest) -> Iterator[TestedSite]:
    """Two web processes, a runner, a worker, a Valkey, a provider that plays what its model's name says, and both
    payment gateways, simulated in this process; buttons of all providers of accounts, of which one is there."""
    stripe, mercado_pago = SimulatedStripe(notice_secret=SECRET), SimulatedMercadoPago(notice_secret=SECRET)
    with stripe.serve() as stripe_url, mercado_pago.serve() as mercado_pago_url:
        payments = {
            "SIMULATED_STRIPE_URL": stripe_url,
            "STRIPE_SECRET_KEY": "sk_test_simulated0123456789abcdef",
            "STRIPE_PUBLISHABLE_KEY": "pk_test_simulated0123456789abcdef",
            "STRIPE_WEBHOOK_SECRET": SECRET,
            "STRIPE_WEBHOOK_UUID": WEBHOOK,
            "SIMULATED_MERCADOPAGO_URL": mercado_pago_url,
            "MERCADOPAGO_ACCESS_TOKEN": "TEST-simulated-MX",
            "MERCADOPAGO_WEBHOOK_SECRET": SECRET,
            "MERCADOPAGO_COUNTRY": "MX",
            "MERCADOPAGO_MODE": "test",
        }
        accounts = {f"{name}_CLIENT_{what}": "nobody" for name in ("GOOGLE", "GITHUB", "MICROSOFT") for what in WHAT}
        accounts |= {"OPENID_NAME": "Our House", "OPENID_SERVER_URL": identities.url}
        accounts |= {"OPENID_CLIENT_ID": CLIENT_ID, "OPENID_CLIENT_SECRET": CLIENT_SECRET}
        with run_site(MODELS, webs=2, runners=1, MAX_TOKENS="20000", **payments, **accounts) as found:
            stripe.notice_url = f"http://127.0.0.1:{found.port()}/stripe/webhook/{WEBHOOK}/"
            mercado_pago.notice_url = f"http://127.0.0.1:{found.port()}/webhooks/mercadopago/"
            yield found
        if request.session.testsfailed:
            print(found.logs())


@pytest.fixture(scope="session")
def crowd(site: TestedSite) -> list[Person]:
    """Members on a plan without limits, each for one test."""
    accesses = site.create_members(PEOPLE, plan=OPEN)
    return [Person(access, key) for access, key in zip(accesses, site.create_sessions(accesses), strict=True)]


@pytest_asyncio.fixture(loop_scope="session")
async def proxy(site: TestedSite) -> AsyncIterator[CuttingProxy]:
    async with CuttingProxy(site.port()) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(browser: Browser, site: TestedSite, proxy: CuttingProxy) -> AsyncIterator[Tab]:
    """A tab of somebody who is not logged in."""
    async with Tab.open(browser, proxy.port) as tab:
        yield tab


@pytest_asyncio.fixture(loop_scope="session")
async def tab(browser: Browser, crowd: list[Person], proxy: CuttingProxy) -> AsyncIterator[Tab]:
    """A tab of a member nobody else is."""
    async with Tab.open(browser, proxy.port, person=crowd.pop()) as tab:
        yield tab
