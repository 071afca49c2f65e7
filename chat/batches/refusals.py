"""Why a batch is not taken, not started, or stopped before its end, in sentences."""

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from core.errors import Conflict, DomainError


class BatchesNotInPlan(DomainError):
    code = "batches_not_in_plan"
    status = 403
    message = _("Your plan does not include batches. Choose another plan.")


class BatchFileRefused(DomainError):
    """A file that is not even looked at."""

    def __init__(self, code: str, *, status: int = 400) -> None:
        super().__init__(FILE_REFUSALS[code], code=code)
        self.status = status


class TooManyBatches(DomainError):
    code = "too_many_batches"
    status = 409
    message = _("You have as many batches as there can be at once. Wait for the end of one, or cancel it.")


class BatchNotReady(Conflict):
    """It is not checked yet, was refused, or is over: it cannot be started."""

    code = "batch_not_ready"
    message = _("That batch cannot be started: it is not checked yet, or it is over.")


class BatchRunning(Conflict):
    code = "batch_running"
    message = _("That batch is running. Cancel it first.")


FILE_REFUSALS: dict[str, Promise] = {
    "batch_missing": _("Choose a file that is not empty."),
    "batch_too_large": _("That file is too large for one batch. Split it."),
}

ENDINGS: dict[str, Promise] = {
    "batch_file_wrong": _("Some lines cannot be asked, so nothing was asked. Mend them and send the file again."),
    "batch_file_lost": _("The file of this batch was lost on our side. What is missing was not asked."),
    "batch_empty": _("There is no line in it."),
    "batch_too_many_lines": _("It has too many lines for one batch. Split it."),
    "max_cost": _("The next line may cost more than is left of the limit you have set. The rest was not asked."),
    "allowance_used_up": _("The credits you have left do not cover the next line. The rest was not asked."),
    "batches_not_in_plan": _("Your plan does not include batches any more. The rest was not asked."),
    "api_not_in_plan": _("Your plan does not include the API any more. The rest was not asked."),
    "account_suspended": _("The account may not ask any more. The rest was not asked."),
    "account_closing": _("The account is being closed. The rest was not asked."),
    "key_not_valid": _("The API key that sent this batch is revoked or has expired. The rest was not asked."),
    "batch_expired": _("It took too long. The rest was not asked."),
}
"""For each code of a batch that was refused or stopped, what a person reads."""

NOT_ASKED = _("This line was not asked: its batch ended before it.")
ANSWER_LOST = _("The answer to this line was lost on our side, after it had been paid for.")

LINE_PROBLEMS: dict[str, Promise] = {
    "line_not_json": _("This line is not valid JSON, or not an object."),
    "line_too_long": _("This line is too long."),
    "custom_id_missing": _("“custom_id” must be a text of 1 to 256 characters."),
    "custom_id_again": _("This “custom_id” was there before: each must be another."),
    "method_wrong": _("“method” must be “POST”."),
    "url_wrong": _("“url” must be “/v1/chat/completions”."),
    "body_missing": _("“body” must be an object: what would be sent to “url”."),
    "stream_wrong": _("A line of a batch cannot be streamed. Leave “stream” out."),
}


def ending_sentence(code: str) -> str:
    """Return why a batch was refused or stopped; empty where it was not."""
    return str(ENDINGS.get(code, _("Something went wrong on our side. The rest was not asked."))) if code else ""
