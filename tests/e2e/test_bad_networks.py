"""Connections that break and processes that die under the reader's eyes."""

import asyncio
import random

from playwright.async_api import Browser, Route, WebSocketRoute, expect

from testbed.provider import expected_text
from tests.e2e.browsing import Person, Tab
from tests.fakes.proxy import CuttingProxy
from tests.processes.stores import TestedSite

UNICODE = "fake-600t-10ms-unicode"
SLOW = "fake-3000t-50ms"
DELETED = "The conversation you were in was deleted."


async def cut_until_finished(tab: Tab, proxy: CuttingProxy, rng: random.Random) -> int:
    cuts = 0
    while await tab.last.get_attribute("data-status") != "completed":
        await asyncio.sleep(rng.uniform(0.2, 0.8))
        cuts += proxy.cut(1)
    return cuts


async def test_cuts_lose_nothing_and_show_nothing_twice(tab: Tab, proxy: CuttingProxy) -> None:
    await tab.page.goto("/")
    await tab.page.evaluate(
        """() => {
          window.lengths = [];
          new MutationObserver(() => {
            const answer = document.querySelector("[data-answer]");
            if (answer) window.lengths.push(answer.textContent.length);
          }).observe(document.querySelector("[data-turns]"), { childList: true, characterData: true, subtree: true });
        }"""
    )
    await tab.ask("¿Qué tal?", UNICODE)
    await tab.wait_for_text(20)
    cuts = await cut_until_finished(tab, proxy, random.Random(20261124))
    assert cuts >= 3
    assert (await tab.saved())["answer"] == expected_text(UNICODE)
    lengths = (await tab.page.evaluate("lengths"))[:-1]  # the server's HTML has other blanks
    assert lengths == sorted(lengths)
    shown = await tab.last.locator("[data-answer]").text_content()
    assert shown is not None
    assert "".join(shown.split()) == "".join(expected_text(UNICODE).split())


async def test_a_question_sent_into_a_dead_connection_is_asked_once(tab: Tab, proxy: CuttingProxy) -> None:
    await tab.page.goto("/")
    await tab.page.locator("[data-composer][data-ready]").wait_for()
    await tab.question.fill("Once?")
    await tab.page.locator("[data-model]").select_option("fake-20t-5ms")
    await tab.question.press("Enter")
    proxy.cut(1)
    await tab.finished()
    await expect(tab.turns).to_have_count(1)
    conversations = await tab.call("GET", "conversations")
    assert [row["turn_count"] for row in conversations["results"]] == [1]


async def test_a_killed_web_process_costs_the_reader_nothing(
    browser: Browser, crowd: list[Person], site: TestedSite
) -> None:
    async with CuttingProxy(site.port(1)) as proxy, Tab.open(browser, proxy.port, person=crowd.pop()) as tab:
        await tab.page.goto("/")
        await tab.ask("¿Qué tal?", UNICODE)
        await tab.wait_for_text(300)
        await asyncio.to_thread(site.kill, "web1")
        await asyncio.sleep(1)
        await asyncio.to_thread(site.start, "web1")
        await tab.finished()
        assert (await tab.saved())["answer"] == expected_text(UNICODE)


async def conversation_id(tab: Tab) -> str:
    return str(await tab.page.locator("[data-chat]").get_attribute("data-chat"))


async def test_a_conversation_deleted_while_the_page_had_no_connection_is_left_with_what_was_being_written(
    tab: Tab,
) -> None:
    sockets: list[WebSocketRoute] = []
    is_cut = False

    async def route(socket: WebSocketRoute) -> None:
        if is_cut:
            await socket.close(code=1011)
        else:
            socket.connect_to_server()
            sockets.append(socket)

    await tab.context.route_web_socket("**/ws/**", route)
    await tab.page.goto("/")
    await tab.ask("Go on and on.", SLOW)
    await tab.wait_for_text(20)
    await tab.question.fill("Half a question")
    is_cut = True
    await sockets[-1].close(code=1011)
    await tab.call("DELETE", f"conversations/{await conversation_id(tab)}")
    is_cut = False
    await tab.page.wait_for_url(f"{tab.base}/")
    await expect(tab.page.locator("[data-notice]")).to_have_text(DELETED)
    await expect(tab.question).to_have_value("Half a question")
    await expect(tab.page.locator("[data-conversation]")).to_have_count(0)
    keys = await tab.page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('draft:'))")
    assert [key.rsplit(":")[-1] for key in keys] == ["new"]
    await tab.page.reload()
    await tab.page.locator("[data-composer][data-ready]").wait_for()
    await expect(tab.page.locator("[data-notice]")).to_be_hidden()  # said once


