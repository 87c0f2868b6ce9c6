"""[B5] One trace from the first sender through outbox, engine and inbox to the last handler (OpenTelemetry)."""

import threading

import pytest

from messagebus import Registry
from messagebus.brokers import Relay
from messagebus.delivery import Worker
from messagebus.testing.shop import CancelOrder, OrderPlaced, PlaceOrder
from tests.brokers import nursery

pytest.importorskip("opentelemetry.sdk", reason="no SDK of OpenTelemetry here")

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from messagebus.otel import instrument

QUIET = {"log_level": "disabled", "error_log_level": "disabled"}


@pytest.fixture
def engine(engines):
    """One engine is as good as another here: what is on the wire is the same."""
    server = engines("nats")
    server.name = "nats"
    return server


def test_one_trace_through_an_engine(open_broker, until):
    """A service that produces through an outbox, and one that handles and sends on, over the engine and back."""
    exporter, provider, registry, done = InMemorySpanExporter(), TracerProvider(), Registry(), threading.Event()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    registry.register(PlaceOrder, lambda command: OrderPlaced(order_id=command.order_id))
    registry.register(OrderPlaced, lambda event: CancelOrder(order_id=event.order_id))
    registry.register(CancelOrder, lambda command: done.set())
    outbox, inbox = nursery.opened("memory://"), nursery.opened("memory://")
    worker = Worker(open_broker("billing"), registry, inbox=inbox, **QUIET)

    with instrument(tracer_provider=provider):
        with provider.get_tracer("tests").start_as_current_span("GET /"):
            outbox.send(PlaceOrder(order_id="o-1"))
        thread = threading.Thread(target=worker.run)
        thread.start()
        Relay(outbox, open_broker("shop"), **QUIET).run(until_idle=True)
        until(lambda: done.is_set() or not thread.is_alive())
        worker.stop()
        thread.join()

    spans = {span.name: span for span in exporter.get_finished_spans()}
    links = {name: [link.context.span_id for link in span.links] for name, span in spans.items()}
    shown = {name: (span.kind, span.attributes.get("messaging.system")) for name, span in spans.items()}
    producer, client, consumer = SpanKind.PRODUCER, SpanKind.CLIENT, SpanKind.CONSUMER
    assert {
        "GET /": (SpanKind.INTERNAL, None),
        "send shop.place_order": (producer, "messagebus"),
        "publish shop.place_order": (client, "nats"),
        "handle shop.place_order": (consumer, "nats"),
        "send shop.order_placed": (producer, "messagebus"),
        "publish shop.order_placed": (client, "nats"),
        "handle shop.order_placed": (consumer, "nats"),
        "send shop.cancel_order": (producer, "messagebus"),
        "handle shop.cancel_order": (consumer, "messagebus"),
    } == shown
    assert 1 == len({span.context.trace_id for span in spans.values()})
    for type, cause in [("place_order", "GET /"), ("order_placed", "handle shop.place_order"),
                        ("cancel_order", "handle shop.order_placed")]:  # fmt: skip
        sent = spans[f"send shop.{type}"]
        assert spans[cause].context.span_id == sent.parent.span_id
        for name in {f"publish shop.{type}", f"handle shop.{type}"} & spans.keys():
            assert sent.context.span_id == spans[name].parent.span_id
            assert [sent.context.span_id] == links[name]


def test_publishing_is_a_span(open_broker):
    """PRODUCER, where no store comes before; with what the engine said."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    broker = open_broker("shop")

    with instrument(tracer_provider=provider):
        message_id = broker.send(PlaceOrder(order_id="o-1"))
        with pytest.raises(ValueError, match="refused by NATS"):
            broker.send(PlaceOrder(order_id="o" * 2_000_000))

    sent, refused = exporter.get_finished_spans()
    assert {
        "messaging.system": "nats",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "shop.place_order",
        "messaging.message.id": message_id,
    } == dict(sent.attributes)
    assert SpanKind.PRODUCER is sent.kind
    assert "messagebus.errors.UnwritableMessageError" == refused.attributes["error.type"]
