"""The billing API: what is left of your credits."""

from dataclasses import asdict

from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.http import user_id_of
from billing import entitlements


@api_view(["GET"])
def allowance(request: Request) -> Response:
    """Your credits this period: `used`, `reserved`, `allowance` (null: unlimited), `resets_at`, and your `plan`."""
    user_id = user_id_of(request)
    plan = entitlements.entitlements_of(user_id).plan
    return Response({"plan": plan, **asdict(entitlements.allowance_of(user_id))})
