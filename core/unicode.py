"""Normalises text in time that grows with its length alone, and mends what nothing can encode."""

import re
import sys
import unicodedata
from typing import Literal

MAX_SIGNS = 30
"""Combining signs on one letter; no script has so many (UAX #15, section 13). Sorting a longer run takes the square of
its length: one question of 32,000 signs stopped a whole process for two seconds."""

COMBINING_SIGNS = "".join(sign for sign in map(chr, range(sys.maxunicode + 1)) if unicodedata.combining(sign))
_TOO_MANY = re.compile(f"([{COMBINING_SIGNS}]{{{MAX_SIGNS}}})[{COMBINING_SIGNS}]+")
_SURROGATES = re.compile("[\ud800-\udfff]")


def normalise(form: Literal["NFC", "NFKC", "NFKD"], text: str) -> str:
    """Return the text in this form, without the signs beyond MAX_SIGNS on one letter."""
    return text if text.isascii() else unicodedata.normalize(form, _TOO_MANY.sub(r"\1", text))


def mend(text: str) -> str:
    """Return the text with U+FFFD for each surrogate: as long as it was, and with nothing that cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", text)
    return text
