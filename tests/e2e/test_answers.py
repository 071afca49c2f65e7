"""Answers as models write them, in a browser: what streams is what is saved, and everybody can read it."""

import os
import re
from os.path import commonprefix
from random import Random, randrange

import pytest
from playwright.async_api import Route, expect

from tests.answers import LATE, PIECES, draw_answers
from tests.e2e.browsing import ANSWER_MS, Tab
from tests.e2e.test_pages import violations

ECHO = "fake-900t-5ms-echo8"
SLOW_ECHO = "fake-900t-60ms-echo8"
ECHOED = 7_000  # characters; the model says no more than 7,200
SOAK = os.environ.get("SOAK") == "1"
SHORT = 8  # answers without SOAK

BARE = """
(node) => { // an element as HTML, without the diagrams: they are drawn beside their source, when they are in sight
  const bare = node.cloneNode(true);
  for (const drawn of bare.querySelectorAll(".diagram, [data-source]")) drawn.remove();
  for (const box of bare.querySelectorAll(".code-drawn")) box.classList.remove("code-drawn");
  return bare;
}
"""
RECORD = f"""
() => {{
  const bare = {BARE};
  globalThis.steps = []; // the blocks of the last answer, at each change of it
  globalThis.blocks = 0; // how many there were at the last one
  const look = () => {{
    const tail = [...document.querySelectorAll("[data-answer]")].at(-1)?.querySelector(":scope > .answer-tail");
    if (!tail) return;
    let html = "";
    for (const node of tail.parentNode.childNodes) {{
      if (node !== tail) html += node.outerHTML ? bare(node).outerHTML : node.data;
    }}
    if (html && html !== steps.at(-1)) steps.push(html);
    blocks = tail.parentNode.childElementCount - 1;
  }};
  new MutationObserver(look).observe(document, {{ subtree: true, childList: true }});
}}
"""
ANSWER = f"() => ({BARE})([...document.querySelectorAll('[data-answer]')].at(-1)).innerHTML"


def packed(answers: list[str]) -> list[str]:
    """Put answers together as far as one echo can say them; those that change what is before them stay alone."""
    questions: list[str] = []
    for answer in answers:
        is_alone = any(mark in answer for mark in LATE) or answer.endswith(tuple(PIECES[-2:]))
        if questions and not is_alone and len(questions[-1]) + len(answer) < ECHOED:
            questions[-1] += f"\n\n{answer}"
        else:
            questions.append(answer)
    return questions


async def shown_and_saved(tab: Tab, text: str) -> int:
    """Ask for an answer, and compare what it showed at every block's end with what is saved; return how many
    blocks that were."""
    await tab.page.evaluate("steps.length = blocks = 0")
    await tab.ask(text, ECHO)
    await tab.finished()
    steps, blocks = await tab.page.evaluate("[steps, blocks]")
    ended: str = await tab.page.evaluate(ANSWER)
    if not any(mark in text for mark in LATE):
        for step in steps:
            alike = len(commonprefix([step, ended]))
            assert alike == len(step), (step[alike - 200 : alike + 200], ended[alike : alike + 200], text)
    return int(blocks)


@pytest.mark.soak
@pytest.mark.timeout(1_800)
async def test_what_streams_is_what_is_saved(tab: Tab) -> None:
    seed = randrange(10**6)
    print("seed", seed)
    answers = draw_answers() if SOAK else Random(seed).sample(draw_answers()[len(PIECES) :], SHORT)
    compared = 0
    for text in packed(answers):
        await tab.page.goto("/")
        await tab.page.evaluate(RECORD)
        compared += await shown_and_saved(tab, text)
        ended = await tab.page.evaluate(ANSWER)
        await tab.page.reload()
        assert await tab.page.evaluate(ANSWER) == ended
    assert compared > len(answers)


