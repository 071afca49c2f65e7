"""The conversations API."""

import pytest

from core.errors import NotFound
from history import access, trash
from history.models import Conversation, Turn, new_id
from tests.history.growing import ask, ask_in_a_row, begin

pytestmark = pytest.mark.stores

ADDRESS = "/api/v1/conversations"


def address(conversation: Conversation) -> str:
    return f"{ADDRESS}/{conversation.pk}"


def test_a_conversation_is_begun(api, ana):
    answer = api(ana).post(ADDRESS, {"title": "Recetas"}, format="json")
    assert answer.status_code == 201
    body = answer.json()
    assert set(body) == {
        *("id", "title", "turn_count", "leaf_id", "folder_id", "is_pinned", "is_archived"),
        *("trashed_at", "gone_at", "created_at", "updated_at"),
    }
    assert (body["title"], body["turn_count"]) == ("Recetas", 0)
    assert Conversation.objects.get(pk=body["id"]).owner_id == ana.pk


def test_a_conversation_needs_no_title(api, ana):
    answer = api(ana).post(ADDRESS, {}, format="json")
    assert (answer.status_code, answer.json()["title"]) == (201, "")


def test_a_client_may_choose_the_id(api, ana):
    chosen = str(new_id())
    assert api(ana).post(ADDRESS, {"id": chosen}, format="json").json()["id"] == chosen


