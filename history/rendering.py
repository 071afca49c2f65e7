"""Renders Markdown as safe HTML. Only this module and core/compiled_fragments.py call `mark_safe` (a test checks that).

An answer is rendered block by block, in the same way while it is written and when it is read again: what a block looks
like depends on the text before it, and on what that text and later blocks define (links and notes). Raw HTML in an
answer is shown as text (history/dialect.py); nh3 then keeps only an allow-list, so that a mistake in one of the two
lets no script through.
"""

from collections import OrderedDict
from collections.abc import Iterable
from functools import lru_cache
from secrets import token_hex
from time import thread_time
from typing import Any

import nh3
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.utils import OptionsDict
from msgspec import Struct

from history.blocks import FENCE, FOOTNOTE, split
from history.dialect import labels_in, make_parser, note_id
from history.formulas import MATHML_ATTRIBUTES, MATHML_TAGS
from history.highlighting import Highlighter

TAGS = {
    *("p", "br", "hr", "h4", "h5", "h6", "blockquote", "ul", "ol", "li", "strong", "em", "b", "i", "u", "s", "del"),
    *("a", "code", "pre", "span", "table", "thead", "tbody", "tr", "th", "td"),
    *("aside", "details", "summary", "kbd", "mark", "sub", "sup"),
}
DIRECTED_TEXTS = ("p", "h4", "h5", "h6", "td", "th")
DIRECTED_BOXES = ("ul", "ol", "blockquote", "table")
ATTRIBUTES = {
    "a": {"href", "title"},
    "aside": {"class", "id"},
    "code": {"class"},
    "ol": {"start"},
    "span": {"class"},
    "td": {"class"},
    "th": {"class"},
}
VALUES = {
    "a": {"target": {"_blank"}},
    **{tag: {"dir": {"auto"}} for tag in DIRECTED_TEXTS},
    **{tag: {"dir": {"ltr", "rtl"}} for tag in DIRECTED_BOXES},
}
SCHEMES = {"http", "https", "mailto"}
MAX_CACHED_CHARACTERS = 8_000
MAX_CACHED_ANSWERS = 512
"""A process caches the HTML of so many answers, 25 MB at most: pages are opened again; each answer takes 1 to 3 ms."""
MAX_CACHED_BLOCK_CHARACTERS = 1_000
MAX_CACHED_BLOCKS = 2_048
"""And of so many blocks, 12 MB at most: those of answers that are being written come again when they end."""
MAX_DEFINITIONS = 100
"""Links and notes that one answer may define: each may change all the blocks before it."""
MAX_BLOCK_CHARACTERS = 50_000
"""Of a block that is no code. A longer one is shown as it is written: 100,000 items of a list take nine seconds."""
RENDERING_SECONDS = 3.0
MAX_HTML_CHARACTERS = 10_000_000
"""Of processor time, and of HTML, for one answer, or for the long answers of a page together; the rest is shown as it
is written. Marks of quotes become HTML of 26 times their length."""

_NAME = token_hex(8)  # stands for the answer's name in what is cached; no model knows it
_parser = make_parser(_NAME)
_cleaner = nh3.Cleaner(
    tags=TAGS | MATHML_TAGS,
    attributes=ATTRIBUTES | MATHML_ATTRIBUTES,
    tag_attribute_values=VALUES,
    url_schemes=SCHEMES,
    link_rel="noopener noreferrer nofollow",
)


class Block(Struct):
    """A block of an answer, its HTML, and what that depends on."""

    source: str
    levels: tuple[int, ...]  # of the headings before it
    labels: set[str]  # what it may refer to
    html: str = ""


class RenderedBlock(Struct, frozen=True):
    """`html` takes the place of block `index`, which ends at character `end` of the answer."""

    index: int
    end: int
    html: SafeString


class RenderingBudget:
    """What is left of time and HTML for what is rendered together, in whichever threads."""

    def __init__(self) -> None:
        self._seconds_left, self._characters_left = RENDERING_SECONDS, MAX_HTML_CHARACTERS

    @property
    def is_used_up(self) -> bool:
        return self._seconds_left <= 0 or self._characters_left <= 0

    def take(self, seconds: float, characters: int) -> None:
        self._seconds_left -= seconds
        self._characters_left -= characters


