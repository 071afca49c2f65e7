"""The errors of the history."""

from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from core.errors import Conflict, DomainError

MAX_REPEATED = 60
"""Characters of what somebody wrote that a sentence repeats."""


class ParentNotFinished(Conflict):
    code = "parent_not_finished"
    message = _("The answer before this one is still being written. Wait for it or stop it first.")


class Overtaken(ParentNotFinished):
    """Another turn was written at the end of the conversation since it was looked at; most likely it is still open."""


class BadFilter(DomainError):
    """A filter of a search that has a value it cannot have; the message says which."""

    code = "bad_filter"


def empty_filter(name: str) -> str:
    return gettext("“%(name)s:” needs a value right after the colon.") % {"name": name}


def bad_date(value: str) -> str:
    return gettext("“%(value)s” is not a date. Write 2026, 2026-03 or 2026-03-31.") % {"value": _shortened(value)}


def bad_has(value: str) -> str:
    return gettext("“has:” knows only “has:file”, not “%(value)s”.") % {"value": _shortened(value)}


def unknown_folder(name: str) -> str:
    return gettext("You have no folder called “%(name)s”.") % {"name": _shortened(name)}


def _shortened(value: str) -> str:
    return value if len(value) <= MAX_REPEATED else f"{value[:MAX_REPEATED]}…"
