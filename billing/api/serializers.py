"""What the billing API takes and gives."""

from typing import Any

from django.utils.translation import gettext
from rest_framework import serializers

from billing.models import Plan, Price
from billing.usage import MAX_DAYS


class PlanSerializer(serializers.ModelSerializer[Plan]):
    """A plan: null means no limit. `prices` are those it is for sale at. What nothing enforces yet is not told."""

    prices = serializers.SerializerMethodField()

    class Meta:
        model = Plan
        fields = (
            "key",
            "name",
            "is_default",
            "credits_per_month",
            "turns_per_hour",
            "turns_at_once",
            "question_characters",
            "answer_tokens",
            "best_tier",
            "upload_bytes",
            "has_api",
            "history_days",
            "has_comparison",
            "trial_days",
            "prices",
        )

    def get_prices(self, plan: Plan) -> list[dict[str, Any]]:
        return [price_fields(price) for price in self.context["prices"] if price.plan_id == plan.pk]


class UsageQuerySerializer(serializers.Serializer[Any]):
    """From one day to another, MAX_DAYS at most; by itself the running month, by day."""

    group_by = serializers.ChoiceField(choices=["day", "model", "key"], default="day")

    def get_fields(self) -> dict[str, Any]:
        return {
            "from": serializers.DateField(required=False),
            "to": serializers.DateField(required=False),
            **super().get_fields(),
        }

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        attrs.setdefault("to", self.context["today"])
        attrs.setdefault("from", attrs["to"].replace(day=1))
        if not 0 <= (attrs["to"] - attrs["from"]).days < MAX_DAYS:
            raise serializers.ValidationError(
                {"from": gettext("Up to %(days)s days, from the first to the last.") % {"days": MAX_DAYS}}
            )
        return attrs


def price_fields(price: Price) -> dict[str, Any]:
    """Return what a price is, as the API shows it. Amounts are in the currency's smallest unit."""
    found: dict[str, Any] = {
        "id": price.pk,
        "gateway": price.gateway,
        "currency": price.currency,
        "amount_minor": price.amount_minor,
    }
    if price.plan_id is None:
        return found | {"credits": price.pack_credits, "months": price.pack_months}
    return found | {"plan": price.plan.key if price.plan else None, "interval": price.interval}
