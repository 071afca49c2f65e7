"""Shares: what they show, whom, and what is left of them. And copies of them."""

import base64
import datetime as dt
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError

from accounts import closure
from accounts.models import Closure, User
from core.errors import Conflict, NotFound, Unavailable
from history import access, branches, deletion, share_copies, share_erasure, sharing
from history.errors import NothingToShare, ShareGone, ShareTakenDown, ShareTooLarge, TooManyShares
from history.models import Conversation, ShareCopy, SharedPage, SharedTurn, ShareReport, Turn, new_id, now
from history.sharing import Description, Terms
from tests.history.growing import ask, begin

pytestmark = [pytest.mark.stores, pytest.mark.django_db(transaction=True, databases=["default", "history"])]


def describe(turn: Turn) -> Description:
    return Description("Model of " + turn.question, ["plan.pdf"] if turn.attachments else ())


@pytest.fixture
def owner(db: None) -> int:
    return User.objects.create_user("owner@example.com", "una clave larga").pk


@pytest.fixture
def reader(db: None) -> int:
    return User.objects.create_user("reader@example.com", "una clave larga").pk


@pytest.fixture
def conversation(owner: int) -> Conversation:
    """Three questions in a row, with answers, and one beside the second."""
    found = begin(owner, "Recetas")
    first = ask(found, "uno", answer="**1**")
    ask(found, "dos, antes", after=first, answer="-2")
    second = ask(found, "dos", after=first, answer="2", reasoning="thinking", attachments="[…]")
    ask(found, "tres", after=second, answer="3")
    return found


def make(conversation: Conversation, **terms: Any) -> SharedPage:
    return sharing.create_share(conversation, Terms(**terms), describe, share_id=new_id())


def shown(share: SharedPage) -> list[tuple[str, str]]:
    """What whoever has the link reads."""
    found = sharing.open_share(sharing.token_of(share))
    return [(turn.question, turn.answer) for turn in sharing.list_shared_turns(found)]


def later(minutes: int = 20) -> Callable[[], dt.datetime]:
    return lambda: now() + dt.timedelta(minutes=minutes)


def rows_left() -> list[int]:
    return [model.objects.count() for model in (SharedPage, SharedTurn, ShareReport, ShareCopy)]


def is_gone(share: SharedPage) -> bool:
    try:
        sharing.open_share(sharing.token_of(share))
    except ShareGone:
        return True
    return False


# --- What is shown ----------------------------------------------------------------------------------------------------


WHOLE = [("uno", "**1**"), ("dos", "2"), ("tres", "3")]


def test_a_share_shows_the_branch_that_is_chosen(conversation: Conversation):
    share = make(conversation)
    assert shown(share) == WHOLE
    assert (share.title, share.turn_count, share.unsettled_at) == ("Recetas", 3, None)
    turns = sharing.list_shared_turns(share)
    assert [turn.model for turn in turns] == ["Model of uno", "Model of dos", "Model of tres"]
    assert [sharing.file_names_of(turn) for turn in turns] == [[], ["plan.pdf"], []]
    chosen = Turn.objects.get(question="dos, antes")
    Conversation.objects.filter(pk=conversation.pk).update(leaf_id=chosen.pk)
    conversation.refresh_from_db()
    assert shown(make(conversation)) == [("uno", "**1**"), ("dos, antes", "-2")]


def test_a_share_may_end_at_a_turn_of_any_branch(conversation: Conversation):
    until = Turn.objects.get(question="dos, antes")
    assert shown(make(conversation, until_id=until.pk)) == [("uno", "**1**"), ("dos, antes", "-2")]


