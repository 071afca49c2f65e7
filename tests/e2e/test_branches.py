"""Branches in a browser: edited, asked again, switched, in every tab; forked; and two models side by side."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import Browser, Locator, Route, expect

from tests.e2e.browsing import OPEN, Person, Tab
from tests.e2e.test_pages import violations
from tests.processes.stores import TestedSite

QUICK, ECHO = "fake-20t-5ms", "fake-900t-5ms-echo8"


@pytest_asyncio.fixture(loop_scope="session")
async def comparer(browser: Browser, site: TestedSite) -> AsyncIterator[Tab]:
    """A member who may have two models side by side."""
    [access] = site.create_members(1, plan=OPEN | {"has_comparison": True})
    [session] = site.create_sessions([access])
    async with Tab.open(browser, site.port(), person=Person(access, session)) as tab:
        yield tab


def switcher(tab: Tab, turn: Locator | None = None) -> Locator:
    return (turn or tab.last).get_by_role("group", name="Versions of this question")


async def shown(tab: Tab) -> list[str]:
    return await tab.page.locator("[data-question]").all_inner_texts()


async def test_a_question_is_edited_by_keyboard_and_every_tab_goes_back_and_forth(tab: Tab) -> None:
    await tab.page.goto("/")
    for text in ("One?", "Two?", "Three?"):
        await tab.ask(text, QUICK)
        await tab.finished()
    other = await tab.another()
    await other.page.goto(tab.page.url)
    edit = tab.page.locator("[data-edit-text]")
    await tab.question.press("ArrowUp")
    await expect(edit).to_be_focused()
    await expect(edit).to_have_value("Three?")
    await edit.press("Escape")
    await expect(edit).to_have_count(0)
    await expect(tab.question).to_be_focused()

    await tab.turns.nth(1).get_by_role("link", name="Edit the question").click()
    await edit.fill("Two, edited?")
    await tab.picture("edit")
    # htmx begins 0 ms after its module has run; let that be after everything else.
    late = "const wait = setTimeout; setTimeout = (act, ms, ...rest) => wait(act, ms ?? 500, ...rest);"
    await tab.page.add_init_script(late)
    await tab.page.reload()
    await expect(edit).to_have_value("Two, edited?")
    await expect(edit).to_be_focused()
    assert await violations(tab.page) == []
    await edit.press("Enter")
    for each in (tab, other):
        await expect(each.page.locator("[data-question]")).to_have_text(["One?", "Two, edited?"])
        await each.finished()
        await expect(switcher(each)).to_contain_text("2 of 2")

    back = switcher(tab).get_by_role("button", name="The version before")
    await back.focus()
    await tab.page.keyboard.press("Enter")
    for each in (tab, other):
        await expect(each.page.locator("[data-question]")).to_have_text(["One?", "Two?", "Three?"])
        await expect(switcher(each, each.turns.nth(1))).to_contain_text("1 of 2")
    on = switcher(tab, tab.turns.nth(1)).get_by_role("button", name="The next version")
    await expect(on).to_be_focused()
    await tab.picture("versions-focus")
    assert await violations(tab.page) == []

    await other.ask("Four?", QUICK)  # goes on from what is shown
    await other.finished()
    await expect(tab.page.locator("[data-question]")).to_have_text(["One?", "Two?", "Three?", "Four?"])
    await tab.page.reload()
    assert await shown(tab) == ["One?", "Two?", "Three?", "Four?"]

    edited = (await tab.call("GET", f"conversations/{tab.page.url.split('/')[4]}/turns"))["results"][3]["id"]
    await tab.page.goto(f"{tab.page.url}#turn-{edited}")
    await tab.page.reload()  # an address of another branch
    await expect(tab.page.locator("[data-question]")).to_have_text(["One?", "Two, edited?"])
    assert "?" not in tab.page.url
    await expect(other.page.locator("[data-question]")).to_have_text(["One?", "Two, edited?"])


async def test_a_branch_that_comes_late_hides_nothing_that_was_asked_meanwhile(tab: Tab) -> None:
    await tab.page.goto("/")
    for text in ("One?", "Two?"):
        await tab.ask(text, QUICK)
        await tab.finished()
    other = await tab.another()
    await other.page.goto(tab.page.url)
    await tab.last.locator(".turn-foot summary").click()
    await tab.last.get_by_role("button", name="Ask again").click()
    for each in (tab, other):
        await expect(switcher(each)).to_contain_text("2 of 2")
        await each.finished()
    may_come = asyncio.Event()

    async def hold(route: Route) -> None:
        response = await route.fetch()
        await may_come.wait()
        await route.fulfill(response=response)

    await tab.page.route("**/branch/", hold)
    await switcher(tab).get_by_role("button", name="The version before").click()
    await expect(switcher(other)).to_contain_text("1 of 2")
    await other.ask("Three?", QUICK)
    await expect(tab.page.locator("[data-question]").last).to_have_text("Three?")
    may_come.set()
    await expect(switcher(tab, tab.turns.nth(1))).to_contain_text("1 of 2")
    await expect(tab.page.locator("[data-question]")).to_have_text(["One?", "Two?", "Three?"])
    await tab.finished()


async def test_an_answer_is_asked_for_again_while_it_is_written_and_forked_when_it_is_over(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.ask("Again?", ECHO)
    await tab.finished()
    await tab.last.locator(".turn-foot summary").click()
    await tab.picture("answer-menu")
    await tab.last.get_by_role("button", name="Ask again").click()
    await expect(switcher(tab)).to_contain_text("2 of 2")
    await switcher(tab).get_by_role("button", name="The version before").click()
    await expect(switcher(tab)).to_contain_text("1 of 2")
    await tab.finished()
    await switcher(tab).get_by_role("button", name="The next version").click()
    await expect(switcher(tab)).to_contain_text("2 of 2")
    await tab.finished()  # it went on meanwhile, and is followed again
    await expect(tab.page.locator("[data-stop]")).to_be_hidden()
    assert await tab.shown_answer() == (await tab.saved())["answer"].strip()
    first = tab.page.url
    await tab.last.locator(".turn-foot summary").click()
    await tab.last.get_by_role("button", name="Go on in a new conversation").click()
    await expect(tab.page.locator("[data-title]")).to_have_text("Again? (branch)")
    assert tab.page.url != first
    await tab.ask("And now?", QUICK)
    await tab.finished()
    assert await shown(tab) == ["Again?", "And now?"]


async def test_two_models_answer_side_by_side(comparer: Tab) -> None:
    tab = comparer
    await tab.page.set_viewport_size({"width": 1440, "height": 900})
    await tab.page.goto("/")
    second = tab.page.get_by_role("button", name="Ask a second model too")
    await tab.page.locator("[data-composer][data-ready]").wait_for()
    await second.click()
    await tab.page.locator("[data-picker]").get_by_role("option", name=re.compile(f"^{QUICK}")).click()
    await expect(second).to_have_attribute("aria-pressed", "true")
    await tab.ask("Which?", ECHO)
    pair = tab.page.locator("[data-pair] > [data-turn]")
    await expect(pair).to_have_count(2)
    for turn in (pair.first, pair.last):
        await expect(turn).to_have_attribute("data-status", "completed")
        await expect(turn.locator("[data-took]")).to_be_visible()
    await expect(second).to_have_attribute("aria-pressed", "false")
    await tab.picture("side-by-side")
    assert await violations(tab.page) == []
    boxes = [await turn.locator(".reply").bounding_box() for turn in (pair.first, pair.last)]
    assert boxes[0]
    assert boxes[1]
    assert abs(boxes[0]["y"] - boxes[1]["y"]) < 2
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    await tab.page.set_viewport_size({"width": 360, "height": 740})
    boxes = [await turn.locator(".reply").bounding_box() for turn in (pair.first, pair.last)]
    assert boxes[0]
    assert boxes[1]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    chosen = await pair.last.get_attribute("data-turn")
    await tab.page.get_by_role("button", name="Go on with this answer").click()
    await expect(tab.page.locator("[data-leaf]")).to_have_attribute("data-leaf", chosen or "")
    await tab.question.fill("Go on.")
    await tab.question.press("Enter")
    await expect(tab.page.locator("[data-question]")).to_have_text(["Which?", "Go on."])
    await tab.finished()
    assert (await tab.saved())["parent_id"] == chosen
    await expect(tab.page.locator("[data-pair]")).to_have_count(0)
    await expect(switcher(tab, tab.turns.first)).to_contain_text("2 of 2")
