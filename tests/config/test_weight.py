"""What a chat page makes a browser download, in bytes as they travel."""

import gzip
import json
import re
from html.parser import HTMLParser

import pytest
from django.conf import settings
from django.contrib.staticfiles import finders

from accounts.models import User

MAX_SCRIPT_BYTES = 80_000  # bytes, compressed
MAX_STYLE_BYTES = 30_000
IMPORT = re.compile(
    r"""(?:^|[;}\s])(?:import|export)\s*(?:[\w*{][^;"'()]*?from\s*)?["']([^"']+)["']|import\(["']([^"']+)["']\)"""
)


class Page(HTMLParser):
    """The addresses and inline scripts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.inline = ""
        self.map: dict[str, str] = {}
        self._type: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "link" and found.get("rel") == "stylesheet":
            self.styles.append(found["href"] or "")
        if tag == "script" and found.get("src"):
            self.scripts.append(found["src"] or "")
        elif tag == "script":
            self._type = found.get("type") or "text/javascript"

    def handle_data(self, data: str) -> None:
        if self._type:
            self.inline += data
        if self._type == "importmap":
            self.map = json.loads(data)["imports"]

    def handle_endtag(self, tag: str) -> None:
        self._type = None


@pytest.fixture
def page(client, ana: User) -> Page:
    client.force_login(ana)
    return Page(client.get("/").content.decode())


def read(address: str) -> str:
    found = finders.find(address.removeprefix(f"/{settings.STATIC_URL}".replace("//", "/")))
    assert found, address
    with open(found) as file:
        return file.read()


def weight(*texts: str) -> int:
    """Return what texts weigh compressed, each for itself as they are sent."""
    return sum(len(gzip.compress(text.encode(), 9)) for text in texts)


def loaded(page: Page) -> dict[str, str]:
    """Return every script a page loads: what it names, and what that imports."""
    found: dict[str, str] = {}
    wanted = [*page.scripts]
    while wanted:
        address = wanted.pop()
        if address not in found:
            found[address] = read(address)
            wanted += [page.map[first or second] for first, second in IMPORT.findall(found[address])]
    return found


def test_all_scripts_of_the_chat_page_are_light(page):
    scripts = loaded(page)
    assert set(page.map.values()) <= set(scripts)  # nothing in the map that nothing needs
    bytes_sent = weight(*scripts.values(), page.inline)
    print(f"{bytes_sent} bytes of script in {len(scripts)} files")
    assert bytes_sent < MAX_SCRIPT_BYTES


def test_all_styles_of_the_chat_page_are_light(page):
    bytes_sent = weight(*map(read, page.styles))
    print(f"{bytes_sent} bytes of style in {len(page.styles)} files")
    assert page.styles
    assert bytes_sent < MAX_STYLE_BYTES
