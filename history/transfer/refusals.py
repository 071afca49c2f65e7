"""Why a file cannot be imported, and what of one was left out, in sentences."""

import msgspec
from django.utils.functional import Promise
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from core.errors import Conflict, DomainError
from history.transfer.parsed import FilePlace

REFUSALS: dict[str, Promise] = {
    "import_too_large": _("That file is too large. Of a zip, the conversations.json in it is enough."),
    "import_missing": _("Choose a file that is not empty."),
    "import_gone": _("The file did not arrive whole. Please send it again."),
    "import_stuck": _("The import stopped several times. Please tell whoever runs this site."),
    "too_slow": _("The file takes too long to read, or too much memory."),
    "zip_broken": _("The zip is damaged, or of an unusual kind."),
    "zip_encrypted": _("The zip is locked with a password."),
    "zip_bomb": _("The zip unpacks to far more than it should."),
    "zip_nested": _("There is another zip in the zip. Import that one."),
    "zip_nothing": _("There are no conversations in it."),
    "not_json": _("This is not JSON, or it is cut off."),
    "no_object": _("There should be a conversation here."),
    "unknown_source": _("This is not a conversation of ChatGPT, of Claude, or of this site."),
    "unknown_version": _("This was exported by a newer version."),
    "mixed": _("This is from elsewhere than the conversations before it."),
    "wrong_shape": _("Something here has another shape than it should."),
    "too_deep": _("This is nested too deeply."),
    "too_many": _("There are too many conversations in it."),
    "conversation_too_large": _("This conversation is too large."),
    "missing_id": _("This has no id, or one that is too long."),
    "duplicate_id": _("This id is there twice."),
    "missing_parent": _("The message that this one follows is not there."),
    "cycle": _("These messages follow each other in a circle."),
}


class ImportRefused(DomainError):
    """A file is not taken at all."""

    def __init__(self, code: str, *, status: int = 400) -> None:
        super().__init__(REFUSALS[code], code=code)
        self.status = status


class TransferRunning(Conflict):
    code = "transfer_running"
    message = _("One is running already. Wait until it is done.")


def refusal_sentence(code: str) -> str:
    """Return why a file was refused; empty for one that was not."""
    return str(REFUSALS.get(code, REFUSALS["wrong_shape"])) if code else ""


def place_words(place: str) -> str:
    """Return where in its file something is wrong: `conversations.json: conversation 17, message “abc”`."""
    found = msgspec.json.decode(place, type=FilePlace) if place else FilePlace()
    parts = [gettext("conversation %(number)s") % {"number": found.conversation}] if found.conversation else []
    parts += [gettext("message “%(id)s”") % {"id": found.message}] if found.message else []
    return ": ".join(filter(None, (found.file, ", ".join(parts), found.detail)))


def left_out_sentences(left_out: dict[str, int]) -> list[str]:
    """Return what was left out of a file and why, as sentences."""
    return [_left_out(kind, number) for kind, number in left_out.items() if number]


def _left_out(kind: str, n: int) -> str:
    sentences = {
        "images": ngettext("%(n)s image: its place is marked.", "%(n)s images: their places are marked.", n),
        "files": ngettext("%(n)s file: its name is kept.", "%(n)s files: their names are kept.", n),
        "tools": ngettext(
            "%(n)s message between a model and its tools.", "%(n)s messages between models and their tools.", n
        ),
        "hidden": ngettext(
            "%(n)s message that was hidden there, too.", "%(n)s messages that were hidden there, too.", n
        ),
        "cut": ngettext("%(n)s text was too long and is cut.", "%(n)s texts were too long and are cut.", n),
        "empty": ngettext("%(n)s conversation without a message.", "%(n)s conversations without a message.", n),
        "taken": ngettext("%(n)s conversation whose id is taken.", "%(n)s conversations whose ids are taken.", n),
    }
    unknown = ngettext("%(n)s part of an unknown kind.", "%(n)s parts of an unknown kind.", n)
    return sentences.get(kind, unknown) % {"n": n}


def image_note() -> str:
    """Return what stands in a text for an image that was not imported."""
    return gettext("[Image, not imported]")


def file_note(name: str) -> str:
    return gettext("[File, not imported: %(name)s]") % {"name": name}
