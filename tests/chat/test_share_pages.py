"""The pages and the API of sharing: what owners do, what whoever has a link sees, what operators do."""

import datetime as dt
import re
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from accounts import limits
from accounts.models import User
from core.alerts import list_alerts
from history import sharing
from history.models import Conversation, SharedPage, SharedTurn, ShareReport, Turn, new_id
from tests.history.growing import ask, begin

pytestmark = pytest.mark.stores

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>\u2069</title>'
ANSWER = f"""Text. {HOSTILE}

[click](javascript:alert(3)) [out](https://elsewhere.example/) ![i](https://elsewhere.example/i.png)

```python
print("hi")
```

$$x^2$$
"""


@pytest.fixture
def conversation(ana: User) -> Conversation:
    """Ana's: two questions with answers."""
    found = begin(ana.pk, "Recetas")
    files = '[{"id":"%s","kind":"image","name":"%s","media_type":"image/png","size":9}]' % (new_id(), "plan <b>.png")
    first = ask(
        found, "¿Qué hay?", answer="Nada.", model="scripted", reasoning="secret thought", cost_micros=4_321_000,
        attachments=files,
    )  # fmt: skip
    ask(found, "¿Y ahora?", after=first, answer="Algo.", model="gone-model")
    return found


@pytest.fixture
def member(ana: User) -> Client:
    return logged_in(ana)


def logged_in(user: User) -> Client:
    client = Client(headers={"Accept-Language": "en"})
    User.objects.filter(pk=user.pk).update(locale="en")
    client.force_login(User.objects.get(pk=user.pk))
    return client


def visitor() -> Client:
    return Client(headers={"Accept-Language": "en"}, enforce_csrf_checks=False)


def share_by_page(client: Client, conversation: Conversation, **fields: Any) -> SharedPage:
    data = {"id": str(new_id()), "days": "0"} | fields
    answer = client.post(f"/c/{conversation.pk}/share/", data)
    back = f"/turns/{fields['until']}/share/" if fields.get("until") else f"/c/{conversation.pk}/share/"
    assert (answer.status_code, answer.headers["Location"]) == (302, back)
    return SharedPage.objects.get(pk=data["id"])


def path_of(share: SharedPage) -> str:
    return f"/share/{sharing.token_of(share)}/"


# --- What whoever has the link sees -----------------------------------------------------------------------------------


def test_whoever_opens_it_while_it_is_updated_sees_an_edition(
    member: Client, conversation: Conversation, monkeypatch: pytest.MonkeyPatch
):
    share = share_by_page(member, conversation)
    read = sharing.list_shared_turns

    def be_overtaken(*arguments: Any, **named: Any) -> list[SharedTurn]:
        monkeypatch.setattr(sharing, "list_shared_turns", read)
        sharing.update_share(share, lambda turn: sharing.Description(turn.model))
        return read(*arguments, **named)

    monkeypatch.setattr(sharing, "list_shared_turns", be_overtaken)
    assert "Nada." in visitor().get(path_of(share)).content.decode()


