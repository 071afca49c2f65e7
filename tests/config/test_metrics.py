"""Every figure is named once: where it is counted, in the documents, the alert rules and the dashboard."""

import json
import os
import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from config import site_figures
from testbed.site import ROOT

DEPLOY, DOCUMENT = ROOT / "deploy", ROOT / "docs" / "metrics.md"
PROMTOOL = shutil.which("promtool")


def counted() -> dict[str, tuple[str, str, str]]:
    """Return the kind, the labels and the meaning of what is shown, by the name that queries have for it."""
    for module in ("chat.turns.metrics", "chat.llm.metrics", "core.watching"):
        import_module(module)
    found = {}
    for collector in set(REGISTRY._collector_to_names):
        kind = getattr(collector, "_type", "")
        for metric in collector.collect():
            if metric.name.startswith("tertulia_"):
                labels = getattr(collector, "_labelnames", None) or ("pool",) * metric.name.startswith("tertulia_pool")
                name = f"{metric.name}_total" if kind == "counter" else metric.name
                found[name] = (kind or metric.type, ", ".join(labels), metric.documentation)
    for name, meaning in site_figures.METRICS.items():
        found[name] = ("gauge, of the site", ", ".join(site_figures.LABELS.get(name, ())), meaning)
    return found


def table() -> str:
    rows = ["| figure | labels | kind | what it is |", "|---|---|---|---|"]
    rows += [f"| `{name}` | {labels} | {kind} | {text} |" for name, (kind, labels, text) in sorted(counted().items())]
    return "\n".join(rows)


def asked_in(text: str) -> set[str]:
    return {re.sub("_(bucket|count|sum)$", "", name) for name in re.findall(r"\btertulia_[a-z_]+", text)}


def expressions(panel: Any) -> list[str]:
    return [target["expr"] for target in panel.get("targets", ())]


def test_the_document_lists_what_is_counted():
    """What is missing is what this prints."""
    assert table() in DOCUMENT.read_text(), table()


def test_rules_and_dashboard_ask_for_what_is_counted_and_the_dashboard_for_all_of_it():
    known = set(counted())
    rules = re.sub("tertulia-[a-z]+", "", (DEPLOY / "prometheus" / "alerts.yml").read_text())
    assert asked_in(rules) <= known
    board = json.loads((DEPLOY / "grafana" / "tertulia.json").read_text())
    assert asked_in(" ".join(query for panel in board["panels"] for query in expressions(panel))) == known
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


def test_what_the_rules_say_is_what_they_do(tmp_path: Path):
    """By Prometheus's own tool, which has the queries of the dashboard judged, too."""
    if PROMTOOL is None:
        assert not os.environ.get("REQUIRE_PROMTOOL"), "promtool is missing"
        pytest.skip("promtool is not installed: it comes with Debian's package prometheus")
    folder = DEPLOY / "prometheus"
    board = json.loads((DEPLOY / "grafana" / "tertulia.json").read_text())
    queries = [query.replace("$__rate_interval", "5m") for panel in board["panels"] for query in expressions(panel)]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "panels.yml").write_text(
        json.dumps({"groups": [{"name": "panels", "rules": rules}]})
    )  # it is YAML, too
    for command in (
        ["check", "rules", "alerts.yml", str(tmp_path / "panels.yml")],
        ["test", "rules", "alerts_test.yml"],
        ["check", "config", "--syntax-only", "prometheus.yml"],
    ):
        done = subprocess.run([PROMTOOL, *command], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
