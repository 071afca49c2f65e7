"""A batch on its page: sent, its estimate seen, started, watched, and its results taken along."""

import asyncio
import json
import re
from typing import Any

from playwright.async_api import Browser, Route, expect

from tests.chat.batching import line
from tests.e2e.browsing import OPEN, Person, Tab
from tests.e2e.test_taking_along import look
from tests.processes.stores import TestedSite

PAGE = "/settings/batches/"


def lines(count: int, **fields: Any) -> Any:
    found = [line(f"id-{number}", "What is new?", model="fake-20t-5ms") | fields for number in range(count)]
    data = "\n".join(map(json.dumps, found)).encode()
    return {"name": "preguntas.jsonl", "mimeType": "application/jsonl", "buffer": data}


def somebody(site: TestedSite) -> Person:
    accesses = site.create_members(1, plan=OPEN | {"has_batches": True})
    return Person(accesses[0], site.create_sessions(accesses)[0])


async def test_a_batch_is_checked_shown_started_and_taken_along(browser: Browser, site: TestedSite) -> None:
    async with Tab.open(browser, site.port(), person=somebody(site)) as tab:
        page = tab.page
        await page.goto(PAGE)
        await page.get_by_label("File", exact=True).set_input_files(lines(2, url="/v1/embeddings"))
        await page.get_by_role("button", name="Send and check").click()
        await expect(page.get_by_text("Some lines cannot be asked, so nothing was asked.")).to_be_visible()
        await page.get_by_text("What is wrong").click()
        await expect(page.get_by_text("“url” must be “/v1/chat/completions”.")).to_have_count(2)
        await look(tab, "batch-refused")

        await page.get_by_label("File", exact=True).set_input_files(lines(30))
        await page.get_by_label("webhook").fill("http://example.com/hook")
        await page.get_by_role("button", name="Send and check").click()
        await expect(page.get_by_role("alert")).to_be_focused()
        await page.get_by_label("File", exact=True).set_input_files(lines(30))
        await page.get_by_label("webhook").fill("https://example.com/hook")
        await page.get_by_role("button", name="Send and check").click()
        await expect(page.get_by_role("textbox", name="The secret of the webhook")).to_have_value(re.compile("^whsec_"))
        await expect(page.get_by_text("Nothing was asked yet.")).to_be_visible()
        await look(tab, "batch-checked")
        may_come = asyncio.Event()

        async def hold(route: Route) -> None:
            await may_come.wait()
            await route.continue_()

        await page.route("**/batches/progress/", hold)
        await page.get_by_role("button", name="Start").press("Enter")
        await page.get_by_role("button", name="Cancel").focus()
        may_come.set()
        await expect(page.get_by_text("Lines: 30 of 30")).to_be_visible(timeout=60_000)
        await expect(page.get_by_role("link", name="Results")).to_be_focused()  # “Cancel” went
        await look(tab, "batch-done")
        async with page.expect_download() as download:
            await page.get_by_role("link", name="Results").click()
        assert (await download.value).suggested_filename == "preguntas.results.jsonl"
        await page.get_by_role("link", name="Delete").first.press("Enter")  # where “Cancel” was a moment ago
        await look(tab, "batch-erase")
        await page.get_by_role("button", name="Delete").press("Enter")
        await expect(page.get_by_text("The batch is deleted.")).to_be_visible()
        await expect(page.get_by_text("Lines: 30 of 30")).to_have_count(0)


async def test_it_works_without_scripts_and_says_whose_plan_is_without(
    browser: Browser, site: TestedSite, crowd: list[Person]
) -> None:
    async with Tab.open(browser, site.port(), person=somebody(site), java_script_enabled=False) as tab:
        await tab.page.goto(PAGE)
        await tab.page.get_by_label("File", exact=True).set_input_files(lines(3))
        await tab.page.get_by_role("button", name="Send and check").click()
        await tab.page.get_by_role("button", name="Start").click()
        await expect(tab.page.get_by_text("Lines: 3 of 3")).to_be_visible(timeout=60_000)
    async with Tab.open(browser, site.port(), person=crowd.pop()) as tab:
        await tab.page.goto(PAGE)
        await expect(tab.page.get_by_text("Your plan does not include batches.")).to_be_visible()
        await look(tab, "batch-not-in-plan")
