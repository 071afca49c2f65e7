"""Recorded examples: what a newcomer may ask where only the Demo model answers, and answers written in advance.

They are in `recordings.<language>.md`: a question, a blank line and its answer, then a line of four percent signs.
"""

from functools import cache
from pathlib import Path

from django.conf import settings

from chat.errors import UnknownModel

SEPARATOR = "\n%%%%\n"


def list_questions(language: str) -> list[str]:
    """Return the questions of a language of the site. They are good ones for a real model, too."""
    return list(_read(language))


def get_answer(question: str) -> str:
    """Return the recorded answer, in the question's language; raises UnknownModel if there is none."""
    for language, _name in settings.LANGUAGES:
        if answer := _read(language).get(question):
            return answer
    raise UnknownModel


@cache
def _read(language: str) -> dict[str, str]:
    text = Path(__file__).with_name(f"recordings.{language}.md").read_text(encoding="utf-8")
    pairs = (recording.strip().split("\n\n", 1) for recording in text.split(SEPARATOR))
    return dict(pairs)
