"""Sentences that no template holds: those of the page's scripts, and the names of effort levels."""

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

EFFORT_NAMES: dict[str, Promise] = {
    "none": _("None"),
    "minimal": _("Minimal"),
    "low": _("Low"),
    "medium": _("Medium"),
    "high": _("High"),
    "xhigh": _("Very high"),
    "max": _("Greatest"),
}
"""What people call a level of effort. One that is not here is shown as its provider names it."""

SCRIPT_SENTENCES: dict[str, Promise] = {
    "writing": _("Writing the answer."),
    "finished": _("The answer is complete: %(words)s words."),
    "ended": _("The answer ended."),
    "waiting": _("Still waiting for the first word…"),
    "thoughts": _("Thoughts"),
    "earlier_answer": _("Earlier answer of %(model)s"),
    "in_line": _("Waiting for a free place: number %(place)s in line."),
    "reconnecting": _("Reconnecting…"),
    "polling": _("No live connection: this page asks for news every few seconds."),
    "connected": _("Connected again."),
    "copy": _("Copy"),
    "copied": _("Copied"),
    "wrap": _("Wrap"),
    "download": _("Download"),
    "not_copied": _("Copying did not work: select the text and copy it yourself."),
    "table": _("Table"),
    "diagram": _("Diagram"),
    "source": _("Source"),
    "code": _("Code"),
    "code_in": _("Code in %(language)s"),
    "estimate_one": _("≈ 1 credit"),
    "estimate": _("≈ %(credits)s credits"),
    "deleted": _("The conversation you were in was deleted."),
    "unsent": _("Not sent yet: it goes out as soon as the connection is back."),
    "image": _("Image not shown:"),
    "models_found": _("Models found: %(count)s"),
    "no_models": _("The models could not be loaded. Close this, and try again."),
    "no_model_found": _("No model matches. Try fewer letters."),
    **{f"effort_{level}": word for level, word in EFFORT_NAMES.items()},
    "file_uploading": _("Uploading: %(percent)s"),
    "file_reading": _("Reading…"),
    "file_attached": _("Attached: %(name)s"),
    "file_failed": _("Not attached: %(name)s. %(reason)s"),
    "file_removed": _("Removed: %(name)s"),
    "file_remove": _("Remove %(name)s"),
    "file_unsent": _("The upload broke off. Remove the file, and attach it again."),
    "files_many": _("One question can have at most %(most)s files."),
    "files_waiting": _("A file is not ready yet. Wait a moment, then send."),
    "files_failed": _("A file could not be attached. Remove it, then send."),
}
