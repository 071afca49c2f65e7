"""One name, one meaning: a public class or function is defined in one module. Each module has a place in the layers."""

import ast
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
APPS = ("accounts", "billing", "chat", "config", "core", "history")
TOOLS = ("bench", "testbed")

ACCEPTED = {
    "Command": "the class Django looks for in a management command",
    "main": "where a script begins",
    "DatabaseWrapper": "what Django calls every backend",
    "stream": "what every adapter is: chat.llm.providers.base.Stream",
    "body_of": "what every adapter over HTTP has: chat.llm.providers.streaming.BodyOf",
    "refusal": "what every format of the fake provider has: testbed.formats.WireFormat",
    "as_openai": "the same",
    "snapshot": "what every kind of database has for backups: config.backups.databases",
    "loading": "the same",
    "split_part": "the same",
}
"""Names that stand in several modules, each with its reason."""

MAX_ROOT_MODULES = 8


def source_files() -> list[Path]:
    files = [path for package in (*APPS, *TOOLS) for path in (ROOT / package).rglob("*.py")]
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
    assert len(modules) <= MAX_ROOT_MODULES, modules


def test_every_package_has_a_place_in_the_layers():
    """import-linter judges only the packages and containers that it is told of: these are all of them."""
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == {*APPS, *TOOLS, "tests"}
    assert set(import_linter()["root_packages"]) == packages


def test_every_package_of_several_modules_is_an_exhaustive_container():
    contracts = import_linter()["contracts"]
    containers = {name for contract in contracts if contract.get("exhaustive") for name in contract["containers"]}
    modules = defaultdict(set)
    for path in source_files():
        modules[".".join(path.relative_to(ROOT).parent.parts)].add(path.stem)
    several = {package for package, names in modules.items() if len(names - {"__init__"}) > 1}
    commands = {package for package in several if package.endswith(".management.commands")}  # each stands alone
    assert several - commands - containers == set()


def import_linter() -> dict[str, Any]:
    contracts: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return contracts
