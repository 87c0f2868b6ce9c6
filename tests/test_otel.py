"""Telemetry: one trace from the first sender to the last handler, figures, ids in records; nothing when off."""

import asyncio
import json
import sys
import threading
from contextlib import suppress
from typing import Annotated

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tenacity import Retrying, stop_after_attempt

from messagebus import (
    AsyncMessageBus,
    Command,
    ConfigurationError,
    Envelope,
    Event,
    MessageBus,
    Private,
    Registry,
    ReturnMessage,
    current_envelope,
    handle_json,
    handle_message,
    telemetry,
)
from messagebus.delivery import ConflictError, Retry, Worker, open_store
from messagebus.otel import instrument
from messagebus.testing import Clock

QUIET = {"log_level": "disabled", "error_log_level": "disabled"}
SENDER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE, PARENT = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331


class PlaceOrder(Command, name="shop.place_order"):
    order_id: str


class OrderPlaced(Event, name="shop.order_placed"):
    order_id: str


class Pay(Command, name="shop.pay"):
    token: Annotated[str, Private]


class Confirmation(ReturnMessage):
    order_id: str


class Refused(Exception):
    """What a handler of these tests raises."""


ORDER = PlaceOrder(order_id="o-1")


class Recorder:
    """A provider of tracers and one of meters, and what has come of them."""

    def __init__(self):
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers, self.meters = TracerProvider(), MeterProvider([self.reader])
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))

    def settings(self):
        return {"tracer_provider": self.tracers, "meter_provider": self.meters}

    def root(self, name="GET /"):
        return self.tracers.get_tracer("tests").start_as_current_span(name)

    @property
    def spans(self):
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time)

    def named(self, *names):
        spans = self.spans
        assert sorted(names) == sorted(span.name for span in spans)
        return [next(span for span in spans if span.name == name) for name in names]

    def points(self):
        """Return what was measured: a list of (metric, value or count, attributes)."""
        data = self.reader.get_metrics_data()
        if data is None:
            return []
        metrics = [one for found in data.resource_metrics for scope in found.scope_metrics for one in scope.metrics]
        found = [
            (metric.name, getattr(point, "count", getattr(point, "value", None)), dict(point.attributes))
            for metric in metrics
            for point in metric.data.data_points
        ]
        return sorted(found, key=str)


@pytest.fixture
def recorder():
    recorder = Recorder()
    yield recorder
    if telemetry.current is not None:
        telemetry.current.stop()
    recorder.tracers.shutdown()
    recorder.meters.shutdown()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(clock):
    store = open_store("memory://", clock=clock)
    yield store
    store.close()


@pytest.fixture
def registry():
    registry = Registry()

    @registry.handles(PlaceOrder)
    def place(command):
        yield OrderPlaced(order_id=command.order_id)
        yield Confirmation(order_id=command.order_id)

    @registry.handles(OrderPlaced)
    def bill(event):
        pass

    @registry.handles(OrderPlaced)
    def mail(event):
        pass

    return registry


def run_sync(message, registry, **more):
    return MessageBus(message, registry=registry, **{**QUIET, **more})()


def run_async(message, registry, **more):
    return asyncio.run(AsyncMessageBus(message, registry=registry, **{**QUIET, **more})())


class Concurrent(AsyncMessageBus):
    concurrent = True


def run_concurrently(message, registry, **more):
    return asyncio.run(Concurrent(message, registry=registry, **{**QUIET, **more})())


def work(store, registry, **more):
    return Worker(store, registry, **{"log_level": "disabled", "error_log_level": "disabled", **more}).run(
        until_idle=True
    )


def is_child(child, parent):
    return child.parent is not None and child.parent.span_id == parent.context.span_id


def linked(span):
    return [link.context.span_id for link in span.links]


def traceparent_of(span):
    return f"00-{trace.format_trace_id(span.context.trace_id)}-{trace.format_span_id(span.context.span_id)}"


EACH_BUS = pytest.mark.parametrize("run", [run_sync, run_async, run_concurrently])


# Off


