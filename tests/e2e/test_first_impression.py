"""What a newcomer meets on a site where nobody has set a key: recorded examples, and the real Demo model."""

import asyncio
import re
import subprocess
from collections.abc import Iterator

import pytest
from playwright.async_api import Browser, expect

from chat.llm import recordings
from config.embedded.ports import any_free_port
from config.embedded.services import ServiceMissingError, demo_model
from testbed.site import wait_for_port
from tests.e2e.browsing import Person, Tab
from tests.e2e.test_pages import violations
from tests.processes.stores import TestedSite, run_site

LANGUAGES = {
    "es": ("Español", "Ejemplo grabado", "Créditos: 0"),
    "en": ("English", "Recorded example", "Credits: 0"),
    "pt-br": ("Português (Brasil)", "Exemplo gravado", "Créditos: 0"),
}
CODE, TABLE, MATHEMATICS = range(3)
RECORD = """
() => {
  globalThis.steps = []; // the mark of the last turn, each time its answer is longer
  let length = 0;
  const look = () => {
    const turn = document.querySelector("[data-turn]");
    const written = turn?.querySelector("[data-answer]").textContent.length ?? 0;
    if (written > length) steps.push(turn.querySelector(".turn-recorded")?.textContent ?? "");
    length = written;
  };
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
}
"""


@pytest.fixture(scope="module")
def keyless_site(browser: Browser) -> Iterator[TestedSite]:
    port = any_free_port()
    try:
        process = demo_model(port)
    except ServiceMissingError as error:
        pytest.skip(str(error))
    with subprocess.Popen(
        process.command, env=process.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as demo:
        try:
            demo_url = f"http://127.0.0.1:{port}/v1"
            nobody = {"OPENAI_COMPATIBLE_BASE_URL": "", "DEMO_MODEL_URL": demo_url, "FIRST_TOKEN_SECONDS": "120"}
            with run_site([], webs=1, runners=1, **nobody) as site:
                wait_for_port(port)
                yield site
        finally:
            demo.terminate()


async def test_a_newcomer_of_each_language_plays_an_example_and_asks_demo(
    browser: Browser, keyless_site: TestedSite
) -> None:
    operator, *others = keyless_site.create_operator(), *keyless_site.create_members(2)
    accesses = [operator, *others]
    people = [Person(*keys) for keys in zip(accesses, keyless_site.create_sessions(accesses), strict=True)]
    await asyncio.gather(
        *(
            meet(browser, keyless_site, person, language, example)
            for person, language, example in zip(people, LANGUAGES, (CODE, TABLE, MATHEMATICS), strict=True)
        )
    )


async def meet(browser: Browser, site: TestedSite, person: Person, language: str, example: int) -> None:
    name, label, cost = LANGUAGES[language]
    question = recordings.list_questions(language)[example]
    async with Tab.open(browser, site.port(), person=person, reduced_motion="reduce") as tab:
        page = tab.page
        await page.goto("/")
        await page.locator(".account-button").click()
        await page.get_by_role("button", name=name).click()
        await expect(page.locator("html")).to_have_attribute("lang", language)
        await page.locator("[data-composer][data-ready]").wait_for()
        card = page.locator(".key-card")
        if language == "es":  # the operator
            await expect(card).to_contain_text("OPENAI_API_KEY")
            await tab.picture("key-card")
            assert await violations(page) == []
            await card.get_by_role("button", name="No volver a mostrar").click()
            await page.locator("[data-composer][data-ready]").wait_for()
        await expect(card).to_have_count(0)

        await page.evaluate(RECORD)
        await page.get_by_role("button", name=question).click()
        await tab.picture(f"example-playing-{language}")
        turn = await tab.finished()
        labels = await page.evaluate("steps")
        assert len(labels) > 3  # it grew
        assert all(label in shown for shown in labels)
        await expect(turn.get_by_text(label)).to_be_visible()
        await tab.picture(f"example-{language}")
        await expect(turn.get_by_text(cost)).to_be_visible()
        await expect(turn.locator(("pre .k", "table", "math[display=block]")[example]).first).to_be_visible()
        saved = await tab.saved()
        assert (saved["question"], saved["answer"]) == (question, recordings.get_answer(question))
        streamed = await turn.locator("[data-answer]").inner_html()
        if language == "es":
            assert await violations(page) == []
        await page.reload()
        await expect(tab.last.get_by_text(label)).to_be_visible()
        await page.locator("[data-composer][data-ready]").wait_for()
        assert await tab.last.locator("[data-answer]").inner_html() == streamed

        await page.goto("/")  # a short prompt: the model has one thread, and the machine is busy
        await tab.ask("Hi!")
        await tab.wait_for_text(1)
        await page.keyboard.press("Escape")  # it may go on for long
        turn = tab.last
        await expect(turn).to_have_attribute("data-status", re.compile("stopped|completed"))
        await expect(turn.locator(".turn-facts")).to_contain_text("Demo")
        await tab.picture(f"demo-{language}")
        await expect(turn.get_by_text(cost)).to_be_visible()
        await expect(turn.get_by_text(label)).to_have_count(0)
        assert await tab.shown_answer()
        await expect(turn.locator("[data-again-with]")).to_be_hidden()  # nobody else is here
