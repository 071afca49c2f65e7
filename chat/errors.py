"""What the chat refuses before a turn begins, and what a turn that failed says."""

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from accounts.errors import DomainError


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


class BadCommand(DomainError):
    code = "bad_command"
    message = _("The page sent something we do not understand. Please reload it.")


class NoAttachments(DomainError):
    code = "no_attachments"
    message = _("Files cannot be sent yet. Please put what matters into the question.")


SENTENCES: dict[str, str | Promise] = {
    "authentication": _("This model cannot be reached: its provider refuses our key. Please try another model."),
    "permission": _("This model cannot be reached: its provider refuses our key. Please try another model."),
    "not_found": _("The provider does not have this model any more. Please try another model."),
    "rate_limited": _("The provider is receiving too many questions. Wait a moment, or try another model."),
    "overloaded": _("The provider is overloaded. Wait a moment, or try another model."),
    "timeout": _("The provider stopped answering. Try again, or try another model."),
    "connection": _("The connection to the provider broke. Try again, or try another model."),
    "context_exceeded": _("This conversation is longer than the model can read. Try a model with a larger window."),
    "content_filter": _("The provider declined to answer this."),
    "bad_request": _("The provider did not accept this question. Try another model."),
    "bad_response": _("The provider sent something unreadable. Try again, or try another model."),
    "truncated": _("The answer broke off before its end. You can ask the model to go on."),
    "unknown": _("The provider failed. Try again, or try another model."),
    "queue_timeout": _("Nobody was free to answer in time. Nothing was charged; please ask again."),
    "runner_lost": _("The answer was interrupted on our side. You can ask the model to go on."),
    "internal_error": _("Something went wrong on our side. Please ask again."),
}
"""For each error code of a finished turn, what a person reads."""


def sentence_for(code: str) -> str:
    """Return what a person reads for a turn's error code; empty for none."""
    return str(SENTENCES.get(code, SENTENCES["unknown"])) if code else ""
