"""The billing API: plans, one's own subscription, what is left of its credits, and what was used.

They are open to programs of every plan, also of one without the API.
"""

from django.utils import timezone
from rest_framework.decorators import api_view, permission_classes
from rest_framework.permissions import AllowAny, IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.http import user_id_of
from accounts.keys import ANY, key_names, open_to_keys
from accounts.models import ApiKey, User
from billing import entitlements
from billing.api.serializers import (
    AllowanceBody,
    PlansSerializer,
    SubscriptionBody,
    UsageBody,
    UsageLineBody,
    UsageQuerySerializer,
    plan_price,
)
from billing.models import Plan
from billing.purchasing import list_for_sale
from billing.standing import standing_of
from billing.usage import Grouping, UsageLine, list_usage
from core.operations import Operation, described


@described(
    "Plans and usage", GET=Operation("getAllowance", "Your credits of this period.", answers={200: AllowanceBody})
)
@open_to_keys(GET=ApiKey.Scope.USAGE)
@api_view(["GET"])
@permission_classes([IsAuthenticated])
def allowance(request: Request) -> Response:
    """Your credits this period: `used`, `reserved`, `allowance` (null: unlimited), `resets_at`; those of your `packs`;
    and your `plan`."""
    allowed, allowance = entitlements.entitlements_and_allowance_of(user_id_of(request))
    body: AllowanceBody = {
        "plan": allowed.plan,
        "used": allowance.used,
        "reserved": allowance.reserved,
        "allowance": allowance.allowance,
        "resets_at": allowance.resets_at,
        "packs": [{"left": pack.left, "expires_at": pack.expires_at} for pack in allowance.packs],
    }
    return Response(body)


@described("Plans and usage", GET=Operation("listPlans", answers={200: PlansSerializer}))
@open_to_keys(GET=ANY)
@api_view(["GET"])
@permission_classes([AllowAny])
def plans(request: Request) -> Response:
    """The plan of everybody, and those that are for sale with their prices, the lowest first."""
    prices = list_for_sale()
    shown = Plan.objects.filter(
        pk__in={price.plan_id for price in prices if price.plan_id is not None} | {entitlements.default_plan().pk}
    )
    return Response(PlansSerializer({"results": shown.order_by("rank")}, context={"prices": prices}).data)


@described("Plans and usage", GET=Operation("getSubscription", answers={200: SubscriptionBody}))
@open_to_keys(GET=ApiKey.Scope.USAGE)
@api_view(["GET"])
@permission_classes([IsAuthenticated])
def subscription(request: Request) -> Response:
    """How you stand: the plan that holds, why, until when, and what is charged next."""
    standing = standing_of(entitlements.account_of(user_id_of(request)))
    held, price = standing.subscription, standing.next_price
    body: SubscriptionBody = {
        "plan": standing.plan.key,
        "status": standing.status,
        "until": standing.until,
        "gateway": held.gateway if held else None,
        "paid_until": held.paid_until if held else None,
        "renews": bool(held and held.renews and not standing.is_being_cancelled),
        "next_payment_at": standing.next_payment_at,
        "next_price": plan_price(price) if price else None,
    }
    return Response(body)


@described(
    "Plans and usage",
    GET=Operation(
        "getUsage", "What you used, by day, model or API key.", query=UsageQuerySerializer, answers={200: UsageBody}
    ),
)
@open_to_keys(GET=ApiKey.Scope.USAGE)
@api_view(["GET"])
@permission_classes([IsAuthenticated])
def usage(request: Request) -> Response:
    """What you used from one day to another (in your time zone, both included), by `day`, by `model` or by API
    `key` (null: without one), which is a part of the account."""
    user = request.user
    assert isinstance(user, User)
    with timezone.override(user.zone):
        asked = UsageQuerySerializer(data=request.query_params, context={"today": timezone.localdate()})
        asked.is_valid(raise_exception=True)
        first, last = asked.validated_data["from"], asked.validated_data["to"]
        grouped_by = asked.validated_data["group_by"]
        by: Grouping = "part" if grouped_by == "key" else grouped_by
        lines = list_usage(entitlements.account_of(user_id_of(request)), first, last, by)
    names = key_names(user.pk) if by == "part" else {}
    results = [_usage_line(line, by, names) for line in lines]
    body: UsageBody = {"from": first, "to": last, "results": results, "next": None}
    return Response(body)


def _usage_line(line: UsageLine, by: Grouping, names: dict[str, str]) -> UsageLineBody:
    """Return what was used, after what it is grouped by."""
    sums: UsageLineBody = {
        "answers": line.answers,
        "input_tokens": line.input_tokens,
        "output_tokens": line.output_tokens,
        "cost_micros": line.cost_micros,
        "credits": line.credits,
    }
    if by == "part":
        return {"key": line.part or None, "name": names.get(line.part, ""), **sums}
    return {"day": line.day, **sums} if by == "day" else {"model": line.model, **sums}
