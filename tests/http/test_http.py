"""Messages over HTTP: each form of a message in, over a real server, and every refusal; run, and stored."""

import asyncio
import hmac
import json
import logging
import socket
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlsplit

import pytest
from cloudevents.core.bindings import http as sdk
from cloudevents.core.v1.event import CloudEvent
from pydantic import PositiveInt, SecretStr
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Mount

from messagebus import (
    AsyncMessageBus,
    Command,
    ConfigurationError,
    Envelope,
    Event,
    NoHandlerError,
    Private,
    Registry,
    ReturnMessage,
    current_envelope,
    to_json,
)
from messagebus.delivery import Retry, Worker, open_store
from messagebus.http import create_app

QUIET = {"log_level": "disabled", "error_log_level": "disabled"}
JSON = {"content-type": "application/json"}
EVENT = {"content-type": "application/cloudevents+json"}
BATCH = {"content-type": "application/cloudevents-batch+json"}
SECRET = "hush-7f3a"


class PlaceOrder(Command, name="shop.place_order"):
    order_id: str
    quantity: PositiveInt = 1
    token: Annotated[str, Private] = "none"


class OrderPaid(Event):
    order_id: str


class CloseShop(Command):
    """Registered, and not for the public."""


class Confirmation(ReturnMessage):
    order_id: str


class Shop:
    """An application that notes what it handles, and under which envelope."""

    def __init__(self):
        self.registry, self.handled, self.envelopes = Registry(), [], []
        self.registry.register(PlaceOrder, self.place_order)
        self.registry.register(OrderPaid, self.note)
        self.registry.register(CloseShop, self.note)

    def note(self, message):
        self.handled.append(message)
        envelope = current_envelope()
        self.envelopes.append((envelope.id, envelope.correlation_id, envelope.causation_id, dict(envelope.headers)))

    def place_order(self, command):
        self.note(command)
        if command.order_id == "failing":
            raise ValueError(SECRET)
        return Confirmation(order_id=command.order_id)


@pytest.fixture
def shop():
    return Shop()


@pytest.fixture
def run(serve, shop):
    """A client of the application that runs what it takes."""
    return serve(create_app(shop.registry, accept=[PlaceOrder, OrderPaid], **QUIET))


@pytest.fixture
def store(tmp_path):
    store = open_store(f"sqlite:///{tmp_path}/bus.db", timeout=0.05)
    yield store
    store.close()


@pytest.fixture
def stored(serve, store):
    """A client of the application that stores what it takes."""
    return serve(create_app(accept=[PlaceOrder, OrderPaid], store=store))


def order(order_id="o-1", **data):
    return {"type": "shop.place_order", "data": {"order_id": order_id, **data}}


def event(order_id="o-1", id="0" * 32, **attributes):
    return {"specversion": "1.0", "id": id, "source": "/till", **order(order_id), **attributes}


def confirmations(*order_ids):
    return [{"type": "Confirmation", "data": {"order_id": order_id}} for order_id in order_ids]


def post(client, body, headers=JSON, path="/messages"):
    content = body if isinstance(body, bytes) else json.dumps(body)
    return client.post(path, content=content, headers=headers)


def problem(response):
    """Return the status and the last word of the type of a problem, which must be well-formed."""
    told = response.json()
    assert "application/problem+json" == response.headers["content-type"]
    assert response.status_code == told["status"]
    assert told["title"]
    assert SECRET not in response.text
    return told["status"], told["type"].removeprefix("urn:messagebus:problem:")


def work(store, shop, **options):
    return Worker(store, shop.registry, **{**QUIET, **options}).run(until_idle=True)


# Forms of a message, run


def test_wire_form_is_answered_with_return_messages(run, shop):
    """What `to_json` writes is what is taken, and what is given back."""
    response = post(run, to_json(PlaceOrder(order_id="o-1", quantity=2)))

    assert (200, "application/json") == (response.status_code, response.headers["content-type"])
    assert confirmations("o-1") == response.json()
    assert [PlaceOrder(order_id="o-1", quantity=2)] == shop.handled


def test_event_is_answered_with_what_came_back(run, shop):
    """Nothing, as a rule."""
    response = post(run, {"type": "OrderPaid", "data": {"order_id": "o-1"}})

    assert (200, []) == (response.status_code, response.json())
    assert [OrderPaid(order_id="o-1")] == shop.handled


