"""Every address of the site, as the URL map has it: a new route is knocked at without anybody remembering it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db.models import Model
from django.urls import URLPattern, URLResolver, get_resolver, path
from django.utils.regex_helper import normalize

from config import mail, urls

API = "/api/v1/"


@dataclass(frozen=True)
class Door:
    """`route` is a path with `%(name)s` for each of its `parameters`; `view` is what Django calls; `model` is whose
    rows a page of the admin shows."""

    route: str
    parameters: tuple[str, ...] = ()
    view: Any = None
    model: type[Model] | None = None

    @property
    def is_api(self) -> bool:
        return self.route.startswith(API)

    @property
    def is_admin(self) -> bool:
        return self.route.startswith("/admin/")

    @property
    def methods(self) -> tuple[str, ...]:
        """What a view of the API takes."""
        names = sorted(self.view.cls.http_method_names)  # they come from a set, and workers must agree
        return tuple(name.upper() for name in names if name != "options")


OUTSIDE_OF_THE_MAP = tuple(
    map(Door, ("/static/css/tokens.css", "/static/nothing.js", "/nothing/", "/nothing", "/api", "/api/v1", "/ws/"))
)
"""What the middleware answers, and addresses that are none."""


def list_doors() -> list[Door]:
    """Return all of them; `/mail/` too, which the map has in DEBUG alone."""
    return [*_walk(get_resolver().url_patterns, ""), *OUTSIDE_OF_THE_MAP]


def list_api_doors() -> list[Door]:
    """Return the routes of the API, without the one for addresses that are none."""
    return [door for door in list_doors() if door.is_api and hasattr(door.view, "cls")]


class WithMail:
    """The URL map as a `ROOT_URLCONF`, with the page of caught mail."""

    urlpatterns = [*urls.urlpatterns, path("mail/", mail.caught)]
    handler400, handler403, handler404 = urls.handler400, urls.handler403, urls.handler404
    handler429, handler500 = urls.handler429, urls.handler500


def _walk(patterns: list[URLPattern | URLResolver], before: str) -> Iterator[Door]:
    for pattern in patterns:
        regex = before + str(pattern.pattern.regex.pattern).removeprefix("^")
        if isinstance(pattern, URLResolver):
            yield from _walk(pattern.url_patterns, regex)
            continue
        route, parameters = normalize(regex)[0]
        model_admin = getattr(pattern.callback, "model_admin", None)
        yield Door(f"/{route}", tuple(parameters), pattern.callback, model_admin and model_admin.model)