def test_nothing_is_imported_until_telemetry_is_asked_for(fresh_python):
    """Whoever does not use it does not load it."""
    script = """
        import sys
        import messagebus.brokers
        from messagebus import Command, Registry, handle_message
        from messagebus.delivery import Worker, open_store
        class PlaceOrder(Command): pass
        registry = Registry()
        registry.register(PlaceOrder, lambda command: None)
        handle_message(PlaceOrder(), registry=registry)
        store = open_store("memory://")
        store.send(PlaceOrder())
        Worker(store, registry).run(until_idle=True)
        print(*(name for name in sys.modules if name.partition(".")[0] == "opentelemetry"))
    """

    assert "" == fresh_python(script).stdout.strip()


def test_nothing_is_emitted_before_and_after(recorder, registry, store):
    """Off unless asked for, though the application has OpenTelemetry; and off again when stopped."""
    with instrument(store, **recorder.settings()):
        pass
    handle_message(ORDER, registry=registry)
    store.send(ORDER)
    work(store, registry)

    assert [] == recorder.spans
    assert [] == recorder.points()
    assert telemetry.current is None


def test_missing_package_is_named(fresh_python):
    """An extra that is not installed says how to install it."""
    script = """
        import sys
        sys.modules["opentelemetry"] = None
        try:
            import messagebus.otel
        except ImportError as error:
            print("not clear:", error)
        except Exception as error:
            print(error)
    """

    assert "pip install 'pydantic-messagebus[otel]'" in fresh_python(script).stdout


def test_turned_on_twice_is_refused(recorder):
    """Each message would have two spans."""
    with instrument(**recorder.settings()), pytest.raises(ConfigurationError, match="it is on already"):
        instrument(**recorder.settings())


# In process


@EACH_BUS
def test_message_in_process_is_a_span(recorder, registry, run):
    """INTERNAL: there is no queue. What a message led to is below it, though its own span is over."""
    with instrument(**recorder.settings()):
        assert [Confirmation(order_id="o-1")] == run(ORDER, registry)

    placing, placed = recorder.named("handle shop.place_order", "handle shop.order_placed")
    message_id = placing.attributes["messaging.message.id"]
    assert {
        "messaging.system": "messagebus",
        "messaging.operation.name": "handle",
        "messaging.operation.type": "process",
        "messaging.destination.name": "shop.place_order",
        "messaging.message.id": message_id,
        "messaging.message.conversation_id": message_id,
        "messagebus.attempt": 1,
        "messagebus.handlers": ("tests.test_otel.registry.<locals>.place",),
    } == dict(placing.attributes)
    assert (SpanKind.INTERNAL, StatusCode.UNSET, None) == (placing.kind, placing.status.status_code, placing.parent)
    assert is_child(placed, placing)
    assert ([], []) == (linked(placing), linked(placed))
    assert message_id == placed.attributes["messaging.message.conversation_id"]
    assert ["bill", "mail"] == [name.rpartition(".")[2] for name in placed.attributes["messagebus.handlers"]]


@EACH_BUS
def test_run_belongs_to_the_span_it_was_started_in(recorder, registry, run):
    """A request, for example."""
    with instrument(**recorder.settings()), recorder.root():
        run(ORDER, registry)

    root, placing, placed = recorder.named("GET /", "handle shop.place_order", "handle shop.order_placed")
    assert is_child(placing, root)
    assert is_child(placed, placing)


@EACH_BUS
def test_span_is_active_in_its_handlers(recorder, run):
    """What a handler traces itself is below: in threads, in tasks, and in a generator."""
    tracer, registry = recorder.tracers.get_tracer("tests"), Registry()

    def blocking(message):
        with tracer.start_as_current_span("in a thread"):
            pass

    def generating(message):
        with tracer.start_as_current_span("in a generator"):
            yield Confirmation(order_id="o-1")

    registry.register(OrderPlaced, blocking, **({} if run is run_sync else {"blocking": True}))
    registry.register(OrderPlaced, generating)
    with instrument(**recorder.settings()):
        run(OrderPlaced(order_id="o-1"), registry)

    placed, thread, generator = recorder.named("handle shop.order_placed", "in a thread", "in a generator")
    assert is_child(thread, placed)
    assert is_child(generator, placed)