async def test_a_note_that_is_defined_later_changes_what_refers_to_it_at_once(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.page.evaluate(RECORD)
    text = "Uno[^1].\n\n" + "Dos y tres. " * 20 + "\n\n[^1]: Fuente.\n\n" + "\n\n".join(PIECES[:6])
    await tab.ask(text, SLOW_ECHO)
    turn = await tab.finished()
    steps: list[str] = await tab.page.evaluate("steps")
    assert "[^1]" in steps[0]
    assert (await tab.page.evaluate(ANSWER)).startswith(steps[-1])
    reference = turn.get_by_role("link", name="1", exact=True)
    assert (
        await reference.evaluate("(link) => document.getElementById(link.hash.slice(1))?.textContent.trim()")
        == "1Fuente."
    )
    assert await reference.get_attribute("target") is None


async def test_an_answer_that_is_stopped_keeps_its_blocks(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.page.evaluate(RECORD)
    await tab.ask("\n\n".join(PIECES[:12]) * 3, SLOW_ECHO)
    await tab.page.wait_for_function("() => steps.length > 3")
    await tab.page.keyboard.press("Escape")
    await tab.finished("stopped")
    steps = await tab.page.evaluate("steps")
    ended = await tab.page.evaluate(ANSWER)
    assert ended.startswith(steps[-1])
    await tab.page.reload()
    assert await tab.page.evaluate(ANSWER) == ended


async def test_a_page_that_is_reloaded_while_an_answer_is_written_shows_the_same(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.page.evaluate(RECORD)
    await tab.ask("\n\n".join(PIECES[:12]) * 3, SLOW_ECHO)
    await tab.page.wait_for_function("() => steps.length > 3")
    before = (await tab.page.evaluate("steps"))[-1]
    await tab.page.reload()
    await tab.page.evaluate(RECORD)
    await tab.page.wait_for_function("before => steps.at(-1)?.startsWith(before)", arg=before, timeout=ANSWER_MS)
    await tab.page.keyboard.press("Escape")
    await tab.finished("stopped")
    assert (await tab.page.evaluate(ANSWER)).startswith((await tab.page.evaluate("steps"))[-1])


async def test_everybody_can_read_a_rich_answer(tab: Tab) -> None:
    await tab.page.goto("/")
    text = "\n\n".join(PIECES[:-2])
    half = len(text) // 2
    for part in (text[:half], text[half:]):
        await tab.ask(part[:ECHOED], ECHO)
        await tab.finished()
    await tab.picture("rich-answer")
    assert await violations(tab.page) == []


async def test_code_can_be_wrapped_downloaded_and_reached(tab: Tab) -> None:
    await tab.page.goto("/")
    lines = "\n".join(f"x = {number}" for number in range(400))
    await tab.ask(f"```python\n{lines}\n{'a' * 300}\n```\n\nFin.", ECHO)
    turn = await tab.finished()
    pre, wrap = turn.locator("pre"), turn.get_by_role("button", name="Wrap")
    await tab.page.evaluate("scrollTo(0, document.querySelector('pre').offsetTop + 3000)")
    await expect(wrap).to_be_in_viewport()
    await tab.picture("long-code")
    assert await pre.evaluate("(pre) => pre.scrollWidth > pre.clientWidth")
    await wrap.click()
    await expect(wrap).to_have_attribute("aria-pressed", "true")
    assert await pre.evaluate("(pre) => pre.scrollWidth <= pre.clientWidth")
    async with tab.page.expect_download() as download:
        await turn.get_by_role("button", name="Download").click()
    found = await download.value
    assert found.suggested_filename == "code.py"
    assert (await found.path()).read_text().startswith("x = 0\nx = 1\n")


DRAWN = """graph TD
  A[Uno] --> B{Dos}
  B -->|sí| C["Tres"]
"""
HOSTILE = """%%{init: {"securityLevel": "loose", "themeCSS": "*{background:url(https://evil.example/a)}"}}%%
graph TD
  A["<img src=https://evil.example/x onerror=parent.__ran=1>"] --> B[Fin] --> C[Enlace]
  click A href "javascript:parent.__ran=1"
  click B call alert(1)
  click C href "https://evil.example/y"
"""


def fenced(diagram: str) -> str:
    return f"```mermaid\n{diagram}```\n\n"


async def test_diagrams_are_drawn_beside_their_source(tab: Tab) -> None:
    await tab.page.goto("/")
    assert not [address for address in tab.requests if "mermaid" in address or "diagram" in address]
    text = fenced(DRAWN) + "\n\n".join(PIECES[:40])  # goes on after it
    await tab.ask(text[:ECHOED], SLOW_ECHO)
    code = tab.last.locator(".code").first
    await expect(code.locator("iframe")).to_be_visible()
    assert await tab.last.get_attribute("data-status") != "completed"  # it is still being written
    await tab.page.keyboard.press("Escape")
    await tab.finished("stopped")
    await tab.page.reload()
    await code.scroll_into_view_if_needed()
    frame = code.frame_locator("iframe")
    await expect(frame.get_by_text("Tres")).to_be_visible()
    await tab.picture("diagram")
    paint = "(svg) => getComputedStyle(svg.querySelector('.label')).color"
    light = await frame.locator("svg").evaluate(paint)
    await tab.page.emulate_media(color_scheme="dark")
    await expect(frame.locator("html")).to_have_attribute("data-theme", "dark")
    await expect(frame.get_by_text("Tres")).to_be_visible()
    assert await frame.locator("svg").evaluate(paint) != light
    await code.get_by_role("button", name="Source").click()
    await expect(code.locator("pre")).to_have_text(DRAWN)
    await expect(code.locator("iframe")).to_be_hidden()
    async with tab.page.expect_download() as download:
        await code.get_by_role("button", name="Download").click()
    assert (await download.value).suggested_filename == "code.mmd"
    assert await violations(tab.page) == []


async def test_of_many_diagrams_only_those_in_sight_keep_a_frame(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.ask("".join(fenced(f"graph TD\n  A[N{n}] --> B --> C --> D\n") for n in range(12)), ECHO)
    turn = await tab.finished()
    for n in (*range(12), 0):
        code = turn.locator(".code").nth(n)
        await code.scroll_into_view_if_needed()
        await expect(code.frame_locator("iframe").get_by_text(f"N{n}", exact=True)).to_be_visible()
        assert await turn.locator("iframe").count() <= 10


async def test_a_diagram_that_is_wrong_or_hostile_does_nothing(tab: Tab) -> None:
    reached: list[str] = []

    async def hear(route: Route) -> None:
        reached.append(route.request.url)
        await route.abort()

    await tab.page.route("https://evil.example/**", hear)
    await tab.page.goto("/")
    packet = 'packet-beta\n  0-99999999: "x"\n'
    await tab.ask(fenced("graph TD\n  A[Uno --> B{Dos\n") + fenced(packet) + fenced(HOSTILE), ECHO)
    turn = await tab.finished()
    frame = turn.locator(".code").last.frame_locator("iframe")
    await expect(frame.get_by_text("Fin", exact=True)).to_be_visible()
    for index in (0, 1):
        await expect(turn.locator(".code").nth(index).locator("iframe")).to_have_count(0)
        await expect(turn.locator("pre").nth(index)).to_be_visible()
    element = turn.locator("iframe").last
    assert await element.get_attribute("sandbox") == "allow-scripts"
    assert await frame.locator("body").evaluate("() => self.origin") == "null"
    assert await frame.locator("[onerror], script:not(head script), a[href^='javascript' i]").count() == 0
    await frame.get_by_text("Fin", exact=True).click()
    await frame.get_by_text("Enlace", exact=True).click()
    assert len(tab.page.frames) == 2
    assert tab.page.frames[1].url.endswith("/diagram/")
    await expect(frame.get_by_text("Fin", exact=True)).to_be_visible()
    assert not await tab.page.evaluate("'__ran' in window")
    assert reached == []
    await tab.page.goto("about:blank")
    tab.complaints.clear()  # of the frame's policy, which is the second wall
    tab.requests.clear()


async def test_a_formula_writes_nowhere_but_in_its_answer(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.ask(r"Up $\raisebox{6em}{\text{A}}$, down $\raisebox{-6em}{\text{B}}$, right $\hspace{9999em}C$.", ECHO)
    turn = await tab.finished()
    is_seen = """(sign) => {
      const { left, top } = sign.getBoundingClientRect();
      return document.elementFromPoint(left + 3, top + 9) === sign;
    }"""
    signs = turn.locator("mtext")
    await expect(signs).to_have_count(2)
    assert [await sign.evaluate(is_seen) for sign in await signs.all()] == [False, False]
    assert await tab.page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")


async def test_formulas_are_copied_as_they_were_written(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.ask(r"Sea $x^2$ y **eso**." "\n\n" r"\[ \frac{a}{b} \]", ECHO)
    turn = await tab.finished()
    copied = await turn.locator("[data-answer]").evaluate(
        """(answer) => {
          getSelection().selectAllChildren(answer);
          const data = new DataTransfer();
          answer.dispatchEvent(new ClipboardEvent("copy", { clipboardData: data, bubbles: true }));
          return data.getData("text/plain");
        }"""
    )
    assert re.sub(r"\s+", " ", copied).strip() == r"Sea $x^2$ y eso. $$\frac{a}{b}$$"
