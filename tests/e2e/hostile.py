"""Watches what answers are made of, in the page itself: at every change, while they stream."""

from collections.abc import Iterator
from random import Random
from typing import Any

from playwright.async_api import Page

from tests import hostile
from tests.e2e.browsing import Tab

OURS = {  # what scripts add to answers
    "div": ["class", "tabindex", "dir", "role", "aria-label"],
    "pre": ["tabindex", "role", "aria-label"],
    "button": [
        "class",
        "type",
        "data-copy-code",
        "data-download-code",
        "data-wrap-code",
        "data-source",
        "aria-pressed",
    ],
    "iframe": ["sandbox", "src", "title", "class", "width", "height"],
}
CLASSES = (
    f"{hostile.CLASSES}|answer-plain|image-off|code|code-head|code-language|code-button|table-scroll|answer-tail|prose"
    "|code-drawn|diagram"
)
RULES = {
    "tags": sorted(hostile.TAGS | {"div", "button", "iframe"}),
    "attributes": {
        tag: [*hostile.ATTRIBUTES.get(tag, ()), *OURS.get(tag, ())] for tag in hostile.ATTRIBUTES.keys() | OURS
    },
    "schemes": [":", *sorted(f"{scheme}:" for scheme in hostile.SCHEMES)],  # the first of no address at all
    "classes": f"^({CLASSES})$",
}
DEEPEST = 26  # 24 levels of the parser; code and rows of tables are two elements each

WATCH = """
(rules) => {
  const classes = new RegExp(rules.classes);
  const watch = (globalThis.watch = { found: new Set(), looks: 0 });
  watch.check = (root) => {
    for (const element of root.querySelectorAll("*")) {
      const tag = element.localName;
      if (!rules.tags.includes(tag)) watch.found.add(`<${tag}>`);
      if (tag === "button" && !element.matches("div.code-head > button.code-button")) watch.found.add("a button");
      if (tag === "iframe" && !element.matches("div.code > div.diagram > [src='/diagram/'][sandbox='allow-scripts']")) {
        watch.found.add("a frame");
      }
      if (element.href && !rules.schemes.includes(element.protocol)) watch.found.add(element.outerHTML);
      for (const { name } of element.attributes) {
        if (!rules.attributes[tag]?.includes(name)) watch.found.add(`<${tag} ${name}>`);
      }
      for (const name of element.classList) if (!classes.test(name)) watch.found.add(`<${tag} class=${name}>`);
    }
    if ("__ran" in window) watch.found.add("a script ran");
    return [...watch.found];
  };
  watch.depth = (root) => {
    let most = 0;
    for (const element of root.querySelectorAll("*")) {
      let depth = 0;
      for (let at = element; at !== root; at = at.parentNode) depth += 1;
      most = Math.max(most, depth);
    }
    return most;
  };
  watch.outline = () =>
    [...document.querySelectorAll("body *")]
      .filter((element) => !element.closest("[data-turns]"))
      .map((element) => {
        const attributes = element.getAttributeNames().filter((name) => name !== "hidden");
        return [element.localName, ...attributes.sort()].join(" ");
      });
  new MutationObserver(() => {
    for (const answer of document.querySelectorAll("[data-answer]")) watch.check(answer);
    if (document.querySelector("[data-answer][aria-busy]")?.textContent) watch.looks += 1;
  }).observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
}
"""
CHECK_ALL = "() => [...document.querySelectorAll('[data-answer]')].flatMap((answer) => watch.check(answer))"
WRITE = (
    """
async (texts) => {
  const { markdownWriter } = await import("markdown");
  const bad = {};
  for (const [name, chunks] of texts) {
    const answer = document.body.appendChild(document.createElement("div"));
    const writer = markdownWriter(answer);
    for (const chunk of chunks) writer.write(chunk);
    const found = watch.check(answer);
    const depth = watch.depth(answer);
    if (found.length || depth > %d) bad[name] = [depth, ...found];
    watch.found.clear();
    answer.remove();
  }
  return bad;
}
"""
    % DEEPEST
)


async def watch(tab: Tab) -> None:
    """Watch the page that is open now."""
    await tab.page.evaluate(WATCH, RULES)


async def assert_harmless(page: Page) -> None:
    """Check every answer on the page, and what was seen since `watch`."""
    assert await page.evaluate(CHECK_ALL) == []


async def written(tab: Tab, texts: list[tuple[str, list[str]]]) -> dict[str, Any]:
    """Write each text's chunks as a turn that is streaming would; return what is wrong, by name."""
    found: dict[str, Any] = await tab.page.evaluate(WRITE, texts)
    return found


def chunks_of(text: str, rng: Random, longest: int) -> list[str]:
    """Cut a text as a network might."""
    chunks = []
    while text:
        length = rng.randint(1, longest)
        chunks.append(text[:length])
        text = text[length:]
    return chunks


def batches(cases: dict[str, str], characters: int) -> Iterator[str]:
    """Yield questions that hold several cases each. What is never closed comes last: it swallows the rest."""
    question = ""
    for name in sorted(cases, key=lambda name: "nobody closed" in name):
        if question and len(question) + len(cases[name]) > characters:
            yield question
            question = ""
        question += f"{cases[name]}\n\n"
    yield question
