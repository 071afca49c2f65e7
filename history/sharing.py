"""Shares a branch of a conversation: a copy of it as it is now, which whoever has the link can read.

Each edition of a share is written beside the one that is shown, and then takes its place by one update: a reader sees
one or the other, never a half. Nothing of it changes with the conversation; but while that is in the trash or deleted,
while its owner is suspended, and after the operators have taken it down, the link leads nowhere.
"""

import binascii
import datetime as dt
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
from django.db import IntegrityError
from django.db.models import Sum
from django.utils.crypto import constant_time_compare
from django.utils.translation import gettext_noop

from accounts.models import User
from core import rows
from core.alerts import alert
from core.errors import Conflict, NotFound, Unavailable
from history import access, branches, share_erasure, tree
from history.errors import NothingToShare, ShareGone, ShareTakenDown, ShareTooLarge, TooManyShares
from history.models import Conversation, SharedPage, SharedTurn, ShareReport, Turn, new_id, now
from history.share_erasure import WRITING, finish_writing, is_conversation_there

MAX_SHARES = 100
"""Of a person."""
MAX_TURNS = 5_000
"""Of a share."""
MAX_CHARACTERS = 20_000_000
"""Of all shares of a person together."""
MAX_REPORTS = 50
"""Of a share; more are only counted."""
PAGE_SIZE = 30
PORTION = 100
SECRET_BYTES = 16
TOKEN_LENGTH = 43
REPORTED = gettext_noop("A shared page was reported: look at “shared pages” in the admin.")


@dataclass(frozen=True, slots=True)
class Description:
    """What a share says of a turn beside its texts: the name of who answered, the names of the files."""

    model: str
    file_names: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Terms:
    """What is shared, and with whom. `until_id` is the last turn, None the end of the branch that is chosen; `author`
    is the name the page shows, or empty."""

    until_id: UUID | None = None
    expires_at: dt.datetime | None = None
    is_for_members: bool = False
    author: str = ""


Describe = Callable[[Turn], Description]


# --- The owner's ------------------------------------------------------------------------------------------------------


def create_share(conversation: Conversation, terms: Terms, describe: Describe, *, share_id: UUID) -> SharedPage:
    """Share a conversation; the same `share_id` again returns the share that has it.

    Raises NotFound for a turn of elsewhere and for a conversation that is deleted meanwhile, Conflict for an id that is
    in use, NothingToShare, TooManyShares, ShareTooLarge, and ShareTakenDown where another share of it was taken down.
    """
    known = rows.find(SharedPage, pk=share_id)
    if known is None:
        _check_not_taken_down(conversation)
        turns = _read_branch(conversation, terms.until_id)
        share = SharedPage(
            pk=share_id,
            owner_id=conversation.owner_id,
            conversation_id=conversation.pk,
            until_id=terms.until_id,
            secret=_encode(secrets.token_bytes(SECRET_BYTES)),
            author=terms.author,
            is_for_members=terms.is_for_members or None,
            expires_at=terms.expires_at,
            size=_size_of(turns),
            unsettled_at=now(),
        )
        try:
            rows.insert(share)
        except IntegrityError:
            known = rows.find(SharedPage, pk=share_id)
        else:
            return _write_first(share, conversation, turns, describe)
    if known is None or (known.owner_id, known.conversation_id) != (conversation.owner_id, conversation.pk):
        raise Conflict
    if known.edition is None:  # it is being written, or whoever did so died: the sweep sees to that
        raise Unavailable(retry_after=5)
    return access_share(known.owner_id, share_id)


def update_share(share: SharedPage, describe: Describe) -> SharedPage:
    """Show the branch as it is now, under the same link; raises what `create_share` does."""
    conversation = access.access_conversation(share.owner_id, share.conversation_id)
    _check_not_taken_down(conversation)
    _write(share, conversation, _read_branch(conversation, share.until_id), describe)
    return access_share(share.owner_id, share.pk)


def access_share(owner_id: int, share_id: UUID) -> SharedPage:
    """Return the owner's share; raises NotFound."""
    share = rows.find(SharedPage, pk=share_id, is_revoked__isnull=True)
    if share is None or share.owner_id != owner_id or share.edition is None:
        raise NotFound
    return share


