"""What a question will cost and what it took, in a browser, on a site whose models cost something."""

import re
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.e2e.browsing import OPEN, Person, Tab
from tests.e2e.test_pages import violations
from tests.processes.stores import TestedSite, run_site

QUICK, THINKS = "fake-20t-5ms", "fake-60t-20ms-r20"
PRICES = {"OPENAI_COMPATIBLE_INPUT_PRICE": "100", "OPENAI_COMPATIBLE_OUTPUT_PRICE": "500"}  # dollars a million tokens


@pytest.fixture(scope="module")
def dear_site(browser: Browser) -> Iterator[TestedSite]:
    with run_site([QUICK, THINKS], webs=1, runners=1, **PRICES) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def payer(browser: Browser, dear_site: TestedSite) -> AsyncIterator[Tab]:
    [access] = dear_site.create_members(1, plan=OPEN)
    [session] = dear_site.create_sessions([access])
    async with Tab.open(browser, dear_site.port(), person=Person(access, session), reduced_motion="reduce") as tab:
        yield tab


async def choose(page: Page, model: str) -> None:
    await page.locator("[data-model]").select_option(model)


async def test_what_a_question_will_cost_is_said_before_it_is_sent(payer: Tab) -> None:
    page = payer.page
    await page.goto("/")
    await page.locator("[data-composer][data-ready]").wait_for()
    estimate = page.locator("[data-estimate]")
    await choose(page, QUICK)
    await expect(estimate).to_be_hidden()
    asked = [address for address in payer.requests if "/static/" not in address]
    await payer.question.fill("¿Qué tal?")
    # 500 tokens of a typical answer at 500 micros, and some 40 of a prompt at 100: 254 credits, said with two figures.
    await expect(estimate).to_have_text(re.compile(r"Estimate:\s+≈ 250 credits"))
    await payer.question.fill("x" * 8_000)  # 2,000 tokens more: 200 credits
    await expect(estimate).to_contain_text("≈ 450 credits")
    assert [address for address in payer.requests if "/static/" not in address] == asked, "nothing is asked"
    await choose(page, "")
    await expect(estimate).to_contain_text("≈ 450 credits")  # both are of a tier: Auto takes the cheapest
    await choose(page, QUICK)
    await expect(estimate).to_be_visible()
    assert await violations(page) == []
    note = {"name": "a.txt", "mimeType": "text/plain", "buffer": b"x" * 300_000}
    await page.locator("[data-attach-input]").set_input_files([note])
    await expect(estimate).to_contain_text("≈ 450 credits, plus the files")
    await payer.picture("estimate")
    await page.locator("[data-attached] [data-remove]").click()
    await expect(estimate).not_to_contain_text("files")
    await page.set_viewport_size({"width": 320, "height": 640})
    assert await page.evaluate("document.documentElement.scrollWidth") <= 320
    said, model = await estimate.bounding_box(), await page.get_by_role("button", name="Model:").bounding_box()
    assert said
    assert model
    assert said["y"] + said["height"] <= model["y"], "It takes nothing of the model's room."
    await payer.question.fill("")
    await expect(estimate).to_be_hidden()


async def test_the_estimate_has_words_for_a_range_for_a_trace_and_for_nothing(
    payer: Tab, dear_site: TestedSite
) -> None:
    free = {"input_price": 0, "output_price": 0}
    estimate = payer.page.locator("[data-estimate-text]")
    for change, key, words in (
        ({"tier": "strong", "output_price": 1_000_000_000}, "", "≈ 250 to 500 credits"),
        ({"input_price": 10_000, "output_price": 50_000}, THINKS, "Less than 0.1 credits"),
        (free, THINKS, "Free of charge"),
        ({}, "", "≈ 0 to 250 credits"),
    ):
        dear_site.offer({"key": THINKS, **change})
        await payer.page.wait_for_timeout(1_100)  # until the other process has it
        await payer.page.goto("/")
        await payer.page.locator("[data-composer][data-ready]").wait_for()
        await choose(payer.page, key)
        await payer.question.fill("¿Qué tal?")
        await expect(estimate).to_have_text(words)
    prices = {"input_price": 100_000_000, "output_price": 500_000_000}
    dear_site.offer({"key": THINKS, "tier": "cheap", **prices})


