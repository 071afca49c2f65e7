"""What is somebody else's is to everybody what never was: the same answer, byte for byte, through every address of the
URL map that takes an id, through every id in a body, a query or a form, and through the socket; and nothing of it is
changed, nor named in a row of anybody else.

Where the client chooses an id, for a new conversation, turn, folder, key or link, the answer has to say that it cannot
be had. All that this tells is that the id is in use, and nobody comes upon one by chance: each has at least 74 random
bits. So it must tell nothing else: neither in which state that is, nor whose.

Doors are those of the URL map, fields those of the OpenAPI document, of the pages' sources and of the socket's
commands: one that is new fails here until somebody says whose its id is.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints
from urllib.parse import quote

import pytest
from asgiref.sync import async_to_sync
from django.apps import apps
from django.conf import settings as django_settings
from django.contrib.admin.utils import quote as admin_quote
from django.contrib.contenttypes.models import ContentType
from django.db.models import Model
from django.test import Client
from pytest_django import Settings

from accounts.keys import KeyTerms, make_key
from accounts.models import User
from accounts.tokens import begin_family
from billing.models import BillingAccount, Plan
from billing.seeds import load_prices
from chat.models import LanguageModel
from chat.pages import question_form
from chat.socket.vocabulary import Command, Start
from config.openapi import documents
from core.redis_clients import sync_redis
from core.threads import in_thread
from history.models import new_id
from tests.chat.attaching import stored_names
from tests.chat.live import Page, socket
from tests.chat.test_staff_reading import staff
from tests.fuzz.belongings import Ids, fill_admin, missing_like, own_everything, row_of
from tests.fuzz.drawing import SAMPLES
from tests.fuzz.people import PASSWORD, belongings_of
from tests.fuzz.url_map import Door, list_doors

SITES = frozenset(
    ("model_id", "price_id", "form", "uuid", "app_label", "url", "name", "content_type_id", "provider_id", "word")
)
"""Parameters that name something of the site's, which is for everybody or for the admin alone."""
MAILED = frozenset(("/accounts/confirm-email/%(key)s/", "/accounts/password/reset/key/%(uidb36)s-%(key)s/"))
"""Whoever has such a link had the mail. It is signed: nobody finds one by trying."""
KINDS: dict[tuple[str, str], str] = {
    ("/accounts/2fa/webauthn/", "pk"): "authenticator_id",
    ("/billing/", "key"): "purchase_key",
    ("/share/", "token"): "dead_link",  # a live one is for whoever has it
}
"""What a parameter is the id of, where its name does not say it."""
BEGINS = frozenset(("/c/%(conversation_id)s/", "/api/v1/conversations/%(conversation_id)s/turns"))
"""Where a POST with an id that never was begins a conversation: somebody else's gets what a GET gets of none."""
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
VARYING = ("X-Request-ID", "Content-Length", "Set-Cookie", "Expires", "Last-Modified")


pytestmark = pytest.mark.timeout(900)  # thousands of requests


@dataclass(frozen=True)
class Visitor:
    """Somebody, as their browser or program comes. `ids` are of what they own."""

    name: str
    ids: Ids = field(default_factory=dict)
    email: str = "nobody@example.com"
    cookies: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, fields: Any = None, *, is_api: bool = False) -> Any:
        client = Client(REMOTE_ADDR="192.0.2.7")
        for name, value in self.cookies.items():
            client.cookies[name] = value
        send: Any = getattr(client, method.lower())
        if method == "GET":
            return send(path, fields, headers=self.headers)
        if is_api or method != "POST":
            return send(path, fields, content_type="application/json", headers=self.headers)
        return send(path, {k: v for k, v in (fields or {}).items() if v is not None}, headers=self.headers)


def shown(answer: Any, *ids: str) -> tuple[object, ...]:
    """Return all that is seen of an answer, without what differs from request to request and the ids that were sent."""
    headers = {name: without(value, answer, ids) for name, value in answer.items() if name not in VARYING}
    body = without(body_of(answer).decode("utf-8", "replace"), answer, ids)
    answer.close()
    return answer.status_code, tuple(sorted(headers.items())), tuple(sorted(answer.cookies)), body


