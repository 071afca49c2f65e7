"""What the chat refuses before a turn begins, and what a turn that failed says."""

import datetime as dt

from django.conf import settings
from django.contrib.humanize.templatetags.humanize import intcomma
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from billing.errors import NotInPlan
from core.errors import DomainError
from core.sizes import readable_size


class BadText(DomainError):
    code = "text_empty"
    message = _("Write something first.")


class TextTooLong(DomainError):
    code = "text_too_long"
    status = 413
    message = _("That is longer than your plan allows. Please shorten it or send it in parts.")


class ContextExceeded(DomainError):
    code = "context_exceeded"
    status = 413
    message = _("That is longer than this model can read. Shorten it, or choose a model with a larger window.")


class UnknownModel(DomainError):
    code = "unknown_model"
    status = 404
    message = _("That model is not offered. Please choose another.")


class ModelNotInKey(DomainError):
    code = "model_not_in_key"
    status = 403
    message = _("This API key is not for that model. Name one that it is for, or use another key.")


class KeyUsedUp(DomainError):
    """The credits that an API key may use in a month do not cover the question; those of its owner may."""

    code = "allowance_used_up"
    status = 402

    def __init__(self, name: str, *, resets_at: dt.datetime) -> None:
        when = date_format(timezone.localtime(resets_at), "DATETIME_FORMAT")
        super().__init__(
            gettext(
                "What the API key “%(name)s” may still use this month does not cover this question. It may use credits "
                "again from %(when)s."
            )
            % {"name": name, "when": when},
            retry_after=(resets_at - timezone.now()).total_seconds(),
        )


class AskedLost(DomainError):
    """What a program asked is not there any more: Redis has lost it."""

    code = "asked_lost"
    status = 503
    message = _("What you sent was lost on our side before it could be answered. Please send it again.")


class EmailUnconfirmed(DomainError):
    """Whoever has not shown that their address is theirs costs the site nothing: else free credits could be farmed."""

    code = "email_unconfirmed"
    status = 403
    message = _(
        "Confirm your e-mail address first: the settings, under “E-mail address”, send you a link. Until then, models "
        "that cost no credits answer you."
    )


class BadEffort(DomainError):
    code = "bad_effort"
    status = 422
    message = _("This model cannot be told to think that hard or that little. Choose another effort, or none.")


class NoModel(DomainError):
    code = "no_model"
    status = 503
    message = _("No model is available right now. Please try again later.")


class QueueFull(DomainError):
    code = "queue_full"
    status = 503
    message = _("Very many people are asking at this moment. Please try again in a few seconds; nothing was charged.")


class TooManyStreams(DomainError):
    code = "too_many_streams"
    status = 429
    message = _("You are following too many answers at once. Close some of them first.")


class TooManySockets(DomainError):
    code = "too_many_sockets"
    status = 429
    message = _("You have the chat open too many times at once. Close some of its tabs first.")


class AccessEnded(DomainError):
    """What somebody was let in with is over, while something of theirs was open."""

    code = "access_ended"
    status = 401
    message = _("You were logged out. Please log in again.")


class BadCommand(DomainError):
    code = "bad_command"
    message = _("The page sent something we do not understand. Please reload it.")


class BadFile(DomainError):
    """A file that is not taken, or cannot be read; `code` is a key of FILE_SENTENCES."""

    status = 415

    def __init__(self, code: str, *, status: int = 415, most_bytes: int | None = None) -> None:
        super().__init__(file_sentence_for(code, most_bytes=most_bytes), code=code)
        self.status = status


class NoVision(DomainError):
    code = "no_vision"
    message = _("This model cannot see images. Choose one that can, or remove the image.")


class NoPdfText(DomainError):
    code = "no_pdf_text"
    message = _(
        "This PDF holds no text, only pictures of text. Choose a model that reads PDFs, or attach the pages as images."
    )


class TooManyFiles(DomainError):
    code = "too_many_files"
    message = _("Those are too many files for one question, or too large together. Remove some.")


class FileNotUsable(DomainError):
    """A file of a question that is missing, somebody else's, refused, or was used in another conversation."""

    code = "file_not_usable"
    message = _("A file of this question is not there any more. Remove it and attach it again.")


class FileNotReady(DomainError):
    code = "file_not_ready"
    status = 409
    message = _("A file is still being prepared. Please try again in a moment.")


