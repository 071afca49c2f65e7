"""The API of imports and exports."""

from typing import cast
from uuid import UUID

from django.core.files.uploadedfile import UploadedFile
from django.http import HttpResponseBase
from rest_framework import status
from rest_framework.decorators import api_view, parser_classes
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.asking_again import AskedAgain, check_session
from accounts.http import user_id_of
from accounts.keys import open_to_keys
from accounts.models import ApiKey
from core.errors import NotFound
from core.operations import Operation, Rows, described
from history import access
from history.api.serializers import ExportSerializer, ImportSerializer
from history.models import Export, Import
from history.transfer import states
from history.transfer.exporting import begin_export, file_name_of, open_export
from history.transfer.importing import begin_import
from history.transfer.refusals import TransferRunning
from history.transfer.streams import conversation_response, zip_response
from history.transfer.writing import ENDINGS, Form

FORMS = {"as": {"type": "string", "enum": sorted(ENDINGS), "default": "json"}}


@described(
    "Taking along",
    GET=Operation(
        "exportConversation",
        "Take a conversation along.",
        query=FORMS,
        answers={200: {"application/json": dict, "text/markdown": str, "text/html": str}},
    ),
)
@open_to_keys(GET=ApiKey.Scope.HISTORY)
@api_view(["GET"])
def conversation_export(request: Request, conversation_id: UUID) -> HttpResponseBase:
    """A conversation to take along; `?as=` is `json`, the whole tree, or `markdown` or `print`, the branch chosen."""
    conversation = access.access_conversation(user_id_of(request), conversation_id)
    form = request.query_params.get("as", "json")
    if form not in ENDINGS:
        raise NotFound
    return conversation_response(conversation, cast("Form", form))


@described(
    "Taking along",
    GET=Operation("listImports", "List your last imports.", answers={200: Rows(ImportSerializer)}),
    POST=Operation(
        "importFile",
        "Import a file of conversations.",
        takes_file=True,
        answers={202: ImportSerializer},
        refuses=((400, "import_missing"), (413, "import_too_large"), TransferRunning),
    ),
)
@api_view(["GET", "POST"])
@parser_classes([MultiPartParser])
def imports(request: Request) -> Response:
    """Your last imports; or import one `file`, as multipart/form-data. 202: a worker does it; ask for it until `status`
    is `done` or `refused`."""
    owner_id = user_id_of(request)
    if request.method == "GET":
        found = ImportSerializer(states.list_of(Import, owner_id), many=True)
        return Response({"results": found.data, "next": None})
    upload = request.FILES.get("file")
    row = begin_import(owner_id, upload if isinstance(upload, UploadedFile) else None)
    return Response(ImportSerializer(row).data, status=status.HTTP_202_ACCEPTED)


@described("Taking along", GET=Operation("getImport", answers={200: ImportSerializer}))
@api_view(["GET"])
def one_import(request: Request, import_id: UUID) -> Response:
    """One import."""
    return Response(ImportSerializer(states.access(Import, user_id_of(request), import_id)).data)


@described(
    "Taking along",
    GET=Operation("listExports", "List your last exports of everything.", answers={200: Rows(ExportSerializer)}),
    POST=Operation(
        "beginExport", "Export everything.", answers={202: ExportSerializer}, refuses=(AskedAgain, TransferRunning)
    ),
)
@api_view(["GET", "POST"])
def exports(request: Request) -> Response:
    """Your last exports of everything; or begin one. 202: a worker does it; ask for it until `status` is `ready`."""
    owner_id = user_id_of(request)
    if request.method == "GET":
        found = ExportSerializer(states.list_of(Export, owner_id), many=True)
        return Response({"results": found.data, "next": None})
    check_session(request)
    return Response(ExportSerializer(begin_export(owner_id)).data, status=status.HTTP_202_ACCEPTED)


@described("Taking along", GET=Operation("getExport", answers={200: ExportSerializer}))
@api_view(["GET"])
def one_export(request: Request, export_id: UUID) -> Response:
    """One export of everything."""
    return Response(ExportSerializer(states.access(Export, user_id_of(request), export_id)).data)


@described("Taking along", GET=Operation("downloadExport", answers={200: {"application/zip": bytes}}))
@api_view(["GET"])
def export_content(request: Request, export_id: UUID) -> HttpResponseBase:
    """The zip of an export that is ready."""
    row, file = open_export(user_id_of(request), export_id)
    return zip_response(file, file_name_of(row), row.size)
