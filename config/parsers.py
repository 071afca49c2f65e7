"""What the API reads, strictly, as anybody may send anything; and the one format it writes."""

from collections.abc import Iterable, Mapping
from typing import IO, Any

import msgspec
from django.utils.translation import gettext as _
from rest_framework.exceptions import ParseError
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import JSONParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

MAX_FIELDS = 1_000
"""As many as Django takes of a form."""
MAX_DEPTH = 16
"""The deepest body that any address takes has two levels. What is nested some hundred times would break whoever looks
at it, be it to say what is wrong with it."""


class StrictJsonParser(JSONParser):
    """JSON by RFC 8259, in UTF-8 whatever the request says: REST framework's own takes lone surrogates, which no answer
    can hold, and falls over what is nested too deeply. It limits the length of a body for its own parser alone, and
    those derived from it."""

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        try:
            data = msgspec.json.decode(stream.read())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ParseError(_("That is not valid JSON.")) from error
        _check_size(data)
        return data


class OneFormat(DefaultContentNegotiation):
    """Answers in the one format there is, whatever `Accept` says (RFC 9110, 12.5.1, allows it): a browser's EventSource
    accepts event streams alone, and must be told of an error, too."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, renderer.media_type


def _check_size(data: Any) -> None:
    """Raise ParseError for what has too many fields, or is nested too deeply."""
    fields, level = 0, [data]
    for _depth in range(MAX_DEPTH + 1):  # in the last there are values alone
        fields += sum(len(one) for one in level if isinstance(one, dict))
        if fields > MAX_FIELDS:
            raise ParseError(_("That has too many fields."))
        level = [inner for one in level if isinstance(one, dict | list) for inner in _values_of(one)]
        if not level:
            return
    raise ParseError(_("That is nested too deeply."))


def _values_of(holder: dict[str, Any] | list[Any]) -> Any:
    return holder.values() if isinstance(holder, dict) else holder
