"""Choosing who answers, and how hard they think; who stood in for whom; and another model for what broke off."""

import re
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, expect

from testbed.provider import expected_text
from tests.e2e.browsing import Person, Tab
from tests.e2e.test_pages import WIDTHS, violations
from tests.processes.stores import TestedSite, run_site

FAILING = "status-503"
QUICK = "fake-20t-5ms"
BREAKING = "fake-100t-10ms-error40"
THINKING = "fake-60t-20ms-r20"
STRONG = "fake-21t-5ms"


@pytest.fixture(scope="module")
def shop(browser: Browser) -> Iterator[TestedSite]:
    """A site whose models are told apart: by name, tier and abilities. The first one fails."""
    with run_site([FAILING, QUICK, BREAKING, THINKING, STRONG], webs=1, runners=1) as site:
        site.offer(
            {"key": FAILING, "label": "Primero", "position": 1},
            {"key": QUICK, "label": "Ágil", "position": 2},
            {"key": BREAKING, "label": "Breaking", "position": 3},
            {"key": THINKING, "label": "Thinker", "position": 4, "reasons": True, "efforts": "low high zippy"},
            {"key": STRONG, "label": "Forte", "position": 5, "tier": "strong", "sees_images": True},
        )
        yield site


@pytest_asyncio.fixture(loop_scope="session")
async def tab(browser: Browser, shop: TestedSite) -> AsyncIterator[Tab]:
    """A tab of a member on Free, at a new chat."""
    async with Tab.open(browser, shop.port(), person=member(shop), reduced_motion="reduce") as tab:
        await tab.page.goto("/")
        await tab.page.locator("[data-composer][data-ready]").wait_for()
        yield tab


def member(shop: TestedSite) -> Person:
    [access] = shop.create_members(1)
    [key] = shop.create_sessions([access])
    return Person(access, key)


def button(tab: Tab) -> Locator:
    return tab.page.get_by_role("button", name="Model:")


def picker(tab: Tab) -> Locator:
    return tab.page.get_by_role("dialog", name="Choose a model")


def search(tab: Tab) -> Locator:
    return picker(tab).get_by_role("combobox", name="Search models")


def names(tab: Tab) -> Locator:
    return picker(tab).locator("[role=option]:visible .picker-name")


def active(tab: Tab) -> Locator:
    return picker(tab).locator("[role=option][data-active] .picker-name")


async def ask(tab: Tab, text: str) -> None:
    """Ask whoever is chosen."""
    await tab.ask(text)


# --- The picker -------------------------------------------------------------------------------------------------------


async def test_a_model_is_chosen_with_the_mouse_and_answers(tab: Tab) -> None:
    await expect(button(tab)).to_have_text(re.compile(r"Model:\s+Automatic"))
    composer = await tab.page.locator("[data-composer]").bounding_box()
    await button(tab).click()
    await expect(picker(tab)).to_be_visible()
    await expect(button(tab)).to_have_attribute("aria-expanded", "true")
    assert await tab.page.locator("[data-composer]").bounding_box() == composer
    await expect(names(tab)).to_have_text(["Automatic", "Primero", "Ágil", "Breaking", "Thinker", "Forte"])
    await picker(tab).get_by_role("option", name="Ágil").click()
    await expect(picker(tab)).to_be_hidden()
    await expect(button(tab)).to_have_text(re.compile("Ágil"))
    await expect(button(tab)).to_have_attribute("aria-expanded", "false")
    await ask(tab, "Who are you?")
    await tab.finished()
    assert (await tab.saved())["model"] == QUICK
    await tab.page.reload()
    await expect(button(tab)).to_have_text(re.compile("Ágil"))


async def test_a_model_is_chosen_with_the_keyboard_alone(tab: Tab) -> None:
    keyboard = tab.page.keyboard
    await expect(tab.question).to_be_focused()
    await keyboard.press("Tab")  # to what attaches files
    await keyboard.press("Tab")
    await expect(button(tab)).to_be_focused()
    await keyboard.press("ArrowDown")
    await expect(search(tab)).to_be_focused()
    await expect(active(tab)).to_have_text("Automatic")
    await expect(search(tab)).to_have_attribute("aria-activedescendant", "picker-auto")
    for key, name in (("ArrowDown", "Primero"), ("End", "Forte"), ("ArrowDown", "Automatic"), ("ArrowUp", "Forte")):
        await keyboard.press(key)
        await expect(active(tab)).to_have_text(name)
    await keyboard.press("Home")
    await keyboard.type("AGI")  # Ágil, without its accent
    await expect(active(tab)).to_have_text("Ágil")
    await keyboard.press("Enter")
    await expect(picker(tab)).to_be_hidden()
    await expect(button(tab)).to_be_focused()
    await expect(button(tab)).to_have_text(re.compile("Ágil"))
    await keyboard.press("Enter")
    await expect(active(tab)).to_have_text("Ágil")
    await expect(picker(tab).get_by_role("option", selected=True)).to_have_count(1)
    await keyboard.press("Tab")  # closes, and goes on
    await expect(picker(tab)).to_be_hidden()
    await expect(tab.page.locator("[data-send]")).to_be_focused()


