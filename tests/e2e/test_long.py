"""A long answer at the end of a long conversation: the page grows by the text, and by nothing else, and what is above
is not looked at again."""

import asyncio
import json
import os
import time
from typing import NamedTuple

import pytest
from playwright.async_api import Browser, CDPSession, expect

from testbed.provider import expected_text
from tests.e2e.browsing import Tab
from tests.processes.stores import TestedSite

SOAK = os.environ.get("SOAK") == "1"
TURNS = 5_000 if SOAK else 300
LONG = "fake-10000t-1ms"
TEXT_BYTES = 2 * len(expected_text(LONG))  # as UTF-16, at most
LONG_TASKS = """() => {
    window.longTasks = [];
    new PerformanceObserver((list) => {
        for (const task of list.getEntries()) window.longTasks.push(Math.round(task.duration));
    }).observe({ type: "longtask" });
}"""


class Memory(NamedTuple):
    heap_bytes: int
    nodes: int


async def measure(devtools: CDPSession) -> Memory:
    """Return what the page holds after a collection."""
    await devtools.send("HeapProfiler.collectGarbage")
    metrics = {row["name"]: row["value"] for row in (await devtools.send("Performance.getMetrics"))["metrics"]}
    return Memory(int(metrics["JSHeapUsedSize"]), int(metrics["Nodes"]))


def list_touched(trace: bytes) -> list[int]:
    """Return how many elements were styled or laid out in each step of the trace."""
    steps = [event.get("args", {}) for event in json.loads(trace)["traceEvents"]]
    styled = [step["elementCount"] for step in steps if "elementCount" in step]
    return styled + [step["beginData"]["dirtyObjects"] for step in steps if "dirtyObjects" in step.get("beginData", ())]


async def refuse_once(tab: Tab) -> None:
    """What cannot be brought now is told in the dialog; the link stays for another try."""
    missing = f"{tab.base}/turns/00000000-0000-7000-8000-000000000000/earlier/"
    await tab.page.route("**/earlier/", lambda route: route.continue_(url=missing), times=1)
    await tab.page.locator("[data-earlier]").click()
    close = tab.page.get_by_role("dialog", name="That does not exist").get_by_role("button", name="Close")
    await expect(close).to_be_focused()
    await close.click()


@pytest.mark.soak
@pytest.mark.timeout(1_800)
async def test_ten_thousand_tokens_after_three_hundred_turns(browser: Browser, tab: Tab, site: TestedSite) -> None:
    assert tab.person is not None
    conversation_id = await asyncio.to_thread(site.create_conversation, tab.person.access, TURNS)
    started = time.monotonic()
    await tab.page.goto(f"/c/{conversation_id}/", wait_until="commit")
    await expect(tab.turns.last).to_be_visible()
    shown_seconds, shown = time.monotonic() - started, await tab.turns.count()
    assert shown <= 50
    await tab.ask("Warm up.", "fake-20t-5ms")  # what the scripts need once
    await tab.finished()
    await tab.page.evaluate(LONG_TASKS)
    await tab.ask("Go on.", LONG if SOAK else "fake-20t-5ms")
    await tab.finished()
    as_opened: list[int] = await tab.page.evaluate("longTasks.splice(0)")
    await refuse_once(tab)
    while await (earlier := tab.page.locator("[data-earlier]")).count():
        known = await tab.turns.count()
        await earlier.click()
        await expect(tab.turns).not_to_have_count(known)
    await expect(tab.turns).to_have_count(TURNS + 2)
    await expect(tab.turns.first.locator("[data-copy-code]")).to_be_attached()
    devtools = await tab.context.new_cdp_session(tab.page)
    await devtools.send("Performance.enable")
    await tab.page.evaluate("longTasks.splice(0)")
    await tab.ask("Go on and on.", LONG)
    await tab.wait_for_text(len(expected_text(LONG)) // 8)
    early = await measure(devtools)
    await browser.start_tracing(page=tab.page, categories=["devtools.timeline"])
    await tab.wait_for_text(len(expected_text(LONG)) // 4)
    touched = list_touched(await browser.stop_tracing())
    await tab.wait_for_text(len(expected_text(LONG)) * 7 // 8)
    late = await measure(devtools)
    await tab.finished()
    ended = await measure(devtools)
    with_all: list[int] = await tab.page.evaluate("longTasks")
    print(
        f"{shown} of {TURNS:,} turns shown after {shown_seconds:.2f} s; the longest tasks while an answer came, in ms:"
    )
    print(f"as opened {sorted(as_opened)[-5:]}, with all turns on the page {sorted(with_all)[-5:]}")
    print(f"text {TEXT_BYTES:,} bytes; heap and nodes: early {early}, late {late}, ended {ended}")
    assert (await tab.saved())["answer"] == expected_text(LONG)
    assert max(touched) < TURNS, f"{len(touched)} steps touched up to {max(touched)} elements"
    assert late.heap_bytes - early.heap_bytes < 2 * TEXT_BYTES
    assert late.nodes - early.nodes < 20
    assert ended.heap_bytes - early.heap_bytes < 4 * TEXT_BYTES  # the server's HTML, and the old one not yet let go
    assert ended.nodes - early.nodes < 200  # its footer: buttons, and what it took