def test_nested_run_is_below_the_handler_that_started_it(recorder, registry):
    """A run in a run is a part of it."""
    registry.register(Pay, lambda command: handle_message(OrderPlaced(order_id="o-1"), registry=registry))
    with instrument(**recorder.settings()):
        handle_message(Pay(token="t"), registry=registry)

    paying, placed = recorder.named("handle shop.pay", "handle shop.order_placed")
    assert is_child(placed, paying)


def test_message_from_outside_goes_on_with_its_trace(recorder, registry):
    """A CloudEvent says where it comes from: the parent if there is no other, linked in any case."""
    event = {"specversion": "1.0", "id": "e-1", "source": "/shop", "type": "shop.order_placed", "traceparent": SENDER,
             "data": {"order_id": "o-1"}}  # fmt: skip

    with instrument(**recorder.settings()):
        handle_json(json.dumps(event), registry=registry)
        with recorder.root():
            handle_json(json.dumps(event), registry=registry)

    alone, root, inside = recorder.spans
    assert (TRACE, PARENT, [PARENT]) == (alone.context.trace_id, alone.parent.span_id, linked(alone))
    assert is_child(inside, root)
    assert [PARENT] == linked(inside)


@pytest.mark.parametrize("header", ["", "00-1", SENDER.replace("00-", "ff-"), "x" * 10_000, SENDER.upper()])
def test_trace_context_that_is_none_begins_a_trace(recorder, registry, header):
    """Whatever stands there, it is no reason to fail."""
    envelope = Envelope(ORDER, headers={"traceparent": header})

    with instrument(**recorder.settings()):
        run_sync(ORDER, registry, envelope=envelope)

    assert recorder.spans[0].parent is None
    assert [] == linked(recorder.spans[0])


def test_attempts_in_process_are_spans(recorder):
    """A retry is something that happens: it has a span of its own, beside the first, and is counted."""
    registry, attempts = Registry(), []

    @registry.handles(PlaceOrder)
    def place(command):
        attempts.append(current_envelope().headers.get("traceparent", "")[:52])
        if len(attempts) < 3:
            raise Refused
        return OrderPlaced(order_id=command.order_id)

    registry.register(OrderPlaced, lambda event: None)

    class Stubborn(MessageBus):
        def message_dispatcher(self, message):
            Retrying(stop=stop_after_attempt(3), reraise=True)(self.dispatch_message, message)

    with instrument(**recorder.settings()), recorder.root():
        Stubborn(ORDER, registry=registry, **QUIET)()

    root, *tries, placed = recorder.spans
    assert [1, 2, 3] == [span.attributes["messagebus.attempt"] for span in tries]
    assert ["tests.test_otel.Refused"] * 2 == [span.attributes.get("error.type") for span in tries[:2]]
    assert StatusCode.UNSET is tries[2].status.status_code
    assert all(is_child(span, root) and linked(span) == [] for span in tries)
    assert attempts == [traceparent_of(span) for span in tries]
    assert is_child(placed, tries[2])


# Failure, and what is nobody's business


@EACH_BUS
def test_failure_is_told_by_its_class_alone(recorder, run):
    """[L21] No text, no traceback, no payload, no secret: of none of that is it known who reads it."""
    registry = Registry()

    def charge(command):
        raise Refused(f"cannot charge {command.token}")

    registry.register(Pay, charge)
    with instrument(**recorder.settings()), pytest.raises(Refused):
        run(Pay(token="canary-1"), registry)

    [span] = recorder.spans
    assert (StatusCode.ERROR, None) == (span.status.status_code, span.status.description)
    assert "tests.test_otel.Refused" == span.attributes["error.type"]
    assert () == span.events
    assert "canary" not in span.to_json()
    assert "cannot charge" not in span.to_json()


