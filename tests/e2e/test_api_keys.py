"""API keys, in a browser: made, copied, used and revoked, with and without scripts, at every width."""

import re
import secrets

import aiohttp
import pytest
from playwright.async_api import Browser, expect

from tests.e2e.browsing import Tab
from tests.e2e.test_pages import faults, violations
from tests.fakes.readers import Member
from tests.processes.stores import TestedSite

PASSWORD = "una clave larga"
LONG = "Un nombre sin espacios que no cabe en un teléfono: " + "x" * 45


async def log_in_new(tab: Tab, site: TestedSite) -> str:
    """Sign somebody up, and log them in in this tab; return their address."""
    email = f"keys-{secrets.token_hex(6)}@example.com"
    async with aiohttp.ClientSession() as session:
        fields = {"email": email, "password": PASSWORD, "locale": "en"}
        async with session.post(f"http://localhost:{site.port()}/api/v1/auth/register", json=fields) as answer:
            assert answer.status == 201
    await tab.page.goto("/accounts/login/?next=/settings/keys/")
    await tab.page.locator("input[name=login]").fill(email)
    await tab.page.locator("input[name=password]").fill(PASSWORD)
    await tab.page.locator("input[name=password]").press("Enter")
    await expect(tab.page.get_by_role("heading", name="A new key")).to_be_visible()
    return email


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
async def test_a_key_is_made_used_and_revoked(browser: Browser, site: TestedSite, scripts: bool) -> None:
    options = {"permissions": ["clipboard-read", "clipboard-write"], "java_script_enabled": scripts}
    async with Tab.open(browser, site.port(), **options) as tab:
        page = tab.page
        await log_in_new(tab, site)
        await page.get_by_label("Name").fill(LONG)
        await page.get_by_label("Read the history").check()
        await page.get_by_label("Credits a month").fill("1200")
        await page.get_by_role("button", name="Make the key").click()
        await page.locator("input[name=password]").fill(PASSWORD)  # once more, as for other dangerous acts
        await page.get_by_role("button", name="Go on").click()
        field = page.get_by_role("textbox", name="API key")
        secret = await field.input_value()
        assert re.fullmatch(r"ttl_[0-9a-f]{8}_[\w-]{43}", secret)
        program = Member(secret, site.port)
        assert (await program.call("GET", "models"))[0] == 200
        if scripts:
            await page.get_by_role("button", name="Copy the key").click()
            await expect(page.get_by_text("Copied")).to_be_visible()
            assert await page.evaluate("navigator.clipboard.readText()") == secret
            assert await violations(page) == []
            await tab.picture("key-made")
            for width in (320, 1440):
                await page.set_viewport_size({"width": width, "height": 800})
                assert await page.evaluate("document.documentElement.scrollWidth") <= width
            assert await faults(tab, "keys", "/settings/keys/", "en") == []
            assert await violations(page) == []
            await tab.picture("keys")
        else:
            await page.goto("/settings/keys/")
        await expect(page.get_by_text(secret)).to_have_count(0)
        await page.get_by_role("link", name=re.compile("^Revoke")).click()
        await page.get_by_role("button", name="Revoke").click()
        await expect(page.get_by_text("The key is revoked")).to_be_visible()
        assert (await program.call("GET", "models"))[0] == 401