def test_batch_is_answered_with_a_list_for_each(run):
    """In its order; an empty one too."""
    answers = [post(run, batch).json() for batch in ([order("a"), order("b")], [order("c")], [])]

    assert [[confirmations("a"), confirmations("b")], [confirmations("c")], []] == answers


def test_items_of_a_batch_are_read_as_they_stand_there(run, shop):
    """A batch is taken apart, not parsed and written again: a number or a text in it stays what it is."""
    item = b'{ "type" : "shop.place_order", "data": {"order_id": "],[\\u0022\\ud83d\\ude00", "quantity": 2 }}'

    response = post(run, b" [ %b ,\r\n%b\t] " % (item, item))

    assert 200 == response.status_code
    assert [PlaceOrder(order_id='],["\N{GRINNING FACE}', quantity=2)] * 2 == shop.handled


WITH_ALL = event(correlationid="c-1", causationid="m-1", flavour="dark")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (EVENT, WITH_ALL),
        ({"content-type": "Application/CloudEvents+JSON; charset=utf-8"}, WITH_ALL),
        (JSON, WITH_ALL),
        (BATCH, [WITH_ALL]),
        (
            {
                **JSON, "CE-SpecVersion": "1.0", "ce-id": "0" * 32, "ce-source": "/till", "ce-type": "shop.place_order",
                "ce-correlationid": "c-1", "ce-causationid": "%6D-1", "ce-flavour": '"d\\ark"',
            },
            {"order_id": "o-1"},
        ),
    ],
    ids=["structured", "structured, spelt otherwise", "structured, as JSON", "batch", "binary"],
)  # fmt: skip
def test_cloud_event_is_run_under_its_own_envelope(run, shop, headers, body):
    """[B5] In each mode the handler sees the ids and attributes that it came with."""
    response = post(run, body, headers)

    assert 200 == response.status_code
    [(id, correlation, cause, others)] = shop.envelopes
    assert ("0" * 32, "c-1", "m-1", "/till", "dark") == (id, correlation, cause, others["source"], others["flavour"])


def test_data_may_be_left_out_in_each_form(serve, shop):
    """A message without fields has none."""
    client = serve(create_app(shop.registry, accept=[CloseShop], **QUIET))
    binary = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/till", "ce-type": "CloseShop"}

    answers = [post(client, {"type": "CloseShop"}), post(client, b"", binary)]

    assert [200, 200] == [answer.status_code for answer in answers]
    assert [CloseShop(), CloseShop()] == shop.handled


# CloudEvents, checked against the SDK


def sdk_event():
    attributes = {
        "type": "shop.place_order", "source": "/till#7 %", "id": "A234-1234-1234", "correlationid": 'Grüße, "c" 1%',
        "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "datacontenttype": "application/json",
    }  # fmt: skip
    return CloudEvent(attributes, {"order_id": "Grüße", "quantity": 3})


@pytest.mark.parametrize("mode", ["structured", "binary", "batch"])
def test_what_the_sdk_writes_is_read(run, shop, mode):
    """Attributes with blanks, quotes and letters beyond ASCII among them."""
    if mode == "batch":
        body = b"[%b]" % sdk.to_structured_event(sdk_event()).body
        response = post(run, body, BATCH)
    else:
        written = (sdk.to_structured_event if mode == "structured" else sdk.to_binary_event)(sdk_event())
        response = post(run, written.body, written.headers)

    assert 200 == response.status_code
    assert [PlaceOrder(order_id="Grüße", quantity=3)] == shop.handled
    [(id, correlation, _, headers)] = shop.envelopes
    assert ("/till#7 %#A234-1234-1234", 'Grüße, "c" 1%', "/till#7 %") == (id, correlation, headers["source"])


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_what_is_written_goes_through_the_sdk_and_back(run, shop, mode):
    """[B5] The SDK reads what an envelope writes, and what it makes of that is the same message here."""
    message = PlaceOrder(order_id="o-7", quantity=2)
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    sent = Envelope(message, id="1" * 32, correlation_id="c-1", causation_id="m-1", headers=trace)

    theirs = sdk.from_http_event(sdk.HTTPMessage({**EVENT}, sent.to_cloudevent("/shop")))
    written = (sdk.to_structured_event if mode == "structured" else sdk.to_binary_event)(theirs)
    response = post(run, written.body, written.headers)

    assert 200 == response.status_code
    assert [message] == shop.handled
    assert [("1" * 32, "c-1", "m-1", {"source": "/shop", **trace})] == shop.envelopes


