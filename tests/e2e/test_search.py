"""Searching: as one types, by keyboard, from the palette, and without JavaScript."""

import re

from playwright.async_api import Browser, expect

from tests.e2e.browsing import Person, Tab
from tests.e2e.test_pages import violations
from tests.processes.stores import TestedSite


async def test_what_was_asked_is_found_by_keyboard_and_opened_where_it_is(
    browser: Browser, site: TestedSite, crowd: list[Person]
) -> None:
    person = crowd.pop()
    conversation = site.create_conversation(person.access, 3)
    async with Tab.open(browser, site.port(), person=person) as tab:
        page = tab.page
        await tab.call("PATCH", f"conversations/{conversation}", title="Canción de cuna")
        await page.goto("/search/")
        field = page.get_by_role("searchbox")
        await expect(field).to_be_focused()
        await expect(page.get_by_text("Every word must be there")).to_be_visible()
        await tab.picture("search-empty")
        await page.keyboard.type("QUÉSTION 1")
        hits = page.locator(".search-hit")
        await expect(hits).to_have_count(1)
        await expect(hits.locator(".search-hit-question mark")).to_have_text(["Question", "1"])
        await expect(page).to_have_url(re.compile(r"q=QU"))
        await expect(page).to_have_title(re.compile("^QUÉSTION 1 · Search · "))
        await tab.picture("search-hits")
        await expect(field).to_be_focused()
        assert await violations(page) == []
        for width in (320, 1440):
            await page.set_viewport_size({"width": width, "height": 800})
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
        await page.get_by_role("link", name="Question 1").click()
        await expect(page).to_have_url(re.compile(f"/c/{conversation}/.*#turn-"))

        await page.goto("/search/?q=after:antier")
        await expect(page.get_by_role("alert")).to_contain_text("is not a date")
        await tab.picture("search-wrong")
        await field.fill("cancion")
        await expect(page.locator(".row-name")).to_have_text(["Canción de cuna"])
        await field.fill("no such thing")
        await expect(page.get_by_role("status")).to_contain_text("Nothing was found")
        await tab.picture("search-nothing")

        await page.keyboard.press("Control+k")
        palette = page.get_by_role("dialog")
        await palette.get_by_role("option").first.wait_for()
        await page.keyboard.type("question 2")
        found = palette.locator("[data-found]")
        await expect(found).to_have_count(1)
        await expect(found.locator("mark").first).to_be_visible()
        await tab.picture("palette-search")
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(re.compile(f"/c/{conversation}/.*#turn-"))


async def test_whoever_was_logged_out_meanwhile_comes_to_the_log_in(
    browser: Browser, site: TestedSite, crowd: list[Person]
) -> None:
    person = crowd.pop()
    conversation = site.create_conversation(person.access, 1)
    async with Tab.open(browser, site.port(), person=person) as tab:
        page = tab.page
        for address in ("/search/", f"/c/{conversation}/"):
            await tab.context.add_cookies([{"name": "sessionid", "value": person.session, "url": tab.base}])
            await page.goto(address)
            await page.locator("main").wait_for()
            await tab.context.clear_cookies(name="sessionid")
            if address == "/search/":
                await page.keyboard.type("question")
            else:
                row = page.locator("[data-conversations] [data-conversation]")
                await row.locator("summary").press("Enter")
                await row.get_by_role("button", name="Pin").press("Enter")
            await page.wait_for_url("**/accounts/login/**")


async def test_the_search_works_without_javascript(browser: Browser, site: TestedSite, crowd: list[Person]) -> None:
    person = crowd.pop()
    site.create_conversation(person.access, 22)
    async with Tab.open(browser, site.port(), person=person, java_script_enabled=False) as tab:
        page = tab.page
        await page.goto("/search/")
        await page.get_by_role("searchbox").fill("question")
        await page.keyboard.press("Enter")
        await expect(page.locator(".search-hit")).to_have_count(20)
        await page.get_by_role("link", name="Older results").click()
        await expect(page.locator(".search-hit")).to_have_count(2)