FILE_SENTENCES: dict[str, str | Promise] = {
    "file_missing": _("No file arrived."),
    "file_empty": _("This file is empty."),
    "file_too_large": _("This file is too large: at most %(bytes)s."),
    "file_type": _("Files of this kind cannot be read. Images (PNG, JPEG, WebP, GIF), PDFs and text can."),
    "file_lies": _("This file is not what its name says. Open it, save it again, and attach that."),
    "file_svg": _("Drawings in SVG cannot be read. Save it as PNG, and attach that."),
    "file_broken": _("This file is damaged and cannot be read. Open it, save it again, and attach that."),
    "file_encrypted": _("This PDF has a password. Save it without one, and attach that."),
    "file_pages": _("This PDF has too many pages: at most %(pages)s. Attach the part that matters."),
    "file_pixels": _("This image has too many pixels: at most %(megapixels)s million. Make it smaller first."),
    "file_slow": _("This file takes too long to read. Attach a simpler or smaller one."),
    "file_text_too_long": _(
        "This file has too much text: at most %(characters)s characters. Attach the part that matters."
    ),
    "file_unprocessed": _("Too many files are waiting to be read. Remove this one, and attach it again in a minute."),
    "too_many_pending": _("You have attached many files without asking. Ask, or remove some first."),
}
"""For each error code of a file, what a person reads."""


def file_sentence_for(code: str, *, most_bytes: int | None = None) -> str:
    """Return what a person reads for a file's error code; empty for none. `most_bytes` is what their plan allows, if
    that is less than the site does."""
    if not code:
        return ""
    return str(FILE_SENTENCES.get(code, FILE_SENTENCES["file_broken"])) % {
        "bytes": readable_size(most_bytes or settings.ATTACHMENT_BYTES),
        "pages": settings.ATTACHMENT_PAGES,
        "megapixels": settings.ATTACHMENT_PIXELS // 1_000_000,
        "characters": intcomma(settings.ATTACHMENT_CHARACTERS),
    }


SENTENCES: dict[str, str | Promise] = {
    "authentication": _("This model cannot be reached: its provider refuses our key. Please try another model."),
    "permission": _("This model cannot be reached: its provider refuses our key. Please try another model."),
    "not_found": _("The provider does not have this model any more. Please try another model."),
    "redirected": _("This model cannot be reached at the moment. Please try another model."),
    "rate_limited": _("The provider is receiving too many questions. Wait a moment, or try another model."),
    "overloaded": _("The provider is overloaded. Wait a moment, or try another model."),
    "timeout": _("The provider stopped answering. Try again, or try another model."),
    "connection": _("The connection to the provider broke. Try again, or try another model."),
    "context_exceeded": _("This conversation is longer than the model can read. Try a model with a larger window."),
    "content_filter": _(
        "A filter of the provider withdrew the answer, or the rest of it. Ask in other words, or try another model."
    ),
    "refusal": _(
        "The model declined to answer this; your next questions are sent without it. Ask in other words, or try "
        "another model."
    ),
    "tool_call": _("The model wanted to use a tool, and there is none here. Ask again, or try another model."),
    "empty_answer": _("The model ended without writing an answer. Ask again, or try another model."),
    "thought_too_long": _(
        "The model used all the room for its answer on thinking. Ask again with less effort, or try another model."
    ),
    "bad_request": _("The provider did not accept this question. Try another model."),
    "bad_response": _("The provider sent something unreadable. Try again, or try another model."),
    "truncated": _("The answer broke off before its end. You can ask the model to go on."),
    "unknown": _("The provider failed. Try again, or try another model."),
    "queue_timeout": _(
        "Too many people were asking, and your question could not be answered in time. Please ask again."
    ),
    "runner_lost": _("The answer was interrupted on our side. You can ask the model to go on."),
    "given_up": _(
        "Something failed on our side twice while answering this, and we stopped trying. Ask in another way, or try "
        "another model."
    ),
    "internal_error": _("Something went wrong on our side. Please ask again."),
    # What an operator changed while the turn waited.
    **{error.code: error.message for error in (NotInPlan, NoModel, NoVision, NoPdfText, TooManyFiles, AskedLost)},
}
"""For each error code of a finished turn, what a person reads."""

OF_ANSWERS = frozenset(("content_filter", "refusal", "tool_call", "empty_answer", "thought_too_long"))
"""Codes of turns that failed and are answers all the same: what the model said is what it said."""

OF_THIS_SITE = frozenset(("queue_timeout", "runner_lost", "given_up", "internal_error", "asked_lost"))
"""Those that no model is to blame for."""

OTHER_WAYS: dict[str, Promise] = {
    "truncated": _("The answer broke off before its end. Ask again, or try another model."),
    "runner_lost": _("The answer was interrupted on our side. Ask again, or try another model."),
    "thought_too_long": _("The model used all the room for its answer on thinking. Try another model."),
}
"""The same, where the way on that SENTENCES names is not open: nothing to go on from, or no effort to choose."""


def sentence_for(code: str, *, is_way_open: bool = True) -> str:
    """Return what a person reads for a turn's error code; empty for none."""
    if not code:
        return ""
    other_way = None if is_way_open else OTHER_WAYS.get(code)
    return str(other_way or SENTENCES.get(code, SENTENCES["unknown"]))
