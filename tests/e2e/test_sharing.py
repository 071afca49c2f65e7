"""Sharing, in a browser: made in a dialog, read by a visitor, gone on with by another member, and gone when it ends."""

import re

from playwright.async_api import Browser, expect

from tests.e2e.browsing import Person, Tab
from tests.e2e.test_pages import faults, strict, violations
from tests.processes.stores import TestedSite

ECHO = "fake-900t-5ms-echo8"
RICH = """# Adding

Here is `add`, for $a + b$, as [the manual](https://docs.example.org/) has it:

```python
def add(a: int, b: int) -> int:
    return a + b  # "a long line that does not fit into the width of a telephone, whatever it does"
```

| a | b | sum | a very long head of a column, in one piece |
|---|--:|----:|--------------------------------------------|
| 1 | 2 | 3   | x                                          |

```mermaid
graph LR
  A --> B
```

$$\\int_0^1 x^2\\,dx = \\frac{1}{3}$$
"""


async def test_a_conversation_is_shared_read_continued_and_stopped(
    browser: Browser, site: TestedSite, crowd: list[Person]
) -> None:
    options = {"reduced_motion": "reduce", "permissions": ["clipboard-read", "clipboard-write"]}
    async with Tab.open(browser, site.port(), person=crowd.pop(), **options) as owner:
        page = owner.page
        await page.goto("/")
        await owner.ask(RICH, ECHO)
        await owner.finished()
        await owner.ask("And this is for me alone.", ECHO)
        await owner.finished()

        # Up to the first answer, from its own menu, and with the keyboard.
        menu = owner.turns.first.locator(".turn-foot summary")
        await menu.focus()
        await page.keyboard.press("Enter")
        await owner.turns.first.get_by_role("link", name="Share up to here").focus()
        await page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        await expect(dialog.get_by_role("heading", name="Share the conversation")).to_be_visible()
        await expect(dialog).to_contain_text("up to the answer you chose")
        assert await violations(page) == []
        await owner.picture("share-dialog")
        await dialog.get_by_role("button", name="Make a link").press("Enter")
        link = dialog.get_by_role("textbox", name="Link")
        await expect(link).to_be_focused()
        assert await violations(page) == []
        await owner.picture("share-dialog-done")
        address = await link.input_value()
        await dialog.get_by_role("button", name="Copy the link").click()
        await expect(dialog.get_by_text("Copied")).to_be_visible()
        assert await page.evaluate("navigator.clipboard.readText()") == address
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        await expect(menu).to_be_focused()
        path = re.sub(r"https?://[^/]+", "", address)

        async with Tab.open(browser, site.port(), **options) as visitor:
            assert strict(await visitor.page.goto(path))
            shown = visitor.page.get_by_role("article")
            await expect(shown).to_have_count(1)
            await expect(shown.locator(".code .k")).not_to_have_count(0)
            await expect(shown.locator("math")).not_to_have_count(0)
            await expect(shown.locator(".diagram iframe")).to_be_visible()
            await expect(shown.locator(".table-scroll")).to_be_visible()
            await expect(visitor.page.get_by_text("And this is for me alone.")).to_have_count(0)
            await shown.get_by_role("button", name="Copy").first.click()
            assert "def add" in await visitor.page.evaluate("navigator.clipboard.readText()")
            assert await violations(visitor.page) == []
            await visitor.page.evaluate("scrollTo(0, 0)")
            await visitor.picture("share-shared")
            await visitor.page.evaluate("scrollTo(0, document.body.scrollHeight)")
            await visitor.picture("share-shared-end")
            await visitor.page.get_by_role("link", name="Report this page").click()
            await expect(visitor.page.get_by_role("heading", name="Report a shared page")).to_be_visible()
            assert await violations(visitor.page) == []
            await visitor.picture("share-report")
            await visitor.page.get_by_label("What should we know?").fill("It adds.")
            await visitor.page.get_by_role("button", name="Send").click()
            await expect(visitor.page.get_by_text("Thank you.")).to_be_visible()

            async with Tab.open(browser, site.port(), person=crowd.pop(), **options) as reader:
                await reader.page.goto(path)
                await reader.page.get_by_role("button", name="Continue in my account").click()
                await expect(reader.turns).to_have_count(1)
                await reader.ask("And twice that?", ECHO)
                await reader.finished()
                await expect(reader.turns).to_have_count(2)

            # The owner stops it, on the page of all links.
            await page.goto("/settings/shares/")
            assert await violations(page) == []
            await owner.picture("share-settings")
            await page.get_by_role("button", name=re.compile("^Stop sharing")).click()
            await expect(page.get_by_text("The link leads nowhere any more.")).to_be_visible()
            gone = await visitor.page.goto(path)
            assert gone is not None
            assert gone.status == 404
            await expect(visitor.page.get_by_role("heading", name="Nothing is shared here")).to_be_visible()
            assert await violations(visitor.page) == []
            await visitor.page.go_back()
            await expect(visitor.page.get_by_role("heading", name="Nothing is shared here")).to_be_visible()


async def test_sharing_works_without_javascript_at_every_width_in_every_language(
    browser: Browser, site: TestedSite, crowd: list[Person]
) -> None:
    person = crowd.pop()
    conversation_id = site.create_conversation(person.access, 65)
    async with Tab.open(browser, site.port(), person=person, java_script_enabled=False) as owner:
        await owner.page.goto(f"/c/{conversation_id}/share/")
        await owner.page.get_by_role("button", name="Make a link").click()
        address = await owner.page.get_by_role("textbox", name="Link").input_value()
        path = re.sub(r"https?://[^/]+", "", address)
        async with Tab.open(browser, site.port(), java_script_enabled=False) as visitor:
            await visitor.page.goto(path)
            await visitor.page.get_by_role("link", name="Later questions").first.click()
            await visitor.page.get_by_role("link", name="Later questions").first.click()
            await expect(visitor.page.get_by_text("Page 3 of 3").first).to_be_visible()
            await expect(visitor.page.get_by_role("article")).to_have_count(5)
            await visitor.page.get_by_role("link", name="Log in to continue").click()
            await expect(visitor.page.get_by_role("heading", name="Welcome back")).to_be_visible()
            await visitor.page.goto(path + "report/")
            await visitor.page.get_by_role("button", name="Send").click()
            await expect(visitor.page.get_by_text("Thank you.")).to_be_visible()
    paths = {"shared": path, "report": f"{path}report/"}
    own = {"settings": "/settings/shares/", "form": f"/c/{conversation_id}/share/"}
    for language in ("es", "en", "pt-br"):
        async with Tab.open(browser, site.port(), locale=language) as visitor:
            assert {name: await faults(visitor, f"share-{name}", where, language) for name, where in paths.items()} == {
                name: [] for name in paths
            }
        async with Tab.open(browser, site.port(), person=person) as owner:
            await owner.call("PATCH", "me", locale=language)
            assert {name: await faults(owner, f"share-{name}", where, language) for name, where in own.items()} == {
                name: [] for name in own
            }
    async with Tab.open(browser, site.port(), person=person, java_script_enabled=False) as owner:
        await owner.call("PATCH", "me", locale="en")
        await owner.page.goto(f"/c/{conversation_id}/share/")
        await owner.page.get_by_role("button", name=re.compile("^Update")).click()
        await expect(owner.page.get_by_text("The link shows the conversation as it is now.")).to_be_visible()
        await owner.page.get_by_role("button", name=re.compile("^Stop sharing")).click()
        await expect(owner.page.get_by_text("The link leads nowhere any more.")).to_be_visible()
