"""The page of the API documents: Swagger UI in our frame, under our policy, in both themes and at every width."""

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, expect

from tests.e2e.browsing import Tab
from tests.e2e.test_pages import STILL, WIDTHS, lacks
from tests.processes.stores import TestedSite

OURS = {"exclude": [["[data-api-docs]"]]}
"""What is inside is Swagger UI's."""


async def test_the_documents_are_shown_in_our_frame(browser: Browser, site: TestedSite) -> None:
    async with Tab.open(browser, site.port(), reduced_motion="reduce") as tab:
        page = tab.page
        assert await lacks(tab, "/api/docs/", "en") == []
        document = await page.evaluate("fetch('/api/schema/').then(answer => answer.json())")
        operations = sum(map(len, document["paths"].values()))
        await expect(page.locator(".opblock")).to_have_count(operations)
        await page.locator("#operations-Models-listModels button").first.press("Enter")  # without a mouse
        await expect(page.get_by_text("The models on offer").last).to_be_visible()
        for width in WIDTHS:
            await page.set_viewport_size({"width": width, "height": 800})
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
        await page.evaluate(STILL)
        for theme in ("light", "dark"):
            await page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
            await expect(page.locator("html")).to_have_class("dark-mode" if theme == "dark" else "")
            found = (await Axe().run(page, context=OURS, options={"resultTypes": ["violations"]})).response
            assert [(one["id"], one["nodes"][0]["target"]) for one in found["violations"]] == []
        await tab.picture("api-docs")


async def test_an_operation_is_tried_with_the_session_of_the_page(tab: Tab) -> None:
    page = tab.page
    await page.goto("/api/docs/#/Conversations/beginConversation")
    block = page.locator("#operations-Conversations-beginConversation")
    await block.get_by_role("button", name="Try it out").click()
    await block.get_by_role("button", name="Execute", exact=True).click()
    await expect(block.locator(".live-responses-table .response .response-col_status")).to_contain_text("201")
