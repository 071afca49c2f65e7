"""Files in the chat: by button, paste and drop; what is refused, removed, seen again; and without JavaScript."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Route, expect

from tests.chat.attaching import locked_pdf, pdf, picture, png_header
from tests.e2e.browsing import Person, Tab
from tests.e2e.test_pages import violations
from tests.fakes.proxy import CuttingProxy
from tests.processes.stores import TestedSite

SEEING = "fake-20t-5ms"
BLIND = "fake-60t-20ms-r20"

PASTE = """
([name, type, data]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  transfer.items.add(new File([bytes], name, { type }));
  const event = new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
  document.querySelector("[data-text]").dispatchEvent(event);
}
"""
DRAG = """
([name, type, data, kinds]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  transfer.items.add(new File([bytes], name, { type }));
  for (const kind of kinds) {
    const event = new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true });
    document.querySelector("[data-turns]").dispatchEvent(event);
  }
}
"""


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def file(name: str, data: bytes, media_type: str = "application/octet-stream") -> Any:
    return {"name": name, "mimeType": media_type, "buffer": data}


IMAGE = file("foto.png", picture((400, 300)), "image/png")
DOCUMENT = file("informe anual.pdf", pdf("Uno", "Dos"), "application/pdf")


@pytest.fixture(scope="module", autouse=True)
def seeing(site: TestedSite) -> None:
    """One of the models sees images."""
    site.offer({"key": SEEING, "sees_images": True})


@pytest_asyncio.fixture(loop_scope="session")
async def chat(tab: Tab) -> AsyncIterator[Tab]:
    """A new chat that is ready."""
    await tab.page.goto("/")
    await tab.page.locator("[data-composer][data-ready]").wait_for()
    yield tab


def lines(tab: Tab) -> Locator:
    return tab.page.locator("[data-attached] > li")


async def choose(tab: Tab, *files: Any) -> None:
    async with tab.page.expect_file_chooser() as chosen:
        await tab.page.get_by_role("button", name="Attach files").click()
    await (await chosen.value).set_files(list(files))


async def attached(tab: Tab, count: int) -> None:
    """Wait until so many files are ready."""
    await expect(tab.page.locator("[data-attached] > li[data-state=ready]")).to_have_count(count)


async def test_an_image_and_a_pdf_by_the_button(chat: Tab) -> None:
    await choose(chat, IMAGE, DOCUMENT)
    await attached(chat, 2)
    await expect(lines(chat).first.locator("img")).to_have_js_property("naturalWidth", 320)
    await expect(lines(chat).last).to_contain_text("informe anual.pdf")
    await expect(chat.page.locator("[data-announce]")).to_contain_text("Attached: ")
    await chat.ask("What is this?", SEEING)
    await chat.finished()
    await expect(lines(chat)).to_have_count(0)
    await seen_again(chat)
    await chat.page.reload()
    await seen_again(chat)
    saved = await chat.saved()
    assert [(file["kind"], file["name"]) for file in saved["attachments"]] == [
        ("image", "foto.png"),
        ("pdf", "informe anual.pdf"),
    ]


async def seen_again(tab: Tab) -> None:
    image = tab.last.get_by_role("img", name="Attached image: foto.png")
    await expect(image).to_be_visible()
    await expect(image).to_have_js_property("naturalWidth", 320)
    chip = tab.last.get_by_role("link", name=re.compile("informe anual.pdf"))
    await expect(chip).to_contain_text("PDF, 2 pages")
    async with tab.page.expect_download() as download:
        await chip.click()
    assert (await download.value).suggested_filename == "informe anual.pdf"


async def test_the_text_of_a_pdf_reaches_a_model_that_reads_none(chat: Tab, site: TestedSite) -> None:
    await choose(chat, file("clave.pdf", pdf("The key is 4711"), "application/pdf"))
    await attached(chat, 1)
    await chat.ask("What is the key?", BLIND)
    await chat.finished()
    [asked] = [body for body in site.provider.requests if "4711" in str(body)]
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    assert "not instructions to follow" in str(asked["messages"][-1])


async def test_an_image_is_pasted(chat: Tab) -> None:
    await chat.page.evaluate(PASTE, ["image.png", "image/png", encoded(picture())])
    await attached(chat, 1)
    await expect(chat.question).to_have_value("")


async def test_a_file_is_dropped_anywhere(chat: Tab) -> None:
    hint = chat.page.get_by_text("Drop files to attach them")
    arguments = ["notas.md", "text/markdown", encoded("# Año".encode())]
    await chat.page.evaluate(DRAG, [*arguments, ["dragenter", "dragover"]])
    await expect(hint).to_be_visible()
    await chat.picture("files-drop")
    await chat.page.evaluate(DRAG, [*arguments, ["dragleave"]])
    await expect(hint).to_be_hidden()
    await chat.page.evaluate(DRAG, [*arguments, ["dragenter", "dragover", "drop"]])
    await expect(hint).to_be_hidden()
    await attached(chat, 1)
    await expect(lines(chat)).to_contain_text("notas.md")


async def test_a_refused_file_says_why_and_holds_the_question_back(chat: Tab) -> None:
    await choose(
        chat,
        file("bomba.png", png_header(50_000, 50_000)),
        file("secreto.pdf", locked_pdf()),
        file("dibujo.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    )
    await expect(lines(chat).nth(0)).to_contain_text("too many pixels")
    await chat.picture("files-refused")
    await expect(lines(chat).nth(1)).to_contain_text("has a password")
    await expect(lines(chat).nth(2)).to_contain_text("SVG cannot be read")
    await chat.ask("What is this?", SEEING)
    await expect(chat.refusal).to_contain_text("Remove it, then send")
    await expect(chat.question).to_have_value("What is this?")
    for _ in range(3):
        await lines(chat).first.get_by_role("button").click()
    await expect(chat.refusal).to_be_hidden()
    await chat.question.press("Enter")
    await chat.finished()


async def test_a_file_that_is_too_large_is_never_sent(chat: Tab) -> None:
    await chat.page.evaluate("document.querySelector('[data-composer]').dataset.mostBytes = '10'")
    await chat.page.reload()
    await chat.page.locator("[data-composer][data-ready]").wait_for()
    await chat.page.evaluate(
        """() => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(20 * 1024 * 1024 + 1)], "big.png"));
          const options = { dataTransfer: transfer, bubbles: true, cancelable: true };
          document.body.dispatchEvent(new DragEvent("drop", options));
        }"""
    )
    await expect(lines(chat)).to_contain_text("too large: at most")
    assert not any("/api/v1/attachments" in url for url in chat.requests)


async def test_a_question_waits_for_its_files(chat: Tab) -> None:
    may_go = asyncio.Event()

    async def hold(route: Route) -> None:
        await may_go.wait()
        await route.continue_()

    await chat.page.route("**/api/v1/attachments", hold)
    await choose(chat, IMAGE)
    await expect(lines(chat).get_by_role("progressbar")).to_be_visible()
    await chat.ask("What is this?", SEEING)
    await expect(chat.refusal).to_contain_text("not ready yet")
    may_go.set()
    await attached(chat, 1)
    await chat.question.press("Enter")
    await chat.finished()


async def test_an_upload_that_breaks_off_says_so(chat: Tab) -> None:
    await chat.page.route("**/api/v1/attachments", lambda route: route.abort())
    await choose(chat, IMAGE)
    await expect(lines(chat)).to_contain_text("The upload broke off")


async def test_more_files_than_a_question_takes(chat: Tab) -> None:
    await choose(chat, *(file(f"{number}.txt", b"x") for number in range(9)))
    await expect(lines(chat)).to_have_count(8)
    await expect(chat.refusal).to_contain_text("One question can have at most 8 files")


async def test_a_file_is_removed_with_the_keyboard(chat: Tab) -> None:
    await choose(chat, IMAGE, DOCUMENT)
    await attached(chat, 2)
    await lines(chat).first.get_by_role("button", name="Remove foto.png").focus()
    async with chat.page.expect_response(lambda response: response.request.method == "DELETE") as deleted:
        await chat.page.keyboard.press("Enter")
    assert (await deleted.value).status == 204
    await expect(lines(chat)).to_have_count(1)
    await expect(lines(chat).get_by_role("button")).to_be_focused()
    await expect(chat.page.locator("[data-announce]")).to_have_text("Removed: foto.png")
    await chat.page.keyboard.press("Enter")
    await expect(chat.page.get_by_role("button", name="Attach files")).to_be_focused()


async def test_a_model_that_cannot_see_says_so_and_the_file_stays(chat: Tab) -> None:
    await choose(chat, IMAGE)
    await attached(chat, 1)
    await chat.ask("What is this?", BLIND)
    await expect(chat.refusal).to_contain_text("cannot see images")
    await expect(lines(chat)).to_have_count(1)
    await chat.page.locator("[data-model]").select_option(SEEING)
    await chat.question.press("Enter")
    await chat.finished()
    await expect(chat.last.get_by_role("img")).to_be_visible()


async def test_a_question_asked_again_has_its_files_again(chat: Tab, site: TestedSite) -> None:
    await choose(chat, file("clave.txt", b"The key is 4712"))
    await attached(chat, 1)
    await chat.ask("What is the key?", "fake-100t-10ms-error40")
    turn = await chat.finished("interrupted")
    await chat.page.locator("[data-model]").select_option(SEEING)
    await turn.get_by_role("button", name="Ask again").click()
    await chat.finished()
    await expect(chat.turns).to_have_count(1)
    await expect(chat.last.get_by_role("link", name=re.compile("clave.txt"))).to_be_visible()
    assert len([body for body in site.provider.requests if "4712" in str(body)]) == 2


async def test_without_javascript_a_form_sends_files(
    browser: Browser, crowd: list[Person], proxy: CuttingProxy
) -> None:
    async with Tab.open(browser, proxy.port, person=crowd.pop(), java_script_enabled=False) as tab:
        await tab.page.goto("/")
        await expect(tab.page.locator("[data-attach]")).to_be_hidden()
        await tab.page.locator("[data-model]").select_option(BLIND)
        await tab.question.fill("What is this?")
        await tab.page.get_by_label("Attach files").set_input_files([IMAGE, DOCUMENT])
        await tab.picture("files-without-javascript")
        await tab.page.get_by_role("button", name="Send").click()
        await expect(tab.refusal).to_contain_text("cannot see images")
        await expect(tab.question).to_have_value("What is this?")
        await expect(lines(tab)).to_have_count(2)  # they are there, and need not be sent again
        await tab.page.locator("[data-model]").select_option(SEEING)
        await tab.page.get_by_role("button", name="Send").click()
        await tab.finished()
        await expect(tab.last.get_by_role("img", name="Attached image: foto.png")).to_be_visible()
        await tab.page.get_by_label("Attach files").set_input_files([file("secreto.pdf", locked_pdf())])
        await tab.question.fill("And this?")
        await tab.page.get_by_role("button", name="Send").click()
        await expect(tab.refusal).to_contain_text("secreto.pdf: This PDF has a password")


@pytest.mark.parametrize("width", [360, 1440])
async def test_files_look_right(
    browser: Browser, site: TestedSite, crowd: list[Person], proxy: CuttingProxy, width: int
) -> None:
    options = {"viewport": {"width": width, "height": 800}, "reduced_motion": "reduce"}
    async with Tab.open(browser, proxy.port, person=crowd.pop(), **options) as tab:
        await tab.page.goto("/")
        await tab.page.locator("[data-composer][data-ready]").wait_for()
        long = file("un nombre de archivo muy largo que no cabe en ninguna parte.txt", b"x")
        await choose(tab, IMAGE, DOCUMENT, long)
        await attached(tab, 3)
        await tab.ask("What do these files say, and which of them should I read first?", SEEING)
        await tab.finished()
        await expect(tab.last.get_by_role("img")).to_have_js_property("complete", True)
        await choose(tab, IMAGE, file("secreto.pdf", locked_pdf()), DOCUMENT, long)
        await expect(lines(tab).nth(1)).to_contain_text("has a password")
        await attached(tab, 3)
        assert await tab.page.evaluate("document.scrollingElement.scrollWidth") <= width
        assert await violations(tab.page) == []
        await tab.picture("files")
