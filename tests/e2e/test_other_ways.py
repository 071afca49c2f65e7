"""Without JavaScript, with the keyboard alone, on a phone."""

import re

from playwright.async_api import Browser, expect

from testbed.provider import expected_text
from tests.e2e.browsing import Person, Tab
from tests.fakes.proxy import CuttingProxy

FINGER, ROW = 44, 48
"""Pixels: the least a finger finds, and the most one line of them takes."""
UNICODE = "fake-600t-10ms-unicode"

# The field's ring is drawn by its box.
FOCUS_BEHIND_THE_DOCK = """
() => [...document.querySelectorAll(".turn-foot :is(button, summary)")].filter(one => one.checkVisibility())
  .map((one) => {
  scrollBy(0, one.getBoundingClientRect().bottom - innerHeight + 10);
  one.focus();
  const found = one.getBoundingClientRect().bottom <= document.querySelector(".dock").getBoundingClientRect().top;
  one.blur();
  return found;
})
"""
"""Scroll each button to where the dock is, and return whether it is above that once it has the focus."""
HAS_RING = """
() => {
  const element = document.activeElement.closest("[data-text]")?.parentElement ?? document.activeElement;
  const style = getComputedStyle(element);
  return element === document.body || style.outlineStyle !== "none" || style.boxShadow !== "none";
}
"""


async def test_without_javascript_a_form_asks_and_the_page_comes_back_until_it_is_answered(
    browser: Browser, crowd: list[Person], proxy: CuttingProxy
) -> None:
    async with Tab.open(browser, proxy.port, person=crowd.pop(), java_script_enabled=False) as tab:
        await tab.page.goto("/")
        await tab.page.locator("[data-model]").select_option(UNICODE)
        await tab.question.fill("Without\nscripts?")
        await tab.page.get_by_role("button", name="Send").click()
        await expect(tab.page).to_have_url(re.compile("/c/"))
        await expect(tab.last.locator("[data-answer]")).to_contain_text("t50")  # before it is finished
        await expect(tab.last).to_have_attribute("data-status", "streaming")
        await tab.finished()
        saved = await tab.saved()
        assert saved["question"] == "Without\nscripts?"
        assert saved["answer"] == expected_text(UNICODE)
        shown = await tab.last.locator("[data-answer]").text_content()
        assert shown is not None
        assert "".join(shown.split()) == "".join(saved["answer"].split())
        await tab.page.reload()
        await expect(tab.turns).to_have_count(1)


async def test_without_javascript_an_answer_is_stopped_and_a_refusal_keeps_the_text(
    browser: Browser, crowd: list[Person], proxy: CuttingProxy
) -> None:
    async with Tab.open(browser, proxy.port, person=crowd.pop(), java_script_enabled=False) as tab:
        await tab.page.goto("/")
        await tab.page.locator("[data-model]").select_option("fake-3000t-50ms")
        await tab.question.fill("Go on and on.")
        await tab.page.get_by_role("button", name="Send").click()
        await expect(tab.last.locator("[data-answer]")).to_contain_text("t5")
        await tab.question.fill("And this?")
        await tab.page.get_by_role("button", name="Send").click()
        await expect(tab.refusal).to_contain_text("still being written")
        await expect(tab.question).to_have_value("And this?")
        await tab.page.get_by_role("button", name="Stop").click()
        await tab.finished("stopped")


async def test_without_javascript_a_conversation_is_renamed(
    browser: Browser, crowd: list[Person], proxy: CuttingProxy
) -> None:
    async with Tab.open(browser, proxy.port, person=crowd.pop(), java_script_enabled=False) as tab:
        await tab.page.goto("/")
        await tab.page.locator("[data-model]").select_option("fake-20t-5ms")
        await tab.question.fill("Name me.")
        await tab.page.get_by_role("button", name="Send").click()
        await tab.finished()
        address = re.sub(r"[?#].*", "", tab.page.url)
        await tab.page.goto(f"{address}rename/")
        await tab.page.get_by_label("Title").fill("Named")
        await tab.page.get_by_role("button", name="Save").click()
        await expect(tab.page).to_have_title(re.compile("Named"))