async def test_escape_closes_the_picker_and_nothing_else(tab: Tab) -> None:
    await tab.ask("Think.", THINKING)
    await tab.wait_for_text(3)
    await button(tab).click()
    await tab.page.keyboard.press("Escape")
    await expect(picker(tab)).to_be_hidden()
    await expect(button(tab)).to_be_focused()
    await tab.finished()  # not stopped
    await button(tab).click()
    await button(tab).click()
    await expect(picker(tab)).to_be_hidden()
    await button(tab).click()
    await tab.page.get_by_role("heading", level=1).click()  # elsewhere
    await expect(picker(tab)).to_be_hidden()


async def test_models_are_found_by_name_provider_tier_and_ability(tab: Tab) -> None:
    await button(tab).click()
    status = picker(tab).get_by_role("status")
    for text, found in (
        ("ágil", ["Ágil"]),
        ("STRONG", ["Forte"]),
        ("images", ["Forte"]),
        ("thinks quick", ["Thinker"]),
        ("compatible", ["Primero", "Ágil", "Breaking", "Thinker", "Forte"]),
    ):
        await search(tab).fill(text)
        await expect(status).to_have_text(f"Models found: {len(found)}")
        await expect(names(tab)).to_have_text(found)
    await search(tab).fill("gpt-2")
    await expect(status).to_contain_text("No model matches")
    await tab.page.keyboard.press("Enter")  # takes nothing
    await expect(picker(tab)).to_be_visible()
    await search(tab).fill("")
    await expect(names(tab)).to_have_count(6)


async def test_a_model_above_the_plan_is_shown_with_the_reason_and_cannot_be_chosen(tab: Tab, shop: TestedSite) -> None:
    shop.create_members(1, plan={"name": "Premium", "best_tier": "strong", "rank": 2})
    await tab.page.reload()
    await button(tab).click()
    locked = picker(tab).get_by_role("option", name="Forte")
    await expect(locked).to_have_attribute("aria-disabled", "true")
    await expect(locked).to_contain_text("Not in your plan: Premium has it.")
    await locked.click(force=True)
    await expect(picker(tab)).to_be_visible()
    await search(tab).fill("forte")
    await tab.page.keyboard.press("Enter")
    await expect(picker(tab).get_by_role("status")).to_have_text("Not in your plan: Premium has it.")
    await tab.page.keyboard.press("Escape")
    await expect(button(tab)).to_have_text(re.compile("Automatic"))
    await expect(tab.page.locator(f"[data-model] option[value='{STRONG}']")).to_be_disabled()


async def test_a_model_that_came_after_the_page_is_chosen_like_any(tab: Tab, shop: TestedSite) -> None:
    shop.offer({"key": THINKING, "enabled": False})
    await tab.page.reload()
    shop.offer({"key": THINKING, "enabled": True})
    await button(tab).click()
    await picker(tab).get_by_role("option", name="Thinker").click()
    await expect(button(tab)).to_have_text(re.compile("Thinker"))
    await tab.page.get_by_label("Effort").select_option("high")
    await ask(tab, "Hello?")
    await tab.finished()
    assert (await tab.saved())["model"] == THINKING

    await tab.page.locator(f"[data-model] [value='{QUICK}']").evaluate(
        "option => option.remove()"
    )  # it came later, too
    await tab.page.keyboard.press("Control+k")
    await tab.page.locator("[data-palette-search]").fill("agil")
    await expect(tab.page.locator(".palette [data-active]")).to_contain_text("Ágil")
    await tab.page.keyboard.press("Enter")
    await expect(button(tab)).to_have_text(re.compile("Ágil"))
    await ask(tab, "And you?")
    await tab.finished()
    assert (await tab.saved())["model"] == QUICK