def test_what_has_no_answer_is_left_out(conversation: Conversation):
    last = Turn.objects.get(question="tres")
    cut = ask(conversation, "cuatro", after=last, answer="half", status=Turn.Status.INTERRUPTED)
    failed = ask(conversation, "cinco", after=cut, answer=" \n", status=Turn.Status.FAILED)
    ask(conversation, "seis", after=failed, answer="", status=Turn.Status.QUEUED)
    share = make(conversation)
    assert shown(share) == [*WHOLE, ("cuatro", "half")]
    assert [turn.is_cut for turn in sharing.list_shared_turns(share)] == [None, None, None, True]
    with pytest.raises(NothingToShare):
        make(begin(conversation.owner_id))
    assert SharedPage.objects.count() == 1


def test_it_is_what_it_was_until_it_is_made_anew_under_the_same_link(conversation: Conversation):
    share = make(conversation)
    token = sharing.token_of(share)
    access.rename_conversation(conversation, "Cocina")
    Turn.objects.filter(question="uno").update(answer="other")
    ask(conversation, "cuatro", after=Turn.objects.get(question="tres"), answer="4")
    Turn.objects.filter(question="dos, antes").delete()
    assert shown(share) == WHOLE
    assert sharing.open_share(token).title == "Recetas"
    updated = sharing.update_share(share, describe)
    assert sharing.token_of(updated) == token
    assert (updated.title, updated.turn_count, updated.unsettled_at) == ("Cocina", 4, None)
    assert shown(updated) == [("uno", "other"), *WHOLE[1:], ("cuatro", "4")]
    assert SharedTurn.objects.count() == 4


def test_a_long_share_is_read_in_pages(conversation: Conversation, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sharing, "PORTION", 2)
    share = make(conversation)
    assert [turn.question for turn in sharing.list_shared_turns(share, start=1, limit=1)] == ["dos"]
    assert [turn.question for turn in sharing.list_shared_turns(share, start=2)] == ["tres"]
    assert sharing.list_shared_turns(share, start=3) == []


# --- The link ---------------------------------------------------------------------------------------------------------


def test_nobody_guesses_a_link(conversation: Conversation):
    share, other = make(conversation), make(conversation)
    token = sharing.token_of(share)
    data = base64.urlsafe_b64decode(token + "=")
    assert len(token) == sharing.TOKEN_LENGTH
    assert data[:16] == share.pk.bytes
    mixed = sharing._encode(share.pk.bytes + sharing._decode(other.secret))
    unknown = sharing._encode(new_id().bytes + data[16:])
    wrong = ["", "x", str(share.pk), token[:-1], token + "A", token[:22], mixed, unknown, token + "\n", "ñ" * 43]
    wrong += [token[:-1] + chr(ord(token[-1]) + 1), token.swapcase(), "\0" * 43, "a" * 10_000]
    for guess in wrong:
        with pytest.raises(ShareGone):
            sharing.open_share(guess)
    assert sharing.open_share(token) == share


def test_the_same_request_makes_one_share(conversation: Conversation, reader: int):
    share_id = new_id()
    shares = [sharing.create_share(conversation, Terms(), describe, share_id=share_id) for _ in range(2)]
    assert shares[0] == shares[1]
    assert rows_left() == [1, 3, 0, 0]
    for other in (begin(reader), begin(conversation.owner_id)):
        with pytest.raises(Conflict):
            sharing.create_share(other, Terms(), describe, share_id=share_id)


def test_nobody_shares_or_sees_what_is_somebody_elses(conversation: Conversation, reader: int):
    theirs = ask(begin(reader), "secreto", answer="secreto")
    elsewhere = ask(begin(conversation.owner_id), "otro", answer="otro")
    for turn in (theirs, elsewhere):
        with pytest.raises(NotFound):
            make(conversation, until_id=turn.pk)
    share = make(conversation)
    with pytest.raises(NotFound):
        sharing.access_share(reader, share.pk)
    assert sharing.list_shares(reader) == []
    assert sharing.list_shares(conversation.owner_id, conversation_id=theirs.conversation_id) == []


