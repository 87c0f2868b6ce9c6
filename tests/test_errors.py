"""Errors a newcomer meets: each text says what cannot be done, why, and what to do; here they stand in full."""

import asyncio
import copy
import inspect
import json
import pickle
import re
from collections.abc import Callable
from os.path import relpath
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, PositiveInt, SecretStr, ValidationError

from messagebus import (
    AnswerError,
    AsyncHandlerError,
    AsyncMessageBus,
    CascadeLimitError,
    Command,
    ConfigurationError,
    DispatchError,
    DuplicateHandlerError,
    DuplicateNameError,
    Event,
    HandlerError,
    InvalidMessageError,
    Message,
    MessageBus,
    MessageBusError,
    MessageClassError,
    MessageTooLargeError,
    NewerVersionError,
    NoHandlerError,
    NotAMessageError,
    Private,
    Registry,
    ReturnMessage,
    UnknownMessageError,
    UnwritableMessageError,
    UpcasterError,
    UsageError,
    current_envelope,
    errors,
    handle_json,
    handle_message,
    to_json,
)

Bus = type[MessageBus | AsyncMessageBus]
every_bus = pytest.mark.parametrize("bus_class", [MessageBus, AsyncMessageBus])
ID = "[0-9a-f]{32}"


class PlaceOrder(Command):
    order_id: str
    quantity: PositiveInt = 1


class PlaceOrdr(Command):
    order_id: str


class OrderPlaced(Event):
    order_id: str


class Confirmation(ReturnMessage):
    order_id: str


ORDER = PlaceOrder(order_id="o-1")


def place_order(command: PlaceOrder) -> OrderPlaced:
    return OrderPlaced(order_id=command.order_id)


def place_order_twice(command: PlaceOrder) -> None:
    pass


async def place_order_later(command: PlaceOrder) -> None:
    pass


def returning(result: Any) -> Callable[[Any], Any]:
    """Return a handler that returns this."""

    def handler(message: Any) -> Any:
        return result

    return handler


def new_registry(handler: Callable[..., Any] = place_order) -> Registry:
    registry = Registry()
    registry.register(PlaceOrder, handler)
    return registry


def place(thing: Any) -> str:
    """Return where something is defined, as errors show it: from here if it is below."""
    path, line = inspect.getfile(thing), inspect.getsourcelines(thing)[1]
    shown = relpath(path)
    return f"{path if shown.startswith('..') else shown}:{line}"


def named(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__} ({place(thing)})"


def run(bus_class: Bus, message: Any, registry: Registry) -> list[ReturnMessage]:
    bus = bus_class(message, registry=registry, log_level="disabled", error_log_level="disabled")
    outcome = bus()
    return asyncio.run(outcome) if inspect.isawaitable(outcome) else outcome


# A command without handler


@every_bus
def test_command_without_handler(bus_class: Bus) -> None:
    """With the class that may have been meant, and what may not have been imported [L6]."""
    with pytest.raises(NoHandlerError) as caught:
        run(bus_class, PlaceOrdr(order_id="o-1"), new_registry())

    assert (
        f"Cannot dispatch {__name__}.PlaceOrdr: no handler is registered for it. "
        f"Did you mean {__name__}.PlaceOrder (handler at {place(place_order)})? "
        "If its module is not imported yet, import it first." == str(caught.value)
    )


@every_bus
def test_command_without_handler_where_nothing_is_near(bus_class: Bus) -> None:
    """Without a guess, the import is the likely reason [L6]."""
    with pytest.raises(NoHandlerError) as caught:
        run(bus_class, ORDER, Registry())

    assert (
        f"Cannot dispatch {__name__}.PlaceOrder: no handler is registered for it. "
        "If its module is not imported yet, import it first." == str(caught.value)
    )


# A second handler for a command


def test_second_handler_of_a_command() -> None:
    """At the registration, with both places and three ways out [L5]."""
    registry = new_registry()

    with pytest.raises(DuplicateHandlerError) as caught:
        registry.register(PlaceOrder, place_order_twice)

    assert (
        f"Cannot register {named(place_order_twice)} for {__name__}.PlaceOrder: "
        f"a command has exactly one handler, and it has {named(place_order)}. "
        "Remove one of them; for several handlers make it an Event; for a test use registry.override()."
        == str(caught.value)
    )


