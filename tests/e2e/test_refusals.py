"""Every refusal: a plain sentence, and the text stays in the composer."""

import re

import pytest
from playwright.async_api import Browser, WebSocketRoute, expect

from tests.e2e.browsing import OPEN, Person, Tab
from tests.fakes.proxy import CuttingProxy
from tests.processes.stores import TestedSite

QUICK = "fake-20t-5ms"
SLOW = "fake-3000t-50ms"


async def person(site: TestedSite, **plan: object) -> Person:
    [access] = site.create_members(1, plan={**OPEN, **plan})
    [key] = site.create_sessions([access])
    return Person(access, key)


async def refused(tab: Tab, text: str, model: str = QUICK) -> str:
    """Ask; return the sentence it is refused with, having seen that nothing was lost."""
    asked = await tab.turns.count()
    await tab.ask(text, model)
    await expect(tab.refusal).to_be_visible()
    await expect(tab.question).to_have_value(text)
    await expect(tab.turns).to_have_count(asked)
    return await tab.refusal.inner_text()


async def test_a_used_up_allowance_names_the_day_in_the_readers_time_zone(
    browser: Browser, site: TestedSite, proxy: CuttingProxy
) -> None:
    async with Tab.open(browser, proxy.port, person=await person(site, credits_per_month=1)) as tab:
        assert (await tab.call("PATCH", "me", time_zone="America/Bogota"))["time_zone"] == "America/Bogota"
        await tab.page.goto("/")
        sentence = await refused(tab, "x" * 30_000)
        # The month begins at midnight UTC, which is seven in the evening of the day before in Bogotá.
        assert re.search(r"You get new ones on \w+ (28|29|30|31), \d{4} at 19:00", sentence), sentence
        await expect(tab.page.locator(".allowance-reset")).to_contain_text("19:00")
        await tab.picture("refused-allowance")


async def test_another_answer_is_still_being_written(browser: Browser, site: TestedSite, proxy: CuttingProxy) -> None:
    async with Tab.open(browser, proxy.port, person=await person(site, turns_at_once=1)) as tab:
        await tab.page.goto("/")
        await tab.ask("Go on and on.", SLOW)
        await tab.wait_for_text(10)
        other = await tab.another()
        await other.page.goto("/")
        assert "still being written" in await refused(other, "And this?")
        await other.picture("refused-at-once")
        await tab.page.get_by_role("button", name="Stop").click()
        await tab.finished("stopped")
        await other.question.press("Enter")
        await other.finished()


async def test_too_many_questions(browser: Browser, site: TestedSite, proxy: CuttingProxy) -> None:
    async with Tab.open(browser, proxy.port, person=await person(site, turns_per_hour=1)) as tab:
        await tab.page.goto("/")
        await tab.ask("One.", "fake-100t-10ms-error40")
        turn = await tab.finished("interrupted")
        assert "has 1 question an hour. Ask again in 60 minutes" in await refused(tab, "Two.")
        await tab.picture("refused-too-many")
        await tab.question.press("End")
        await tab.question.press("!")
        await expect(tab.refusal).to_be_hidden()
        await turn.get_by_role("button", name="Ask again").click()
        await expect(tab.refusal).to_be_visible()
        await expect(tab.question).to_have_value("Two.!")


async def test_too_long(browser: Browser, site: TestedSite, proxy: CuttingProxy) -> None:
    async with Tab.open(browser, proxy.port, person=await person(site, question_characters=100)) as tab:
        await tab.page.goto("/")
        await tab.page.locator("[data-text]").evaluate("field => field.removeAttribute('maxlength')")
        assert "longer than your plan allows" in await refused(tab, "x" * 101)


async def test_longer_than_the_model_can_read(browser: Browser, site: TestedSite, proxy: CuttingProxy) -> None:
    async with Tab.open(browser, proxy.port, person=await person(site, question_characters=500_000)) as tab:
        await tab.page.goto("/")
        assert "longer than this model can read" in await refused(tab, "x " * 90_000)