def test_what_one_person_shares_has_limits(conversation: Conversation, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sharing, "MAX_SHARES", 2)
    share = make(conversation)
    make(conversation)
    with pytest.raises(TooManyShares):
        make(conversation)
    assert rows_left() == [2, 6, 0, 0]
    sharing.revoke_share(share)
    make(conversation)
    monkeypatch.setattr(sharing, "MAX_SHARES", 9)
    for limit, value in (("MAX_TURNS", 2), ("MAX_CHARACTERS", 15), ("MAX_CHARACTERS", 40)):
        with monkeypatch.context() as patch:
            patch.setattr(sharing, limit, value)  # one has 16 characters
            with pytest.raises(ShareTooLarge):
                make(conversation)
    assert rows_left() == [2, 6, 0, 0]


def test_of_two_shares_at_once_none_slips_through_a_limit(conversation: Conversation, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sharing, "MAX_CHARACTERS", 20)

    def overtaken(turn: Turn) -> Description:
        with pytest.raises(ShareTooLarge):
            make(conversation)
        return describe(turn)

    sharing.create_share(conversation, Terms(), overtaken, share_id=new_id())
    assert rows_left() == [1, 3, 0, 0]


# --- The end of it ----------------------------------------------------------------------------------------------------


def test_a_share_that_is_revoked_is_gone_twice_too(conversation: Conversation):
    share, other = make(conversation), make(conversation)
    sharing.report_share(share, "spam", "", report_id=new_id())
    for _ in range(2):
        sharing.revoke_share(share)
    assert is_gone(share)
    assert shown(other) == WHOLE
    assert rows_left() == [1, 3, 0, 0]
    with pytest.raises(NotFound):
        sharing.access_share(share.owner_id, share.pk)
    with pytest.raises(NotFound):
        sharing.update_share(share, describe)
    assert rows_left() == [1, 3, 0, 0]


def test_in_the_trash_a_conversation_is_not_shown(conversation: Conversation):
    share = make(conversation)
    Conversation.objects.filter(pk=conversation.pk).update(trashed_at=now())
    assert is_gone(share)
    Conversation.objects.filter(pk=conversation.pk).update(trashed_at=None)
    assert shown(share) == WHOLE


def test_a_conversation_takes_its_shares_with_it(conversation: Conversation, monkeypatch: pytest.MonkeyPatch):
    share = make(conversation)
    with monkeypatch.context() as patch:
        patch.setattr(deletion, "erase_if_over", lambda *_, **__: False)  # something of it still runs
        deletion.delete_conversation(conversation)
    assert is_gone(share)
    deletion.finish_deletions()
    assert rows_left() == [0, 0, 0, 0]
    assert not Turn.objects.exists()


def test_an_account_takes_its_shares_with_it_and_a_suspended_one_hides_them(conversation: Conversation, reader: int):
    share = make(conversation)
    User.objects.filter(pk=share.owner_id).update(is_active=False)
    assert is_gone(share)
    User.objects.filter(pk=share.owner_id).update(is_active=True)
    assert not is_gone(share)
    other = begin(reader)
    ask(other, "otro", answer="otro")
    make(other)
    ShareCopy.objects.create(owner_id=share.owner_id, edition=new_id())
    SharedTurn.objects.create(  # somebody died on it, and its share is gone
        owner_id=share.owner_id, share_id=new_id(), edition=new_id(), position=0, question="", answer="", asked_at=now()
    )
    assert deletion.delete_history(share.owner_id)
    assert rows_left() == [1, 1, 0, 0]


def test_an_expired_share_is_not_shown_and_is_swept(conversation: Conversation):
    share, kept = make(conversation, expires_at=now() + dt.timedelta(hours=1)), make(conversation)
    assert not is_gone(share)
    SharedPage.objects.filter(pk=share.pk).update(expires_at=now())
    assert is_gone(share)
    share_erasure.repair_shares()
    assert not SharedPage.objects.filter(pk=share.pk).exists()
    assert shown(kept) == WHOLE
    assert rows_left() == [1, 3, 0, 0]
    sharing.take_down(kept, "Fraude")
    SharedPage.objects.filter(pk=kept.pk).update(expires_at=now())
    share_erasure.repair_shares()
    with pytest.raises(ShareTakenDown):
        make(conversation)