def test_same_handler_twice() -> None:
    """It is not a second handler, and the text does not say so [L5]."""
    registry = new_registry()

    with pytest.raises(DuplicateHandlerError) as caught:
        registry.register(PlaceOrder, place_order)

    assert (
        f"Cannot register {named(place_order)} for {__name__}.PlaceOrder: it is registered for it already. "
        "Remove one of the two registrations." == str(caught.value)
    )


# Wrong fields, in Python and in JSON


def test_wrong_type_in_a_field() -> None:
    """Every wrong field with its path, and no value [L1]."""
    with pytest.raises(InvalidMessageError) as caught:
        new_registry().validate_json('{"type":"PlaceOrder","data":{"order_id":1,"quantity":"two"}}')

    assert (
        f"Cannot read {__name__}.PlaceOrder: order_id: Input should be a valid string; "
        "quantity: Input should be a valid integer, unable to parse string as an integer." == str(caught.value)
    )


def test_wrong_type_in_a_field_in_python() -> None:
    """It is pydantic's own error, which everybody knows, and shows no value [L1]."""
    with pytest.raises(ValidationError) as caught:
        PlaceOrder(order_id=1, quantity="two")

    assert [
        "2 validation errors for PlaceOrder",
        "order_id",
        "  Input should be a valid string [type=string_type]",
        "quantity",
        "  Input should be a valid integer, unable to parse string as an integer [type=int_parsing]",
    ] == [line for line in str(caught.value).splitlines() if "For further information" not in line]


def test_misspelt_field() -> None:
    """With the field that was meant [L1]."""
    with pytest.raises(InvalidMessageError) as caught:
        new_registry().validate_json('{"type":"PlaceOrder","data":{"order_di":"o-1"}}')

    assert (
        f"Cannot read {__name__}.PlaceOrder: order_id: Field required; "
        "it has no field 'order_di'. Did you mean 'order_id'?" == str(caught.value)
    )


def test_misspelt_field_in_python() -> None:
    """The same in a note, which tracebacks show below pydantic's text."""
    with pytest.raises(ValidationError) as caught:
        PlaceOrder(order_id="o-1", quantiti=2)

    assert [f"{__name__}.PlaceOrder has no field 'quantiti'. Did you mean 'quantity'?"] == caught.value.__notes__


def test_misspelt_field_of_a_nested_model() -> None:
    """With the path to where it stands [L1]."""

    class Address(BaseModel, extra="forbid"):
        street: str = ""

    class Ship(Command):
        to: list[Address]

    registry = Registry()
    registry.register(Ship)

    with pytest.raises(InvalidMessageError) as caught:
        registry.validate({"type": "Ship", "data": {"to": [{}, {"stret": "a"}]}})

    assert f"Cannot read {__name__}.{Ship.__qualname__}: to[1]: it has no field 'stret'. Did you mean 'street'?" == str(
        caught.value
    )


def test_field_that_is_near_to_none() -> None:
    """It is not repeated: a key may be a secret [L1]."""
    with pytest.raises(InvalidMessageError) as caught:
        new_registry().validate_json('{"type":"PlaceOrder","data":{"order_id":"o-1","colour":"red"}}')

    assert f"Cannot read {__name__}.PlaceOrder: it has a field that the class does not have." == str(caught.value)


# No message where a message belongs


def test_dict_where_a_message_belongs() -> None:
    """When the bus is made, with the three ways to make a message of it [L2]."""
    expected = (
        "Cannot dispatch an object of type dict: it is no Command, Event or ReturnMessage. "
        "Make a message of it first: PlaceOrder(...) in Python, registry.validate({'type': ..., 'data': ...}) "
        "for a mapping, handle_json(payload) for JSON."
    )

    for make in (MessageBus, AsyncMessageBus, handle_message):
        with pytest.raises(NotAMessageError) as caught:
            make({"order_id": "o-1"})

        assert expected == str(caught.value)


@pytest.mark.parametrize("make", [MessageBus, AsyncMessageBus, handle_message], ids=lambda make: make.__name__)
@pytest.mark.parametrize(
    "thing", [None, "PlaceOrder", b"{}", [ORDER], place_order, object()], ids=lambda it: str(it)[:9]
)
def test_anything_else_where_a_message_belongs(make: Callable[[Any], Any], thing: Any) -> None:
    """Its type is named, never its value [L1, L2]."""
    with pytest.raises(NotAMessageError) as caught:
        make(thing)

    assert type(thing).__name__ == caught.value.given
    assert f"an object of type {type(thing).__name__}:" in str(caught.value)