async def test_axe_finds_nothing_in_the_picker(tab: Tab) -> None:
    await tab.page.locator("[data-model]").select_option(THINKING)
    await button(tab).click()
    await tab.picture("picker")
    assert await violations(tab.page) == []
    await search(tab).fill("forte")
    await tab.picture("picker-found")
    assert await violations(tab.page) == []


@pytest.mark.parametrize("width", WIDTHS)
async def test_the_picker_fits(browser: Browser, shop: TestedSite, width: int) -> None:
    size = {"viewport": {"width": width, "height": 640}, "reduced_motion": "reduce"}
    async with Tab.open(browser, shop.port(), person=member(shop), **size, has_touch=width < 500) as tab:
        await tab.page.goto("/")
        await tab.page.locator("[data-composer][data-ready]").wait_for()
        await tab.page.locator("[data-model]").select_option(THINKING)
        assert await tab.page.evaluate("document.documentElement.scrollWidth") <= width
        await button(tab).click()
        box = await picker(tab).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["y"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= 640
        assert await tab.page.evaluate("document.documentElement.scrollWidth") <= width
        await picker(tab).get_by_role("option", name="Ágil").click()
        await expect(button(tab)).to_have_text(re.compile("Ágil"))


async def test_the_keyboard_of_a_phone_leaves_the_search_in_sight(browser: Browser, shop: TestedSite) -> None:
    phone = {
        "viewport": {"width": 360, "height": 740},
        "has_touch": True,
        "is_mobile": True,
        "reduced_motion": "reduce",
    }
    async with Tab.open(browser, shop.port(), person=member(shop), **phone) as tab:
        await tab.page.goto("/")
        await tab.page.locator("[data-composer][data-ready]").wait_for()
        await button(tab).tap()
        await expect(search(tab)).not_to_be_focused()  # the keyboard would cover the list
        await search(tab).tap()
        await tab.page.set_viewport_size({"width": 360, "height": 340})  # as it comes up
        await expect(search(tab)).to_be_in_viewport(ratio=1)
        await tab.page.keyboard.type("agil")
        await tab.page.keyboard.press("Enter")
        await expect(button(tab)).to_have_text(re.compile("Ágil"))


async def test_without_javascript_there_is_the_list(browser: Browser, shop: TestedSite) -> None:
    async with Tab.open(browser, shop.port(), person=member(shop), java_script_enabled=False) as tab:
        await tab.page.goto("/")
        await expect(button(tab)).to_be_hidden()
        await expect(picker(tab)).to_be_hidden()
        listed = tab.page.get_by_label("Model", exact=True)
        await expect(listed).to_be_visible()
        await listed.select_option(BREAKING)
        await tab.question.fill("Hello?")
        await tab.page.get_by_role("button", name="Send").click()
        await tab.finished("interrupted")
        await expect(tab.last.get_by_role("button", name="Ask another model")).to_be_hidden()
        await listed.select_option(QUICK)
        await tab.last.get_by_role("button", name="Ask again").click()
        await tab.finished()
        assert (await tab.saved())["model"] == QUICK


# --- How hard it thinks -----------------------------------------------------------------------------------------------


async def test_effort_is_asked_for_only_where_the_model_has_it(tab: Tab) -> None:
    effort = tab.page.get_by_label("Effort")
    await expect(effort).to_be_hidden()
    await tab.page.locator("[data-model]").select_option(THINKING)
    await expect(effort).to_be_visible()
    await expect(effort.locator("option")).to_have_text(["Automatic", "Low", "High", "zippy"])
    await effort.select_option("high")
    await tab.page.locator("[data-model]").select_option(QUICK)
    await expect(effort).to_be_hidden()
    await expect(effort).to_be_disabled()
    await tab.page.locator("[data-model]").select_option(THINKING)
    await expect(effort).to_have_value("")


async def test_effort_is_sent_when_it_is_set_and_only_then(tab: Tab) -> None:
    sent: list[str] = []
    tab.page.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(str(frame))))
    await tab.page.reload()
    await tab.ask("Think.", THINKING)
    await tab.finished()
    [start] = [frame for frame in sent if "turn.start" in frame]
    assert "effort" not in start
    await tab.page.get_by_label("Effort").select_option("low")
    await ask(tab, "Think less.")
    assert '"effort":"low"' in [frame for frame in sent if "turn.start" in frame][-1]
    await tab.finished()


