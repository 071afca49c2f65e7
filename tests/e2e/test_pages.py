"""Every page: for every reader, in every language, at every width, under the policy that forbids what is inline."""

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from axe_playwright_python.base import AXE_SCRIPT
from django.template.defaultfilters import floatformat
from django.utils import translation
from playwright.async_api import Browser, Page, Response, expect

from tests.e2e.browsing import Person, Tab
from tests.processes.stores import TestedSite

TEXT = (
    "An example:\n\n```python\nx = 1  # "
    + "long " * 40
    + "\n```\n\n| a | b |\n|---|---|\n| 1 | `2` |\n\n[x](https://a.example/)"
)
BREAKING = "fake-100t-10ms-error40"
SLOW = "fake-3000t-50ms"
LANGUAGES = ["es", "en", "pt-br"]
WIDTHS = [320, 360, 768, 1440]
PUBLIC = {
    "landing": "/",
    "sign-up": "/accounts/signup/",
    "log-in": "/accounts/login/",
    "password forgotten": "/accounts/password/reset/",
    "terms": "/terms/",
    "status": "/status/",
    "prices": "/pricing/",
    "prices of a year": "/pricing/?every=year&currency=USD",
    "missing": "/nothing/here/",
}
OWN = {
    "new chat": "/",
    "finished turns": "/c/{}/",
    "conversations": "/conversations/",
    "search": "/search/?q=a",
    "rename": "/c/{}/rename/",
    "move": "/c/{}/move/",
    "archived": "/conversations/archive/",
    "trash": "/conversations/trash/",
    "new folder": "/folders/new/",
    "folder": "/folders/{folder}/",
    "delete folder": "/folders/{folder}/delete/",
    "overview": "/dashboard/",
    "settings": "/settings/",
    "your history": "/settings/history/",
    "keys": "/settings/keys/",
    "close the account": "/settings/close/",
    "e-mail": "/accounts/email/",
    "password": "/accounts/password/change/",
    "second factor": "/accounts/2fa/",
    "connections": "/settings/connections/",
    "devices": "/settings/devices/",
    "log-out": "/accounts/logout/",
    "shortcuts": "/shortcuts/",
    "plan": "/billing/",
    "checkout": "/billing/checkout/{price}/",
    "payments": "/billing/payments/",
    "usage": "/usage/",
}


@dataclass
class Reader:
    """Somebody with a conversation, a password, and the right to see the admin."""

    browser: Browser
    port: int
    person: Person
    conversation_id: str = ""
    price_id: int = 0
    folder_id: str = ""

    def tab(self, **options: Any) -> AbstractAsyncContextManager[Tab]:
        return Tab.open(self.browser, self.port, person=self.person, **{"reduced_motion": "reduce"} | options)

    def path(self, name: str) -> str:
        return OWN[name].format(self.conversation_id, price=self.price_id, folder=self.folder_id)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def reader(browser: Browser, site: TestedSite) -> AsyncIterator[Reader]:
    access = site.create_operator()
    found = Reader(browser, site.port(), Person(access, *site.create_sessions([access])))
    async with found.tab() as tab:
        await tab.page.goto("/")
        await tab.ask(TEXT, "fake-900t-5ms-echo8")
        await tab.finished()
        await tab.ask("This breaks off.", BREAKING)
        await tab.finished("interrupted")
        await tab.ask("This is stopped.", SLOW)
        await tab.wait_for_text(10)
        await tab.page.get_by_role("button", name="Stop").click()
        await tab.finished("stopped")
        plans = await tab.call("GET", "plans")
        found.price_id = plans["results"][1]["prices"][0]["id"]
        found.folder_id = (await tab.call("POST", "folders", name="Cooking", instructions="In verse."))["id"]
        found.conversation_id = str(await tab.page.locator("[data-chat]").get_attribute("data-chat"))
    yield found


# --- Accessible -------------------------------------------------------------------------------------------------------


STILL = """() => {
  // Colours on their way are others, and what inherits one starts on its way later: there is no way.
  const still = new CSSStyleSheet();
  still.replaceSync("*, *::before, *::after { transition-property: none !important; animation: none !important }");
  document.adoptedStyleSheets.push(still);
}"""
FIND = """
async (themes) => {
  const found = [];
  for (const [theme, options] of Object.entries(themes)) {
    document.documentElement.dataset.theme = theme;
    const results = await axe.run({ resultTypes: ["violations"], iframes: false, ...options });
    for (const { id, nodes } of results.violations) {
      found.push(...nodes.map((node) => `${theme}: ${id}: ${node.target}`));
    }
  }
  return found;
}
"""


