"""[B5] One trace from an HTTP request through outbox, engine and inbox to the last handler (OpenTelemetry)."""

import asyncio
import threading

import pytest

from messagebus import Registry
from messagebus.brokers import Relay
from messagebus.delivery import Worker
from messagebus.testing.shop import CancelOrder, OrderPlaced, PlaceOrder
from tests.brokers import nursery

pytest.importorskip("opentelemetry.sdk", reason="no SDK of OpenTelemetry here")
pytest.importorskip("httpx")
pytest.importorskip("starlette")

import httpx
from opentelemetry import propagate
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from messagebus.http import create_app
from messagebus.otel import instrument

QUIET = {"log_level": "disabled", "error_log_level": "disabled"}


@pytest.fixture
def engine(engines):
    """One engine is as good as another here: what is on the wire is the same."""
    server = engines("nats")
    server.name = "nats"
    return server


async def post(app):
    """Send a message to an ASGI application."""
    headers = {}
    propagate.inject(headers)
    body = {"type": "shop.place_order", "data": {"order_id": "o-1"}}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
        assert 202 == (await client.post("/messages", json=body, headers=headers)).status_code


def test_one_trace_through_an_engine(open_broker, until):
    """A service that puts requests into an outbox, and one that handles and sends on, over the engine and back."""
    exporter, provider, registry, done = InMemorySpanExporter(), TracerProvider(), Registry(), threading.Event()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    registry.register(PlaceOrder, lambda command: OrderPlaced(order_id=command.order_id))
    registry.register(OrderPlaced, lambda event: CancelOrder(order_id=event.order_id))
    registry.register(CancelOrder, lambda command: done.set())
    outbox, inbox = nursery.opened("memory://"), nursery.opened("memory://")
    worker = Worker(open_broker("billing"), registry, inbox=inbox, **QUIET)

    with instrument(tracer_provider=provider):
        with provider.get_tracer("tests").start_as_current_span("POST /messages"):
            asyncio.run(post(create_app(accept=[PlaceOrder], store=outbox)))
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
        "POST /messages": (SpanKind.INTERNAL, None),
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
    for type, cause in [("place_order", "POST /messages"), ("order_placed", "handle shop.place_order"),
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