TITLES = """
() => {
  window.titles = [];
  new MutationObserver(() => {
    const title = document.querySelector("[data-reasoning-title]:not([hidden])")?.textContent;
    if (title && title !== window.titles.at(-1)) window.titles.push(title);
  }).observe(document.querySelector("[data-turns]"), { childList: true, characterData: true, subtree: true });
}
"""


async def test_thinking_is_said_while_it_lasts(tab: Tab) -> None:
    await tab.page.evaluate(TITLES)
    await tab.ask("Think.", THINKING)
    title = tab.last.locator("[data-reasoning-title]")
    await expect(title).to_be_visible()
    await tab.finished()
    await expect(title).to_have_text(re.compile(r"Thoughts|Thought for \d+ s"))
    assert (await tab.page.evaluate("titles"))[:2] == ["Thinking…", "Thoughts"]


# --- Who stood in, and who is asked next ------------------------------------------------------------------------------


async def test_the_answer_says_who_stood_in_for_whom(tab: Tab) -> None:
    await ask(tab, "Hello?")
    turn = await tab.finished()
    await expect(turn.locator("[data-instead]")).to_have_text("Answered by Ágil because Primero was unavailable.")
    await expect(turn.locator("[data-route]")).to_have_text("Auto → Ágil")
    await tab.picture("stood-in")
    assert (await tab.saved())["answer"] == expected_text(QUICK)
    await tab.page.reload()
    await expect(tab.last.locator("[data-instead]")).to_be_visible()


async def test_an_answer_that_broke_off_is_continued(tab: Tab) -> None:
    await tab.ask("Go on and on.", BREAKING)
    turn = await tab.finished("interrupted")
    await expect(turn.locator(".turn-note-error")).to_be_visible()
    await tab.picture("interrupted")
    assert (await tab.shown_answer()).split() == expected_text(BREAKING).split()[:40]
    await tab.page.locator("[data-model]").select_option(QUICK)
    await turn.get_by_role("button", name="Continue").click()
    await expect(tab.turns).to_have_count(2)
    await tab.finished()
    await expect(tab.turns.first.locator("[data-answer]")).to_contain_text("t39")


async def test_another_model_is_asked_after_a_failure(tab: Tab) -> None:
    await tab.ask("Hello?", FAILING)
    turn = await tab.finished("failed")
    more = turn.locator(".turn-foot summary")
    await tab.ask_another_model()
    await tab.page.keyboard.press("Escape")
    await expect(picker(tab)).to_be_hidden()
    await expect(more).to_be_focused()
    for key in ("Enter", "Tab", "Enter"):
        await tab.page.keyboard.press(key)
    await expect(active(tab)).to_have_text("Primero")
    await tab.page.keyboard.type("agil")
    await tab.page.keyboard.press("Enter")
    await tab.finished()
    await expect(tab.turns).to_have_count(1)
    saved = await tab.saved()
    assert (saved["question"], saved["model"]) == ("Hello?", QUICK)
    await expect(button(tab)).to_have_text(re.compile("Ágil"))


async def test_what_was_written_stays_with_the_question_when_another_model_answers_it(tab: Tab) -> None:
    await tab.ask("Hello?", BREAKING)
    await tab.finished("interrupted")
    for count, name in enumerate(("Ágil", "Thinker"), 2):
        await tab.ask_another_model()
        await picker(tab).get_by_role("option", name=name).click()
        await expect(tab.last.locator("[data-siblings]")).to_contain_text(f"{count} of {count}")
        await tab.finished()
    await expect(tab.turns).to_have_count(1)
    assert await tab.shown_answer() == expected_text(THINKING).strip()
    for number in (2, 1):
        await tab.last.get_by_role("button", name="The version before").click()
        await expect(tab.last.locator("[data-siblings]")).to_contain_text(f"{number} of 3")
    await expect(tab.last.locator("[data-answer]")).to_contain_text("t39")
    await tab.page.reload()
    await expect(tab.last.locator("[data-siblings]")).to_contain_text("1 of 3")
    await tab.picture("versions")


async def test_what_was_written_stays_until_another_model_has_the_question(tab: Tab) -> None:
    await tab.ask("Hello?", BREAKING)
    turn = await tab.finished("interrupted")
    await tab.page.evaluate("document.querySelector('[data-turn]').dataset.parent = crypto.randomUUID()")
    await tab.ask_another_model()
    await picker(tab).get_by_role("option", name="Ágil").click()
    await expect(tab.refusal).to_be_visible()
    await expect(turn.locator("[data-answer]")).to_contain_text("t39")
