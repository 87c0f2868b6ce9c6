"""[B5] A request is the parent of what is done with it, from the client to the last handler (OpenTelemetry)."""

import pytest

from messagebus import Command, Event, Registry
from messagebus.delivery import Worker, open_store

pytest.importorskip("starlette")
pytest.importorskip("opentelemetry.sdk", reason="no SDK of OpenTelemetry here")
from opentelemetry import propagate
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from messagebus.http import create_app
from messagebus.otel import instrument

QUIET = {"log_level": "disabled", "error_log_level": "disabled"}
OWN = f"00-{'3' * 32}-{'4' * 16}-01"


class PlaceOrder(Command, name="shop.place_order"):
    order_id: str


class OrderPlaced(Event, name="shop.order_placed"):
    order_id: str


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with instrument(tracer_provider=provider):
        yield provider


@pytest.fixture
def registry():
    registry = Registry()
    registry.register(PlaceOrder, lambda command: OrderPlaced(order_id=command.order_id))
    registry.register(OrderPlaced, lambda event: None)
    return registry


@pytest.fixture
def store():
    store = open_store("memory://")
    yield store
    store.close()


def post(client, provider, body, **headers):
    with provider.get_tracer("tests").start_as_current_span("POST /messages"):
        propagate.inject(headers)
        assert client.post("/messages", json=body, headers=headers).is_success


def chain(exporter):
    """Return the names of all spans, each with that of its parent; they are of one trace."""
    spans = exporter.get_finished_spans()
    names = {span.context.span_id: span.name for span in spans}
    assert 1 == len({span.context.trace_id for span in spans})
    return {span.name: span.parent and names[span.parent.span_id] for span in spans}


ORDER = {"type": "shop.place_order", "data": {"order_id": "o-1"}}
EVENT = {"specversion": "1.0", "id": "0" * 32, "source": "/till", **ORDER}
CLOUDEVENT = {"content-type": "application/cloudevents+json"}


@pytest.mark.parametrize(("body", "headers"), [(ORDER, {}), (EVENT, CLOUDEVENT)])
def test_request_is_the_parent_of_what_is_run(serve, provider, exporter, registry, body, headers):
    """Though the server is not instrumented."""
    client = serve(create_app(registry, accept=[PlaceOrder], **QUIET))

    post(client, provider, body, **headers)

    assert {
        "POST /messages": None,
        "handle shop.place_order": "POST /messages",
        "handle shop.order_placed": "handle shop.place_order",
    } == chain(exporter)


@pytest.mark.parametrize(("body", "headers"), [(ORDER, {}), (EVENT, CLOUDEVENT), ([ORDER], {})])
def test_request_is_the_parent_of_what_is_stored(serve, provider, exporter, registry, store, body, headers):
    """And of what a worker does with it, later and elsewhere."""
    client = serve(create_app(accept=[PlaceOrder], store=store))

    post(client, provider, body, **headers)
    Worker(store, registry, **QUIET).run(until_idle=True)

    assert {
        "POST /messages": None,
        "send shop.place_order": "POST /messages",
        "handle shop.place_order": "send shop.place_order",
        "send shop.order_placed": "handle shop.place_order",
        "handle shop.order_placed": "send shop.order_placed",
    } == chain(exporter)


def test_event_keeps_the_trace_of_its_own(serve, provider, store):
    """The request is only who brought it."""
    client = serve(create_app(accept=[PlaceOrder], store=store))

    post(client, provider, {**EVENT, "traceparent": OWN}, **CLOUDEVENT)
    [stored] = store.claim(1, 30).messages

    assert OWN == stored.headers["traceparent"]
