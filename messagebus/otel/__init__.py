"""Telemetry by OpenTelemetry: spans and metrics of what goes on with messages, in every run, store and engine."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import wraps
from typing import Any, Final, Self

from messagebus import logs, telemetry
from messagebus.bus import AsyncMessageBus, MessageBus
from messagebus.delivery.store import Store
from messagebus.dispatch import Run
from messagebus.errors import ConfigurationError
from messagebus.messages import Message

try:
    from opentelemetry import metrics, trace
except ImportError:
    remedy = "Install it: pip install 'pydantic-messagebus[otel]'."
    raise ConfigurationError("turn telemetry on", "opentelemetry-api is not installed", remedy) from None

from opentelemetry.trace import SpanKind

from messagebus.otel.conventions import CONSUMED, DESTINATION, DURATION, ERROR, OPERATION, SECONDS, SYSTEM
from messagebus.otel.gauges import observe
from messagebus.otel.spans import (
    W3C,
    Dispatch,
    Handling,
    Sending,
    Span,
    attributes_of,
    ids_of,
    reported,
    sender_of,
    within,
)

__all__ = ["Instrumentation", "instrument"]


def instrument(
    store: Store | None = None,
    *,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> "Instrumentation":
    """Turn telemetry on for the whole process: each run, store, worker, relay and broker, until `stop` is called.

    Once, where the application starts; for ``messagebus work TARGET`` that is the module named.

    Spans, named as ``handle shop.place_order``, for each time that a message is

    - dispatched: INTERNAL in process, CONSUMER in a worker; tried again, it has a span for each attempt;
    - sent to a store, or published to an engine: PRODUCER, or CLIENT where it was sent to a store before.

    They are of one trace: a message carries the W3C trace context of its sender, in the store and on the engine
    (``traceparent``). In a worker it is the parent of what is done with the message, and linked; where another span is
    active that is the parent, and the sender's is linked. In process the span of a message is the parent of those of
    its follow-ups. A span has the ids of the message, its type and its handlers; of an error its class and nothing
    else, and nothing of what is in a message.

    Metrics: ``messaging.process.duration``, a histogram, and ``messaging.client.consumed.messages``, a counter, of
    each time that a message was handled, or failed (with ``error.type``). Of ``store``: ``messagebus.store.waiting``,
    ``messagebus.store.oldest_due`` (seconds) and ``messagebus.store.dead_letters``.

    Log records that are written meanwhile carry ``trace_id`` and ``span_id``. Whatever a provider, a processor or an
    exporter raises changes nothing but the telemetry, and is told in a RuntimeWarning.

    >>> from opentelemetry.sdk.trace import TracerProvider
    >>> from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    >>> from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    >>> from messagebus import Command, Registry, handle_message
    >>> class Greet(Command):
    ...     name: str
    >>> registry = Registry()
    >>> greet = registry.register(Greet, lambda command: print("Hello,", command.name))
    >>> provider, exporter = TracerProvider(), InMemorySpanExporter()
    >>> provider.add_span_processor(SimpleSpanProcessor(exporter))
    >>> with instrument(tracer_provider=provider):
    ...     results = handle_message(Greet(name="Ada"), registry=registry)
    Hello, Ada
    >>> [span.name for span in exporter.get_finished_spans()]
    ['handle Greet']

    Args:
        store: whose messages are counted; it is asked when metrics are collected.
        tracer_provider: by default the global one.
        meter_provider: by default the global one.

    Raises:
        ConfigurationError: If it is on already.
    """
    if telemetry.current is not None:
        raise ConfigurationError("turn telemetry on", "it is on already", "Call instrument() once, or stop() it first.")
    return Instrumentation(store, tracer_provider, meter_provider)


class Instrumentation:
    """Telemetry that is on; see `instrument`."""

    def __init__(
        self,
        store: Store | None,
        tracer_provider: trace.TracerProvider | None,
        meter_provider: metrics.MeterProvider | None,
    ) -> None:
        self._tracer = trace.get_tracer(logs.NAME, tracer_provider=tracer_provider)
        meter = metrics.get_meter(logs.NAME, meter_provider=meter_provider)
        self._duration = meter.create_histogram(
            DURATION, "s", "Duration of handling a message.", explicit_bucket_boundaries_advisory=SECONDS
        )
        self._consumed = meter.create_counter(CONSUMED, "{message}", "Messages that were handled, or failed.")
        if store is not None:
            observe(meter, store, lambda: telemetry.current is self)
        telemetry.current = self
        _dispatch_by(self._watched(_DISPATCH), self._awatched(_ADISPATCH))

    def stop(self) -> None:
        """Turn telemetry off. Idempotent."""
        if telemetry.current is self:
            telemetry.current = None
            _dispatch_by(_DISPATCH, _ADISPATCH)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # What the rest of the library calls; see `telemetry.Watch`

    def headers(self) -> Mapping[str, str]:
        carrier: dict[str, str] = {}
        with reported():
            W3C.inject(carrier)
        return carrier

    def within(self, headers: Mapping[str, str]) -> AbstractContextManager[object]:
        return within(headers)

    def sending(
        self, operation: telemetry.Operation, system: str | None, types: Sequence[str]
    ) -> AbstractContextManager[telemetry.Sent]:
        return Sending(self._tracer, operation, SpanKind.PRODUCER, attributes_of(operation, system, types))

    def passing_on(self, message: telemetry.Known, system: str) -> AbstractContextManager[object]:
        attributes = {**attributes_of("publish", system, [message.type]), **ids_of(message)}
        return Span(self._tracer, "publish", SpanKind.CLIENT, attributes, sender_of(message.headers))

    def refused(self, message: telemetry.Known, system: str | None, error: Exception) -> None:
        attributes = attributes_of("handle", system, [message.type])
        sender = sender_of(message.headers)
        with suppress(Exception), Handling(self, SpanKind.CONSUMER, {**attributes, **ids_of(message)}, sender):
            raise error

    def _watched(self, dispatch: "_Dispatch") -> "_Dispatch":
        @wraps(dispatch)
        def dispatch_message(run: MessageBus, message: Message) -> None:
            with self._handling(run, message):
                dispatch(run, message)

        return dispatch_message

    def _awatched(self, dispatch: "_AsyncDispatch") -> "_AsyncDispatch":
        @wraps(dispatch)
        async def dispatch_message(run: AsyncMessageBus, message: Message) -> None:
            with self._handling(run, message):
                await dispatch(run, message)

        return dispatch_message

    def _handling(self, run: Run, message: Message) -> AbstractContextManager[object]:
        delivery = run._in_hand
        if delivery is None or delivery.message is not message:
            return nullcontext()  # The bus will refuse it.
        return Dispatch(self, run, delivery, is_first=vars(run).setdefault(_FIRST, delivery) is delivery)

    def _count(self, seconds: float, attributes: Mapping[str, Any]) -> None:
        """Count a message that was handled, or failed."""
        counted = {name: attributes[name] for name in (SYSTEM, OPERATION, DESTINATION, ERROR) if name in attributes}
        with reported():
            self._duration.record(seconds, counted)
            self._consumed.add(1, counted)


# A run that nobody watches pays nothing, not even for a look whether somebody does: what dispatches its messages is
# another method while somebody is watching. It is final, so that there are these two.

_Dispatch = Callable[[MessageBus, Message], None]
_AsyncDispatch = Callable[[AsyncMessageBus, Message], Awaitable[None]]
_DISPATCH: Final[_Dispatch] = MessageBus.dispatch_message
_ADISPATCH: Final[_AsyncDispatch] = AsyncMessageBus.dispatch_message
_FIRST: Final = "_watched_first"
"""The attribute of a run that is watched in which its first message is kept."""


def _dispatch_by(dispatch: _Dispatch, adispatch: _AsyncDispatch) -> None:
    for bus, method in ((MessageBus, dispatch), (AsyncMessageBus, adispatch)):
        setattr(bus, "dispatch_message", method)  # noqa: B010 - to the type checkers it is final, as it is to users