class Killed(BaseException):
    """The process dies here."""


def die(*_arguments: Any, **_named: Any) -> None:
    raise Killed


def test_whoever_dies_while_sharing_leaves_nothing_that_is_seen(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
):
    share_id = new_id()
    with monkeypatch.context() as patch:
        patch.setattr(sharing, "_show", die)
        patch.setattr(sharing, "finish_writing", lambda *_: None)
        with pytest.raises(Killed):
            sharing.create_share(conversation, Terms(), describe, share_id=share_id)
    assert rows_left() == [1, 3, 0, 0]
    assert sharing.list_shares(conversation.owner_id) == []
    with pytest.raises(Unavailable):
        sharing.create_share(conversation, Terms(), describe, share_id=share_id)
    with pytest.raises(NotFound):
        sharing.access_share(conversation.owner_id, share_id)
    share_erasure.repair_shares()  # it may still be written
    assert rows_left() == [1, 3, 0, 0]
    monkeypatch.setattr(share_erasure, "now", later())
    share_erasure.repair_shares()
    assert rows_left() == [0, 0, 0, 0]
    assert shown(sharing.create_share(conversation, Terms(), describe, share_id=share_id)) == WHOLE


def test_whoever_takes_longer_than_the_sweep_waits_gives_up(
    conversation: Conversation, reader: int, monkeypatch: pytest.MonkeyPatch
):
    for module in (sharing, share_copies):
        monkeypatch.setattr(module, "PORTION", 1)

    def slow(turn: Turn) -> Description:
        monkeypatch.setattr(sharing, "now", later(5))
        return describe(turn)

    with pytest.raises(Unavailable):
        sharing.create_share(conversation, Terms(), slow, share_id=new_id())
    assert rows_left() == [0, 0, 0, 0]
    share, write = make(conversation), share_copies._write

    def write_slowly(*arguments: Any) -> None:
        write(*arguments)
        monkeypatch.setattr(share_copies, "now", later(5))

    monkeypatch.setattr(share_copies, "_write", write_slowly)
    with pytest.raises(Unavailable):
        share_copies.copy_share(share, reader, new_id())
    monkeypatch.setattr(share_erasure, "now", later())
    share_erasure.repair_shares()
    assert rows_left() == [1, 3, 0, 0]
    assert not Turn.objects.filter(owner_id=reader).exists()


def test_whoever_dies_after_sharing_has_failed_leaves_it_to_the_sweep(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_arguments: Any) -> UUID | None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(sharing, "_show", fail)
        patch.setattr(share_erasure, "revoke", die)
        with pytest.raises(Killed):
            make(conversation)
    assert rows_left() == [1, 0, 0, 0]
    monkeypatch.setattr(share_erasure, "now", later())
    share_erasure.repair_shares()
    assert rows_left() == [0, 0, 0, 0]


def test_the_sweep_leaves_an_edition_that_is_written_meanwhile(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
):
    share, is_there = make(conversation), share_erasure.is_conversation_there
    SharedPage.objects.update(unsettled_at=now() - 2 * share_erasure.GRACE)  # somebody died on something, long ago

    def updated_meanwhile(found: SharedPage) -> bool:
        monkeypatch.setattr(share_erasure, "is_conversation_there", is_there)
        sharing.update_share(share, describe)
        return is_there(found)

    monkeypatch.setattr(share_erasure, "is_conversation_there", updated_meanwhile)
    share_erasure.repair_shares()
    assert shown(share) == WHOLE


