"""What makes pages light: one sheet of styles, modules asked for at once, compression that betrays nothing. What a page
weighs in the end is measured in a browser (tests/e2e/test_weight.py)."""

import gzip
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from django.conf import settings
from django.contrib.staticfiles import finders
from django.http import HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, RequestFactory
from django.utils.crypto import get_random_string

from accounts.models import User
from config.middleware import CompressionMiddleware
from config.static_files import STYLES, StaticFilesStorage

GZIP = {"Accept-Encoding": "gzip, deflate, br"}
IMPORT = re.compile(r"""(?:^|[;}\s])(?:import|export)\s*(?:[\w*{][^;"'()]*?from\s*)?["']([^"']+)["']""")


class Page(HTMLParser):
    """The modules and styles a page names."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.preloaded: list[str] = []
        self.styles: list[str] = []
        self.map: dict[str, str] = {}
        self._type: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "link" and found["rel"] == "stylesheet":
            self.styles.append(found["href"] or "")
        if tag == "link" and found["rel"] == "modulepreload":
            self.preloaded.append(found["href"] or "")
        if tag == "script":
            self._type = found.get("type")
            self.scripts += filter(None, [found.get("src")])

    def handle_data(self, data: str) -> None:
        if self._type == "importmap":
            self.map = json.loads(data)["imports"]

    def handle_endtag(self, tag: str) -> None:
        self._type = None


def read(address: str) -> str:
    found = finders.find(address.removeprefix(f"/{settings.STATIC_URL}".replace("//", "/")))
    assert found, address
    with open(found) as file:
        return file.read()


def imported(page: Page) -> set[str]:
    """Return every module that those of the page import, and so on."""
    found: set[str] = set()
    wanted = [*page.scripts]
    while wanted:
        names = [page.map[name] for name in IMPORT.findall(read(wanted.pop()))]
        wanted += set(names) - found
        found |= set(names)
    return found


@pytest.fixture
def member(client: Client, ana: User) -> Client:
    client.force_login(ana)
    return client


@pytest.mark.parametrize("path", ["/", "/terms/"])
def test_all_modules_of_a_page_are_asked_for_at_once(member, path):
    page = Page(member.get(path).text)
    assert sorted(page.preloaded) == sorted(imported(page) - set(page.scripts))


def test_every_sheet_is_part_of_the_one_that_pages_name(member, tmp_path, settings):
    settings.STATIC_ROOT, settings.DEBUG = tmp_path, True
    assert Page(member.get("/").text).styles == [f"/static/{STYLES}"]
    storage = StaticFilesStorage(location=tmp_path, base_url="/static/")
    source = next(finder for finder in finders.get_finders() if finder.find(STYLES))
    sheets = {name: (store, name) for name, store in source.list([]) if name.endswith(".css")}
    sheets = {
        name: sheet for name, sheet in sheets.items() if not re.search("admin|frame|print|docs", name)
    }  # of other pages
    shutil.copytree(settings.BASE_DIR / "static" / "css", tmp_path / "css")
    assert not [error for _name, _hashed, error in storage.post_process(sheets) if isinstance(error, Exception)]
    served = (tmp_path / storage.stored_name(STYLES)).read_text()
    assert "@import" not in served
    for name in set(sheets) - {STYLES}:
        assert read(f"/static/{name}").strip() in served
    assert re.fullmatch(r"/static/css/site\.[0-9a-f]{12}\.css", storage.url(STYLES))  # with DEBUG too


# --- Compression ------------------------------------------------------------------------------------------------------


def test_pages_are_compressed_and_the_api_is_not(member):
    plain, page = member.get("/"), member.get("/", headers=GZIP)
    assert page["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in page["Vary"]
    assert len(page.content) == int(page["Content-Length"]) < len(plain.content) / 3
    assert "</html>" in gzip.decompress(page.content).decode()
    assert "Content-Encoding" not in member.get("/api/v1/models", headers=GZIP)
    assert "Content-Encoding" not in member.get("/healthz", headers=GZIP)


def test_a_stream_is_left_as_it_is():
    request = RequestFactory().get("/", headers=GZIP)
    for content_type in ("text/event-stream", "text/html"):
        stream = StreamingHttpResponse([b"x" * 1_000], content_type=content_type)
        assert "Content-Encoding" not in CompressionMiddleware(lambda _request, stream=stream: stream)(request)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_no_other_site_gets_a_guess_compressed_beside_what_is_somebodys(member, site):
    """BREACH: an address with a guess in it is reflected, and a right guess makes the page shorter."""
    sent = {**GZIP, "Sec-Fetch-Site": site}
    reflecting = member.get("/?guess=ana@example.com", headers=sent)
    assert "guess=ana@example.com" in reflecting.text  # as it is
    assert "Content-Encoding" not in reflecting
    for own in ("none", "same-origin"):
        assert "Content-Encoding" in member.get("/?guess=ana", headers={**GZIP, "Sec-Fetch-Site": own})
    assert "Content-Encoding" in Client().get("/", headers=sent)  # a visitor has no secrets


def test_the_length_of_a_page_is_blurred():
    """For browsers that do not say who sends them: the same page has many lengths."""
    html = get_random_string(2_000)
    compress = CompressionMiddleware(lambda _request: HttpResponse(html))
    answers = [compress(RequestFactory().get("/", headers=GZIP)).content for _ in range(200)]
    assert len({len(answer) for answer in answers}) > 50
    assert {gzip.decompress(answer).decode() for answer in answers} == {html}


def test_the_token_of_a_form_is_another_one_on_every_page(member):
    tokens = [re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', member.get("/").text)[0] for _ in range(2)]
    assert tokens[0] != tokens[1]


async def test_under_asgi_it_is_the_same(catalog):
    answer = await AsyncClient().get("/", headers=GZIP)
    assert answer["Content-Encoding"] == "gzip"
