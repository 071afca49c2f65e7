"""What somebody writes into the field of a search: words, phrases in quotation marks, and filters."""

import datetime as dt
import re
from dataclasses import dataclass, field, replace

from history.errors import BadFilter, bad_date, bad_has, empty_filter, too_many_names
from history.folding import fold

NAMES = {
    "model": "model",
    "modelo": "model",
    "folder": "folder",
    "carpeta": "folder",
    "pasta": "folder",
    "after": "after",
    "desde": "after",
    "before": "before",
    "antes": "before",
    "has": "has",
    "con": "has",
    "com": "has",
}
"""What filters are called, in each language."""
FILES = frozenset({"file", "files", "archivo", "archivos", "arquivo", "arquivos"})
DAYS = {"today": 0, "hoy": 0, "hoje": 0, "yesterday": 1, "ayer": 1, "ontem": 1}
"""What days are called, and how many days ago they began."""
MAX_NAMES = 10
"""Of models, or of folders. Each is a condition of its own, and SQLite takes no more than a thousand."""
FIRST_YEAR, LAST_YEAR = 1900, 9000
_TERM = re.compile(r'(?:(?P<name>[^\W\d_]+):)?(?:["“”«](?P<phrase>[^"“”»]*)(?:["“”»]|$)|(?P<word>\S+))')
_LOOKS_LIKE_FILTER = re.compile(r"[^\W\d_]+:[^\W_][^:/]*")
_DATE = re.compile(r"(\d{4})(?:-(\d{1,2}))?(?:-(\d{1,2}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Query:
    """What must be true of a turn that is found.

    `words` are folded, and each must be in it. `models` and `folders` are names as they were written: one of them must
    be its own. `after` is included, `before` is not. `unknown` are words that look like filters and are none: they are
    searched for as they are. `written` is what stands in the place of `words`, with its case and accents.
    """

    words: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    after: dt.datetime | None = None
    before: dt.datetime | None = None
    has_file: bool = False
    unknown: tuple[str, ...] = ()
    written: str = field(default="", compare=False)

    @property
    def is_empty(self) -> bool:
        return self == Query()


def parse_query(text: str, zone: dt.tzinfo) -> Query:
    """Return what is searched for; days begin as they do in `zone`. Raises BadFilter for a filter that has no value, or
    one that it cannot have."""
    query, words, unknown, written = Query(), list[str](), list[str](), list[str]()
    for term in _TERM.finditer(text.replace("\0", "")):
        name = NAMES.get(fold(term["name"] or ""))
        if name is not None:
            value = (term["word"] if term["phrase"] is None else term["phrase"]).strip()
            if not value:
                raise BadFilter(empty_filter(term["name"]))
            query = _with_filter(query, name, value, zone)
        elif fold(term[0]).removesuffix(":") in NAMES and term[0].endswith(":"):
            raise BadFilter(empty_filter(term[0].removesuffix(":")))
        elif term["phrase"] is not None and not term["name"]:
            words.append(fold(term["phrase"]).strip() or (term[0] if len(term[0]) == 1 else ""))
            written.append(term["phrase"])
        else:
            words += fold(term[0]).split()  # a sign may become two words: ¨ is a blank and what stands on it
            written.append(term[0])
            if _LOOKS_LIKE_FILTER.fullmatch(term[0]):
                unknown.append(term[0])
    unique = tuple(dict.fromkeys(filter(None, words)))
    return replace(query, words=unique, unknown=tuple(unknown), written=" ".join(written))


def _with_filter(query: Query, name: str, value: str, zone: dt.tzinfo) -> Query:
    if name == "model":
        return replace(query, models=_with_name(query.models, value))
    if name == "folder":
        return replace(query, folders=_with_name(query.folders, value))
    if name == "has":
        if fold(value) not in FILES:
            raise BadFilter(bad_has(value))
        return replace(query, has_file=True)
    moment = _beginning_of(value, zone)
    if name == "after":
        return replace(query, after=max(query.after or moment, moment))
    return replace(query, before=min(query.before or moment, moment))


def _with_name(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    more = tuple(dict.fromkeys((*names, name)))
    if len(more) > MAX_NAMES:
        raise BadFilter(too_many_names())
    return more


def _beginning_of(value: str, zone: dt.tzinfo) -> dt.datetime:
    """Return when a year, a month or a day begins; a day may have a name."""
    if (days := DAYS.get(fold(value))) is not None:
        value = (dt.datetime.now(zone) - dt.timedelta(days=days)).date().isoformat()
    found = _DATE.fullmatch(value)
    try:
        if found is None or not FIRST_YEAR <= int(found[1]) <= LAST_YEAR:
            raise ValueError(value)
        begins = dt.datetime(int(found[1]), int(found[2] or 1), int(found[3] or 1), tzinfo=zone)
    except ValueError as error:
        raise BadFilter(bad_date(value)) from error
    return begins.astimezone(dt.UTC)
