"""Static files as browsers get them, with DEBUG too: styles in one file, names with a hash, compressed."""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.files.base import ContentFile
from servestatic.storage import CompressedManifestStaticFilesStorage

STYLES = "css/site.css"
"""The sheet that imports all others. A browser would ask for one after the other."""
IMPORT = re.compile(r'^@import "([^"]+)";$', re.MULTILINE)


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


def join_imports(sheet: Path) -> str:
    """Return the sheet with those it imports in their places. They name no file themselves."""
    return IMPORT.sub(lambda found: (sheet.parent / posixpath.normpath(found[1])).read_text(), sheet.read_text())