def test_class_where_a_message_belongs() -> None:
    """Whoever forgot the parentheses reads the name of the class, not that of pydantic's metaclass."""
    with pytest.raises(NotAMessageError) as caught:
        MessageBus(PlaceOrder)

    assert f"{__name__}.PlaceOrder" in str(caught.value)
    assert "ModelMetaclass" not in str(caught.value)


# What cannot be a handler


def takes_nothing() -> None:
    pass


def takes_two(command: PlaceOrder, more: int) -> None:
    pass


def takes_a_keyword(*, command: PlaceOrder) -> None:
    pass


class TakesNothing:
    def __call__(self) -> None:
        pass


@pytest.mark.parametrize("handler", [takes_nothing, takes_two, takes_a_keyword], ids=lambda handler: handler.__name__)
def test_handler_that_takes_no_message(handler: Any) -> None:
    """At the registration [L5]."""
    with pytest.raises(HandlerError) as caught:
        new_registry(handler)

    assert (
        f"Cannot use {named(handler)} as a handler: it does not take exactly one argument, "
        "and a handler is called with one message. "
        "Write def handler(message): ...; bind what else it needs with functools.partial." == str(caught.value)
    )


def test_object_that_takes_no_message() -> None:
    """The place is that of its `__call__`."""
    with pytest.raises(HandlerError) as caught:
        new_registry(TakesNothing())

    assert str(caught.value).startswith(
        f"Cannot use {__name__}.TakesNothing ({place(TakesNothing.__call__)}) as a handler: it does not take exactly"
    )


@pytest.mark.parametrize("thing", [1, "place_order", ORDER], ids=["number", "text", "message"])
def test_handler_that_cannot_be_called(thing: Any) -> None:
    """Such as what a handler returned, instead of the handler."""
    with pytest.raises(HandlerError, match=r"as a handler: it cannot be called\. Register a function\.$"):
        new_registry(thing)


# An async handler on the sync bus


def test_async_handler_on_the_sync_bus() -> None:
    """With the handler's name and the two ways to run it [L24]."""
    with pytest.raises(AsyncHandlerError) as caught:
        run(MessageBus, ORDER, new_registry(place_order_later))

    assert (
        f"Cannot dispatch {__name__}.PlaceOrder on the sync bus: its handler {named(place_order_later)} is async. "
        "Use AsyncMessageBus or `await ahandle_message(...)`." == str(caught.value)
    )


def hides_that_it_is_async(command: PlaceOrder) -> Any:
    return place_order_later(command)


def test_async_handler_that_does_not_look_like_one() -> None:
    """A plain function that returns a coroutine is found when it did; no coroutine is left behind [L24]."""
    with pytest.raises(AsyncHandlerError) as caught:
        run(MessageBus, ORDER, new_registry(hides_that_it_is_async))

    assert (
        f"Cannot dispatch {__name__}.PlaceOrder on the sync bus: its handler {named(hides_that_it_is_async)} is async. "
        "Use AsyncMessageBus or `await ahandle_message(...)`." == str(caught.value)
    )


def test_async_handler_as_a_blocking_one() -> None:
    """At the registration [L24]."""
    with pytest.raises(HandlerError) as caught:
        Registry().register(PlaceOrder, place_order_later, blocking=True)

    assert (
        f"Cannot use {named(place_order_later)} as a blocking handler: it is async and runs on the event loop. "
        "Leave blocking=True out, or make it a plain function." == str(caught.value)
    )


# What a handler returned


@every_bus
@pytest.mark.parametrize(
    ("result", "what"),
    [
        ("done", "it is an object of type str"),
        (b"done", "it is an object of type bytes"),
        ({"order_id": "o-1"}, "it is an object of type dict"),
        (1, "it is an object of type int"),
        (True, "it is an object of type bool"),
        (Confirmation, f"it is the class {__name__}.Confirmation itself"),
    ],
)
def test_handler_that_returns_no_message(bus_class: Bus, result: Any, what: str) -> None:
    """With the handler's name, and what to do with data for the caller [L13]."""
    handler = returning(result)

    with pytest.raises(HandlerError) as caught:
        run(bus_class, ORDER, new_registry(handler))

    assert (
        f"Cannot take what {named(handler)} returned: {what}. "
        "Return None, a message or an iterable of messages; data for the caller goes into a ReturnMessage."
        == str(caught.value)
    )


