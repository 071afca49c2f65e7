"""One name, one meaning: a public class or function is defined in one module."""

import ast
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
APPS = ("accounts", "billing", "chat", "config", "core", "history")

ACCEPTED = {
    "Command": "the class Django looks for in a management command",
    "main": "where a script begins",
    "stream": "what every adapter is: chat.llm.providers.base.Stream",
    "body_of": "what every adapter over HTTP has: chat.llm.providers.streaming.BodyOf",
}
"""Names that stand in several modules, each with its reason."""

MOST_ROOT_MODULES = 8


def source_files() -> list[Path]:
    files = [path for app in APPS for path in (ROOT / app).rglob("*.py")]
    return [path for path in files if "migrations" not in path.parts]


def test_a_public_name_is_defined_in_one_module():
    places = defaultdict(list)
    for path in source_files():
        if path.name == "views.py":
            continue  # a view is named after its address, and nobody calls it by its name
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                places[node.name].append(str(path.relative_to(ROOT)))
    public = {name: found for name, found in places.items() if not name.startswith("_") and len(found) > 1}
    assert {name: found for name, found in public.items() if name not in ACCEPTED} == {}
    assert set(ACCEPTED) <= set(public), "accepted, and not needed any more"


def test_the_chat_keeps_its_root_small():
    modules = [path.name for path in (ROOT / "chat").glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MOST_ROOT_MODULES, modules


def test_every_package_has_a_place_in_the_layers():
    """`make check` judges the packages it is told of; this one tells whether it is told of all."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert set(contracts["root_packages"]) == set(APPS)
    not_of_the_site = {"bench", "testbed", "tests"}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(APPS) | not_of_the_site
