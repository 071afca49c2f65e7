"""Conversations come in from elsewhere, with progress, and go out again: with scripts and without."""

import json
import re
import time
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, expect

from tests.e2e.browsing import PICTURES, Person, Tab
from tests.e2e.test_pages import violations
from tests.history.sources import as_json, chatgpt_tree, write_large_export
from tests.processes.stores import TestedSite

PAGE = "/settings/import-export/"
RICH = """Un roble. $x^2$ y

$$\\int_0^1 \\frac{x^{10}}{1 + x^2}\\,dx = \\sum_{n=0}^{\\infty} \\frac{(-1)^n}{2n + 11}$$

| uno | dos | tres | cuatro | cinco |
|---|---|---|---|---|
"""
RICH += "| una celda con muchas palabras | dos | tres | cuatro | <https://example.org/una/direccion/muy/larga> |\n" * 40
RICH += (
    "\n```python\n"
    + "print('una línea de código tan larga que en papel no cabe', 1, 2, 3, 4, 5, 6, 7, 8, 9)\n" * 60
    + "```\n"
)


def upload(data: bytes, name: str = "conversations.json") -> Any:
    return {"name": name, "mimeType": "application/json", "buffer": data}


def rich_tree() -> dict[str, Any]:
    """Return a conversation that was used just now, with an answer that has all that is hard to print."""
    tree = chatgpt_tree() | {"update_time": time.time()}
    tree["mapping"]["a1"]["message"]["content"]["parts"] = [RICH]
    return tree


async def look(tab: Tab, name: str) -> None:
    """Check the page with axe, and that it fits."""
    for width in (360, 1440):
        await tab.page.set_viewport_size({"width": width, "height": 900})
        assert await tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, width)
        await tab.page.evaluate("scrollTo(0, 0)")
        assert await violations(tab.page) == []
    await tab.picture(name)


async def test_an_export_of_another_chat_comes_in_and_one_conversation_goes_out(tab: Tab, tmp_path: Path) -> None:
    path = tmp_path / "conversations.json"
    count = write_large_export(path, 2)
    await tab.page.goto(PAGE)
    await tab.page.get_by_label("File", exact=True).set_input_files(path)
    await tab.page.get_by_role("button", name="Import").click()
    await expect(tab.page.get_by_role("progressbar")).to_be_visible()
    await expect(tab.page.get_by_text("conversations.json", exact=True)).to_be_visible()
    await tab.picture("import-progress")
    await expect(tab.page.get_by_text(f"{count} conversations imported")).to_be_visible()
    await expect(tab.page.get_by_role("progressbar")).to_have_count(0)

    broken = json.loads(as_json(chatgpt_tree()))
    broken[0]["mapping"]["q1"]["parent"] = "gone"
    for data, said in (
        (as_json(*broken), "The message that this one follows is not there."),
        (as_json(rich_tree()), "1 conversation imported"),
    ):
        await tab.page.get_by_label("File", exact=True).set_input_files(upload(data, "mis charlas.json"))
        await tab.page.get_by_role("button", name="Import").click()
        await expect(tab.page.get_by_text(said)).to_be_visible()
    await expect(tab.page.get_by_text("conversation 1, message “q1”")).to_be_visible()
    await tab.page.get_by_text("What was left out").click()
    await tab.page.get_by_role("button", name="Export everything").click()
    await expect(tab.page.get_by_role("link", name="Download")).to_be_visible()
    async with tab.page.expect_download() as download:
        await tab.page.get_by_role("link", name="Download").click()
    assert re.fullmatch(r"[\w-]+-20\d\d-\d\d-\d\d\.zip", (await download.value).suggested_filename)
    await look(tab, "import-export")

    await tab.page.goto("/conversations/")
    line = tab.page.locator("[data-conversation]", has_text="Saludos")
    await line.locator("summary").click()
    await line.get_by_role("link", name="Export").click()
    dialog = tab.page.locator("[data-dialog]")
    await expect(dialog).to_contain_text("Saludos")
    await look(tab, "export-dialog")
    async with tab.page.expect_download() as download:
        await dialog.get_by_role("link", name="Markdown").click()
    assert (await download.value).suggested_filename == "saludos.md"
    async with tab.context.expect_page() as opened:
        await dialog.get_by_role("link", name="A page to print").click()
    sheet = Tab(await opened.value, tab.context, tab.base, tab.person)
    await expect(sheet.page.locator(".sheet-turn")).to_have_count(2)
    await look(sheet, "print")
    if PICTURES:
        await sheet.page.pdf(path=f"{PICTURES}/print.pdf", format="A4", prefer_css_page_size=True)


async def test_it_works_without_scripts(browser: Browser, site: TestedSite, crowd: list[Person]) -> None:
    async with Tab.open(browser, site.port(), person=crowd.pop(), java_script_enabled=False) as tab:
        await tab.page.goto(PAGE)
        await tab.page.get_by_label("File", exact=True).set_input_files(upload(as_json(chatgpt_tree())))
        await tab.page.get_by_role("button", name="Import").click()
        await expect(tab.page.get_by_text("1 conversation imported")).to_be_visible()
        await tab.page.goto("/conversations/")
        line = tab.page.locator("[data-conversation]", has_text="Saludos")
        await line.locator("summary").click()
        await line.get_by_role("link", name="Export").click()
        await tab.page.get_by_role("link", name="JSON").wait_for()