@every_bus
@pytest.mark.parametrize("kind", [list, tuple, iter], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("wrong", ["done", None, {"order_id": "o-1"}, Confirmation], ids=lambda wrong: str(wrong)[:8])
def test_handler_that_returns_something_beside_messages(bus_class: Bus, kind: Any, wrong: Any) -> None:
    """The wrong item is named, and none of its messages is released [L13]."""
    handler = returning(kind([OrderPlaced(order_id="o-1"), wrong]))

    with pytest.raises(HandlerError) as caught:
        run(bus_class, ORDER, new_registry(handler))

    kind_of_wrong = f"{__name__}.Confirmation" if wrong is Confirmation else type(wrong).__name__
    assert str(caught.value).startswith(f"Cannot take what {named(handler)} returned: ")
    assert kind_of_wrong in str(caught.value)


# What a handler raised


class OutOfStock(Exception):
    pass


def fail(message: Message) -> None:
    raise OutOfStock("o-1")


def fail_too(message: Message) -> None:
    raise LookupError("o-1")


@every_bus
def test_handler_that_raises(bus_class: Bus) -> None:
    """Its own exception, unwrapped, with one note: type, id, handler and cause [L14]."""
    registry = new_registry()
    registry.register(OrderPlaced, fail)

    with pytest.raises(OutOfStock) as caught:
        run(bus_class, ORDER, registry)

    (note,) = caught.value.__notes__
    assert ("o-1",) == caught.value.args
    assert re.fullmatch(
        rf"while handling {__name__}\.OrderPlaced {ID} in {re.escape(named(fail))}, "
        rf"caused by {__name__}\.PlaceOrder {ID}",
        note,
    )


@every_bus
def test_handler_of_the_first_message_that_raises(bus_class: Bus) -> None:
    """Nothing caused it, and the note names nothing [L14]."""
    with pytest.raises(OutOfStock) as caught:
        run(bus_class, ORDER, new_registry(fail))

    (note,) = caught.value.__notes__
    assert re.fullmatch(rf"while handling {__name__}\.PlaceOrder {ID} in {re.escape(named(fail))}", note)


@every_bus
def test_several_handlers_that_raise(bus_class: Bus) -> None:
    """One group, each exception in it with its own note [L14]."""
    registry = Registry()
    registry.register(OrderPlaced, fail)
    registry.register(OrderPlaced, fail_too)

    with pytest.raises(ExceptionGroup) as caught:
        run(bus_class, OrderPlaced(order_id="o-1"), registry)

    assert f"2 handlers of {__name__}.OrderPlaced failed" == caught.value.message
    assert [OutOfStock, LookupError] == [type(error) for error in caught.value.exceptions]
    assert all(
        re.fullmatch(rf"while handling {__name__}\.OrderPlaced {ID} in {re.escape(named(handler))}", note)
        for error, handler in zip(caught.value.exceptions, [fail, fail_too], strict=True)
        for note in error.__notes__
    )


# Wire types and names


def test_unknown_wire_type() -> None:
    """With the type that may have been meant [L1]."""
    with pytest.raises(UnknownMessageError) as caught:
        new_registry().validate_json('{"type":"PlaceOrdr","data":{}}')

    assert (
        "Cannot read a message: no message class with the wire name 'PlaceOrdr' is registered. "
        "Did you mean PlaceOrder? "
        "Register its class with @handles(...) or registry.register(...), in a module that is imported."
        == str(caught.value)
    )


def test_unknown_wire_type_where_nothing_is_near() -> None:
    """Without a guess [L1]."""
    with pytest.raises(UnknownMessageError) as caught:
        new_registry().validate_json('{"type":"os:system","data":{}}')

    assert (
        "Cannot read a message: no message class with the wire name 'os:system' is registered. "
        "Register its class with @handles(...) or registry.register(...), in a module that is imported."
        == str(caught.value)
    )


def test_payload_without_type() -> None:
    """The wire form is shown to who does not know it [L1]."""
    with pytest.raises(InvalidMessageError) as caught:
        new_registry().validate_json('{"order_id":"o-1"}')

    assert (
        "Cannot read a message: it has no 'type'. "
        'The wire form is {"type": ..., "data": {...}}, or a CloudEvent 1.0.' == str(caught.value)
    )


def test_payload_that_is_too_large() -> None:
    """With both sizes and two ways out [L4]."""
    with pytest.raises(MessageTooLargeError) as caught:
        handle_json(b" " * 1_048_577, registry=new_registry())

    assert (
        "Cannot read a message: it has 1,048,577 bytes, and the limit is 1,048,576. "
        "Send a reference to large data, or raise max_bytes." == str(caught.value)
    )


def test_two_classes_with_one_wire_name() -> None:
    """At the registration, with both places and the way to name one of them [L1]."""

    class Place(Command, name="PlaceOrder"):
        pass

    registry = new_registry()

    with pytest.raises(DuplicateNameError) as caught:
        registry.register(Place, place_order_twice)

    assert (
        f"Cannot register {named(Place)} under the wire name 'PlaceOrder': {named(PlaceOrder)} has that name. "
        'Give one of them a name of its own: class ...(..., name="shop.PlaceOrder").' == str(caught.value)
    )


def test_wire_name_that_is_none() -> None:
    """When the class is made."""
    with pytest.raises(MessageClassError) as caught:
        type(Command)("Odd", (Command,), {"__module__": __name__}, name="place order")

    assert (
        f"Cannot name {__name__}.Odd: its wire name is nothing that every engine takes. "
        "Use at most 200 letters, digits, dots, dashes, slashes, colons and underscores." == str(caught.value)
    )


# Levels


@pytest.mark.parametrize("make", [MessageBus, AsyncMessageBus, handle_message], ids=lambda make: make.__name__)
def test_log_level_that_is_none(make: Callable[..., Any]) -> None:
    """When the bus is made, with the levels there are [L19]."""
    with pytest.raises(ConfigurationError) as caught:
        make(OrderPlaced(order_id="o-1"), log_level="warn")

    assert (
        "Cannot set log_level to 'warn': it takes 'debug', 'info', 'disabled'. "
        "Choose one of these. Failures have a level of their own: error_log_level." == str(caught.value)
    )


@pytest.mark.parametrize("make", [MessageBus, AsyncMessageBus], ids=lambda make: make.__name__)
def test_error_log_level_that_is_none(make: Callable[..., Any]) -> None:
    """When the bus is made, with the levels there are [L19]."""
    with pytest.raises(ConfigurationError) as caught:
        make(OrderPlaced(order_id="o-1"), error_log_level="warn")

    assert (
        "Cannot set error_log_level to 'warn': it takes 'info', 'warning', 'error', 'disabled'. Choose one of these."
        == str(caught.value)
    )


# What cannot come back from JSON


class Login(Command):
    password: SecretStr


class Note(Event):
    anything: Any = None
    text: str = ""


REMEDY = "Use types that JSON can hold; for a secret that travels, Annotated[str, Private]."


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (
            Login(password="canary-4111"),
            "its field password is of a secret type, which JSON shows as '**********' and cannot bring back",
        ),
        (Note(anything=object()), "its field anything has a value that JSON cannot hold"),
        (Note(text="\ud800"), "its field text has a value that JSON cannot hold"),
        (Note(anything={1, 2}), "its field anything would read back as another value"),
        (Note(anything=2**64), "its field anything has an integer beyond 64 bits"),
        (Note(anything=[float("nan")]), "its field anything would read back as another value"),
    ],
    ids=["secret", "object", "surrogate", "set", "integer", "NaN"],
)
def test_value_that_cannot_come_back_from_json(message: Message, why: str) -> None:
    """Where it is written, with the field [L1, L21]."""
    with pytest.raises(UnwritableMessageError) as caught:
        to_json(message)

    cls = type(message).__name__
    assert f"Cannot write {__name__}.{cls} as JSON: {why}. {REMEDY}" == str(caught.value)


