"""What the application makes of a request before Django reads it: bodies in UTF-8, queries in ASCII."""

import logging
import time
from urllib.parse import urlencode

import pytest

from accounts.models import User
from config.logging import JsonFormatter, ShortRefusals
from core.redis_clients import sync_redis
from core.threads import in_thread
from tests.chat.live import session_cookie
from tests.fuzz.drawing import Request
from tests.fuzz.judging import Answer
from tests.fuzz.sending import send

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"
pytestmark = pytest.mark.usefixtures("redis")


async def post(path: str, body: bytes, content_type: str, *, query: bytes = b"", cookie: str = "") -> Answer:
    csrf = "a" * 32
    headers = {
        "host": "localhost:8000",
        "content-type": content_type,
        "content-length": str(len(body)),
        "x-csrftoken": csrf,
        "cookie": f"csrftoken={csrf}; {cookie}",
    }
    encoded = tuple((name.encode(), value.encode("latin-1")) for name, value in headers.items())
    return await send(Request("POST", path, query, encoded, body, "192.0.2.1"))


@pytest.mark.parametrize("charset", ["rot13", "base64", "zlib", "hex", "undefined", "utf-16", "latin-1", "\xff", '"'])
@pytest.mark.parametrize("kind", [FORM, MULTIPART])
async def test_a_form_is_read_as_utf_8_whatever_it_says(ana: User, charset: str, kind: str):
    """Python's codecs would take it apart, or break at it; some make much of a few bytes."""
    fields = {"name": "Añañé", "locale": "en", "time_zone": "UTC", "theme": "dark"}
    body = urlencode(fields).encode()
    if kind is MULTIPART:
        parts = [f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{fields[name]}\r\n' for name in fields]
        body = ("".join(parts) + "--x--\r\n").encode()
    cookie = await in_thread(session_cookie, ana)
    answer = await post("/settings/", body, f"{kind}; charset={charset}", cookie=cookie)
    assert answer.status == 302
    await in_thread(ana.refresh_from_db)
    assert ana.name == "Añañé"


async def test_json_is_read_as_utf_8_whatever_it_says(ana: User):
    body = b'{"email": "ana@example.com", "password": "una clave larga"}'
    assert (await post("/api/v1/auth/login", body, "application/json; charset=utf-16")).status == 200


async def test_a_charset_and_a_thousand_parameters_break_nothing_together(catalog: None):
    """Django reads the query where it takes the charset in, before there is anybody to answer."""
    answer = await post("/terms/", b"", f"{FORM}; charset=utf-8", query=b"a=1&" * 1_001)
    assert (answer.status, "x-request-id" in answer.headers) == (405, True)  # a page that takes no form


async def test_blanks_in_a_content_type_take_no_time(catalog: None):
    """A regular expression took eleven seconds for them, for everybody: it ran on the event loop."""
    begun = time.thread_time()
    answer = await post("/terms/", b"", f"a{' ' * 60_000}b; charset=utf-16")
    assert answer.status == 405
    assert time.thread_time() - begun < 3


async def test_a_query_beyond_ascii_reaches_its_page(catalog: None):
    """Django's own answer to it is a 400 without a word or an id."""
    assert (await post("/theme/", b"theme=dark", FORM, query=b"\xff=\xff&a=\xc3\xb1")).status == 302


async def test_a_cookie_that_is_no_key_of_ours_asks_redis_nothing(catalog: None):
    before = sync_redis().info("commandstats").get("cmdstat_get", {}).get("calls", 0)
    answer = await post("/theme/", b"theme=dark", FORM, cookie=f"sessionid={'x' * 5_000}")
    assert answer.status == 302
    assert sync_redis().info("commandstats").get("cmdstat_get", {}).get("calls", 0) == before


async def test_what_django_calls_suspicious_is_one_line_of_the_log(
    catalog: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    await post("/terms/", b"x=1&" * 1_001, FORM)
    record = next(one for one in caplog.records if one.name == "django.security.TooManyFieldsSent")
    console = next(handler for handler in logging.root.handlers if type(handler) is logging.StreamHandler)
    assert any(isinstance(one, ShortRefusals) for one in console.filters)
    assert console.filter(record)
    assert "Traceback" not in JsonFormatter().format(record)
