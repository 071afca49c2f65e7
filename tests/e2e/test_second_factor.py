"""The second factor, in a browser: set up, asked for, and turned off, with and without scripts, at every width."""

import re
import secrets

import aiohttp
import pytest
from playwright.async_api import Browser, expect

from tests.accounts.factors import App
from tests.e2e.browsing import Tab
from tests.e2e.test_pages import faults, violations
from tests.fakes.identity import Identity, IdentityProvider
from tests.processes.stores import TestedSite

PASSWORD = "una clave larga"


async def sign_up(site: TestedSite) -> str:
    """Sign somebody up, whose address is confirmed; return it."""
    email = f"factor-{secrets.token_hex(6)}@example.com"
    async with aiohttp.ClientSession() as session:
        fields = {"email": email, "password": PASSWORD, "locale": "en"}
        async with session.post(f"http://localhost:{site.port()}/api/v1/auth/register", json=fields) as answer:
            assert answer.status == 201
    site.confirm_address(email)
    return email


async def give_password(tab: Tab, email: str) -> None:
    await tab.page.goto("/accounts/login/?next=/accounts/2fa/")
    await tab.page.locator("input[name=login]").fill(email)
    await tab.page.locator("input[name=password]").fill(PASSWORD)
    await tab.page.locator("input[name=password]").press("Enter")


async def look(tab: Tab, name: str, path: str = "") -> None:
    """Check what every page must be."""
    await tab.picture(name)
    assert await violations(tab.page) == []
    for width in (320, 1440):
        await tab.page.set_viewport_size({"width": width, "height": 800})
        assert await tab.page.evaluate("document.documentElement.scrollWidth") <= width
    if path:
        assert await faults(tab, name, path, "en") == []


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
async def test_an_app_is_set_up_asked_for_and_turned_off(browser: Browser, site: TestedSite, scripts: bool) -> None:
    email = await sign_up(site)
    async with Tab.open(browser, site.port(), java_script_enabled=scripts) as tab:
        page = tab.page
        await give_password(tab, email)
        await page.get_by_role("link", name="Set up an app").click()
        await expect(page.locator("input[name=password]")).to_be_focused()
        await page.keyboard.type(PASSWORD)
        await page.keyboard.press("Enter")
        app = App(await page.get_by_label("Key", exact=True).input_value())
        picture = page.get_by_role("img", name="Picture with the key")
        assert not scripts or await picture.evaluate("image => image.complete && image.naturalWidth > 0")
        if scripts:
            await look(tab, "factor-set-up")
        await expect(page.get_by_label("The code that it shows")).to_be_focused()
        await page.keyboard.type(app.code(-1))
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Recovery codes")).to_be_visible()
        codes = re.findall(r"\b\d{8}\b", await page.locator("main").inner_text())
        assert len(codes) == 10
        if scripts:
            await look(tab, "factor-codes", "/accounts/2fa/recovery-codes/")
            await page.goto("/accounts/2fa/")
            await look(tab, "factor", "/accounts/2fa/")
    async with Tab.open(browser, site.port(), java_script_enabled=scripts) as tab:
        page = tab.page
        await give_password(tab, email)
        field = page.get_by_label("Code", exact=True)
        await field.fill(app.wrong_code())
        await page.get_by_role("button", name="Log in", exact=True).click()
        await expect(page.get_by_text("That is not the code")).to_be_visible()
        if scripts:
            await look(tab, "factor-asked")
        await field.fill(codes[0])
        await field.press("Enter")
        await expect(page.get_by_role("heading", name="Two-step log-in")).to_be_visible()
        await expect(page.get_by_text("9 are left")).to_be_visible()
        await page.get_by_role("link", name="Turn off").click()
        await page.get_by_role("link", name="Use a code").click()
        await page.get_by_label("Code", exact=True).fill(app.code())
        await page.get_by_role("button", name="Go on").click()
        await page.get_by_role("button", name="Turn off").click()
        await expect(page.get_by_role("link", name="Set up an app")).to_be_visible()


