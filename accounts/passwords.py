"""Refuses passwords that are tried first, without asking anybody: common ones of English, Spanish and Portuguese, also
with a year or a sign at their end, runs on a keyboard, repetitions, and what everybody knows of their owner."""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth import password_validation
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from accounts.models import User

MOST_ADDED = 6
"""Digits and signs around a word that make no password of it."""
SHORTEST_PART = 4
"""Shorter parts of a name or an address are in too many words."""
LONGEST_UNIT = 4
SHORTEST_RUN = 3
LONGEST_WITH_RUNS = 64
LONGEST_FOLDED = 300
ROWS = ("1234567890", "qwertyuiop", "asdfghjklñ", "asdfghjklç", "zxcvbnm", "abcdefghijklmnopqrstuvwxyz", "qazwsxedcrfv")
_LOOKALIKES = str.maketrans("013457@$!", "oieastasi")
_AROUND = re.compile(r"^[\W\d_]+|[\W\d_]+$")


class CommonPasswordValidator(password_validation.CommonPasswordValidator):
    """Django's, whose list of 20,000 has few words of Spanish and Portuguese."""

    def validate(self, password: str, user: object = None) -> None:
        folded = as_guessed(password)
        if (
            any(form in self.passwords or form in _words() for form in _forms_of(folded))
            or _is_made_of_runs(folded)
            or _is_repeated(folded)
        ):
            raise ValidationError(
                _("That password is among the first that are tried. Choose another, such as four words at random."),
                code="password_too_common",
            )


class OwnNamePasswordValidator:
    """Refuses what is little more than the person's name or address, or the name of the site."""

    def validate(self, password: str, user: User | None = None) -> None:
        known = {_letters(word) for word in _known_words(user)}
        if not known.isdisjoint(_forms_of(as_guessed(password))):
            raise ValidationError(
                _("That is little more than your name, your address or the name of this site. Choose another."),
                code="password_too_similar",
            )

    def get_help_text(self) -> str:
        return _("Your password can’t be little more than your name, your address or the name of this site.")


def as_guessed(text: str) -> str:
    """Return the text in lower case and without accents, as whoever guesses writes it; of a long one the beginning."""
    decomposed = unicodedata.normalize("NFKD", text.strip()[:LONGEST_FOLDED].lower())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def _forms_of(folded: str) -> Iterator[str]:
    """Yield what is tried for this: itself, without what stands around a word, and with letters for their likes; all
    without blanks, too."""
    core = _AROUND.sub("", folded)
    for form in (folded, core) if len(folded) - len(core) <= MOST_ADDED else (folded,):
        for written in (form, form.translate(_LOOKALIKES)):
            yield written
            yield _letters(written)


def _is_made_of_runs(folded: str) -> bool:
    """Return whether it is nothing but runs on a keyboard or in the alphabet, and repeated characters."""
    if len(folded) > LONGEST_WITH_RUNS:
        return False
    ends = {0}
    for start in range(len(folded)):
        if start in ends:
            ends |= {end for end in range(start + SHORTEST_RUN, len(folded) + 1) if _is_run(folded[start:end])}
    return len(folded) in ends


@cache
def _runs() -> str:
    rows = [unicodedata.normalize("NFKD", row) for row in ROWS]
    return " ".join([*(row * 2 for row in rows), *(row[::-1] * 2 for row in rows)])


def _is_run(part: str) -> bool:
    return len(set(part)) == 1 or part in _runs()


def _is_repeated(folded: str) -> bool:
    """Return whether it is one short piece again and again."""
    length = len(folded)
    units = (folded[:size] for size in range(1, min(LONGEST_UNIT, length // 2) + 1))
    return any((unit * length)[:length] == folded for unit in units)


def _known_words(user: User | None) -> Iterator[str]:
    yield as_guessed(settings.SITE_NAME)
    yield from _parts(as_guessed(urlsplit(settings.SITE_URL).hostname or ""))
    if user is not None:
        yield as_guessed(user.email)
        yield from _parts(as_guessed(user.email))
        yield as_guessed(user.name)
        yield from _parts(as_guessed(user.name))


def _parts(folded: str) -> Iterator[str]:
    return (part for part in re.split(r"[\W_]+", folded) if len(part) >= SHORTEST_PART)


def _letters(text: str) -> str:
    """Return the text's letters and digits; of none a word that nothing equals."""
    return re.sub(r"[\W_]+", "", text) or "\0" + text


@cache
def _words() -> frozenset[str]:
    return frozenset(Path(__file__).with_name("common_words.txt").read_text().split())
