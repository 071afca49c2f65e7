"""What a provider may take of us in a day: stops paid turns, and tells the operator before it does."""

from django.utils.translation import gettext
from django.utils.translation import override as language

from billing import spending
from billing.spending import SpendingToday, SupplierHold
from chat.llm.alerts import alert
from chat.llm.catalog import Candidate
from chat.llm.pricing import most_it_can_take
from chat.llm.providers import list_providers
from chat.models import ProviderLimit
from core.caching import CachedTable, CachedValue

ALARMS = (80, 100)
"""Percent of the limit."""
MICROS = 1_000_000


def stopped_providers() -> frozenset[str]:
    """Return the keys of providers that have reached today's limit; what runs may have been promised is counted in.

    At most a second old. The gate itself is exact: metering.reserve with a claim.
    """
    return _stopped.get()


def supplier_hold_for(candidate: Candidate, *, input_tokens: int, output_tokens: int) -> SupplierHold | None:
    """Return what an answer of this candidate claims of its provider's day; None where there is no limit."""
    limit = _limits.get().get(candidate.provider.key)
    if limit is None:
        return None
    most = most_it_can_take(candidate.model, input_tokens=input_tokens, output_tokens=output_tokens)
    return SupplierHold(candidate.provider.key, most, limit)


def forget_spending() -> None:
    """Look again: somebody was just refused."""
    _stopped.forget()


def spending_by_provider() -> dict[str, tuple[SpendingToday, int]]:
    """Return for each limited provider where it stands today, and its limit in micros."""
    limits = _limits.get()
    return {key: (spent, limits[key]) for key, spent in spending.spending_today(tuple(limits)).items()}


def alarm_operator() -> None:
    """Tell the operator, once a day for each of ALARMS, what nears its limit. For the sweep.

    Told first and remembered then: an alarm that comes twice after a crash is better than none.
    """
    for key, (spent, limit) in spending_by_provider().items():  # a limit of nothing is a switch, and no surprise
        reached = [percent for percent in ALARMS if spent.committed_micros * 100 >= percent * limit]
        if limit and reached and reached[-1] > spent.alarmed_percent:
            _alarm(key, spent, limit, reached[-1])
            spending.record_alarm(key, reached[-1])


def _alarm(key: str, spent: SpendingToday, limit: int, percent: int) -> None:
    providers = list_providers()
    told = {
        "provider": providers[key].name if key in providers else key,
        "spent": f"{spent.committed_micros / MICROS:.2f}",
        "limit": f"{limit / MICROS:.2f}",
        "percent": percent,
    }
    with language(None):  # the site's
        if percent < 100:
            sentence = gettext(
                "%(provider)s: %(percent)d %% of today's limit is spent or promised: $%(spent)s of $%(limit)s."
            )
        else:
            sentence = gettext(
                "%(provider)s: today's limit is reached, $%(spent)s of $%(limit)s. Its paid models answer again tomorrow "
                "(UTC), or when you raise the limit."
            )
        alert(f"spend_limit:{key}:{percent}", sentence % told, provider=key, percent=percent)


def _load_limits() -> dict[str, int]:
    return dict(ProviderLimit.objects.values_list("provider", "daily_micros"))


def _find_stopped() -> frozenset[str]:
    return frozenset(key for key, (spent, limit) in spending_by_provider().items() if spent.committed_micros >= limit)


_limits = CachedTable("limits", _load_limits, ProviderLimit)
_stopped = CachedValue(_find_stopped, seconds=1.0)