def test_handlers_that_failed_are_named(recorder, registry):
    """Of several, those."""

    def ship(event):
        raise Refused

    registry.register(OrderPlaced, ship)
    with instrument(**recorder.settings()), pytest.raises(Refused):
        handle_message(OrderPlaced(order_id="o-1"), registry=registry)

    attributes = recorder.spans[0].attributes
    assert ["ship"] == [name.rpartition(".")[2] for name in attributes["messagebus.failed_handlers"]]
    assert 3 == len(attributes["messagebus.handlers"])


def test_interruption_is_no_failure(recorder):
    """[L17] Nobody knows what would have become of it."""
    registry = Registry()

    def interrupted(command):
        raise KeyboardInterrupt

    registry.register(PlaceOrder, interrupted)
    with instrument(**recorder.settings()), pytest.raises(KeyboardInterrupt):
        handle_message(ORDER, registry=registry)

    assert [StatusCode.UNSET] == [span.status.status_code for span in recorder.spans]
    assert [] == recorder.points()


def test_message_that_cannot_be_dispatched_has_failed(recorder):
    """[L6] A command without handler."""
    with instrument(**recorder.settings()), suppress(Exception):
        handle_message(ORDER, registry=Registry())

    assert ["messagebus.errors.NoHandlerError"] == [span.attributes["error.type"] for span in recorder.spans]


# Stores


def by_send(store):
    store.send(message=ORDER)


def by_asend(store):
    asyncio.run(store.asend(ORDER))


def by_send_many(store):
    store.send_many(messages=(message for message in [ORDER]))


def by_transaction(store):
    with store.transaction() as transaction:
        transaction.send(ORDER)


@pytest.mark.parametrize("send", [by_send, by_asend, by_send_many, by_transaction])
@pytest.mark.parametrize("is_async", [False, True])
def test_one_trace_through_a_store(recorder, store, registry, send, is_async):
    """PRODUCER where it is sent, CONSUMER where it is handled: below, and linked; so with what that leads to."""
    with instrument(**recorder.settings()):
        with recorder.root():
            send(store)
        work(store, registry, bus=AsyncMessageBus if is_async else MessageBus)

    root, sent, placing, sent_on, placed = recorder.named(
        "GET /", "send shop.place_order", "handle shop.place_order", "send shop.order_placed",
        "handle shop.order_placed",
    )  # fmt: skip
    assert 1 == len({span.context.trace_id for span in recorder.spans})
    for child, parent in [(sent, root), (placing, sent), (sent_on, placing), (placed, sent_on)]:
        assert is_child(child, parent)
    assert [SpanKind.PRODUCER, SpanKind.CONSUMER] * 2 == [one.kind for one in (sent, placing, sent_on, placed)]
    assert [sent.context.span_id] == linked(placing)
    assert [sent_on.context.span_id] == linked(placed)
    assert placing.attributes["messaging.message.id"] == sent.attributes.get(
        "messaging.message.id", placing.attributes["messaging.message.id"]
    )


def test_sending_is_a_span_with_the_id_of_the_message(recorder, store):
    """By which what became of it can be found."""
    with instrument(**recorder.settings()):
        message_id = store.send(ORDER)

    assert {
        "messaging.system": "messagebus",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "shop.place_order",
        "messaging.message.id": message_id,
    } == dict(recorder.spans[0].attributes)


def test_many_that_are_sent_at_once_are_one_span(recorder, store, registry):
    """They have one sender, and are handled each for itself."""
    with instrument(**recorder.settings()):
        store.send_many([ORDER, OrderPlaced(order_id="o-1")])
        store.send_many([])
        work(store, registry)

    many, none, *rest = recorder.spans
    assert ("send", 2) == (many.name, many.attributes["messaging.batch.message_count"])
    assert ("send", 0) == (none.name, none.attributes["messaging.batch.message_count"])
    handled = [span for span in rest if span.kind is SpanKind.CONSUMER]
    assert 2 == sum(is_child(span, many) for span in handled)