async def violations(page: Page) -> list[str]:
    """Return what axe finds in the light theme, and of colours in the dark one: theme, rule and place. The frame of a
    diagram has no origin to which axe could speak."""
    if await page.evaluate("typeof axe") == "undefined":
        await page.evaluate(AXE_SCRIPT)
    await page.evaluate(STILL)
    found: list[str] = await page.evaluate(FIND, {"light": {}, "dark": {"runOnly": ["color-contrast"]}})
    return found


async def test_a_form_that_comes_back_has_the_focus_where_there_is_something_to_mend(
    browser: Browser, site: TestedSite
) -> None:
    async with Tab.open(browser, site.port()) as tab:
        await tab.page.goto("/accounts/signup/")
        await tab.page.get_by_label("E-mail").fill("focus@example.com")
        await tab.page.get_by_label("Password", exact=True).fill("12345")
        await tab.page.get_by_role("checkbox").check()
        await tab.page.get_by_label("Password", exact=True).press("Enter")
        await expect(tab.page.locator(".field-errors").first).to_be_visible()
        await expect(tab.page.get_by_label("Password", exact=True)).to_be_focused()
        await tab.picture("form-errors")


async def test_what_is_wrong_with_no_field_has_the_focus_and_a_password_can_be_seen(
    browser: Browser, site: TestedSite
) -> None:
    async with Tab.open(browser, site.port()) as tab:
        await tab.page.goto("/accounts/login/")
        password = tab.page.locator("input[name=password]")
        await tab.page.get_by_label("E-mail").fill("nobody@example.com")
        await password.fill("not the password")
        await password.press("Tab")
        show = tab.page.get_by_role("button", name=re.compile("^Show"))
        await expect(show).to_be_focused()
        await show.press("Enter")
        await expect(password).to_have_attribute("type", "text")
        await expect(show).to_have_attribute("aria-pressed", "true")
        await show.press("Space")
        await expect(password).to_have_attribute("type", "password")
        await password.press("Enter")
        await expect(tab.page.get_by_role("alert")).to_be_focused()
        await tab.picture("log-in-wrong")
        assert await violations(tab.page) == []


@pytest.mark.parametrize("name", ["Rename", "Move to a folder"])
async def test_axe_finds_nothing_in_a_dialog(reader: Reader, name: str) -> None:
    async with reader.tab() as tab:
        await tab.page.goto(reader.path("finished turns"))
        row = tab.page.locator("[data-conversation]")
        await row.locator("summary").click()
        await tab.picture("conversation-menu")
        assert await violations(tab.page) == []  # with the menu open
        await row.get_by_role("link", name=name).click()
        await expect(tab.page.get_by_role("dialog")).to_be_visible()
        await tab.picture(f"dialog-{name}")
        assert await violations(tab.page) == []


# --- What every page is -----------------------------------------------------------------------------------------------


def strict(response: Response | None) -> bool:
    """Tell whether a page came with a policy that allows nothing unsafe."""
    policy = response.headers.get("content-security-policy", "") if response else ""
    return "default-src 'none'" in policy and "unsafe" not in policy


async def lacks(tab: Tab, path: str, language: str) -> list[str]:
    """Open a page; return what it lacks, and the widths it is too wide for."""
    response = await tab.page.goto(path)
    found = [] if strict(response) else ["policy"]
    if await tab.page.locator("html").get_attribute("lang") != language:
        found.append("language")
    if await tab.page.get_by_role("heading", level=1).count() != 1:
        found.append("heading")
    if not re.fullmatch(r"\S.+ · Tertulia", await tab.page.title()):
        found.append("title")
    for width in WIDTHS:
        await tab.page.set_viewport_size({"width": width, "height": 800})
        wide = await tab.page.evaluate("document.documentElement.scrollWidth")
        if wide > width:
            found.append(f"{wide} pixels at {width}")
    return found


