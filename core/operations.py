"""What each operation of the API takes, answers and refuses, as plain data at its view.

The OpenAPI documents are made of it (config/openapi/). Nothing here imports what makes them: a web process has that
only once somebody asks for them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from core.errors import DomainError

View = TypeVar("View", bound=Callable[..., Any])

JsonSchema: TypeAlias = dict[str, Any]
Refusal: TypeAlias = type[DomainError] | tuple[int, str]
"""An error, or the status and the code of one."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A page of a list: `results`, each in this shape, and `next`. A list that comes whole always has null there."""

    of: type
    has_more: bool = False


Shape: TypeAlias = type | Rows | None
"""A serializer, a TypedDict, `str` for text, `bytes` for a file; None for an answer without a body."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of a view. `id` is what generated clients call it; `summary` may be empty where the first sentence of
    the view's docstring is about this method alone.

    `takes` is the serializer of its body (of PATCH all fields are optional), `takes_file` whether it is one `file`
    instead. `query` are its parameters: a serializer, or JSON schemas by name; `headers` those in headers.
    `answers` are shapes by status; of more than one media type, by that.
    `refuses` are errors beside those that every operation of its kind may answer (config/openapi/refusals.py).
    """

    id: str
    summary: str = ""
    takes: type | None = None
    takes_file: bool = False
    query: type | Mapping[str, JsonSchema] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[int, Shape | Mapping[str, Shape]] = field(default_factory=dict)
    refuses: tuple[Refusal, ...] = ()
    example: Mapping[str, Any] | None = None
    answer_example: Mapping[str, Any] | None = None
    answer_headers: Mapping[str, str] = field(default_factory=dict)


def described(tag: str, **operations: Operation) -> Callable[[View], View]:
    """Say of a view of the API what each of its methods does. A test refuses one that says nothing."""

    def said(view: View) -> View:
        view.cls.tag = tag  # type: ignore[attr-defined]  # REST framework's class behind the view
        view.cls.operations = operations  # type: ignore[attr-defined]
        return view

    return said