async def test_a_model_above_the_plan_can_be_seen_and_not_chosen(
    browser: Browser, site: TestedSite, proxy: CuttingProxy
) -> None:
    async with Tab.open(browser, proxy.port, person=await person(site, best_tier="demo")) as tab:
        await tab.page.goto("/")
        option = tab.page.locator(f"[data-model] option[value='{QUICK}']")
        await expect(option).to_be_disabled()
        await expect(option).to_contain_text("not in your plan")
        await option.evaluate("option => { option.disabled = false; }")
        assert "plan" in await refused(tab, "Mine!")
        await tab.picture("refused-model")


async def test_a_model_that_is_gone(tab: Tab) -> None:
    await tab.page.goto("/")
    option = tab.page.locator(f"[data-model] option[value='{QUICK}']")
    await option.evaluate("option => { option.value = 'gpt-2'; }")
    assert "not offered" in await refused(tab, "Who are you?", "gpt-2")


async def test_a_provider_that_fails_says_so_in_its_place(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.ask("Hello?", "status-503")
    turn = await tab.finished("failed")
    await expect(turn.locator(".turn-note-error")).to_contain_text("status-503: The provider")
    await expect(turn.locator(".turn-note-error")).to_contain_text("try another model")
    await expect(turn.get_by_role("button", name="Ask again")).to_be_visible()
    await tab.picture("failed")


async def test_what_failed_is_said_aloud_before_any_other_note(tab: Tab) -> None:
    def add_note(message: str | bytes) -> str | bytes:
        error = '<p class=\\"turn-note turn-note-error\\">'
        return str(message).replace(error, f'<p class=\\"turn-note\\">A note.</p>{error}')

    def relay(page_side: WebSocketRoute) -> None:
        page_side.connect_to_server().on_message(lambda message: page_side.send(add_note(message)))

    await tab.page.route_web_socket(re.compile("/ws/"), relay)
    await tab.page.goto("/")
    await tab.ask("Hello?", "status-503")
    await tab.finished("failed")
    await expect(tab.last.locator(".turn-note")).to_have_count(2)
    await expect(tab.page.locator("[data-announce]")).to_have_text(re.compile("overloaded.* A note."))


async def test_a_way_on_goes_with_its_refusal_and_leads_on(
    browser: Browser, site: TestedSite, proxy: CuttingProxy
) -> None:
    async with Tab.open(browser, proxy.port, person=await person(site, credits_per_month=1)) as tab:
        way = tab.page.get_by_role("link", name="See larger plans")
        await tab.page.goto("/")
        await expect(way).to_be_hidden()
        await refused(tab, "x" * 30_000)
        await expect(way).to_be_visible()
        await tab.question.press("Space")  # the person goes on
        await expect(way).to_be_hidden()
        await tab.question.press("Enter")
        await way.click()
        await tab.page.wait_for_url("**/pricing/")


async def test_what_is_somebody_elses_looks_as_if_it_were_not_there(tab: Tab, crowd: list[Person]) -> None:
    await tab.page.goto("/")
    await tab.ask("Mine.", QUICK)
    await tab.finished()
    assert tab.page.context.browser is not None
    async with Tab.open(tab.page.context.browser, int(tab.base.rsplit(":")[-1]), person=crowd.pop()) as other:
        for path in (tab.page.url, f"{tab.page.url}rename/", f"/turns/{await tab.turn_id()}/"):
            answer = await other.page.goto(path)
            assert answer is not None
            assert answer.status == 404
            await expect(other.page.locator("main")).to_contain_text("does not exist, or is not yours")


@pytest.mark.parametrize("path", ["/c/00000000-0000-7000-8000-000000000000/", "/nothing/here/"])
async def test_what_is_not_there(tab: Tab, path: str) -> None:
    answer = await tab.page.goto(path)
    assert answer is not None
    assert answer.status == 404
    await expect(tab.page.get_by_role("main").get_by_role("link").first).to_be_visible()