async def test_with_the_keyboard_alone(tab: Tab) -> None:
    page = tab.page
    await page.goto("/")
    await expect(tab.question).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(page.locator("[data-attach]")).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Model:")).to_be_focused()
    await page.locator("[data-model]").select_option("fake-3000t-50ms")
    await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("Shift+Tab")
    await page.keyboard.type("Go on and on.")
    await page.keyboard.press("Enter")
    await tab.wait_for_text(10)
    await expect(tab.question).to_be_focused()
    await page.keyboard.press("Escape")
    await tab.finished("stopped")
    await expect(tab.question).to_be_focused()
    await page.reload()
    await page.keyboard.press("Control+Home")
    await page.evaluate("document.activeElement.blur()")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name=re.compile("Skip to"))).to_have_count(2)
    seen = [await page.evaluate("document.activeElement.className")]
    for _ in range(40):
        await page.keyboard.press("Tab")
        seen.append(await page.evaluate("document.activeElement.className"))
        assert await page.evaluate(HAS_RING), seen[-1]
    assert {"skip-link", "conversation-link"} <= {name.split()[0] for name in seen if name}


async def test_on_a_phone_what_has_the_focus_is_not_behind_the_composer(tab: Tab) -> None:
    page = tab.page
    await page.set_viewport_size({"width": 320, "height": 568})
    await page.emulate_media(reduced_motion="reduce")
    await page.goto("/")
    await tab.ask("uno dos " * 60, "fake-60t-20ms-r20")
    await tab.finished()
    seen = await page.evaluate(FOCUS_BEHIND_THE_DOCK)
    assert seen
    assert all(seen)


async def test_escape_closes_the_menu_before_it_stops_the_answer(tab: Tab) -> None:
    page = tab.page
    await page.goto("/")
    await tab.ask("Go on and on.", "fake-3000t-50ms")
    await tab.wait_for_text(10)
    summary = page.locator("[data-conversation] summary").first
    await summary.focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("link", name="Rename")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("link", name="Rename")).to_be_hidden()
    await expect(summary).to_be_focused()
    await expect(tab.last).to_have_attribute("data-status", "queued")
    await page.keyboard.press("Escape")
    await tab.finished("stopped")


async def test_on_a_phone(browser: Browser, crowd: list[Person], proxy: CuttingProxy) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    async with Tab.open(browser, proxy.port, person=crowd.pop(), **phone) as tab:
        await tab.page.goto("/")
        await tab.page.locator("[data-composer][data-ready]").wait_for()
        await expect(tab.question).not_to_be_focused()  # the keyboard would cover half the page
        await tab.question.fill("One\n\n```\n" + "long line " * 40 + "\n```")
        await tab.question.press("Enter")
        await expect(tab.turns).to_have_count(0)  # a new line: the button sends
        await tab.page.locator("[data-model]").select_option("fake-900t-5ms-echo8")
        await tab.page.get_by_role("button", name="Send").tap()
        turn = await tab.finished()
        assert await tab.page.evaluate("document.scrollingElement.scrollWidth") <= 360
        for width in (320, 360):
            await tab.page.set_viewport_size({"width": width, "height": 740})
            assert await tab.page.locator(".chat-bar").evaluate("bar => bar.offsetHeight") <= ROW + 16
            assert await turn.locator(".turn-foot").evaluate("foot => foot.offsetHeight") <= ROW
        for target in await turn.locator(".turn-foot :is(button, summary):visible").all():
            box = await target.bounding_box()
            assert box is not None
            assert min(box["width"], box["height"]) >= FINGER
        sidebar = tab.page.locator("[data-sidebar]")
        await expect(sidebar).not_to_be_in_viewport()
        await tab.page.get_by_role("button", name="Conversations").tap()
        await expect(sidebar).to_be_in_viewport()
        assert await sidebar.locator("[data-conversations]").evaluate("list => list.offsetHeight") >= 740 / 2
        await expect(tab.page.locator(".chat-column")).to_have_js_property("inert", True)
        await sidebar.locator(".account-button").tap()
        await tab.picture("drawer-menu")
        await sidebar.get_by_role("button", name="Dark").tap()
        await expect(tab.page.locator("html")).to_have_attribute("data-theme", "dark")
        await tab.page.keyboard.press("Escape")
        await expect(sidebar.get_by_role("link", name="Settings")).to_be_hidden()
        await expect(sidebar).to_be_in_viewport()
        await tab.page.keyboard.press("Escape")
        await expect(sidebar).not_to_be_in_viewport()
        await expect(tab.page.get_by_role("button", name="Conversations")).to_be_focused()
        for language in ("es", "pt-br"):
            await tab.call("PATCH", "me", locale=language)
            await tab.page.goto("/dashboard/")
            for width in (320, 360):
                await tab.page.set_viewport_size({"width": width, "height": 740})
                assert await tab.page.locator(".header").evaluate("header => header.offsetHeight") <= ROW + 24
                assert await tab.page.evaluate("document.scrollingElement.scrollWidth") <= width