def body_of(answer: Any) -> bytes:
    """Return what an answer has; nothing of one that waits for a runner."""
    if not answer.streaming:
        return bytes(answer.content)
    if not answer.is_async:
        return b"".join(answer.streaming_content)
    return async_to_sync(joined)(answer) if "Content-Disposition" in answer else b""


async def joined(answer: Any) -> bytes:
    return b"".join([part async for part in answer.streaming_content])


def without(text: str, answer: Any, ids: tuple[str, ...]) -> str:
    text = TOKENS.sub(r"\1", text.replace(answer.headers.get("X-Request-ID", "-"), "<request>"))
    for one in ids:  # a number stands between slashes
        for before, after in (("/", "/"), ("%2F", "%2F")) if one.isdecimal() else (("", ""),):
            for written in (one, quote(one)):
                text = text.replace(f"{before}{written}{after}", f"{before}<id>{after}")
    return UUIDS.sub("<new>", text)


TOKENS = re.compile(r'(name="csrfmiddlewaretoken" value=|csrf-token" content=|nonce=|nonce-|\?t=)"?[\w+/=-]+')
UUIDS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


# --- What nobody may change -------------------------------------------------------------------------------------------


def all_rows() -> dict[tuple[str, object], Any]:
    models = [model for model in apps.get_models() if model._meta.managed]
    return {(model._meta.label, row["pk"]): row for model in models for row in rows_of(model)}


def rows_of(model: type[Model]) -> Iterator[dict[str, Any]]:
    for row in model._default_manager.values():
        yield {"pk": row[model._meta.pk.attname], **row}


OWNED_KEYS = ("temporary:", "turn:", "devices:", "answers:", "asked:", "cache:1:django.contrib.sessions")


def all_keys() -> dict[bytes, Any]:
    keys = [key for key in sync_redis().scan_iter() if key.decode().startswith(OWNED_KEYS)]
    return {key: sync_redis().dump(key) for key in keys}


@dataclass(frozen=True)
class Snapshot:
    """All rows, keys and files there were before a stranger came."""

    rows: dict[tuple[str, object], Any] = field(default_factory=all_rows)
    keys: dict[bytes, Any] = field(default_factory=all_keys)
    files: set[str] = field(default_factory=stored_names)

    def complaints(self, ids: Ids) -> Iterator[str]:
        """Yield what is not as it was, and rows made since that have one of the ids in them."""
        rows, keys = all_rows(), all_keys()
        for name, row in self.rows.items():
            if rows.get(name) != row:
                yield f"{name} was {row}, is {rows.get(name)}"
        for key, value in self.keys.items():
            if keys.get(key) != value:
                yield f"{key!r} was changed"
        if gone := self.files - stored_names():
            yield f"files are gone: {gone}"
        named = [one for kind, found in ids.items() if kind not in NUMBERED for one in found]
        for name in rows.keys() - self.rows.keys():
            text = repr(rows[name])
            if found := [one for one in named if one in text or one.replace("-", "") in text]:
                yield f"{name} names {found}: {text}"


NUMBERED = frozenset(("account_id", "authenticator_id", "payment_id"))


# --- The site ---------------------------------------------------------------------------------------------------------


@dataclass
class Site:
    owner: Visitor
    before: Snapshot
    strangers: dict[str, Visitor]
    staff: dict[str, tuple[Visitor, User]]

    def owner_ids(self) -> list[str]:
        """Return the owner's ids that nothing has by chance."""
        return [one for kind, ids in self.owner.ids.items() if kind not in NUMBERED for one in ids]


def member(name: str) -> User:
    user = User.objects.create_user(f"{name}@example.com", PASSWORD, locale="en")
    BillingAccount.objects.create(user=user, plan=Plan.objects.get(key="open"))
    return user


def cookies_of(user: User) -> dict[str, str]:
    browser = Client(REMOTE_ADDR="192.0.2.7")
    browser.post("/accounts/login/", {"login": user.email, "password": PASSWORD})
    browser.post("/accounts/reauthenticate/", {"password": PASSWORD})
    return {name: morsel.value for name, morsel in browser.cookies.items() if name in ("sessionid", "device")}


