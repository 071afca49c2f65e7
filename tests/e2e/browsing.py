"""A person at a browser: opens pages, asks, and reads. Whatever the browser complains about fails the test."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, expect

OPEN = {"turns_per_hour": None, "turns_at_once": None, "credits_per_month": None, "answer_tokens": 20_000}
CLOSE_SECONDS = 30
PICTURES = os.environ.get("PICTURES")
"""A folder for pictures of what the tests see, to be looked at."""
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
ANSWER_MS = 60_000  # a busy machine is slow, and that is no failure
HARMLESS = (
    "WebSocket connection to",  # cut on purpose
    "Failed to load resource",  # a refusal's status
    "net::ERR_",
)
COMPLAINTS = """
addEventListener("securitypolicyviolation", (event) => console.error("CSP", event.violatedDirective, event.blockedURI));
"""


async def picture(page: Page, name: str) -> None:
    """Keep pictures of what is seen, at three widths and in both themes, where somebody wants to look at them."""
    if not PICTURES:
        return
    size, theme = page.viewport_size, await page.locator("html").get_attribute("data-theme")
    paint = "theme => { document.documentElement.dataset.theme = theme }"
    for width in (360, 768, 1440):
        await page.set_viewport_size({"width": width, "height": 800})
        for seen in THEMES:
            await (page.emulate_media(color_scheme=seen) if theme is None else page.evaluate(paint, seen))
            await page.screenshot(path=f"{PICTURES}/{name}-{width}-{seen}.png", caret="initial", animations="disabled")
    await (page.emulate_media(color_scheme="light") if theme is None else page.evaluate(paint, theme))
    if size:
        await page.set_viewport_size(size)


@dataclass
class Person:
    """A member: an access token for the API, a session for the browser."""

    access: str
    session: str


@dataclass
class Tab:
    page: Page
    context: BrowserContext
    base: str
    person: Person | None
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, browser: Browser, port: int, *, person: Person | None = None, pays: bool = False, **options: Any
    ) -> "AsyncIterator[Tab]":
        """A tab with cookies of its own. `options` are those of Playwright's contexts. Who pays goes to the pages of
        the simulated gateways, too."""
        base = f"http://localhost:{port}"
        context = await browser.new_context(
            base_url=base, **{"locale": "en-US", "timezone_id": "America/Bogota"} | options
        )
        context.set_default_timeout(ANSWER_MS)
        if person is not None:
            await context.add_cookies([{"name": "sessionid", "value": person.session, "url": base}])
        tab = cls(await context.new_page(), context, base, person)
        tab.listen(tab.page)
        await context.add_init_script(COMPLAINTS)
        try:
            yield tab
            assert not tab.complaints, tab.complaints
            ours = (
                r"(http|ws)://(localhost|127\.0\.0\.1):|data:|blob:" if pays else r"(http|ws)://localhost:|data:|blob:"
            )
            outside = [url for url in tab.requests if not re.match(ours, url)]
            assert not outside, outside
        finally:
            async with asyncio.timeout(CLOSE_SECONDS):  # a browser in disorder never answers
                await context.close()

    async def another(self) -> "Tab":
        """One more tab of the same browser."""
        tab = Tab(await self.context.new_page(), self.context, self.base, self.person, self.complaints, self.requests)
        tab.listen(tab.page)
        return tab

    def listen(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        page.on("console", self.hear)
        page.on("request", lambda request: self.requests.append(request.url))

    def hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(HARMLESS):
            self.complaints.append(f"{message.type}: {message.text}")

    # --- The chat ----------------------------------------------------------------------------------------------------

    @property
    def question(self) -> Locator:
        return self.page.get_by_role("textbox", name=re.compile("Your question|Tu pregunta|Sua pergunta"))

    @property
    def turns(self) -> Locator:
        return self.page.locator("[data-turn]")

    @property
    def last(self) -> Locator:
        return self.turns.last

    @property
    def refusal(self) -> Locator:
        return self.page.locator("[data-refusal]")

    async def ask(self, text: str, model: str | None = None) -> None:
        """Ask; return when the question has its place in the page, or was refused."""
        await self.page.locator("[data-composer][data-ready]").wait_for()
        if model is not None:
            await self.page.locator("[data-model]").select_option(model)
        asked = await self.turns.count()
        await self.question.fill(text)
        await self.question.press("Enter")
        await self.page.wait_for_function(
            """asked => document.querySelectorAll("[data-turn]").length > asked
              || document.querySelector("[data-refusal]")?.hidden === false""",
            arg=asked,
            timeout=ANSWER_MS,
        )

    async def finished(self, status: str = "completed") -> Locator:
        """Return the last turn when it has ended so."""
        await expect(self.last).to_have_attribute("data-status", status)
        return self.last

    async def ask_another_model(self) -> None:
        """Open the picker from the menu of the last answer."""
        await self.last.locator(".turn-foot summary").click()
        await self.last.get_by_role("button", name="Ask another model").click()

    async def shown_answer(self) -> str:
        return await self.last.locator("[data-answer]").inner_text()

    async def turn_id(self) -> str:
        return str(await self.last.get_attribute("data-turn"))

    async def wait_for_text(self, characters: int) -> None:
        """Return when the last answer shows at least so much."""
        await self.page.wait_for_function(
            "n => [...document.querySelectorAll('[data-answer]')].at(-1)?.textContent.length >= n",
            arg=characters,
            timeout=ANSWER_MS,
        )

    async def picture(self, name: str) -> None:
        await picture(self.page, name)

    async def call(self, method: str, path: str, **body: Any) -> Any:
        """Return the decoded answer of one API call as this person."""
        assert self.person is not None
        headers = {"Authorization": f"Bearer {self.person.access}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            async with session.request(method, f"{self.base}/api/v1/{path}", json=body or None) as response:
                return await response.json() if response.content_length else None

    async def saved(self) -> Any:
        """Return the last turn as the server has it."""
        return await self.call("GET", f"turns/{await self.turn_id()}")