def test_secret_in_a_return_message() -> None:
    """Where a return message is written, it is the same error [L1]."""

    class Session(ReturnMessage):
        token: SecretStr

    registry = new_registry(lambda _: Session(token="canary-4111"))

    with pytest.raises(UnwritableMessageError) as caught:
        handle_json('{"type":"PlaceOrder","data":{"order_id":"o-1"}}', registry=registry)

    assert f"Cannot write {__name__}.{Session.__qualname__} as JSON: its field token is of" in str(caught.value)


def test_secret_that_travels() -> None:
    """What the text advises works [L21]."""

    class Session(Command):
        token: Annotated[str, Private]

    assert {"token": "canary-4111"} == json.loads(to_json(Session(token="canary-4111")))["data"]


def test_class_that_has_no_json() -> None:
    """At the registration, with the field [L3]."""

    class Later(Command):
        then: Callable[[], None]

    with pytest.raises(MessageClassError) as caught:
        Registry().register(Later)

    assert (
        f"Cannot register {__name__}.{Later.__qualname__}: the type of then has no JSON form. "
        "Use a type that has one, or give it a serializer." == str(caught.value)
    )


def test_what_is_no_message_class() -> None:
    """At the registration."""

    class Order(BaseModel):
        pass

    with pytest.raises(MessageClassError) as caught:
        Registry().register(Order, place_order)

    assert (
        f"Cannot register {__name__}.{Order.__qualname__}: it is no message class. "
        "Derive it from Command, Event or ReturnMessage." == str(caught.value)
    )