def test_sending_that_failed_is_told(recorder, store):
    """The store refused it."""
    with instrument(**recorder.settings()):
        store.send(ORDER, dedup="d-1")
        with pytest.raises(ConflictError):
            store.send(PlaceOrder(order_id="o-2"), dedup="d-1")

    failed = recorder.spans[1]
    assert "messagebus.errors.ConflictError" == failed.attributes["error.type"]
    assert StatusCode.ERROR is failed.status.status_code


def test_outbox_of_a_session_is_of_the_trace(recorder, registry, tmp_path):
    """Sent in the application's own transaction."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    outbox = pytest.importorskip("messagebus.delivery.outbox")
    store = open_store(f"sqlite:///{tmp_path}/bus.db")
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/bus.db", module=outbox.driver)

    with instrument(**recorder.settings()), engine.begin() as connection:
        outbox.send_in(connection, ORDER)
    engine.dispose()
    [waiting] = store.claim(1, 30).messages
    store.close()

    assert traceparent_of(recorder.spans[0]) == waiting.headers["traceparent"][:52]


def test_active_span_is_the_parent_and_the_sender_is_linked(recorder, store, registry):
    """As the conventions have it by default, for a worker that is itself part of a trace."""
    with instrument(**recorder.settings()):
        store.send(OrderPlaced(order_id="o-1"))
        with recorder.root("job"):
            work(store, registry)

    sent, job, placed = recorder.named("send shop.order_placed", "job", "handle shop.order_placed")
    assert is_child(placed, job)
    assert [sent.context.span_id] == linked(placed)


def test_envelope_keeps_the_trace_it_came_with(recorder, store):
    """What the sender has chosen is not replaced; an envelope without gets one, and is left as it was."""
    given, bare = Envelope(ORDER, id="e-1", headers={"traceparent": SENDER}), Envelope(ORDER, headers={"subject": "o"})

    with instrument(**recorder.settings()):
        store.send(ORDER, envelope=given)
        bare_id = store.send(ORDER, envelope=bare)

    first, second = store.claim(2, 30).messages
    assert {"traceparent": SENDER} == first.headers
    assert traceparent_of(recorder.spans[1]) == second.headers["traceparent"][:52]
    assert "o" == second.headers["subject"]
    assert {"subject": "o"} == bare.headers
    assert bare_id == second.id == bare.id


def test_event_with_a_trace_is_still_an_event(recorder, store):
    """What says so is kept beside the trace context, and is no header."""
    with instrument(**recorder.settings()):
        store.send(OrderPlaced(order_id="o-1"))
        store.send_many([ORDER])

    event, command = store.claim(2, 30).messages
    assert (True, False) == (event.is_event, command.is_event)
    assert {"traceparent"} == {*event.headers, *command.headers}


def test_trace_goes_on_though_nobody_watches(store, registry):
    """A service in the middle without telemetry passes on what it got, in a store as in process."""
    seen = []
    registry.register(OrderPlaced, lambda event: seen.append(current_envelope().headers))
    store.send(ORDER, envelope=Envelope(ORDER, headers={"traceparent": SENDER, "tracestate": "a=b", "source": "/shop"}))

    work(store, registry)

    assert [{"traceparent": SENDER, "tracestate": "a=b"}] == seen


def test_trace_goes_on_without_an_sdk(store, registry):
    """The API alone makes no spans, and passes on what it got."""
    seen = []
    registry.register(OrderPlaced, lambda event: seen.append(current_envelope().headers["traceparent"]))
    store.send(ORDER, envelope=Envelope(ORDER, headers={"traceparent": SENDER}))

    with instrument(tracer_provider=trace.NoOpTracerProvider()):
        work(store, registry)

    assert [SENDER] == seen


def test_retries_of_a_worker_are_spans_of_the_one_trace(recorder, store, clock):
    """Each attempt is below the sender, also those of another process."""
    registry, attempts = Registry(), []

    @registry.handles(PlaceOrder)
    def place(command):
        attempts.append(1)
        if len(attempts) < 3:
            raise Refused

    with instrument(**recorder.settings()):
        store.send(ORDER)
        for _ in range(3):
            work(store, registry, retry=Retry(attempts=5, first=1))
            clock.advance(100)

    sent, *tries = recorder.spans
    assert [1, 2, 3] == [span.attributes["messagebus.attempt"] for span in tries]
    assert all(is_child(span, sent) for span in tries)
    assert [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET] == [span.status.status_code for span in tries]


def test_handler_that_succeeded_is_in_no_later_span(recorder, store, registry, clock):
    """[D4] The unit of retry is a message and a handler."""
    attempts = []

    def ship(event):
        attempts.append(1)
        if len(attempts) < 2:
            raise Refused

    registry.register(OrderPlaced, ship)
    with instrument(**recorder.settings()):
        store.send(OrderPlaced(order_id="o-1"))
        work(store, registry)
        clock.advance(100)
        work(store, registry)

    _, first, second = recorder.spans
    assert ([3], ["ship"]) == (
        [len(first.attributes["messagebus.handlers"])],
        [name.rpartition(".")[2] for name in second.attributes["messagebus.handlers"]],
    )


def test_message_that_cannot_be_read_is_told(recorder, store):
    """[D9] Its trace does not end in nothing."""
    with instrument(**recorder.settings()):
        store.send(ORDER)
        work(store, Registry())

    sent, refused = recorder.spans
    assert is_child(refused, sent)
    assert ("handle shop.place_order", SpanKind.CONSUMER) == (refused.name, refused.kind)
    assert "messagebus.errors.UnknownMessageError" == refused.attributes["error.type"]
    assert ["messagebus.errors.UnknownMessageError"] == [letter.failure.error for letter in store.dead()]


@pytest.mark.parametrize("is_async", [False, True])
def test_lanes_do_not_mix_traces_up(recorder, store, is_async):
    """[L25] Each of many messages that are handled at the same time is in its own trace."""
    registry, seen, together = Registry(), {}, threading.Barrier(4)

    def place(command):
        if not is_async:
            together.wait(10)
        seen[command.order_id] = trace.get_current_span().get_span_context().trace_id
        return OrderPlaced(order_id=command.order_id)

    async def aplace(command):
        await asyncio.sleep(0)
        return place(command)

    registry.register(PlaceOrder, aplace if is_async else place)
    registry.register(OrderPlaced, lambda event: seen.__setitem__(f"{event.order_id}, placed", current_trace()))
    sent = {}
    with instrument(**recorder.settings()):
        for number in range(20):
            with recorder.root():
                sent[f"o-{number}"] = sent[f"o-{number}, placed"] = current_trace()
                store.send(PlaceOrder(order_id=f"o-{number}"))
        work(store, registry, concurrency=4, batch=1)

    assert sent == seen


def current_trace():
    return trace.get_current_span().get_span_context().trace_id


# Requests


def test_headers_of_a_request_are_the_parent(recorder, store, registry):
    """Of what is run and of what is stored; header names are in lower case."""
    with instrument(**recorder.settings()), telemetry.within({"traceparent": SENDER, "host": "shop"}):
        handle_message(ORDER, registry=registry)
        store.send(ORDER)

    ran, _, sent = recorder.spans
    assert {(TRACE, PARENT)} == {(span.context.trace_id, span.parent.span_id) for span in (ran, sent)}
    assert not trace.get_current_span().get_span_context().is_valid


def test_headers_of_a_request_are_nothing_new_to_an_instrumented_server(recorder, registry):
    """Its span is the child of the header's, and ours of that."""
    with instrument(**recorder.settings()), recorder.root(), telemetry.within({"traceparent": SENDER}):
        handle_message(ORDER, registry=registry)

    root, placing, _ = recorder.spans
    assert is_child(placing, root)


