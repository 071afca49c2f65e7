"""Answers in the shapes that models write: the pieces of tests/answers.md, put together in drawn orders."""

from itertools import islice
from pathlib import Path
from random import Random

PIECES = [piece.strip("\n") for piece in Path(__file__).with_suffix(".md").read_text().split("%%%%\n")]
MANY = 240
LATE = ("[^", "]: ")  # answers with these define links and notes, which may change what was written before


def draw_answers(count: int = MANY, *, seed: int = 15) -> list[str]:
    """Return so many answers: each piece alone first, then several at a time; what is never closed comes last."""
    rng = Random(seed)
    closed, unclosed = PIECES[:-2], PIECES[-2:]

    def combined() -> str:
        pieces = rng.sample(closed, rng.randint(2, 9))
        if rng.random() < 0.1:
            pieces.append(rng.choice(unclosed))
        return "\n\n".join(pieces) + rng.choice(["", "\n"])

    return [*PIECES, *islice(iter(combined, None), count - len(PIECES))]


def cut(text: str, rng: Random, longest: int = 40) -> list[str]:
    """Cut a text as a provider and a network do."""
    portions = []
    while text:
        length = rng.randint(1, longest)
        portions.append(text[:length])
        text = text[length:]
    return portions
