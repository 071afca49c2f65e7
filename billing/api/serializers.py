"""What the billing API takes and gives."""

import datetime as dt
from typing import Any, NotRequired, TypedDict

from django.utils.translation import gettext
from rest_framework import serializers

from billing.models import Plan, Price
from billing.standing import Status
from billing.usage import MAX_DAYS


class PlanPriceBody(TypedDict):
    """What a plan costs for a `month` or a `year`, in the smallest unit of its currency."""

    id: int
    gateway: str
    currency: str
    amount_minor: int
    plan: str | None
    interval: str


class PackPriceBody(TypedDict):
    """What a pack of `credits` costs, which expire after so many `months`."""

    id: int
    gateway: str
    currency: str
    amount_minor: int
    credits: int
    months: int


class PackBody(TypedDict):
    """What is left of the credits of a pack, and until when."""

    left: float
    expires_at: dt.datetime


class AllowanceBody(TypedDict):
    """Credits of this period: `allowance` null is no limit; `reserved` is not in `used`. `packs` are those that can pay
    after it, the first to expire first."""

    plan: str
    used: float
    reserved: float
    allowance: int | None
    resets_at: dt.datetime
    packs: list[PackBody]


class SubscriptionBody(TypedDict):
    """How you stand: the plan that holds, why, until when (unless something is paid), and what is charged next."""

    plan: str
    status: Status
    until: dt.datetime | None
    gateway: str | None
    paid_until: dt.datetime | None
    renews: bool
    next_payment_at: dt.datetime | None
    next_price: PlanPriceBody | None


class UsageLineBody(TypedDict):
    """What was used on a `day`, of a `model`, or with a `key` (null: with none), whose `name` is beside it."""

    day: NotRequired[dt.date | None]
    model: NotRequired[str]
    key: NotRequired[str | None]
    name: NotRequired[str]
    answers: int
    input_tokens: int
    output_tokens: int
    cost_micros: int
    credits: float


UsageBody = TypedDict(
    "UsageBody",
    {"from": dt.date, "to": dt.date, "results": list[UsageLineBody], "next": None},
)


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
            "has_batches",
            "trial_days",
            "prices",
        )

    def get_prices(self, plan: Plan) -> list[PlanPriceBody]:
        return [plan_price(price) for price in self.context["prices"] if price.plan_id == plan.pk]


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


def plan_price(price: Price) -> PlanPriceBody:
    return {
        "id": price.pk,
        "gateway": price.gateway,
        "currency": price.currency,
        "amount_minor": price.amount_minor,
        "plan": price.plan.key if price.plan else None,
        "interval": price.interval,
    }


def pack_price(price: Price) -> PackPriceBody:
    return {
        "id": price.pk,
        "gateway": price.gateway,
        "currency": price.currency,
        "amount_minor": price.amount_minor,
        "credits": price.pack_credits,
        "months": price.pack_months,
    }


class PlansSerializer(serializers.Serializer[Any]):
    """What there is to have: plans, the lowest first, and packs of credits."""

    results = PlanSerializer(many=True)
    packs = serializers.SerializerMethodField()
    next = serializers.SerializerMethodField()

    def get_packs(self, _plans: Any) -> list[PackPriceBody]:
        return [pack_price(price) for price in self.context["prices"] if price.plan_id is None]

    def get_next(self, _plans: Any) -> None:
        return None