@pytest.mark.parametrize("place", ["_show", "finish_writing"])
def test_whoever_dies_while_updating_leaves_one_edition_whole(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch, place: str
):
    share = make(conversation)
    Turn.objects.filter(question="uno").update(answer="new")
    with monkeypatch.context() as patch:
        patch.setattr(sharing, "finish_writing", lambda *_: None)
        patch.setattr(sharing, place, die)
        with pytest.raises(Killed):
            sharing.update_share(share, describe)
    seen = [("uno", "new" if place == "finish_writing" else "**1**"), *WHOLE[1:]]
    assert shown(share) == seen
    assert SharedTurn.objects.count() == 6
    monkeypatch.setattr(share_erasure, "now", later())
    share_erasure.repair_shares()
    assert shown(share) == seen
    assert SharedTurn.objects.count() == 3
    assert SharedPage.objects.get().unsettled_at is None


@pytest.mark.parametrize("end", ["revoked", "deleted"])
def test_what_ends_while_it_is_updated_stays_ended(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch, end: str
):
    share = make(conversation)
    show = sharing._show

    def end_it_first(*arguments: Any) -> UUID | None:
        if end == "revoked":
            sharing.revoke_share(share)
        else:
            deletion.delete_conversation(conversation)
        SharedTurn.objects.create(  # the rest of what is being written comes later
            owner_id=share.owner_id, share_id=share.pk, edition=arguments[1], position=9, question="", answer="",
            asked_at=now(),
        )  # fmt: skip
        return show(*arguments)

    monkeypatch.setattr(sharing, "_show", end_it_first)
    with pytest.raises(NotFound):
        sharing.update_share(share, describe)
    assert is_gone(share)
    assert rows_left() == [0, 0, 0, 0]


def test_of_two_updates_at_once_one_edition_is_left(conversation: Conversation, monkeypatch: pytest.MonkeyPatch):
    share = make(conversation)
    show = sharing._show

    later_editions: list[UUID | None] = []

    def be_overtaken(*arguments: Any) -> UUID | None:
        monkeypatch.setattr(sharing, "_show", show)
        later_editions.append(sharing.update_share(share, describe).edition)
        return show(*arguments)

    monkeypatch.setattr(sharing, "_show", be_overtaken)
    sharing.update_share(share, describe)
    assert shown(share) == WHOLE
    assert SharedTurn.objects.count() == 3
    assert [SharedPage.objects.get().edition] == later_editions  # that of who began last
    assert SharedPage.objects.get().next_edition is None


def test_a_conversation_that_is_deleted_while_it_is_shared_leaves_no_share(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
):
    show = sharing._show

    def delete_first(*arguments: Any) -> UUID | None:
        Conversation.objects.filter(pk=conversation.pk).delete()  # its shares were erased before this one came
        return show(*arguments)

    monkeypatch.setattr(sharing, "_show", delete_first)
    with pytest.raises(NotFound):
        make(conversation)
    assert rows_left() == [0, 0, 0, 0]


# --- Reports and operators --------------------------------------------------------------------------------------------


def test_what_is_taken_down_is_seen_by_nobody_and_not_shared_again(conversation: Conversation):
    share, other = make(conversation), make(conversation)
    was_open = sharing.access_share(share.owner_id, share.pk)
    assert sharing.take_down(share, "Fraude")
    assert not sharing.take_down(share, "Otra vez")
    assert is_gone(share)
    assert not is_gone(other)
    (listed,) = [one for one in sharing.list_shares(share.owner_id) if one == share]
    assert (listed.takedown_reason, listed.taken_down_at is None) == ("Fraude", False)
    for act in (lambda: make(conversation), lambda: sharing.update_share(share, describe)):
        with pytest.raises(ShareTakenDown):
            act()
    for read in (listed, was_open):  # whoever stops sharing at the same moment has read it before
        with pytest.raises(ShareTakenDown):
            sharing.revoke_share(read)
    assert sharing.put_back(listed)
    assert not sharing.put_back(listed)
    assert shown(share) == WHOLE
    make(conversation)


