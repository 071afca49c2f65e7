"""A newcomer buys Premium through each simulated gateway, sees the allowance rise, cancels, and keeps what was paid."""

import re
from urllib.parse import urlsplit

from playwright.async_api import Browser, Page, expect

from tests.e2e.browsing import Tab
from tests.processes.stores import TestedSite

PASSWORD = "a long password"


async def sign_up(page: Page, email: str) -> None:
    await page.get_by_label(re.compile("E-mail")).fill(email)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("checkbox").check()
    await page.locator("form").filter(has=page.get_by_role("checkbox")).locator(".button-primary").click()


async def choose_premium(page: Page, currency: str) -> None:
    """From the landing page to the checkout, by way of the sign-up."""
    await page.goto("/")
    await page.get_by_role("main").get_by_role("link", name="Plans and prices").first.click()
    await page.get_by_role("link", name=currency, exact=True).click()
    await expect(page.get_by_text("Simulated payments: no money moves.")).to_be_visible()
    await page.get_by_role("link", name="Choose Premium").click()


async def expect_premium(page: Page) -> None:
    await expect(page.get_by_role("heading", name="You have Premium now")).to_be_visible()
    await expect(page.locator("[data-allowance-used]")).to_have_text("0 of 20,000 credits used")


async def cancel(page: Page) -> None:
    """Cancel; the plan stays until the end of what is paid."""
    await page.get_by_role("link", name="See your plan").click()
    await expect(page.get_by_role("heading", name="Premium")).to_be_visible()
    await page.get_by_role("link", name="Cancel", exact=True).click()
    await page.get_by_role("button", name="Cancel the subscription").click()
    await expect(page.get_by_text(re.compile(r"Cancelled\. \w"))).to_be_visible()  # known at the gateway, or soon
    await expect(page.get_by_text(re.compile("You keep Premium until .+ Nothing more is charged."))).to_be_visible()
    await page.goto("/dashboard/")
    await expect(page.locator("[data-allowance-used]")).to_have_text("0 of 20,000 credits used")


async def test_a_newcomer_buys_premium_through_stripe_and_cancels(browser: Browser, site: TestedSite) -> None:
    async with Tab.open(browser, site.port(), pays=True) as tab:
        page = tab.page
        await choose_premium(page, "USD")
        await sign_up(page, "ines@example.com")
        await expect(page.get_by_role("heading", name="Checkout")).to_be_visible()
        await tab.picture("checkout")
        await page.get_by_role("radio", name=re.compile("By card, with Stripe")).check()
        await page.get_by_role("button", name="Go on to pay").click()
        await expect(page.get_by_text("This is a simulation: nothing is charged")).to_be_visible()
        await tab.picture("simulated-stripe")
        await page.get_by_role("button", name="Pay · Pagar", exact=False).first.click()
        await expect_premium(page)
        await tab.picture("bought")
        await cancel(page)
        await page.goto("/billing/")
        await tab.picture("billing-cancelled")
        while not await page.get_by_role("button", name="Resume").count():  # a slow gateway is told by a worker
            await page.wait_for_timeout(500)
            await page.reload()
        await page.get_by_role("button", name="Resume").click()
        await expect(page.get_by_text("Your subscription goes on.")).to_be_visible()


async def test_a_newcomer_buys_premium_through_mercado_pago_without_a_script(
    browser: Browser, site: TestedSite
) -> None:
    async with Tab.open(browser, site.port(), pays=True, java_script_enabled=False) as tab:
        page = tab.page
        await choose_premium(page, "MXN")
        await sign_up(page, "joao@example.com")
        await page.get_by_role("radio", name=re.compile("By card, with Mercado Pago")).check()
        await page.get_by_label("Your e-mail address at Mercado Pago").fill("joao@mercadopago.example")
        await page.get_by_role("button", name="Go on to pay").click()
        await page.get_by_role("button", name=re.compile("Subscribe")).click()
        assert urlsplit(page.url).path.startswith("/billing/return/")
        for _ in range(30):  # the first payment is made a few seconds later
            if await page.get_by_role("heading", name="You have Premium now").count():
                break
            await expect(page.get_by_text("to an hour")).to_be_visible()
            await page.wait_for_timeout(500)
            await page.get_by_role("link", name="Check again").click()
        await expect_premium(page)
        await cancel(page)


async def test_who_leaves_the_payment_page_has_bought_nothing_and_can_go_on(browser: Browser, site: TestedSite) -> None:
    async with Tab.open(browser, site.port(), pays=True) as tab:
        page = tab.page
        await choose_premium(page, "USD")
        await sign_up(page, "kim@example.com")
        await page.get_by_role("button", name="Go on to pay").click()
        await page.get_by_role("button", name=re.compile("Leave without paying")).click()
        await expect(page.get_by_role("heading", name="Nothing is paid yet")).to_be_visible()
        await page.get_by_role("link", name="Go on to pay").click()
        await page.get_by_role("button", name=re.compile("the bank's confirmation")).click()
        await page.get_by_role("button", name=re.compile("Confirm")).click()
        await expect_premium(page)
