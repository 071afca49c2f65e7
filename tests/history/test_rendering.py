"""Markdown to HTML: whatever a model writes, nothing but text and plain structure reaches a page."""

import pytest
from django.utils.safestring import SafeString

from history.rendering import render_markdown
from tests.history.harmless import Reader, assert_harmless


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("hola", "<p>hola</p>"),
        ("uno\ndos", "<p>uno<br>\ndos</p>"),
        ("**fuerte** y *énfasis*", "<p><strong>fuerte</strong> y <em>énfasis</em></p>"),
        ("~~no~~", "<p><s>no</s></p>"),
        ("# Título", "<h4>Título</h4>"),
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
        '<p><a href="https://example.com/" title="título" target="_blank" rel="noopener noreferrer nofollow">'
        "sitio</a></p>"
    )


def test_what_is_rendered_is_marked_as_safe():
    assert isinstance(render_markdown("hola"), SafeString)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<b>fuerte</b>"])
def test_html_in_an_answer_is_shown_as_text(text):
    assert Reader(render_markdown(text)).text.strip() == text


@pytest.mark.parametrize("target", ["https://example.com/", "http://example.com/", "mailto:ana@example.com", "/c/1/"])
def test_an_ordinary_link_stays(target):
    assert ("a", "href", target) in Reader(render_markdown(f"[x]({target})")).attributes


def test_a_remote_image_can_be_opened_by_who_wants_to():
    found = Reader(render_markdown("![foto](https://example.com/pixel.png)"))
    assert ("a", "href", "https://example.com/pixel.png") in found.attributes
    assert found.text.strip() == "foto"


def test_other_scripts_and_signs_stay():
    text = "你好 שלום مرحبا 👩‍👩‍👧 e\u0301 ∀x∈ℝ"
    assert Reader(render_markdown(text)).text.strip() == text


def test_what_is_nested_deep_is_not_lost():
    levels = [f"nivel {depth}" for depth in range(15)]
    html = render_markdown("\n".join("  " * depth + f"- {level}" for depth, level in enumerate(levels)))
    assert [level for level in levels if level not in html] == []
