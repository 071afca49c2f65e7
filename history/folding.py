"""The form in which texts are searched: without case and accents; and where a part of it was in the text."""

import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from core.unicode import COMBINING_SIGNS, MAX_SIGNS, normalise

MAX_SEARCHED, MAX_GROWTH, FEW = 1_500_000, 4, 1_000
"""Letters of a folded turn that are kept; for each of its text, and of a short one at least. Some signs become many
(U+FDFA eighteen): turns that are made of them would fill the memory of whoever opens their page, or copies them, and no
document of MongoDB, which has 16 MB, holds a long one."""
PIECE = 4_096
"""So much of a long text is folded at once: other threads wait for that."""
CHUNK = 64
MAX_JOINED = 64
"""Letters of one emoji. One of a family has a dozen."""
_WITHOUT_SIGNS = dict.fromkeys(map(ord, COMBINING_SIGNS))
# What belongs to the sign before it: a variation, a skin colour, a tag, and what a joiner joins.
_CONTINUES = re.compile("(?:[\ufe00-\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]|\u200d.?)+", re.DOTALL)


def fold(text: str) -> str:
    """Return the text without case and accents. What two texts have folded is what they have folded together."""
    # Decomposed before as well: a sign such as 𝑨 has a lower case only as the plain letter it is made of.
    if text.isascii():
        return text.lower()
    decomposed = normalise("NFKD", normalise("NFKD", text).casefold())
    return decomposed.translate(_WITHOUT_SIGNS)


def searched(text: str) -> str:
    """Return the text of a turn as it is kept to be searched: folded, and of a very long one its beginning."""
    if text.isascii():
        return text[:MAX_SEARCHED].lower()
    most = min(MAX_SEARCHED, MAX_GROWTH * len(text) + FEW)
    parts, length = list[str](), 0
    for at in range(0, len(text), PIECE):
        parts.append(fold(text[at : at + PIECE]))
        length += len(parts[-1])
        if length >= most:
            break
    return "".join(parts)[:most]


def titled(title: str) -> dict[str, str]:
    """Return the fields of a conversation that is called so."""
    return {"title": title, "search_title": fold(title)}


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a text, from `start` up to but without `end`."""

    start: int
    end: int


class FoldedText:
    """A text and its folded form; a letter of one may be several of the other, or none. With `most`, of a text that is
    not of ASCII alone, about so many letters of that are known."""

    def __init__(self, text: str, *, most: int | None = None) -> None:
        self.text = text
        self._is_plain = text.isascii()
        self._offsets: list[int] = []  # where the folded form of each chunk begins
        self._ends: dict[int, list[int]] = {}  # of a chunk, where that of each letter ends in it
        parts = []
        length = 0
        for at in range(0, len(text), CHUNK) if not self._is_plain else ():
            if most is not None and length >= most:
                break
            part = fold(text[at : at + CHUNK])
            self._offsets.append(length)
            parts.append(part)
            length += len(part)
        self.folded = fold(text) if self._is_plain else "".join(parts)

    def find_all(self, word: str, most: int) -> list[Span]:
        """Return where the folded `word` is in the text, at most so many times. Whole letters are returned, with their
        accents, also where only a part of one was meant, as the f of ﬁ."""
        spans, at = list[Span](), self.folded.find(word)
        while at >= 0 and len(spans) < most:
            spans.append(self._span(at, at + len(word)))
            at = self.folded.find(word, at + len(word))
        return spans

    def _span(self, start: int, end: int) -> Span:
        if self._is_plain:
            return Span(start, end)
        first, last = self._origin(start), self._origin(end - 1) + 1
        return Span(first, self._end_of_sign(last))

    def _origin(self, place: int) -> int:
        """Return which letter of the text a letter of the folded one is from."""
        chunk = bisect_right(self._offsets, place) - 1
        start = chunk * CHUNK
        if chunk not in self._ends:
            lengths = (1 if letter.isascii() else len(fold(letter)) for letter in self.text[start : start + CHUNK])
            self._ends[chunk] = list(accumulate(lengths))
        return start + bisect_right(self._ends[chunk], place - self._offsets[chunk])

    def _end_of_sign(self, end: int) -> int:
        """Return the end of what is seen as one sign: with its accents, and an emoji with what it is joined to. Of a
        run that no script has, its beginning is enough: each word that is looked for may end there."""
        furthest = min(len(self.text), end + MAX_SIGNS)
        while end < furthest and not fold(self.text[end]):
            end += 1
        rest = _CONTINUES.match(self.text, end, end + MAX_JOINED)
        return rest.end() if rest else end
