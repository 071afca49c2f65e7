"""Measures how often Auto picks the right tier: `python -m bench.auto`; `--tuning` lists the errors in the tuning half.

The corpus is tests/chat/auto_prompts.toml. The rules in chat/llm/difficulty.py were tuned on one half of it; the report
is about the other.
"""

import os
import statistics
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chat.llm.catalog import Candidate

CORPUS = Path(__file__).parent.parent / "tests" / "chat" / "auto_prompts.toml"
TIERS = ("cheap", "mid", "strong")
BASELINE = "mid"
PROSE = "the risks, and what to do about them in each case. "
CODE = "    total += prices[item].amount * (1 + vat);"


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
    """Return the half for tuning and the half for the report: every other prompt of each language and tier."""
    tuning: list[Example] = []
    test: list[Example] = []
    seen: Counter[tuple[str, str]] = Counter()
    for example in corpus:
        kind = (example.language, example.tier)
        (test if seen[kind] % 2 else tuning).append(example)
        seen[kind] += 1
    return tuning, test


def three_models() -> "list[Candidate]":
    """Return one model for each tier, named after it, with the prices of Claude's models."""
    from chat.llm.catalog import Candidate
    from chat.llm.providers.base import Provider
    from chat.models import LanguageModel

    provider = Provider(slug="bench", name="Bench", adapter="scripted", base_url="")
    return [
        Candidate(
            LanguageModel(
                key=tier,
                provider="bench",
                provider_model=tier,
                label=tier,
                tier=tier,
                context_window=1_000_000,
                max_output=64_000,
                input_price=price,
                output_price=price * 5,
            ),
            provider,
        )
        for tier, price in zip(TIERS, (100_000, 2_000_000, 4_000_000), strict=True)
    ]


def tier_picked_for(example: Example) -> str:
    """Return the tier Auto picks when plan, health and credits do not limit it."""
    from billing.entitlements import Entitlements
    from chat.llm.pricing import estimate_tokens
    from chat.llm.selection import QuestionProfile, route

    allowed = Entitlements("bench", None, None, None, 100_000, 4_096, "strong")
    tokens = estimate_tokens([example.text])
    asked = QuestionProfile(
        question=example.text, least_tokens=tokens, tokens=tokens, answer_tokens=4_096, last_model=example.after
    )
    return str(route(three_models(), allowed, asked).candidates[0].model.tier)


def count_picks(examples: Iterable[Example]) -> Counter[tuple[str, str]]:
    """Return how often each pair of wanted and picked tier occurred."""
    return Counter((example.tier, tier_picked_for(example)) for example in examples)


def accuracy(counts: Counter[tuple[str, str]]) -> float:
    return sum(count for (wanted, picked), count in counts.items() if wanted == picked) / counts.total()


def baseline_accuracy(examples: list[Example]) -> float:
    """Return how often "always the middle tier" is right."""
    return sum(example.tier == BASELINE for example in examples) / len(examples)


def measure_milliseconds(text: str, repeats: int = 20) -> float:
    """Return the processor time of the choice for one text, the median of the repeats."""
    example, times = Example("", "", text), []
    for _ in range(repeats):
        begun = time.process_time()
        tier_picked_for(example)
        times.append((time.process_time() - begun) * 1_000)
    return statistics.median(times)


def report() -> str:
    """Return the figures of the half for the report, as Markdown."""
    corpus = load_corpus()
    tuning, test = halves(corpus)
    counts = count_picks(test)
    lines = [
        f"{len(corpus)} prompts; tuned on {len(tuning)}, reported on the other {len(test)}.",
        "",
        "| | right | always mid |",
        "| --- | --- | --- |",
    ]
    for language in ("es", "en", "pt"):
        part = [example for example in test if example.language == language]
        lines.append(f"| {language} | {accuracy(count_picks(part)):.1%} | {baseline_accuracy(part):.1%} |")
    lines += [
        f"| all | **{accuracy(counts):.1%}** | {baseline_accuracy(test):.1%} |",
        f"| the half tuned on | {accuracy(count_picks(tuning)):.1%} | {baseline_accuracy(tuning):.1%} |",
        "",
        f"| wanted \\ picked | {' | '.join(TIERS)} |",
        "| --- | --- | --- | --- |",
        *(f"| {wanted} | {' | '.join(str(counts[wanted, picked]) for picked in TIERS)} |" for wanted in TIERS),
        "",
        "| what is asked | the whole choice, ms of CPU |",
        "| --- | --- |",
        f"| the corpus, mean | {statistics.fmean(measure_milliseconds(example.text, 3) for example in corpus):.2f} |",
        f"| 100 kB of prose | {measure_milliseconds(_repeat(PROSE)):.2f} |",
        f"| 100 kB of code | {measure_milliseconds(_repeat(CODE)):.2f} |",
        f"| 100 kB without a space | {measure_milliseconds(_repeat('a')):.2f} |",
    ]
    return "\n".join(lines)


def _repeat(line: str) -> str:
    """Return 100 kB of the line."""
    return (line + "\n" * (len(line) > 1)) * (100_000 // len(line))


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings_test")
    import django

    django.setup()
    print(report())
    if "--tuning" in sys.argv:
        for example in halves(load_corpus())[0]:
            if (picked := tier_picked_for(example)) != example.tier:
                print(f"\nwanted {example.tier}, picked {picked}: {example.text}")


if __name__ == "__main__":
    main()
