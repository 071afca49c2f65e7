"""Shortcuts, the palette, and a question in line."""

import asyncio
import json
import re
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Route, WebSocketRoute, expect

from tests.e2e.browsing import Person, Tab
from tests.e2e.test_pages import violations
from tests.processes.stores import TestedSite

ECHO = "fake-900t-5ms-echo8"
SLOW = "fake-3000t-50ms"
QUICK = "fake-20t-5ms"
BREAKING = "fake-100t-60ms-error60"


def dialog(tab: Tab) -> Locator:
    return tab.page.get_by_role("dialog")


def options(tab: Tab) -> Locator:
    return dialog(tab).get_by_role("option")


def active(tab: Tab) -> Locator:
    return dialog(tab).locator("[data-active]")


async def open_palette(tab: Tab) -> Locator:
    """Return its field, when the list is there."""
    await tab.page.keyboard.press("Control+k")
    search = dialog(tab).get_by_role("combobox")
    await expect(search).to_be_focused()
    await options(tab).first.wait_for()
    return search


# --- Shortcuts --------------------------------------------------------------------------------------------------------


async def test_shortcuts_do_what_their_list_says_and_nothing_while_somebody_writes(tab: Tab) -> None:
    page = tab.page
    await page.goto("/")
    await expect(tab.question).to_be_focused()
    await page.keyboard.type("a/b?")
    await expect(tab.question).to_have_value("a/b?")
    await expect(dialog(tab)).to_be_hidden()

    account = page.locator(".account-button")
    await account.focus()
    await page.keyboard.press("?")
    await expect(dialog(tab).get_by_role("heading", name="Keyboard shortcuts")).to_be_visible()
    await tab.picture("shortcuts")
    assert await violations(page) == []
    await page.keyboard.press("/")  # nothing behind a dialog is reached
    await page.keyboard.press("Control+k")
    await expect(dialog(tab).get_by_role("button", name="Close")).to_be_focused()
    for _ in range(5):
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.matches('dialog *, body')")
    await page.keyboard.press("Escape")
    await expect(dialog(tab)).to_be_hidden()
    await expect(account).to_be_focused()
    await page.keyboard.press("/")
    await expect(tab.question).to_be_focused()

    # By the menu, and off where somebody wants them off.
    await account.click()
    await tab.picture("account-menu")
    await page.get_by_role("link", name="Keyboard shortcuts").click()
    await dialog(tab).get_by_role("checkbox").uncheck()
    await page.keyboard.press("Escape")
    await expect(account).to_be_focused()
    await page.reload()
    await page.locator("[data-composer][data-ready]").wait_for()
    await account.focus()
    await page.keyboard.press("/")
    await page.keyboard.press("?")
    await expect(account).to_be_focused()
    await expect(dialog(tab)).to_be_hidden()

    await page.goto("/settings/")  # on every page
    await page.get_by_role("textbox").first.focus()
    await page.keyboard.press("Control+Shift+O")
    await expect(page).to_have_url(f"{tab.base}/")


# --- The palette ------------------------------------------------------------------------------------------------------


async def test_the_palette_finds_conversations_models_and_pages(
    browser: Browser, site: TestedSite, crowd: list[Person]
) -> None:
    person = crowd.pop()
    oldest = site.create_conversation(person.access, 1)
    for _ in range(25):
        site.create_conversation(person.access, 1)
    async with Tab.open(browser, site.port(), person=person) as tab:
        page = tab.page
        await tab.call("PATCH", f"conversations/{oldest}", title="Canción de cuna")
        modules: list[str] = []
        page.on("request", lambda request: modules.append(request.url) if "palette" in request.url else None)
        await page.goto("/")
        await page.locator("[data-composer][data-ready]").wait_for()
        assert not modules
        await tab.question.fill("Half a question")
        may_come = asyncio.Event()

        async def hold(route: Route) -> None:
            await may_come.wait()
            await route.continue_()

        await page.route("**/palette/", hold, times=1)
        await page.keyboard.press("Control+k")
        await dialog(tab).get_by_role("combobox").fill("over")  # before there is a list
        await page.wait_for_timeout(400)  # in which the server would be asked for more
        may_come.set()
        await expect(active(tab)).to_have_text("Overview")
        await page.keyboard.press("Escape")
        search = await open_palette(tab)
        await expect(search).to_have_attribute("aria-activedescendant", str(await active(tab).get_attribute("id")))
        await tab.picture("palette")
        assert await violations(page) == []

        await page.keyboard.type("cancion cuna")  # older than what the list begins with
        await expect(options(tab)).to_have_text(["Canción de cuna"])
        await expect(dialog(tab).get_by_role("status")).to_have_text("Found: 1")
        await search.fill("no such thing")
        await expect(dialog(tab).get_by_role("status")).to_contain_text("Nothing is called that")
        await tab.picture("palette-nothing")
        await search.fill("20t")
        await expect(active(tab)).to_contain_text(QUICK)
        await page.keyboard.press("Enter")
        await expect(dialog(tab)).to_be_hidden()
        await expect(page.get_by_role("button", name="Model:")).to_contain_text(QUICK)
        await expect(tab.question).to_be_focused()
        await expect(tab.question).to_have_value("Half a question")

        await open_palette(tab)
        await page.keyboard.press("Control+k")
        await expect(dialog(tab)).to_be_hidden()
        await open_palette(tab)
        await page.keyboard.type("overv")
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(re.compile("/dashboard/$"))
        await page.locator("main").focus()
        await open_palette(tab)  # there is no model to choose here
        await expect(dialog(tab).get_by_role("group", name="Models")).to_have_count(0)
        await page.keyboard.type("cuna")
        await expect(options(tab)).to_have_text(["Canción de cuna"])
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(re.compile(f"/c/{oldest}/$"))
        assert (await page.request.get("/palette/")).url.endswith("/search/")