def test_a_conversation_sent_again_is_the_same(api, ana):
    body = {"id": str(new_id()), "title": "Recetas"}
    answers = [api(ana).post(ADDRESS, body, format="json") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert [answer.json()["id"] for answer in answers] == [body["id"], body["id"]]
    assert Conversation.objects.count() == 1


def test_an_id_that_is_somebody_elses_is_a_conflict_without_details(api, ana, bo):
    theirs = begin(bo.pk, "Secreto")
    answer = api(ana).post(ADDRESS, {"id": str(theirs.pk), "title": "Recetas"}, format="json")
    assert answer.status_code == 409
    assert set(answer.json()) == {"code", "detail", "request_id"}
    assert "Secreto" not in answer.content.decode()
    theirs.refresh_from_db()
    assert (theirs.owner_id, theirs.title) == (bo.pk, "Secreto")


@pytest.mark.parametrize(
    ("field", "value"), [("id", "7"), ("id", None), ("title", "x" * 201), ("title", None), ("title", "a\0b")]
)
def test_what_is_no_conversation_is_refused(api, ana, field, value):
    answer = api(ana).post(ADDRESS, {field: value}, format="json")
    assert answer.status_code == 400
    assert list(answer.json()["fields"]) == [field]
    assert not Conversation.objects.exists()


def test_your_conversations_are_listed_last_used_first(api, ana, bo):
    first, second = begin(ana.pk, "Primera"), begin(ana.pk, "Segunda")
    begin(bo.pk, "Ajena")
    ask_in_a_row(first, 2)
    body = api(ana).get(ADDRESS).json()
    assert [(row["id"], row["title"], row["turn_count"]) for row in body["results"]] == [
        (str(first.pk), "Primera", 2),
        (str(second.pk), "Segunda", 0),
    ]
    assert body["next"] is None


def test_a_long_list_goes_on_with_next(api, ana):
    begun = [str(begin(ana.pk).pk) for _ in range(51)]
    first = api(ana).get(ADDRESS).json()
    second = api(ana).get(ADDRESS, {"after": first["next"]}).json()
    assert [row["id"] for row in first["results"] + second["results"]] == begun[::-1]
    assert (len(first["results"]), second["next"]) == (50, None)


def test_a_cursor_that_is_not_ours_is_404(api, ana):
    assert api(ana).get(ADDRESS, {"after": "nothing"}).status_code == 404


def test_one_conversation_is_seen(api, ana):
    conversation = begin(ana.pk, "Recetas")
    answer = api(ana).get(address(conversation))
    assert (answer.status_code, answer.json()["id"], answer.json()["title"]) == (200, str(conversation.pk), "Recetas")


def test_a_conversation_is_renamed(api, ana):
    conversation = begin(ana.pk, "Recetas")
    answer = api(ana).patch(address(conversation), {"title": "  Cocina  "}, format="json")
    assert (answer.status_code, answer.json()["title"]) == (200, "Cocina")
    conversation.refresh_from_db()
    assert conversation.title == "Cocina"


def test_what_goes_while_it_is_renamed_is_not_found(ana):
    gone, trashed = begin(ana.pk), begin(ana.pk)
    Conversation.objects.filter(pk=gone.pk).delete()
    trash.trash_conversations(ana.pk, [trashed.pk])
    for conversation in (gone, trashed):
        with pytest.raises(NotFound):
            access.rename_conversation(conversation, "Otro")
    assert Conversation.objects.get().title == "Saludos"


def test_a_change_without_a_title_changes_nothing(api, ana):
    conversation = begin(ana.pk, "Recetas")
    answer = api(ana).patch(address(conversation), {"turn_count": 9, "id": str(new_id())}, format="json")
    assert answer.status_code == 200
    assert (answer.json()["id"], answer.json()["title"]) == (str(conversation.pk), "Recetas")
    assert answer.json()["turn_count"] == 0


@pytest.mark.parametrize("title", ["", "   ", None, "x" * 201, ["x"]])
def test_what_is_no_title_is_refused(api, ana, title):
    conversation = begin(ana.pk, "Recetas")
    answer = api(ana).patch(address(conversation), {"title": title}, format="json")
    assert answer.status_code == 400
    assert list(answer.json()["fields"]) == ["title"]


def test_a_conversation_is_deleted_for_good_with_its_turns(api, ana):
    conversation, other = begin(ana.pk), begin(ana.pk)
    ask_in_a_row(conversation, 2)
    (kept,) = ask_in_a_row(other, 1)
    answer = api(ana).delete(f"{address(conversation)}?forever=true")
    assert (answer.status_code, answer.content) == (204, b"")
    assert list(Turn.objects.all()) == [kept]
    assert api(ana).get(address(conversation)).status_code == 404


@pytest.mark.parametrize("method", ["get", "patch", "delete"])
def test_a_missing_and_a_foreign_conversation_are_the_same_404(api, ana, bo, method):
    theirs = begin(bo.pk, "Secreto")
    ask_in_a_row(theirs, 1)
    body = {"title": "Mía"} if method == "patch" else None
    foreign = getattr(api(ana), method)(address(theirs), body, format="json")
    missing = getattr(api(ana), method)(f"{ADDRESS}/{new_id()}", body, format="json")
    assert foreign.status_code == missing.status_code == 404
    assert foreign.json() | {"request_id": ""} == missing.json() | {"request_id": ""}
    theirs.refresh_from_db()
    assert (theirs.title, Turn.objects.count()) == ("Secreto", 1)


def test_a_visitor_sees_nothing(api, bo):
    theirs = begin(bo.pk)
    assert api().get(ADDRESS).status_code == 401
    assert api().post(ADDRESS, {}, format="json").status_code == 401
    assert api().get(address(theirs)).status_code == 401
    assert api().delete(address(theirs)).status_code == 401


def test_any_turn_chooses_its_branch(api, ana, bo):
    conversation = begin(ana.pk)
    first = ask_in_a_row(conversation, 3)
    second = ask_in_a_row(conversation, 2, after=first[0])

    def patch(**fields: object) -> tuple[int, str | None]:
        answer = api(ana).patch(address(conversation), fields, format="json")
        return answer.status_code, answer.json().get("leaf_id")

    assert patch(leaf_id=str(first[1].pk)) == (200, str(first[2].pk))
    assert api(ana).get(address(conversation)).json()["leaf_id"] == str(first[2].pk)
    assert patch(leaf_id=str(second[0].pk), title="Otra") == (200, str(second[1].pk))
    assert patch(leaf_id=str(first[1].pk)) == (200, str(first[2].pk))
    assert patch(leaf_id=None) == (200, str(second[1].pk))
    for turn in (ask(begin(ana.pk)), ask(begin(bo.pk))):
        assert patch(leaf_id=str(turn.pk), title="No") == (404, None)
    assert patch(leaf_id="7") == (400, None)
    conversation.refresh_from_db()
    assert (conversation.leaf_id, conversation.title) == (second[1].pk, "Otra")


def test_a_conversation_is_pinned_archived_and_put_into_a_folder(api, ana, bo):
    conversation = begin(ana.pk, "Recetas")
    folder = api(ana).post("/api/v1/folders", {"name": "Cocina", "instructions": "En verso."}, format="json")
    assert folder.status_code == 201
    theirs = api(bo).post("/api/v1/folders", {"name": "Ajena"}, format="json").json()["id"]
    marks = {"folder_id": folder.json()["id"], "is_pinned": True, "is_archived": True}
    body = api(ana).patch(address(conversation), marks, format="json").json()
    assert {name: body[name] for name in marks} == marks
    refused = api(ana).patch(address(conversation), {"folder_id": theirs, "is_pinned": False}, format="json")
    assert (refused.status_code, api(ana).get(address(conversation)).json()["is_pinned"]) == (404, True)
    assert api(ana).get(ADDRESS).json()["results"] == []
    for query in ("in=archive", f"in=archive&folder={marks['folder_id']}"):
        assert [row["id"] for row in api(ana).get(f"{ADDRESS}?{query}").json()["results"]] == [str(conversation.pk)]
    for query in ("in=attic", "folder=x"):
        assert api(ana).get(f"{ADDRESS}?{query}").status_code == 400
    marks = {"folder_id": None, "is_pinned": False, "is_archived": False}
    body = api(ana).patch(address(conversation), marks, format="json").json()
    assert {name: body[name] for name in marks} == marks


def test_folders_are_listed_changed_and_deleted(api, ana, bo):
    made = {"id": str(new_id()), "name": "Cocina", "model": "scripted", "instructions": "En verso."}
    mine = api(ana)
    for _ in range(2):  # sent again, it is the same
        body = mine.post("/api/v1/folders", made, format="json").json()
        assert {name: body[name] for name in made} == made
    assert api(bo).post("/api/v1/folders", made, format="json").status_code == 409
    path = f"/api/v1/folders/{made['id']}"
    for method in ("get", "patch", "delete"):
        assert getattr(api(bo), method)(path, {"name": "Mía"}, format="json").status_code == 404
    assert mine.patch(path, {"name": "Recetas", "id": str(new_id())}, format="json").json()["id"] == made["id"]
    assert [row["name"] for row in mine.get("/api/v1/folders").json()["results"]] == ["Recetas"]
    for body in ({"name": ""}, {"instructions": "x" * 4_001}, {"name": "a\0"}):
        assert mine.patch(path, body, format="json").status_code == 400
    conversation = mine.post(ADDRESS, {"folder_id": made["id"]}, format="json").json()
    assert conversation["folder_id"] == made["id"]
    assert mine.delete(f"{path}?conversations=trash").status_code == 204
    assert mine.get(path).status_code == 404
    assert [row["id"] for row in mine.get(f"{ADDRESS}?in=trash").json()["results"]] == [conversation["id"]]