# Refusals


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b'{"type":"x"}x', b"[", b"[,]", b"[1,]", b"[1 2]", b"[1]2", b"[" * 100_000]
)
def test_what_is_no_json_is_malformed(run, body):
    """A batch that breaks off, or goes on, included."""
    assert (400, "malformed") == problem(post(run, body))


@pytest.mark.parametrize(
    "body", [b"{", b'{"order_id":"a"}x', b'{"order_id":"a"},"id":"other"', b'1,"type":"OrderPaid"']
)
def test_data_in_binary_mode_is_one_json_value(run, shop, body):
    """Or what follows it in the body could stand for other attributes than those of the headers."""
    headers = {**JSON, "ce-specversion": "1.0", "ce-id": "1", "ce-source": "/till", "ce-type": "shop.place_order"}

    assert (400, "malformed") == problem(post(run, body, headers))
    assert [] == shop.handled


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        (order("o-1", quantity=0, token=SECRET), [{"path": "quantity", "detail": "Input should be greater than 0"}]),
        ({"type": "shop.place_order", "data": {"orderid": SECRET}}, [
            {"path": "order_id", "detail": "Field required"},
            {"path": "", "detail": "it has no field 'orderid'. Did you mean 'order_id'?"},
        ]),
        ({"data": {"order_id": SECRET}}, [{"path": "", "detail": "it has no 'type'"}]),
        (event(time="yesterday"), [{"path": "time", "detail": "Input should be a valid datetime or date"}]),
        (7, [{"path": "", "detail": "it is no JSON object"}]),
    ],
    ids=["wrong value", "unknown field", "no type", "no time", "no object"],
)  # fmt: skip
def test_what_does_not_fit_is_told_by_path(run, shop, body, errors):
    """[L1] With all that is wrong, and no value of it."""
    response = post(run, body)

    assert (422, "invalid-message") == problem(response)
    assert errors == response.json()["errors"]
    assert __name__ not in response.text
    assert [] == shop.handled


@pytest.mark.parametrize("body", [order(), {"specversion": "1.0", **order()}, [event()]])
def test_media_type_of_an_event_is_for_events(run, shop, body):
    """[B5] It has to have an id and a source, and there has to be one."""
    assert (422, "invalid-message") == problem(post(run, body, EVENT))
    assert [] == shop.handled


@pytest.mark.parametrize("body", [[order()], [event(), order()]])
def test_batch_of_events_holds_events(run, shop, body):
    """[B5] Each has to have an id and a source."""
    response = post(run, body, BATCH)

    assert (422, "invalid-message") == problem(response)
    assert len(body) - 1 == response.json()["index"]
    assert [] == shop.handled


def test_batch_is_an_array(run):
    """One event has a media type of its own."""
    assert (400, "malformed") == problem(post(run, event(), BATCH))


def test_class_that_is_not_accepted_is_as_unknown_as_any(run, shop):
    """[L1] Deny by default: that the application has it is nobody's business."""
    answers = [post(run, {"type": name, "data": {}}) for name in ("CloseShop", "ClosedShop", "Confirmation", "o" * 300)]

    assert {(422, "unknown-type")} == {problem(answer) for answer in answers}
    assert 1 == len({answer.text for answer in answers})
    assert [] == shop.handled


def test_near_miss_of_what_is_accepted_is_shown(run):
    """Whoever misspells it is told."""
    response = post(run, {"type": "OrderPayed", "data": {}})

    assert (422, "unknown-type") == problem(response)
    assert "Did you mean OrderPaid?" == response.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/cloudevents+avro"}, {"content-type": "application/cloudevents"},
        {"content-type": "text/plain", "ce-specversion": "1.0"}, {**JSON, "content-encoding": "gzip"},
    ],
)  # fmt: skip
def test_other_media_types_are_refused(run, headers):
    """A form of a browser among them, which could come from any page."""
    response = post(run, order(), headers)

    assert (415, "about:blank") == problem(response)
    assert {"accept", "accept-encoding"} & response.headers.keys()


