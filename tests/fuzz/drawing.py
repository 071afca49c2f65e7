"""What is sent: a valid request with something wrong in it, drawn at random and the same for the same seed."""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode
from uuid import UUID

from history.models import new_id
from tests.fuzz.people import PASSWORD, Cast
from tests.fuzz.url_map import Door

MARK = "<fuzz'\">"
"""A page that shows it as it is has echoed what was sent to it."""
Fields: TypeAlias = list[tuple[Any, Any]]
"""A body, which may have a name twice."""


@dataclass(frozen=True)
class Raw:
    """JSON that no encoder writes."""

    text: str


@dataclass(frozen=True)
class Request:
    method: str
    path: str  # percent-encoded
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    peer: str

    def header(self, name: str) -> bytes:
        return next((value for known, value in self.headers if known == name.encode()), b"")

    def __str__(self) -> str:
        headers = ", ".join(f"{name!r}: {value[:300]!r}" for name, value in self.headers)
        body = f"{self.body[:300]!r} ({len(self.body)} bytes)" if self.body else "no body"
        return f"{self.method} {self.path[:300]} ?{self.query[:300]!r} [{headers}] {body}"


# --- Values -----------------------------------------------------------------------------------------------------------

TEXTS = (
    *(
        "",
        " ",
        "\0",
        "a\0b",
        "\ud800",
        "a\udfff",
        "\udc00\ud800",
        MARK,
        f"{MARK}\0",
        f"\ud800{MARK}",
        "\n",
        "a\r\nb: c",
    ),
    *(
        "null",
        "true",
        "-1",
        "0",
        "1e999",
        "NaN",
        "9" * 30,
        "9" * 5_000,
        "٣",
        "²",
        "１",
        "\u202e",
        "\ufeff",
        "\U0010ffff",
    ),
    *("e\u0301" * 300, "e" + "\u0301" * 3_000, "ß" * 300, "👩‍👩‍👧" * 50, "x" * 101, "x" * 5_000, "x" * 300_000),
    *(
        "../../etc/passwd",
        "..\\..\\x",
        "//evil.example",
        "https://[",
        "javascript:alert(1)",
        "/%00",
        "%",
        "%zz",
        "{{7*7}}",
    ),
    *(
        "' OR 1=1 --",
        "%(x)s",
        "{0.__class__}",
        "$ne",
        "*",
        "[]",
        "[",
        "a@b",
        "@",
        "a@b.example\0",
        "x" * 250 + "@b.example",
    ),
    *("ana@example.com", "UTC", "../UTC", "Europe/Madrid\0", "es", "dark", "scripted", "auto", "demo"),
    *("2026-01-01", "0000-00-00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1-1-1", "--", "1-2-3"),
)
NUMBERS = (
    *(0, -1, 1, 1.5, 2**31, 2**63, 2**64, -(2**63) - 1, 10**40, Raw("9" * 5_000), Raw("-" + "9" * 5_000)),
    *(
        Raw("1e999"),
        Raw("-1e999"),
        Raw("1e-999"),
        Raw("NaN"),
        Raw("Infinity"),
        Raw("-Infinity"),
        Raw("-0.0"),
        Raw("01"),
    ),
)
DEPTHS = (30, 200, 480, 900, 990, 1_100, 3_000, 100_000)
CHARSETS = (
    *(
        "utf-8",
        "UTF8",
        "utf-16",
        "utf-7",
        "latin-1",
        "ascii",
        "cp037",
        "idna",
        "punycode",
        "undefined",
        "unicode_escape",
    ),
    *("raw_unicode_escape", "rot13", "base64", "zlib", "hex", "bz2", "mbcs", "klingon", "\xff", '"', "", "a" * 300),
)
TYPES = (
    *(
        "application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
    ),
    *(
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=\xff",
        "multipart/mixed; boundary=x",
        "text/html",
    ),
    *("multipart/form-data; boundary=" + "x" * 300, "application/xml", "a", "a/b/c", "/", ";", "", "\xff/\xff", "*/*"),
    *("application/json;;;", "application/json; charset", "application/vnd.api+json", "x" * 3_000 + "/json"),
)


