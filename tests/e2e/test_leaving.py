"""Somebody closes their account in a browser, by keyboard, comes back to the one page there is, and keeps it."""

import re
import secrets

import aiohttp
from playwright.async_api import Browser, Page, expect

from tests.e2e.browsing import Tab
from tests.e2e.test_pages import faults, violations
from tests.processes.stores import TestedSite

PAGE, PASSWORD = "/settings/close/", "una clave larga"


async def sign_up(site: TestedSite) -> str:
    email = f"leaving-{secrets.token_hex(6)}@example.com"
    async with aiohttp.ClientSession() as session:
        fields = {"email": email, "password": PASSWORD, "locale": "en"}
        async with session.post(f"http://localhost:{site.port()}/api/v1/auth/register", json=fields) as answer:
            assert answer.status == 201
    return email


async def log_in(page: Page, email: str) -> None:
    await page.goto(f"/accounts/login/?next={PAGE}")
    await page.locator("input[name=login]").fill(email)
    await page.locator("input[name=password]").fill(PASSWORD)
    await page.locator("input[name=password]").press("Enter")
    await page.wait_for_url(f"**{PAGE}")


async def test_an_account_is_closed_and_kept(browser: Browser, site: TestedSite) -> None:
    async with Tab.open(browser, site.port(), reduced_motion="reduce") as tab:
        page = tab.page
        email = await sign_up(site)
        await log_in(page, email)
        assert await faults(tab, "close", PAGE, "en") == []
        assert await violations(page) == []
        await tab.picture("close-account")
        field = page.get_by_label("Your e-mail address, to confirm it")
        await field.fill(email)
        await field.press("Enter")
        await page.locator("input[name=password]").fill(PASSWORD)
        await page.locator("input[name=password]").press("Enter")
        await expect(page.get_by_text("Your account will be closed on")).to_be_visible()
        await expect(page.get_by_role("heading", name="Welcome back")).to_be_visible()
        assert await violations(page) == []
        await tab.picture("account-closing-told")

        await log_in(page, email)
        await expect(page.get_by_role("heading", name="Your account will be closed on")).to_be_visible()
        assert await faults(tab, "conversations", "/conversations/", "en") == []
        card = await page.locator("main .card").first.bounding_box()
        assert card is not None
        assert abs(card["x"] * 2 + card["width"] - 1440) < 2  # in the middle: there is no navigation beside it
        assert page.url.endswith(PAGE)
        assert await violations(page) == []
        await tab.picture("account-closing")
        await page.get_by_role("button", name="Export everything").click()
        await page.locator("input[name=password]").fill(PASSWORD)
        await page.locator("input[name=password]").press("Enter")
        await expect(page.get_by_role("link", name="Download")).to_be_visible()
        assert await violations(page) == []
        async with page.expect_download() as download:
            await page.get_by_role("link", name="Download").press("Enter")
        assert re.fullmatch(r"[\w-]+-20\d\d-\d\d-\d\d\.zip", (await download.value).suggested_filename)

        await page.keyboard.press("Home")
        await page.get_by_role("button", name="Keep the account").focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("You keep your account.")).to_be_visible()
        await expect(page.get_by_role("heading", name="Settings")).to_be_visible()