def test_other_methods_and_paths_are_refused(run):
    """In the same form as all else."""
    response = run.get("/messages")

    assert (405, "about:blank") == problem(response)
    assert "POST" == response.headers["allow"]
    assert (404, "about:blank") == problem(run.get("/"))


def test_without_a_store_there_are_no_outcomes(run):
    """What was run is known to whoever asked for it."""
    assert (404, "about:blank") == problem(run.get("/messages/1"))


def test_failure_of_a_handler_says_nothing_of_it(run, shop):
    """The records tell more, by the id that is given."""
    response = post(run, event("failing"), EVENT)

    assert (500, "handler-failed") == problem(response)
    assert shop.envelopes[0][0] == response.json()["message_id"]
    assert "ValueError" not in response.text


def test_failure_is_recorded_under_the_id_that_is_given(serve, shop, host_logger, caplog):
    """[L20] By default too: at info what is handled, at error what fails."""
    client = serve(create_app(shop.registry, accept=[PlaceOrder], logger=host_logger))
    host_logger.setLevel(logging.INFO)

    response = post(client, order("failing"))

    assert response.json()["message_id"] in caplog.text
    assert SECRET in caplog.text


def test_batch_that_fails_tells_how_far_it_came(run, shop):
    """In its order, until a handler fails: what came before is done, what comes after is not begun."""
    response = post(run, [order("a"), order("failing"), order("b")])

    assert (500, "handler-failed") == problem(response)
    assert (1, [confirmations("a")]) == (response.json()["index"], response.json()["results"])
    assert ["a", "failing"] == [command.order_id for command in shop.handled]


def test_batch_in_which_one_does_not_fit_is_not_begun(run, shop):
    """All are read before the first is run."""
    response = post(run, [order("a"), order("b", quantity=0)])

    assert (422, "invalid-message") == problem(response)
    assert 1 == response.json()["index"]
    assert [] == shop.handled


def test_return_message_without_json_is_a_failure_of_the_server(serve, shop):
    """It is answered, and left to the server's log: it is a bug."""

    class Spoken(ReturnMessage):
        secret: SecretStr

    with shop.registry.override(PlaceOrder, lambda _: Spoken(secret=SECRET)):
        client = serve(create_app(shop.registry, accept=[PlaceOrder], **QUIET))
        assert (500, "about:blank") == problem(post(client, order()))


# The limit


def exchange(server, *parts):
    """Send parts of a request, leave the connection open, and return what comes first of the answer."""
    _, address = server
    with closing(socket.create_connection(address, timeout=30)) as connection:
        for part in parts:
            connection.sendall(part)
        return connection.recv(65_536)


HEAD = b"POST /messages HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        [b"Content-Length: 101\r\n\r\n"],
        [b"Content-Length: 99999999999999999999\r\n\r\n"],
        [b"Transfer-Encoding: chunked\r\n\r\n", b"32\r\n" + b" " * 50 + b"\r\n", b"33\r\n" + b" " * 51 + b"\r\n"],
    ],
    ids=["declared", "declared beyond belief", "in chunks"],
)
def test_body_is_not_read_beyond_the_limit(serve, server, shop, parts):
    """[L4] The answer comes while the rest has not been sent: it is not waited for."""
    serve(create_app(shop.registry, accept=[PlaceOrder], max_bytes=100, **QUIET))

    answer = exchange(server, HEAD + parts[0], *parts[1:])

    assert b"413" == answer.split()[1]
    assert b"application/problem+json" in answer


def test_body_of_just_the_limit_is_read(serve, shop):
    """[L4] In chunks as well."""
    body = json.dumps(order()).encode()
    client = serve(create_app(shop.registry, accept=[PlaceOrder], max_bytes=len(body), **QUIET))

    answers = [post(client, body), client.post("/messages", content=iter([body[:5], body[5:]]), headers=JSON)]
    too_large = post(client, body + b" ")

    assert [200, 200] == [answer.status_code for answer in answers]
    assert (413, "about:blank") == problem(too_large)


# Stored


