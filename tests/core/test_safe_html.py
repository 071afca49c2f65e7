"""HTML is marked as safe in two places only, each of which has escaped or sanitised it."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
APPS = ("accounts", "billing", "chat", "config", "core", "history")
MAY_MARK_SAFE = {"core/compiled_fragments.py", "history/rendering.py"}
MARKS_SAFE = re.compile(r"\bmark_safe\b|\bSafeString\(|\bSafeText\(|\bhtml_safe\b|def __html__")
TEMPLATE_MARKS_SAFE = re.compile(r"\|\s*safe(seq)?\b|\{%-?\s*autoescape\s+off")


def test_only_two_modules_mark_html_as_safe():
    sources = [path for app in APPS for path in (ROOT / app).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix() for path in sources if MARKS_SAFE.search(path.read_text())}
    assert found == MAY_MARK_SAFE


def test_no_html_template_turns_escaping_off():
    templates = list((ROOT / "templates").rglob("*.html"))
    assert templates
    found = [path for path in templates if TEMPLATE_MARKS_SAFE.search(path.read_text())]
    assert found == []
