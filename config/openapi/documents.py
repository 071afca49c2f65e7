"""Serves the OpenAPI document of the API, and a page that shows it.

The document is the same for everybody. A process makes it once, when somebody asks for it first.
"""

import functools
import hashlib
from dataclasses import dataclass
from threading import Lock

import msgspec
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils.cache import get_conditional_response
from django.views.decorators.http import require_safe
from rest_framework.decorators import api_view, authentication_classes, permission_classes
from rest_framework.permissions import AllowAny
from rest_framework.request import Request

KEPT_SECONDS = 300
TYPES = {"json": "application/vnd.oai.openapi+json", "yaml": "application/vnd.oai.openapi"}


@dataclass(frozen=True, slots=True)
class ServedDocument:
    body: bytes
    etag: str


@api_view(["GET", "HEAD"])
@authentication_classes([])
@permission_classes([AllowAny])
def schema(request: Request) -> HttpResponseBase:
    """The OpenAPI document of this API: JSON, or YAML with `?format=yaml`."""
    form = "yaml" if request.query_params.get("format") == "yaml" else "json"
    document = _document(form)
    response = HttpResponse(document.body, content_type=TYPES[form])
    response["ETag"] = document.etag
    response["Cache-Control"] = f"public, max-age={KEPT_SECONDS}"
    return get_conditional_response(request._request, etag=document.etag, response=response) or response


@require_safe
def docs(request: HttpRequest) -> HttpResponse:
    """The API documents, as a page in which every operation can be tried."""
    return render(request, "pages/api_docs.html")


_making = Lock()


def _document(form: str) -> ServedDocument:
    with _making:  # of many that ask first, one makes it
        return _made(form)


@functools.cache
def _made(form: str) -> ServedDocument:
    # Here, because most processes are never asked, and it takes some time and memory (config/openapi/generation.py).
    from drf_spectacular.renderers import OpenApiYamlRenderer

    if form == "yaml":
        body: bytes = OpenApiYamlRenderer().render(_schema(), renderer_context={})
    else:
        body = msgspec.json.encode(_schema(), enc_hook=str)  # what is still to be translated is no text yet
    return ServedDocument(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')


@functools.cache
def _schema() -> dict[str, object]:
    from config.openapi.generation import Generator

    return Generator().get_schema(request=None, public=True)
