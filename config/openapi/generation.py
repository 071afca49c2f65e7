"""Makes the OpenAPI documents of the API, of what its views say of themselves (core/operations.py).

drf-spectacular turns serializers into schemas and finds the routes; what an operation is comes from us. It takes 9 MB,
and the first document 0.3 s: nobody imports this module before one is asked for.
"""

import datetime as dt
import types
import typing
from typing import Any, Literal, NotRequired, Required, Union
from uuid import UUID

from django.conf import settings
from django.utils import translation
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ComponentRegistry, ResolvedComponent, get_doc
from drf_spectacular.utils import OpenApiParameter
from rest_framework.permissions import AllowAny
from rest_framework.serializers import Serializer

from accounts.keys import ANY
from config.openapi.refusals import refusals_of
from core.http import ErrorBody
from core.operations import Operation, Rows

PREFIXES = ("/api/v1/",)
"""Which addresses are in the documents. Each view under them says what it does (`described`)."""
TAGS = (
    *("Accounts", "API keys", "Models", "Asking", "Attachments", "Conversations", "Folders", "Search"),
    *("Batches", "Shared links", "Taking along", "Plans and usage"),
)
"""In the order in which a page shows them."""
ABOUT = """Everything a program needs: answers as they are written, conversations, credits.

Ids are yours to choose where a request makes something: the same request with the same id again returns what is there,
and nothing is asked or charged twice. Money is in micro-US-dollars (`…_micros`), or in credits, 1,000 of them each.
Times are in UTC. What people read (`detail`) follows `Accept-Language`: `es`, `en` or `pt-BR`.
"""
LANGUAGE = "en"
"""Names and descriptions, as those in docs/; what a person reads of an answer is in the request's language."""

BASIC: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    bytes: {"type": "string", "format": "binary"},
    UUID: {"type": "string", "format": "uuid"},
    dt.datetime: {"type": "string", "format": "date-time"},
    dt.date: {"type": "string", "format": "date"},
    dict: {"type": "object", "additionalProperties": {}},
    type(None): {"type": "null"},
    Any: {},
}
SECURITY_SCHEMES = {
    "accessToken": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The `access` of a log-in: everything its owner may do, for some minutes.",
    },
    "apiKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key (`ttl_…`), where it has the scope that is named; of several, one will do.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": settings.SESSION_COOKIE_NAME,
        "description": "For the pages of this site: anything but GET needs Django's `X-CSRFToken`, too.",
    },
}
NAMES_OF_REFUSALS = {
    400: "That is not valid.",
    401: "Not logged in, or not any more.",
    402: "The credits do not cover it.",
    403: "That is not allowed.",
    404: "That does not exist, or is not yours.",
    409: "That does not go with what is there.",
    413: "That is too large.",
    415: "That is of a kind that is not taken.",
    422: "That does not go with the model.",
    429: "Too many requests.",
    500: "An error of ours.",
    503: "Not now.",
}
LARGEST = frozenset(2**bits - 1 for bits in (15, 16, 31, 32, 63, 64))
SAY_WHEN = (402, 429, 503)
"""Errors that may say when to come back."""


