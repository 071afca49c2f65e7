"""The errors of the history."""

from django.utils.translation import gettext_lazy as _

from core.errors import Conflict


class ParentNotFinished(Conflict):
    code = "parent_not_finished"
    message = _("The answer before this one is still being written. Wait for it or stop it first.")


class Overtaken(ParentNotFinished):
    """Another turn was written at the end of the conversation since it was looked at; most likely it is still open."""
