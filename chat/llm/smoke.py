"""Asks every configured provider for real, for what no mock server can show. It costs a fraction of a cent."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from struct import pack
from time import monotonic
from typing import Literal

from chat.llm.catalog import Candidate
from chat.llm.pricing import cost_of, metered_usage, rates_with_markup
from chat.llm.providers import ADAPTERS, sdk
from chat.llm.providers.base import Delta, File, Finish, Message, ModelRequest, Stream
from chat.llm.providers.errors import ProviderError
from chat.llm.usage import doubt_about

MAX_OUTPUT_TOKENS = 2_000
"""Enough for models that reason before they answer."""
ANSWER_TIMEOUT_SECONDS = 120


def tiny_png() -> bytes:
    """Return a red square of 64 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"\xff\0\0" * 64) * 64
    head = pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiny_pdf(text: str = "The secret word is walrus.") -> bytes:
    """Return a page with a line on it."""
    drawn = f"BT /F1 24 Tf 40 100 Td ({text}) Tj ET".encode()
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 420 200] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    )
    written, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(written))
        written += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    count = len(objects) + 1
    tail = b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
    return written + tail % (count, table, count, len(written))


@dataclass(frozen=True, slots=True)
class SmokeQuestion:
    """A question, a word that is in every right answer, and the file that goes with it."""

    name: str
    text: str
    word: str
    file: File | None = None
    is_long: bool = False


QUESTIONS = (
    SmokeQuestion("plain", "Reply with this one word and nothing else: pong", "pong"),
    SmokeQuestion(
        "streamed", "Count from 1 to 60 in digits, separated by spaces, and say nothing else.", "60", is_long=True
    ),
    SmokeQuestion(
        "image",
        "Which colour is this square: red, green or blue? Reply with one word.",
        "red",
        File("image", "image/png", "square.png", tiny_png()),
    ),
    SmokeQuestion(
        "pdf",
        "Which secret word does this document tell? Reply with that word.",
        "walrus",
        File("pdf", "application/pdf", "secret.pdf", tiny_pdf()),
    ),
)


@dataclass(frozen=True, slots=True)
class SmokeResult:
    """One question to one provider; `differences` from what was expected, in words."""

    provider: str
    model: str
    transport: Literal["fast", "sdk"] | None
    question: str
    differences: tuple[str, ...] = ()
    seconds: float = 0.0
    first_seconds: float = 0.0
    tokens: tuple[int, int] = (0, 0)
    cost_micros: int | None = None


async def try_all(offered: list[Candidate], configured: list[str]) -> AsyncIterator[SmokeResult]:
    """Ask every configured provider each question by both transports, and yield the results."""
    for slug in configured:
        candidates = [candidate for candidate in offered if candidate.provider.slug == slug]
        for question in QUESTIONS:
            candidate = _cheapest(candidates, question)
            if candidate is None:
                differences = () if candidates else ("no model of it is on offer",)
                yield SmokeResult(slug, "–", None, question.name, differences)
                continue
            for transport in ("fast", "sdk"):
                yield await _try(candidate, question, transport)


def _cheapest(offered: list[Candidate], question: SmokeQuestion) -> Candidate | None:
    """Return the cheapest model that takes the question's file."""
    kind = question.file.kind if question.file else ""
    capable = [
        candidate
        for candidate in offered
        if not kind or (candidate.model.sees_images if kind == "image" else candidate.model.reads_pdfs)
    ]
    return min(capable, key=lambda candidate: rates_with_markup(candidate.model)[0].output, default=None)


async def _try(candidate: Candidate, question: SmokeQuestion, transport: Literal["fast", "sdk"]) -> SmokeResult:
    model = candidate.model
    stream: Stream = ADAPTERS[candidate.provider.adapter] if transport == "fast" else sdk.stream
    files = (question.file,) if question.file else ()
    request = ModelRequest(
        provider=candidate.provider,
        model=model.provider_model,
        messages=(Message("system", "You are a helpful assistant."), Message("user", question.text, files)),
        max_output=min(MAX_OUTPUT_TOKENS, model.max_output),
        max_tokens_parameter=model.max_tokens_parameter,
        reasons=model.reasons,
        cache_key="smoke",
        end_user="smoke",
    )
    text, reasoning, reads, finish, error = "", "", 0, None, ""
    begun = monotonic()
    first_seconds = 0.0
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS), aclosing(stream(request)) as events:
            async for event in events:
                match event:
                    case Delta():
                        text += event.text
                        reasoning += event.reasoning
                        reads += 1
                        first_seconds = first_seconds or monotonic() - begun
                    case Finish():
                        finish = event
    except ProviderError as caught:
        error = f"error {caught.code}" + (f", status {caught.status}" if caught.status else "")
    except TimeoutError:
        error = f"no end after {ANSWER_TIMEOUT_SECONDS} s"
    usage, doubt = finish.usage if finish else None, ""
    if finish and usage:
        shown, cap = (text, reasoning), request.max_output
        doubt = doubt_about(finish, model=model, messages=request.messages, max_output=cap, shown=shown)
    cost_micros = None
    if usage and not doubt and model.is_priced:
        cost_micros = cost_of(model, metered_usage(usage))
    return SmokeResult(
        provider=candidate.provider.slug,
        model=model.key,
        transport=transport,
        question=question.name,
        differences=(error,) if error else tuple(_differences(question, text, reads, finish, cost_micros, doubt)),
        seconds=monotonic() - begun,
        first_seconds=first_seconds,
        tokens=(usage.input, usage.output) if usage else (0, 0),
        cost_micros=cost_micros,
    )


def _differences(
    question: SmokeQuestion, text: str, reads: int, finish: Finish | None, cost_micros: int | None, doubt: str
) -> list[str]:
    """Return what is not as it should be, in words."""
    differences = []
    if not text.strip():
        differences.append("no text")
    elif question.word not in text.lower():
        differences.append(f"“{question.word}” is not in {text[:80]!r}")
    if question.is_long and reads < 2:
        differences.append("all of it came at once")
    if finish is None or finish.reason != "stop":
        differences.append(f"finish is {finish.reason if finish else 'missing'}")
    if finish is None or finish.usage is None:
        differences.append("no usage")
    elif not (finish.usage.input and finish.usage.output):
        differences.append(f"usage is {finish.usage.input} in, {finish.usage.output} out")
    if doubt:
        differences.append(f"usage is not believed: {doubt}")
    if cost_micros is None:
        differences.append("cost is unknown")
    return differences
