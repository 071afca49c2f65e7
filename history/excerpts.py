"""The parts of a text that are shown where it is found, with what was found in them marked."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from history.folding import FoldedText, Span

MAX_MATCHES = 20
"""How many places of one word are looked at."""
BEFORE_MATCH = 40
"""Characters shown before the first match."""


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    is_match: bool


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Consecutive pieces of a text, and whether it goes on before and after them."""

    pieces: tuple[Piece, ...]
    has_before: bool
    has_after: bool

    @property
    def has_match(self) -> bool:
        return any(piece.is_match for piece in self.pieces)


@dataclass(slots=True)
class Letters:
    """How many folded letters of the texts of a page are still looked through. Beyond them a text is shown from its
    beginning: each takes a microsecond, and imported texts may have a million."""

    left: int = 500_000


def excerpt_of(text: str, words: Sequence[str], length: int, letters: Letters) -> Excerpt:
    """Return about `length` characters of the text, those with the most of the folded `words`, all of which are marked;
    the beginning where it has none, and where the page has no letters left."""
    folded = FoldedText(text, most=letters.left)
    letters.left = max(0, letters.left - (0 if text.isascii() else len(folded.folded)))
    found = sorted(
        ((span, word) for word in words for span in folded.find_all(word, MAX_MATCHES)),
        key=lambda match: (match[0].start, match[0].end),
    )
    start = _best_start(found, length - BEFORE_MATCH)
    first = _beginning_of_word(text, start) if start > BEFORE_MATCH else 0
    end = _end_of_word(text, first + length)
    spans = _merge(span for span, _word in found if span.start >= first and span.start < end)
    if spans:
        end = max(end, min(spans[-1].end, first + 2 * length))
    return Excerpt(tuple(_cut(text, first, end, spans)), first > 0, end < len(text))


def _best_start(found: Sequence[tuple[Span, str]], length: int) -> int:
    """Return where the first match is from which on the most words are, all within `length`."""
    best, most, last = 0, 0, 0
    counts: dict[str, int] = {}
    for at, (span, _word) in enumerate(found):
        while last < len(found) and (last <= at or found[last][0].end <= span.start + length):
            counts[found[last][1]] = counts.get(found[last][1], 0) + 1
            last += 1
        if len(counts) > most:
            best, most = span.start, len(counts)
        counts[found[at][1]] -= 1
        if not counts[found[at][1]]:
            del counts[found[at][1]]
    return best


def _beginning_of_word(text: str, start: int) -> int:
    """Return a place up to BEFORE_MATCH characters before `start`, where a word begins."""
    earliest = start - BEFORE_MATCH
    for at in range(earliest, start):
        if text[at - 1].isspace():
            return at
    return start


def _end_of_word(text: str, end: int) -> int:
    """Return a place a few characters before `end`, where a word ends."""
    if end >= len(text):
        return len(text)
    for at in range(end, end - BEFORE_MATCH, -1):
        if text[at].isspace():
            return at
    return end


def _merge(spans: Iterable[Span]) -> list[Span]:
    """Return the spans, sorted, with those that touch or overlap as one."""
    merged = list[Span]()
    for span in spans:
        if merged and span.start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged


def _cut(text: str, first: int, end: int, spans: list[Span]) -> Iterator[Piece]:
    at = first
    for span in spans:
        if span.start > at:
            yield Piece(text[at : span.start], is_match=False)
        yield Piece(text[span.start : min(span.end, end)], is_match=True)
        at = min(span.end, end)
    if at < end:
        yield Piece(text[at:end], is_match=False)