@pytest.fixture
def site(catalog: None, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Site:
    settings.API_REQUESTS_PER_MINUTE = 0
    settings.GATEWAYS = {"fake": "tests.billing.fake_gateway.FakeGateway"}
    settings.ADMIN_REQUIRES_SECOND_FACTOR = False
    settings.ACCOUNT_REAUTHENTICATION_TIMEOUT = 3_600
    monkeypatch.setattr(question_form, "READING_SECONDS", 0.0)
    load_prices("fake", "USD")
    LanguageModel.objects.filter(key="scripted").update(sees_images=True)
    Plan.objects.create(key="open", name="Open", best_tier="strong", rank=9, has_comparison=True, has_batches=True)
    ana, reader = member("ana"), staff("support", "reader@example.com")
    cookies = cookies_of(ana)  # before they have a second factor
    owner = Visitor("owner", own_everything(ana, reader), ana.email, cookies)
    fill_admin()
    before = Snapshot()
    assert all(any(key.startswith(one.encode()) for key in before.keys) for one in OWNED_KEYS), before.keys

    bo = member("bo")
    cookies = cookies_of(bo)
    ids = belongings_of(bo)
    ids["live_link"] = ids["token"]
    _key, secret = make_key(bo, KeyTerms(name="x", scopes=("chat", "history", "usage")), peer="", key_id=new_id())

    def by(token: object) -> dict[str, str]:
        return {"authorization": f"Bearer {token}"}

    strangers = [
        Visitor("guest"),
        Visitor("browser", ids, bo.email, cookies),
        Visitor("fragment", ids, bo.email, cookies, {"hx-request": "true"}),
        Visitor("token", ids, bo.email, headers=by(begin_family(bo).access_token)),
        Visitor("key", ids, bo.email, headers=by(secret)),
    ]
    of_staff = {}
    for role in ("support", "billing"):
        user = staff(role)
        of_staff[role] = Visitor(role, ids, user.email, cookies_of(user)), user
    return Site(owner, before, {one.name: one for one in strangers}, of_staff)


def sample_of(route: str, visitor: Visitor) -> dict[str, Any]:
    """Return the fields of a request that the door takes, with what the visitor owns."""
    cast: Any = SimpleNamespace(email=visitor.email, own=visitor.ids, refresh="x")
    find = SAMPLES.get(route)
    return dict(find(cast)) if find and visitor.ids else {}


# --- Ids in addresses -------------------------------------------------------------------------------------------------


def kind_of(door: Door, parameter: str) -> str:
    of_prefix = (kind for (prefix, name), kind in KINDS.items() if door.route.startswith(prefix) and name == parameter)
    return next(of_prefix, parameter)


def doors_of_members() -> Iterator[tuple[Door, str]]:
    """Yield the doors that take the id of something a member owns, each with the parameter that takes it."""
    for door in list_doors():
        for parameter in set(door.parameters) - SITES:
            if not door.is_admin and door.route not in MAILED:
                yield door, parameter


def address(door: Door, **values: str) -> str:
    return door.route % ({"form": "json"} | values)


def differences(
    visitor: Visitor, door: Door, parameter: str, values: Sequence[str], methods: Iterable[str]
) -> Iterator[str]:
    """Yield how answers to somebody else's ids differ from those to one that never was."""
    for method in methods:
        answers: dict[bool, tuple[object, ...]] = {}  # to what never was, by whether it looks temporary
        for value in values:
            foreign = answer_to(visitor, method, door, parameter, value)
            if (kind := is_temporary_id(value)) not in answers:
                begins = method == "POST" and door.route in BEGINS and visitor.ids and not kind
                answers[kind] = answer_to(visitor, "GET" if begins else method, door, parameter, missing_like(value))
            if foreign != answers[kind]:
                yield f"{visitor.name} {method} {door.route} {value}: {first_difference(foreign, answers[kind])}"
            elif visitor.ids and foreign[0] < 400:  # type: ignore[operator]  # the status
                yield f"{visitor.name} {method} {door.route} {value}: {foreign[0]}"


def answer_to(visitor: Visitor, method: str, door: Door, parameter: str, value: str) -> tuple[object, ...]:
    fields = None if method == "GET" else sample_of(door.route, visitor)
    return shown(visitor.ask(method, address(door, **{parameter: value}), fields, is_api=door.is_api), value)


def is_temporary_id(value: str) -> bool:
    return len(value) == 36 and value[14] == "8"


def first_difference(foreign: Any, none: Any) -> str:
    for one, other in zip(foreign, none, strict=True):
        if one != other:
            at = next((n for n, (a, b) in enumerate(zip(str(one), str(other), strict=False)) if a != b), 0)
            return f"{str(one)[max(0, at - 60) : at + 140]!r} for none {str(other)[max(0, at - 60) : at + 140]!r}"
    return ""


def test_through_every_address_what_is_somebody_elses_is_what_never_was(site: Site):
    complaints = []
    for door, parameter in doors_of_members():
        values = site.owner.ids.get(kind_of(door, parameter))
        assert values, f"{door.route}: say whose “{parameter}” is, in this file, and give the member one."
        taken = door.methods if door.is_api else ("GET", "POST")
        all_ways = {"token": values, "key": values, "browser": values[:1]}
        for name, some in (all_ways if door.is_api else {"browser": values, "fragment": values[:1]}).items():
            complaints += differences(site.strangers[name], door, parameter, some, taken)
        rest = [method for method in METHODS if method not in taken]
        complaints += differences(site.strangers["browser"], door, parameter, values[:1], rest)
        complaints += differences(site.strangers["guest"], door, parameter, values[:1], METHODS)
    complaints += site.before.complaints(site.owner.ids)
    assert not complaints, f"{len(complaints)}\n" + "\n".join(complaints[:60])
    assert not list(dead_doors(site.owner))


def dead_doors(owner: Visitor) -> Iterator[str]:
    """Yield the doors at which the owner is told the same as of none: nothing would be proved of them."""
    for door, parameter in sorted(doors_of_members(), key=lambda found: "end" in found[0].route):
        values = owner.ids[kind_of(door, parameter)]
        if kind_of(door, parameter) != "dead_link" and not any(is_live(owner, door, parameter, one) for one in values):
            yield door.route


def is_live(owner: Visitor, door: Door, parameter: str, value: str) -> bool:
    pairs = (
        (answer_to(owner, method, door, parameter, one) for one in (value, missing_like(value))) for method in METHODS
    )
    return any(own != none for own, none in pairs)


# --- The admin --------------------------------------------------------------------------------------------------------

NEEDED = {"delete": "delete", "history": "view", "password": "change", "act": "change"}
"""What a page of the admin is for, by a part of its address; with that right one may see what is there."""


def doors_of_rows() -> Iterator[tuple[Door, dict[str, str], str]]:
    """Yield the doors of the admin that take a row's id, each with what stands in it, and the right it needs."""
    for door in list_doors():
        names = set(door.parameters) - SITES
        if not door.is_admin or not names:
            continue
        app, model = door.route.split("/")[2:4] if not door.route.startswith("/admin/r/") else ("accounts", "user")
        [name] = names
        last = door.route.rstrip("/").rsplit("/", 2)
        act = NEEDED.get(last[-1]) or NEEDED.get(last[-2]) or "view"
        row = row_of(apps.get_model(app, model))
        content_type = ContentType.objects.get_for_model(row, for_concrete_model=False).pk
        values = {name: admin_quote(str(row.pk)), "name": "refund", "content_type_id": str(content_type)}
        yield door, values, "" if name == "reading_id" or "/r/" in door.route else f"{app}.{act}_{model}"


def differences_of_rows(visitor: Visitor, door: Door, values: dict[str, str], *methods: str) -> Iterator[str]:
    [name] = set(door.parameters) - SITES
    for method in methods:
        fields = {"post": "yes", "reason": "Because."} if method == "POST" else None
        foreign, none = (
            shown(visitor.ask(method, address(door, **values | {name: one}), fields), one, values["content_type_id"])
            for one in (values[name], missing_like(values[name]))  # a row's number may be that of its table
        )
        if foreign != none:
            yield f"{visitor.name} {method} {door.route}: {first_difference(foreign, none)}"


def test_without_the_right_a_page_of_the_admin_does_not_say_what_there_is(site: Site):
    complaints = []
    for door, values, right in doors_of_rows():
        complaints += differences_of_rows(site.strangers["guest"], door, values, "POST")
        complaints += differences_of_rows(site.strangers["browser"], door, values, "GET")
        for visitor, user in site.staff.values():
            if not right or not user.has_perms([right]):
                complaints += differences_of_rows(visitor, door, values, "GET", "POST")
    complaints += site.before.complaints(site.owner.ids)
    assert not complaints, f"{len(complaints)}\n" + "\n".join(complaints[:60])


# --- Ids in bodies and queries ----------------------------------------------------------------------------------------

CHOSEN = frozenset(
    (
        *(("askQuestion", "turn_id"), ("beginConversation", "id"), ("forkConversation", "conversation_id")),
        *(("makeFolder", "id"), ("makeKey", "id"), ("shareConversation", "id")),
    )
)
"""Ids that the client chooses for something new."""
OF_API: dict[tuple[str, str], str] = {
    ("askQuestion", "attachments"): "attachment_id",
    ("askQuestion", "beside_id"): "turn_id",
    ("askQuestion", "folder_id"): "folder_id",
    ("askQuestion", "parent_id"): "turn_id",
    ("askQuestion", "turn_id"): "turn_id",
    ("beginConversation", "folder_id"): "folder_id",
    ("beginConversation", "id"): "conversation_id",
    ("changeConversation", "folder_id"): "folder_id",
    ("changeConversation", "leaf_id"): "turn_id",
    ("changeFolder", "id"): "folder_id",
    ("forkConversation", "conversation_id"): "conversation_id",
    ("listConversations", "folder"): "folder_id",
    ("makeFolder", "id"): "folder_id",
    ("makeKey", "id"): "key_id",
    ("shareConversation", "id"): "share_id",
    ("shareConversation", "until_turn_id"): "turn_id",
}
"""By operation and field of the OpenAPI document: what it is the id of."""


@dataclass(frozen=True)
class IdField:
    """Where a request takes an id beside its address: `value` of it stands in `fields`, wherever `written` says."""

    visitor: str
    method: str
    path: str
    fields: dict[str, Any]
    name: str
    kind: str
    written: str = "%s"
    is_chosen: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.name}"

    def ask(self, visitor: Visitor, value: str) -> Any:
        written: Any = self.written % value
        fields = self.fields | {self.name: [written] if self.name == "attachments" else written}
        path = self.path % {"new": new_id()}
        return visitor.ask(self.method, path, fields, is_api=path.startswith("/api/"))


