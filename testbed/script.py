"""Scripts: the name of the model in a request says what the fake provider does.

A name is a kind and, for `fake-`, options in any order:

    fake-<N>t-<D>ms     N tokens, one every D ms; with 0ms all at once. The text is `t0 t1 t2 …`, each with its space.
        -f<F>           the first token F ms after the request (default: 50)
        -p<B>           every token padded with B more bytes
        -r<N>           N reasoning tokens first (`r0 r1 …` in `reasoning_content`), at the same pace
        -ns             a token is `t<CLOCK_MONOTONIC in ns> `, the moment it was sent, for clients that time it
        -echo<C>        tokens are the last question, C characters each, and as many as it has, at most N
        -unicode        tokens carry emoji, accents, CJK, combining characters, U+202E and `<script>`
        -cut<K>         the connection is closed in the middle of a chunk after K tokens
        -stall<K>       nothing more after K tokens, the connection stays open
        -error<K>       an `{"error": …}` event after K tokens, and the end
        -rubbish<K>     an event that is not JSON after K tokens, then the rest as usual
        -nofinish       ends without finish_reason, usage and [DONE]
        -nousage        no usage, asked for or not
        -filter -length another finish_reason: content_filter, length
        -crlf           lines end in CR LF
        -split          every event in two writes, cut at any byte, also inside a character
        -call<N>        where tools are offered, N calls of one instead of a text: of the one that is asked for, else of
                        the first. The arguments are the last question where that is a JSON object, else `{}`. A tool's
                        result is answered with text
        -flaky<N>       the first N requests for exactly this name are answered with a 500
    status-<S>          an error with status S and OpenAI's usual code; `status-429-retry2` adds `Retry-After: 2`
    html-<S>            an HTML page with status S, as a proxy in between would send
    context, quota      OpenAI's refusals `context_length_exceeded` (400) and `insufficient_quota` (429)
    hang                takes the request and never answers

K counts visible tokens, not reasoning; 0 is before the first. `max_tokens` or `max_completion_tokens` in a request ends
the answer there with finish_reason `length`. Where there is no stream, the answer comes when the last token would have;
-cut closes without an answer, -stall never answers, -error is a 500, -rubbish breaks the body.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from time import monotonic_ns
from typing import Any, Literal

Kind = Literal["tokens", "status", "html", "context", "quota", "hang"]
Finish = Literal["stop", "length", "content_filter"]
Ending = Literal["finish", "silent", "cut", "stall", "error"]

# Text that sanitisers, byte counters or UTF-16 readers get wrong. The family is five code points joined into one sign.
UNICODE_PIECES = (
    "🙂",
    "ñandú",
    "你好",
    "e\u0301",
    "\u202eabc",
    "<script>alert(1)</script>",
    "👩\u200d👩\u200d👧",
    "🇦🇷",
    'a"\\b\n',
)

_NUMBER_OPTIONS = {
    "f": "first_ms",
    "p": "padding",
    "r": "reasoning",
    "cut": "cut_after",
    "stall": "stall_after",
    "error": "error_after",
    "rubbish": "rubbish_after",
    "flaky": "flaky",
    "echo": "echo",
    "call": "calls",
}
_FLAG_OPTIONS: dict[str, tuple[str, Any]] = {
    "ns": ("timed", True),
    "unicode": ("unicode", True),
    "nofinish": ("finish", None),
    "nousage": ("usage", False),
    "filter": ("finish", "content_filter"),
    "length": ("finish", "length"),
    "crlf": ("crlf", True),
    "split": ("split", True),
}
_NAMED_SCRIPTS: dict[str, Kind] = {"context": "context", "quota": "quota", "hang": "hang"}
_TOKENS = re.compile(r"fake-(\d+)t-(\d+)ms((?:-[a-z]+\d*)*)")
_OPTION = re.compile(r"([a-z]+)(\d*)")
_STATUS = re.compile(r"(status|html)-([45]\d\d)(?:-retry(\d+))?")


class UnknownScriptError(ValueError):
    """The model's name is not a script."""