def test_stored_message_is_told_of_until_it_is_done(stored, store, shop):
    """[D1, D12] From 202 and a place to ask at, to what came back."""
    response = post(stored, order("o-1", token=SECRET))
    place = response.headers["location"]

    assert (202, f"/messages/{response.json()['id']}") == (response.status_code, place)
    waiting = stored.get(place)
    assert ({"id": response.json()["id"], "status": "waiting"}, "no-store") == (
        waiting.json(), waiting.headers["cache-control"]
    )  # fmt: skip
    assert 1 == work(store, shop)
    assert {"id": response.json()["id"], "status": "done", "result": confirmations("o-1")} == stored.get(place).json()
    assert [PlaceOrder(order_id="o-1", token=SECRET)] == shop.handled


def test_stored_message_that_failed_is_told_of_without_the_error(stored, store, shop):
    """[D4] Whoever sent it learns that; why is for whoever runs the worker."""
    place = post(stored, order("failing")).headers["location"]
    work(store, shop, retry=Retry(attempts=1))

    outcome = stored.get(place)

    assert (200, "failed") == (outcome.status_code, outcome.json()["status"])
    assert {"id", "status"} == outcome.json().keys()


@pytest.mark.parametrize("headers", [EVENT, BATCH, None], ids=["structured", "batch", "binary"])
@pytest.mark.parametrize("id", ["0123456789abcdef0123456789ABCDEF", "41"])
def test_event_that_is_delivered_again_is_stored_once(stored, store, shop, headers, id):
    """[D8] By its id, if that is unique whoever made it; else by its source and its id, as the inbox does."""
    body = event(id=id)
    if headers is BATCH:
        body = [body]
    if headers is None:
        headers = {**JSON, **{f"ce-{name}": body[name] for name in ("specversion", "id", "source", "type")}}
        body = body["data"]

    answers = [post(stored, body, headers) for _ in range(2)]

    assert [202, 202] == [answer.status_code for answer in answers]
    assert answers[0].json() == answers[1].json()
    assert 1 == work(store, shop)
    assert id if len(id) > 2 else "/till#41" == shop.envelopes[0][0]


def test_id_with_any_characters_has_a_place(stored, store):
    """Sources are URIs."""
    response = post(stored, event(id="a?b/../c d%2F#é"), EVENT)

    place = response.headers["location"]
    assert {"id": "/till#a?b/../c d%2F#é", "status": "waiting"} == stored.get(place).json()


def test_same_id_with_another_body_is_a_conflict(stored, store):
    """[D8] In a batch nothing of it is stored."""
    post(stored, event(), EVENT)

    single, several = post(stored, event("o-2"), EVENT), post(stored, [event(id="2"), event("o-2")], BATCH)

    assert (409, "conflict") == problem(single) == problem(several)
    assert 1 == several.json()["index"]
    assert 1 == store.stats().due


def test_batch_is_stored_in_one_transaction(stored, store, shop):
    """In its order; the answer has the id of each."""
    response = post(stored, [event("a", id="1"), event("b", id="2"), event("a", id="1")], BATCH)

    assert 202 == response.status_code
    assert [{"id": "/till#1"}, {"id": "/till#2"}, {"id": "/till#1"}] == response.json()
    work(store, shop)
    assert ["a", "b"] == [command.order_id for command in shop.handled]


@pytest.mark.parametrize("attributes", [{"id": "é" * 1_000}, {"correlationid": "\0"}, {"partitionkey": "a\0b"}])
def test_attribute_that_no_store_takes_is_refused(stored, store, attributes):
    """By whoever may mend it."""
    answers = [post(stored, event(**attributes), EVENT), post(stored, [event(**attributes)], BATCH)]

    assert [(422, "invalid-message")] * 2 == [problem(answer) for answer in answers]
    assert 0 == store.stats().due


def test_partition_key_is_the_key_of_the_store(stored, store):
    """[D5] As that of an event that an engine brings."""
    post(stored, event(partitionkey="customer-7"), EVENT)
    post(stored, [event(id="2", partitionkey="customer-8")], BATCH)

    assert ["customer-7", "customer-8"] == [waiting.key for waiting in store.waiting()]


def test_outcome_is_told_of_accepted_messages_only(stored, store, shop):
    """Deny by default: of what else the store holds nothing is told, nor whether it does."""
    hidden = store.send(CloseShop())

    answers = [stored.get(f"/messages/{id}") for id in (hidden, "0" * 32, "", "a/b")]

    assert {(404, "unknown-message")} == {problem(answer) for answer in answers}
    assert 1 == len({answer.text for answer in answers})


