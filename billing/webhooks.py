"""Where gateways send notifications: what is genuine becomes a row of the inbox; nobody is asked before the answer.

dj-stripe's own view is not served: it asks Stripe inside its transaction, keeps forged bodies whole, lets a header name
the secret while DEBUG is on, and breaks on `null` or on a strange X-Forwarded-For. This one reads neither header.
"""

import logging
from uuid import UUID

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from billing import inbox
from billing.gateways import get_gateway
from billing.gateways.base import BadNotification

MAX_BYTES = 512 * 1024

logger = logging.getLogger(__name__)


@csrf_exempt
@require_POST
def stripe(request: HttpRequest, uuid: UUID) -> HttpResponse:
    if "stripe" not in settings.GATEWAYS or str(uuid) != settings.STRIPE_WEBHOOK_UUID.lower():
        raise Http404
    return _take(request, "stripe", refusal=400)


@csrf_exempt
@require_POST
def mercado_pago(request: HttpRequest) -> HttpResponse:
    """Its old notifications (IPN) are not signed, and so refused like forged ones."""
    if "mercadopago" not in settings.GATEWAYS:
        raise Http404
    return _take(request, "mercadopago", refusal=401)


def _take(request: HttpRequest, name: str, *, refusal: int) -> HttpResponse:
    """Store what is genuine; a repeated notification is the same row. Answer what is not with `refusal`."""
    try:
        notification = get_gateway(name).read_notification(_read(request), request.headers, request.GET.dict())
    except BadNotification as error:
        logger.warning("Notification refused", extra={"gateway": name, "reason": error.reason})
        return HttpResponse(status=refusal)
    inbox.receive(name, notification)
    return HttpResponse()


def _read(request: HttpRequest) -> bytes:
    """Return the body, of which no more is read than it may have."""
    body = request.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise BadNotification("too long")
    return body