async def test_where_no_socket_comes_up_the_page_asks_for_news(tab: Tab) -> None:
    doomed = await tab.another()
    await doomed.page.goto("/")
    await doomed.ask("Go on and on.", SLOW)
    await tab.context.route_web_socket("**/ws/**", lambda socket: socket.close(code=1011))
    await doomed.page.reload()
    await tab.page.goto("/")
    await expect(tab.page.locator("[data-connection]")).to_contain_text("No live connection")
    await tab.picture("no-connection")
    await tab.ask("¿Qué tal?", UNICODE)
    await tab.page.wait_for_url("**/c/**")
    await tab.wait_for_text(100)
    await tab.finished()
    assert (await tab.saved())["answer"] == expected_text(UNICODE)
    await expect(tab.page.get_by_role("button", name="Send")).to_be_visible()
    await expect(doomed.page.locator("[data-connection]")).to_contain_text("No live connection")
    await tab.call("DELETE", f"conversations/{await conversation_id(doomed)}")
    await doomed.page.wait_for_url(f"{tab.base}/")
    await expect(doomed.page.locator("[data-notice]")).to_have_text(DELETED)


async def test_where_no_socket_comes_up_an_error_page_is_told_and_loses_nothing(tab: Tab) -> None:
    await tab.context.route_web_socket("**/ws/**", lambda socket: socket.close(code=1011))
    await tab.page.goto("/")
    await expect(tab.page.locator("[data-connection]")).to_contain_text("No live connection")
    await tab.context.clear_cookies(name="csrftoken")
    await tab.ask("Kept?", "fake-20t-5ms")
    await expect(tab.refusal).to_contain_text("This form is too old")
    await expect(tab.question).to_have_value("Kept?")


async def test_where_no_socket_comes_up_an_answer_is_stopped_and_a_question_in_line_goes_out(tab: Tab) -> None:
    await tab.context.route_web_socket("**/ws/**", lambda socket: socket.close(code=1011))
    page = tab.page
    await page.goto("/")
    await expect(page.locator("[data-connection]")).to_contain_text("No live connection")
    await tab.ask("Go on and on.", SLOW)
    await tab.wait_for_text(100)
    await page.locator("[data-model]").select_option("fake-20t-5ms")
    await tab.question.fill("And then?")
    await tab.question.press("Enter")
    await expect(page.locator("[data-queued]")).to_be_visible()
    await tab.question.fill("A draft")
    await page.route("**/c/**", refuse_once, times=1)  # as a proxy does
    await page.get_by_role("button", name="Stop").click()
    await expect(tab.turns).to_have_count(2)
    await tab.finished()
    await expect(tab.turns.first).to_have_attribute("data-status", "stopped")
    saved = await tab.saved()
    assert (saved["question"], saved["model"]) == ("And then?", "fake-20t-5ms")
    await expect(tab.question).to_have_value("A draft")

    # Who was logged out meanwhile finds the question when they are back.
    await page.locator("[data-composer][data-ready]").wait_for()
    await expect(page.locator("[data-connection]")).to_contain_text("No live connection")
    cookies = await tab.context.cookies()
    await tab.context.clear_cookies(name="sessionid")
    await tab.question.fill("Kept?")
    await tab.question.press("Enter")
    await page.wait_for_url("**/accounts/login/**")
    await tab.context.add_cookies([cookie for cookie in cookies if cookie["name"] == "sessionid"])  # type: ignore[misc]
    await page.goto(f"/c/{saved['conversation_id']}/")
    await expect(tab.question).to_have_value("Kept?")


async def refuse_once(route: Route) -> None:
    await route.fulfill(status=502, body="Bad gateway")


async def test_what_one_person_could_not_send_is_not_asked_as_the_next_at_the_same_browser(
    tab: Tab, crowd: list[Person], proxy: CuttingProxy
) -> None:
    await tab.page.goto("/")
    await tab.page.locator("[data-composer][data-ready]").wait_for()
    composer = tab.page.locator("[data-composer]")
    first = await composer.get_attribute("data-member")
    await tab.question.fill("A secret")
    tab.person = crowd.pop()
    await tab.context.add_cookies([{"name": "sessionid", "value": tab.person.session, "url": tab.base}])
    proxy.cut(1)
    await tab.question.press("Enter")
    await expect(composer).not_to_have_attribute("data-member", first or "")
    await expect(tab.question).to_have_value("")
    assert (await tab.call("GET", "conversations"))["results"] == []


async def test_a_lost_connection_is_told(tab: Tab, proxy: CuttingProxy) -> None:
    await tab.page.goto("/")
    await tab.ask("Hi.", "fake-20t-5ms")
    await tab.finished()
    proxy._server.close()
    proxy.cut(1)
    await expect(tab.page.locator("[data-connection]")).to_have_text("Reconnecting…")
    await tab.picture("reconnecting")
    await tab.question.fill("Kept")
    await expect(tab.question).to_have_value("Kept")
