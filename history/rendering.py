"""Renders Markdown as safe HTML. Only this module and core/compiled_fragments.py call `mark_safe` (a test checks that).

Raw HTML in an answer is shown as text (markdown-it with `html` off); nh3 then keeps only an allow-list, so that a
mistake in one of the two lets no script through. Images are dropped: loading one would tell its server who reads what.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from time import thread_time

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.utils import OptionsDict
from pygments import format as format_tokens
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

TAGS = {
    *("p", "br", "hr", "h4", "h5", "h6", "blockquote", "ul", "ol", "li", "strong", "em", "s", "del"),
    *("a", "code", "pre", "span", "table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"a": {"href", "title"}, "code": {"class"}, "span": {"class"}, "ol": {"start"}}
SCHEMES = {"http", "https", "mailto"}
LANGUAGES = {
    *("Awk", "Bash", "Bash Session", "Batchfile", "C", "C#", "C++", "Clojure", "CMake", "COBOL", "Common Lisp"),
    *("CSS", "Dart", "Delphi", "Diff", "Django/Jinja", "Docker", "Elixir", "Elm", "ERB", "Erlang", "F#", "Fortran"),
    *("GAS", "Gherkin", "Go", "GraphQL", "Groovy", "Haskell", "HTML", "HTTP", "INI", "Java", "JavaScript", "JSON"),
    *("JSX", "Julia", "Kotlin", "LessCss", "Lua", "Makefile", "Markdown", "Matlab", "MySQL", "NASM"),
    *("Nginx configuration file", "Nix", "Objective-C", "OCaml", "Perl", "PHP", "PL/pgSQL", "PostgreSQL SQL dialect"),
    *("PowerShell", "Prolog", "Properties", "Protocol Buffer", "Python", "Python console session", "Ruby", "Rust"),
    *("S", "Sass", "Scala", "Scheme", "SCSS", "Solidity", "SQL", "Swift", "Terraform", "TeX", "TOML", "TSX"),
    *("TypeScript", "VB.net", "verilog", "vhdl", "VimL", "Vue", "XML", "YAML", "Zig"),
}
"""Those that are highlighted. Pygments has five hundred more; some take seconds for one word of hostile code."""
MAX_HIGHLIGHTED_CHARACTERS = 10_000
LONG_LINE = re.compile(r"[^\n]{1000}|\s{80}")
"""Many lexers take quadratic time for it: 20,000 blank lines of Java take 45 seconds."""
HIGHLIGHTING_SECONDS = 0.25  # of processor time, for one answer: Java takes quadratic time for short lines too
FIRST_HEADING_LEVEL = 4  # the page, the question and the answer have the levels above
MAX_CACHED_CHARACTERS = 8_000
MAX_CACHED_ANSWERS = 512
"""A process caches the HTML of so many answers, 25 MB at most: pages are opened again; each answer takes 1 to 3 ms."""
MAX_BLOCK_DEPTH = 100
MAX_INLINE_DEPTH = 20  # the time for 100,000 brackets is a multiple of it

_formatter = HtmlFormatter(nowrap=True)


def render_markdown(text: str) -> SafeString:
    """Return the Markdown `text` as sanitised HTML."""
    return _render_cached(text) if len(text) <= MAX_CACHED_CHARACTERS else _render(text)


def _render(text: str) -> SafeString:
    tokens = _markdown.parse(text)
    options = OptionsDict(_markdown.options)  # type: ignore[arg-type]  # it copies any mapping
    options.highlight = Highlighter()
    html = nh3.clean(
        _markdown.renderer.render(tokens, options, {}),
        tags=TAGS,
        attributes=ATTRIBUTES,
        url_schemes=SCHEMES,
        set_tag_attribute_values={"a": {"target": "_blank"}},  # the chat stays open
        link_rel="noopener noreferrer nofollow",
    )
    return mark_safe(html)  # noqa: S308  nh3 has just cleaned it


_render_cached = lru_cache(MAX_CACHED_ANSWERS)(_render)


class HighlightingTimeout(Exception):
    """The code takes too long to highlight."""


class Highlighter:
    """Highlights the code blocks of one answer, as spans with classes. An empty result leaves a block plain."""

    deadline = 0.0

    def __call__(self, code: str, language: str, _attributes: str) -> str:
        if not language or len(code) > MAX_HIGHLIGHTED_CHARACTERS or LONG_LINE.search(code):
            return ""
        if not self.deadline:
            self.deadline = thread_time() + HIGHLIGHTING_SECONDS
        try:
            lexer = get_lexer_by_name(language, stripnl=False)
            if lexer.name not in LANGUAGES:
                return ""
            return str(format_tokens(self._until_deadline(lexer.get_tokens(code)), _formatter))
        except (ClassNotFound, HighlightingTimeout):
            return ""

    def _until_deadline(self, tokens: Iterable[tuple[object, str]]) -> Iterator[tuple[object, str]]:
        for token in tokens:
            if thread_time() > self.deadline:
                raise HighlightingTimeout
            yield token


def _parse_inlines(state: StateCore) -> None:
    """Replace markdown-it's rule `inline`, to give inlines a depth limit of their own."""
    for token in state.tokens:
        if token.type == "inline":
            token.children = []
            _inlines.inline.parse(token.content, _inlines, state.env, token.children)


def _lower_headings(state: StateCore) -> None:
    for token in state.tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, FIRST_HEADING_LEVEL - 1 + int(token.tag[1]))}"


def _make_parser(*, max_depth: int) -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": max_depth})
    return parser.enable(["table", "strikethrough"]).disable("image")


_markdown = _make_parser(max_depth=MAX_BLOCK_DEPTH)
_inlines = _make_parser(max_depth=MAX_INLINE_DEPTH)
_markdown.core.ruler.at("inline", _parse_inlines)
_markdown.core.ruler.push("headings", _lower_headings)
