"""What an examination found: one line each."""

from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

State = Literal["ok", "warn", "fail"]


class Finding(msgspec.Struct, frozen=True):
    """`fail` is what people notice, or money and words may be lost by; `warn` what may become so. `remedy` says what to
    do, and is empty where all is well."""

    state: State
    subject: str
    said: str
    remedy: str = ""


Examination = Callable[[], Iterable[Finding]]


def ok(subject: str, said: str) -> Finding:
    return Finding("ok", subject, said)


def warn(subject: str, said: str, remedy: str) -> Finding:
    return Finding("warn", subject, said, remedy)


def fail(subject: str, said: str, remedy: str) -> Finding:
    return Finding("fail", subject, said, remedy)


def either(is_well: object, well: Finding, ill: Finding) -> Finding:
    return well if is_well else ill