def test_headers_of_a_request_are_nothing_if_nobody_watches(registry):
    """Off is off."""
    with telemetry.within({"traceparent": SENDER}):
        assert not trace.get_current_span().get_span_context().is_valid


# Figures

HANDLED = {"messaging.system": "messagebus", "messaging.operation.name": "handle"}


def test_messages_are_counted(recorder, store, registry, clock):
    """Handled, and failed, each time; with how long that took."""

    def ship(event):
        raise Refused

    with instrument(**recorder.settings()):
        handle_message(ORDER, registry=registry)
        store.send(ORDER)
        work(store, registry)
        registry.register(OrderPlaced, ship)
        store.send(OrderPlaced(order_id="o-2"))
        for _ in range(2):
            work(store, registry, retry=Retry(attempts=2, first=1))
            clock.advance(100)
        points = recorder.points()

    placed = {**HANDLED, "messaging.destination.name": "shop.order_placed"}
    expected = [
        (2, {**HANDLED, "messaging.destination.name": "shop.place_order"}),
        (2, placed),
        (2, {**placed, "error.type": "tests.test_otel.Refused"}),
    ]
    for name in ("messaging.client.consumed.messages", "messaging.process.duration"):
        found = [(value, attributes) for metric, value, attributes in points if metric == name]
        assert sorted(expected, key=str) == found


