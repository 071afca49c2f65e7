"""Cuts Markdown, while it is written, into blocks that can be rendered each on its own.

Where a cut is depends on complete lines alone, and on nothing that follows: however a text arrives, it is cut at the
same places. There are fewer cuts than CommonMark has blocks: only where a block is over for certain. A list, with all
that is in it, is one.
"""

import re
from typing import Literal

FENCE = re.compile(r" {0,3}(?:(`{3,})[^`]*|(~{3,}).*)$", re.DOTALL)
FOOTNOTE = re.compile(r"\[\^([\w.-]{1,30})\]:[ \t]*")
DETAILS_BEGIN = re.compile(r"<details(?: open)?>", re.IGNORECASE)
_INDENTED_DETAILS = re.compile(r" {1,3}<details(?: open)?>", re.IGNORECASE)
DETAILS_END = re.compile(r"</details>", re.IGNORECASE)
_HEADING = re.compile(r"#{1,6}(?:\s|$)")
_ITEM = re.compile(r"(?:[-+*]|\d{1,9}[.)])(?:\s|$)")
_RULE = re.compile(r"(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$")
_BLANK = " \t\r\n"

Kind = Literal["", "paragraph", "list", "indented", "fence", "details"]
"""What the present block is: quotes and tables end like paragraphs, footnotes like lists; empty before its first line
that is not blank."""


class Splitter:
    """Takes a text in any portions; the blocks it gives add up to that text."""

    def __init__(self) -> None:
        self._partial: list[str] = []  # a line that has not ended
        self._lines: list[str] = []
        self._done: list[str] = []
        self._kind: Kind = ""
        self._fence = ""  # what opened the code the line is in
        self._depth = 0  # of `<details>`
        self._is_after_blank = False

    def add(self, text: str) -> list[str]:
        """Return the blocks that end in `text`."""
        lines = text.split("\n")
        if len(lines) == 1:
            self._partial.append(text)
            return []
        lines[0] = "".join((*self._partial, lines[0]))
        self._partial = [lines.pop()]
        for line in lines:
            self._take(f"{line}\n")
        done, self._done = self._done, []
        return done

    def finish(self) -> list[str]:
        """Return what is left."""
        if last := "".join(self._partial):
            self._take(last)
        self._cut()
        done, self._done = self._done, []
        return done

    def _take(self, line: str) -> None:
        text = line.strip(_BLANK)
        if self._kind == "fence":
            self._lines.append(line)
            if self._closes_fence(line):
                self._cut()
        elif self._kind == "details":
            self._take_detail(line, text)
        elif not text:
            self._lines.append(line)
            self._is_after_blank = True
            if self._kind == "paragraph":
                self._cut()
        else:
            if self._begins_block(line, text):
                self._cut()
            self._is_after_blank = False
            self._lines.append(line)
            if not self._kind:
                self._begin(line, text)

    def _begins_block(self, line: str, text: str) -> bool:
        """Whether the present block is over before this line."""
        if not self._kind or line[0] in " \t":
            return self._kind == "paragraph" and bool(FENCE.match(line) or _INDENTED_DETAILS.match(line))
        if FENCE.match(line) or _HEADING.match(line) or FOOTNOTE.match(line) or DETAILS_BEGIN.match(line):
            return True
        if self._kind == "list":
            return self._is_after_blank and not _ITEM.match(text)
        return self._kind == "indented"

    def _begin(self, line: str, text: str) -> None:
        if line.startswith(("    ", "\t")):
            self._kind = "indented"
        elif fence := FENCE.match(line):
            self._kind, self._fence = "fence", fence[1] or fence[2]
        elif _HEADING.match(text) or _RULE.match(text):
            self._kind = "paragraph"
            self._cut()
        elif _ITEM.match(text) or FOOTNOTE.match(line):
            self._kind = "list"
        elif DETAILS_BEGIN.match(text):
            self._kind = "details"
            self._count_details(text)
        else:
            self._kind = "paragraph"

    def _take_detail(self, line: str, text: str) -> None:
        self._lines.append(line)
        if self._fence:
            if self._closes_fence(line):
                self._fence = ""
        elif fence := FENCE.match(line):
            self._fence = fence[1] or fence[2]
        else:
            self._count_details(text)

    def _count_details(self, text: str) -> None:
        self._depth += len(DETAILS_BEGIN.findall(text)) - len(DETAILS_END.findall(text))
        if self._depth <= 0:
            self._cut()

    def _closes_fence(self, line: str) -> bool:
        text = line.strip(_BLANK)
        is_indented = line.startswith(("    ", "\t"))
        return not is_indented and len(text) >= len(self._fence) and text == self._fence[0] * len(text)

    def _cut(self) -> None:
        if self._lines:
            self._done.append("".join(self._lines))
        self._lines, self._kind, self._fence, self._depth = [], "", "", 0
        self._is_after_blank = False


def split(text: str) -> list[str]:
    """Return the blocks of a whole text."""
    splitter = Splitter()
    return [*splitter.add(text), *splitter.finish()]
