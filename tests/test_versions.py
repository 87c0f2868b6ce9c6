"""Versions of messages: what older programs wrote is brought up to date, what newer ones wrote is kept, by anyone."""

import asyncio
import json
import pickle
import re
from contextlib import closing
from functools import partial
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BeforeValidator

import messagebus
from messagebus import (
    Command,
    Envelope,
    Event,
    InvalidMessageError,
    MessageBus,
    MessageClassError,
    NewerVersionError,
    Private,
    Registry,
    ReturnMessage,
    UpcasterError,
    ahandle_json,
    handle_json,
    to_json,
)
from messagebus.brokers.wire import arrival, parcel_of_sending
from messagebus.delivery import Worker, open_store
from messagebus.delivery.sending import prepare
from messagebus.envelope import new_id
from messagebus.errors import full_name
from messagebus.testing import RecordedStore

QUIET: dict[str, Any] = {"log_level": "disabled", "error_log_level": "disabled"}
CANARY = "canary-4111"


class First:
    """The program as it was at first."""

    class PlaceOrder(Command, name="shop.place_order"):
        order: str
        dozens: int = 1


class PlaceOrder(Command, name="shop.place_order", version=3):
    order_id: str
    quantity: int
    currency: str = "EUR"


class Confirmation(ReturnMessage):
    text: str


class OrderPlaced(Event):
    order_id: str = "o-1"


def rename_order(data: dict[str, Any]) -> dict[str, Any]:
    data["order_id"] = data.pop("order")
    return data


def count_pieces(data: dict[str, Any]) -> dict[str, Any]:
    return {"order_id": data["order_id"], "quantity": data["dozens"] * 12}


def confirm(command: PlaceOrder) -> Confirmation:
    return Confirmation(text=f"{command.quantity} for {command.order_id} in {command.currency}")


def new_registry(first: Any = rename_order, second: Any = count_pieces) -> Registry:
    registry = Registry()
    registry.register(PlaceOrder, confirm)
    registry.upcasts(PlaceOrder, from_version=1)(first)
    registry.upcasts(PlaceOrder, from_version=2)(second)
    return registry


def wire(version: Any = None, **data: Any) -> bytes:
    head = {"type": "shop.place_order"} if version is None else {"type": "shop.place_order", "dataversion": version}
    return json.dumps({**head, "data": data}).encode()


def old_registry() -> Registry:
    registry = Registry()
    registry.register(First.PlaceOrder, lambda command: None)
    return registry


def as_mapping(registry: Registry, payload: bytes) -> Any:
    return registry.validate(json.loads(payload))


def as_json(registry: Registry, payload: bytes) -> Any:
    return registry.validate_json(payload)


every_door = pytest.mark.parametrize("read", [as_mapping, as_json])


# On the wire


def test_first_version_is_written_as_ever():
    """Who never says a version sees nothing of versions."""
    assert b'{"type":"shop.place_order","data":{"order":"o-1","dozens":1}}' == to_json(First.PlaceOrder(order="o-1"))


def test_version_stands_before_the_data():
    """The same name as the attribute of a CloudEvent, beside `datacontenttype` and the like."""
    assert (
        b'{"type":"shop.place_order","dataversion":3,"data":{"order_id":"o-1","quantity":2,"currency":"EUR"}}'
        == to_json(PlaceOrder(order_id="o-1", quantity=2))
    )


def test_cloudevent_carries_the_version_once():
    """As an extension attribute, whatever the headers say; it is no header when it is read again."""
    envelope = Envelope(PlaceOrder(order_id="o-1", quantity=2), headers={"dataversion": "9", "flavour": "dark"})

    written = envelope.to_cloudevent("/shop")
    message, read = new_registry().read_json(written)

    assert 1 == written.count(b"dataversion")
    assert 3 == json.loads(written)["dataversion"]
    assert PlaceOrder(order_id="o-1", quantity=2) == message
    assert {"source": "/shop", "flavour": "dark"} == read.headers


def test_return_messages_have_versions_too():
    """What goes back may be stored by whoever asked, and read later."""

    class Receipt(ReturnMessage, version=2):
        total: int

    registry = Registry()
    registry.register(Receipt)
    registry.upcasts(Receipt, from_version=1)(lambda data: {"total": data["sum"]})

    assert b'[{"type":"Receipt","dataversion":2,"data":{"total":3}}]' == to_json([Receipt(total=3)])
    assert Receipt(total=3) == registry.validate_json(b'{"type":"Receipt","data":{"sum":3}}')