def is_uuid(schema: dict[str, Any]) -> bool:
    return schema.get("format") == "uuid" or schema.get("items", {}).get("format") == "uuid"


def fields_of_api(bo: Visitor) -> Iterator[IdField]:
    document: Any = documents._schema()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            queries = {one["name"]: one["schema"] for one in operation.get("parameters", ()) if one["in"] == "query"}
            body: Any = (
                operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            )
            if "$ref" in body:
                body = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]
            for name, schema in (queries | body.get("properties", {})).items():
                if is_uuid(schema):
                    yield field_of_api(bo, method.upper(), path, operation["operationId"], name)


def field_of_api(bo: Visitor, method: str, path: str, operation: str, name: str) -> IdField:
    kind = OF_API.get((operation, name))
    assert kind, f"{operation}: say whose “{name}” is, in this file."
    sample = sample_of(path.replace("{", "%(").replace("}", ")s"), bo)
    if operation == "askQuestion":
        sample = {"text": "say:hola", "model": "scripted", "stream": True}
    if operation == "beginConversation" and name == "folder_id":
        sample = {}
    own = {one: values[0] for one, values in bo.ids.items()}
    is_new = (operation, name) == ("askQuestion", "folder_id")
    found = path.format(**own | ({"conversation_id": "%(new)s"} if is_new else {}))
    return IdField("token", method, found, sample, name, kind, is_chosen=(operation, name) in CHOSEN)


