"""Measures a turn while its text arrives, and adds up many turns."""

import re
from array import array
from collections import Counter
from time import monotonic_ns

from testbed.script import Script

_TOKEN = re.compile(r"t(\d{6,}) ")
_NS_PER_MS = 1e6


class Totals:
    """Sums and samples over all turns of a load."""

    def __init__(self) -> None:
        self.token_added_ms = array("d")
        self.first_added_ms = array("d")
        self.stretch = array("d")
        self.refused_after_ms = array("d")
        self.refused_without_retry_after = 0
        self.completed = 0
        self.tokens = 0
        self.missing = 0
        self.frames = 0
        self.streaming_ms = 0.0  # from first token to last, of all turns together
        self.bytes_beyond_text = 0
        self.resent_characters = 0
        self.restarts = 0
        self.errors: Counter[str] = Counter()


class TurnMeasurement:
    """The measurement of one turn. Its tokens say when the provider sent them, so each is timed when it arrives."""

    __slots__ = ("_begun", "_totals", "_first", "_gen", "_last", "_length", "_script", "_seen", "_tail")

    def __init__(self, totals: Totals, script: Script) -> None:
        self._totals = totals
        self._script = script
        self._begun = self._first = self._last = 0
        self._gen: int | None = None
        self._length = self._seen = 0
        self._tail = ""

    def begin(self) -> None:
        """Call this when the request is written."""
        self._begun = monotonic_ns()

    def take(self, text: str, frame_bytes: int) -> None:
        """Count more text, from a frame of so many bytes."""
        now = monotonic_ns()
        totals = self._totals
        totals.frames += 1
        totals.bytes_beyond_text += frame_bytes - len(text)
        self._length += len(text)
        text = self._tail + text if self._tail else text
        self._tail = text[text.rfind(" ") + 1 :]
        times = _TOKEN.findall(text)
        if not times:
            return
        if not self._seen:
            self._first = now
        self._seen += len(times)
        self._last = now
        for time_ns in times:
            totals.token_added_ms.append((now - int(time_ns)) / _NS_PER_MS)

    def take_at(self, gen: int, at: int, text: str, frame_bytes: int) -> None:
        """Count text at an offset. A new generation starts again at 0; text that came before is not counted again."""
        if gen != self._gen:
            self._restart(gen)
        if at > self._length:
            self._totals.errors["gap"] += 1
            self._length, self._tail = at, ""
        known = max(0, self._length - at)
        self._totals.resent_characters += min(known, len(text))
        self.take(text[known:], frame_bytes - min(known, len(text)))

    def refused(self, retry_after: float | None) -> None:
        """The turn was refused; `retry_after` is the number of seconds to wait, if the refusal says so."""
        self._totals.refused_after_ms.append((monotonic_ns() - self._begun) / _NS_PER_MS)
        self._totals.refused_without_retry_after += retry_after is None

    def end(self, error: str | None) -> None:
        """The turn has ended; `error` is the kind of error that the client saw, if any."""
        totals = self._totals
        expected = self._script.delivered
        totals.tokens += self._seen
        totals.missing += max(0, expected - self._seen)
        totals.streaming_ms += (self._last - self._first) / _NS_PER_MS
        if error is None and self._seen != expected:
            error = "short" if self._seen < expected else "extra"
        if error is not None:
            totals.errors[error] += 1
            return
        totals.completed += 1
        if self._seen:
            totals.first_added_ms.append((self._first - self._begun) / _NS_PER_MS - self._first_token_ms())
        nominal_ms = self._script.gap_ms * (self._seen - 1)
        if nominal_ms > 0:
            totals.stretch.append((self._last - self._first) / _NS_PER_MS / nominal_ms)

    def _first_token_ms(self) -> int:
        return self._script.first_ms + self._script.gap_ms * self._script.reasoning

    def _restart(self, gen: int) -> None:
        if self._gen is not None:
            self._totals.restarts += 1
        self._gen = gen
        self._length = self._seen = 0
        self._tail = ""
