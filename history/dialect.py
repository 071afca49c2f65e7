"""The Markdown that models write: CommonMark, GitHub's tables, tasks, addresses and notes, formulas, and a few tags.

Raw HTML is shown as text, save tags without attributes that stand for text (`TEXT_TAGS`). Images are links: loading one
would tell its server who reads what.
"""

import re
from collections.abc import MutableMapping
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml, normalizeReference
from markdown_it.rules_block import StateBlock
from markdown_it.rules_block.reference import reference as parse_reference
from markdown_it.rules_block.table import table as parse_table
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from history.blocks import DETAILS_BEGIN, Splitter
from history.formulas import add_formulas

FIRST_HEADING_LEVEL = 4  # the page, the question and the answer have the levels above
MAX_BLOCK_DEPTH = 100
MAX_DETAILS_DEPTH = 5
MAX_INLINE_DEPTH = 20  # the time for 100,000 brackets is a multiple of it
TEXT_TAGS = re.compile(r"<(/?)(b|strong|i|em|u|s|del|kbd|sub|sup|mark)>|<br ?/?>", re.IGNORECASE)
MAX_TAGGED_CHARACTERS = 300
ADDRESS = re.compile(
    r"(?<![a-zA-Z0-9_/@.])(?:https?://|www\.)[^\s<>\"`|、。，；：！？（）「」『』【】《》〈〉]{3,2000}"
    r"|(?<![\w.+@/-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)+"
)
"""Chinese and Japanese have no space before an address, nor after it: their punctuation ends it."""
RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
"""Letters of Hebrew, Arabic and their kin. Where there are any, each block says in which direction it is read."""
DIRECTED_TEXTS = {"paragraph_open", "heading_open", "th_open", "td_open"}
DIRECTED_BOXES = {"bullet_list_open", "ordered_list_open", "blockquote_open", "table_open"}
"""For these `auto` would not do: it passes over what has a direction of its own."""
MAX_LOOK_AHEAD = 50
_SUMMARY = re.compile(r"\s*<summary>(.{0,500}?)</summary>", re.IGNORECASE | re.DOTALL)
_DETAILS_END = re.compile(r"</details>\s*$", re.IGNORECASE)
_BELOW_HEADER = re.compile(r"[-:|][-:| \t]+")
_PIPE = re.compile(r"(?<!\\)\|")
_IN_CODE = r"(?<!`)(`{1,3})(?!`)[^`]{1,300}\1(?!`)"
_IN_FORMULA = r"(?<![\\$\w])\$(?![\s$])[^$`]{1,300}(?<!\s)\$(?![\d$])|\\\([^$`]{1,300}?\\\)"
_NO_CELLS = [re.compile(_IN_CODE), re.compile(f"{_IN_CODE}|{_IN_FORMULA}")]
"""Where a bar may stand that ends no cell, though nobody wrote a backslash before it."""
_BAR = "\0"  # stands for such a bar; markdown-it has replaced all others
_TASK = re.compile(r"\[([ xX])\][ \t]+")
_NOTE = re.compile(r"\[\^([\w.-]{1,30})\]")
ALIGNED = {f"text-align:{side}": f"cell-{side}" for side in ("left", "center", "right")}


def make_parser(footnote_prefix: str) -> MarkdownIt:
    """Return a parser whose `env` may have `references`, `footnotes` (labels) and `levels` (of the headings so far)."""
    parser, inlines = (_make(depth, footnote_prefix) for depth in (MAX_BLOCK_DEPTH, MAX_INLINE_DEPTH))

    def parse_inlines(state: StateCore) -> None:
        """Replace markdown-it's rule `inline`, to give inlines a depth limit of their own."""
        for index, token in enumerate(state.tokens):
            if token.type == "inline":
                box = _take_task(state.tokens, index)
                token.children = []
                inlines.inline.parse(token.content, inlines, state.env, token.children)
                token.children = [*box, *_adapt(token.children)]

    parser.core.ruler.at("inline", parse_inlines)
    parser.core.ruler.push("blocks", _adapt_blocks)
    return parser


def note_id(prefix: str, label: str) -> str:
    return f"{prefix}-note-{label}"


def labels_in(text: str) -> set[str]:
    """Return what in `text` may refer to a link or a note, as `references` and `footnotes` have it."""
    return {normalizeReference(label) for label in re.findall(r"\[([^\[\]]{1,200})\]", text)}


def _make(max_depth: int, footnote_prefix: str) -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": max_depth + 1})
    parser.enable(["table", "strikethrough"])
    parser.block.ruler.at("table", _table, {"alt": ["paragraph", "reference"]})
    parser.block.ruler.at("reference", _reference)
    parser.block.ruler.before("table", "details", _details, {"alt": ["paragraph", "reference", "blockquote", "list"]})
    parser.block.ruler.before("details", "too_deep", _too_deep)
    add_formulas(parser)

    def note(state: StateInline, silent: bool) -> bool:
        found = _NOTE.match(state.src, state.pos)
        if found is None or normalizeReference(f"^{found[1]}") not in state.env.get("footnotes", ()):
            return False
        if not silent:
            href = escapeHtml(f"#{note_id(footnote_prefix, found[1])}")
            _push_html(state, f'<sup><a href="{href}">{escapeHtml(found[1])}</a></sup>')
        state.pos = found.end()
        return True

    parser.inline.ruler.before("link", "note", note)
    parser.inline.ruler.before("autolink", "text_tag", _text_tag)
    return parser


