"""The errors of the history."""

from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from core.errors import Conflict, DomainError, NotFound, RateLimited

MAX_REPEATED = 60
"""Characters of what somebody wrote that a sentence repeats."""


class ParentNotFinished(Conflict):
    code = "parent_not_finished"
    message = _("The answer before this one is still being written. Wait for it or stop it first.")


class Overtaken(ParentNotFinished):
    """Another turn was written at the end of the conversation since it was looked at; most likely it is still open."""


class TemporaryGone(NotFound):
    """There is no such temporary conversation, or it is somebody else's: nobody knows any more which of them."""

    message = _(
        "There is no such temporary chat, or it is gone: an hour after the last question nothing is left of it. "
        "Begin a new one."
    )


class TooManyTemporary(RateLimited):
    code = "too_many_temporary"
    message = _("You have as many temporary chats as you may. End one, or wait until the first of them is gone.")


class TooMuchTemporary(DomainError):
    code = "temporary_too_large"
    status = 413
    message = _("Your temporary chats are as long as they may be. End this one, or ask in a chat that is kept.")


class HasNoBranches(Conflict):
    code = "no_branches"
    message = _("A temporary chat has no branches: ask at its end.")


class IdOfOtherKind(DomainError):
    """Ids of temporary conversations and their turns are UUIDs of version 8, and no others are."""

    code = "wrong_id"
    message = _("That id is of another kind: UUIDs of version 8 are for temporary chats and their questions alone.")


class ForkTooLarge(DomainError):
    code = "fork_too_large"
    status = 413
    message = _("That is too long to be copied. Branch off from an earlier answer.")


class ShareGone(NotFound):
    """There is no such share, or it is not to be seen: which of them is nobody's business who has the link alone."""

    message = _("Nothing is shown at this address: the link is wrong, it has expired, or sharing was stopped.")


class NothingToShare(Conflict):
    code = "nothing_to_share"
    message = _("There is no answer to share yet. Wait until one is finished.")


class TooManyShares(Conflict):
    code = "too_many_shares"
    message = _("You share as many links as you may. Stop sharing one of them first, in your settings.")


class ShareTooLarge(DomainError):
    code = "share_too_large"
    status = 413
    message = _("That is more than one person may share. Share a part of it, or stop sharing something else first.")


class ShareTakenDown(DomainError):
    code = "share_taken_down"
    status = 403
    message = _("The operators have taken a link to this conversation down: it cannot be shared.")


class BadFilter(DomainError):
    """A filter of a search that has a value it cannot have; the message says which."""

    code = "bad_filter"


def empty_filter(name: str) -> str:
    return gettext("“%(name)s:” needs a value right after the colon.") % {"name": name}


def bad_date(value: str) -> str:
    return gettext("“%(value)s” is not a date. Write 2026, 2026-03 or 2026-03-31.") % {"value": _shortened(value)}


def bad_has(value: str) -> str:
    return gettext("“has:” knows only “has:file”, not “%(value)s”.") % {"value": _shortened(value)}


def too_many_names() -> str:
    return gettext("That is more models or folders than can be searched for at once.")


def unknown_folder(name: str) -> str:
    return gettext("You have no folder called “%(name)s”.") % {"name": _shortened(name)}


def _shortened(value: str) -> str:
    return value if len(value) <= MAX_REPEATED else f"{value[:MAX_REPEATED]}…"