class Schema(AutoSchema):
    """What is said of one method of one view."""

    @property
    def operation(self) -> Operation:
        view: Any = self.view  # `described` has put it there
        found: Operation = view.operations[self.method]
        return found

    def get_operation(
        self, path: str, path_regex: str, path_prefix: str, method: str, registry: ComponentRegistry
    ) -> dict[str, Any] | None:
        operation = super().get_operation(path, path_regex, path_prefix, method, registry)
        if operation is not None:
            operation["security"] = self._security()
        return operation

    def get_operation_id(self) -> str:
        return self.operation.id

    def get_summary(self) -> str:
        return self.operation.summary or _first_sentence(self._doc())

    def get_description(self) -> str:  # type: ignore[override]  # REST framework's own takes arguments
        doc = self._doc()
        return doc if self.operation.summary else doc.removeprefix(_first_sentence(doc)).strip()

    def get_tags(self) -> list[str]:
        view: Any = self.view
        return [view.tag]

    def get_auth(self) -> list[Any]:
        return []  # see _security: an empty list must be said, too

    def get_override_parameters(self) -> list[Any]:
        query = self.operation.query
        found: list[Any] = [] if query is None or not isinstance(query, type) else [query]
        if query is not None and not isinstance(query, type):
            for name, schema in query.items():
                shape = {key: value for key, value in schema.items() if key != "description"}
                found.append(OpenApiParameter(name, shape, description=schema.get("description", "")))
        for name, description in self.operation.headers.items():
            found.append(OpenApiParameter(name, str, OpenApiParameter.HEADER, description=description))
        return found

    def get_request_serializer(self) -> Any:
        if self.operation.takes_file:
            file = {"type": "string", "format": "binary"}
            return {"multipart/form-data": {"type": "object", "properties": {"file": file}, "required": ["file"]}}
        return self.operation.takes

    def _is_list_view(self, serializer: Any = None) -> bool:
        return False  # Rows says so

    def _get_request_body(self, direction: Any = "request") -> Any:
        body = super()._get_request_body(direction)
        if body and self.operation.takes_file:
            body["required"] = True
        if body and self.operation.example is not None:
            for content in body["content"].values():
                content["example"] = self.operation.example
        return body

    def _get_response_bodies(self, direction: Any = "response") -> dict[str, Any]:
        found = {str(status): self._answer(shape) for status, shape in self.operation.answers.items()}
        error = self._schema_of(ErrorBody)
        for status, codes in refusals_of(self.view, self.method, self.path).items():
            listed = ", ".join(f"`{code}`" for code in codes)
            found[str(status)] = {
                "description": f"{NAMES_OF_REFUSALS[status]} {listed}",
                "content": {"application/json": {"schema": error}},
            }
            if status in SAY_WHEN:
                header = {"description": "Seconds until it may work.", "schema": {"type": "integer", "minimum": 1}}
                found[str(status)]["headers"] = {"Retry-After": header}
        return found

    def _answer(self, shape: Any) -> dict[str, Any]:
        if shape is None:
            return {"description": "Done."}
        by_type = shape if isinstance(shape, dict) else {"application/json": shape}
        content: dict[str, Any] = {media: {"schema": self._schema_of(one)} for media, one in by_type.items()}
        examples = self.operation.answer_example
        if examples is not None:
            for media, example in (examples if isinstance(shape, dict) else {"application/json": examples}).items():
                content[media]["example"] = example
        answer: dict[str, Any] = {"description": "Done.", "content": content}
        if self.operation.answer_headers:
            answer["headers"] = {
                name: {"description": said, "schema": {"type": "integer"}}
                for name, said in self.operation.answer_headers.items()
            }
        return answer

    def _map_basic_serializer(self, serializer: Any, direction: Any) -> Any:
        """Without the limits of the database's numbers, which are others on another store. Of an answer all fields are
        there."""
        schema = super()._map_basic_serializer(serializer, direction)
        properties = schema.get("properties", {})
        for one in properties.values():
            if one.get("maximum") in LARGEST:
                for name in ("maximum", "minimum", "format"):
                    one.pop(name, None)
        if direction == "response" and properties:
            schema["required"] = sorted(properties)
        return schema

    def _get_serializer_field_meta(self, field: Any, direction: Any) -> Any:
        """Without names and help that were written for forms."""
        meta = super()._get_serializer_field_meta(field, direction)
        return {name: value for name, value in meta.items() if name not in ("title", "description")}

    def _map_response_type_hint(self, method: Any) -> dict[str, Any]:
        return self._schema_of(typing.get_type_hints(method, include_extras=True)["return"])

    def _schema_of(self, hint: Any) -> dict[str, Any]:
        """Return the schema of a shape (core/operations.py), or of a type that a serializer's method returns."""
        if isinstance(hint, Rows):
            return self._rows(hint)
        if isinstance(hint, type) and issubclass(hint, Serializer):
            ref: dict[str, Any] = self.resolve_serializer(hint, "response").ref
            return ref
        if typing.is_typeddict(hint):
            return self._typed_dict(hint)
        if hint in BASIC:
            return dict(BASIC[hint])
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if origin in (list, tuple):
            return {"type": "array", "items": self._schema_of(args[0])}
        if origin is dict:
            return {"type": "object", "additionalProperties": self._schema_of(args[1])}
        if origin is Literal:
            return {"type": "string", "enum": list(args)}
        if origin in (Union, types.UnionType):
            return _either([self._schema_of(one) for one in args])
        raise TypeError(f"The API documents have no schema for {hint}.")

    def _rows(self, rows: Rows) -> dict[str, Any]:
        of = self._schema_of(rows.of)
        following = {
            "type": ["string", "null"],
            "description": "Pass it as `?after=` for the next page; null: no more.",
        }
        always_null = {"type": "null", "description": "The list is whole."}
        schema = {
            "type": "object",
            "properties": {
                "results": {"type": "array", "items": of},
                "next": following if rows.has_more else always_null,
            },
            "required": ["results", "next"],
        }
        return self._component(f"{of['$ref'].rpartition('/')[2]}List", schema, rows.of)

    def _typed_dict(self, hint: Any) -> dict[str, Any]:
        hints = typing.get_type_hints(hint, include_extras=True)
        properties = {name: self._schema_of(_bare(one)) for name, one in hints.items()}
        schema = {"type": "object", "properties": properties, "required": sorted(hint.__required_keys__)}
        if doc := get_doc(hint):
            schema["description"] = doc
        return self._component(hint.__name__.removesuffix("Body"), schema, hint)

    def _component(self, name: str, schema: dict[str, Any], of: Any) -> dict[str, Any]:
        component = ResolvedComponent(name=name, type=ResolvedComponent.SCHEMA, schema=schema, object=of)
        self.registry.register_on_missing(component)
        ref: dict[str, Any] = component.ref
        return ref

    def _security(self) -> list[dict[str, list[str]]]:
        """Return which ways in there are; an empty list where nobody is asked who they are."""
        if not self.view.authentication_classes:
            return []
        scopes = getattr(self.view, "key_scopes", {}).get(self.method, ())
        named = (scopes,) if isinstance(scopes, str) else scopes
        found: list[dict[str, list[str]]] = [{"accessToken": []}, {"session": []}]
        found += [{"apiKey": [] if scope == ANY else [str(scope)]} for scope in named]
        return [{}, *found] if AllowAny in self.view.permission_classes else found

    def _doc(self) -> str:
        return " ".join(str(get_doc(self.view.__class__)).split())


