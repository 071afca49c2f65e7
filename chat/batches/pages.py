"""The page of batches, under the settings: a file is sent, what it may cost is shown, and it is started, watched,
cancelled, and its results are taken along."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import limits
from accounts.http import member_of, peer_of
from billing.entitlements import credits_of, entitlements_of
from chat.batches.beginning import BatchTerms, begin_batch, cancel_batch, erase_batch, start_batch
from chat.batches.refusals import ending_sentence
from chat.batches.results import results_response
from chat.batches.states import access_batch, list_batches
from chat.models import Batch
from core.errors import DomainError
from core.http import is_fragment
from core.money import MICROS_PER_CREDIT
from core.sizes import readable_size


@dataclass(frozen=True, slots=True)
class ShownBatch:
    """A batch as the page shows it; amounts are credits."""

    row: Batch
    estimate: float
    most: float
    cost: float
    limit: float | None
    ending: str
    problems: list[dict[str, Any]]


class BatchForm(forms.Form):
    file = forms.FileField(label=_("File"), allow_empty_file=True)
    limit = forms.IntegerField(
        label=_("The most it may cost, in credits"),
        required=False,
        min_value=0,
        max_value=10**9,
        help_text=_("Before a line would go beyond, the batch stops. Empty: as much as you have."),
    )
    webhook_url = forms.CharField(
        label=_("Tell this address of the end (webhook)"),
        required=False,
        max_length=500,
        help_text=_("It begins with “https://”. Empty: nobody is told."),
    )

    @property
    def limit_micros(self) -> int | None:
        limit: int | None = self.cleaned_data["limit"]
        return None if limit is None else limit * MICROS_PER_CREDIT


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def batches_page(request: HttpRequest) -> HttpResponse:
    """The batches of a member; POST sends a `file`, which is checked and waits to be started."""
    if request.method != "POST":
        return _page(request, BatchForm())
    form = BatchForm(request.POST, request.FILES)
    if not form.is_valid():
        return _page(request, form, status=422)
    upload = form.cleaned_data["file"]
    terms = BatchTerms(max_cost_micros=form.limit_micros, webhook_url=form.cleaned_data["webhook_url"].strip())
    try:
        file = upload if isinstance(upload, UploadedFile) else None
        _batch, secret = begin_batch(member_of(request).pk, file, terms)
    except DomainError as error:
        form.add_error(None, str(error.message))
        return _page(request, form, status=error.status)
    return _page(request, BatchForm(), status=201, secret=secret) if secret else redirect("batches")


@login_required
@require_safe
def batch_progress(request: HttpRequest) -> HttpResponse:
    """The part of the page that changes by itself; without htmx, the page."""
    if not is_fragment(request):
        return redirect("batches")
    return render(request, "chat/_batches.html", _batches_of(request))


@login_required
@require_POST
def start_batch_page(request: HttpRequest, batch_id: UUID) -> HttpResponse:
    """Start a batch, whose estimate was shown."""
    start_batch(access_batch(member_of(request).pk, batch_id))
    return redirect("batches")


@login_required
@require_POST
def cancel_batch_page(request: HttpRequest, batch_id: UUID) -> HttpResponse:
    cancel_batch(access_batch(member_of(request).pk, batch_id))
    return redirect("batches")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def erase_batch_page(request: HttpRequest, batch_id: UUID) -> HttpResponse:
    """Ask, and erase a batch with its results, which were paid for."""
    batch = access_batch(member_of(request).pk, batch_id)
    if request.method != "POST":
        return render(request, "chat/erase_batch.html", {"batch": batch})
    erase_batch(batch)
    messages.success(request, _("The batch is deleted."))
    return redirect("batches")


@login_required
@require_safe
def download_results(request: HttpRequest, batch_id: UUID) -> HttpResponseBase:
    """What is there. It counts as a request to the API, as the same there does."""
    limits.count_request(user_id=member_of(request).pk, peer=peer_of(request))
    return results_response(access_batch(member_of(request).pk, batch_id))


def _page(request: HttpRequest, form: BatchForm, *, status: int = 200, secret: str = "") -> HttpResponse:
    context = _batches_of(request) | {
        "form": form,
        "secret": secret,
        "has_batches": entitlements_of(member_of(request).pk).has_batches,
        "most_size": readable_size(settings.BATCH_BYTES),
        "most_lines": settings.BATCH_LINES,
        "days": settings.BATCH_DAYS,
    }
    return render(request, "chat/batches.html", context, status=status)


def _batches_of(request: HttpRequest) -> dict[str, Any]:
    shown = [_shown(batch) for batch in list_batches(member_of(request).pk)]
    return {"batches": shown, "is_running": any(one.row.is_open for one in shown)}


def _shown(batch: Batch) -> ShownBatch:
    return ShownBatch(
        row=batch,
        estimate=credits_of(batch.estimate_micros),
        most=credits_of(batch.most_micros),
        cost=credits_of(batch.cost_micros),
        limit=None if batch.max_cost_micros is None else credits_of(batch.max_cost_micros),
        ending=ending_sentence(batch.error),
        problems=msgspec.json.decode(batch.problems or "[]"),
    )