@dataclass(frozen=True, slots=True)
class Script:
    kind: Kind
    tokens: int = 0
    gap_ms: int = 0
    first_ms: int = 50
    padding: int = 0
    reasoning: int = 0
    cut_after: int | None = None
    stall_after: int | None = None
    error_after: int | None = None
    rubbish_after: int | None = None
    finish: Finish | None = "stop"
    usage: bool = True
    timed: bool = False
    unicode: bool = False
    crlf: bool = False
    split: bool = False
    flaky: int = 0
    echo: int = 0
    calls: int = 0
    text: str = ""
    status: int = 200
    retry_after_seconds: int | None = None

    @classmethod
    def parse(cls, model: str) -> "Script":
        """Return the script of a model's name; raises UnknownScriptError."""
        return _parse(model)

    def for_question(self, question: str) -> "Script":
        """Return the script for this question: an echo repeats it."""
        if not self.echo:
            return self
        return replace(self, text=question, tokens=min(self.tokens, -(-len(question) // self.echo)))

    def limited_to(self, max_tokens: int) -> "Script":
        """Return the script for a request of at most so many tokens, reasoning included."""
        if self.reasoning + self.tokens <= max_tokens:
            return self
        reasoning = min(self.reasoning, max_tokens)
        finish: Finish | None = None if self.finish is None else "length"
        return replace(self, reasoning=reasoning, tokens=max_tokens - reasoning, finish=finish)

    @property
    def delivered(self) -> int:
        """How many visible tokens are sent before the answer ends or breaks."""
        return min([self.tokens, *(k for k, _ in self._breaks())])

    @property
    def ending(self) -> Ending:
        broken = [name for k, name in self._breaks() if k == self.delivered]
        if broken:
            return broken[0]
        return "silent" if self.finish is None else "finish"

    @property
    def duration_ms(self) -> int:
        """The time from the request to the last token, without transmission."""
        return self.first_ms + self.gap_ms * max(0, self.reasoning + self.delivered - 1)

    def token_maker(self) -> Callable[[int], str]:
        """Return a function from a token's number to its text. A timed token's text is the time of the call."""
        tail = " " + ("x" * (self.padding - 1) + " " if self.padding else "")
        if self.timed:
            return lambda _: f"t{monotonic_ns()}{tail}"
        if self.echo:
            return lambda i: self.text[i * self.echo : (i + 1) * self.echo]
        if self.unicode:
            return lambda i: f"t{i}{UNICODE_PIECES[i % len(UNICODE_PIECES)]}{tail}"
        return lambda i: f"t{i}{tail}"

    def _breaks(self) -> list[tuple[int, Ending]]:
        points: tuple[tuple[int | None, Ending], ...] = (
            (self.cut_after, "cut"),
            (self.stall_after, "stall"),
            (self.error_after, "error"),
        )
        return [(k, name) for k, name in points if k is not None and k <= self.tokens]


def expected_text(model: str, max_tokens: int | None = None) -> str:
    """Return the visible text of an answer by this model, up to where it ends or breaks."""
    script = _limited(model, max_tokens)
    if script.timed:
        raise ValueError(f"the text of {model} is the time at which it is sent")
    make = script.token_maker()
    return "".join(make(i) for i in range(script.delivered))


def expected_reasoning(model: str, max_tokens: int | None = None) -> str:
    """Return the reasoning of an answer by this model."""
    return "".join(f"r{i} " for i in range(_limited(model, max_tokens).reasoning))


def _limited(model: str, max_tokens: int | None) -> Script:
    script = Script.parse(model)
    return script if max_tokens is None else script.limited_to(max_tokens)


@lru_cache(maxsize=1024)
def _parse(model: str) -> Script:
    if model in _NAMED_SCRIPTS:
        return Script(kind=_NAMED_SCRIPTS[model])
    if match := _STATUS.fullmatch(model):
        kind, status, retry = match.groups()
        return Script(
            kind="html" if kind == "html" else "status",
            status=int(status),
            retry_after_seconds=None if retry is None else int(retry),
        )
    if match := _TOKENS.fullmatch(model):
        tokens, gap, options = match.groups()
        return Script(kind="tokens", tokens=int(tokens), gap_ms=int(gap), **_options(options, model))
    raise UnknownScriptError(model)


def _options(text: str, model: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for word in text.split("-")[1:]:
        match = _OPTION.fullmatch(word)
        name, number = match.groups() if match else ("", "")
        if number and name in _NUMBER_OPTIONS:
            fields[_NUMBER_OPTIONS[name]] = int(number)
        elif not number and name in _FLAG_OPTIONS:
            field, value = _FLAG_OPTIONS[name]
            fields[field] = value
        else:
            raise UnknownScriptError(model)
    return fields
