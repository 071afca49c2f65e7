"""Markdown to safe HTML: the only caller of `mark_safe`.

Raw HTML in an answer is shown as text (markdown-it with `html` off); nh3 then keeps an allow-list, so that neither a
mistake in one nor in the other lets a script through. Remote images are dropped: fetching one would tell a stranger
who reads what.
"""

import re

import nh3
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

TAGS = {
    *("p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "ul", "ol", "li", "strong", "em", "s", "del"),
    *("a", "code", "pre", "span", "table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"a": {"href", "title"}, "code": {"class"}, "span": {"class"}, "ol": {"start"}}
SCHEMES = {"http", "https", "mailto"}
LONGEST_HIGHLIGHTED = 10_000  # characters
LONG_BLANK = re.compile(r"\s{80}")
"""Many lexers are quadratic in it: 20,000 blank lines of Java take 45 seconds."""


def render_markdown(text: str) -> SafeString:
    """Return sanitised HTML of Markdown `text`."""
    html = nh3.clean(
        _markdown.render(text),
        tags=TAGS,
        attributes=ATTRIBUTES,
        url_schemes=SCHEMES,
        link_rel="noopener noreferrer nofollow",
    )
    return mark_safe(html)  # noqa: S308  nh3 has just cleaned it


def _highlight(code: str, language: str, _attributes: str) -> str:
    """Return highlighted code as spans with classes, or nothing, which means: escape it plainly."""
    if not language or len(code) > LONGEST_HIGHLIGHTED or LONG_BLANK.search(code):
        return ""
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return ""
    return str(highlight(code, lexer, HtmlFormatter(nowrap=True)))


_markdown = MarkdownIt("commonmark", {"html": False, "breaks": True, "highlight": _highlight, "maxNesting": 100})
_markdown.enable(["table", "strikethrough"]).disable("image")
