"""How often Auto picks the tier a careful person would: `python -m bench.auto`, and `--errors` for the tuning half.

The corpus is tests/chat/auto_prompts.toml. Half of it was used to tune the rules; what is reported is the other half.
"""

import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent.parent / "tests" / "chat" / "auto_prompts.toml"
TIERS = ("cheap", "mid", "strong")


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt; `after` is the tier of the model that answered before it, or empty."""

    language: str
    tier: str
    text: str
    after: str = ""


def load_corpus() -> list[Example]:
    with CORPUS.open("rb") as file:
        return [Example(**fields) for fields in tomllib.load(file)["prompt"]]


def halves(corpus: list[Example]) -> tuple[list[Example], list[Example]]:
    """Return the half for tuning and the half that is held back: every other one of each language and tier."""
    tuning: list[Example] = []
    held: list[Example] = []
    seen: Counter[tuple[str, str]] = Counter()
    for example in corpus:
        kind = (example.language, example.tier)
        (held if seen[kind] % 2 else tuning).append(example)
        seen[kind] += 1
    return tuning, held
