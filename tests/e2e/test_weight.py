"""What the chat weighs in a browser: bytes, requests and elements; and what comes only when it is needed."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Route, expect

from config.embedded.ports import any_free_port
from testbed.site import ROOT, wait_for_port
from tests.e2e.browsing import Person, Tab
from tests.processes.stores import TestedSite

MAX_FIRST_BYTES, MAX_FIRST_REQUESTS = 100_000, 20
MAX_NEXT_BYTES = 15_000
MAX_ELEMENTS = 600
MAX_TURN_ELEMENTS = 90
MANY = 45  # conversations: more than the sidebar begins with

ECHO = "fake-900t-5ms-echo8"
RICH = """## Adding

Here is a **function** that adds two numbers, for `int`:

```python
def add(a: int, b: int) -> int:
    return a + b


print(add(2, 3))
```

- It takes integers
- It is *pure*

| a | b | sum |
|---|--:|----:|
| 1 | 2 | 3 |
| 4 | 5 | 9 |

See [the manual](https://docs.example.org/).
"""


@dataclass
class Traffic:
    """What a page costs the network: what came out of the browser's cache is not in it."""

    addresses: dict[str, str] = field(default_factory=dict)
    bytes_by_request: dict[str, float] = field(default_factory=dict)
    sockets: int = 0

    @classmethod
    async def of_visit(cls, page: Page, path: str = "/") -> "Traffic":
        """Open the page, and return its traffic until nothing more comes."""
        found = cls()
        session = await page.context.new_cdp_session(page)
        session.on("Network.requestWillBeSent", found._begin)
        session.on("Network.requestServedFromCache", lambda event: found.addresses.pop(event["requestId"], None))
        session.on("Network.responseReceived", found._answer)
        session.on("Network.loadingFinished", found._finish)
        session.on("Network.webSocketCreated", lambda _event: found._open_socket())
        await session.send("Network.enable")
        await page.goto(path, wait_until="networkidle")
        await page.locator("[data-composer][data-ready]").wait_for()
        await session.detach()
        return found

    @property
    def bytes(self) -> float:
        return sum(self.bytes_by_request.get(request, 0) for request in self.addresses)

    def _begin(self, event: dict[str, Any]) -> None:
        self.addresses[event["requestId"]] = event["request"]["url"]

    def _answer(self, event: dict[str, Any]) -> None:
        if event["response"].get("fromDiskCache"):
            self.addresses.pop(event["requestId"], None)

    def _finish(self, event: dict[str, Any]) -> None:
        self.bytes_by_request[event["requestId"]] = event["encodedDataLength"]  # with its headers

    def _open_socket(self) -> None:
        self.sockets += 1


@pytest.fixture(scope="module")
def reader(site: TestedSite, crowd: list[Person]) -> Person:
    person = crowd.pop()
    for _ in range(MANY):
        site.create_conversation(person.access, 1)
    return person


@pytest.fixture(scope="module")
def debugging_port(site: TestedSite) -> Iterator[int]:
    """One more web process of the site, as `make run` has it."""
    port = any_free_port()
    command = [sys.executable, "manage.py", "run_web", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, env=site.environment | {"DEBUG": "true"}) as process:
        wait_for_port(port)
        yield port
        process.terminate()


@pytest.mark.parametrize("debug", [False, True])
async def test_an_empty_chat_is_light(
    browser: Browser, site: TestedSite, reader: Person, request: pytest.FixtureRequest, debug: bool
) -> None:
    port = request.getfixturevalue("debugging_port") if debug else site.port()
    async with Tab.open(browser, port, person=reader, viewport={"width": 1440, "height": 900}) as tab:
        headers: dict[str, dict[str, str]] = {}
        tab.page.on("response", lambda response: headers.update({response.url: response.headers}))
        first = await Traffic.of_visit(tab.page)
        elements = await tab.page.locator("*").count()
        following = await Traffic.of_visit((await tab.another()).page)
    print(
        f"first {first.bytes:.0f} bytes, {len(first.addresses)} requests; next {following.bytes:.0f} bytes, "
        f"{len(following.addresses)} request; {elements} elements"
    )
    assert len(first.addresses) <= MAX_FIRST_REQUESTS, first.addresses
    assert first.bytes <= MAX_FIRST_BYTES
    assert list(following.addresses.values()) == [f"http://localhost:{port}/"]
    assert following.bytes <= MAX_NEXT_BYTES
    assert (first.sockets, following.sockets) == (1, 1)
    assert elements <= MAX_ELEMENTS
    for url, sent in headers.items():
        assert sent.get("content-encoding") == "gzip", url
        assert ("immutable" in sent["cache-control"]) == ("/static/" in url), url


async def test_a_rich_turn_has_few_elements(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.ask(RICH, ECHO)
    turn = await tab.finished()
    await expect(turn.locator("table td")).to_have_count(6)
    await expect(turn.locator(".code .k")).not_to_have_count(0)
    elements = 1 + await turn.locator("*").count()
    print(f"{elements} elements")
    assert elements <= MAX_TURN_ELEMENTS


# --- What comes when it is needed -------------------------------------------------------------------------------------


async def test_more_conversations_come_at_the_end_of_the_list(
    browser: Browser, site: TestedSite, reader: Person
) -> None:
    size = {"viewport": {"width": 1440, "height": 700}}
    async with Tab.open(browser, site.port(), person=reader, **size) as tab:
        await tab.page.goto("/")
        rows = tab.page.locator("[data-conversations] [data-conversation]")
        await expect(rows).to_have_count(20)
        await tab.page.get_by_role("link", name="Older conversations").scroll_into_view_if_needed()
        await expect(rows).to_have_count(MANY)
        ids = await rows.evaluate_all("all => all.map((row) => row.dataset.conversation)")
        assert len(set(ids)) == MANY
        assert ids == sorted(ids, reverse=True)  # the last used first
        await expect(tab.page.locator("[data-conversations] section:not([hidden]) h2")).to_have_text(["Today"])
        await rows.last.locator("summary").click()
        await rows.last.get_by_role("link", name="Rename").click()
        await expect(tab.page.get_by_role("dialog")).to_be_visible()


async def test_a_picker_whose_models_did_not_come_says_so_and_asks_again(tab: Tab) -> None:
    async def refuse(route: Route) -> None:
        await route.abort()

    await tab.page.goto("/")
    await tab.page.locator("[data-composer][data-ready]").wait_for()
    await tab.page.route("**/picker/", refuse)
    button = tab.page.get_by_role("button", name="Model:")
    picker = tab.page.get_by_role("dialog", name="Choose a model")
    await button.click()
    await expect(picker.get_by_role("status")).to_contain_text("The models could not be loaded")
    await tab.page.keyboard.press("Escape")
    await tab.page.unroute("**/picker/")
    await button.click()
    await expect(picker.get_by_role("option", selected=True)).to_contain_text("Automatic")
    await expect(picker.get_by_role("status")).to_be_empty()


async def test_an_answer_is_shown_without_its_parser(tab: Tab) -> None:
    async def refuse(route: Route) -> None:
        await route.abort()

    await tab.page.route("**/markdown.*.js", refuse)
    await tab.page.goto("/")
    await tab.ask("Hello", "fake-3000t-50ms")
    await tab.wait_for_text(100)
    await tab.page.get_by_role("button", name="Stop").click()
    await tab.finished("stopped")