def test_decorator_without_its_class() -> None:
    """`@registry.handles` above a function, without the class in parentheses."""
    with pytest.raises(MessageClassError) as caught:
        Registry().handles(place_order)(place_order_twice)

    assert "Cannot register 'function': it is no message class. Derive it from Command, Event or ReturnMessage." == str(
        caught.value
    )


def test_handler_of_a_return_message() -> None:
    """At the registration."""
    with pytest.raises(MessageClassError) as caught:
        Registry().register(Confirmation, place_order)

    assert (
        f"Cannot register {__name__}.Confirmation: a return message has no handler; "
        "it goes to whoever started the run. Make it an Event." == str(caught.value)
    )


# Out of turn


def test_envelope_where_no_message_is_handled() -> None:
    """It says where to call it [L22]."""
    with pytest.raises(DispatchError) as caught:
        current_envelope()

    assert (
        "Cannot call current_envelope(): no message is being handled here. "
        "Call it in a handler, or in what a handler calls." == str(caught.value)
    )


@every_bus
def test_run_without_end(bus_class: Bus) -> None:
    """It names what repeats, and both ways out [L12]."""

    class Short(bus_class):
        max_messages = 10

    registry = new_registry()
    registry.register(OrderPlaced, lambda event: PlaceOrder(order_id=event.order_id))

    with pytest.raises(CascadeLimitError) as caught:
        run(Short, ORDER, registry)

    assert re.fullmatch(
        r"Cannot go on with this run: it led to more than 10 messages, lately "
        rf"{__name__}\.\w+ \(\d+ times\), {__name__}\.\w+ \(\d+ times\)\. "
        "Look for handlers that lead back to each other; if it is meant, raise max_messages of the bus class.",
        str(caught.value),
    )


# The classes

EXAMPLES = [
    UsageError("do it", "it cannot be done", "Do not."),
    ConfigurationError("set it", "it cannot be", "Choose."),
    DispatchError("call it", "it is not its turn", "Wait."),
    HandlerError("use it", "it cannot be called", "Call."),
    MessageClassError("register it", "it is none", "Derive."),
    NotAMessageError("dict"),
    NoHandlerError("shop.PlaceOrdr", ("shop.PlaceOrder (handler at shop.py:1)",)),
    DuplicateHandlerError("shop.PlaceOrder", "shop.a (shop.py:1)", "shop.b (shop.py:2)"),
    DuplicateHandlerError("shop.PlaceOrder", "shop.a (shop.py:1)", "shop.a (shop.py:1)"),
    DuplicateNameError("PlaceOrder", "shop.PlaceOrder (shop.py:1)", "other.PlaceOrder (other.py:2)"),
    UpcasterError("register it", "it has one", "Remove one."),
    AsyncHandlerError("shop.PlaceOrder", "shop.a (shop.py:1)"),
    AnswerError("shop.Quote", "shop.Price", (("shop.Price", 2), ("shop.Note", 1))),
    CascadeLimitError(100_000, ("shop.A (500 times)", "shop.B (500 times)")),
    InvalidMessageError("shop.PlaceOrder", (("quantity", "Input should be a valid integer"),), 21, hint="Mend it."),
    MessageTooLargeError(1_048_577, 1_048_576),
    UnknownMessageError("PlaceOrdr", ("PlaceOrder",)),
    NewerVersionError("shop.PlaceOrder", 3, 2),
    UnwritableMessageError("shop.PlaceOrder", "quantity", "has a value that JSON cannot hold"),
    *(
        cls("do it", "it cannot be done now")
        for cls in (
            errors.StoreError,
            errors.StoreBusyError,
            errors.StoreUnavailableError,
            errors.ResultTimeoutError,
            errors.BrokerError,
            errors.BrokerUnavailableError,
        )
    ),
    errors.ReplyTimeoutError("shop.place_order", "9f", "NATS", 5.0, 0.01),
    errors.ReplyTimeoutError("shop.place_order", "9f", "NATS", 5.0, None),
    errors.ConflictError("shop.PlaceOrder", "dedup key", "order-42"),
    errors.StoreFileError("open bus.db", "it is no database", "Take another."),
    errors.DeliveryFailedError("9f", ("shop.charge",)),
]