async def plug_in_key(tab: Tab) -> None:
    """Plug a passkey's keeper into the browser, which says yes."""
    session = await tab.context.new_cdp_session(tab.page)
    await session.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    await session.send("WebAuthn.addVirtualAuthenticator", {"options": options})


async def test_a_passkey_is_added_logs_in_alone_and_after_the_password(browser: Browser, site: TestedSite) -> None:
    email = await sign_up(site)
    async with Tab.open(browser, site.port()) as tab:
        page = tab.page
        await plug_in_key(tab)
        await give_password(tab, email)
        await page.get_by_role("link", name="Add a passkey").click()
        await page.locator("input[name=password]").fill(PASSWORD)
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Add a passkey")).to_be_visible()
        await look(tab, "passkey-add")
        await page.get_by_label("Name").fill("My laptop")
        await page.get_by_role("button", name="Add it").click()
        await expect(page.get_by_role("heading", name="Recovery codes")).to_be_visible()
        await page.goto("/accounts/2fa/")
        await expect(page.get_by_text("My laptop", exact=True)).to_be_visible()
        await look(tab, "passkeys", "/accounts/2fa/")

        await tab.context.clear_cookies()
        await page.goto("/accounts/login/?next=/settings/devices/")
        await look(tab, "passkey-log-in")
        await page.get_by_role("button", name="Use a passkey").click()
        await expect(page.get_by_role("heading", name="Where you are logged in")).to_be_visible()
        await look(tab, "devices", "/settings/devices/")

        await tab.context.clear_cookies()
        await give_password(tab, email)
        await expect(page.get_by_role("heading", name="Your code")).to_be_visible()
        await expect(page.get_by_text("Use your passkey.")).to_be_visible()  # there is no app
        await look(tab, "passkey-asked")
        await page.get_by_role("button", name="Use a passkey").click()
        await expect(page.get_by_text("My laptop", exact=True)).to_be_visible()

        await page.get_by_role("link", name=re.compile("^Remove")).click()
        await page.get_by_role("link", name="Use a passkey").click()
        await page.get_by_role("button", name="Use a passkey").click()
        await expect(page.get_by_text("your recovery codes work no more")).to_be_visible()
        await page.get_by_role("button", name="Remove").click()
        await expect(page.get_by_text("The passkey is removed.")).to_be_visible()
        await tab.context.clear_cookies()
        await page.goto("/accounts/login/")
        await page.get_by_role("button", name="Use a passkey").click()
        await expect(page.get_by_text("That passkey is not one of this account")).to_be_visible()


async def test_somebody_signs_up_with_an_account_elsewhere_and_is_asked_again_there(
    browser: Browser, site: TestedSite, identities: IdentityProvider
) -> None:
    email = f"elsewhere-{secrets.token_hex(6)}@example.com"
    identities.identity = Identity(
        sub=str(secrets.randbelow(10**9)), said={"email": email, "email_verified": True, "name": "Eva"}
    )
    async with Tab.open(browser, site.port(), pays=True) as tab:  # and goes to another site
        page = tab.page
        await page.goto("/accounts/login/?next=/settings/connections/")
        await page.get_by_role("button", name="Go on with Our House").click()
        await page.get_by_role("link", name="It is me").click()
        await expect(page.get_by_label("E-mail address")).to_have_value(email)
        await look(tab, "elsewhere-sign-up")
        await page.get_by_label("I accept").check()
        await page.get_by_role("button", name="Sign up").click()
        await expect(page.get_by_text(email, exact=True)).to_be_visible()
        await look(tab, "elsewhere-connections")
        await page.get_by_role("button", name="Disconnect").click()
        await expect(page.get_by_role("heading", name="Confirm that it is you")).to_be_visible()
        await look(tab, "elsewhere-again")
        await page.get_by_role("button", name="Go on with Our House").click()
        await page.get_by_role("link", name="It is me").click()
        await expect(page.get_by_text("This is the only way in that you have.")).to_be_visible()
        assert tab.complaints == []
