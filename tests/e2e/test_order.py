"""Folders, pins, archive and trash: by keyboard, with the mouse, in other tabs, and without JavaScript."""

import re

from playwright.async_api import Browser, Locator, Page, expect

from tests.e2e.browsing import Person, Tab
from tests.fakes.proxy import CuttingProxy
from tests.processes.stores import TestedSite

QUICK = "fake-20t-5ms"


def row_of(page: Page, title: str) -> Locator:
    return page.locator("[data-conversations] [data-conversation]").filter(has=page.get_by_role("link", name=title))


async def choose(page: Page, title: str, act: str) -> None:
    """Open a conversation's menu with the keyboard, and press what it has."""
    row = row_of(page, title)
    await row.locator("summary").focus()
    await page.keyboard.press("Enter")
    item = row.locator(".menu-item").filter(has_text=re.compile(f"^\\s*{act}\\s*$"))
    await item.focus()
    await page.keyboard.press("Enter")


async def begin(tab: Tab, title: str) -> str:
    """Ask, in a new chat; return the address of its page."""
    await tab.page.goto("/")
    await tab.ask(title, QUICK)
    await tab.finished()
    return tab.page.url


async def test_what_is_deleted_can_be_taken_back_at_once_and_later(tab: Tab) -> None:
    page = tab.page
    for title in ("Apples", "Bread", "Cheese"):
        await begin(tab, title)
    other = await tab.another()
    await other.page.goto("/")
    await choose(page, "Bread", "Delete")
    await expect(row_of(page, "Bread")).to_have_count(0)
    undo = page.get_by_role("button", name="Undo")
    await expect(undo).to_be_focused()
    await expect(page.locator("[data-toasts]")).to_contain_text("The conversation is in the trash.")
    await expect(row_of(other.page, "Bread")).to_have_count(0)
    await tab.picture("toast")
    await page.keyboard.press("Enter")
    await expect(page.locator("[data-toasts]")).to_contain_text("The conversation is back.")
    titles = page.locator("[data-conversations] .conversation-link")
    await expect(titles).to_have_text(["Cheese", "Bread", "Apples"])
    await expect(other.page.locator("[data-conversations] .conversation-link")).to_have_text(
        ["Cheese", "Bread", "Apples"]
    )

    # The one that is open here and in another tab: both go on, this one with a way back.
    await other.page.goto(page.url)
    await tab.question.fill("Half a question")
    await choose(page, "Cheese", "Delete")
    await page.wait_for_url(f"{tab.base}/")
    await other.page.wait_for_url(f"{tab.base}/")
    await expect(page.get_by_role("button", name="Undo")).to_be_visible()
    await expect(tab.question).to_have_value("Half a question")

    # From the trash, by keyboard; what is erased is not given back.
    await page.goto("/conversations/")
    await page.get_by_label("Select “Apples”").press("Space")
    await page.get_by_role("button", name="Delete", exact=True).press("Enter")
    await expect(page.get_by_role("status")).to_contain_text("The conversation is in the trash.")
    await page.goto("/conversations/trash/")
    await tab.picture("trash")
    await expect(page.locator("main .conversation-link")).to_have_text(["Apples", "Cheese"])
    await page.get_by_role("button", name="Put back “Cheese”").press("Enter")
    await expect(page.locator("main .conversation-link")).to_have_text(["Apples"])
    await page.get_by_text("Empty the trash").press("Enter")
    await page.get_by_role("button", name="Delete everything for good").press("Enter")
    await expect(page.get_by_text("The trash is empty.")).to_be_visible()
    await page.goto("/conversations/")
    await expect(page.locator("main .conversation-link")).to_have_text(["Cheese", "Bread"])


async def test_undo_pressed_twice_says_what_it_did(tab: Tab) -> None:
    page = tab.page
    await begin(tab, "Apples")
    await page.goto("/")
    await choose(page, "Apples", "Delete")
    sent: list[str] = []
    page.on("request", lambda request: request.method == "POST" and sent.append(request.url))
    await page.get_by_role("button", name="Undo").dblclick()
    await expect(page.locator("[data-toasts]")).to_contain_text("The conversation is back.")
    await page.wait_for_timeout(500)
    await expect(page.locator("[data-toasts]")).to_contain_text("The conversation is back.")
    assert len(sent) == 1


async def test_a_folder_with_a_long_name_fits_on_a_phone(tab: Tab) -> None:
    folder = await tab.call("POST", "folders", name="Viajes_" + "x" * 90)
    await tab.page.set_viewport_size({"width": 360, "height": 800})
    for address in ("/conversations/", f"/folders/{folder['id']}/", f"/folders/{folder['id']}/delete/", "/"):
        await tab.page.goto(address)
        await tab.page.locator("main").wait_for()
        assert await tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address