def list_shares(owner_id: int, *, conversation_id: UUID | None = None) -> list[SharedPage]:
    """Return what a person shares, the latest first: all of it, or that of one conversation. MAX_SHARES at most."""
    shares = SharedPage.objects.filter(owner_id=owner_id, is_revoked=None, edition__isnull=False)
    if conversation_id is not None:
        shares = shares.filter(conversation_id=conversation_id)
    return list(shares.order_by("-created_at", "-pk"))


def revoke_share(share: SharedPage) -> None:
    """Stop sharing: the link is dead at once. Raises ShareTakenDown: such a share stays, so that its conversation is
    not shared anew."""
    if not share_erasure.revoke_unless_taken_down(share):
        raise ShareTakenDown


def token_of(share: SharedPage) -> str:
    """Return the part of the link that names the share, and proves that one may see it."""
    return _encode(share.pk.bytes + _decode(share.secret))


# --- The reader's -----------------------------------------------------------------------------------------------------


def open_share(token: str) -> SharedPage:
    """Return the share to whoever has its link; raises ShareGone, whatever is missing."""
    try:
        data = _decode(token) if len(token) == TOKEN_LENGTH else b""
    except ValueError:
        data = b""
    share = rows.find(SharedPage, pk=UUID(bytes=data[:16])) if len(data) == 16 + SECRET_BYTES else None
    if share is None or not constant_time_compare(_encode(data[16:]), share.secret) or not is_shown(share):
        raise ShareGone
    return share


def is_shown(share: SharedPage) -> bool:
    """Return whether the share is to be seen now by who has its link."""
    return (
        share.edition is not None
        and share.is_revoked is None
        and share.taken_down_at is None
        and not is_expired(share)
        and is_conversation_there(share, in_trash=False)
        and User.objects.filter(pk=share.owner_id, is_active=True, closes_at=None).exists()
    )


def is_expired(share: SharedPage) -> bool:
    return share.expires_at is not None and share.expires_at <= now()


def list_shared_turns(share: SharedPage, *, start: int = 0, limit: int = PAGE_SIZE) -> list[SharedTurn]:
    """Return the turns from position `start` on."""
    assert share.edition is not None, "It is not shown."
    of_edition = SharedTurn.objects.filter(owner_id=share.owner_id, share_id=share.pk, edition=share.edition)
    page = of_edition.filter(position__gte=start, position__lt=start + limit)
    return list(page.order_by("position"))


def file_names_of(turn: SharedTurn) -> list[str]:
    return msgspec.json.decode(turn.files, type=list[str]) if turn.files else []


# --- Reports, and what operators do -----------------------------------------------------------------------------------


def report_share(share: SharedPage, reason: str, text: str, *, report_id: UUID) -> None:
    """Keep what somebody says against the share, and alert the operators. The same `report_id` again does nothing."""
    if share.report_count < MAX_REPORTS:
        report = ShareReport(pk=report_id, owner_id=share.owner_id, share_id=share.pk, reason=reason, text=text)
        try:
            rows.insert(report)
        except IntegrityError:
            return
    if not rows.update(SharedPage, {"pk": share.pk}, {"reported_at": now()}, plus={"report_count": 1}):
        ShareReport.objects.filter(pk=report_id).delete()  # it was revoked meanwhile, and its reports erased
        return
    alert(f"share:{share.pk}", REPORTED, share=share.pk, reason=reason)


def take_down(share: SharedPage, reason: str) -> bool:
    """Let nobody see the share any more; its owner reads the reason. Return whether it was there and to be seen."""
    return rows.update(SharedPage, _to_be_seen(share), {"taken_down_at": now(), "takedown_reason": reason}) == 1


def put_back(share: SharedPage) -> bool:
    """Undo `take_down`; return whether there was something to undo."""
    if share.taken_down_at is None:
        return False
    there = {"pk": share.pk, "taken_down_at": share.taken_down_at, "is_revoked__isnull": True}
    return rows.update(SharedPage, there, {"taken_down_at": None, "takedown_reason": ""}) == 1


# --- Writing an edition -----------------------------------------------------------------------------------------------


