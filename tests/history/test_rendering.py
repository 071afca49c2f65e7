"""Markdown to HTML: whatever a model writes, nothing but text and plain structure reaches a page."""

import re
import time
from html.parser import HTMLParser

import pytest
from django.utils.safestring import SafeString
from hypothesis import given, settings
from hypothesis import strategies as st

from history.rendering import render_markdown

ALLOWED_TAGS = {
    *("p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "ul", "ol", "li", "strong", "em", "s", "del"),
    *("a", "code", "pre", "span", "table", "thead", "tbody", "tr", "th", "td"),
}
ALLOWED_ATTRIBUTES = {
    *(("a", "href"), ("a", "title"), ("a", "rel"), ("code", "class"), ("span", "class"), ("ol", "start")),
}
ALLOWED_SCHEMES = {"http", "https", "mailto"}


def scheme_of(address: str) -> str | None:
    """Return what a browser takes for the scheme (WHATWG URL, section 4.4); None for a relative address."""
    cleaned = re.sub(r"[\t\n\r]", "", address.lstrip("".join(map(chr, range(33)))))
    found = re.match(r"([a-z][a-z0-9+.-]*):", cleaned, re.IGNORECASE)
    return found[1].lower() if found else None


class Reader(HTMLParser):
    """Notes what a browser would build."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        self.tags.append("comment")

    def handle_decl(self, decl):
        self.tags.append("declaration")

    def handle_pi(self, data):
        self.tags.append("instruction")


def assert_harmless(html: str) -> Reader:
    found = Reader(html)
    assert set(found.tags) <= ALLOWED_TAGS
    assert {(tag, name) for tag, name, _value in found.attributes} <= ALLOWED_ATTRIBUTES
    for _tag, name, value in found.attributes:
        if name == "href":
            assert scheme_of(value) in ALLOWED_SCHEMES | {None}
    return found


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("hola", "<p>hola</p>"),
        ("uno\ndos", "<p>uno<br>\ndos</p>"),
        ("**fuerte** y *énfasis*", "<p><strong>fuerte</strong> y <em>énfasis</em></p>"),
        ("~~no~~", "<p><s>no</s></p>"),
        ("# Título", "<h1>Título</h1>"),
        ("- uno\n- dos", "<ul>\n<li>uno</li>\n<li>dos</li>\n</ul>"),
        ("3. tres", '<ol start="3">\n<li>tres</li>\n</ol>'),
        ("> cita", "<blockquote>\n<p>cita</p>\n</blockquote>"),
        ("`x < 1`", "<p><code>x &lt; 1</code></p>"),
        ("---", "<hr>"),
        ("", ""),
    ],
)
def test_markdown_becomes_html(text, html):
    assert render_markdown(text).strip() == html


def test_a_table_becomes_a_table():
    found = Reader(render_markdown("| a | b |\n|---|--:|\n| 1 | 2 |"))
    assert found.tags == ["table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]


def test_code_is_coloured_with_classes():
    html = render_markdown("```python\nif x < 1:\n    pass\n```")
    assert '<pre><code class="language-python">' in html
    assert '<span class="k">if</span>' in html
    assert Reader(html).text == "if x < 1:\n    pass\n\n"


@pytest.mark.parametrize("fence", ["```", "```nothing-we-know", '```" onclick="x'])
def test_code_in_no_language_we_know_is_shown_plainly(fence):
    found = assert_harmless(render_markdown(f"{fence}\n<b>x</b>\n```"))
    assert found.tags == ["pre", "code"]
    assert found.text.strip() == "<b>x</b>"


def test_very_long_code_is_shown_plainly():
    html = render_markdown("```python\n" + "x = 1\n" * 20_000 + "```")
    assert "<span" not in html
    assert html.count("x = 1") == 20_000


def test_a_link_tells_the_other_site_nothing():
    html = render_markdown('[sitio](https://example.com/ "título")')
    assert html.strip() == (
        '<p><a href="https://example.com/" title="título" rel="noopener noreferrer nofollow">sitio</a></p>'
    )


def test_what_is_rendered_is_marked_as_safe():
    assert isinstance(render_markdown("hola"), SafeString)


HOSTILE = [
    "<script>alert(1)</script>",
    "<SCRIPT SRC=https://example.com/x.js></SCRIPT>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<svg><style><img src=x onerror=alert(1)></style></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img src onerror=alert(1)>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<object data=https://example.com/></object><embed src=x><applet>",
    "<form action=https://example.com/><input name=password><button formaction=javascript:alert(1)>",
    "<style>body{background:url(https://example.com/)}</style>",
    "<link rel=stylesheet href=https://example.com/><meta http-equiv=refresh content=0>",
    "<base href=https://example.com/>",
    '<a href="javascript:alert(1)" onclick="alert(1)" style="position:fixed">x</a>',
    "<p onmouseover=alert(1)>x",
    "<!-- <script>alert(1)</script> -->",
    "<![CDATA[<script>alert(1)</script>]]>",
    "<?php echo 1 ?>",
    "<!DOCTYPE html><html><body onload=alert(1)>",
    "</p></div></body><script>alert(1)</script>",
    "<textarea></p><script>alert(1)</script>",
    "<template><script>alert(1)</script></template>",
    "`</code><script>alert(1)</script>`",
    "```\n</code></pre><script>alert(1)</script>\n```",
    "```html\n</code></pre><script>alert(1)</script>\n```",
    "```<script>alert(1)</script>\nx\n```",
    "| <script>alert(1)</script> |\n|---|\n| <img src=x onerror=alert(1)> |",
    "# <img src=x onerror=alert(1)>",
    "[<img src=x onerror=alert(1)>](https://example.com)",
    '[x](https://example.com "\\" onmouseover=\\"alert(1)")',
    '[x](https://example.com/" onmouseover="alert(1))',
    "[x](<https://example.com/ onmouseover=alert(1)>)",
    '<https://example.com/?"onmouseover=alert(1)>',
    "\0<script>alert(1)</script>",
    "<scr\0ipt>alert(1)</scr\0ipt>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)&#60;/script&#62;",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_builds_nothing_but_text_and_structure(text):
    assert_harmless(render_markdown(text))


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<b>fuerte</b>"])
def test_html_in_an_answer_is_shown_as_text(text):
    assert Reader(render_markdown(text)).text.strip() == text


@pytest.mark.parametrize(
    "target",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "&#106;avascript:alert(1)",
        "javascript&colon;alert(1)",
        "java&Tab;script:alert(1)",
        "%6aavascript:alert(1)",
        "<java\tscript:alert(1)>",
        "<\x01javascript:alert(1)>",
        "vbscript:msgbox(1)",
        "data:text/html,<script>alert(1)</script>",
        "data:text/html;base64,PHNjcmlwdD4=",
        "data:image/svg+xml;base64,PHN2Zz4=",
        "data:image/png;base64,iVBORw0KGgo=",
        "file:///etc/passwd",
        "blob:https://example.com/x",
        "ftp://example.com/",
        "intent://scan/",
    ],
)
@pytest.mark.parametrize("form", ["[x]({})", "![x]({})", "[x][r]\n\n[r]: {}", "[x]( {} 'título')"])
def test_a_link_leads_to_a_page_or_a_mailbox_or_nowhere(target, form):
    assert_harmless(render_markdown(form.format(target)))


@pytest.mark.parametrize("target", ["https://example.com/", "http://example.com/", "mailto:ana@example.com", "/c/1/"])
def test_an_ordinary_link_stays(target):
    assert ("a", "href", target) in Reader(render_markdown(f"[x]({target})")).attributes


@pytest.mark.parametrize(
    "text",
    [
        "![foto](https://example.com/pixel.png)",
        "![foto][r]\n\n[r]: https://example.com/pixel.png",
        "[![foto](https://example.com/pixel.png)](https://example.com)",
        "<img src='https://example.com/pixel.png'>",
        "![](//example.com/pixel.png)",
    ],
)
def test_a_remote_image_is_not_fetched(text):
    found = assert_harmless(render_markdown(text))
    assert "src" not in {name for _tag, name, _value in found.attributes}


def test_a_remote_image_can_be_opened_by_who_wants_to():
    found = Reader(render_markdown("![foto](https://example.com/pixel.png)"))
    assert ("a", "href", "https://example.com/pixel.png") in found.attributes
    assert found.text.strip() == "!foto"


@pytest.mark.parametrize("mark", ["\u202a", "\u202b", "\u202e", "\u2066", "\u2067", "\u2069", "\u200e", "\u200f"])
def test_marks_of_direction_stay_in_the_text_and_get_nowhere_else(mark):
    html = render_markdown(f"uno {mark} dos\n\n[x](https://example.com/{mark}exe)")
    assert f"uno {mark} dos" in Reader(html).text
    assert not [value for _tag, _name, value in assert_harmless(html).attributes if mark in value]


def test_other_scripts_and_signs_stay():
    text = "你好 שלום مرحبا 👩‍👩‍👧 e\u0301 ∀x∈ℝ"
    assert Reader(render_markdown(text)).text.strip() == text


COUNT = 5_000


@pytest.mark.parametrize(
    "text",
    [
        *("> " * COUNT + "x", ">" * COUNT, "- " * COUNT + "x", "1. " * COUNT + "x", "*\n" * COUNT),
        "\n".join("  " * depth + "- x" for depth in range(500)),
        *("[" * COUNT, "![" * COUNT, "[a](" * COUNT, "[" * COUNT + "a" + "](b)" * COUNT, "[x\n" * COUNT),
        *("*a " * COUNT, "*" * COUNT + "a" + "*" * COUNT, "*a_ " * COUNT, "a**b" * COUNT, "_a __b" * COUNT),
        *("~~a" * COUNT, "".join("`" * length + " " for length in range(1, 200)), "`a``" * COUNT),
        *("<" * COUNT, "<a " * COUNT, "<http:" * COUNT, "&a" * COUNT, "\\" * COUNT),
        "|" + "a|" * 300 + "\n|" + "-|" * 300 + "\n" + "|x\n" * 100,
        *("\n" * COUNT, " " * COUNT + "x", "a\n" * COUNT, "~~~\n" * COUNT),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_nested_deep_or_never_closed_takes_no_time(text):
    begun = time.process_time()
    assert_harmless(render_markdown(text))
    assert time.process_time() - begun < 3


def test_colouring_hostile_code_takes_no_time():
    begun = time.process_time()
    render_markdown("```java\n" + "\n" * 4_000 + "```")
    assert time.process_time() - begun < 1


def test_what_is_nested_deep_is_not_lost():
    levels = [f"nivel {depth}" for depth in range(15)]
    html = render_markdown("\n".join("  " * depth + f"- {level}" for depth, level in enumerate(levels)))
    assert [level for level in levels if level not in html] == []


PIECES = st.sampled_from(
    [
        *(
            "<",
            ">",
            "</",
            "/>",
            '"',
            "'",
            "`",
            "```",
            "~~~",
            "\n",
            "\n\n",
            " ",
            "    ",
            "\t",
            "[",
            "](",
            "![",
            ")",
            "]: ",
        ),
        *("javascript:", "data:text/html,", "https://example.com/", "script", "img", "svg", "style", "iframe", "a"),
        *(" onerror=", " href=", " src=", " style=", "alert(1)", "&lt;", "&#60;", "&", "\\", "\0", "\u202e", "*", "_"),
        *("|", "|-|", "- ", "> ", "# ", "1. ", "<!--", "-->", "<![CDATA[", "]]>", "html\n", "x", "ñ"),
    ]
)


@settings(max_examples=200, deadline=None, database=None)
@given(st.lists(PIECES, max_size=25).map("".join) | st.text(st.characters(exclude_categories=["Cs"])))
def test_no_text_at_all_builds_anything_forbidden(text):
    assert_harmless(render_markdown(text))