def test_a_report_is_kept_once_and_a_share_keeps_so_many(conversation: Conversation, monkeypatch: pytest.MonkeyPatch):
    share, report_id = make(conversation), new_id()
    for _ in range(2):
        sharing.report_share(share, "illegal", "Miren esto", report_id=report_id)
    share.refresh_from_db()
    assert (share.report_count, ShareReport.objects.get().text) == (1, "Miren esto")
    monkeypatch.setattr(sharing, "MAX_REPORTS", 1)
    sharing.report_share(share, "spam", "", report_id=new_id())
    share.refresh_from_db()
    assert (share.report_count, ShareReport.objects.count()) == (2, 1)
    monkeypatch.undo()
    sharing.revoke_share(share)
    sharing.report_share(share, "spam", "Too late", report_id=new_id())  # who reports it has opened it before
    assert rows_left() == [0, 0, 0, 0]


# --- Copies -----------------------------------------------------------------------------------------------------------


def test_a_copy_is_the_readers_and_goes_on(conversation: Conversation, reader: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(share_copies, "PORTION", 2)
    share = make(conversation)
    copied = [share_copies.copy_share(share, reader, copy_id) for copy_id in [new_id()] * 2]
    assert copied[0] == copied[1]
    assert access.list_conversations(reader).rows == [copied[0]]
    assert (copied[0].title, copied[0].turn_count) == ("Recetas", 3)
    branch = branches.list_branch(copied[0], limit=9).turns
    assert [(turn.question, turn.answer) for turn in branch] == WHOLE
    assert [(turn.depth, turn.seq, turn.owner_id) for turn in branch] == [(n, n + 1, reader) for n in range(3)]
    assert {(turn.status, turn.cost_micros, turn.attachments, turn.reasoning) for turn in branch} == {
        ("completed", 0, "", "")
    }
    assert [turn.model for turn in branch] == ["Model of uno", "Model of dos", "Model of tres"]
    assert [turn.question for turn in access.list_turns(copied[0]).rows] == ["uno", "dos", "tres"]
    assert ask(copied[0], "cuatro", after=branch[-1]).seq == 4
    assert rows_left() == [1, 3, 0, 0]
    sharing.revoke_share(share)
    assert branches.list_branch(copied[0], limit=9).turns[:3] == branch


def test_a_copy_that_takes_as_long_as_it_may_goes_with_its_account(conversation: Conversation, reader: int):
    share = make(conversation)
    User.objects.get(pk=reader).delete()
    Closure.objects.update(created_at=now() - share_erasure.WRITING)
    closure.finish_closures()
    share_copies.copy_share(share, reader, new_id())  # begun before
    closure.finish_closures()
    assert not Turn.objects.filter(owner_id=reader).exists()
    assert not Conversation.objects.filter(owner_id=reader).exists()


def test_a_copy_takes_no_id_that_is_in_use(conversation: Conversation, reader: int):
    share = make(conversation)
    with pytest.raises(Conflict):
        share_copies.copy_share(share, reader, conversation.pk)
    theirs = new_id()
    ShareCopy.objects.create(pk=theirs, owner_id=share.owner_id, edition=share.edition)
    with pytest.raises(Conflict):
        share_copies.copy_share(share, reader, theirs)
    taken = begin(reader)
    for hidden in ({"trashed_at": now()}, {"is_deleted": True}):
        Conversation.objects.filter(pk=taken.pk).update(**hidden)
        with pytest.raises(NotFound):
            share_copies.copy_share(share, reader, taken.pk)
        Conversation.objects.filter(pk=taken.pk).update(trashed_at=None)
    assert not Turn.objects.filter(owner_id=reader).exists()


@pytest.mark.parametrize("end", ["revoked", "taken down", "updated", "trashed", "account closed"])
def test_what_ends_while_it_is_copied_leaves_no_copy(
    conversation: Conversation, reader: int, monkeypatch: pytest.MonkeyPatch, end: str
):
    share = make(conversation)
    write = share_copies._write

    def end_it_first(*arguments: Any) -> None:
        write(*arguments)
        if end == "revoked":
            sharing.revoke_share(share)
        elif end == "taken down":
            sharing.take_down(share, "Fraude")
        elif end == "updated":
            sharing.update_share(share, describe)
        elif end == "account closed":
            User.objects.get(pk=reader).delete()
        else:
            Conversation.objects.filter(pk=conversation.pk).update(trashed_at=now())

    monkeypatch.setattr(share_copies, "_write", end_it_first)
    with pytest.raises(ShareGone):
        share_copies.copy_share(share, reader, new_id())
    assert not Conversation.objects.filter(owner_id=reader).exists()
    assert not Turn.objects.filter(owner_id=reader).exists()
    assert not ShareCopy.objects.exists()


def test_of_two_that_copy_what_is_revoked_neither_shows_an_empty_conversation(
    conversation: Conversation, reader: int, monkeypatch: pytest.MonkeyPatch
):
    """The first has found it whole, and lets it be seen while the second takes it back."""
    share, copy_id, find = make(conversation), new_id(), share_erasure.rows.find
    finish = share_copies._finish

    def be_overtaken(copy: ShareCopy, *arguments: Any) -> Conversation:
        sharing.revoke_share(share)

        def finish_when_looked_for(model: type[Any], **where: Any) -> Any:
            found = find(model, **where)
            if model is Conversation:
                monkeypatch.setattr(share_erasure.rows, "find", find)
                finish(copy, *arguments)
            return found

        monkeypatch.setattr(share_erasure.rows, "find", finish_when_looked_for)
        share_erasure.abandon_copy(copy)
        raise Killed

    monkeypatch.setattr(share_copies, "_finish", be_overtaken)
    with pytest.raises(Killed):
        share_copies.copy_share(share, reader, copy_id)
    assert access.list_conversations(reader).rows == []
    deletion.finish_deletions()
    assert not Conversation.objects.filter(owner_id=reader).exists()
    assert (Turn.objects.filter(owner_id=reader).count(), ShareCopy.objects.count()) == (0, 0)


def test_whoever_dies_while_copying_leaves_nothing_that_is_seen(
    conversation: Conversation, reader: int, monkeypatch: pytest.MonkeyPatch
):
    share, copy_id = make(conversation), new_id()
    with monkeypatch.context() as patch:
        patch.setattr(share_copies, "_finish", die)
        with pytest.raises(Killed):
            share_copies.copy_share(share, reader, copy_id)
    assert access.list_conversations(reader).rows == []
    with pytest.raises(NotFound):
        access.access_turn(reader, Turn.objects.filter(owner_id=reader)[0].pk)
    share_erasure.repair_shares()
    assert Turn.objects.filter(owner_id=reader).count() == 3
    again = share_copies.copy_share(share, reader, copy_id)  # the same request once more
    assert len(branches.list_branch(again, limit=9).turns) == 3
    with monkeypatch.context() as patch:
        patch.setattr(share_copies, "_finish", die)
        with pytest.raises(Killed):
            share_copies.copy_share(share, reader, new_id())
    monkeypatch.setattr(share_erasure, "now", later())
    share_erasure.repair_shares()
    assert Turn.objects.filter(owner_id=reader).count() == 3
    assert not ShareCopy.objects.exists()


def test_the_same_copy_twice_at_once_is_one(conversation: Conversation, reader: int, monkeypatch: pytest.MonkeyPatch):
    share, copy_id = make(conversation), new_id()
    write = share_copies._write

    def be_overtaken(copy: ShareCopy, turns: list[Turn]) -> None:
        monkeypatch.setattr(share_copies, "_write", write)
        share_copies.copy_share(share, reader, copy_id)
        for turn in turns:
            turn._state.adding = True
        with pytest.raises(IntegrityError):
            Turn.objects.bulk_create(turns)
        write(copy, turns)

    monkeypatch.setattr(share_copies, "_write", be_overtaken)
    copied = share_copies.copy_share(share, reader, copy_id)
    assert access.list_conversations(reader).rows == [copied]
    assert [turn.question for turn in branches.list_branch(copied, limit=9).turns] == ["uno", "dos", "tres"]
    assert Turn.objects.filter(owner_id=reader).count() == 3
