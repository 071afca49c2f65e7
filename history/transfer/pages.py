"""The page on which conversations come in and go out, and how one is taken along from its menu."""

from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

import msgspec
from allauth.account.decorators import reauthentication_required
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts import limits
from accounts.http import member_of, peer_of
from core.errors import DomainError, NotFound
from core.http import is_fragment
from core.sizes import readable_size
from history import access
from history.models import Export, Import
from history.transfer import states
from history.transfer.exporting import begin_export, file_name_of, open_export
from history.transfer.importing import begin_import
from history.transfer.refusals import left_out_sentences, place_words, refusal_sentence
from history.transfer.streams import conversation_response, zip_response
from history.transfer.writing import ENDINGS, Form

IMPORTS_SHOWN = 10
SOURCES = {"chatgpt": "ChatGPT", "claude": "Claude", "tertulia": settings.SITE_NAME}


@dataclass(frozen=True, slots=True)
class ShownImport:
    """An import as the page shows it. `percent` is of both halves: reading, and writing."""

    row: Import
    percent: int
    source: str
    refusal: str
    place: str
    left_out: list[str]


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def transfers(request: HttpRequest) -> HttpResponse:
    """What is coming in and going out; POST imports a `file`."""
    error: DomainError | None = None
    if request.method == "POST":
        upload = request.FILES.get("file")
        try:
            begin_import(member_of(request).pk, upload if isinstance(upload, UploadedFile) else None)
            return redirect("transfers")
        except DomainError as refused:
            error = refused
    context = transfers_of(request) | {"error": error}
    return render(request, "history/transfers.html", context, status=error.status if error else 200)


@login_required
@require_safe
def progress(request: HttpRequest) -> HttpResponse:
    """The part of the page that changes by itself; without htmx, the page."""
    if not is_fragment(request):
        return redirect("transfers")
    return render(request, "history/_transfers.html", transfers_of(request))


@login_required
@require_POST
@reauthentication_required  # type: ignore[untyped-decorator]  # allauth's
def export_all(request: HttpRequest) -> HttpResponse:
    """Begin an export of everything. One that is running already is as good."""
    try:
        begin_export(member_of(request).pk)
    except DomainError as error:
        if error.code != "transfer_running":
            raise
    return redirect("transfers")


@login_required
@require_safe
def download(request: HttpRequest, export_id: UUID) -> HttpResponseBase:
    """The zip of an export that is ready."""
    row, file = open_export(member_of(request).pk, export_id)
    return zip_response(file, file_name_of(row), row.size)


@login_required
@require_safe
def choose_form(request: HttpRequest, conversation_id: UUID) -> HttpResponse:
    """In which form a conversation is to be taken along: a fragment, or a page of its own."""
    conversation = access.access_conversation(member_of(request).pk, conversation_id)
    template = "history/_export.html" if is_fragment(request) else "history/export.html"
    return render(request, template, {"conversation": conversation})


@login_required
@require_safe
def export_file(request: HttpRequest, conversation_id: UUID, form: str) -> HttpResponseBase:
    """A conversation in one of the forms. It counts as a request to the API, as the same there does."""
    limits.count_request(user_id=member_of(request).pk, peer=peer_of(request))
    conversation = access.access_conversation(member_of(request).pk, conversation_id)
    if form not in ENDINGS:
        raise NotFound
    return conversation_response(conversation, cast("Form", form))


def transfers_of(request: HttpRequest) -> dict[str, Any]:
    """Return what the page shows of a member, and the part of it that changes by itself."""
    owner_id = member_of(request).pk
    imports = [_shown(row) for row in states.list_of(Import, owner_id, IMPORTS_SHOWN)]
    exports = states.list_of(Export, owner_id, 1)
    latest = exports[0] if exports else None
    return {
        "imports": imports,
        "export": latest,
        "is_importing": any(shown.row.is_open for shown in imports),
        "is_running": any(shown.row.is_open for shown in imports) or (latest is not None and latest.is_open),
        "most_size": readable_size(settings.IMPORT_BYTES),
        "export_days": settings.EXPORT_DAYS,
    }


def _shown(row: Import) -> ShownImport:
    written = 50 * row.done // max(1, row.total)
    return ShownImport(
        row=row,
        percent=50 + written if row.status == Import.Status.WRITING else row.percent // 2,
        source=SOURCES.get(row.source, ""),
        refusal=refusal_sentence(row.error),
        place=place_words(row.place),
        left_out=left_out_sentences(msgspec.json.decode(row.left_out or "{}", type=dict[str, int])),
    )