def test_duration_is_what_the_handler_took(recorder, clock):
    """In seconds, in the buckets of the conventions."""
    registry, event = Registry(), threading.Event()
    registry.register(PlaceOrder, lambda command: [] if event.wait(0.03) else None)

    with instrument(**recorder.settings()):
        handle_message(ORDER, registry=registry)
        data = recorder.reader.get_metrics_data()

    [point] = next(
        metric.data.data_points
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        if metric.name == "messaging.process.duration"
    )
    assert 0.03 <= point.sum < 30
    assert (0.005, 10) == (point.explicit_bounds[0], point.explicit_bounds[-1])


def test_store_is_counted_when_somebody_asks(recorder, store, clock):
    """Waiting, the age of the oldest, dead letters."""
    registry = Registry()

    def place(command):
        raise Refused

    registry.register(PlaceOrder, place)
    with instrument(store, **recorder.settings()):
        store.send(ORDER)
        work(store, registry, retry=Retry(attempts=1))
        store.send_many([ORDER, ORDER, ORDER])
        store.send(ORDER, delay=60)
        store.claim(1, 30)
        clock.advance(7)
        found = [point for point in recorder.points() if point[0].startswith("messagebus.store")]

    assert [
        ("messagebus.store.dead_letters", 1, {}),
        ("messagebus.store.oldest_due", 7.0, {}),
        ("messagebus.store.waiting", 1, {"messagebus.state": "delayed"}),
        ("messagebus.store.waiting", 1, {"messagebus.state": "in_flight"}),
        ("messagebus.store.waiting", 2, {"messagebus.state": "due"}),
    ] == found


def test_store_is_asked_once_for_all_figures(recorder, store):
    """And anew each time."""
    asked = []

    class Counted:
        def stats(self):
            asked.append(1)
            return store.stats()

    with instrument(Counted(), **recorder.settings()):
        recorder.points()
        recorder.points()

    assert 2 == len(asked)


def test_store_without_figures_is_left_out(recorder, registry, caplog):
    """It is closed, or out of order; other figures are not concerned, and there is no noise."""
    store = open_store("memory://")
    with instrument(store, **recorder.settings()):
        store.close()
        handle_message(OrderPlaced(order_id="o-1"), registry=registry)
        names = {name for name, *_ in recorder.points()}

    assert {"messaging.client.consumed.messages", "messaging.process.duration"} == names
    assert [] == caplog.records


# Records