class BlockRenderer:
    """Renders one answer, block after block. `name` makes the addresses of its notes its own. `budget` is shared
    with whatever is rendered for the same page."""

    def __init__(self, name: str = "", budget: RenderingBudget | None = None) -> None:
        self._name = name
        self._budget = budget or RenderingBudget()
        self._blocks: list[Block] = []
        self._ends: list[int] = []
        self._references: dict[str, Any] = {}
        self._footnotes: set[str] = set()
        self._levels: tuple[int, ...] = ()
        self._highlighter = Highlighter()

    def render(self, sources: Iterable[str]) -> list[RenderedBlock]:
        """Return the HTML of more blocks, and of those before them that it changes."""
        sources, first = list(sources), len(self._blocks)
        defined = self._define(sources)
        changed = [index for index in range(first) if defined and self._renews(self._blocks[index], defined)]
        for source in sources:
            self._ends.append((self._ends[-1] if self._ends else 0) + len(source))
            block = Block(source, self._levels, labels_in(source) if "[" in source else set())
            self._blocks.append(block)
            block.html, self._levels = self._html_of(block)
        return [self._rendered(index) for index in (*changed, *range(first, len(self._blocks)))]

    def _define(self, sources: Iterable[str]) -> set[str]:
        """Note what the blocks define; return the labels that are new."""
        defined: set[str] = set()
        for source in sources:
            if "]:" not in source or len(self._references) + len(self._footnotes) >= MAX_DEFINITIONS:
                continue
            if self._is_too_much(source):
                continue
            if note := FOOTNOTE.match(source.lstrip("\n")):
                labels = labels_in(note[0]) - self._footnotes
                self._footnotes |= labels
            else:
                env: dict[str, Any] = {}
                _definer.parse(source, env)
                found = env.get("references", {})
                labels = found.keys() - self._references.keys()
                self._references |= {label: found[label] for label in labels}
            defined |= labels
        return defined

    def _renews(self, block: Block, defined: set[str]) -> bool:
        """Render a block again if it refers to what was defined; return whether that changed it."""
        if block.labels.isdisjoint(defined):
            return False
        before = block.html
        block.html, _levels = self._html_of(block)
        return block.html != before

    def _is_too_much(self, source: str) -> bool:
        """Return whether the block is to be shown as it is written."""
        if self._budget.is_used_up:
            return True
        return len(source) > MAX_BLOCK_CHARACTERS and not FENCE.match(source.lstrip("\n").partition("\n")[0])

    def _html_of(self, block: Block) -> tuple[str, tuple[int, ...]]:
        if self._is_too_much(block.source):
            return f"<pre><code>{escape(block.source)}</code></pre>\n", block.levels
        begun = thread_time()
        html, levels = self._rendered_html_of(block)
        self._budget.take(thread_time() - begun, len(html))
        return html, levels

    def _rendered_html_of(self, block: Block) -> tuple[str, tuple[int, ...]]:
        references = {label: self._references[label] for label in block.labels & self._references.keys()}
        footnotes = frozenset(block.labels & self._footnotes)
        if len(block.source) > MAX_CACHED_BLOCK_CHARACTERS or references:
            return _render_block(block.source, block.levels, references, footnotes, self._highlighter)
        key = (block.source, block.levels, footnotes)
        found = _cache.get(key)
        if found is None:
            found = _render_block(block.source, block.levels, {}, footnotes, self._highlighter)
            if not self._highlighter.is_used_up:
                _cache[key] = found
            if len(_cache) > MAX_CACHED_BLOCKS:
                _cache.popitem(last=False)
        return found

    def _rendered(self, index: int) -> RenderedBlock:
        html = mark_safe(self._blocks[index].html.replace(_NAME, self._name))  # noqa: S308  nh3 has cleaned it
        return RenderedBlock(index, self._ends[index], html)


_cache: "OrderedDict[tuple[Any, ...], tuple[str, tuple[int, ...]]]" = OrderedDict()


def render_markdown(text: str, name: str = "", budget: RenderingBudget | None = None) -> SafeString:
    """Return the Markdown `text` as sanitised HTML. `name` is part of the addresses within it. `budget` is that of
    the page it is for: short answers take little, and none of it."""
    return _render_cached(text, name) if len(text) <= MAX_CACHED_CHARACTERS else _render(text, name, budget)


def _render(text: str, name: str, budget: RenderingBudget | None = None) -> SafeString:
    blocks = BlockRenderer(name, budget).render(split(text))
    return mark_safe("".join(block.html for block in blocks))  # noqa: S308  as above


_render_cached = lru_cache(MAX_CACHED_ANSWERS)(_render)


def _render_block(
    source: str,
    levels: tuple[int, ...],
    references: dict[str, Any],
    footnotes: frozenset[str],
    highlighter: Highlighter,
) -> tuple[str, tuple[int, ...]]:
    """Return sanitised HTML, and the levels of the headings so far."""
    env: dict[str, Any] = {"references": dict(references), "footnotes": footnotes, "levels": levels}
    options = OptionsDict(_parser.options)  # type: ignore[arg-type]  # it copies any mapping
    options.highlight = highlighter
    return _cleaner.clean(_to_html(source, env, options)), env["levels"]


def _to_html(source: str, env: dict[str, Any], options: OptionsDict) -> str:
    text = source.strip("\n")
    if note := FOOTNOTE.match(text):
        label, inner = note[1], text[note.end() :].replace("\n    ", "\n")
        return (
            f'<aside class="footnote" id="{note_id(_NAME, label)}"><span class="footnote-label">{label}</span>'
            f"{_parser.renderer.render(_parser.parse(inner, env), options, env)}</aside>\n"
        )
    return str(_parser.renderer.render(_parser.parse(source, env), options, env))


def _make_definer() -> MarkdownIt:
    """Return a parser that finds definitions of links, and nothing else."""
    definer = make_parser("")
    definer.core.ruler.enableOnly(["normalize", "block"])
    return definer


_definer = _make_definer()