class Generator(SchemaGenerator):
    """All operations under PREFIXES, in one language."""

    def create_view(self, callback: Any, method: str, request: Any = None) -> Any:
        view = super().create_view(callback, method, request)
        self._set_schema_to_view(view, Schema())
        return view

    def get_schema(self, request: Any = None, public: bool = False) -> dict[str, Any]:
        with translation.override(LANGUAGE):
            schema: dict[str, Any] = super().get_schema(request, public)
        schema["info"]["description"] = ABOUT
        schema["servers"] = [{"url": "/", "description": "This site"}]
        schema["tags"] = [{"name": name} for name in TAGS]
        schema["components"]["securitySchemes"] = SECURITY_SCHEMES
        return schema


def only_documented(endpoints: list[tuple[str, str, str, Any]]) -> list[tuple[str, str, str, Any]]:
    """Keep what is under PREFIXES, without the door of addresses that are none."""
    return [one for one in endpoints if one[0].startswith(PREFIXES)]


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".") + "." if text else ""


def _bare(hint: Any) -> Any:
    """Return what a key of a TypedDict holds, whether it must be there or not."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) in (NotRequired, Required) else hint


def _either(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the schema of what is one of these: of a type or null as OpenAPI 3.1 has it."""
    null = BASIC[type(None)]
    others = [one for one in schemas if one != null]
    if len(others) == 1 and len(schemas) == 2 and isinstance(others[0].get("type"), str) and "enum" not in others[0]:
        return {**others[0], "type": [others[0]["type"], "null"]}
    return {"anyOf": schemas}
