"""The errors of billing, in sentences that say what to do next."""

import datetime as dt

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from core.errors import DomainError


class AllowanceUsedUp(DomainError):
    """The sentence names the moment the next period begins; `retry_after` is the time until then."""

    code = "allowance_used_up"
    status = 402

    def __init__(self, *, resets_at: dt.datetime) -> None:
        when = date_format(timezone.localtime(resets_at), "DATETIME_FORMAT")
        super().__init__(
            gettext("What is left of your credits does not cover this question. On %(when)s you get new ones.")
            % {"when": when},
            retry_after=(resets_at - timezone.now()).total_seconds(),
        )


class TooManyAtOnce(DomainError):
    code = "too_many_at_once"
    status = 429
    message = _("Another answer is still being written. Wait for it or stop it, then send this again.")


class NotInPlan(DomainError):
    code = "not_in_plan"
    status = 403
    message = _("Your plan does not include that.")


class SpendLimitReached(DomainError):
    """The operator's daily limit for a supplier is reached; `retry_after` is the time until the next day (UTC)."""

    code = "spend_limit"
    status = 503
    message = _(
        "What this site may spend on this model's provider today is used up. Choose another model, or come back "
        "tomorrow. Nothing was charged."
    )
