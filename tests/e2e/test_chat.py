"""Asking and reading, in a browser. What the page shows is what is saved."""

import json
import re

from playwright.async_api import WebSocketRoute, expect

from testbed.provider import expected_text
from tests.e2e.browsing import Person, Tab

ECHO = "fake-900t-5ms-echo8"
SLOW_ECHO = "fake-900t-60ms-echo8"
SLOW = "fake-3000t-50ms"
UNICODE = "fake-300t-10ms-unicode"
CODE = "Here it is:\n\n```python\ndef double(x):\n    return 2 * x\n```\n\nAnd a [link](https://example.com/)."


async def test_a_question_is_answered_in_place(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.ask(CODE, ECHO)
    turn = await tab.finished()
    await expect(turn.locator("[data-question]")).to_have_text(CODE)
    await expect(turn.locator(".code-language")).to_have_text("python")
    await expect(turn.locator("pre .k").first).to_have_text("def")
    assert (await tab.saved())["answer"] == CODE
    await expect(tab.page.locator("[data-conversation] a[aria-current=page]")).to_contain_text("Here it is:")
    await expect(tab.page).to_have_title(re.compile("Here it is:"))
    assert "/c/" in tab.page.url
    await expect(tab.page.get_by_role("button", name="Temporary")).to_have_count(0)  # this one is kept
    await tab.page.reload()
    await tab.picture("answered")
    await expect(tab.last.locator("pre .k").first).to_have_text("def")


async def test_back_and_forward_lead_to_pages_that_are_alive(tab: Tab) -> None:
    """Nothing of them is kept in the browser: they come from the server again."""
    page = tab.page
    await page.goto("/")
    await tab.ask("Uno", ECHO)
    await tab.finished()
    chat = page.url
    await tab.question.fill("A draft")
    await page.goto("/dashboard/")
    await page.go_back()
    assert page.url == chat
    await expect(tab.last.locator("[data-answer]")).to_have_text("Uno")
    await expect(tab.question).to_have_value("A draft")
    await tab.ask("Dos", ECHO)
    await expect((await tab.finished()).locator("[data-answer]")).to_have_text("Dos")
    await page.go_forward()
    await expect(page).to_have_url(re.compile("/dashboard/$"))
    await page.go_back()
    await expect(tab.last.locator("[data-answer]")).to_have_text("Dos")
    row = page.locator("[data-conversation]").first
    await row.locator("summary").click()
    await row.get_by_role("link", name="Rename").click()
    await expect(page.get_by_role("dialog")).to_be_visible()


async def test_the_answer_is_seen_while_it_is_written(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.ask("# A heading\n\n- one **bold** word\n- two\n\n" + "and so on " * 60, SLOW_ECHO)
    await tab.wait_for_text(60)
    await expect(tab.last).to_have_attribute("data-status", "queued")
    await expect(tab.last.locator("[data-answer]")).to_have_attribute("aria-busy", "true")
    await expect(tab.last.locator("[data-answer] h4")).to_have_text("A heading")
    await expect(tab.last.locator("[data-answer] li strong")).to_have_text("bold")
    await tab.picture("streaming")
    await tab.finished()


async def test_what_is_shown_at_the_end_is_what_is_saved(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.ask("¿Qué tal?", UNICODE)
    await tab.finished()
    saved = (await tab.saved())["answer"]
    assert saved == expected_text(UNICODE)
    shown = await tab.last.locator("[data-answer]").text_content()
    assert shown is not None
    assert "".join(shown.split()) == "".join(saved.replace("\\b\n", "\\b\n").split())


async def refuse_first_stop(tab: Tab) -> None:
    """As while a store is away."""
    stops = 0

    def route(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def pass_on(frame: str | bytes) -> None:
            nonlocal stops
            command = json.loads(frame)
            stops += command["type"] == "turn.stop"
            if command["type"] == "turn.stop" and stops == 1:
                refusal = {"code": "unavailable", "detail": "Catching its breath."}
                socket.send(json.dumps({"type": "turn.rejected", "turn_id": command["turn_id"], **refusal}))
            else:
                server.send(frame)

        socket.on_message(pass_on)

    await tab.context.route_web_socket("**/ws/**", route)


async def test_stop_keeps_what_was_written_and_may_be_tried_again(tab: Tab) -> None:
    await refuse_first_stop(tab)
    await tab.page.goto("/")
    await tab.ask("Go on and on.", SLOW)
    await tab.wait_for_text(20)
    stop = tab.page.get_by_role("button", name="Stop")
    await stop.click()
    await expect(tab.refusal).to_have_text("Catching its breath.")
    await tab.picture("refused-stop")
    await stop.click()
    turn = await tab.finished("stopped")
    await expect(tab.refusal).to_be_hidden()
    await expect(turn.locator(".turn-note")).to_be_visible()
    await tab.picture("stopped")
    await expect(tab.page.get_by_role("button", name="Send")).to_be_visible()
    await expect(tab.question).to_be_focused()
    saved = (await tab.saved())["answer"]
    assert saved
    assert expected_text(SLOW).startswith(saved)
    assert (await tab.shown_answer()).split() == saved.split()


async def test_a_stopped_answer_can_be_continued(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.ask("Go on and on.", SLOW)
    await tab.wait_for_text(20)
    await tab.page.get_by_role("button", name="Stop").click()
    await tab.finished("stopped")
    await tab.page.locator("[data-model]").select_option("fake-20t-5ms")
    await tab.last.get_by_role("button", name="Continue").click()
    await expect(tab.turns).to_have_count(2)
    await tab.finished()


async def test_a_question_asked_again_takes_its_own_place(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.ask("Two\nlines?", "fake-100t-10ms-error40")
    turn = await tab.finished("interrupted")
    await expect(turn.locator(".turn-note-error")).to_be_visible()
    await tab.page.locator("[data-model]").select_option("fake-20t-5ms")
    await turn.get_by_role("button", name="Ask again").click()
    await tab.finished()
    await expect(tab.turns).to_have_count(1)
    assert (await tab.saved())["question"] == "Two\nlines?"
    await tab.page.reload()
    await expect(tab.turns).to_have_count(1)
    assert (await tab.saved())["status"] == "completed"


async def test_what_is_being_written_stays_when_a_button_asks(tab: Tab) -> None:
    half = "Half wri"
    await tab.page.goto("/")
    await tab.page.locator("[data-composer][data-ready]").wait_for()
    await tab.page.locator("[data-model]").select_option("fake-100t-10ms-error40")
    await tab.question.fill(half)
    await tab.page.locator("[data-starter]").first.click()
    turn = await tab.finished("interrupted")
    await expect(tab.question).to_have_value(half)
    await tab.page.locator("[data-model]").select_option("fake-20t-5ms")
    await turn.get_by_role("button", name="Ask again").click()
    await tab.finished()
    await expect(tab.question).to_have_value(half)
    await tab.page.reload()
    await expect(tab.question).to_have_value(half)
    await tab.page.goto("/")  # it went along into the conversation
    await tab.page.locator("[data-composer][data-ready]").wait_for()
    await expect(tab.question).to_have_value("")


async def test_a_reload_in_the_middle_goes_on(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.ask("¿Qué tal?", UNICODE)
    await tab.wait_for_text(500)
    await tab.page.reload()
    await tab.wait_for_text(500)
    await tab.finished()
    assert (await tab.saved())["answer"] == expected_text(UNICODE)


async def test_every_tab_shows_the_same(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.ask("First.", "fake-20t-5ms")
    await tab.finished()
    other = await tab.another()
    await other.page.goto(tab.page.url)
    somewhere = await tab.another()
    await somewhere.page.goto("/")
    await tab.ask("¿Qué tal?", UNICODE)
    await expect(other.turns).to_have_count(2)
    await other.wait_for_text(200)
    await tab.finished()
    await other.finished()
    assert await other.shown_answer() == await tab.shown_answer()
    await expect(somewhere.page.locator("[data-conversation]")).to_have_count(1)
    await expect(somewhere.turns).to_have_count(0)


async def test_the_allowance_moves(tab: Tab) -> None:
    await tab.page.goto("/")
    before = await tab.page.locator("[data-allowance-used]").inner_text()
    await tab.ask("Something long.", UNICODE)
    await tab.finished()
    await expect(tab.page.locator("[data-allowance-used]")).not_to_have_text(before)
    moved = await tab.page.locator("[data-allowance-used]").inner_text()
    await tab.page.reload()
    await expect(tab.page.locator("[data-allowance-used]")).to_have_text(moved)


async def test_reasoning_is_there_for_whoever_opens_it(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.page.evaluate(
        """() => {
          const seen = (name) => document.querySelector(name)?.hidden === false;
          window.signs = 0;
          new MutationObserver(() => (signs += seen("[data-reasoning]") && seen("[data-progress]")))
            .observe(document.querySelector("[data-turns]"), { childList: true, subtree: true, attributes: true });
        }"""
    )
    await tab.ask("Think.", "fake-60t-20ms-r20")
    reasoning = tab.last.locator("[data-reasoning]")
    await expect(reasoning).to_be_visible()
    await reasoning.locator("summary").click()
    await tab.picture("reasoning")
    await tab.finished()
    await expect(tab.last.locator("[data-reasoning-text]")).to_contain_text("r0 r1 r2")
    await tab.picture("reasoning-ended")
    assert await tab.page.evaluate("signs") == 0, "“Thinking…” and “Writing…” at once"


async def test_a_draft_outlives_a_reload_and_ends_when_it_is_sent(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.question.fill("Half a thought")
    await tab.page.wait_for_timeout(500)
    await tab.page.reload()
    await expect(tab.question).to_have_value("Half a thought")
    await tab.page.locator("[data-model]").select_option("fake-20t-5ms")
    note = {"name": "note.txt", "mimeType": "text/plain", "buffer": b"A note."}
    await tab.page.locator("[data-attach-input]").set_input_files([note])
    attached = tab.page.locator("[data-attached] > li")
    await expect(attached).to_have_attribute("data-state", "ready")
    await tab.page.wait_for_timeout(500)
    await tab.page.reload()
    await expect(attached).to_have_attribute("data-state", "ready")
    await expect(attached).to_contain_text("note.txt")
    await expect(tab.page.locator("[data-picker-current]")).to_have_text("fake-20t-5ms")
    await tab.question.press("Enter")
    turn = await tab.finished()
    await expect(turn.locator("[data-file]")).to_have_count(1)
    assert (await tab.saved())["model"] == "fake-20t-5ms"
    await expect(tab.question).to_have_value("")
    await tab.page.wait_for_timeout(500)
    assert await list_drafts(tab) == []
    member = await tab.page.locator("[data-composer]").get_attribute("data-member")
    await tab.page.evaluate("key => localStorage.setItem(key, '5')", f"draft:{member}:new")  # not ours
    await tab.page.goto("/")
    await tab.page.locator("[data-composer][data-ready]").wait_for()
    await expect(tab.question).to_have_value("")
    await expect(attached).to_have_count(0)
    await expect(tab.page.locator("[data-picker-current]")).to_have_text("Automatic")


async def test_a_draft_outlives_another_question_of_its_conversation_and_no_log_out(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.ask("Begin.", "fake-20t-5ms")
    await tab.finished()
    other = await tab.another()
    await other.page.goto(tab.page.url)
    await write(other, "Asked here")
    await write(tab, "Half a thought")
    await other.question.press("Enter")
    await other.finished()
    await expect(tab.turns).to_have_count(2)
    await tab.finished()
    await tab.page.reload()
    await expect(tab.question).to_have_value("Half a thought")
    await tab.page.locator("[data-composer][data-ready]").wait_for()
    await other.page.goto("/accounts/logout/")
    await other.page.locator("main").get_by_role("button", name="Log out").click()
    await other.page.wait_for_url(lambda url: "logout" not in url)
    assert await list_drafts(other) == []


async def list_drafts(tab: Tab) -> list[str]:
    found: list[str] = await tab.page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('draft:'))")
    return found


async def write(tab: Tab, text: str) -> None:
    """Write a question, and wait until it is kept."""
    await tab.question.fill(text)
    await tab.page.wait_for_function(
        "text => Object.values(localStorage).some((draft) => draft.includes(text))", arg=text
    )


async def test_what_one_person_was_writing_is_not_there_for_the_next_at_the_same_browser(
    tab: Tab, crowd: list[Person]
) -> None:
    await tab.page.goto("/")
    await write(tab, "A secret")
    await tab.context.add_cookies([{"name": "sessionid", "value": crowd.pop().session, "url": tab.base}])
    await tab.page.goto("/")
    await tab.page.locator("[data-composer][data-ready]").wait_for()
    await expect(tab.question).to_have_value("")
    assert await list_drafts(tab) == []
    await write(tab, "Another secret")
    other = await tab.another()
    await other.page.goto("/")
    await expect(other.question).to_have_value("Another secret")
    await other.question.evaluate("field => setInterval(() => field.dispatchEvent(new Event('input')), 50)")  # goes on
    await tab.page.locator(".account-button").click()
    await tab.page.get_by_role("button", name="Log out").click()
    await tab.page.get_by_role("link", name="Log in").first.wait_for()
    await other.page.wait_for_url("**/accounts/login/**")
    assert await list_drafts(tab) == []


async def test_the_page_of_conversations_renames_deletes_and_says_when_there_is_none(tab: Tab) -> None:
    page = tab.page
    await page.goto("/")
    await tab.ask("Name me.", "fake-20t-5ms")
    await tab.finished()
    await write(tab, "Half a question")
    await page.goto(f"{page.url}rename/")
    await page.get_by_label("Title").fill("Named")
    await page.get_by_role("button", name="Save").click()
    await expect(page).to_have_title(re.compile("Named"))
    await expect(tab.question).to_have_value("Half a question")

    other = await tab.another()
    await other.page.goto("/conversations/")
    await other.page.locator("[data-conversation] summary").click()

    await page.goto("/conversations/")
    await expect(page.get_by_text("You have not asked anything yet.")).to_be_hidden()
    await page.locator("[data-conversation] summary").click()
    await page.locator("[data-conversation]").get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("You have not asked anything yet.")).to_be_visible()
    await expect(page.get_by_text("Today")).to_be_hidden()
    assert len(await list_drafts(tab)) == 1  # it may be taken back
    await page.goto("/conversations/trash/")
    await page.get_by_label("Named").first.check()
    await page.get_by_role("button", name="Delete for good").click()
    await expect(page.get_by_text("The trash is empty.")).to_be_visible()
    assert await list_drafts(tab) == []

    # What is refused in the dialog is said in the dialog.
    dialog = other.page.get_by_role("dialog", name="That does not exist, or is not yours.")
    await other.page.locator("[data-conversation]").get_by_role("link", name="Rename").click()
    await expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    await expect(dialog.get_by_role("heading", level=1)).to_have_count(0)
    await expect(other.page).to_have_title(re.compile("Conversations"))
    await dialog.get_by_role("button", name="Close").click()
    await expect(dialog).to_be_hidden()


async def test_an_input_method_keeps_its_enter(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.question.fill("にほん")
    await tab.question.dispatch_event("keydown", {"key": "Enter", "isComposing": True, "bubbles": True})
    await tab.question.dispatch_event("keydown", {"key": "Enter", "keyCode": 229, "bubbles": True})
    await tab.question.press("Shift+Enter")
    await expect(tab.question).to_have_value("にほん\n")
    await expect(tab.turns).to_have_count(0)


async def test_what_is_said_aloud_is_the_state_and_not_the_tokens(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.page.evaluate(
        """() => {
          window.said = [];
          const announcer = document.querySelector("[data-announce]");
          new MutationObserver(() => window.said.push(announcer.textContent))
            .observe(announcer, { childList: true, characterData: true, subtree: true });
        }"""
    )
    await tab.ask("¿Qué tal?", "fake-60t-20ms-r20")
    await tab.finished()
    assert await tab.page.evaluate("said") == ["Writing the answer.", "The answer is complete: 60 words."]
    assert await tab.last.locator("[data-answer]").evaluate("node => node.closest('[aria-live], [role=log]')") is None


async def test_the_meter_writes_a_number_as_it_does_after_a_reload(tab: Tab) -> None:
    await tab.page.goto("/")
    written = "number => import('words').then(({ formatNumber }) => formatNumber(number, 1))"
    for number, text in ((0, "0"), (2, "2"), (2.04, "2.0"), (0.704, "0.7"), (1234.56, "1,234.6")):
        assert await tab.page.evaluate(written, number) == text


async def test_copying_gives_the_source(tab: Tab) -> None:
    await tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await tab.page.goto("/")
    await tab.ask(CODE, ECHO)
    turn = await tab.finished()
    await turn.get_by_role("button", name="Copy", exact=True).click()
    await expect(turn.get_by_role("button", name="Copied")).to_be_visible()
    assert await tab.page.evaluate("navigator.clipboard.readText()") == "def double(x):\n    return 2 * x\n"
    await turn.get_by_role("button", name="Copy the answer").click()
    await expect(tab.page.locator("[data-announce]")).to_have_text("Copied")
    for _ in range(50):  # the source is fetched first
        if await tab.page.evaluate("navigator.clipboard.readText()") == CODE:
            return
        await tab.page.wait_for_timeout(100)
    raise AssertionError("the source was not copied")


async def test_a_conversation_is_renamed_and_deleted(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.ask("Name me.", "fake-20t-5ms")
    await tab.finished()
    other = await tab.another()
    await other.page.goto("/")
    row = tab.page.locator("[data-conversation]").first
    await row.hover()
    await row.locator("summary").click()
    await row.get_by_role("link", name="Rename").click()
    dialog = tab.page.get_by_role("dialog")
    await dialog.get_by_label("Title").fill("Un <b>título</b>")
    await dialog.get_by_role("button", name="Save").click()
    await expect(dialog).to_be_hidden()
    await expect(row.locator("a").first).to_have_text("Un <b>título</b>")
    await expect(other.page.locator("[data-conversation] a").first).to_have_text("Un <b>título</b>")
    await expect(tab.page).to_have_title(re.compile("título"))
    await row.hover()
    await row.locator("summary").click()
    await row.get_by_role("button", name="Delete").click()
    await tab.page.wait_for_url(f"{tab.base}/")
    await expect(tab.page.locator("[data-conversation]")).to_have_count(0)
    await expect(other.page.locator("[data-conversation]")).to_have_count(0)


async def test_the_reader_who_scrolls_up_is_left_alone(tab: Tab) -> None:
    await tab.page.goto("/")
    await tab.ask("Go on and on.", "fake-9000t-2ms")
    await tab.wait_for_text(8_000)
    await tab.page.mouse.move(600, 300)
    await tab.page.mouse.wheel(0, -300)
    await tab.page.wait_for_timeout(300)
    place = await tab.page.evaluate("scrollY")
    await tab.wait_for_text(14_000)
    assert await tab.page.evaluate("scrollY") == place
    await tab.page.get_by_role("button", name="To the end").click()
    await tab.page.wait_for_function("() => scrollY + innerHeight > document.scrollingElement.scrollHeight - 400")
    await tab.page.get_by_role("button", name="Stop").click()
    await tab.finished("stopped")
