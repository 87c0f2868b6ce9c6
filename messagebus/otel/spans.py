"""Spans: of what, under which parent, with which links; and that none of them ever raises."""

import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context, trace
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.contextvars import bind_contextvars

from messagebus import logs, telemetry
from messagebus.errors import full_name
from messagebus.otel.conventions import (
    ATTEMPT,
    CONVERSATION_ID,
    COUNT,
    DESTINATION,
    ERROR,
    FAILED,
    HANDLERS,
    MESSAGE_ID,
    OPERATION,
    OPERATION_TYPE,
    SYSTEM,
    TYPES,
)

if TYPE_CHECKING:
    from messagebus.otel import Instrumentation

__all__ = [
    "W3C", "Dispatch", "Handling", "Sending", "Span", "attributes_of", "ids_of", "reported", "sender_of", "within",
]  # fmt: skip

W3C: Final = TraceContextTextMapPropagator()


def attributes_of(operation: str, system: str | None, types: Sequence[str]) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        SYSTEM: (system or logs.NAME).lower(),
        OPERATION: operation,
        OPERATION_TYPE: TYPES[operation],
    }
    if len(set(types)) == 1:
        attributes[DESTINATION] = types[0]
    if len(types) != 1:
        attributes[COUNT] = len(types)
    return attributes


def ids_of(message: telemetry.Known) -> dict[str, str]:
    return {MESSAGE_ID: message.id, CONVERSATION_ID: message.correlation_id}


def _active() -> SpanContext:
    return trace.get_current_span().get_span_context()


def sender_of(headers: Mapping[str, str]) -> SpanContext | None:
    """Return the span that a message, or a request, comes from; None if what it says of it is no trace context."""
    if "traceparent" not in headers:
        return None
    with reported():
        found = trace.get_current_span(W3C.extract(headers, context.Context())).get_span_context()
        return found if found.is_valid else None
    return None


def _under(sender: SpanContext) -> context.Context:
    return trace.set_span_in_context(trace.NonRecordingSpan(sender))


@contextmanager
def within(headers: Mapping[str, str]) -> Generator[None, None, None]:
    """Do as `telemetry.within`."""
    token = None
    with reported():
        sender = sender_of(headers)
        if sender is not None and not _active().is_valid:
            token = context.attach(_under(sender))
    try:
        yield
    finally:
        if token is not None:
            context.detach(token)


class Span:
    """A block with a span that is active in it, and never raises by itself.

    The span of the sender is linked; it is the parent too, unless another span is active, or ``follows`` says so.
    """

    def __init__(
        self,
        tracer: trace.Tracer,
        operation: str,
        kind: SpanKind,
        attributes: dict[str, Any],
        sender: SpanContext | None = None,
        *,
        follows: bool = False,
    ) -> None:
        self._tracer, self._kind, self.attributes = tracer, kind, attributes
        self._name = f"{operation} {attributes.get(DESTINATION, '')}".rstrip()
        self._sender, self._follows = sender, follows
        self.span: trace.Span = trace.INVALID_SPAN
        self._token: Any = None

    def __enter__(self) -> Any:
        with reported():
            sender, parent = self._sender, None
            if sender is not None and (self._follows or not _active().is_valid):
                parent = _under(sender)
            links = [Link(sender)] if sender is not None and not self._follows else []
            self.span = self._tracer.start_span(
                self._name, parent, self._kind, self.attributes, links, record_exception=False
            )
            self._token = context.attach(trace.set_span_in_context(self.span))
        self._started = perf_counter()
        return self

    def __exit__(self, cls: type[BaseException] | None, *_: object) -> None:
        seconds = perf_counter() - self._started
        is_over = cls is None or issubclass(cls, Exception)  # Else it was broken off, which is no failure.
        if cls is not None and is_over:
            self.attributes[ERROR] = full_name(cls)
        if is_over:
            self.over(seconds)
        if self._token is not None:
            context.detach(self._token)
        with reported():
            if ERROR in self.attributes:
                self.span.set_attribute(ERROR, self.attributes[ERROR])
                self.span.set_status(StatusCode.ERROR)
            self.span.end()

    def over(self, seconds: float) -> None:
        """Take note of the end, while the span is active."""


class Sending(Span):
    def __enter__(self) -> telemetry.Sent:
        super().__enter__()
        return self._sent

    def _sent(self, ids: str | Sequence[str]) -> None:
        if isinstance(ids, str) and ids:
            with reported():
                self.span.set_attribute(MESSAGE_ID, ids)


class Handling(Span):
    """A message that is handled, and counted."""

    def __init__(
        self,
        owner: "Instrumentation",
        kind: SpanKind,
        attributes: dict[str, Any],
        sender: SpanContext | None,
        *,
        follows: bool = False,
    ) -> None:
        super().__init__(owner._tracer, "handle", kind, attributes, sender, follows=follows)
        self._owner = owner

    def over(self, seconds: float) -> None:
        self._owner._count(seconds, self.attributes)


class Dispatch(Handling):
    """One attempt at a message of a run. What it leads to has its span as the sender."""

    def __init__(self, owner: "Instrumentation", run: Any, delivery: Any, *, is_first: bool) -> None:
        self._run, self._delivery, self._headers = run, delivery, delivery.headers
        kind = SpanKind.INTERNAL if run._origin is None or not is_first else SpanKind.CONSUMER
        attributes = {
            **attributes_of("handle", run._origin, [delivery.plan.name]),
            **ids_of(delivery),
            ATTEMPT: delivery.attempt + 1,
            HANDLERS: [handler.name for handler in delivery.left],
        }
        super().__init__(owner, kind, attributes, sender_of(delivery.headers), follows=not is_first)

    def __enter__(self) -> None:
        super().__enter__()
        own = self._owner.headers()
        if own:
            self._delivery.headers = {**self._headers, **own}
        if self._run._is_logged:
            with reported():
                self._show_ids()

    def _show_ids(self) -> None:
        """Give log records the ids of the span; the bus takes them back when the message is done."""
        shown = self.span.get_span_context()
        if shown.is_valid:
            ids = trace.format_trace_id(shown.trace_id), trace.format_span_id(shown.span_id)
            bind_contextvars(trace_id=ids[0], span_id=ids[1])

    def over(self, seconds: float) -> None:
        super().over(seconds)
        if ERROR in self.attributes:
            with reported():
                self.span.set_attribute(FAILED, [handler.name for handler in self._delivery.left])

    def __exit__(self, cls: type[BaseException] | None, *rest: object) -> None:
        self._delivery.headers = self._headers
        super().__exit__(cls, *rest)


class reported:  # noqa: N801 - used like contextlib.suppress
    """Let what fails in the block change nothing; warn of it."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _cls: object, error: BaseException | None, _: object) -> bool:
        if not isinstance(error, Exception):
            return False
        text = f"Telemetry failed ({full_name(type(error))}); what becomes of the message stands."
        with suppress(Exception):  # A warning may be an error here, and what shows it may fail as well.
            warnings.warn(text, RuntimeWarning, stacklevel=3)
        return True
