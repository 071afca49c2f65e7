"""What comes without being asked for: a title a model made, in every open tab; and the answer of the last time."""

import re
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from testbed.provider import expected_text
from tests.e2e.browsing import OPEN, Person, Tab
from tests.e2e.test_pages import violations
from tests.processes.stores import TestedSite, run_site

MODEL = "fake-60t-5ms"
MAKER = "fake-3t-0ms-f3000"  # as cheap, and the first by its name; late enough for another tab to be opened
TITLE = "t0 t1 t2"
QUESTION = "¿Por qué es azul el cielo?"


@pytest.fixture(scope="module")
def titled_site(browser: Browser) -> Iterator[TestedSite]:
    """A site as an operator gets it: titles and answer cache switched on."""
    with run_site([MODEL, MAKER], webs=1, runners=1, MODEL_TITLES="true", CACHE_TTL="600") as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def own_tab(browser: Browser, titled_site: TestedSite) -> AsyncIterator[Tab]:
    (access,) = titled_site.create_members(1, plan=OPEN)
    person = Person(access, *titled_site.create_sessions([access]))
    async with Tab.open(browser, titled_site.port(), person=person, reduced_motion="reduce") as tab:
        yield tab


async def expect_title(page: Page, title: str) -> None:
    await expect(page.locator("[data-conversation] a.conversation-link").first).to_have_text(title)
    await expect(page.locator("[data-title]")).to_have_text(title)
    await expect(page).to_have_title(re.compile(re.escape(title)))


async def test_the_title_changes_while_one_looks_on(own_tab: Tab) -> None:
    await own_tab.page.goto("/")
    await own_tab.ask(QUESTION, MODEL)
    await own_tab.finished()
    await expect_title(own_tab.page, QUESTION)
    other = await own_tab.another()
    await other.page.goto(own_tab.page.url)
    options = own_tab.page.locator("[data-conversation] summary").first
    await options.focus()
    for page in (own_tab.page, other.page):
        await expect_title(page, TITLE)
    await expect(own_tab.page.locator("[data-conversation] summary").first).to_be_focused()
    await own_tab.page.reload()
    await expect_title(own_tab.page, TITLE)


async def test_an_answer_from_the_cache_says_so_and_can_be_asked_for_anew(
    own_tab: Tab, titled_site: TestedSite
) -> None:
    def asked() -> int:
        return [request["model"] for request in titled_site.provider.requests].count(MODEL)

    before = asked()
    for _ in range(2):
        await own_tab.page.goto("/")
        await own_tab.ask(QUESTION, MODEL)
        turn = await own_tab.finished()
    await expect(turn.get_by_text("From cache")).to_be_visible()
    await own_tab.picture("from-cache")
    await expect(turn.get_by_text("Credits: 0")).to_be_visible()
    assert (await own_tab.saved())["answer"] == expected_text(MODEL)
    assert asked() == before + 1
    assert await violations(own_tab.page) == []
    old = await own_tab.turn_id()
    await turn.get_by_role("button", name="Ask again").click()
    await expect(own_tab.page.locator(f"[data-turn='{old}']")).to_have_count(0)
    turn = await own_tab.finished()
    await expect(turn.get_by_text("From cache")).to_have_count(0)
    assert asked() == before + 2