@EACH_BUS
def test_records_carry_the_ids_of_the_span(recorder, registry, records, run, host_structlog):
    """The bus's own, and those that handlers write; and none when it is over."""
    registry.register(OrderPlaced, lambda event: structlog.get_logger().info("shipped"))
    chain = [structlog.contextvars.merge_contextvars, structlog.processors.JSONRenderer()]
    host_structlog(processors=chain, logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with instrument(**recorder.settings()):
        run(ORDER, registry, log_level="info")
    run(OrderPlaced(order_id="o-2"), registry, log_level="info")

    placing, placed = (
        {"trace_id": f"{span.context.trace_id:032x}", "span_id": f"{span.context.span_id:016x}"}
        for span in recorder.spans
    )
    expected = [("command.handled", placing), ("shipped", placed), ("event.handled", placed)]
    shown = [(one["event"], {name: one[name] for name in ("trace_id", "span_id") if name in one}) for one in records()]
    assert [*expected, ("shipped", {}), ("event.handled", {})] == shown
    assert {} == structlog.contextvars.get_contextvars()


def test_record_of_a_failure_carries_the_ids_too(recorder, records):
    """There they are wanted most."""
    registry = Registry()

    def place(command):
        raise Refused

    registry.register(PlaceOrder, place)
    with instrument(**recorder.settings()), suppress(Refused):
        MessageBus(ORDER, registry=registry)()

    [record], [span] = records(), recorder.spans
    assert (f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}") == (record["trace_id"], record["span_id"])


# What is broken


class Broken(Exception):
    """What a broken part raises."""


class BrokenExporter(SpanExporter):
    def export(self, spans):
        raise Broken

    def shutdown(self):
        pass


class BrokenAtStart(SpanProcessor):
    def on_start(self, span, parent_context=None):
        raise Broken


class BrokenAtEnd(SpanProcessor):
    def on_end(self, span):
        raise Broken


class BrokenProvider(trace.TracerProvider):
    def get_tracer(self, *args, **kwargs):
        return BrokenTracer()


class BrokenTracer(trace.Tracer):
    def start_span(self, *args, **kwargs):
        raise Broken

    def start_as_current_span(self, *args, **kwargs):
        raise Broken


class UselessTracer(BrokenTracer):
    def start_span(self, *args, **kwargs):
        return None


class UselessProvider(BrokenProvider):
    def get_tracer(self, *args, **kwargs):
        return UselessTracer()


def with_processor(processor):
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider


BROKEN = {
    "exporter": lambda: with_processor(SimpleSpanProcessor(BrokenExporter())),
    "start": lambda: with_processor(BrokenAtStart()),
    "end": lambda: with_processor(BrokenAtEnd()),
    "tracer": BrokenProvider,
    "span": UselessProvider,
}


@pytest.mark.filterwarnings("ignore:Telemetry failed:RuntimeWarning")
@pytest.mark.parametrize("part", BROKEN)
@EACH_BUS
def test_broken_part_changes_no_outcome(recorder, store, registry, records, part, run):
    """Of a run, of what is sent, of what is handled: results, errors and records are the same."""

    def charge(command):
        raise Refused

    registry.register(Pay, charge)
    with instrument(store, tracer_provider=BROKEN[part](), meter_provider=recorder.meters):
        assert [Confirmation(order_id="o-1")] == run(ORDER, registry, log_level="info")
        with pytest.raises(Refused):
            run(Pay(token="t"), registry)
        message_id = store.send(ORDER)
        asyncio.run(store.asend(ORDER))
        assert 4 == work(store, registry)

    assert b"Confirmation" in store.result(message_id)
    assert ["command.handled", "event.handled"] == [record["event"] for record in records()]


def test_broken_part_is_told(registry):
    """In a warning, which names the class of the error and no more."""
    with (
        instrument(tracer_provider=BrokenProvider()),
        pytest.warns(RuntimeWarning, match=r"^Telemetry failed \(tests.test_otel.Broken\); what becomes of"),
    ):
        handle_message(ORDER, registry=registry)


def test_broken_part_changes_no_outcome_though_warnings_are_errors(registry):
    """As they are in these tests."""
    with instrument(tracer_provider=BrokenProvider()):
        assert [Confirmation(order_id="o-1")] == handle_message(ORDER, registry=registry)


@pytest.mark.filterwarnings("ignore:Telemetry failed:RuntimeWarning")
def test_broken_meter_changes_no_outcome(recorder, registry):
    """Figures are not worth a message."""
    with instrument(**recorder.settings()) as instrumentation:
        instrumentation._duration = instrumentation._consumed = None
        assert [Confirmation(order_id="o-1")] == handle_message(ORDER, registry=registry)

    assert 2 == len(recorder.spans)