def fields_of_pages(bo: Visitor) -> Iterator[IdField]:
    """Yield the ids that pages take beside those of their addresses; `test_…_every_field…` says that these are all."""
    own = {one: values[0] for one, values in bo.ids.items()}
    chat, turn, link = f"/c/{own['conversation_id']}/", f"/turns/{own['turn_id']}/", f"/share/{own['live_link']}/"
    asked = {"text": "say:hola", "model": "scripted"}
    for name in ("again", "continue", "edit"):
        yield IdField("browser", "POST", chat, asked, name, "turn_id")
    yield IdField("browser", "POST", "/c/%(new)s/", asked, "attachments", "attachment_id")
    yield IdField("browser", "POST", chat, asked, "turn_id", "turn_id", is_chosen=True)
    yield IdField("browser", "POST", "/c/%(new)s/", asked, "folder", "folder_id")
    yield IdField("browser", "POST", f"{turn}edit/", asked, "edit", "turn_id")
    yield IdField("browser", "GET", "/", {}, "folder", "folder_id")
    yield IdField("browser", "GET", chat, {}, "turn", "turn_id")
    yield IdField("browser", "POST", f"{chat}branch/", {}, "turn", "turn_id")
    # A fragment says what was done, a page only that something was; what undoes another act comes before it.
    for act in ("trash", "restore", "erase", "unpin", "pin", "unarchive", "archive", "move"):
        yield IdField("fragment", "POST", "/conversations/change/", {}, "do", "conversation_id", f"{act}:%s")
        yield IdField("browser", "POST", "/conversations/change/", {"do": act}, "conversation", "conversation_id")
    moved = {"do": "move", "conversation": own["conversation_id"]}
    yield IdField("browser", "POST", "/conversations/change/", moved, "folder", "folder_id")
    yield IdField(
        "browser", "POST", "/conversations/change/", {}, "do", "folder_id", f"move:{moved['conversation']}=%s"
    )
    shared = {"id": str(new_id()), "days": "7"}
    yield IdField("browser", "POST", f"{chat}share/", shared, "until", "turn_id")
    yield IdField("browser", "POST", f"{chat}share/", shared, "id", "share_id", is_chosen=True)
    yield IdField("browser", "POST", f"{link}copy/", {}, "id", "conversation_id", is_chosen=True)
    key = sample_of("/settings/keys/", bo)
    yield IdField("browser", "POST", "/settings/keys/", key, "id", "key_id", is_chosen=True)


