"""`manage.py translate`: brings the catalogues in `locale/` up to date with the code. Needs Babel, not gettext."""

import datetime as dt
from collections.abc import Iterator
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from django.conf import settings
from django.core.management.base import BaseCommand
from django.utils.translation import to_locale
from django.utils.translation.template import templatize

SOURCE_LANGUAGE = "en"
"""The language of the sentences in the code: there, each sentence is its own translation."""
CODE = ("accounts", "billing", "chat", "config", "core", "history")
TEMPLATES = "templates"
KEYWORDS: dict[str, Any] = {
    **dict.fromkeys(("_", "gettext", "gettext_lazy", "gettext_noop")),
    **dict.fromkeys(("ngettext", "ngettext_lazy"), (1, 2)),
    **dict.fromkeys(("pgettext", "pgettext_lazy"), ((1, "c"), 2)),
    **dict.fromkeys(("npgettext", "npgettext_lazy"), ((1, "c"), 2, 3)),
}

FoundMessage: TypeAlias = tuple[int, str | tuple[str, ...], list[str], str | None]


class Command(BaseCommand):
    help = "Extract what people read from the code, merge it into the catalogues, and compile them."
    requires_system_checks = []

    def handle(self, *_args: Any, **_options: Any) -> None:
        template = extract_messages()
        for language, _name in settings.LANGUAGES:
            catalog = merge(language, template)
            save(language, catalog)
            empty = sum(not is_translated(message) for message in catalog if message.id)
            self.stdout.write(f"{language}: {len(catalog)} messages, {empty} without a translation")


def extract_messages() -> Catalog:
    """Return every message of the code and the templates, untranslated."""
    template = Catalog(charset="utf-8")
    for name in CODE:
        for path in sorted((settings.BASE_DIR / name).rglob("*.py")):
            _add(template, path, _extract(path.read_bytes()))
    for path in sorted((settings.BASE_DIR / TEMPLATES).rglob("*.*")):
        _add(template, path, _extract_from_template(path))
    return template


def merge(language: str, template: Catalog) -> Catalog:
    """Return the language's catalogue with exactly the template's messages; translations that exist are kept."""
    catalog = read_catalog(language)
    template = deepcopy(template)  # Babel puts the template's own messages into the catalogue
    template.creation_date = catalog.creation_date  # a run that changes nothing writes the same file
    catalog.update(template, no_fuzzy_matching=True)
    if language == SOURCE_LANGUAGE:
        for message in catalog:
            if message.id:
                message.string = message.id
    return catalog


def read_catalog(language: str) -> Catalog:
    """Return the language's catalogue as it is on disk, empty if there is none."""
    path = po_file(language)
    if not path.exists():
        return _new_catalog(language)
    with path.open("rb") as file:
        return read_po(file, locale=to_locale(language))


def save(language: str, catalog: Catalog) -> None:
    catalog.fuzzy = False  # Babel marks the header of a new one
    path = po_file(language)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        write_po(file, catalog, width=0, ignore_obsolete=True, include_lineno=False)
    path.with_suffix(".mo").write_bytes(compiled(read_catalog(language)))


def compiled(catalog: Catalog) -> bytes:
    """Return the catalogue in the form Django reads."""
    output = BytesIO()
    write_mo(output, catalog)
    return output.getvalue()


def po_file(language: str) -> Path:
    root: Path = settings.BASE_DIR / "locale"
    return root / to_locale(language) / "LC_MESSAGES" / "django.po"


def is_translated(message: Message) -> bool:
    forms = message.string if isinstance(message.string, tuple | list) else (message.string,)
    return all(forms) and not message.fuzzy


def _new_catalog(language: str) -> Catalog:
    return Catalog(
        locale=to_locale(language),
        header_comment="# Messages of Tertulia. Written by `manage.py translate`; edit the msgstr only.",
        project="Tertulia",
        version="1",
        msgid_bugs_address="The Tertulia authors",
        last_translator="The Tertulia authors",
        language_team="The Tertulia authors",
        revision_date=dt.datetime.now(dt.UTC),
        charset="utf-8",
    )


def _extract(source: bytes) -> Iterator[FoundMessage]:
    yield from extract("python", BytesIO(source), KEYWORDS, ["Translators:"])


def _extract_from_template(path: Path) -> Iterator[FoundMessage]:
    # Django turns a template into calls between words without meaning; inside brackets their indentation is none.
    code = templatize(path.read_text(), origin=str(path))
    for line, message, comments, context in _extract(f"(\n{code}\n)".encode()):
        yield line - 1, message, comments, context


def _add(template: Catalog, path: Path, messages: Iterator[FoundMessage]) -> None:
    name = path.relative_to(settings.BASE_DIR).as_posix()
    for line, message, comments, context in messages:
        template.add(message, locations=[(name, line)], auto_comments=comments, context=context)
