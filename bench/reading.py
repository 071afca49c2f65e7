"""What is measured of a turn while its text arrives, and of many turns together."""

import re
from array import array
from collections import Counter
from time import monotonic_ns

from testbed.script import Script

_TOKEN = re.compile(r"t(\d{6,}) ")
_NS_PER_MS = 1e6


class Figures:
    """Sums and samples over all turns of a run."""

    def __init__(self) -> None:
        self.token_added_ms = array("d")
        self.first_added_ms = array("d")
        self.stretch = array("d")
        self.refused_after_ms = array("d")
        self.refused_for_ever = 0  # a refusal that did not say when to come back
        self.completed = 0
        self.tokens = 0
        self.missing = 0
        self.frames = 0
        self.streaming_ms = 0.0  # from first token to last, of all turns together
        self.bytes_beyond_text = 0
        self.resent_characters = 0
        self.restarts = 0
        self.errors: Counter[str] = Counter()


class Reading:
    """One turn. Its tokens tell when the provider sent them, so each can be timed where it arrives."""

    __slots__ = ("_begun", "_figures", "_first", "_gen", "_last", "_length", "_script", "_seen", "_tail")

    def __init__(self, figures: Figures, script: Script) -> None:
        self._figures = figures
        self._script = script
        self._begun = self._first = self._last = 0
        self._gen: int | None = None
        self._length = self._seen = 0
        self._tail = ""

    def begin(self) -> None:
        """Called at the moment the request is written."""
        self._begun = monotonic_ns()

    def take(self, text: str, frame_bytes: int) -> None:
        """More text, from a frame of so many bytes."""
        now = monotonic_ns()
        figures = self._figures
        figures.frames += 1
        figures.bytes_beyond_text += frame_bytes - len(text)
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
            figures.token_added_ms.append((now - int(time_ns)) / _NS_PER_MS)

    def take_at(self, gen: int, at: int, text: str, frame_bytes: int) -> None:
        """Text at an offset. A new generation begins again at 0; what was there before is not counted twice."""
        if gen != self._gen:
            self._restart(gen)
        if at > self._length:
            self._figures.errors["gap"] += 1
            self._length, self._tail = at, ""
        known = max(0, self._length - at)
        self._figures.resent_characters += min(known, len(text))
        self.take(text[known:], frame_bytes - min(known, len(text)))

    def refused(self, retry_after: float | None) -> None:
        """The turn was not begun; `retry_after` is in how many seconds to come back, if that was said."""
        self._figures.refused_after_ms.append((monotonic_ns() - self._begun) / _NS_PER_MS)
        self._figures.refused_for_ever += retry_after is None

    def end(self, error: str | None) -> None:
        """The turn is over; `error` is what went wrong, if its channel knows of something."""
        figures = self._figures
        expected = self._script.delivered
        figures.tokens += self._seen
        figures.missing += max(0, expected - self._seen)
        figures.streaming_ms += (self._last - self._first) / _NS_PER_MS
        if error is None and self._seen != expected:
            error = "short" if self._seen < expected else "extra"
        if error is not None:
            figures.errors[error] += 1
            return
        figures.completed += 1
        if self._seen:
            figures.first_added_ms.append((self._first - self._begun) / _NS_PER_MS - self._first_token_ms())
        nominal_ms = self._script.gap_ms * (self._seen - 1)
        if nominal_ms > 0:
            figures.stretch.append((self._last - self._first) / _NS_PER_MS / nominal_ms)

    def _first_token_ms(self) -> int:
        return self._script.first_ms + self._script.gap_ms * self._script.reasoning

    def _restart(self, gen: int) -> None:
        if self._gen is not None:
            self._figures.restarts += 1
        self._gen = gen
        self._length = self._seen = 0
        self._tail = ""