async def test_a_question_that_is_too_dear_is_asked_of_the_model_that_the_refusal_names(
    browser: Browser, dear_site: TestedSite
) -> None:
    dear_site.offer({"key": THINKS, "input_price": 10_000, "output_price": 50_000})
    [access] = dear_site.create_members(1, plan={**OPEN, "credits_per_month": 20})
    [session] = dear_site.create_sessions([access])
    async with Tab.open(browser, dear_site.port(), person=Person(access, session)) as tab:
        await tab.page.goto("/")
        await tab.ask("What is dear?", QUICK)
        await expect(tab.refusal).to_contain_text("cover this question")
        await tab.picture("refused-dear")
        ways = tab.page.locator("[data-ways]")
        for name, address in (("See larger plans", "/pricing/"), ("Your credits and packs", "/billing/")):
            await expect(ways.get_by_role("link", name=name)).to_have_attribute("href", address)
        assert await violations(tab.page) == []
        await ways.get_by_role("button", name=re.compile(f"Ask {THINKS} instead: at most .* credits")).click()
        await tab.finished()
        await expect(tab.turns).to_have_count(1)
        await expect(ways).to_be_empty()
        await expect(tab.refusal).to_be_hidden()
        assert (await tab.saved())["model"] == THINKS
        assert await tab.page.locator("[data-model]").input_value() == THINKS
        await expect(tab.question).to_have_value("")
    dear_site.offer({"key": THINKS, "input_price": 100_000_000, "output_price": 500_000_000})


async def test_the_estimate_learns_from_the_conversation_and_is_about_right(payer: Tab) -> None:
    await payer.page.goto("/")
    await payer.ask("Hello", QUICK)
    await payer.finished()
    await payer.question.fill("And once more?")
    said = payer.page.locator("[data-estimate-text]")
    await expect(said).to_have_text(re.compile(r"≈ \d\d credits"))  # no more the hundreds of before there was an answer
    estimate = int("".join(filter(str.isdigit, await said.inner_text())))
    await payer.ask("And once more?", QUICK)
    await payer.finished()
    cost = (await payer.saved())["cost_micros"] / 1_000
    assert cost / 1.5 < estimate < cost * 1.5, (estimate, cost)


async def test_what_it_took_opens_by_keyboard_and_says_what_is_saved(payer: Tab) -> None:
    await payer.page.goto("/")
    await payer.ask("Hello", THINKS)
    turn = await payer.finished()
    took = turn.locator(".turn-costs")
    await expect(took).to_be_hidden()
    await turn.locator(".turn-foot summary").focus()
    await payer.page.keyboard.press("Enter")
    await expect(took).to_be_visible()
    await payer.picture("costs")
    saved = await payer.saved()
    text = await took.inner_text()
    figures = dict(zip(*[iter(re.split(r"\n+", text.strip()))] * 2, strict=True))
    assert int(figures["Tokens read"].replace(",", "")) == saved["usage"]["input"]
    assert int(figures["Tokens written"]) == saved["usage"]["output"] == 80
    assert int(figures["Of these, for thinking"]) == saved["usage"]["reasoning"] == 20
    assert float(figures["Credits"].replace(",", "")) == saved["cost_micros"] / 1_000
    assert float(figures["Seconds to the first word"]) == round(saved["first_token_ms"] / 1_000, 1)
    assert 5 < int(figures["Tokens a second"]) < 500
    assert await violations(payer.page) == []
    for width in (320, 1440):
        await payer.page.set_viewport_size({"width": width, "height": 800})
        assert await payer.page.evaluate("document.documentElement.scrollWidth") <= width