def test_through_every_id_in_a_request_what_is_somebody_elses_is_what_never_was(site: Site):
    complaints, bo = [], site.strangers["browser"]
    for found in (*fields_of_api(bo), *fields_of_pages(bo)):
        visitor, refusals = site.strangers[found.visitor], set()
        for value in site.owner.ids[found.kind]:
            foreign = shown(found.ask(visitor, value), value)
            if others := [one for one in site.owner_ids() if one != value and one in str(foreign)]:
                complaints.append(f"{found} {value} shows {others}")
            if not found.is_chosen:
                none = shown(found.ask(visitor, missing := missing_like(value)), missing)
                if foreign != none:
                    complaints.append(f"{found} {value}: {first_difference(foreign, none)}")
            elif not is_temporary_id(value):  # those are no ids to choose
                refusals.add(foreign)
        if {one[0] for one in refusals} - {302, 404, 409} or len(refusals) > 1:
            complaints.append(
                f"{found}: {[one[0] for one in refusals]} {first_difference(*[*refusals, *refusals][:2])}"
            )
    complaints += site.before.complaints(site.owner.ids)
    assert not complaints, f"{len(complaints)}\n" + "\n".join(complaints[:60])


READ = re.compile(r"""(?:POST|GET|query_params|fields)\.(?:get|getlist)\("(\w+)"|"(\w+)" in request\.(?:POST|GET)""")
FORM_IDS = re.compile(r"(\w+) = forms\.(?:UUID|ModelChoice)Field")
TAKEN = frozenset(
    ("again", "attachments", "continue", "conversation", "do", "edit", "folder", "id", "turn", "turn_id", "until")
)
"""Names of fields of pages that have an id, which are in `fields_of_pages`."""
NO_IDS = frozenset(
    (
        *("action_primary", "action_remove", "action_send", "after", "as", "before", "beside", "code", "conversations"),
        *("currency", "effort", "email", "every", "forks", "format", "from", "in", "instead", "invitation", "language"),
        *(
            "model",
            "month",
            "next",
            "page",
            "process",
            "q",
            "recorded",
            "replaces",
            "signed",
            "still",
            "text",
            "theme",
            "tries",
            "with",
        ),
        *("expires_at", "parent_id", "beside_id", "folder_id", "leaf_id", "until_turn_id", "key"),
    )
)
"""Names of fields that have none; `forks` is only made into another id, `after` and `before` only compared, `signed`
and `invitation` are secrets, and the last line is of the API and of the admin."""


