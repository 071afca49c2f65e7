"""The daily limit of each provider: stops its paid turns, and alerts the operator before it does."""

from collections.abc import Iterable

from django.utils.translation import gettext_noop

from billing import spending
from billing.spending import SpendingToday, SupplierHold
from chat.llm.catalog import Candidate
from chat.llm.price_list import MICROS_PER_DOLLAR
from chat.llm.pricing import max_provider_cost
from chat.llm.providers import list_providers
from chat.models import LanguageModel, ProviderLimit
from chat.provider_registry import BILLING_PROVIDERS
from core.alerts import alert
from core.caching import CachedTable, CachedValue

ALERT_PERCENTS = (80, 100)
"""Percent of the limit."""
NEAR_LIMIT = gettext_noop(
    "%(provider)s: %(percent)s %% of today's limit is spent or promised: $%(spent)s of $%(limit)s."
)
AT_LIMIT = gettext_noop(
    "%(provider)s: today's limit is reached, $%(spent)s of $%(limit)s. Its paid models answer again tomorrow (UTC), or "
    "when you raise the limit."
)
FIRST_DOLLARS_A_DAY = 20
"""What each provider may take in a new installation, until the operator says otherwise."""


def load_first_limits() -> bool:
    """Give every provider that sends bills a limit, if there is no model yet: then the installation is new, and
    `load_catalog` comes next. Return whether it is."""
    if LanguageModel.objects.exists():
        return False
    micros = FIRST_DOLLARS_A_DAY * MICROS_PER_DOLLAR
    first = [ProviderLimit(provider=slug, daily_micros=micros) for slug in BILLING_PROVIDERS]
    ProviderLimit.objects.bulk_create(first, ignore_conflicts=True)  # somebody may have died, or be, between the two
    _limits.changed()
    return True


def stopped_providers() -> frozenset[str]:
    """Return the slugs of providers that have reached today's limit, with what is reserved for answers on their way.

    At most a second old. The limit itself is exact: metering.reserve checks the hold.
    """
    return _stopped.get()


def supplier_holds_for(
    candidates: Iterable[Candidate], *, input_tokens: int, output_tokens: int
) -> tuple[SupplierHold, ...]:
    """Return what an answer holds of the limits of all providers that may give it: of each the most that its dearest
    candidate can cost. Providers without a limit are left out."""
    limits, costs = _limits.get(), dict[str, int]()
    for candidate in candidates:
        if (slug := candidate.provider.slug) in limits:
            cost_micros = max_provider_cost(candidate.model, input_tokens=input_tokens, output_tokens=output_tokens)
            costs[slug] = max(costs.get(slug, 0), cost_micros)
    return tuple(SupplierHold(slug, cost_micros, limits[slug]) for slug, cost_micros in costs.items())


def own_hold_for(candidate: Candidate, *, input_tokens: int, output_tokens: int) -> SupplierHold | None:
    """Return what the site's own request to a candidate holds of its provider's day, whether that has a limit or not;
    None where it costs nothing."""
    cost_micros = max_provider_cost(candidate.model, input_tokens=input_tokens, output_tokens=output_tokens)
    slug = candidate.provider.slug
    return SupplierHold(slug, cost_micros, _limits.get().get(slug)) if cost_micros else None


def forget_spending() -> None:
    """Drop the cached list of stopped providers: a turn was just refused that the list would have let pass."""
    _stopped.forget()


def spending_by_provider() -> dict[str, tuple[SpendingToday, int]]:
    """Return what each provider with a limit has spent today, and the limit in micros."""
    limits = _limits.get()
    return {slug: (spent, limits[slug]) for slug, spent in spending.spending_today(tuple(limits)).items()}


def alert_near_limits() -> None:
    """Alert the operator, once a day for each of ALERT_PERCENTS, of a provider that nears its limit. For the sweep.

    The alert comes before its record: after a crash, two alerts are better than none.
    """
    for slug, (spent, limit) in spending_by_provider().items():  # a limit of zero is meant to stop it: no alert
        reached = [percent for percent in ALERT_PERCENTS if spent.committed_micros * 100 >= percent * limit]
        if limit and reached and reached[-1] > spent.alarmed_percent:
            _alert(slug, spent, limit, reached[-1])
            spending.record_alert(slug, reached[-1])


def _alert(slug: str, spent: SpendingToday, limit: int, percent: int) -> None:
    providers = list_providers()
    fields = {
        "provider": providers[slug].name if slug in providers else slug,
        "spent": f"{spent.committed_micros / MICROS_PER_DOLLAR:.2f}",
        "limit": f"{limit / MICROS_PER_DOLLAR:.2f}",
        "percent": percent,
    }
    alert(f"spend_limit:{slug}:{percent}", NEAR_LIMIT if percent < 100 else AT_LIMIT, **fields)


def _load_limits() -> dict[str, int]:
    return dict(ProviderLimit.objects.values_list("provider", "daily_micros"))


def _find_stopped() -> frozenset[str]:
    return frozenset(slug for slug, (spent, limit) in spending_by_provider().items() if spent.committed_micros >= limit)


_limits = CachedTable("limits", _load_limits, ProviderLimit)
_stopped = CachedValue(_find_stopped, seconds=1.0)
