r"""Formulas in Markdown: `$…$`, `$$…$$`, `\(…\)` and `\[…\]`, as rules for markdown-it, and TeX as MathML.

A dollar is a price more often than a formula, so a pair of them must stand as in TeX: close to what is between them,
and apart from words and digits around it.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererProtocol
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from math_core import LatexError, LatexToMathML

MAX_FORMULA_CHARACTERS = 2_000
MAX_FORMULA_LINES = 60
MAX_MATHML_CHARACTERS = 40_000
"""A formula with macros may become a thousand times as long; the longest without, twenty times."""
CLOSE_LETTERS_END = "\u0530"  # Latin, Greek and Cyrillic letters, and digits
CLOSING = {"$$": "$$", "\\[": "\\]", "\\(": "\\)"}
MATHML_TAGS = {
    *("math", "menclose", "mfrac", "mi", "mmultiscripts", "mn", "mo", "mover", "mphantom", "mpadded", "mroot", "mrow"),
    *("ms", "mspace", "msqrt", "mstyle", "msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr", "munder"),
    *("munderover", "none", "mprescripts"),
}
MATHML_ATTRIBUTES = {
    "math": {"alttext", "display"},
    "menclose": {"notation"},
    "mfrac": {"displaystyle", "linethickness"},
    "mi": {"mathvariant"},
    "mo": {"form", "lspace", "maxsize", "minsize", "rspace", "stretchy", "symmetric"},
    "mover": {"accent"},
    "mpadded": {"depth", "height", "lspace", "voffset", "width"},
    "mrow": {"displaystyle", "scriptlevel"},
    "mspace": {"width"},
    "mstyle": {"displaystyle", "scriptlevel"},
    "mtable": {"displaystyle", "scriptlevel"},
    "mtd": {"class"},
    "munder": {"accentunder"},
}
"""What the converter makes. Styles are not among it: the page's policy forbids them."""

_converter = LatexToMathML(
    macros={"substack": r"\begin{matrix}#1\end{matrix}", "degree": r"^{\circ}"},
    fancy_error=False,
    max_expansions=200,
)
_TAG = re.compile(r"\\tag\*?\{([^{}]*)\}")
_NO_MATHEMATICS = re.compile(r"\\(?:label|nonumber|notag|require)(?:\{[^{}]*\})?")
_STYLE = re.compile(r' style="([^"]*)"')
_WORDS = re.compile(r"\d[\d.,]*[^\\=^_{}+*/<>]*(?:[^\W\d_]{2}|[;,] )")
"""A number and then words, or another number: what stands between the dollars of “$5 for one and 10$”."""
_ENDING = re.compile(r"(?:st|nd|rd|th|s)\b")
"""Of “the $n$th of all $x$s”."""


def add_formulas(parser: MarkdownIt) -> None:
    """Let `parser` know formulas."""
    parser.block.ruler.before("fence", "formula", _formula_block, {"alt": ["paragraph", "reference", "blockquote"]})
    parser.inline.ruler.before("escape", "formula", _formula_in_line)
    parser.add_render_rule("formula", _render_formula)


@lru_cache(512)
def to_mathml(tex: str, *, is_display: bool) -> str:
    """Return the formula as MathML, not sanitised; empty if it cannot be converted."""
    plain = _NO_MATHEMATICS.sub("", _TAG.sub(r"\\qquad\\text{(\1)}", tex))
    plain = plain.replace("{split}", "{aligned}").replace("{align}", "{align*}").replace("{equation}", "{equation*}")
    plain = plain.replace("{gather}", "{gathered}").replace("{gather*}", "{gathered}").replace("{align*}", "{aligned}")
    plain = plain.replace(r"\begin{equation*}", "").replace(r"\end{equation*}", "")
    try:
        mathml = _converter.convert_with_local_state(plain, displaystyle=is_display)
    except LatexError:
        return ""
    if len(mathml) > MAX_MATHML_CHARACTERS:
        return ""
    mathml = _STYLE.sub(_to_class, mathml)
    return mathml.replace("<math", f'<math alttext="{escapeHtml(tex)}"', 1)


def _to_class(style: re.Match[str]) -> str:
    for side in ("left", "right"):
        if f"text-align: {side}" in style[1]:
            return f' class="math-{side}"'
    return ""


def _formula_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    begin = state.bMarks[start] + state.tShift[start]
    closing = CLOSING.get(state.src[begin : begin + 2])
    if closing is None or closing == "\\)" or state.is_code_block(start):
        return False
    lines = [state.src[begin + 2 : state.eMarks[start]].rstrip()]
    line = start
    while not lines[-1].endswith(closing):
        line += 1
        if line >= min(end, start + MAX_FORMULA_LINES) or state.isEmpty(line) or state.sCount[line] < state.blkIndent:
            return False
        lines.append(state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]].rstrip())
    tex = "\n".join(lines).removesuffix(closing).strip()
    if not tex or len(tex) > MAX_FORMULA_CHARACTERS or closing in tex:
        return False
    if not silent:
        state.line = line + 1
        token = state.push("formula", "math", 0)
        token.content, token.markup, token.block, token.map = tex, state.src[begin : begin + 2], True, [start, line + 1]
    return True


def _formula_in_line(state: StateInline, silent: bool) -> bool:
    source, start = state.src, state.pos
    opening = source[start : start + 2]
    if opening in CLOSING:
        closing = CLOSING[opening]
    elif source[start] == "$":
        opening = closing = "$"
    else:
        return False
    begin = start + len(opening)
    end = source.find(closing, begin, min(begin + MAX_FORMULA_CHARACTERS, state.posMax))
    if closing == "$":
        while end > 0 and source[end - 1] == "\\":
            end = source.find(closing, end + 1, min(begin + MAX_FORMULA_CHARACTERS, state.posMax))
    tex = source[begin:end] if end > 0 else ""
    if not tex.strip() or (closing == "$" and _is_price(source, start, end, tex)):
        return False
    if not silent:
        token = state.push("formula", "math", 0)
        token.content, token.markup = tex.strip(), opening
    state.pos = end + len(closing)
    return True


def _is_price(source: str, start: int, end: int, tex: str) -> bool:
    before, after = source[start - 1 : start] or " ", source[end + 1 : end + 2] or " "
    if _is_close(before) or (_is_close(after) and not (tex[-1] != "/" and _ENDING.match(source, end + 1))):
        return True
    return tex[0].isspace() or tex[-1].isspace() or "`" in tex or _WORDS.match(tex) is not None


def _is_close(character: str) -> bool:
    """Whether a dollar beside it is no formula's: many languages have no space there, but then other letters, too."""
    return character in "$_" or (character.isalnum() and character < CLOSE_LETTERS_END)


def _render_formula(
    _renderer: RendererProtocol, tokens: Sequence[Token], index: int, _options: OptionsDict, _env: EnvType
) -> str:
    token = tokens[index]
    html = to_mathml(token.content, is_display=token.markup in ("$$", "\\["))
    if not html:
        source = f"{token.markup}{token.content}{CLOSING.get(token.markup, token.markup)}"
        html = f'<code class="formula-source">{escapeHtml(source)}</code>'
    elif token.markup in ("$$", "\\["):
        html = f'<span class="formula">{html}</span>'
    return f"<p>{html}</p>\n" if token.block else html