async def test_folders_by_keyboard(tab: Tab) -> None:
    page = tab.page
    await begin(tab, "Apples")
    other = await tab.another()
    await other.page.goto("/")
    await page.get_by_role("link", name="New folder").press("Enter")
    await page.get_by_label("Name").fill("Cooking")
    await page.get_by_label("Model").select_option(QUICK)
    await page.get_by_label("Instructions").fill("Always answer in rhyme.")
    await tab.picture("folder-form")
    await page.get_by_role("button", name="Save").press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Cooking")
    await expect(other.page.locator("[data-folder]")).to_contain_text("Cooking")
    await tab.picture("folder")

    # A new chat begins in it, with its model and a draft of its own.
    await page.get_by_role("link", name="New chat here").press("Enter")
    await tab.page.locator("[data-composer][data-ready]").wait_for()
    await expect(page.locator("[data-model]")).to_have_value(QUICK)
    await tab.question.fill("Bread")
    await page.wait_for_timeout(500)  # until the draft is kept
    await page.goto("/")
    await tab.page.locator("[data-composer][data-ready]").wait_for()
    await expect(tab.question).to_have_value("")
    await page.go_back()
    await expect(tab.question).to_have_value("Bread")
    await tab.ask("Bread")
    await tab.finished()
    await page.reload()
    await expect(page.locator("[data-folder] .conversation-link")).to_have_text(["Bread"])

    # Moved by the menu; pinned; the folder stays open after a reload.
    await choose(page, "Apples", "Move to a folder")
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Folder").select_option("Cooking")
    await dialog.get_by_role("button", name="Move").press("Enter")
    await expect(dialog).to_be_hidden()
    await expect(page.locator("[data-folder] .conversation-link")).to_have_text(["Apples", "Bread"])
    await choose(page, "Bread", "Pin")
    await expect(page.locator("[data-pinned] .conversation-link")).to_have_text(["Bread"])
    await expect(row_of(page, "Bread").locator("summary")).to_be_focused()
    await tab.picture("sidebar")
    await page.reload()
    await expect(page.locator("[data-pinned] .conversation-link")).to_have_text(["Bread"])
    await expect(page.locator("[data-folder] .conversation-link")).to_have_text(["Apples"])
    await choose(page, "Apples", "Archive")
    await expect(page.locator("[data-folder] .conversation-link")).to_have_count(0)
    await page.goto("/conversations/archive/")
    await expect(page.locator("main .conversation-link")).to_have_text(["Apples"])

    # Its conversations outlive a folder.
    await page.goto("/conversations/")
    await page.locator("main").get_by_role("link", name="Cooking").press("Enter")
    await page.get_by_role("link", name="Delete the folder").press("Enter")
    await tab.picture("delete-folder")
    await page.get_by_role("button", name="Delete the folder").press("Enter")
    await expect(page.locator("main .conversation-link")).to_have_text(["Bread"])
    await expect(other.page.locator("[data-folder]")).to_have_count(0)


async def test_many_at_once_and_back(tab: Tab, site: TestedSite) -> None:
    assert tab.person is not None
    for _ in range(4):
        site.create_conversation(tab.person.access, 1)
    page = tab.page
    await page.goto("/conversations/")
    boxes = page.locator("main input[form=select]")
    await boxes.nth(0).click()
    await boxes.nth(2).click(modifiers=["Shift"])
    assert [await box.is_checked() for box in await boxes.all()] == [True, True, True, False]
    await page.get_by_label("Select all shown").check()
    await expect(page.locator("main input[form=select]:checked")).to_have_count(4)
    await tab.picture("many")
    await page.get_by_role("button", name="Archive", exact=True).click()
    await expect(page.get_by_role("status")).to_contain_text("4 conversations are in the archive.")
    await expect(boxes).to_have_count(0)
    await page.get_by_role("button", name="Undo").press("Enter")
    await expect(boxes).to_have_count(4)


async def test_without_javascript_what_is_deleted_can_be_taken_back(
    browser: Browser, site: TestedSite, crowd: list[Person], proxy: CuttingProxy
) -> None:
    person = crowd.pop()
    site.create_conversation(person.access, 1)
    async with Tab.open(browser, proxy.port, person=person, java_script_enabled=False) as tab:
        page = tab.page
        await page.goto("/")
        row = page.locator("[data-conversation]")
        await row.locator(".conversation-link").click()
        await row.locator("summary").click()
        await row.get_by_role("button", name="Delete").click()
        await expect(page).to_have_url(f"{tab.base}/")
        await expect(row).to_have_count(0)
        await page.get_by_role("button", name="Undo").press("Enter")
        await expect(row).to_have_count(1)
        await row.locator("summary").click()
        await row.get_by_role("button", name="Pin").click()
        await expect(page.locator("[data-pinned] [data-conversation]")).to_have_count(1)


async def test_a_temporary_chat_leaves_nothing_in_the_lists_and_in_the_browser(tab: Tab) -> None:
    page = tab.page
    drafts = "Object.entries({...localStorage, ...sessionStorage}).filter(([, value]) => value.includes('secret'))"
    await page.goto("/")
    await page.locator("[data-composer][data-ready]").wait_for()
    await tab.question.fill("secret tokens")
    await page.get_by_role("button", name="Temporary").click()
    await expect(page.locator("[data-temporary]")).to_contain_text("Temporary: gone at")
    await expect(tab.question).to_have_value("secret tokens")  # what was being written comes along
    await tab.ask("secret tokens", QUICK)
    await tab.finished()
    await tab.question.fill("one more secret")
    other = await tab.another()
    await other.page.goto(page.url)
    await expect(other.last).to_contain_text("secret tokens")
    await other.ask("another secret", QUICK)
    await other.finished()
    await expect(tab.turns).to_have_count(2)
    await tab.picture("temporary")
    await expect(page.get_by_role("button", name="Edit the question")).to_have_count(0)
    await expect(page.locator("[data-conversations] [data-conversation]")).to_have_count(0)
    await page.reload()
    await expect(tab.turns).to_have_count(2)
    assert await page.evaluate(drafts) == []
    address = page.url
    await page.get_by_role("button", name="End now").click()
    await expect(page.locator(".notices")).to_contain_text("The temporary chat is gone.")
    await expect(other.page).to_have_url(f"{tab.base}/")  # every tab leaves it
    await page.goto(address)
    await expect(page.locator("main")).to_contain_text("There is no such temporary chat, or it is gone")
    assert await page.evaluate(drafts) == []