def draw_text(random: Random) -> str:
    if random.random() < 0.1:
        return "".join(chr(random.choice((random.randrange(0x80), random.randrange(0x11_0000)))) for _ in range(20))
    return random.choice(TEXTS)


def draw_id(random: Random, cast: Cast) -> str:
    """Return an id of the member's, of somebody else's, or of nothing."""
    ids = random.choice((cast.own, cast.foreign))
    return random.choice((*random.choice(list(ids.values())), str(UUID(int=0)), str(new_id()), "F" * 32))


def draw_value(random: Random, cast: Cast) -> Any:
    """Return what a field may be set to: of the right type or any other, and out of every bound."""
    deep = random.choice(DEPTHS)
    return random.choice(
        (
            lambda: draw_text(random),
            lambda: draw_text(random),
            lambda: random.choice(NUMBERS),
            lambda: draw_id(random, cast),
            lambda: random.choice(
                (None, True, False, [], {}, [None], [[]], [""], {"": ""}, {MARK: MARK}, {"\ud800": 1})
            ),
            lambda: [draw_text(random), draw_id(random, cast)],
            lambda: [draw_id(random, cast)] * random.choice((1, 101, 1_001)),
            lambda: Raw("[" * deep + "]" * deep),
            lambda: Raw('{"a":' * deep + "1" + "}" * deep),
            lambda: draw_token(random, cast),
        )
    )()


def draw_token(random: Random, cast: Cast) -> str:
    """Return a token of the API, or what looks like one."""
    deep = random.choice(DEPTHS)
    heads = (
        '{"alg":"none"}',
        '{"alg":"HS256","typ":"JWT"}',
        '{"alg":"HS256","crit":["b64"],"b64":false}',
        '{"alg":["HS256"]}',
        '{"alg":{"a":1},"kid":1}',
        '{"alg":"\\ud800"}',
        '{"alg":"HS256","alg":null,"kid":"\\u0000"}',
        f'{{"alg":"HS256","x":{"[" * deep}{"]" * deep}}}',
        "[" * deep,
        "[]",
        "null",
        "1" * 5_000,
        "\xff",
        "",
    )
    head = base64.urlsafe_b64encode(random.choice(heads).encode()).decode().rstrip("=")
    pieces = random.choice((cast.access, cast.refresh)).split(".")
    changed = random.randrange(4)
    if changed < 3:
        pieces[changed] = random.choice((head, head, "", "é", "=", "A", pieces[changed][:-1], "A" * 20_000))
    return ".".join(pieces[: random.choice((1, 2, 3, 3, 3, 3))]) + random.choice(("", "", "", ".", " x", "\0"))


# --- Bodies -----------------------------------------------------------------------------------------------------------