def _too_deep(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Take what is nested too deep as the text it is: markdown-it would drop it."""
    if silent or state.level < MAX_BLOCK_DEPTH:
        return False
    line = start + 1
    while line < end and (state.isEmpty(line) or state.sCount[line] >= state.blkIndent):
        line += 1
    state.push("paragraph_open", "p", 1).map = [start, line]
    inline = state.push("inline", "", 0)
    inline.content, inline.map, inline.children = _lines(state, start, line).strip(), [start, line], []
    state.push("paragraph_close", "p", -1)
    state.line = line
    return True


def _lines(state: StateBlock, start: int, end: int) -> str:
    """Return lines as the block has them that they are in: the first may follow the mark of a list."""
    first = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]]
    return f"{first}\n{state.getLines(start + 1, end, state.blkIndent, True)}"


def _details(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    begin = state.bMarks[start] + state.tShift[start]
    opening = DETAILS_BEGIN.match(state.src, begin, state.eMarks[start])
    depth = state.env.get("details", 0)
    if opening is None or depth >= MAX_DETAILS_DEPTH or state.is_code_block(start):
        return False
    if silent:
        return True
    state.line = _end_of_details(state, start, end)
    body = _DETAILS_END.sub("", _lines(state, start, state.line)[opening.end() - begin :])
    state.push("html_block", "", 0).content = "<details>"
    if summary := _SUMMARY.match(body):  # without one, a browser has a word of its own
        state.push("html_block", "", 0).content = "<summary>"
        inline = state.push("inline", "", 0)
        inline.content, inline.children = summary[1].strip(), []
        state.push("html_block", "", 0).content = "</summary>\n"
    inner = StateBlock(body[summary.end() :] if summary else body, state.md, state.env, state.tokens)
    inner.level = state.level + 1
    state.env["details"] = depth + 1
    state.md.block.tokenize(inner, inner.line, inner.lineMax)
    state.env["details"] = depth
    state.push("html_block", "", 0).content = "</details>\n"
    return True


def _end_of_details(state: StateBlock, start: int, end: int) -> int:
    """Return the first line that is no longer of the details, nor of the list or quote that they are in."""
    splitter = Splitter()
    if splitter.add(_lines(state, start, start + 1)):
        return start + 1
    for line in range(start + 1, end):
        if not state.isEmpty(line) and state.sCount[line] < state.blkIndent:
            return line
        if splitter.add(state.getLines(line, line + 1, state.blkIndent, True)):
            return line + 1
    return end


def _reference(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Parse the definition of a link. A note in a quote, where it is none, is text: a definition is not shown."""
    return not state.src.startswith("[^", state.bMarks[start] + state.tShift[start]) and parse_reference(
        state, start, end, silent
    )


def _table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Parse a table as markdown-it does, with bars in code and formulas that end no cell."""
    if start + 2 > end:
        return False
    below = state.src[state.bMarks[start + 1] + state.tShift[start + 1] : state.eMarks[start + 1]].rstrip()
    if not _BELOW_HEADER.fullmatch(below):
        return False
    source, columns, first = state.src, _count_cells(below), len(state.tokens)
    try:
        state.src = _join_cells(state, start, start + 1, columns, is_body=False)
        if not parse_table(state, start, end, True):
            return False
        if silent:
            return True
        state.src = _join_cells(state, start + 2, end, columns, is_body=True)
        parse_table(state, start, end, False)
    finally:
        state.src = source
    for token in state.tokens[first:]:
        token.content = token.content.replace(_BAR, "|")
    return True


def _join_cells(state: StateBlock, start: int, end: int, columns: int, *, is_body: bool) -> str:
    """Return the source, in which rows that had too many cells have fewer."""
    parts, at = [], 0
    for line in range(start, end):
        if state.isEmpty(line):
            break
        begin = state.bMarks[line] + state.tShift[line]
        row = _join_row(state.src[begin : state.eMarks[line]], columns)
        parts += [state.src[at:begin], _join_rest(row, columns) if is_body else row]
        at = state.eMarks[line]
    return "".join((*parts, state.src[at:]))


def _join_row(row: str, columns: int) -> str:
    """Hide bars that are in code or formulas, if that makes it right."""
    if _count_cells(row) > columns:
        for places in _NO_CELLS:
            hidden = places.sub(lambda found: _PIPE.sub(_BAR, found[0]), row)
            if _count_cells(hidden) == columns:
                return hidden
    return row


def _join_rest(row: str, columns: int) -> str:
    """Put what is too much into the last cell: others drop it."""
    if _count_cells(row) <= columns:
        return row
    begin = [found.start() for found in _PIPE.finditer(row)][columns - (not row.startswith("|"))]
    end = len(row.rstrip()) - 1
    return row[:begin] + _PIPE.sub(_BAR, row[begin:end]) + row[end:]


def _count_cells(row: str) -> int:
    row = row.strip().removeprefix("|")
    bars = len(_PIPE.findall(row))
    return bars if row.endswith("|") and not row.endswith("\\|") else bars + 1


def _push_html(state: StateInline, html: str) -> None:
    state.push("html_inline", "", 0).content = html


def _text_tag(state: StateInline, silent: bool) -> bool:
    found = TEXT_TAGS.match(state.src, state.pos)
    if found is None:
        return False
    tag = found[0].lower()
    if found[2] and not found[1]:
        end = f"</{found[2].lower()}>"
        if end not in state.src[state.pos : state.pos + MAX_TAGGED_CHARACTERS].lower():
            return False
    if not silent:
        _push_html(state, "<br>" if tag.startswith("<br") else tag)
    state.pos = found.end()
    return True


def _take_task(tokens: list[Token], index: int) -> list[Token]:
    """Return the box of a task, which is taken from its text; nothing if this is no beginning of a list item."""
    if index < 2 or tokens[index - 2].type != "list_item_open":
        return []
    found = _TASK.match(tokens[index].content)
    if found is None:
        return []
    tokens[index].content = tokens[index].content[found.end() :]
    return [_html(f'<span class="task">{"☐" if found[1] == " " else "☑"}</span> ')]


def _html(content: str) -> Token:
    return Token("html_inline", "", 0, content=content)


def _adapt(children: list[Token]) -> list[Token]:
    """Make links of bare addresses and of images, outside of links."""
    adapted: list[Token] = []
    depth = 0
    for token in children:
        depth += {"link_open": 1, "link_close": -1}.get(token.type, 0)
        if token.type == "link_open":
            token.attrSet("target", "_blank")  # the chat stays open
        if token.type == "image":
            text = token.content or str(token.attrGet("src") or "")
            adapted += [_text(text)] if depth else _link(str(token.attrGet("src") or ""), text)
        elif token.type == "text" and not depth:
            adapted += _link_addresses(token)
        else:
            adapted.append(token)
    return adapted


def _link_addresses(token: Token) -> list[Token]:
    if "://" not in token.content and "www." not in token.content and "@" not in token.content:
        return [token]
    tokens: list[Token] = []
    end = 0
    for found in ADDRESS.finditer(token.content):
        address = _without_tail(found[0])
        if not address:
            continue
        tokens.append(_text(token.content[end : found.start()]))
        href = address if "://" in address else f"mailto:{address}" if "@" in address else f"http://{address}"
        tokens += _link(href, address)
        end = found.start() + len(address)
    return [*tokens, _text(token.content[end:])]


def _without_tail(address: str) -> str:
    """Return an address without the punctuation of the sentence it stands in (GFM, section 6.9)."""
    while address and (address[-1] in "?!.,:;*_~'\")" or address[-1] == "”"):
        if address[-1] == ")" and address.count("(") >= address.count(")"):
            break
        address = address[:-1]
    return address


def _text(content: str) -> Token:
    return Token("text", "", 0, content=content)


def _link(href: str, text: str) -> list[Token]:
    opening = Token("link_open", "a", 1, attrs={"href": href, "target": "_blank"})
    return [opening, _text(text), Token("link_close", "a", -1)]


def _adapt_blocks(state: StateCore) -> None:
    is_mixed = RIGHT_TO_LEFT.search(state.src) is not None
    for index, token in enumerate(state.tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = _heading_tag(int(token.tag[1]), state.env, is_opening=token.nesting > 0)
        if token.type in ("th_open", "td_open"):
            style = str(token.attrs.pop("style", ""))
            if style in ALIGNED:
                token.attrSet("class", ALIGNED[style])
        if is_mixed and token.type in DIRECTED_TEXTS:
            token.attrSet("dir", "auto")
        elif is_mixed and token.type in DIRECTED_BOXES:
            token.attrSet("dir", _direction_after(state.tokens, index))


def _direction_after(tokens: list[Token], index: int) -> str:
    """Return the direction of the first letter that follows."""
    for token in tokens[index : index + MAX_LOOK_AHEAD]:
        for letter in token.content[:MAX_LOOK_AHEAD]:
            if letter.isalpha():
                return "rtl" if RIGHT_TO_LEFT.match(letter) else "ltr"
    return "ltr"


def _heading_tag(level: int, env: MutableMapping[str, Any], *, is_opening: bool) -> str:
    """Return a tag that follows the headings before it without a gap, whatever level an answer begins with."""
    above = env.get("levels", ())
    if is_opening:
        above = (*(one for one in above if one < level), level)
        env["levels"] = above
    return f"h{min(6, FIRST_HEADING_LEVEL - 1 + len(above))}"