def test_every_field_that_a_page_reads_is_known_to_have_an_id_or_none():
    read: set[str] = set()
    for app in ("accounts", "billing", "chat", "history", "config"):
        for path in (Path(django_settings.BASE_DIR) / app).rglob("*.py"):
            if "gateways" not in path.parts and "llm" not in path.parts:
                source = path.read_text()
                read |= {one or other for one, other in READ.findall(source)} | set(FORM_IDS.findall(source))
    assert read - TAKEN - NO_IDS - {"user", "plan"} == set(), "Say whether these have ids, in this file."
    assert read >= TAKEN


# --- The socket -------------------------------------------------------------------------------------------------------

OF_SOCKET: dict[tuple[str, str], str] = {
    ("Start", "attachments"): "attachment_id",
    ("Start", "beside_id"): "turn_id",
    ("Start", "conversation_id"): "conversation_id",
    ("Start", "folder_id"): "folder_id",
    ("Start", "parent_id"): "turn_id",
    ("Start", "turn_id"): "turn_id",
    ("Stop", "turn_id"): "turn_id",
    ("Watch", "turn_id"): "turn_id",
}
OF_NEW = frozenset((("Start", "turn_id"), ("Start", "conversation_id")))
"""What the client chooses where it is new."""


@pytest.mark.usefixtures("redis")
async def test_through_the_socket_what_is_somebody_elses_is_what_never_was(site: Site):
    complaints, bo = [], site.strangers["browser"]
    for kind, name in ids_of_commands():
        known = OF_SOCKET.get((kind.__name__, name))
        assert known, f"{kind.__name__}: say whose “{name}” is, in this file."
        fields: dict[str, Any] = {"turn_id": None}
        if kind is Start:
            begun = None if name == "folder_id" else bo.ids["conversation_id"][0]
            fields |= {"conversation_id": begun, "text": "say:hola", "model": "scripted"}
        answers = set()
        async with socket(cookie=f"sessionid={bo.cookies['sessionid']}") as page:  # each takes so many bad ids
            for value in site.owner.ids[known]:
                foreign, none = [
                    await told(page, kind, fields | {name: [one] if name == "attachments" else one})
                    for one in (value, missing_like(value))
                ]
                if (kind.__name__, name) in OF_NEW:
                    answers.add(foreign)
                elif foreign != none:
                    complaints.append(f"{kind.__name__} {name} {value}: {foreign} {none}")
        if {answer[0] for answer in answers} - {"turn.rejected"} or len(answers) > 2:  # another of temporary ids
            complaints.append(f"{kind.__name__} {name}: {answers}")
    complaints += await in_thread(lambda: list(site.before.complaints(site.owner.ids)))
    assert not complaints, f"{len(complaints)}\n" + "\n".join(complaints)


async def told(page: Page, kind: type[Any], fields: dict[str, Any]) -> tuple[object, ...]:
    """Send a command; return what the page is told of it first."""
    fields = {name: new_id() if one is None else one for name, one in fields.items()}
    turn_id = str(fields["turn_id"])
    await page.send(kind.__struct_config__.tag, **fields)
    await page.until(lambda: any(event.get("turn_id") == turn_id for event in page.events))
    event = next(event for event in page.events if event.get("turn_id") == turn_id)
    page.events.clear()
    return event["type"], event.get("code"), event.get("detail"), event.get("retry_after")


def ids_of_commands() -> Iterator[tuple[type[Any], str]]:
    for kind in get_args(Command):
        yield from ((kind, name) for name, hint in get_type_hints(kind).items() if "UUID" in str(hint))
