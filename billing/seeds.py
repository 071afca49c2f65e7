"""The plans a new installation has, and prices for trying it out: what an operator sells at which price is theirs."""

from django.utils.translation import pgettext_lazy

from billing.models import Plan, Price

TRANSLATED_NAMES = (
    pgettext_lazy("plan", "Free"),
    pgettext_lazy("plan", "Premium"),
    pgettext_lazy("plan", "Enterprise"),
)
"""Named here for the catalogues: the rows hold the English name, and pages show `Plan.shown_name`."""


def load_plans() -> None:
    """Create the plans that do not exist; what an operator changed stays."""
    free = {"name": "Free", "is_default": True, "credits_per_month": 500, "turns_per_hour": 20, "turns_at_once": 1}
    premium = {
        "name": "Premium",
        "rank": 10,
        "credits_per_month": 20_000,
        "turns_per_hour": 120,
        "turns_at_once": 4,
        "question_characters": 200_000,
        "answer_tokens": 16_384,
        "best_tier": Plan.Tier.STRONG,
        "has_comparison": True,
        "trial_credits": 1_000,
    }
    enterprise = {
        "name": "Enterprise",
        "rank": 20,
        "credits_per_month": 100_000,
        "turns_per_hour": 600,
        "turns_at_once": 16,
        "question_characters": 400_000,
        "answer_tokens": 32_768,
        "best_tier": Plan.Tier.STRONG,
        "has_comparison": True,
        "has_batches": True,
    }
    for key, fields in (("free", free), ("premium", premium), ("enterprise", enterprise)):
        Plan.objects.get_or_create(key=key, defaults=fields)


def load_prices(gateway: str, currency: str, *, cents: int = 1) -> list[Price]:
    """Create prices of the seeded plans and of two packs at a simulated gateway, where there are none, and return all
    of them. `cents` is how many of the currency's minor units a US cent is worth there."""
    for key, monthly in (("premium", 2_000), ("enterprise", 9_900)):
        plan = Plan.objects.filter(key=key).first()
        for interval, months in ((Price.Interval.MONTH, 1), (Price.Interval.YEAR, 10)):
            if plan is not None:  # an operator may have deleted it
                what = {"plan": plan, "gateway": gateway, "currency": currency, "interval": interval}
                fields = {"amount_minor": monthly * months * cents, "reference": f"{key}-{interval}-{currency.lower()}"}
                _make_price(what, fields)
    for pack_credits, amount in ((5_000, 600), (20_000, 2_200)):
        what = {"plan": None, "gateway": gateway, "currency": currency, "pack_credits": pack_credits}
        reference = f"pack-{pack_credits}-{currency.lower()}"
        _make_price(what, {"pack_months": 12, "amount_minor": amount * cents, "reference": reference})
    return list(Price.objects.filter(gateway=gateway, currency=currency))


def _make_price(what: dict[str, object], fields: dict[str, object]) -> None:
    """Make the price unless there is one for the same, whatever it costs."""
    if not Price.objects.filter(**what).exists():
        Price.objects.create(**what, **fields)