def test_a_visitor_reads_what_is_shared_and_nothing_else(ana: User, member: Client, conversation: Conversation):
    User.objects.filter(pk=ana.pk).update(name="Ana Prado")
    share = share_by_page(member, conversation)
    answer = visitor().get(path_of(share))
    page = answer.content.decode()
    assert answer.status_code == 200
    for text in ("Recetas", "¿Qué hay?", "Nada.", "¿Y ahora?", "Algo.", "Scripted", "gone-model", "plan &lt;b&gt;.png"):
        assert text in page
    files = str(conversation.pk), "secret thought", "4321", "4,321", "/attachments/", "credits"
    turns = tuple(map(str, Turn.objects.values_list("pk", flat=True)))
    for text in ("Ana Prado", ana.email, *files, *turns, str(share.pk), "data-turn"):
        assert text not in page, text
    assert answer["Cache-Control"] == "private, no-store"
    assert answer["X-Robots-Tag"] == "noindex, nofollow, noarchive"
    assert answer["Referrer-Policy"] == "same-origin"
    assert answer["X-Frame-Options"] == "DENY"
    policy = answer["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert '<meta name="robots" content="noindex' in page
    assert "sessionid" not in answer.cookies
    member_page = member.get(path_of(share))
    assert member_page["Cache-Control"] == "no-store"
    assert "This is your link" in member_page.content.decode()


def test_another_link_shows_no_more_than_the_one_before(member: Client, conversation: Conversation):
    first = Turn.objects.filter(conversation_id=conversation.pk).earliest("seq")
    data = {"id": str(new_id()), "days": "0", "until": str(first.pk)}
    answer = member.post(f"/c/{conversation.pk}/share/", data)
    assert (answer.status_code, answer.headers["Location"]) == (302, f"/turns/{first.pk}/share/")
    data["id"] = str(new_id())
    dialog = member.post(f"/c/{conversation.pk}/share/", data, headers={"HX-Request": "true"}).content.decode()
    assert f'name="until" value="{first.pk}"' in dialog
    assert "up to the answer you chose" in dialog


def test_an_owner_may_be_named(ana: User, member: Client, conversation: Conversation):
    User.objects.filter(pk=ana.pk).update(name="Ana Prado")
    share = share_by_page(logged_in(ana), conversation, is_named="on")
    assert "Ana Prado" in visitor().get(path_of(share)).content.decode()
    User.objects.filter(pk=ana.pk).update(name="")
    assert "is_named" not in logged_in(ana).get(f"/c/{conversation.pk}/share/").content.decode()


def test_what_is_hostile_is_text(ana: User, member: Client):
    found = begin(ana.pk)
    Conversation.objects.filter(pk=found.pk).update(title=HOSTILE)
    ask(found, HOSTILE, answer=ANSWER, model=HOSTILE[:100])
    share = share_by_page(member, found)
    for answer in (visitor().get(path_of(share)), member.get("/settings/shares/")):
        page = answer.content.decode()
        assert "<script>alert" not in page
        assert "<img" not in page
        assert page.count("</title>") == 1
        assert 'href="javascript:' not in page
    page = visitor().get(path_of(share)).content.decode()
    assert re.search(r'<a href="https://elsewhere.example/"[^>]*rel="noopener noreferrer nofollow"', page)
    assert "<math" in page
    assert 'class="language-python"' in page


def test_all_that_is_not_shown_looks_the_same(ana: User, member: Client, conversation: Conversation):
    revoked, expired, taken, trashed = (share_by_page(member, conversation) for _ in range(4))
    paths = [*map(path_of, (revoked, expired, taken)), "/share/x/", f"/share/{new_id()}/", f"/share/{'a' * 43}/"]
    assert member.post(f"/settings/shares/{revoked.pk}/stop/").status_code == 302
    SharedPage.objects.filter(pk=expired.pk).update(expires_at=timezone.now())
    sharing.take_down(taken, "Fraude")
    pages = set()
    for path in paths:
        for suffix in ("", "report/", "copy/"):
            answer = visitor().get(path + suffix)
            assert (answer.status_code, answer["Cache-Control"]) == (404, "private, no-store")
            assert "noindex" in answer["X-Robots-Tag"]
            page = re.sub(r'(nonce|value)="[^"]*"', "", answer.content.decode())
            pages.add(page)
            assert visitor().post(path + suffix).status_code in (404, 405)
    assert len(pages) == 1
    assert visitor().get(path_of(trashed)).status_code == 200
    Conversation.objects.filter(pk=conversation.pk).update(trashed_at=timezone.now())
    assert visitor().get(path_of(trashed)).status_code == 404
    listed = member.get("/settings/shares/").content.decode()
    assert "Its conversation is in the trash" in listed
    assert f"/settings/shares/{trashed.pk}/stop/" in listed
    assert f"/settings/shares/{trashed.pk}/update/" not in listed


def test_whoever_guesses_links_is_soon_refused(catalog: None, settings: Settings):
    settings.API_REQUESTS_PER_MINUTE = 2
    guesses = [visitor().get(f"/share/{'a' * 43}/").status_code for _ in range(3)]
    assert guesses == [404, 404, 429]


def test_a_page_for_members_asks_who_one_is_and_leads_back(member: Client, conversation: Conversation, bo: User):
    share = share_by_page(member, conversation, is_for_members="on")
    reader = visitor()
    answer = reader.get(path_of(share))
    assert (answer.status_code, answer["Cache-Control"]) == (302, "private, no-store")
    assert answer["Location"] == f"/accounts/login/?next={path_of(share)}"
    logging_in = reader.post(answer["Location"], {"login": bo.email, "password": "uma senha longa"})
    assert logging_in["Location"] == path_of(share)
    assert reader.get(path_of(share)).status_code == 200


def test_a_long_conversation_comes_in_pages_of_bounded_queries(ana: User, member: Client):
    found = begin(ana.pk)
    turns = [ask(found, "0", answer="0")]
    turns += Turn.objects.bulk_create(
        Turn(
            owner_id=ana.pk, conversation_id=found.pk, seq=number + 1, depth=number, question=f"q{number}.",
            answer=f"a{number}", status="completed", requested_model="x", max_output=1,
        )
        for number in range(1, 95)
    )  # fmt: skip
    for before, after in zip(turns, turns[1:], strict=False):
        Turn.objects.filter(pk=after.pk).update(parent_id=before.pk)
    share = share_by_page(member, found)
    reader = visitor()
    reader.get(path_of(share))
    seen = []
    for number in ("1", "2", "3", "4"):
        with (
            CaptureQueriesContext(connections["history"]) as history,
            CaptureQueriesContext(connections["default"]) as own,
        ):
            page = reader.get(f"{path_of(share)}?page={number}").content.decode()
        assert len(history) <= 3
        assert len(own) <= 1
        seen += re.findall(r'id="turn-(\d+)"', page)
        assert f"Page {number} of 4" in page
    assert seen == [str(number) for number in range(1, 96)]
    for number in ("0", "5", "-1", "x", "٣", "99999999999999999999"):
        assert reader.get(f"{path_of(share)}?page={number}").status_code == 404


# --- The owner's pages ------------------------------------------------------------------------------------------------


def test_an_owner_shares_copies_the_link_updates_and_stops(member: Client, conversation: Conversation):
    turn = Turn.objects.get(question="¿Qué hay?")
    form = member.get(f"/turns/{turn.pk}/share/", headers={"HX-Request": "true"}).content.decode()
    assert f'value="{turn.pk}"' in form
    assert "<html" not in form
    share = share_by_page(member, conversation, until=str(turn.pk), days="7")
    assert dt.timedelta(days=6) < share.expires_at - timezone.now() <= dt.timedelta(days=7)
    link = f"http://localhost:8000{path_of(share)}"
    assert urlsplit(link).path == path_of(share)
    for path in (f"/c/{conversation.pk}/share/", "/settings/shares/"):
        assert path_of(share) in member.get(path).content.decode()
    assert "¿Y ahora?" not in visitor().get(path_of(share)).content.decode()
    Turn.objects.filter(pk=turn.pk).update(answer="Otra cosa.")
    assert "Nada." in visitor().get(path_of(share)).content.decode()
    updated = member.post(f"/settings/shares/{share.pk}/update/", headers={"HX-Request": "true"})
    assert path_of(share) in updated.content.decode()
    assert "Otra cosa." in visitor().get(path_of(share)).content.decode()
    assert member.post(f"/settings/shares/{share.pk}/stop/", {"conversation": "yes"})["Location"].startswith("/c/")
    assert visitor().get(path_of(share)).status_code == 404
    assert member.post(f"/settings/shares/{share.pk}/stop/").status_code == 404
    assert "You share nothing" in member.get("/settings/shares/").content.decode()


def test_a_form_that_is_sent_twice_makes_one_share(member: Client, conversation: Conversation):
    fields = {"id": str(new_id()), "days": "0"}
    pages = [member.post(f"/c/{conversation.pk}/share/", fields, headers={"HX-Request": "true"}) for _ in range(2)]
    assert [page.status_code for page in pages] == [200, 200]
    assert (SharedPage.objects.count(), SharedTurn.objects.count()) == (1, 2)
    for wrong in ({}, fields | {"id": "x"}, fields | {"days": "999999"}, fields | {"until": "x"}):
        assert member.post(f"/c/{conversation.pk}/share/", wrong).status_code == 422
    empty = begin(conversation.owner_id)
    refused = member.post(f"/c/{empty.pk}/share/", fields | {"id": str(new_id())})
    assert refused.status_code == 409
    assert "There is no answer to share yet" in refused.content.decode()


def test_nobody_touches_the_shares_of_somebody_else(member: Client, conversation: Conversation, bo: User, api: Any):
    share, turn = share_by_page(member, conversation), Turn.objects.get(question="¿Qué hay?")
    other = logged_in(bo)
    fields = {"id": str(new_id()), "days": "0"}
    assert other.get(f"/c/{conversation.pk}/share/").status_code == 404
    assert other.post(f"/c/{conversation.pk}/share/", fields).status_code == 404
    assert other.get(f"/turns/{turn.pk}/share/").status_code == 404
    for act in ("update", "stop"):
        assert other.post(f"/settings/shares/{share.pk}/{act}/").status_code == 404
        assert visitor().post(f"/settings/shares/{share.pk}/{act}/").status_code == 302
        assert member.get(f"/settings/shares/{share.pk}/{act}/").status_code == 405
    assert path_of(share) not in other.get("/settings/shares/").content.decode()
    theirs = begin(bo.pk)
    ask(theirs, "meu", answer="meu")
    stolen = other.post(f"/c/{theirs.pk}/share/", fields | {"until": str(turn.pk)})
    assert stolen.status_code == 404
    program = api(bo)
    assert program.get(f"/api/v1/shares/{share.pk}").status_code == 404
    assert program.delete(f"/api/v1/shares/{share.pk}").status_code == 404
    assert program.post(f"/api/v1/shares/{share.pk}/update").status_code == 404
    assert program.get(f"/api/v1/conversations/{conversation.pk}/shares").status_code == 404
    assert program.post(f"/api/v1/conversations/{conversation.pk}/shares", {}, format="json").status_code == 404
    stolen = program.post(f"/api/v1/conversations/{theirs.pk}/shares", {"until_turn_id": str(turn.pk)}, format="json")
    assert stolen.status_code == 404
    assert program.get("/api/v1/shares").json()["results"] == []
    assert SharedPage.objects.get() == share


def test_a_forged_form_does_nothing(ana: User, conversation: Conversation):
    client = Client(enforce_csrf_checks=True)
    client.force_login(ana)
    share = sharing.create_share(
        conversation, sharing.Terms(), lambda _turn: sharing.Description(""), share_id=new_id()
    )
    acts = [f"/c/{conversation.pk}/share/", f"/settings/shares/{share.pk}/stop/", f"{path_of(share)}copy/"]
    for path in (*acts, f"{path_of(share)}report/"):
        assert client.post(path, {"id": str(new_id()), "days": "0", "reason": "spam"}).status_code == 403
    assert SharedPage.objects.get() == share
    assert not ShareReport.objects.exists()


# --- The API ----------------------------------------------------------------------------------------------------------


def test_the_api_shares_lists_updates_and_stops(api: Any, ana: User, conversation: Conversation):
    program, address = api(ana), f"/api/v1/conversations/{conversation.pk}/shares"
    until = Turn.objects.get(question="¿Qué hay?")
    tomorrow = (timezone.now() + dt.timedelta(days=1)).isoformat()
    body = {"id": str(new_id()), "until_turn_id": str(until.pk), "expires_at": tomorrow, "members_only": True}
    answers = [program.post(address, body, format="json") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    made = answers[1].json()
    assert answers[0].json() == made
    assert set(made) == {
        *("id", "link", "conversation_id", "until_turn_id", "title", "turn_count", "author", "members_only"),
        *("expires_at", "created_at", "updated_at", "taken_down_at", "takedown_reason"),
    }
    assert (made["id"], made["turn_count"], made["members_only"], made["author"]) == (body["id"], 1, True, "")
    assert made["until_turn_id"] == str(until.pk)
    assert urlsplit(made["link"]).path == path_of(SharedPage.objects.get())
    for path in (address, "/api/v1/shares"):
        assert program.get(path).json() == {"results": [made], "next": None}
    assert program.get(f"/api/v1/shares/{made['id']}").json() == made
    assert program.post(f"/api/v1/shares/{made['id']}/update").json()["link"] == made["link"]
    sharing.take_down(SharedPage.objects.get(), "Fraude")
    down = program.get(f"/api/v1/shares/{made['id']}").json()
    assert (down["takedown_reason"], down["taken_down_at"] is None) == ("Fraude", False)
    refused = program.delete(f"/api/v1/shares/{made['id']}")
    assert (refused.status_code, refused.json()["code"]) == (403, "share_taken_down")
    sharing.put_back(SharedPage.objects.get())
    assert [program.delete(f"/api/v1/shares/{made['id']}").status_code for _ in range(2)] == [204, 404]
    assert not SharedTurn.objects.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [("id", "7"), ("until_turn_id", "x"), ("expires_at", "2020-01-01T00:00:00Z"), ("members_only", "maybe")],
)
def test_the_api_refuses_what_is_no_share(api: Any, ana: User, conversation: Conversation, field: str, value: str):
    answer = api(ana).post(f"/api/v1/conversations/{conversation.pk}/shares", {field: value}, format="json")
    assert (answer.status_code, list(answer.json()["fields"])) == (400, [field])
    assert not SharedPage.objects.exists()


def test_sharing_and_copying_have_a_limit(
    api: Any, ana: User, member: Client, conversation: Conversation, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sharing, "MAX_SHARES", 1)
    share = share_by_page(member, conversation)
    address = f"/api/v1/conversations/{conversation.pk}/shares"
    refused = api(ana).post(address, {}, format="json")
    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_shares")
    page = member.post(f"/c/{conversation.pk}/share/", {"id": str(new_id()), "days": "0"})
    assert "Stop sharing one of them first" in page.content.decode()
    monkeypatch.setattr(limits, "MEMBER_ACTS_PER_HOUR", 1)
    assert api(ana).post(address, {}, format="json").json()["code"] == "rate_limited"
    assert member.post(f"{path_of(share)}copy/", {"id": str(new_id())}).status_code == 429
    assert Conversation.objects.count() == 1


# --- Going on with it -------------------------------------------------------------------------------------------------


def test_a_reader_logs_in_and_goes_on_in_their_own_account(member: Client, conversation: Conversation, bo: User):
    share, reader = share_by_page(member, conversation), visitor()
    page = reader.get(path_of(share)).content.decode()
    assert f'href="/accounts/login/?next={path_of(share)}%23continue"' in page
    assert "/copy/" not in page
    assert reader.post(f"{path_of(share)}copy/", {"id": str(new_id())})["Location"].startswith("/accounts/login/?next=")
    reader = logged_in(bo)
    page = reader.get(path_of(share)).content.decode()
    (copy_id,) = re.findall(r'name="id"\s+value="([^"]+)"', page)
    answers = [reader.post(f"{path_of(share)}copy/", {"id": copy_id}) for _ in range(2)]
    assert {answer["Location"] for answer in answers} == {f"/c/{copy_id}/"}
    assert Conversation.objects.filter(owner_id=bo.pk).count() == 1
    page = reader.get(f"/c/{copy_id}/").content.decode()
    for text in ("Recetas", "¿Qué hay?", "Nada.", "Algo.", "Scripted", "gone-model"):
        assert text in page
    assert "secret thought" not in page
    assert reader.get(f"{path_of(share)}copy/")["Location"] == path_of(share)
    member.post(f"/settings/shares/{share.pk}/stop/")
    assert reader.post(f"{path_of(share)}copy/", {"id": str(new_id())}).status_code == 404
    assert Conversation.objects.filter(owner_id=bo.pk).count() == 1


# --- Reports and operators --------------------------------------------------------------------------------------------


def test_anybody_reports_a_page_and_an_operator_takes_it_down(
    member: Client, conversation: Conversation, olga: User, monkeypatch: pytest.MonkeyPatch
):
    share, operator = share_by_page(member, conversation), logged_in(olga)
    admin = f"/admin/history/sharedpage/{share.pk}"
    assert path_of(share) not in operator.get(f"{admin}/change/").content.decode()
    reader = visitor()
    form = reader.get(f"{path_of(share)}report/")
    (report_id,) = re.findall(r'name="id"\s+value="([^"]+)"', form.content.decode())
    report = {"id": report_id, "reason": "private", "text": "<b>Mi</b> teléfono"}
    assert reader.post(f"{path_of(share)}report/", report | {"reason": "x"}).status_code == 422
    assert reader.post(f"{path_of(share)}report/", report | {"text": "x" * 1_001}).status_code == 422
    for _ in range(2):
        assert reader.post(f"{path_of(share)}report/", report)["Location"] == path_of(share)
    assert (ShareReport.objects.count(), SharedPage.objects.get().report_count) == (1, 1)
    listed = operator.get("/admin/history/sharedpage/?reported=yes").content.decode()
    assert str(share.pk) in listed
    page = operator.get(f"{admin}/change/").content.decode()
    assert path_of(share) in page
    assert "&lt;b&gt;Mi&lt;/b&gt; teléfono" in page
    assert operator.get(f"{admin}/act/take-down/").status_code == 200
    assert operator.post(f"{admin}/act/take-down/", {"reason": ""}).status_code == 422
    for _ in range(2):
        assert operator.post(f"{admin}/act/take-down/", {"reason": "Datos ajenos"}).status_code == 302
    assert reader.get(path_of(share)).status_code == 404
    assert "Datos ajenos" in member.get("/settings/shares/").content.decode()
    assert path_of(share) not in member.get("/settings/shares/").content.decode()
    (entry,) = LogEntry.objects.filter(object_id=str(share.pk))
    assert (entry.user_id, entry.change_message) == (olga.pk, "take-down: Datos ajenos")
    refused = member.post(f"/c/{conversation.pk}/share/", {"id": str(new_id()), "days": "0"})
    assert refused.status_code == 403
    assert operator.post(f"{admin}/act/put-back/", {"reason": "Un error"}).status_code == 302
    assert reader.get(path_of(share)).status_code == 200
    assert member.get(f"{admin}/act/take-down/").status_code == 302
    for key in ("secret", "secret__startswith", "owner_id__secret"):
        assert operator.get(f"/admin/history/sharedpage/?{key}=a").status_code in (302, 400)


def test_reports_of_one_network_have_a_limit(
    member: Client, conversation: Conversation, monkeypatch: pytest.MonkeyPatch
):
    share = share_by_page(member, conversation)
    monkeypatch.setattr(limits, "_limit_of_network", lambda _act: (1, 3_600))
    answers = [visitor().post(f"{path_of(share)}report/", {"id": str(new_id()), "reason": "spam"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [302, 422]
    assert "Too many requests" in answers[1].content.decode()
    assert ShareReport.objects.count() == 1
    assert any(alert.subject == f"share:{share.pk}" for alert in list_alerts())


def test_robots_are_told_what_is_no_page_of_theirs(catalog: None):
    answer = Client().get("/robots.txt")
    assert answer["Content-Type"].startswith("text/plain")
    engines, others = answer.content.decode().split("User-agent: *")
    assert "Disallow: /share/" in others
    assert "/share/" not in engines  # they must read `noindex`, or would list the bare address
