"""Markdown to HTML: whatever a model writes, nothing but text and plain structure reaches a page."""

import re

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


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<font>fuerte</font>"])
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


@pytest.mark.parametrize("mark", ["> ", "- ", "1. "])
def test_what_is_nested_too_deep_is_shown_as_text(mark):
    text = f"{mark * 200}uno\n\n{' ' * 3}dos\n"
    found = assert_harmless(render_markdown(text))
    assert "uno" in found.text
    assert "dos" in found.text


# --- What models write beside CommonMark ------------------------------------------------------------------------------


def test_columns_are_aligned():
    found = Reader(render_markdown("| a | b | c |\n|:--|:-:|--:|\n| 1 | 2 | 3 |"))
    assert [value for tag, _name, value in found.attributes if tag == "td"] == [
        "cell-left",
        "cell-center",
        "cell-right",
    ]


def test_tasks_have_boxes():
    found = Reader(render_markdown("- [ ] uno\n- [x] dos\n- [y] tres\n"))
    assert found.text.split() == ["☐", "uno", "☑", "dos", "[y]", "tres"]


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("https://example.com/a_b_c.", ["https://example.com/a_b_c"]),
        ("(see https://example.com/x_(y))", ["https://example.com/x_(y)"]),
        ("www.example.com, y ana@example.com!", ["http://www.example.com", "mailto:ana@example.com"]),
        ("`https://example.com`", []),
        (
            "[x](https://example.com/) https://example.org/?a=1&b=2",
            ["https://example.com/", "https://example.org/?a=1&b=2"],
        ),
        ("[https://example.com](https://example.org)", ["https://example.org"]),
        ("见https://example.com/a，或 www.例え.jp。", ["https://example.com/a", "http://www.例え.jp"]),
        ("javascript://example.com @ana x@y user@", []),
    ],
)
def test_bare_addresses_are_links(text, addresses):
    found = Reader(render_markdown(text))
    assert [value for _tag, name, value in found.attributes if name == "href"] == addresses


def test_an_image_in_a_link_is_the_links_text():
    html = render_markdown("[![insignia](https://example.com/b.svg)](https://example.com/ci)")
    found = Reader(html)
    assert found.tags == ["p", "a"]
    assert found.text.strip() == "insignia"


@pytest.mark.parametrize(
    "text", ["<kbd>Ctrl</kbd>", "H<sub>2</sub>O", "x<sup>2</sup>", "<mark>x</mark>", "<b>x</b> <u>y</u>", "a<br>b"]
)
def test_a_few_tags_mean_what_they_say(text):
    assert render_markdown(text).strip() == f"<p>{text}</p>"


def test_a_tag_breaks_a_line_in_a_cell():
    assert "<td>a<br>b</td>" in render_markdown("| x |\n|---|\n| a<br/>b |\n")


@pytest.mark.parametrize("text", ["<kbd>x", "<small>x</small>", "<sub onclick=x>y", "<br onclick=x>", "<details x=y>"])
def test_other_tags_are_text(text):
    assert Reader(render_markdown(text)).text.strip() == text


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        ("| `a|b` | c |", ["a|b", "c"]),
        (r"| `a\|b` | `||` |", ["a|b", "||"]),
        ("| $5 | $10 |", ["$5", "$10"]),
        ("| a | b | c |", ["a", "b | c"]),
        ("a | b | c", ["a", "b | c"]),
        ("| a |", ["a", ""]),
    ],
)
def test_a_row_loses_nothing_to_a_bar(row, cells):
    html = render_markdown(f"| x | y |\n|---|---|\n{row}\n")
    assert [Reader(cell).text for cell in re.findall("<td>(.*?)</td>", html)] == cells


def test_a_bar_in_a_formula_or_in_the_code_of_a_header_ends_no_cell():
    found = Reader(render_markdown("| `a|b` | y |\n|---|---|\n| $|x|$ | \\(P(A|B)\\) |\n"))
    assert found.tags.count("th") == found.tags.count("td") == 2
    assert [value for _tag, name, value in found.attributes if name == "alttext"] == ["|x|", "P(A|B)"]


@pytest.mark.parametrize(
    "text",
    [
        "1. ¿Cuánto?\n   {}\n2. Fin",
        "- ¿Cuánto?\n\n  {}\n- Fin",
        "> {}\n>\n> Fin",
        "Antes\n  {}\nFin",
        "<details>\n\n{}\n\nFin</details>",
    ],
)
def test_details_are_found_wherever_a_block_may_be(text):
    for details in (
        "<details><summary>Ver</summary>**42**</details>",
        "<details>\n<summary>Ver</summary>\n\n**42**\n</details>",
    ):
        lead = re.search("(?:^|\n)([> ]*){}", text)[1]
        html = render_markdown(text.format(details.replace("\n", f"\n{lead}")))
        assert "<details><summary>Ver</summary>\n<p><strong>42</strong></p>\n</details>" in html
        assert "&lt;" not in html
        assert Reader(html).text.split()[-1] == "Fin"