def test_store_that_cannot_be_written_now_is_unavailable(stored, store, tmp_path):
    """[D1] It was not stored, and may be sent again."""
    with closing(sqlite3.connect(tmp_path / "bus.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        answers = [post(stored, order()), post(stored, [order()])]

    assert [(503, "about:blank")] * 2 == [problem(answer) for answer in answers]
    assert {"1"} == {answer.headers["retry-after"] for answer in answers}
    assert 202 == post(stored, order()).status_code


def test_health_is_that_of_the_store(stored, store):
    """What asks for it sends no more requests to a service that could not do its work."""
    healthy = stored.get("/healthz")
    store.close()

    assert (200, {"status": "ok"}) == (healthy.status_code, healthy.json())
    assert (503, "about:blank") == problem(stored.get("/healthz"))


def test_health_without_a_store_is_that_of_the_server(run):
    """It answers."""
    assert (200, {"status": "ok"}) == ((response := run.get("/healthz")).status_code, response.json())


# Traces

TRACEPARENT = f"00-{'1' * 32}-{'2' * 16}-01"


def test_trace_of_the_request_goes_on(stored, store, shop):
    """[B5] The message carries it on, and the event's own comes first."""
    trace = {"traceparent": TRACEPARENT, "tracestate": "a=1"}
    own = f"00-{'3' * 32}-{'4' * 16}-01"

    post(stored, order(), {**JSON, **trace})
    post(stored, event(id="5" * 32), {**EVENT, **trace})
    post(stored, event(id="6" * 32, traceparent=own), {**EVENT, **trace})
    work(store, shop)

    assert [trace, {"source": "/till", **trace}, {"source": "/till", "traceparent": own}] == [
        headers for *_, headers in shop.envelopes
    ]


@pytest.mark.parametrize("trace", [{"traceparent": "no trace"}, {"tracestate": "a=1"}])
def test_what_is_no_trace_is_left_out(run, shop, trace):
    """Anybody may send any header."""
    post(run, order(), {**JSON, **trace})

    assert [{}] == [headers for *_, headers in shop.envelopes]


# Who may


def keyed(request):
    return request.headers.get("authorization") == "Bearer key"


async def keyed_later(request):
    await asyncio.sleep(0)
    return keyed(request)


@pytest.mark.parametrize("authenticate", [keyed, keyed_later])
def test_who_is_not_authenticated_is_not_let_in(serve, server, store, authenticate):
    """Before anything of the body is read; only health is for all."""
    client = serve(create_app(accept=[PlaceOrder], store=store, authenticate=authenticate))
    known = {"authorization": "Bearer key"}
    place = post(client, order(), {**JSON, **known}).headers["location"]

    refused = [post(client, order()), post(client, b"{"), client.get(place), client.get("/openapi.json")]
    unread = exchange(server, HEAD + b"Content-Length: 10\r\n\r\n")

    assert [(401, "about:blank")] * 4 == [problem(answer) for answer in refused]
    assert {"Bearer"} == {answer.headers["www-authenticate"] for answer in refused}
    assert b"401" == unread.split()[1]
    assert 200 == client.get(place, headers=known).status_code
    assert 200 == client.get("/openapi.json", headers=known).status_code
    assert 200 == client.get("/healthz").status_code


def test_hook_may_say_more(serve, shop):
    """By Starlette's own exception, which is FastAPI's too."""

    def authenticate(request):
        if "x-blocked" in request.headers:
            raise HTTPException(403, "This account is closed.")
        raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})

    client = serve(create_app(shop.registry, accept=[PlaceOrder], authenticate=authenticate, **QUIET))

    forbidden, unauthorised = post(client, order(), {**JSON, "x-blocked": "1"}), post(client, order())

    assert (403, "about:blank") == problem(forbidden)
    assert "This account is closed." == forbidden.json()["detail"]
    assert (401, "about:blank") == problem(unauthorised)
    assert "Basic" == unauthorised.headers["www-authenticate"]


async def signed(request):
    digest = hmac.digest(b"key", await request.body(), "sha256").hex()
    return hmac.compare_digest(digest, request.headers.get("x-signature", ""))