def json_of(value: Any) -> str:
    """Return the value as JSON: pairs as an object, Raw as it is, lone surrogates escaped."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return "{" + ",".join(f"{json_of(name)}:{json_of(held)}" for name, held in value) + "}"
    if isinstance(value, dict):
        return json_of(list(value.items())) if value else "{}"
    if isinstance(value, list):
        return "[" + ",".join(map(json_of, value)) + "]"
    return json.dumps(value)


def encode(text: str, random: Random) -> bytes:
    """Return the text as bytes: surrogates as nobody may write them, and at times a byte that is no UTF-8."""
    data = text.encode("utf-8", "surrogatepass")
    if random.random() < 0.05:
        at = random.randrange(len(data) + 1)
        data = data[:at] + random.choice((b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\0", b"\xe2\x82")) + data[at:]
    return data


def change(fields: Fields, random: Random, draw: Callable[[], Any]) -> Fields:
    """Return the fields with one thing changed, or none; seldom with two."""
    changed = list(fields)
    for _ in range(random.choice((0, 1, 1, 1, 1, 1, 1, 2))):
        at = random.randrange(len(changed)) if changed else -1
        match random.randrange(8):
            case 0 if changed:
                del changed[at]
            case 1 if changed:
                changed[at] = (draw_text(random), changed[at][1])
            case 2 if changed:
                changed.append((changed[at][0], draw()))
            case 3:
                changed.append((draw_text(random), draw()))
            case 4 if random.random() < 0.3:
                changed.extend((f"field{number}", "x") for number in range(1_001))
            case _ if changed:
                changed[at] = (changed[at][0], draw())
    return changed


def draw_json(random: Random, fields: Fields, cast: Cast) -> bytes:
    deep = random.choice(DEPTHS)
    odd = (
        "null",
        "[]",
        '"x"',
        "1",
        "{",
        "",
        "[" * deep,
        '{"a":' * deep,
        "[" * deep + "]" * deep,
        "NaN",
        "\ufeff{}",
        "{}x",
    )
    if random.random() < 0.2:
        return encode(random.choice(odd), random)
    text = json_of(change(fields, random, lambda: draw_value(random, cast)) or {})
    return encode(text, random) if random.random() < 0.95 else text.encode("utf-16", "surrogatepass")


def draw_form(random: Random, fields: Fields, cast: Cast) -> bytes:
    if random.random() < 0.05:
        return random.choice(
            (b"&" * 3_000, b"=" * 3_000, b"%", b"%ff=%ff&%00=%00", b"a;b", b"\xff\xfe", b"x=" + b"a" * 300_000)
        )
    pairs = change(fields, random, lambda: as_text(draw_value(random, cast)))
    return urlencode(pairs, errors="surrogatepass").encode()


def draw_multipart(random: Random, fields: Fields, cast: Cast) -> bytes:
    """Return a body with the boundary `x`, and what may be wrong with one."""
    parts = [
        f'Content-Disposition: form-data; name="{name}"\r\n\r\n{as_text(value)}'.encode("utf-8", "surrogatepass")
        for name, value in change(fields, random, lambda: as_text(draw_value(random, cast)))
    ]
    for name in random.choice(((), ("file",), ("files",), ("file", "files"))):
        filename = random.choice(("a.txt", "", "\0", "a\0.png", "../x", MARK, "x" * 3_000, "\xff", 'a"; x="', "."))
        extra = random.choice(
            (
                *(
                    "",
                    "",
                    "",
                    "Content-Type: image/png\r\n",
                    "Content-Type: \xff\r\n",
                    "Content-Type: text/plain; charset=rot13\r\n",
                ),
                *("Content-Transfer-Encoding: base64\r\n", "Content-Length: -1\r\n", "Content-Length: x\r\n"),
                *(f"X: {'x' * 3_000}\r\n", "X\r\n", "Content-Disposition: form-data\r\n"),
            )
        )
        star = random.choice(
            ("", "", "; filename*=UTF-8''%ff", "; filename*=klingon''x", "; filename*=x", "; filename*0=a")
        )
        head = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"{star}\r\n{extra}\r\n'
        data = random.choice(
            (b"hola", b"", b"\xff\xd8\xff", b"%PDF-1.4", b"<svg/>", b"=" * 100, b"GIF89a" + b"\0" * 50)
        )
        parts.append(head.encode() + data)
    if random.random() < 0.1:
        parts.append(
            random.choice(
                (b"", b"\r\n\r\n", b"Content-Disposition\r\n\r\nx", b"Content-Disposition: form-data; name=\r\n\r\n")
            )
        )
    body = b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"
    if random.random() < 0.2:
        return body[: random.randrange(len(body))]
    return body


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json_of(value)


# --- Addresses --------------------------------------------------------------------------------------------------------

SEGMENTS = (
    *(
        "%00",
        "%0a",
        "%ff",
        "%ED%A0%80",
        "..",
        "..%2f..%2fetc%2fpasswd",
        "-1",
        "9" * 30,
        "0",
        "1",
        "add",
        "_5F_ZZ_",
        "%20",
    ),
    *(
        "x" * 3_000,
        quote(MARK),
        "%E2%80%AE",
        "%25",
        "%3B",
        "a;b=c",
        "None",
        "1e9",
        "１",
        "%3Fx",
        "%23",
        "*",
        "set-password",
    ),
)
QUERY_NAMES = (
    *(
        "after",
        "q",
        "next",
        "t",
        "ticket",
        "o",
        "p",
        "e",
        "all",
        "_popup",
        "_to_field",
        "_changelist_filters",
        "page",
        "app_label",
    ),
    *(
        "model_name",
        "field_name",
        "term",
        "id__exact",
        "pk__in",
        "created_at__year",
        "created_at__month",
        "password__startswith",
    ),
    *(
        "is_active__exact",
        "status__exact",
        "key",
        "format",
        "\0",
        MARK,
        "\ud800",
        "a[]",
        "day__gte",
        "_facets",
        "email",
    ),
)
CURSORS = (
    *("2026-01-01T00:00:00+00:00~0193a1b0-0000-7000-8000-000000000001", "2026-01-01T00:00:00~" + "0" * 32, "~", "~~"),
    *("0001-01-01T00:00:00+14:00~" + "0" * 32, "9999-12-31T23:59:59.999999-23:59~" + "f" * 32, "2026-W01~" + "0" * 32),
    *(
        "2026-01-01T00:00:00+00:00~x",
        "20260101T000000Z~{" + "0" * 32 + "}",
        "1",
        "0",
        "-1",
        "9" * 9,
        "9" * 10,
        "²",
        "٣",
    ),
)


def draw_path(random: Random, door: Door, cast: Cast) -> str:
    """Return the path of a door, with parameters that are the member's, somebody else's, or no such thing."""
    values: dict[str, str] = {}
    for name in door.parameters:
        kind = random.random()
        if door.model is not None and kind < 0.6:
            keys = list(door.model._default_manager.values_list("pk", flat=True)[:5])
            values[name] = quote(str(random.choice(keys or [1])), safe="")
        elif name == "key" and kind < 0.5:
            values[name] = quote(cast.mailed_key, safe=":")
        elif kind < 0.6:
            values[name] = random.choice(cast.own.get(name, ("1",)))
        elif kind < 0.8:
            values[name] = random.choice(cast.foreign.get(name, ("2",)))
        else:
            values[name] = random.choice(SEGMENTS)
    path = door.route % values if door.parameters else door.route.replace("%%", "%")
    if random.random() < 0.03:
        path += random.choice(("/", "//", *SEGMENTS))
    return path


def draw_query(random: Random, cast: Cast) -> bytes:
    if random.random() < 0.6:
        return b""
    if random.random() < 0.05:
        return random.choice((b"&" * 1_100, b"a=" * 500, b"%00=%00", b"\xff=\xff", b"%", b"a=1&" * 1_001, b"?" * 3_000))
    pairs = [
        (random.choice(QUERY_NAMES), random.choice((random.choice(CURSORS), as_text(draw_value(random, cast))[:4_000])))
        for _ in range(random.choice((1, 1, 2, 5)))
    ]
    return urlencode(pairs, errors="surrogatepass").encode()


# --- Headers ----------------------------------------------------------------------------------------------------------

ODD = (
    *(b"", b" ", b"*", b",", b";", b"=", b'"', b"\xff\xfe", b"\x01", b"-1", b"0", b"9" * 5_000, b"x" * 3_000, b"null"),
    *(MARK.encode(), b"a" + b",a" * 500, b";q=" * 500, b"a;q=2,b;q=x", b"a=b; " * 300, "ñ".encode(), b"()<>@,;:[]?={}"),
)
HEADERS: dict[str, Sequence[bytes]] = {
    "accept": (
        b"text/html",
        b"application/json; indent=999999",
        b"text/html;q=abc",
        b"application/xml",
        b"*/*;version=1",
    ),
    "accept-language": (b"pt-BR", b"en;q=x", b"xx-" + b"y" * 300, b"../../en", b"es," * 300, b"zh-Hant-" + b"x-" * 50),
    "accept-encoding": (b"gzip", b"br;q=9", b"identity;q=0"),
    "x-forwarded-for": (b"1.2.3.4", b"::1%x", b"1.2.3.4, x", b",", b"[::1]:80", b"127.0.0.1"),
    "x-forwarded-proto": (b"https", b"https,http", b"gopher"),
    "x-forwarded-host": (b"evil.example",),
    "x-request-id": (b"a" * 8, b"a" * 65, b"a\nb"),
    "if-none-match": (b"*", b'"x"', b'W/"', b'"x",,"y"'),
    "if-modified-since": (b"Thu, 01 Jan 1970 00:00:00 GMT", b"Thu, 99 Xxx 0000 99:99:99 GMT", b"0"),
    "if-match": (b"*",),
    "range": (
        b"bytes=0-1",
        b"bytes=9-1",
        b"bytes=-",
        b"bytes=x-y",
        b"bytes=0-" + b"9" * 30,
        b"bytes=-" + b"9" * 30,
        b"lines=1-2",
    ),
    "last-event-id": (
        b"over",
        b"1-2-3",
        b"1-" + b"9" * 30 + b"-0",
        b"1-" + b"9" * 5_000,
        "١-٢-٣".encode(),
        b"--",
        b"-1--1--1",
    ),
    "hx-request": (b"true", b"false"),
    "hx-current-url": (b"http://localhost:8000/", b"https://["),
    "hx-target": (b"x",),
    "x-requested-with": (b"XMLHttpRequest",),
    "x-http-method-override": (b"DELETE", b"BREW"),
    "referer": (b"http://localhost:8000/", b"https://evil.example/", b"https://[", b"/\r\n", b"/" + b"x" * 20_000),
    "origin": (b"http://localhost:8000", b"https://evil.example", b"null", b"https://["),
    "host": (b"evil.example", b"localhost:99999", b"localhost:x", b"[::1", b"a b", b"localhost."),
    "content-encoding": (b"gzip",),
    "expect": (b"100-continue",),
    "upgrade": (b"websocket",),
}
COOKIES = (
    *(
        b"sessionid=",
        b"sessionid=x",
        b"sessionid=" + b"x" * 5_000,
        b"sessionid=\x00",
        b"sessionid=..%2f",
        b"sessionid=\xff",
    ),
    *(b"csrftoken=x", b"csrftoken=\xff", b"django_language=xx", b"django_language=../..", b"theme=" + MARK.encode()),
    *(
        b"messages=x",
        b"messages=[[[",
        b"messages=" + b"[" * 5_000,
        b"=",
        b";",
        b"a",
        b"a=" * 300,
        b"\xff=\xff",
        b"theme=dark",
    ),
)


def draw_headers(random: Random) -> dict[str, bytes]:
    names = random.sample(list(HEADERS), random.choice((0, 0, 1, 1, 2, 4)))
    return {name: random.choice((*HEADERS[name], *HEADERS[name], random.choice(ODD))) for name in names}


def draw_identity(random: Random, door: Door, cast: Cast) -> dict[str, bytes]:
    """Return the headers of a visitor, a member or an operator, as browsers and programs send them, and forged ones."""
    csrf = "a" * 32
    kind = random.random()
    if door.is_admin:
        kind = 0.9 if kind < 0.8 else kind
    cookies = [f"csrftoken={csrf}".encode()]
    headers: dict[str, bytes] = {"x-csrftoken": csrf.encode()} if random.random() < 0.95 else {}
    if kind < 0.2:
        pass
    elif kind < 0.3:
        scheme = random.choice(("Bearer ", "bearer ", "Bearer", "Basic ", "", "Bearer  ", "Token "))
        headers["authorization"] = (scheme + draw_token(random, cast)).encode("utf-8", "replace")
    elif kind < 0.6 and door.is_api:
        headers["authorization"] = f"Bearer {cast.access}".encode()
    elif kind < 0.85:
        cookies.append(cast.member_cookie.encode())
    else:
        cookies.append(cast.operator_cookie.encode())
    if random.random() < 0.1:
        cookies.insert(random.randrange(len(cookies) + 1), random.choice(COOKIES))
    return headers | {"cookie": b"; ".join(cookies)}


# --- Requests ---------------------------------------------------------------------------------------------------------


def draw_request(random: Random, door: Door, cast: Cast) -> Request:
    headers = {"host": b"localhost:8000", **draw_headers(random), **draw_identity(random, door, cast)}
    method = draw_method(random, door)
    body = b""
    if method not in ("GET", "HEAD") or random.random() < 0.05:
        kind, body = draw_body(random, sample_of(door, cast), door, cast)
        headers["content-type"] = draw_content_type(random, kind)
        headers["content-length"] = str(len(body)).encode()
    return Request(
        method=method,
        path=draw_path(random, door, cast),
        query=draw_query(random, cast),
        headers=tuple((name.encode(), value) for name, value in headers.items()),
        body=body,
        peer=f"198.51.{random.randrange(256)}.{random.randrange(256)}" if random.random() < 0.9 else "127.0.0.1",
    )


def draw_method(random: Random, door: Door) -> str:
    if random.random() < 0.1:
        return random.choice(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "get"))
    if hasattr(door.view, "cls") and door.is_api:
        return random.choice(door.methods)
    return random.choice(("GET", "POST", "POST"))


def draw_body(random: Random, fields: Fields, door: Door, cast: Cast) -> tuple[str, bytes]:
    kind = "application/json" if door.is_api else "application/x-www-form-urlencoded"
    if door.route.rstrip("/").endswith(("/attachments", "/imports", "/import-export", "/batches")) or (
        door.route.startswith("/c/") and random.random() < 0.5
    ):
        kind = "multipart/form-data; boundary=x"
    if random.random() < 0.08:
        kind = random.choice(
            ("application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
        )
    if kind == "application/json":
        return kind, draw_json(random, fields, cast)
    return kind, (draw_form if kind.startswith("application") else draw_multipart)(random, fields, cast)


def draw_content_type(random: Random, kind: str) -> bytes:
    if random.random() < 0.05:
        kind = random.choice(TYPES)
    if random.random() < 0.08:
        kind += f"; charset={random.choice(CHARSETS)}"
    return kind.encode("latin-1")


# --- Valid bodies -----------------------------------------------------------------------------------------------------


def sample_of(door: Door, cast: Cast) -> Fields:
    """Return the fields of a request that the door takes."""
    if door.model is not None:
        names = [field.name for field in door.model._meta.get_fields() if not field.is_relation or field.concrete]
        chosen = str(door.model._default_manager.values_list("pk", flat=True).first())
        acts: Fields = [("post", "yes"), ("action", "delete_selected"), ("_selected_action", chosen), ("index", "0")]
        return [
            *((name, "1") for name in names),
            ("_save", "1"),
            *acts,
            ("password1", PASSWORD),
            ("password2", PASSWORD),
        ]
    find = SAMPLES.get(door.route)
    return find(cast) if find else []


def _question(cast: Cast) -> Fields:
    return [
        ("text", "say:hola"),
        ("model", "scripted"),
        ("effort", ""),
        ("parent_id", cast.own["turn_id"][0]),
        ("beside_id", None),
        ("turn_id", str(new_id())),
        ("stream", True),
        ("attachments", []),
        ("folder_id", cast.own["folder_id"][0]),
    ]


def _log_in(name: str) -> Callable[[Cast], Fields]:
    return lambda cast: [(name, cast.email), ("password", PASSWORD)]


def _fields(**fields: Any) -> Callable[[Cast], Fields]:
    return lambda _cast: list(fields.items())


def _none(_cast: Cast) -> Fields:
    return []


ME: dict[str, Any] = {"name": "Ana", "locale": "en", "time_zone": "Europe/Madrid", "theme": "dark"}
PASSWORDS = {"oldpassword": PASSWORD, "password1": PASSWORD, "password2": PASSWORD}
SAMPLES: dict[str, Callable[[Cast], Fields]] = {
    "/api/v1/auth/register": _fields(email="new@example.com", password=PASSWORD, **ME),
    "/api/v1/auth/login": _log_in("email"),
    "/api/v1/auth/refresh": lambda cast: [("refresh", cast.refresh)],
    "/api/v1/auth/logout": lambda cast: [("refresh", cast.refresh)],
    "/api/v1/auth/logout-everywhere": _none,
    "/api/v1/me": _fields(**ME),
    "/api/v1/conversations": lambda _cast: [("id", str(new_id())), ("title", "Hola")],
    "/api/v1/conversations/%(conversation_id)s": lambda cast: [
        *(("title", "Hola"), ("leaf_id", cast.own["turn_id"][0])),
        *(("folder_id", cast.own["folder_id"][0]), ("is_pinned", True), ("is_archived", False)),
    ],
    "/api/v1/conversations/%(conversation_id)s/restore": _none,
    "/api/v1/folders": _fields(name="Cocina", model="scripted", instructions="En verso."),
    "/api/v1/folders/%(folder_id)s": _fields(name="Cocina", model="", instructions=""),
    "/api/v1/conversations/%(conversation_id)s/turns": _question,
    "/api/v1/conversations/%(conversation_id)s/shares": lambda cast: [
        ("id", str(new_id())),
        ("until_turn_id", cast.own["turn_id"][0]),
        ("expires_at", "2040-01-01T00:00:00Z"),
        ("members_only", False),
        ("show_name", True),
    ],
    "/api/v1/shares/%(share_id)s/update": _none,
    "/api/v1/batches/%(batch_id)s/start": _fields(max_cost_micros=5_000),
    "/api/v1/batches/%(batch_id)s/cancel": _none,
    "/api/v1/turns/%(turn_id)s/stop": _none,
    "/api/v1/turns/%(turn_id)s/fork": lambda _cast: [("conversation_id", str(new_id()))],
    "/api/v1/attachments": _fields(name="x"),
    "/api/v1/imports": _fields(name="x"),
    "/api/v1/batches": _fields(start="true", max_cost_micros="5", webhook_url="https://example.com/"),
    "/settings/batches/": _fields(limit="5", webhook_url="https://example.com/"),
    "/api/v1/exports": _none,
    "/api/v1/socket-tickets": _none,
    "/api/v1/keys": lambda _cast: [
        *(("id", str(new_id())), ("name", "Job"), ("scopes", ["chat", "history"]), ("models", ["scripted"])),
        *(("monthly_credits", 10), ("expires_at", "2040-01-01T00:00:00Z")),
    ],
    "/accounts/login/": _log_in("login"),
    "/accounts/signup/": _fields(email="new@example.com", password1=PASSWORD, terms="on", time_zone="UTC"),
    "/accounts/reauthenticate/": _fields(password=PASSWORD, next="/accounts/email/"),
    "/accounts/email/": lambda cast: [("email", cast.email), ("action_add", ""), ("action_send", "")],
    "/accounts/password/change/": _fields(**PASSWORDS),
    "/accounts/password/set/": _fields(**PASSWORDS),
    "/accounts/password/reset/": lambda cast: [("email", cast.email)],
    "/accounts/password/reset/key/%(uidb36)s-%(key)s/": _fields(**PASSWORDS),
    "/accounts/login/code/confirm/": _fields(code="123456", next="/"),
    "/accounts/logout/": _fields(next="/"),
    "/settings/": _fields(**ME),
    "/settings/close/": _fields(email="nobody@example.com"),  # of the cast, nobody leaves
    "/language/": _fields(language="es", next="/"),
    "/theme/": _fields(theme="dark", next="/"),
    "/c/%(conversation_id)s/": lambda cast: [(name, as_text(value)) for name, value in _question(cast)],
    "/c/%(conversation_id)s/branch/": lambda cast: [("turn", cast.own["turn_id"][0])],
    "/turns/%(turn_id)s/edit/": lambda cast: [("edit", cast.own["turn_id"][0]), ("text", "say:hola")],
    "/turns/%(turn_id)s/fork/": lambda _cast: [("forks", str(new_id()))],
    "/conversations/change/": lambda cast: [("do", f"pin:{cast.own['conversation_id'][0]}")],
    "/conversations/trash/": _fields(until="2026-11-30T10:00:00+00:00"),
    "/folders/new/": _fields(name="Cocina", model="scripted", instructions="En verso."),
    "/folders/%(folder_id)s/change/": _fields(name="Cocina", model="", instructions=""),
    "/folders/%(folder_id)s/delete/": _fields(conversations="trash"),
    "/c/%(conversation_id)s/rename/": _fields(title="Hola"),
    "/settings/keys/": lambda _cast: [
        *(("id", str(new_id())), ("name", "Job"), ("scopes", "chat"), ("models", "scripted")),
        *(("days", "30"), ("monthly_credits", "10")),
    ],
    "/c/%(conversation_id)s/share/": lambda _cast: [("id", str(new_id())), ("days", "7"), ("is_for_members", "on")],
    "/share/%(token)s/report/": lambda _cast: [("id", str(new_id())), ("reason", "spam"), ("text", "Hola")],
    "/share/%(token)s/copy/": lambda _cast: [("id", str(new_id()))],
    "/admin/password_change/": _fields(old_password=PASSWORD, new_password1=PASSWORD, new_password2=PASSWORD),
}
"""By route. A route of the API that takes a body has an entry here: a test compares them."""