# --- A question in line -----------------------------------------------------------------------------------------------


async def put_in_line(tab: Tab, text: str) -> Locator:
    await tab.question.fill(text)
    await tab.question.press("Enter")
    line = tab.page.locator("[data-queued]")
    await expect(line).to_be_visible()
    await expect(line.locator("[data-queued-text]")).to_have_text(text)
    await expect(tab.question).to_have_value("")
    return line


async def test_a_question_waits_in_line_and_is_asked_when_the_answer_ends(tab: Tab) -> None:
    page = tab.page
    await page.goto("/")
    await tab.ask("Go on and on.", SLOW)
    await tab.wait_for_text(10)
    await page.locator("[data-model]").select_option(QUICK)
    line = await put_in_line(tab, "And then?")
    await expect(page.locator("[data-announce]")).to_have_text("In line: it is asked when the answer ends.")
    await tab.picture("queued")
    assert await violations(page) == []
    await tab.question.fill("One more")
    await page.get_by_role("button", name="Send when the answer ends").click()
    await expect(tab.refusal).to_contain_text("in line already")
    await tab.picture("queued-twice")
    await line.get_by_role("button", name="Take back").click()
    await expect(line).to_be_hidden()
    await expect(tab.question).to_have_value("And then?\n\nOne more")
    await put_in_line(tab, "And then?")
    await page.locator("[data-model]").select_option(SLOW)  # it has its own
    await page.reload()
    await expect(line).to_be_visible()
    await tab.question.fill("A draft")
    await page.get_by_role("button", name="Stop").click()
    await expect(tab.turns).to_have_count(2)
    await tab.finished()
    await expect(line).to_be_hidden()
    await expect(tab.question).to_have_value("A draft")
    saved = await tab.saved()
    assert (saved["question"], saved["model"]) == ("And then?", QUICK)
    await page.reload()
    await expect(tab.question).to_have_value("A draft")
    await expect(line).to_be_hidden()
    await expect(tab.turns).to_have_count(2)


async def refuse_second_question(tab: Tab) -> None:
    questions = 0

    def route(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def pass_on(frame: str | bytes) -> None:
            nonlocal questions
            command: dict[str, Any] = json.loads(frame)
            questions += command["type"] == "turn.start"
            if command["type"] == "turn.start" and questions == 2:
                refusal = {"code": "too_many_turns", "detail": "Not so fast."}
                socket.send(json.dumps({"type": "turn.rejected", "turn_id": command["turn_id"], **refusal}))
            else:
                server.send(frame)

        socket.on_message(pass_on)

    await tab.context.route_web_socket("**/ws/**", route)


@pytest.mark.parametrize("why", ["refused", "failed", "left", "switched"])
async def test_a_question_in_line_that_cannot_be_asked_is_in_the_composer_again(tab: Tab, why: str) -> None:
    page = tab.page
    if why == "refused":
        await refuse_second_question(tab)
    await page.goto("/")
    if why == "switched":
        await tab.ask("Go on and on.", QUICK)
        await tab.finished()
        await page.locator("[data-model]").select_option(SLOW)
        await tab.last.locator(".turn-foot summary").click()
        await tab.last.get_by_role("button", name="Ask again").click()
        await expect(tab.last).to_have_attribute("data-status", "queued")
    else:
        await tab.ask("Go on and on.", BREAKING if why == "failed" else SLOW)
    await tab.wait_for_text(10)
    if has_file := why != "failed":  # that answer is soon over
        file: Any = {"name": "key.txt", "mimeType": "text/plain", "buffer": b"4712"}
        await page.locator("[data-attach-input]").set_input_files(file)
        await expect(page.locator(".attached-file[data-state=ready]")).to_have_count(1)
    await put_in_line(tab, "And then?")
    await expect(page.locator(".attached-file")).to_have_count(0)
    await tab.question.fill("A draft")
    if why == "refused":
        await page.get_by_role("button", name="Stop").click()
        await expect(tab.refusal).to_have_text("Not so fast.")
    elif why == "failed":
        await tab.finished("interrupted")
    elif why == "switched":
        await tab.last.get_by_role("button", name="The version before").click()
        await tab.finished()
    else:  # and come back when the answer has ended
        await page.wait_for_timeout(400)  # until the draft is kept
        address = page.url
        await page.goto("/settings/")
        await tab.call("POST", f"turns/{await running(tab, address)}/stop")
        await page.goto(address)
    await expect(tab.question).to_have_value("And then?\n\nA draft")
    await expect(page.locator("[data-queued]")).to_be_hidden()
    await expect(page.locator(".attached-file[data-state=ready]")).to_have_text([re.compile("key.txt")] * has_file)
    await expect(tab.turns).to_have_count(1)


async def running(tab: Tab, address: str) -> str:
    found = await tab.call("GET", f"conversations/{address.split('/')[-2]}/turns")
    return str(found["results"][-1]["id"])