def test_hook_may_read_the_body(serve, server, shop):
    """Webhooks are signed; and the limit holds for whoever reads [L4]."""
    client = serve(create_app(shop.registry, accept=[PlaceOrder], authenticate=signed, max_bytes=100, **QUIET))
    body = to_json(PlaceOrder(order_id="o-1"))
    signature = {"x-signature": hmac.digest(b"key", body, "sha256").hex()}

    answers = [post(client, body, {**JSON, **signature}), post(client, body + b" ", {**JSON, **signature})]
    too_large = exchange(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"65\r\n" + b" " * 101 + b"\r\n")

    assert [200, 401] == [answer.status_code for answer in answers]
    assert b"413" == too_large.split()[1]


@pytest.mark.parametrize("verdict", [None, False, ""])
def test_hook_that_does_not_say_yes_lets_nobody_in(serve, shop, verdict):
    """Deny by default: one that forgets to return something too."""
    client = serve(create_app(shop.registry, accept=[PlaceOrder], authenticate=lambda request: verdict, **QUIET))

    assert (401, "about:blank") == problem(post(client, order()))


def test_hook_that_fails_lets_nobody_in(serve, shop):
    """And what it says stays here."""

    def authenticate(request):
        raise ValueError(SECRET)

    client = serve(create_app(shop.registry, accept=[PlaceOrder], authenticate=authenticate, **QUIET))

    assert (500, "about:blank") == problem(post(client, order()))
    assert [] == shop.handled


# The bus, and where it stands


def test_loop_goes_on_while_a_blocking_handler_waits(serve, shop):
    """[L24] As on the bus anywhere: `blocking=True` sends a plain handler to a thread."""
    waits, goes_on = threading.Event(), threading.Event()
    registry = Registry()

    def place_order(command):
        waits.set()
        assert goes_on.wait(30)

    registry.register(PlaceOrder, place_order, blocking=True)
    client = serve(create_app(registry, accept=[PlaceOrder], **QUIET))
    sender = threading.Thread(target=post, args=(client, order()))
    sender.start()

    assert waits.wait(30)
    assert 200 == client.get("/healthz").status_code
    goes_on.set()
    sender.join()


def test_bus_class_is_the_configuration(serve, shop):
    """Its registry, and what it overrides."""

    class Forgiving(AsyncMessageBus):
        registry = shop.registry

        async def handle_exception(self, exc, message):
            pass

    client = serve(create_app(accept=[PlaceOrder], bus=Forgiving, **QUIET))

    assert (200, []) == ((response := post(client, order("failing"))).status_code, response.json())


def test_it_can_be_mounted_anywhere(serve, store, shop):
    """Places and the document tell where."""
    client = serve(Starlette(routes=[Mount("/the bus", create_app(accept=[PlaceOrder], store=store))]))

    response = post(client, order(), path="/the%20bus/messages")

    assert f"/the%20bus/messages/{response.json()['id']}" == urlsplit(response.headers["location"]).path
    assert "waiting" == client.get(response.headers["location"]).json()["status"]
    assert [{"url": "/the%20bus"}] == client.get("/the%20bus/openapi.json").json()["servers"]


@pytest.mark.parametrize(
    ("accept", "error"),
    [([], ConfigurationError), ([Confirmation], ConfigurationError), ([PlaceOrder], NoHandlerError)],
    ids=["nothing", "a return message", "a command without handler"],
)
def test_application_that_could_not_work_is_not_made(accept, error):
    """When it is made, not at the first request."""
    with pytest.raises(error):
        create_app(Registry(), accept=accept)


def test_class_that_cannot_be_stored_is_not_accepted(store):
    """[D1] A `SecretStr` does not come back from JSON."""

    class LogIn(Command):
        password: SecretStr

    with pytest.raises(ConfigurationError, match="Annotated"):
        create_app(accept=[LogIn], store=store)


def test_missing_extra_says_what_to_install(fresh_python):
    """The install line is the remedy."""
    result = fresh_python("import sys; sys.modules['starlette'] = None; import messagebus.http")

    assert "pip install 'pydantic-messagebus[http]'" in result.stderr.splitlines()[-1]
    assert "ConfigurationError" in result.stderr.splitlines()[-1]
    assert "During handling" not in result.stderr


def test_nothing_of_it_is_loaded_before_it_is_used(fresh_python):
    """Neither by the core nor by a store."""
    script = "import sys, messagebus, messagebus.delivery; print(*{'starlette', 'messagebus.http'} & {*sys.modules})"

    assert "\n" == fresh_python(script).stdout