def _write_first(share: SharedPage, conversation: Conversation, turns: list[Turn], describe: Describe) -> SharedPage:
    """Write the first edition of a share that was just inserted; leave nothing of it when that is refused."""
    try:
        # Counted after the insertion, as its size is: of two at once, none slips through.
        if SharedPage.objects.filter(owner_id=share.owner_id, is_revoked=None).count() > MAX_SHARES:
            raise TooManyShares
        _write(share, conversation, turns, describe)
    except Exception:
        share_erasure.revoke(share)
        raise
    return access_share(share.owner_id, share.pk)


def _write(share: SharedPage, conversation: Conversation, turns: list[Turn], describe: Describe) -> None:
    """Write an edition and show it. Of several at the same time the one that began last stays."""
    size = _size_of(turns)
    _check_room(share, size)
    edition, begun_at = new_id(), now()
    if not rows.update(SharedPage, _to_be_seen(share), {"next_edition": edition, "unsettled_at": begun_at}):
        raise NotFound
    void: UUID | None = edition
    try:
        for start in range(0, len(turns), PORTION):
            if now() - begun_at > WRITING:  # the sweep takes it for abandoned soon
                raise Unavailable
            some = enumerate(turns[start : start + PORTION], start)
            SharedTurn.objects.bulk_create(_shared_turn(share, edition, at, turn, describe(turn)) for at, turn in some)
        shown = {"title": conversation.title, "turn_count": len(turns), "size": size, "updated_at": begun_at}
        void = _show(share, edition, shown)
    finally:
        finish_writing(share, begun_at, edition, void)


def _show(share: SharedPage, edition: UUID, shown: dict[str, Any]) -> UUID | None:
    """Let the edition take the place of the one that is shown; return the one that is void now, of these two."""
    current = rows.find(SharedPage, pk=share.pk)
    if current is None:
        return edition
    was: dict[str, Any] = {"edition": current.edition} if current.edition else {"edition__isnull": True}
    where = _to_be_seen(share) | {"next_edition": edition} | was
    is_done = rows.update(SharedPage, where, {**shown, "edition": edition, "next_edition": None})
    return current.edition if is_done else edition


def _to_be_seen(share: SharedPage) -> dict[str, Any]:
    return {"pk": share.pk, "is_revoked__isnull": True, "taken_down_at__isnull": True}


def _shared_turn(share: SharedPage, edition: UUID, position: int, turn: Turn, description: Description) -> SharedTurn:
    return SharedTurn(
        owner_id=share.owner_id,
        share_id=share.pk,
        edition=edition,
        position=position,
        question=turn.question,
        answer=turn.answer,
        model=description.model[:100],
        files=msgspec.json.encode(list(description.file_names)).decode() if description.file_names else "",
        is_cut=None if turn.status == Turn.Status.COMPLETED else True,
        asked_at=turn.created_at,
    )


def _read_branch(conversation: Conversation, until_id: UUID | None) -> list[Turn]:
    """Return the turns that have an answer and are over, from the root on."""
    if until_id is None:
        leaf = branches.find_branch_end(conversation).leaf
    else:
        leaf = rows.find(Turn, pk=until_id, owner_id=conversation.owner_id, conversation_id=conversation.pk)
        if leaf is None:
            raise NotFound
    turns: list[Turn] = []
    size = 0
    for turn in tree.path_to_root(leaf):
        if turn.is_open or not turn.answer.strip():
            continue
        turns.append(turn)
        size += len(turn.question) + len(turn.answer)
        if len(turns) > MAX_TURNS or size > MAX_CHARACTERS:
            raise ShareTooLarge
    if not turns:
        raise NothingToShare
    return turns[::-1]


def _size_of(turns: Sequence[Turn]) -> int:
    return sum(len(turn.question) + len(turn.answer) for turn in turns)


def _check_not_taken_down(conversation: Conversation) -> None:
    shares = SharedPage.objects.filter(owner_id=conversation.owner_id, conversation_id=conversation.pk, is_revoked=None)
    if shares.filter(taken_down_at__isnull=False).exists():
        raise ShareTakenDown


def _check_room(share: SharedPage, size: int) -> None:
    others = SharedPage.objects.filter(owner_id=share.owner_id, is_revoked=None).exclude(pk=share.pk)
    if size + (others.aggregate(size=Sum("size"))["size"] or 0) > MAX_CHARACTERS:
        raise ShareTooLarge


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Return the bytes; raises ValueError for what is no base64 of ours."""
    with suppress(binascii.Error, UnicodeError):
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if _encode(data) == text:
            return data
    raise ValueError
