"""A fork: the way to a turn in a conversation of its own, free, once, and whole or not at all."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.conf import settings as site
from django.test import Client
from django.utils import timezone
from pytest_django import Settings
from rest_framework.test import APIClient

from accounts.models import User
from billing.models import UsageRecord
from chat.attachments import copying, erasing
from chat.attachments.binding import FileContents, decode_attached
from chat.models import Attachment, LanguageModel
from chat.turns import forking
from chat.turns.closing import close_turn
from chat.turns.limits import count_upload
from core.errors import Conflict, NotFound, RateLimited, Unavailable
from history import access, branches, deletion, folders, forks, trash
from history.errors import ForkTooLarge, ParentNotFinished
from history.models import Conversation, Turn, new_id
from history.progress import Outcome
from tests.billing.together import together
from tests.chat.asking import ask, period_of, saved
from tests.chat.attaching import attached, ids, stored_names
from tests.chat.dying import Died, die

pytestmark = [pytest.mark.stores, pytest.mark.usefixtures("catalog")]

Api = Callable[[User | None], APIClient]


@pytest.fixture(autouse=True)
def folder(settings: Settings, tmp_path: Path, catalog: None) -> Iterator[Path]:
    """A storage of this test's own."""
    options = {**site.STORAGES["attachments"]["OPTIONS"], "location": tmp_path / "attachments"}
    settings.STORAGES = {**site.STORAGES, "attachments": {**site.STORAGES["attachments"], "OPTIONS": options}}
    return tmp_path / "attachments"


def answered(user: User, text: str = "say:hola", **fields: Any) -> Turn:
    turn = ask(user, text, **fields)
    close_turn(turn, Outcome(Turn.Status.COMPLETED, answer=f"Re: {text}", usage_source="provider", cost_micros=3))
    return saved(turn)


def talk(user: User, **fields: Any) -> list[Turn]:
    """Return three turns that follow one another; the second was asked twice before."""
    first = answered(user, "one", **fields)
    of_conversation = {"conversation_id": first.conversation_id}
    answered(user, "two, not this", **of_conversation)
    second = answered(user, "two", parent_id=first.pk, **of_conversation)
    return [first, second, answered(user, "three", **of_conversation)]


def way(conversation: Conversation) -> list[Turn]:
    return branches.list_branch(conversation, limit=30).turns


def test_a_fork_has_the_way_to_its_turn_and_costs_nothing(ana: User):
    _first, second, _third = talk(ana)
    folder = folders.create_folder(ana.pk, name="Números")
    Conversation.objects.filter(pk=second.conversation_id).update(folder_id=folder.pk)
    records, used = UsageRecord.objects.count(), period_of(ana).used_micros
    copy = forking.fork(ana.pk, second.pk, new_id())
    found = access.access_conversation(ana.pk, copy.pk)
    assert (found.title, found.search_title, found.turn_count) == ("one (rama)", "one (rama)", 2)
    assert found.folder_id == folder.pk
    turns = way(found)
    assert [(turn.question, turn.answer, turn.seq, turn.depth, turn.cost_micros) for turn in turns] == [
        ("one", "Re: one", 1, 0, 0),
        ("two", "Re: two", 2, 1, 0),
    ]
    assert (UsageRecord.objects.count(), period_of(ana).used_micros) == (records, used)
    assert answered(ana, "and now?", conversation_id=copy.pk).parent_id == turns[-1].pk
    assert Conversation.objects.get(pk=second.conversation_id).turn_count == 4