async def faults(tab: Tab, name: str, path: str, language: str) -> list[str]:
    """Open a page; return what it lacks, and in one of the languages what axe finds, too."""
    found = await lacks(tab, path, language)
    if language == "en":
        await tab.picture(f"page-{name}")
        found += await violations(tab.page)
    return found


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_public_page_is_accessible_fits_and_has_a_language_a_heading_and_a_title(
    browser: Browser, site: TestedSite, language: str
) -> None:
    async with Tab.open(browser, site.port(), locale=language, reduced_motion="reduce") as tab:
        found = {name: await faults(tab, name, path, language) for name, path in PUBLIC.items()}
    assert {name: faults for name, faults in found.items() if faults} == {}


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_page_of_ones_own_is_accessible_fits_and_has_a_language_a_heading_and_a_title(
    reader: Reader, language: str
) -> None:
    async with reader.tab() as tab:
        await tab.call("PATCH", "me", locale=language)
        try:
            found = {name: await faults(tab, name, reader.path(name), language) for name in OWN}
        finally:
            await tab.call("PATCH", "me", locale="en")
    assert {name: faults for name, faults in found.items() if faults} == {}


@pytest.mark.parametrize("language", LANGUAGES)
async def test_scripts_write_numbers_as_the_server_does(browser: Browser, site: TestedSite, language: str) -> None:
    async with Tab.open(browser, site.port(), locale=language) as tab:
        await tab.page.goto("/terms/")
        numbers = [1234, 12345.6, 0.5]
        shown = await tab.page.evaluate(
            "async (numbers) => { const { formatNumber } = await import('words'); "
            "return numbers.map((number) => formatNumber(number, 1)); }",
            numbers,
        )
    with translation.override(language):
        assert shown == [floatformat(number, "-1g") for number in numbers]


async def test_the_admin_keeps_to_the_policy(reader: Reader) -> None:
    async with reader.tab() as tab:
        for path in ("/admin/", "/admin/accounts/user/"):
            assert strict(await tab.page.goto(path))
        await tab.page.locator("#result_list tbody th a").first.click()
        await expect(tab.page.locator("#user_form")).to_be_visible()
        assert strict(await tab.page.reload())


# --- Switches ---------------------------------------------------------------------------------------------------------


async def test_a_visitor_s_theme_is_there_before_any_script(visitor: Tab) -> None:
    await visitor.page.goto("/terms/")
    async with visitor.page.expect_response("**/theme/"):
        await visitor.page.get_by_role("button", name="Dark").click()
    await expect(visitor.page.locator("html")).to_have_attribute("data-theme", "dark")
    response = await visitor.page.reload()
    assert response is not None
    assert 'data-theme="dark"' in await response.text()
    await expect(visitor.page.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")


async def test_switches_work_without_javascript_and_stay_on_the_page(browser: Browser, site: TestedSite) -> None:
    async with Tab.open(browser, site.port(), java_script_enabled=False) as tab:
        await tab.page.goto("/accounts/login/?next=/settings/")
        await tab.page.get_by_role("button", name="Dark").click()
        await expect(tab.page.locator("html")).to_have_attribute("data-theme", "dark")
        await tab.page.get_by_role("button", name="Português").click()
        await expect(tab.page.locator("html")).to_have_attribute("lang", "pt-br")
        await expect(tab.page.locator("html")).to_have_attribute("data-theme", "dark")
        await expect(tab.page).to_have_url(f"{tab.base}/accounts/login/?next=/settings/")


async def test_a_member_s_language_goes_with_them(reader: Reader) -> None:
    async with reader.tab() as tab:
        await tab.page.goto("/conversations/")
        await tab.page.get_by_role("button", name="Español").click()
        await expect(tab.page.locator("html")).to_have_attribute("lang", "es")
        await expect(tab.page).to_have_url(f"{tab.base}/conversations/")
        assert (await tab.call("GET", "me"))["locale"] == "es"
    async with reader.tab() as other:
        await other.page.goto("/settings/")
        await expect(other.page.locator("html")).to_have_attribute("lang", "es")
        await other.call("PATCH", "me", locale="en")


# --- Status -----------------------------------------------------------------------------------------------------------


async def test_the_footer_leads_anybody_to_how_the_providers_are(
    browser: Browser, site: TestedSite, reader: Reader
) -> None:
    """The reader's turns are in the last hour already; one of them broke off."""
    async with Tab.open(browser, site.port()) as tab:
        await tab.page.goto("/terms/")
        await tab.page.get_by_role("link", name="Status").click()
        card = tab.page.get_by_role("region", name="OpenAI-compatible")
        hours = card.get_by_role("listitem")
        await expect(hours).to_have_count(24)
        known = hours.filter(has_text=re.compile("Operational|Degraded|Unavailable"))
        await expect(known).not_to_have_count(0)
        await expect(card.get_by_text(re.compile(r"^\s*\d+\.\d s\s*$"))).to_be_visible()