def test_version_is_that_of_the_class_alone():
    """Like the wire name it is not inherited; and it changes neither the schema nor a pickle."""

    class Later(PlaceOrder):
        pass

    order = PlaceOrder(order_id="o-1", quantity=2)

    assert to_json(Later(order_id="o-1", quantity=2)).startswith(b'{"type":"Later","data":')
    assert "version" not in json.dumps(PlaceOrder.model_json_schema())
    assert order == pickle.loads(pickle.dumps(order))


@pytest.mark.parametrize("version", [0, -1, 1_000, "2", 2.0, True, None])
def test_a_version_is_a_small_whole_number(version):
    """What it is not is said where the class is made."""
    with pytest.raises(MessageClassError, match="its version is no whole number from 1 to 999"):
        type(Command)("Odd", (Command,), {"__module__": __name__}, version=version)


# Older ones


@every_door
@pytest.mark.parametrize(
    "payload",
    [
        wire(order="o-1", dozens=2),
        wire(1, order="o-1", dozens=2),
        wire("1", order="o-1", dozens=2),
        wire(2, order_id="o-1", dozens=2),
        wire("2", order_id="o-1", dozens=2),
        wire(3, order_id="o-1", quantity=24),
        wire("3", order_id="o-1", quantity=24),
    ],
)
def test_every_version_is_read(read, payload):
    """One upcaster after the other, from the version that it came in; a header of HTTP says it in text."""
    assert PlaceOrder(order_id="o-1", quantity=24) == read(new_registry(), payload)


