"""What a browser would build of HTML, and whether that may be shown."""

import re
from html.parser import HTMLParser

from tests.hostile import ATTRIBUTES, CLASSES, SCHEMES, TAGS


def scheme_of(address: str) -> str | None:
    """Return what a browser takes for the scheme (WHATWG URL, section 4.4); None for a relative address."""
    cleaned = re.sub(r"[\t\n\r]", "", address.lstrip("".join(map(chr, range(33)))))
    found = re.match(r"([a-z][a-z0-9+.-]*):", cleaned, re.IGNORECASE)
    return found[1].lower() if found else None


class Reader(HTMLParser):
    """Notes what a browser would build."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.tags.append("comment")

    def handle_decl(self, decl: str) -> None:
        self.tags.append("declaration")

    def handle_pi(self, data: str) -> None:
        self.tags.append("instruction")


def assert_harmless(html: str) -> Reader:
    """Check that HTML is made of what may be shown, and return what it is."""
    found = Reader(html)
    assert set(found.tags) <= TAGS
    for tag, name, value in found.attributes:
        assert name in ATTRIBUTES.get(tag, ())
        if name == "href":
            assert scheme_of(value) in SCHEMES | {None}
        if name == "dir":
            assert value in ("auto", "ltr", "rtl")
        if name == "id":
            assert re.fullmatch(r"[0-9a-f-]*-note-[\w.-]+", value)
        if name == "class":
            assert re.fullmatch(CLASSES, value)
    return found