def test_the_same_fork_again_is_the_same(ana: User, api: Api):
    _first, second, _third = talk(ana)
    body = {"conversation_id": str(new_id())}
    answers = [api(ana).post(f"/api/v1/turns/{second.pk}/fork", body, format="json") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert [answer.json()["turn_count"] for answer in answers] == [2, 2]
    assert Conversation.objects.count() == 2
    assert Turn.objects.filter(conversation_id=body["conversation_id"]).count() == 2
    trash.trash_conversations(ana.pk, [UUID(body["conversation_id"])])
    assert api(ana).post(f"/api/v1/turns/{second.pk}/fork", body, format="json").status_code == 404


def test_of_many_at_once_one_forks_and_the_others_get_that_or_wait(ana: User):
    _first, second, _third = talk(ana)
    conversation_id = new_id()
    answers = together([partial(forking.fork, ana.pk, second.pk, conversation_id)] * 6)
    assert {type(answer) for answer in answers} <= {Conversation, Unavailable}
    assert Conversation in {type(answer) for answer in answers}
    assert Turn.objects.filter(conversation_id=conversation_id).count() == 2


def test_what_cannot_be_forked(ana: User, bo: User):
    first = talk(ana)[0]
    with pytest.raises(NotFound):
        forking.fork(bo.pk, first.pk, new_id())
    with pytest.raises(Conflict):
        forking.fork(ana.pk, first.pk, talk(bo)[0].conversation_id)
    with pytest.raises(ParentNotFinished):
        forking.fork(ana.pk, ask(ana).pk, new_id())


def test_a_fork_has_a_size_and_its_files_count_as_uploads(
    ana: User, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    settings.ATTACHMENTS_PER_HOUR = 3
    LanguageModel.objects.filter(key="scripted").update(sees_images=True)
    last = talk(ana, attachments=ids(attached(ana), attached(ana)))[-1]
    forking.fork(ana.pk, last.pk, new_id())
    with pytest.raises(RateLimited):
        forking.fork(ana.pk, last.pk, new_id())
    count_upload(ana.pk)  # nothing of what was refused was counted
    settings.ATTACHMENTS_PER_HOUR = 0
    monkeypatch.setattr(forks, "MAX_TURNS", 2)
    with pytest.raises(ForkTooLarge):
        forking.fork(ana.pk, last.pk, new_id())
    assert Conversation.objects.count() == 2


def test_files_are_copied_and_each_goes_with_its_conversation(ana: User):
    LanguageModel.objects.filter(key="scripted").update(sees_images=True)
    file = attached(ana)
    first, second, _third = talk(ana, attachments=ids(file))
    copy = forking.fork(ana.pk, second.pk, new_id())
    [listed] = decode_attached(way(copy)[0].attachments)
    assert listed.id != file.pk
    deletion.delete_conversation(access.access_conversation(ana.pk, first.conversation_id))
    assert [row.pk for row in Attachment.objects.all()] == [listed.id]
    assert FileContents(ana.pk, [listed]).data_of(listed)
    deletion.delete_conversation(copy)
    assert (Attachment.objects.count(), stored_names()) == (0, set())


@pytest.mark.parametrize(
    "step",
    [
        "chat.turns.forking.copy_files",
        "chat.attachments.copying.storage",
        "history.forks.Turn.objects.bulk_create",
        "history.forks.rows.update",
    ],
)
def test_whoever_dies_over_a_fork_leaves_nothing_half(ana: User, monkeypatch: pytest.MonkeyPatch, step: str):
    LanguageModel.objects.filter(key="scripted").update(sees_images=True)
    file = attached(ana)
    _first, second, _third = talk(ana, attachments=ids(file))
    conversation_id, names = new_id(), stored_names()
    with monkeypatch.context() as dying, pytest.raises(Died):
        dying.setattr(step, die)
        forking.fork(ana.pk, second.pk, conversation_id)
    with pytest.raises(NotFound):
        access.access_conversation(ana.pk, conversation_id)
    with pytest.raises(Unavailable):
        forking.fork(ana.pk, second.pk, conversation_id)
    deletion.finish_deletions()  # too early: it may be written yet
    half = Conversation.objects.filter(pk=conversation_id)
    assert half.update(created_at=timezone.now() - deletion.COPY_GRACE) == 1
    deletion.finish_deletions()
    assert not half.exists()
    assert not Turn.objects.filter(conversation_id=conversation_id).exists()
    assert ([row.pk for row in Attachment.objects.all()], stored_names()) == ([file.pk], names)
    assert len(way(forking.fork(ana.pk, second.pk, conversation_id))) == 2


def test_files_of_a_fork_that_is_erased_while_they_are_copied_are_gone(ana: User, monkeypatch: pytest.MonkeyPatch):
    LanguageModel.objects.filter(key="scripted").update(sees_images=True)
    _first, second, _third = talk(ana, attachments=ids(attached(ana)))
    conversation_id, names, storage = new_id(), stored_names(), copying.storage

    def erased_meanwhile() -> Any:
        erasing.erase_of_conversation(conversation_id)
        return storage()

    monkeypatch.setattr(copying, "storage", erased_meanwhile)
    forking.fork(ana.pk, second.pk, conversation_id)
    assert stored_names() == names


def test_whoever_comes_too_late_takes_everything_back(ana: User, monkeypatch: pytest.MonkeyPatch):
    _first, second, _third = talk(ana)
    monkeypatch.setattr("history.forks.is_late", lambda _copy: True)
    with pytest.raises(Unavailable):
        forking.fork(ana.pk, second.pk, new_id())
    assert (Turn.objects.count(), Conversation.objects.filter(is_deleted=None).count()) == (4, 1)


def test_a_button_forks_once_for_each_page_and_turn(ana: User):
    first, second, _third = talk(ana)
    browser = Client()
    browser.force_login(ana)
    forks = browser.get(f"/c/{first.conversation_id}/").context["forks"]
    places = [browser.post(f"/turns/{turn.pk}/fork/", {"forks": forks})["Location"] for turn in (first, second, second)]
    assert places[1] == places[2] != places[0]
    assert browser.get(places[1]).status_code == 200
    running = ask(ana)
    answer = browser.post(f"/turns/{running.pk}/fork/", {"forks": forks}, follow=True)
    assert str(ParentNotFinished.message) in answer.content.decode().replace("&#x27;", "'")
