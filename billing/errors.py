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
            gettext("The credits you have left do not cover this question. You get new ones on %(when)s.")
            % {"when": when},
            retry_after=(resets_at - timezone.now()).total_seconds(),
        )


class PartUsedUp(AllowanceUsedUp):
    """Of the account there may be enough left, of its part there is not: `left_micros`, which may be negative."""

    def __init__(self, *, resets_at: dt.datetime, left_micros: int) -> None:
        super().__init__(resets_at=resets_at)
        self.resets_at = resets_at
        self.left_micros = left_micros


class TooManyAtOnce(DomainError):
    code = "too_many_at_once"
    status = 429
    message = _("Another answer is still being written. Wait for it or stop it, then send this again.")


class NotInPlan(DomainError):
    code = "not_in_plan"
    status = 403
    message = _("Your plan does not include that.")


class ApiNotInPlan(DomainError):
    code = "api_not_in_plan"
    status = 403
    message = _(
        "Your plan does not include the API. Ask on the pages of this site, or choose a plan with the API there."
    )


class ComparisonNotInPlan(DomainError):
    code = "comparison_not_in_plan"
    status = 403
    message = _("Your plan does not include a second model beside the first one.")


class SpendLimitReached(DomainError):
    """The operator's daily limit for a supplier is reached; `retry_after` is the time until the next day (UTC)."""

    code = "spend_limit"
    status = 503
    message = _(
        "What this site may spend on this model's provider today is used up. Choose another model, or come back "
        "tomorrow. Nothing was charged."
    )


class UnknownPrice(Exception):
    """A gateway says that somebody pays a price which is no row of ours: nothing is granted."""

    def __init__(self, gateway: str, reference: str) -> None:
        super().__init__(f"{gateway} {reference}")


class WrongAccount(Exception):
    """What a gateway says belongs to no account of ours, or to another one than before: nothing is granted."""


class AlreadySubscribed(DomainError):
    """Something else is live. `until` is when it ends, None while it renews."""

    code = "already_subscribed"
    status = 409

    def __init__(self, *, until: dt.datetime | None = None) -> None:
        self.until = until
        if until is None:
            sentence = gettext(
                "You have a subscription already. Change it, or cancel it and come back when it has ended."
            )
        else:
            when = date_format(timezone.localtime(until), "DATETIME_FORMAT")
            sentence = gettext("You have a subscription already, which ends on %(when)s.") % {"when": when}
        super().__init__(sentence)


class PaymentOverdue(DomainError):
    code = "payment_overdue"
    status = 409
    message = _("A payment of your subscription is overdue. Pay it, or cancel the subscription first.")


class NotSubscribed(DomainError):
    code = "not_subscribed"
    status = 409
    message = _("You have no subscription that could be changed.")


class NotForSale(DomainError):
    code = "not_for_sale"
    status = 404
    message = _("That is not for sale any more. Look at the prices again.")


class UnknownCoupon(DomainError):
    code = "unknown_coupon"
    status = 422
    message = _("That code is not valid here. Look at it again, or leave it out.")


class OtherCurrency(DomainError):
    code = "other_currency"
    status = 409
    message = _("You have paid in another currency before. Choose a price in that one.")


class NothingToRefund(DomainError):
    code = "nothing_to_refund"
    status = 409
    message = _("That payment cannot be refunded.")


class RefundUnderway(DomainError):
    code = "refund_underway"
    status = 409
    message = _("A refund of that payment is on its way. Wait until it is done, or failed.")


class NothingToTry(DomainError):
    code = "nothing_to_try"
    status = 409
    message = _("That is done already.")


class GatewaySilent(DomainError):
    """A gateway did not answer in time. Trying again is harmless."""

    code = "gateway_silent"
    status = 503
    message = _("The payment service does not answer. Nothing was changed. Try again in a minute.")


class GatewayDeclined(DomainError):
    code = "gateway_declined"
    status = 502
    message = _("The payment service refused that. Nothing was changed.")
