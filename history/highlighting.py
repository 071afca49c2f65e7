"""Colours code, as spans with Pygments' classes, within a limit of time."""

import re
from collections.abc import Iterable, Iterator
from time import thread_time

from pygments import format as format_tokens
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES, Token, _TokenType
from pygments.util import ClassNotFound

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
TOKENS_A_LOOK = 16  # at the clock, which takes as long as a token or two

WITHOUT_COLOUR = {"n", "nx", "o", "p", "pm", "w"}
"""Classes of names, operators and blanks that look like other text: they would be most of all spans."""

_formatter = HtmlFormatter(nowrap=True)


class HighlightingTimeout(Exception):
    """The code takes too long to highlight."""


class Highlighter:
    """Highlights the code blocks of one answer, in whichever threads. An empty result leaves a block plain."""

    def __init__(self) -> None:
        self._seconds_left = HIGHLIGHTING_SECONDS

    @property
    def is_used_up(self) -> bool:
        return self._seconds_left <= 0

    def __call__(self, code: str, language: str, _attributes: str) -> str:
        if not language or len(code) > MAX_HIGHLIGHTED_CHARACTERS or LONG_LINE.search(code):
            return ""
        begun = thread_time()
        try:
            lexer = get_lexer_by_name(language, stripnl=False)
            if lexer.name not in LANGUAGES:
                return ""
            return str(format_tokens(_until(begun + self._seconds_left, lexer.get_tokens(code)), _formatter))
        except (ClassNotFound, HighlightingTimeout):
            return ""
        finally:
            self._seconds_left -= thread_time() - begun


def _until(deadline: float, tokens: Iterable[tuple[_TokenType, str]]) -> Iterator[tuple[_TokenType, str]]:
    """Yield the tokens, those without a colour as plain text, until the time is over."""
    for number, (kind, text) in enumerate(tokens):
        if number % TOKENS_A_LOOK == 0 and thread_time() > deadline:
            raise HighlightingTimeout
        yield Token if STANDARD_TYPES.get(kind) in WITHOUT_COLOUR else kind, text