def test_every_class_has_an_example() -> None:
    """So that what is said of all of them is said of each."""
    classes = {
        thing
        for thing in vars(errors).values()
        if isinstance(thing, type) and issubclass(thing, MessageBusError) and thing is not MessageBusError
    }

    assert classes == {type(error) for error in EXAMPLES}


@pytest.mark.parametrize("duplicate", [lambda it: pickle.loads(pickle.dumps(it)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_error_pickles_and_copies(error: MessageBusError, duplicate: Callable[[Any], Any]) -> None:
    """With its text, its attributes and its notes: it comes back from a process pool as it was."""
    original = copy.deepcopy(error)
    original.add_note("while handling shop.PlaceOrder")

    copied = duplicate(original)

    assert (type(original), str(original), repr(original)) == (type(copied), str(copied), repr(copied))
    assert (original.args, vars(original)) == (copied.args, vars(copied))
    assert ["while handling shop.PlaceOrder"] == copied.__notes__


def facts(error: BaseException) -> dict[str, Any]:
    """Return the attributes that are there to be read, and the notes."""
    return {name: value for name, value in vars(error).items() if name == "__notes__" or not name.startswith("_")}


def test_errors_that_were_raised_pickle() -> None:
    """Not only those that were made for the purpose."""
    raised = []
    for attempt in (
        lambda: run(MessageBus, PlaceOrdr(order_id="o-1"), new_registry()),
        lambda: new_registry().register(PlaceOrder, place_order_twice),
        lambda: run(MessageBus, ORDER, new_registry(place_order_later)),
        lambda: run(MessageBus, ORDER, new_registry(returning("text"))),
        lambda: new_registry().validate_json("{}"),
        lambda: new_registry().validate_json('{"type":"PlaceOrder","data":{"order_di":1}}'),
        lambda: new_registry().validate_json('{"type":"PlaceOrdr","data":{}}'),
        lambda: new_registry().validate_json("{}", max_bytes=1),
        lambda: to_json(Login(password="canary-4111")),
        lambda: MessageBus({}),
        lambda: MessageBus(ORDER, log_level="warn"),
    ):
        with pytest.raises(MessageBusError) as caught:
            attempt()
        raised.append(caught.value)

    copies = [pickle.loads(pickle.dumps(error)) for error in raised]

    assert [(str(error), facts(error)) for error in raised] == [(str(error), facts(error)) for error in copies]


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (ConfigurationError, ValueError),
        (DispatchError, RuntimeError),
        (HandlerError, TypeError),
        (MessageClassError, TypeError),
        (NotAMessageError, TypeError),
        (NoHandlerError, LookupError),
        (AsyncHandlerError, TypeError),
        (CascadeLimitError, RuntimeError),
        (UpcasterError, TypeError),
        (AnswerError, LookupError),
        (InvalidMessageError, ValueError),
        (MessageTooLargeError, InvalidMessageError),
        (UnknownMessageError, InvalidMessageError),
        (NewerVersionError, InvalidMessageError),
        (UnwritableMessageError, InvalidMessageError),
    ],
)
def test_errors_are_what_python_calls_them_too(error: type[Exception], builtin: type[Exception]) -> None:
    """Who knows nothing of the library can catch them."""
    assert issubclass(error, builtin)


def test_branches_of_the_tree_are_told_apart() -> None:
    """The tree says what a caller can do: mend the program, drop the message, decide, try again [L1]."""
    branches = (UsageError, InvalidMessageError, errors.DeliveryFailedError, errors.StoreError, errors.BrokerError)

    assert [1] * len(EXAMPLES) == [sum(isinstance(error, branch) for branch in branches) for error in EXAMPLES]
