"""Static files as browsers get them, with DEBUG too: styles in one file, names with a hash, compressed."""

import posixpath
import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.contrib.staticfiles.finders import BaseFinder
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage
from servestatic.storage import CompressedManifestStaticFilesStorage

STYLES = "css/site.css"
"""The sheet that imports all others. A browser would ask for one after the other."""
IMPORT = re.compile(r'^@import "([^"]+)";$', re.MULTILINE)


SWAGGER_UI = ("swagger-ui-bundle.js", "swagger-ui.css", "swagger-ui.css.map", "LICENSE")
"""What /api/docs/ is made with, the map that the styles name, and the licence. Its package has more: a page for log-ins
elsewhere, and Redoc, which is four times as large."""


class StaticFilesStorage(CompressedManifestStaticFilesStorage):
    def url(self, name: str | None, force: bool = True) -> str:
        """Return the address with the hash: with DEBUG, Django's own has none unless it is forced to."""
        address: str = super().url(name, force=force)
        return address

    def post_process(self, paths: dict[str, Any], **options: Any) -> Iterator[tuple[str, str | None, bool | Exception]]:
        if STYLES in paths and not options.get("dry_run"):
            source, name = paths[STYLES]
            joined = join_imports(Path(source.path(name)))
            self.delete(STYLES)
            paths[STYLES] = (self, self._save(STYLES, ContentFile(joined.encode())))
        yield from super().post_process(paths, **options)


class SwaggerUiFinder(BaseFinder):
    """Finds Swagger UI in the package that brings it, as `swagger-ui/…`."""

    prefix = "swagger-ui"

    def __init__(self, *_args: Any, **_options: Any) -> None:
        package = find_spec("drf_spectacular_sidecar")
        assert package is not None
        assert package.origin is not None
        self.folder = Path(package.origin).parent / "static" / "drf_spectacular_sidecar" / "swagger-ui-dist"
        self.storage = FileSystemStorage(self.folder)
        self.storage.prefix = self.prefix  # type: ignore[attr-defined]  # what `collectstatic` puts before their names
        self.storages = {self.prefix: self.storage}  # as other finders have, and servestatic asks with DEBUG

    def check(self, **_options: Any) -> list[Any]:
        return []

    def find(self, path: str, find_all: bool = False, **_options: Any) -> Any:
        prefix, _, name = path.partition("/")
        found = [str(self.folder / name)] if prefix == self.prefix and name in SWAGGER_UI else []
        return found[0] if found and not find_all else found

    def list(self, ignore_patterns: Iterable[str] | None) -> Iterator[tuple[str, FileSystemStorage]]:
        return ((name, self.storage) for name in SWAGGER_UI)


def join_imports(sheet: Path) -> str:
    """Return the sheet with those it imports in their places. They name no file themselves."""
    return IMPORT.sub(lambda found: (sheet.parent / posixpath.normpath(found[1])).read_text(), sheet.read_text())
