"""Answers, questions and names that attack the page."""

import re
import time
from random import Random, randrange

import pytest
from playwright.async_api import Dialog, expect

from tests import hostile
from tests.e2e.browsing import Tab
from tests.e2e.hostile import assert_harmless, batches, chunks_of, watch, written

ECHO = "fake-900t-5ms-echo8"
ECHOED = 7_000  # characters; the model says no more than 7,200
BATCHES = [*batches({name: case for name, case in hostile.CASES.items() if len(case) < ECHOED / 3}, ECHOED)]
MIXES = 300
MAX_SECONDS = 3  # a multiple of what the slowest takes
TITLES = [
    "</script><script>window.__ran=1</script>{{7*7}} \"'",
    "\u202egnp.exe \u2067 [x](javascript:window.__ran=1) &lt;b&gt;",
]


async def fail_on_dialogs(tab: Tab) -> None:
    async def hear(dialog: Dialog) -> None:
        tab.complaints.append(f"a dialog: {dialog.message}")
        await dialog.dismiss()

    tab.page.on("dialog", hear)


@pytest.mark.parametrize("longest", [1, 9, 200, hostile.LONGEST])
async def test_each_hostile_answer_is_harmless_however_it_is_cut(tab: Tab, longest: int) -> None:
    seed = randrange(10**6)
    print("seed", seed)
    rng = Random(seed)
    await tab.page.goto("/")
    await watch(tab)
    most = longest * 5_000  # not 100,000 changes to one page
    assert await written(tab, [(n, chunks_of(case[:most], rng, longest)) for n, case in hostile.CASES.items()]) == {}


async def test_mixes_of_hostile_pieces_are_harmless(tab: Tab) -> None:
    seed = randrange(10**6)
    print("seed", seed)
    rng = Random(seed)
    pieces = hostile.spread(" ".join(case for case in hostile.CASES.values() if len(case) < 1_000))
    mixes = [rng.choice(["", " ", "\n"]).join(rng.choices(pieces, k=rng.randint(1, 80))) for _ in range(MIXES)]
    await tab.page.goto("/")
    await watch(tab)
    assert await written(tab, [(mix, chunks_of(mix, rng, rng.choice([3, 40, 2_000]))) for mix in mixes]) == {}


async def test_an_answer_of_the_greatest_length_hangs_nothing_whatever_it_is_made_of(tab: Tab) -> None:
    await tab.page.goto("/")
    await watch(tab)
    slow = {}
    for name, text in hostile.LONG.items():
        begun = time.monotonic()
        await tab.page.evaluate(
            """async (text) => {
              const { markdownWriter } = await import("markdown");
              markdownWriter(document.createElement("div")).write(text);
            }""",
            text,
        )
        seconds = time.monotonic() - begun
        if seconds > MAX_SECONDS:
            slow[name] = seconds
    assert slow == {}


@pytest.mark.parametrize("start", ["[x](", "![x](https://", "```"])
async def test_what_waits_too_long_for_its_end_is_shown_meanwhile(tab: Tab, start: str) -> None:
    await tab.page.goto("/")
    shown = await tab.page.evaluate(
        """async (chunks) => {
          const { markdownWriter } = await import("markdown");
          const answer = document.createElement("div");
          const writer = markdownWriter(answer);
          for (const chunk of chunks) writer.write(chunk);
          return answer.textContent;
        }""",
        [start, *["- 1"] * 2_000, "the end"],
    )
    assert "- 1" * 2_000 in shown
    assert shown.endswith("the end")


async def test_hostile_answers_are_harmless_while_they_stream_and_after(tab: Tab) -> None:
    await fail_on_dialogs(tab)
    await tab.page.goto("/")
    await tab.ask("Hello.", ECHO)
    await tab.finished()
    await tab.page.reload()
    await watch(tab)
    outline = await tab.page.evaluate("watch.outline()")
    for number, question in enumerate(BATCHES, 2):
        looks = await tab.page.evaluate("watch.looks")
        await tab.ask(question)
        await expect(tab.turns).to_have_count(number)
        await tab.finished()
        assert await tab.page.evaluate("watch.looks") >= looks + 2
        await assert_harmless(tab.page)
    assert await tab.page.evaluate("watch.outline()") == outline

    await tab.page.reload()
    await watch(tab)
    await expect(tab.turns).to_have_count(len(BATCHES) + 1)
    await assert_harmless(tab.page)
    await tab.ask("Still there?")
    await expect(tab.turns).to_have_count(len(BATCHES) + 2)
    await tab.finished()
    assert await tab.page.evaluate("watch.outline()") == outline
    await tab.page.get_by_role("link", name="New chat").first.click()
    await expect(tab.question).to_have_value("")


@pytest.mark.parametrize("title", TITLES, ids=["html", "marks"])
async def test_a_hostile_question_is_shown_as_it_was_asked(tab: Tab, title: str) -> None:
    await fail_on_dialogs(tab)
    await tab.page.goto("/")
    await tab.ask(title, ECHO)
    turn = await tab.finished()
    row = tab.page.locator("[data-conversation]")
    for _visit in range(2):
        await expect(turn.locator("[data-question]")).to_have_text(title)
        await expect(turn.locator("[data-question] *")).to_have_count(0)
        for place in (row.locator("a").first, tab.page.locator("[data-title]")):
            await expect(place).to_have_text(title)
            await expect(place).to_have_css("unicode-bidi", re.compile("isolate|plaintext"))
        assert title.split()[0] in await tab.page.title()
        await tab.page.reload()
    await row.locator("summary").click()
    await row.get_by_role("link", name="Rename").click()
    dialog = tab.page.get_by_role("dialog")
    await expect(dialog.get_by_role("textbox")).to_have_value(title)
    await tab.page.keyboard.press("Escape")
    await row.locator("summary").click()
    await row.get_by_role("link", name="Move to a folder").click()
    named = dialog.get_by_text(title)
    await expect(named).to_have_text(title)  # in an element of its own: what stands around it keeps its direction
    await expect(named).to_have_css("unicode-bidi", re.compile("isolate|plaintext"))
    await tab.page.goto("/conversations/")
    await expect(tab.page.locator("main [data-conversation] a").first).to_have_text(title)
    assert not await tab.page.evaluate("'__ran' in window")


@pytest.mark.parametrize("name", TITLES, ids=["html", "marks"])
async def test_a_hostile_name_is_a_name(tab: Tab, name: str) -> None:
    await fail_on_dialogs(tab)
    await tab.call("PATCH", "me", name=name)
    await tab.page.goto("/")
    await expect(tab.page.locator("[data-welcome]")).to_contain_text(name)
    await tab.page.goto("/settings/")
    await expect(tab.page.get_by_label("Name")).to_have_value(name)
    assert not await tab.page.evaluate("'__ran' in window")
