"""Ends shares and copies of them, and erases what is left of them; whoever dies on it, the sweep does it again.

A writer of an edition or of a copy takes WRITING at most, and gives up then; the sweep takes what is older than GRACE
for abandoned. So it never erases what somebody is still writing.
"""

import datetime as dt
from uuid import UUID

from django.db.models import QuerySet

from core import rows
from core.sweeps import MAX_CLOCK_DIFFERENCE, guard, iterate_pages
from history.models import Conversation, ShareCopy, SharedPage, SharedTurn, ShareReport, Turn, now

WRITING = dt.timedelta(minutes=4)
GRACE = 2 * WRITING + MAX_CLOCK_DIFFERENCE


def revoke(share: SharedPage) -> None:
    """Let nobody see the share from now on, and erase it. Twice, or at the same time as itself, is once."""
    rows.update(SharedPage, {"pk": share.pk, "is_revoked__isnull": True}, {"is_revoked": True, "unsettled_at": now()})
    erase_share(share)


def revoke_unless_taken_down(share: SharedPage) -> bool:
    """Revoke the share as `revoke` does, unless the operators have taken it down, perhaps since it was read; return
    whether it is revoked, by whomever."""
    to_be_seen = {"pk": share.pk, "is_revoked__isnull": True, "taken_down_at__isnull": True}
    if not rows.update(SharedPage, to_be_seen, {"is_revoked": True, "unsettled_at": now()}):
        current = rows.find(SharedPage, pk=share.pk)
        if current is not None and current.is_revoked is None:
            return False
    erase_share(share)
    return True


def erase_share(share: SharedPage) -> None:
    """Erase a share that was revoked. While an edition of it is being written its row stays, so that its writer, or the
    sweep, finds what came too late."""
    _turns_of(share).delete()
    ShareReport.objects.filter(owner_id=share.owner_id, share_id=share.pk).delete()
    SharedPage.objects.filter(pk=share.pk, is_revoked=True, next_edition=None).delete()


def finish_writing(share: SharedPage, begun_at: dt.datetime, edition: UUID, void: UUID | None) -> None:
    """Erase the edition that is `void` now that another is shown, or the share where it is not to be any more."""
    if void is not None:
        _turns_of(share).filter(edition=void).delete()
    rows.update(SharedPage, {"pk": share.pk, "next_edition": edition}, {"next_edition": None})
    current = rows.find(SharedPage, pk=share.pk)
    if current is None:
        _turns_of(share).delete()
    elif current.is_revoked or not is_conversation_there(current):
        revoke(current)
    elif current.edition is not None and current.next_edition is None:
        rows.update(SharedPage, {"pk": share.pk, "unsettled_at": begun_at}, {"unsettled_at": None})


def erase_shares_of_conversation(conversation: Conversation) -> None:
    """Erase the shares of a conversation that is deleted."""
    shares = SharedPage.objects.filter(owner_id=conversation.owner_id, conversation_id=conversation.pk)
    for share in shares:
        revoke(share)


def erase_shares_of_owner(owner_id: int) -> None:
    """Erase what a person who is gone has shared, and their copies that were not finished (their turns are erased with
    the other turns without a conversation)."""
    for model in (SharedTurn, ShareReport, SharedPage, ShareCopy):
        model.objects.filter(owner_id=owner_id).delete()


def is_conversation_there(share: SharedPage, *, in_trash: bool = True) -> bool:
    """Return whether the conversation of the share is not deleted; with `in_trash` false, nor in the trash."""
    conversation = rows.find(Conversation, pk=share.conversation_id, owner_id=share.owner_id)
    if conversation is None or conversation.is_deleted:
        return False
    return in_trash or conversation.trashed_at is None


def abandon_copy(copy: ShareCopy) -> None:
    """Erase a copy that is not finished; one that is only loses its mark."""
    if rows.find(Conversation, pk=copy.pk) is None:
        Turn.objects.filter(owner_id=copy.owner_id, conversation_id=copy.pk).delete()
        # The same request, at the same time, may have let it be seen since.
        Conversation.objects.filter(pk=copy.pk, owner_id=copy.owner_id).update(is_deleted=True)
    ShareCopy.objects.filter(pk=copy.pk).delete()


def repair_shares() -> None:
    """Erase the shares that have expired, and what writers have left behind that died. One that was taken down stays
    (`sharing.revoke_share`)."""
    for page in iterate_pages(SharedPage.objects.filter(expires_at__lte=now(), taken_down_at=None)):
        for share in page:
            with guard("expired share", share_id=share.pk):
                revoke_unless_taken_down(share)
    for page in iterate_pages(SharedPage.objects.filter(unsettled_at__lt=now() - GRACE)):
        for share in page:
            with guard("unsettled share", share_id=share.pk):
                _settle(share)
    for copies in iterate_pages(ShareCopy.objects.filter(created_at__lt=now() - GRACE)):
        for copy in copies:
            with guard("unfinished copy", conversation_id=copy.pk):
                abandon_copy(copy)


def _settle(share: SharedPage) -> None:
    """Erase what the share does not show, unless somebody has begun something with it since it was read."""
    seen = {"pk": share.pk, "unsettled_at": share.unsettled_at}
    if not rows.update(SharedPage, seen, {"next_edition": None}):
        return
    if share.is_revoked or share.edition is None or not is_conversation_there(share):
        revoke(share)
        return
    # Whoever begins now writes rows that are younger.
    _turns_of(share).exclude(edition=share.edition).filter(created_at__lt=now() - WRITING).delete()
    rows.update(SharedPage, seen, {"unsettled_at": None})


def _turns_of(share: SharedPage) -> "QuerySet[SharedTurn, SharedTurn]":
    return SharedTurn.objects.filter(owner_id=share.owner_id, share_id=share.pk)