@every_door
def test_without_a_version_it_is_the_first(read):
    """Also if it would fit the class as it is now, and mean something else."""

    class Delay(Command, version=2):
        seconds: int

    registry = Registry()
    registry.register(Delay)
    registry.upcasts(Delay, from_version=1)(lambda data: {"seconds": data["seconds"] // 1000})

    assert Delay(seconds=5) == read(registry, b'{"type":"Delay","data":{"seconds":5000}}')
    assert Delay(seconds=5000) == read(registry, to_json(Delay(seconds=5000)))


def test_older_cloudevent_keeps_its_envelope():
    """Its ids are those that it came with."""
    event = {"specversion": "1.0", "id": "e-1", "source": "/theirs", "correlationid": "c-1", "flavour": "dark"}
    payload = json.dumps({**event, **json.loads(wire("2", order_id="o-1", dozens=1))})

    message, envelope = new_registry().read_json(payload)

    assert PlaceOrder(order_id="o-1", quantity=12) == message
    assert ("e-1", "c-1") == (envelope.id, envelope.correlation_id)
    assert {"source": "/theirs", "flavour": "dark"} == envelope.headers


def test_handle_json_reads_older_versions():
    """Sync and async."""
    expected = b'[{"type":"Confirmation","data":{"text":"12 for o-1 in EUR"}}]'

    assert expected == handle_json(wire(order="o-1", dozens=1), registry=new_registry())
    assert expected == asyncio.run(ahandle_json(wire(order="o-1", dozens=1), registry=new_registry()))


def test_mapping_of_the_caller_is_left_as_it_is():
    """An upcaster may change the dict that it is given: it is its own."""
    given = json.loads(wire(order="o-1", dozens=1))
    before = json.loads(json.dumps(given))

    new_registry().validate(given)

    assert before == given


def test_class_never_sees_older_data():
    """Its validators may rely on what they are written for."""
    seen = []

    class Watched(Command, version=2):
        a: Annotated[int, BeforeValidator(lambda value: seen.append(value) or value)]

    registry = Registry()
    registry.register(Watched)
    registry.upcasts(Watched, from_version=1)(lambda data: {"a": 2})

    registry.validate_json(b'{"type":"Watched","data":{"a":1}}')
    registry.validate_json(b'{"type":"Watched","dataversion":2,"data":{"a":3}}')

    assert [2, 3] == seen


ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@settings(deadline=None)
@given(st.recursive(ATOMS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
def test_any_version_and_data_is_read_or_refused(thing):
    """Whatever stands for a version, or for data: a message, or one bounded error."""
    registry = new_registry()
    for payload in ({"dataversion": thing, "data": {}}, {"dataversion": 1, "data": thing}, {"data": {"order": thing}}):
        mapping = {"type": "shop.place_order", **payload}
        for read in (registry.validate, lambda it: registry.validate_json(json.dumps(it))):
            try:
                assert isinstance(read(mapping), PlaceOrder)
            except InvalidMessageError as error:
                assert len(str(error)) < 1_000


# What an upcaster does wrong


def fail(data):
    raise LookupError(CANARY)


@every_door
@pytest.mark.parametrize(
    ("upcaster", "says"),
    [
        (fail, "which takes version 1, raised LookupError."),
        (lambda data: None, "which takes version 1, returned an object of type NoneType, and no dict."),
        (lambda data: [data], "which takes version 1, returned an object of type list, and no dict."),
    ],
)
def test_failing_upcaster_is_one_error_without_values(read, upcaster, says):
    """It names the upcaster and its place; nothing leads from it to what was in the payload [L1, L21]."""
    with pytest.raises(InvalidMessageError) as caught:
        read(new_registry(upcaster), wire(order=CANARY))

    assert f"Cannot read {__name__}.PlaceOrder: {__name__}." in str(caught.value)
    assert says in str(caught.value)
    assert "test_versions.py:" in str(caught.value)
    assert CANARY not in str(caught.value) + repr(caught.value)
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)


def test_what_upcasters_make_is_validated_like_anything():
    """In the words of the class as it is now, and with the version that it came in; private values never show."""

    class LogIn(Command, version=2):
        token: Annotated[str, Private]
        tries: int

    registry = Registry()
    registry.register(LogIn)
    registry.upcasts(LogIn, from_version=1)(lambda data: {"token": data["secret"], "tries": data["secret"]})

    with pytest.raises(InvalidMessageError) as caught:
        registry.validate_json(json.dumps({"type": "LogIn", "data": {"secret": CANARY}}))

    reason = "tries: Input should be a valid integer, unable to parse string as an integer"
    assert f"Cannot read {full_name(LogIn)}: {reason}. It came as version 1 and was brought up to 2." == str(
        caught.value
    )
    assert CANARY not in str(caught.value) + repr(caught.value)
    assert (None, None) == (caught.value.__cause__, caught.value.__context__)


def test_values_that_no_message_holds_do_not_get_past_an_upcaster():
    """NaN is not null on the way, nor is an integer of forty digits rounded."""
    registry = new_registry(second=lambda data: {"order_id": "o-1", "quantity": data["dozens"]})

    for number, why in (("NaN", "finite number"), ("1" * 40, "less than or equal to 9223372036854775807")):
        with pytest.raises(InvalidMessageError, match=why):
            registry.validate_json(wire(order="o-1", dozens=7).replace(b"7", number.encode()))


def test_upcaster_that_makes_no_json_is_refused():
    """What it returned could not have come from a payload."""
    with pytest.raises(InvalidMessageError, match="its upcasters returned what has no JSON form"):
        new_registry(second=lambda data: {"order_id": object()}).validate_json(wire(order="o-1"))


@pytest.mark.parametrize("data", [None, [], "text", 7])
@every_door
def test_upcaster_gets_a_dict_and_nothing_else(read, data):
    """What is no object is refused before it is called."""
    with pytest.raises(InvalidMessageError, match="data: Input should be an object"):
        read(new_registry(fail), json.dumps({"type": "shop.place_order", "data": data}).encode())


# Newer ones


@every_door
@pytest.mark.parametrize("registry", [new_registry(), old_registry()], ids=["versioned", "unversioned"])
@pytest.mark.parametrize("data", [{}, {"order": "o-1"}, {"unknown": CANARY}])
def test_newer_version_is_an_error_of_its_own(read, registry, data):
    """Also where nobody has heard of versions yet; whether it would fit or not."""
    with pytest.raises(NewerVersionError) as caught:
        read(registry, wire(4, **data))

    known = registry.snapshot.names["shop.place_order"].__version__
    assert (4, known) == (caught.value.version, caught.value.known)
    assert f": it is version 4, and this program reads up to version {known}. Keep it" in str(caught.value)
    assert CANARY not in str(caught.value) + repr(caught.value)


@every_door
@pytest.mark.parametrize("version", [0, -1, 2.5, True, "", "two", "²", "-1", None, [1], {"a": 1}, 2**31, "9" * 5_000])
@pytest.mark.parametrize("registry", [new_registry(), old_registry()], ids=["versioned", "unversioned"])
def test_what_is_no_version_is_refused(read, registry, version):
    """Nobody guesses what was meant."""
    payload = json.dumps({"type": "shop.place_order", "dataversion": version, "data": {"order": "o-1"}}).encode()

    with pytest.raises(InvalidMessageError) as caught:
        read(registry, payload)

    assert str(caught.value).endswith("PlaceOrder: dataversion: It is no whole number from 1 up.")


# Registering


def test_default_registry_has_upcasters():
    """As it has handlers."""

    class Default(Command, version=2):
        a: int = 0

    upcaster = messagebus.upcasts(Default, from_version=1)(lambda data: {"a": 7})
    messagebus.handles(Default)(lambda command: Confirmation(text=str(command.a)))

    assert {"a": 7} == upcaster({})
    assert b'[{"type":"Confirmation","data":{"text":"7"}}]' == handle_json(b'{"type":"Default","data":{}}')


def test_order_of_registration_does_not_matter():
    """Modules are imported in any order: the class may come after its upcasters, and version 2 before version 1."""
    registry = Registry()
    registry.upcasts(PlaceOrder, from_version=2)(count_pieces)
    registry.upcasts(PlaceOrder, from_version=1)(rename_order)
    registry.register(PlaceOrder, confirm)

    assert [] == registry.check()
    assert PlaceOrder(order_id="o-1", quantity=12) == registry.validate_json(wire(order="o-1", dozens=1))


def test_gap_is_found_by_check_and_before_the_first_payload_is_read():
    """Not when the first old message comes; with the places of the class and of the upcasters that there are."""
    registry = Registry()
    registry.register(PlaceOrder, confirm)
    registry.upcasts(PlaceOrder, from_version=2)(count_pieces)

    with pytest.raises(UpcasterError) as caught:
        registry.validate_json(wire(3, order_id="o-1", quantity=2))

    assert [str(caught.value)] == registry.check()
    assert re.fullmatch(
        rf"Cannot read older versions of {__name__}.PlaceOrder \(.*test_versions.py:\d+\): it is version 3, and no "
        rf"upcaster takes version 1, beside {__name__}.count_pieces \(.*test_versions.py:\d+\). "
        r"Write @upcasts\(PlaceOrder, from_version=1\). If its module is not imported yet, import it first.",
        str(caught.value),
    )


def test_gap_stops_a_worker_before_it_begins():
    """What it could not read it would bury."""
    registry = Registry()
    registry.register(PlaceOrder, confirm)

    with closing(open_store("memory://")) as store, pytest.raises(UpcasterError):
        Worker(store, registry)


def test_second_upcaster_of_a_version_is_refused():
    """Both are named; the first stays."""
    registry = new_registry()

    with pytest.raises(UpcasterError) as caught:
        registry.upcasts(PlaceOrder, from_version=1)(fail)

    assert re.fullmatch(
        rf"Cannot register {__name__}.fail \(.*test_versions.py:\d+\) for version 1 of {__name__}.PlaceOrder: that "
        rf"version has {__name__}.rename_order \(.*test_versions.py:\d+\). Remove one of the two.",
        str(caught.value),
    )
    assert PlaceOrder(order_id="o-1", quantity=12) == registry.validate_json(wire(order="o-1", dozens=1))


@pytest.mark.parametrize("version", [0, -1, 3, 4, "1", 1.0, True])
def test_upcaster_takes_a_version_below_that_of_the_class(version):
    """Both are named, the class with its version."""
    with pytest.raises(UpcasterError) as caught:
        new_registry().upcasts(PlaceOrder, from_version=version)(fail)

    assert f"{__name__}.fail (" in str(caught.value)
    assert re.search(rf"{__name__}.PlaceOrder \(.*test_versions.py:\d+\) is version 3\.", str(caught.value))


async def later(data):
    return data


@pytest.mark.parametrize("function", [later, None, "rename_order"])
def test_upcaster_is_a_plain_function(function):
    """It is called at the door, where nothing can be awaited."""
    with pytest.raises(UpcasterError, match="it cannot be called, or is async"):
        Registry().upcasts(PlaceOrder, from_version=1)(function)


@pytest.mark.parametrize("thing", [int, "PlaceOrder", None, First])
def test_what_has_upcasters_is_a_message_class(thing):
    """Said in the words of `register`."""
    with pytest.raises(MessageClassError, match="it is no message class"):
        Registry().upcasts(thing, from_version=1)(rename_order)


def test_any_callable_can_be_an_upcaster():
    """As with handlers."""
    registry = new_registry(partial(lambda name, data: {"order_id": data[name], "dozens": 1}, "order"))

    assert PlaceOrder(order_id="o-1", quantity=12) == registry.validate_json(wire(order="o-1"))


def test_include_takes_upcasters_over():
    """All of it or, on a clash, nothing."""
    application, again = Registry(), new_registry()
    application.include(new_registry())
    again.register(OrderPlaced)

    with pytest.raises(UpcasterError):
        Registry.include(application, upcasters_alone(again))

    assert PlaceOrder(order_id="o-1", quantity=12) == application.validate_json(wire(order="o-1", dozens=1))
    assert "OrderPlaced" not in application.snapshot.names


def upcasters_alone(registry: Registry) -> Registry:
    """Return a registry that clashes by nothing but its upcasters."""
    alone = Registry()
    alone.register(OrderPlaced)
    alone._upcasters.update(registry.snapshot.upcasters)
    return alone


def test_a_run_sees_old_or_new():
    """A snapshot that was taken before knows no more than it did [L9]."""
    registry = Registry()
    registry.register(PlaceOrder, confirm)
    registry.upcasts(PlaceOrder, from_version=1)(rename_order)
    before = registry.snapshot

    registry.upcasts(PlaceOrder, from_version=2)(count_pieces)

    with pytest.raises(UpcasterError):
        before.door.read_json(wire(order="o-1"), 1_000)
    assert registry.validate_json(wire(order="o-1", dozens=1))


# What outlives a program


@pytest.fixture
def store(tmp_path):
    with closing(open_store(f"sqlite:///{tmp_path}/bus.db")) as opened:
        yield opened


def work(store, registry):
    return Worker(store, registry, **QUIET).run(until_idle=True)


def test_stored_message_is_read_by_the_next_version_of_the_program(store):
    """What was sent before an upgrade is handled after it."""
    old, new = store.send(First.PlaceOrder(order="o-1", dozens=1)), store.send(PlaceOrder(order_id="o-2", quantity=5))

    work(store, new_registry())

    assert b'[{"type":"Confirmation","data":{"text":"12 for o-1 in EUR"}}]' == store.result(old)
    assert b'[{"type":"Confirmation","data":{"text":"5 for o-2 in EUR"}}]' == store.result(new)


def test_newer_stored_message_is_kept_for_a_newer_program(store):
    """The old program keeps its raw bytes as a dead letter; the new one, told to, handles them."""
    message = PlaceOrder(order_id="o-1", quantity=5)
    sent = store.send(message)

    work(store, old_registry())
    [letter] = store.dead()
    store.retry(letter.id)
    work(store, new_registry())

    assert ("messagebus.errors.NewerVersionError", to_json(message)) == (letter.failure.error, letter.body)
    assert b'[{"type":"Confirmation","data":{"text":"5 for o-1 in EUR"}}]' == store.result(sent)


def test_store_of_users_tests_reads_older_versions():
    """What it notes is what a worker would handle."""

    class Bus(MessageBus):
        registry = new_registry()

    with closing(RecordedStore(Bus)) as recorded:
        recorded.send(First.PlaceOrder(order="o-1", dozens=1))
        returned = recorded.run_until_idle()

        assert [Confirmation(text="12 for o-1 in EUR")] == returned
        recorded.assert_sent(PlaceOrder, order_id="o-1", quantity=12)


def test_dead_letter_can_be_mended_in_another_version(store):
    """What takes its place is of the version of the program that mends it."""
    sent = store.send(First.PlaceOrder(order="o-1", dozens=1))
    work(store, new_registry(fail))
    [letter] = store.dead()

    store.retry(letter.id, message=PlaceOrder(order_id="o-1", quantity=13))
    work(store, new_registry(fail))

    assert "raised LookupError" in letter.failure.text
    assert b'[{"type":"Confirmation","data":{"text":"13 for o-1 in EUR"}}]' == store.result(sent)


def test_brokers_carry_the_version():
    """As an attribute of the event in structured mode, as a header in binary mode; once, and not among the headers."""
    envelope = Envelope(PlaceOrder(order_id="o-1", quantity=5), headers={"dataversion": "9"})
    parcel = parcel_of_sending(prepare(envelope.message, envelope=envelope), "urn:shop", is_event=False)
    head = {"ce-specversion": "1.0", "ce-id": new_id(), "ce-source": "/theirs", "ce-type": "shop.place_order"}
    place = {"place": "here", "position": "1", "receipt": None}

    structured = arrival(parcel.body, {}, **place)
    binary = arrival(b'{"order_id":"o-1","dozens":1}', {**head, "ce-dataversion": "2"}, **place)

    assert 1 == parcel.body.count(b"dataversion")
    assert PlaceOrder(order_id="o-1", quantity=5) == new_registry().validate_json(structured.body)
    assert PlaceOrder(order_id="o-1", quantity=12) == new_registry().validate_json(binary.body)
    assert "dataversion" not in {**structured.headers, **binary.headers}
