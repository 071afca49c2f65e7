"""Errors to Sentry and spans to OpenTelemetry, where their settings are set. What people write goes to neither.

Their own ways to look into frameworks are off, since they take bodies, cookies, local variables and prompts along, and
leave out what looks like a secret. Here it is the other way round: what is known to be none is sent.
"""

import logging
import time
from contextvars import ContextVar
from hashlib import blake2b
from typing import Any

import msgspec
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from config.logging import JsonFormatter, message_without_values, walk_exceptions
from core import tracing
from core.tracing import Attributes

ROOT_SPAN = "request"
TAGS = ("request_id", "turn_id", "user_id", "task", "route")
KEPT_OF_EVENT = ("event_id", "timestamp", "level", "platform", "release", "server_name", "sdk")
KEPT_OF_FRAME = ("filename", "module", "function", "lineno", "pre_context", "context_line", "post_context", "in_app")
"""Where in our code; the lines around it are of the program."""

_formatter = JsonFormatter()


def start_reporting() -> None:
    """Start what the settings want. Raises ImproperlyConfigured where its package is missing."""
    try:
        if settings.SENTRY_DSN:
            _start_sentry()
        if settings.OTEL_EXPORTER_OTLP_ENDPOINT:
            _start_opentelemetry()
    except ImportError as error:
        raise ImproperlyConfigured(
            f"{error.name} is missing, which SENTRY_DSN or OTEL_EXPORTER_OTLP_ENDPOINT needs: "
            "pip install -r requirements-watching.txt -c constraints.txt"
        ) from error


# --- Sentry ----------------------------------------------------------------------------------------------------------


def _start_sentry() -> None:
    import sentry_sdk
    from sentry_sdk.integrations.atexit import AtexitIntegration
    from sentry_sdk.integrations.dedupe import DedupeIntegration
    from sentry_sdk.integrations.excepthook import ExcepthookIntegration
    from sentry_sdk.integrations.logging import LoggingIntegration

    sentry_sdk.init(
        dsn=settings.SENTRY_DSN,
        default_integrations=False,
        auto_enabling_integrations=False,  # those of OpenAI and Anthropic take prompts
        integrations=[
            LoggingIntegration(level=None, event_level=logging.ERROR),
            ExcepthookIntegration(),
            DedupeIntegration(),
            AtexitIntegration(callback=lambda _pending, _timeout: None),
        ],
        send_default_pii=False,
        include_local_variables=False,
        max_request_body_size="never",
        max_breadcrumbs=0,
        auto_session_tracking=False,
        send_client_reports=False,
        before_send=event_without_values,  # type: ignore[arg-type]  # its event is a dict with names for keys
    )


def event_without_values(event: dict[str, Any], hint: dict[str, Any]) -> dict[str, Any]:
    """Return a new event with what the log says of it, and with its exceptions as the log tells them."""
    record = hint.get("log_record")
    line = msgspec.json.decode(_formatter.format(record)) if isinstance(record, logging.LogRecord) else {}
    kept = {name: event[name] for name in KEPT_OF_EVENT if name in event}
    for known in ("at", "level", "traceback"):
        line.pop(known, None)
    kept["message"], kept["logger"] = line.pop("message", "Uncaught"), line.pop("logger", "")
    kept["tags"] = {name: str(line.pop(name)) for name in TAGS if name in line}
    if "user_id" in kept["tags"]:
        kept["user"] = {"id": kept["tags"]["user_id"]}
    kept["extra"] = line
    if exc_info := hint.get("exc_info") or (record and record.exc_info):
        messages = {(type(one).__name__, str(one)): message_without_values(one) for one in walk_exceptions(exc_info[1])}
        values = (event.get("exception") or {}).get("values") or ()
        kept["exception"] = {"values": [_exception_without_values(value, messages) for value in values]}
    return kept


def _exception_without_values(value: dict[str, Any], messages: dict[tuple[str, str], str]) -> dict[str, Any]:
    kind, text = value.get("type") or "", value.get("value") or ""
    frames = (value.get("stacktrace") or {}).get("frames") or ()
    kept = [{name: frame[name] for name in KEPT_OF_FRAME if name in frame} for frame in frames]
    told = messages.get((kind, text), "…")
    return {"type": kind, "module": value.get("module"), "value": told, "stacktrace": {"frames": kept}}


# --- OpenTelemetry ---------------------------------------------------------------------------------------------------


def _start_opentelemetry() -> None:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    root: ContextVar[tuple[int, int] | None] = ContextVar("root", default=None)

    class Ids(RandomIdGenerator):
        """Gives a request's span the ids that follow from the request's own: others know them without being told."""

        def generate_trace_id(self) -> int:
            ids = root.get()
            return ids[0] if ids else super().generate_trace_id()

        def generate_span_id(self) -> int:
            ids = root.get()
            return ids[1] if ids else super().generate_span_id()

    provider = TracerProvider(
        resource=Resource.create({"service.name": "tertulia"}),
        sampler=ALWAYS_ON,  # `is_traced` says which
        id_generator=Ids(),
    )
    address = settings.OTEL_EXPORTER_OTLP_ENDPOINT.rstrip("/") + "/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=address)))
    tracer = provider.get_tracer("tertulia")

    def collect(request_id: str, name: str, seconds: float, attributes: Attributes) -> None:
        if not is_traced(request_id):
            return
        trace_id, span_id = ids_of(request_id)
        ended = time.time_ns()
        begun = ended - int(seconds * 1e9)
        if name == ROOT_SPAN:
            token = root.set((trace_id, span_id))
            try:
                span = tracer.start_span(name, trace.set_span_in_context(trace.INVALID_SPAN), start_time=begun)
            finally:
                root.reset(token)
        else:
            is_sampled = trace.TraceFlags(trace.TraceFlags.SAMPLED)
            parent = trace.NonRecordingSpan(trace.SpanContext(trace_id, span_id, True, is_sampled))
            span = tracer.start_span(name, trace.set_span_in_context(parent), start_time=begun)
        span.set_attributes({f"tertulia.{key}": value for key, value in attributes.items()})
        span.end(ended)

    tracing.collect_spans(collect)


def is_traced(request_id: str) -> bool:
    """Return whether a request is among those that are traced: the same in every process, and nothing that a client can
    know, who may choose the id."""
    key = blake2b(settings.SECRET_KEY.encode()).digest()
    drawn = int.from_bytes(blake2b(request_id.encode(), digest_size=8, key=key).digest(), "big")
    return drawn % 1000 < int(settings.OTEL_TRACES_PER_THOUSAND)


def ids_of(request_id: str) -> tuple[int, int]:
    """Return the ids of a request's trace and of its first span: the request's own, where it is 32 hexadecimal digits,
    so that the id a person is shown finds the trace."""
    digest = blake2b(request_id.encode(), digest_size=24).digest()
    trace_id, span_id = int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:], "big")
    if len(request_id) == 32 and all(digit in "0123456789abcdef" for digit in request_id):
        trace_id = int(request_id, 16)
    return trace_id or 1, span_id or 1