def test_details_open_and_hold_markdown():
    found = Reader(render_markdown("<details>\n<summary>Ver **más**</summary>\n\n- uno\n\n</details>\n\nfin"))
    assert found.tags == ["details", "summary", "strong", "ul", "li", "p"]


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("# a\n\n## b\n\n### c\n\n## d", ["h4", "h5", "h6", "h5"]),
        ("### a\n\n#### b\n\n## c", ["h4", "h5", "h4"]),
        ("## a\n\n###### b", ["h4", "h5"]),
        ("a\n===\n\nb\n---", ["h4", "h5"]),
    ],
)
def test_headings_follow_those_of_the_page_without_a_gap(text, tags):
    assert [tag for tag in Reader(render_markdown(text)).tags if tag[0] == "h"] == tags


def test_blocks_with_other_letters_have_their_own_direction():
    html = render_markdown("مرحبا\n\nHello\n\n- שלום\n  - x\n\n> «a» ב\n")
    assert html.startswith('<p dir="auto">مرحبا</p>\n<p>Hello</p>\n<ul dir="rtl">\n<li>שלום\n<ul dir="ltr">\n<li>')
    assert '<blockquote dir="ltr">\n<p dir="auto">' in html


# --- Mathematics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["$a_1 * b_2 * c$", r"\(a_1 * b_2 * c\)", "**x** $a_1 * b_2 * c$", "- $a_1 * b_2 * c$"]
)
def test_markdown_eats_nothing_of_a_formula(text):
    html = render_markdown(text)
    assert ("math", "alttext", "a_1 * b_2 * c") in Reader(html).attributes
    assert "<em>" not in html


@pytest.mark.parametrize(
    "text", ["$$\nx\n$$", "\\[\nx\n\\]", "$$x$$", "Sea\n$$\nx\n$$\ny", "1. a\n   \\[\n   x\n   \\]", "> $$x$$"]
)
def test_a_displayed_formula_is_a_block(text):
    assert ("math", "display", "block") in Reader(render_markdown(text)).attributes


@pytest.mark.parametrize(
    "text",
    [
        *(
            "from $5 to $10",
            "$5-$10",
            "US$7, R$9",
            "5$ o 6$",
            "$1,000 and $2,000.50",
            "($5)",
            "$5/$6",
            "$5 for one, 10$ for two",
        ),
        *(
            "$HOME/bin:$PATH",
            "`$x$`",
            r"\$x\$",
            "$ x $",
            "$",
            "$$",
            "$$$$",
            r"\[",
            r"\( x",
            "cost: $20. $30 later",
            "$5M; 5$",
            "从$5到$10",
        ),
    ],
)
def test_a_price_and_whatever_else_has_a_dollar_stays(text):
    html = render_markdown(text)
    assert "<math" not in html
    assert Reader(html).text.count("$") == text.count("$")


@pytest.mark.parametrize(
    "text", ["设$x$为实数", "값 $x$는", "ב-$x$", "the $x$th", "all $x$s", "$x$-axis", "($x$)", "$x$, $5"]
)
def test_a_formula_may_touch_words(text):
    assert ("math", "alttext", "x") in Reader(render_markdown(text)).attributes


def test_a_formula_with_macros_does_not_fill_the_page():
    text = r"$$\def\a{%s}%s$$" % ("x" * 900, r"\a" * 199)
    assert Reader(render_markdown(text)).text.strip() == text
    assert "<math" in render_markdown(r"$\newcommand{\vu}{\mathbf{u}} \vu + \vu$")


def test_a_formula_in_code_stays_code():
    assert "<math" not in render_markdown("```\n$$\nx\n$$\n```\n\n    $$x$$\n")


@pytest.mark.parametrize("tex", [r"\notacommand", r"\frac{a", "x^2^3", r"\href{javascript:alert(1)}{x}", "\\left("])
def test_a_formula_that_cannot_be_shown_is_shown_as_it_was_written(tex):
    html = render_markdown(f"$${tex}$$")
    assert Reader(html).text.strip() == f"$${tex}$$"
    assert '<code class="formula-source">' in html


@pytest.mark.parametrize(
    "tex",
    [
        *(
            r"\tag{1} x",
            r"\begin{split} a &= b \end{split}",
            r"\begin{align} a &= b \\ c &= d \end{align}",
            r"\boxed{42}",
        ),
        *(r"\begin{equation} x \label{a} \end{equation}", r"\substack{a \\ b}", r"\begin{gather} a \\ b \end{gather}"),
        *(r"\text{si } x", r"\operatorname{argmin}_\theta", r"\xrightarrow{k}", r"\cancel{x}", r"\overline{AB}"),
    ],
)
def test_what_models_write_often_can_be_shown(tex):
    html = render_markdown(f"$${tex}$$")
    assert "<math" in html
    assert " style=" not in html
    assert_harmless(html)
