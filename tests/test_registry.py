"""The registry: one handler for a command, any number for an event, in order; a run sees a change or does not."""

import asyncio
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial, wraps
from os.path import relpath
from typing import Any

import pytest
import structlog
from pydantic import BaseModel, SecretStr
from structlog.testing import LogCapture

from messagebus import (
    AsyncMessageBus,
    Command,
    DuplicateHandlerError,
    DuplicateNameError,
    Event,
    HandlerError,
    Message,
    MessageBus,
    MessageClassError,
    NoHandlerError,
    Registry,
    ReturnMessage,
    UnknownMessageError,
    ahandle_message,
    handle_message,
)
from messagebus.registry import Snapshot

BUSES = [MessageBus, AsyncMessageBus]
every_bus = pytest.mark.parametrize("bus_class", BUSES)
Bus = type[MessageBus | AsyncMessageBus]


class PlaceOrder(Command):
    order_id: str = "o-1"


class CancelOrder(Command):
    pass


class OrderPlaced(Event):
    order_id: str = "o-1"


class BigOrderPlaced(OrderPlaced):
    pass


class HugeOrderPlaced(BigOrderPlaced):
    pass


class Confirmation(ReturnMessage):
    text: str


def run(bus_class: Bus, message: Message, registry: Registry) -> list[ReturnMessage]:
    """Run a message on a bus of either kind, without logs."""
    bus = bus_class(message, registry=registry, log_level="disabled", error_log_level="disabled")
    outcome = bus()
    return asyncio.run(outcome) if inspect.isawaitable(outcome) else outcome


def said(results: list[ReturnMessage]) -> list[str]:
    return [result.text for result in results if isinstance(result, Confirmation)]


def saying(text: str) -> Callable[[Message], Confirmation]:
    """Return a handler that says something."""

    def say(message: Message) -> Confirmation:
        return Confirmation(text=text)

    return say


def place(thing: Callable[..., Any] | type) -> str:
    """Return where something is defined, as errors show it: from here if it is below."""
    line = inspect.getsourcelines(thing)[1]
    path = inspect.getfile(thing)
    shown = relpath(path)
    return f"{path if shown.startswith('..') else shown}:{line}"


def place_order(command: PlaceOrder) -> None:
    pass


def place_order_differently(command: PlaceOrder) -> None:
    pass


# Registering


def test_decorator_registers_and_returns_the_function() -> None:
    """What is decorated can still be called by its name."""
    registry = Registry()

    @registry.handles(PlaceOrder)
    def confirm(command: PlaceOrder) -> Confirmation:
        return Confirmation(text=command.order_id)

    assert Confirmation(text="a") == confirm(PlaceOrder(order_id="a"))
    assert [Confirmation(text="a")] == handle_message(PlaceOrder(order_id="a"), registry=registry)


def test_class_can_be_made_known_without_a_handler() -> None:
    """Payloads of its type are accepted [L1]."""
    registry = Registry()

    registry.register(Confirmation)

    assert Confirmation(text="a") == registry.validate({"type": "Confirmation", "data": {"text": "a"}})


def test_handler_can_be_added_to_a_class_that_is_known() -> None:
    """The order of imports does not matter."""
    registry = Registry()
    registry.register(PlaceOrder)

    registry.register(PlaceOrder, saying("a"))

    assert ["a"] == said(run(MessageBus, PlaceOrder(), registry))


def test_class_may_be_made_known_twice() -> None:
    """It says the same twice."""
    registry = Registry()
    registry.register(PlaceOrder, place_order)

    registry.register(PlaceOrder)

    assert {"PlaceOrder": PlaceOrder} == registry.snapshot.names


def test_registries_know_nothing_of_each_other() -> None:
    """There is no state behind them."""
    one, other = Registry(), Registry()
    one.register(PlaceOrder, saying("one"))

    other.register(PlaceOrder, saying("other"))

    assert (["one"], ["other"]) == (
        said(run(MessageBus, PlaceOrder(), one)),
        said(run(MessageBus, PlaceOrder(), other)),
    )


def test_handler_is_held() -> None:
    """A function that nothing else refers to stays a handler."""
    registry = Registry()
    registry.register(PlaceOrder, lambda _: Confirmation(text="here"))

    assert ["here"] == said(run(MessageBus, PlaceOrder(), registry))


@pytest.mark.parametrize("thing", [BaseModel, int, "PlaceOrder", None, place_order, PlaceOrder()], ids=repr)
def test_only_message_classes_are_registered(thing: Any) -> None:
    """What is passed by mistake is refused at once."""
    registry = Registry()

    with pytest.raises(MessageClassError, match="it is no message class"):
        registry.register(thing, place_order)

    assert {} == registry.snapshot.names


def test_return_message_has_no_handler() -> None:
    """It goes to whoever started the run."""
    registry = Registry()

    with pytest.raises(MessageClassError, match="a return message has no handler"):
        registry.register(Confirmation, place_order)


class Shop:
    def place(self, command: PlaceOrder) -> None:
        pass

    def __call__(self, command: PlaceOrder) -> None:
        pass


def logged(function: Callable[..., None]) -> Callable[..., None]:
    @wraps(function)
    def call(*args: Any) -> None:
        return function(*args)

    return call


@logged
def place_logged(command: PlaceOrder) -> None:
    pass


async def place_later(command: PlaceOrder) -> None:
    pass


def place_with(shop: str, command: PlaceOrder) -> None:
    pass


@pytest.mark.parametrize(
    ("handler", "name", "defined"),
    [
        (place_order, "place_order", place_order),
        (place_later, "place_later", place_later),
        (place_logged, "place_logged", inspect.unwrap(place_logged)),
        (partial(place_with, "shop"), "place_with", place_with),
        (partial(partial(place_with), "shop"), "place_with", place_with),
        (Shop().place, "Shop.place", Shop.place),
        (Shop(), "Shop", Shop.__call__),
    ],
    ids=["function", "async", "decorated", "partial", "partial of partial", "method", "object"],
)
def test_handler_is_named_with_file_and_line(handler: Any, name: str, defined: Any) -> None:
    """Whatever can be called with one message, an error says where it stands [L5]."""
    registry = Registry()
    registry.register(PlaceOrder, handler)

    with pytest.raises(DuplicateHandlerError) as caught:
        registry.register(PlaceOrder, place_order_differently)

    assert f"{__name__}.{name} ({place(defined)})" == caught.value.first


def test_decorator_may_fill_in_what_else_a_handler_needs() -> None:
    """The bus calls what is registered with one message, and asks nothing else of it."""

    def injected(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return function(*args, shop="shop", **kwargs)

        return call

    @injected
    def place_in(command: PlaceOrder, shop: str) -> list[Event]:
        return [OrderPlaced()] if shop == "shop" else []

    registry = Registry()
    registry.register(PlaceOrder, place_in)
    seen: list[Event] = []
    registry.register(OrderPlaced, seen.append)

    run(MessageBus, PlaceOrder(), registry)

    assert [OrderPlaced()] == seen


@pytest.mark.parametrize("handler", [print, str, [].append], ids=["print", "str", "append"])
def test_handler_without_source_is_named_all_the_same(handler: Any) -> None:
    """What is written in C has no file."""
    registry = Registry()
    registry.register(PlaceOrder, handler)

    with pytest.raises(DuplicateHandlerError) as caught:
        registry.register(PlaceOrder, place_order)

    assert "(place unknown)" in caught.value.first


# A command has one handler


def test_second_handler_of_a_command_is_refused_and_both_are_named() -> None:
    """With file and line, at the registration, and the first one stays [L5]."""
    registry = Registry()
    registry.register(PlaceOrder, place_order)

    with pytest.raises(DuplicateHandlerError) as caught:
        registry.register(PlaceOrder, place_order_differently)

    assert f"{__name__}.place_order ({place(place_order)})" == caught.value.first
    assert f"{__name__}.place_order_differently ({place(place_order_differently)})" == caught.value.second
    assert caught.value.first in str(caught.value)
    assert caught.value.second in str(caught.value)
    assert [place_order] == [handler.function for handler in registry.snapshot.handlers[PlaceOrder]]


def test_same_handler_of_an_event_twice_is_refused() -> None:
    """It is a module imported under two names, and would do everything twice [L5]."""
    registry = Registry()
    handler = saying("a")
    registry.register(OrderPlaced, handler)

    with pytest.raises(DuplicateHandlerError, match="registered for it already"):
        registry.register(OrderPlaced, handler)

    assert ["a"] == said(run(MessageBus, OrderPlaced(), registry))


@every_bus
def test_command_without_handler_is_refused_at_dispatch(bus_class: Bus) -> None:
    """And what may have been meant is named [L6]."""

    class PlaceOrdr(Command):
        pass

    registry = Registry()
    registry.register(PlaceOrder, place_order)

    with pytest.raises(NoHandlerError) as caught:
        run(bus_class, PlaceOrdr(), registry)

    assert (f"{__name__}.PlaceOrder (handler at {place(place_order)})",) == caught.value.near
    assert caught.value.near[0] in str(caught.value)
    assert "import it first" in str(caught.value)


@every_bus
def test_class_of_the_same_name_is_a_near_miss(bus_class: Bus) -> None:
    """Imported from the wrong module, or under two names [L6]."""
    other = type(Command)("PlaceOrder", (Command,), {"__module__": "elsewhere"})
    registry = Registry()
    registry.register(PlaceOrder, place_order)

    with pytest.raises(NoHandlerError, match=r"Cannot dispatch elsewhere\.PlaceOrder") as caught:
        run(bus_class, other(), registry)

    assert (f"{__name__}.PlaceOrder (handler at {place(place_order)})",) == caught.value.near


@every_bus
def test_command_that_is_only_known_has_no_handler(bus_class: Bus) -> None:
    """To know the class is not to handle it [L6]."""
    registry = Registry()
    registry.register(PlaceOrder)

    with pytest.raises(NoHandlerError):
        run(bus_class, PlaceOrder(), registry)


@every_bus
def test_handler_of_a_command_does_not_take_its_subclasses(bus_class: Bus) -> None:
    """What a command asks for is in its class, exactly [L8]."""

    class PlaceBigOrder(PlaceOrder):
        pass

    registry = Registry()
    registry.register(PlaceOrder, place_order)

    with pytest.raises(NoHandlerError):
        run(bus_class, PlaceBigOrder(), registry)


# An event has any number of handlers


def test_event_without_handler_is_logged() -> None:
    """It is legal, and can be seen [L7]."""
    capture = LogCapture()
    logger = structlog.wrap_logger(None, [capture], structlog.make_filtering_bound_logger("debug"))

    results = MessageBus(OrderPlaced(), registry=Registry(), logger=logger)()

    assert [] == results
    assert [("event.unhandled", "OrderPlaced", [])] == [
        (record["event"], record["message_type"], record["handlers"]) for record in capture.entries
    ]


@every_bus
def test_event_without_handler_is_refused_by_a_strict_registry(bus_class: Bus) -> None:
    """Who wants every event handled says so [L7]."""
    with pytest.raises(NoHandlerError, match=r"Cannot dispatch .*\.OrderPlaced"):
        run(bus_class, OrderPlaced(), Registry(strict=True))


@every_bus
def test_strict_registry_takes_what_is_handled(bus_class: Bus) -> None:
    """Strictness asks for a handler, and for nothing else; also after a change [L7]."""
    registry = Registry(strict=True)
    registry.register(OrderPlaced, saying("a"))
    registry.register(PlaceOrder, lambda _: OrderPlaced())

    assert ["a"] == said(run(bus_class, PlaceOrder(), registry))
    with pytest.raises(NoHandlerError):
        run(bus_class, BigOrderPlaced(), registry)


@every_bus
def test_handlers_run_in_the_order_of_registration(bus_class: Bus) -> None:
    """Not by name, not by place, not by class [L8]."""
    registry = Registry()
    texts = [f"{n * 7 % 20}" for n in range(20)]
    for text in texts:
        registry.register(OrderPlaced, saying(text))

    assert texts == said(run(bus_class, OrderPlaced(), registry))


@every_bus
def test_handlers_of_an_event_do_not_take_its_subclasses(bus_class: Bus) -> None:
    """Nor those of a subclass its base: the class matches exactly [L8]."""
    registry = Registry()
    registry.register(OrderPlaced, saying("base"))
    registry.register(HugeOrderPlaced, saying("huge"))

    assert [] == run(bus_class, BigOrderPlaced(), registry)


@every_bus
def test_handlers_that_opt_in_take_subclasses(bus_class: Bus) -> None:
    """Among all others in the order of registration, whichever class they are registered for [L8]."""
    registry = Registry()
    registry.register(HugeOrderPlaced, saying("huge 1"))
    registry.register(OrderPlaced, saying("placed 2"), subclasses=True)
    registry.register(Event, saying("event 3"), subclasses=True)
    registry.register(OrderPlaced, saying("placed 4, alone"))
    registry.register(BigOrderPlaced, saying("big 5"), subclasses=True)
    registry.register(HugeOrderPlaced, saying("huge 6"))

    results = {cls.__name__: said(run(bus_class, cls(), registry)) for cls in (OrderPlaced, HugeOrderPlaced)}

    assert {
        "OrderPlaced": ["placed 2", "event 3", "placed 4, alone"],
        "HugeOrderPlaced": ["huge 1", "placed 2", "event 3", "big 5", "huge 6"],
    } == results


def test_decorator_opts_in_too() -> None:
    """`handles` and `register` say the same [L8]."""
    registry = Registry()
    registry.handles(Event, subclasses=True)(saying("any"))

    assert ["any"] == said(run(MessageBus, OrderPlaced(), registry))


@pytest.mark.parametrize("cls", [Command, PlaceOrder])
def test_commands_cannot_be_handled_with_their_subclasses(cls: type[Command]) -> None:
    """They would have two handlers, or one by accident [L8]."""
    with pytest.raises(MessageClassError, match="only events"):
        Registry().register(cls, place_order, subclasses=True)


# Wire names


def test_second_class_of_one_wire_name_is_refused() -> None:
    """And both are named with file and line; the first one stays [L1]."""
    registry = Registry()
    registry.register(PlaceOrder, place_order)
    other = type(Command)("Other", (Command,), {"__module__": "elsewhere"}, name="PlaceOrder")

    with pytest.raises(DuplicateNameError) as caught:
        registry.register(other, place_order)

    assert f"{__name__}.PlaceOrder ({place(PlaceOrder)})" == caught.value.first
    assert {"PlaceOrder": PlaceOrder} == registry.snapshot.names
    assert PlaceOrder() == registry.validate({"type": "PlaceOrder", "data": {}})


# include


def module(*texts: str) -> Registry:
    """Return a registry as a module of an application has it."""
    registry = Registry()
    for text in texts:
        registry.register(OrderPlaced, saying(text))
    return registry


@every_bus
def test_include_takes_over_what_another_registry_holds(bus_class: Bus) -> None:
    """Modules have registries of their own, and the application composes them [L9]."""
    registry = module("a")
    other = module("b", "c")
    other.register(PlaceOrder, saying("placed"))
    other.register(Confirmation)

    registry.include(other)

    assert ["a", "b", "c"] == said(run(bus_class, OrderPlaced(), registry))
    assert ["placed"] == said(run(bus_class, PlaceOrder(), registry))
    assert Confirmation(text="") == registry.validate({"type": "Confirmation", "data": {"text": ""}})
    assert ["b", "c"] == said(run(bus_class, OrderPlaced(), other))


def test_include_takes_what_is_there_now() -> None:
    """What is registered later belongs to the other registry alone [L9]."""
    registry, other = Registry(), module("a")
    registry.include(other)

    other.register(OrderPlaced, saying("late"))

    assert ["a"] == said(run(MessageBus, OrderPlaced(), registry))


@every_bus
def test_include_keeps_the_order_of_registration(bus_class: Bus) -> None:
    """Also between handlers of a class and those of its bases [L8, L9]."""
    registry, other = Registry(), Registry()
    other.register(OrderPlaced, saying("1"), subclasses=True)
    other.register(BigOrderPlaced, saying("2"))
    other.register(OrderPlaced, saying("3"), subclasses=True)
    other.register(BigOrderPlaced, saying("4"))

    registry.include(other)

    assert ["1", "2", "3", "4"] == said(run(bus_class, BigOrderPlaced(), other))
    assert ["1", "2", "3", "4"] == said(run(bus_class, BigOrderPlaced(), registry))


def test_include_keeps_how_a_handler_is_called() -> None:
    """`subclasses` and `blocking` are taken over with it [L9, L24]."""
    registry, other = Registry(), Registry()
    threads: list[int] = []
    other.register(Event, lambda _: threads.append(threading.get_ident()), subclasses=True, blocking=True)

    registry.include(other)
    run(AsyncMessageBus, OrderPlaced(), registry)

    assert 1 == len(threads)
    assert threading.get_ident() not in threads


def with_second_handler() -> Registry:
    registry = module("new")
    registry.register(CancelOrder, place_order)
    registry.register(PlaceOrder, place_order_differently)
    return registry


def with_second_name() -> Registry:
    registry = module("new")
    registry.register(CancelOrder, place_order)
    registry.register(type(Event)("Other", (Event,), {"__module__": "elsewhere"}, name="PlaceOrder"))
    return registry


@pytest.mark.parametrize(
    ("make", "error"), [(with_second_handler, DuplicateHandlerError), (with_second_name, DuplicateNameError)]
)
def test_include_takes_all_or_nothing(make: Callable[[], Registry], error: type[Exception]) -> None:
    """A clash at the end leaves nothing of the beginning [L9]."""
    registry = module("old")
    registry.register(PlaceOrder, place_order)
    before = registry.snapshot

    with pytest.raises(error):
        registry.include(make())

    assert before is registry.snapshot
    assert ["old"] == said(run(MessageBus, OrderPlaced(), registry))
    with pytest.raises(UnknownMessageError):
        registry.validate({"type": "CancelOrder", "data": {}})


# override


@every_bus
def test_override_stands_for_all_handlers_of_a_class(bus_class: Bus) -> None:
    """For as long as the block lasts; commands and events [L9]."""
    registry = module("a", "b")
    registry.register(PlaceOrder, saying("real"))

    with registry.override(PlaceOrder, saying("fake")), registry.override(OrderPlaced, saying("x"), saying("y")):
        within = said(run(bus_class, PlaceOrder(), registry)), said(run(bus_class, OrderPlaced(), registry))
    after = said(run(bus_class, PlaceOrder(), registry)), said(run(bus_class, OrderPlaced(), registry))

    assert (["fake"], ["x", "y"]) == within
    assert (["real"], ["a", "b"]) == after


def test_override_ends_when_the_block_fails() -> None:
    """A failing test leaves nothing behind [L9]."""
    registry = module("real")

    with pytest.raises(LookupError), registry.override(OrderPlaced, saying("fake")):
        raise LookupError

    assert ["real"] == said(run(MessageBus, OrderPlaced(), registry))


def test_overrides_of_one_class_nest() -> None:
    """The innermost counts [L9]."""
    registry = module("real")

    with registry.override(OrderPlaced, saying("outer")):
        with registry.override(OrderPlaced, saying("inner")):
            inner = said(run(MessageBus, OrderPlaced(), registry))
        outer = said(run(MessageBus, OrderPlaced(), registry))

    assert (["inner"], ["outer"]) == (inner, outer)
    assert ["real"] == said(run(MessageBus, OrderPlaced(), registry))


@every_bus
def test_override_stands_for_handlers_of_bases_too(bus_class: Bus) -> None:
    """A handler of every event would run beside the fakes, and its effects with it [L9]."""
    registry = module("placed")
    registry.register(Event, saying("any"), subclasses=True)
    registry.register(BigOrderPlaced, saying("real"))

    with registry.override(BigOrderPlaced, saying("fake")):
        within = said(run(bus_class, BigOrderPlaced(), registry)), said(run(bus_class, OrderPlaced(), registry))
        registry.register(BigOrderPlaced, saying("more"))
        registry.register(PlaceOrder, saying("other"))
        more = said(run(bus_class, BigOrderPlaced(), registry))
    after = said(run(bus_class, BigOrderPlaced(), registry))

    assert (["fake"], ["placed", "any"]) == within
    assert ["fake", "more"] == more
    assert ["any", "real"] == after


def test_override_without_handlers_leaves_nothing_of_its_bases() -> None:
    """Nothing is what stands for all, then [L9]."""
    registry = Registry()
    registry.register(Event, saying("any"), subclasses=True)

    with registry.override(OrderPlaced):
        within = run(MessageBus, OrderPlaced(), registry)

    assert [] == within
    assert ["any"] == said(run(MessageBus, OrderPlaced(), registry))


def test_override_without_handlers_leaves_an_event_unhandled() -> None:
    """To test a command alone, its events go nowhere [L9]."""
    registry = module("real")

    with registry.override(OrderPlaced):
        within = run(MessageBus, OrderPlaced(), registry)

    assert [] == within


def test_override_of_a_class_that_was_not_known_makes_it_unknown_again() -> None:
    """What the block adds is gone after it [L9]."""
    registry = Registry()

    with registry.override(PlaceOrder, saying("fake")):
        within = said(run(MessageBus, PlaceOrder(), registry)), registry.validate({"type": "PlaceOrder"})

    assert (["fake"], PlaceOrder()) == within
    with pytest.raises(NoHandlerError):
        run(MessageBus, PlaceOrder(), registry)
    with pytest.raises(UnknownMessageError):
        registry.validate({"type": "PlaceOrder"})


def test_override_takes_no_wire_name_from_another_class() -> None:
    """A class of the same wire name is refused, as when it is registered; the other keeps its name [L1, L9]."""
    other = type(Command)("PlaceOrder", (Command,), {"__module__": "elsewhere"})
    registry = Registry()
    registry.register(PlaceOrder, place_order)

    with pytest.raises(DuplicateNameError), registry.override(other, saying("fake")):
        pass

    assert PlaceOrder() == registry.validate({"type": "PlaceOrder"})


def test_override_keeps_what_else_is_registered_meanwhile() -> None:
    """The end of the block takes back the class it was for, and no other [L9]."""
    registry = module("real")

    with registry.override(OrderPlaced, saying("fake")):
        registry.register(PlaceOrder, saying("placed"))

    assert ["placed"] == said(run(MessageBus, PlaceOrder(), registry))
    assert ["real"] == said(run(MessageBus, OrderPlaced(), registry))


@pytest.mark.parametrize("fake", [None, "fake", lambda: None])
def test_override_takes_handlers_only(fake: Any) -> None:
    """A mistake in a test is found at the override, and changes nothing [L9]."""
    registry = module("real")

    with pytest.raises(HandlerError), registry.override(OrderPlaced, fake):
        pass

    assert ["real"] == said(run(MessageBus, OrderPlaced(), registry))


# Snapshots


def test_registry_is_copied_when_it_is_looked_at_and_not_at_every_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise to register ten thousand classes would take fifty million steps [L9]."""
    made: list[Snapshot] = []

    class Counted(Snapshot):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr("messagebus.registry.Snapshot", Counted)
    registry = module("a", "b")
    registry.register(PlaceOrder, place_order)
    registry.include(module("c"))
    of_others = len(made)

    first, again = registry.snapshot, registry.snapshot
    registry.register(CancelOrder, place_order)

    assert 1 == of_others
    assert made[1:] == [first]
    assert first is again
    assert {OrderPlaced, PlaceOrder} == first.handlers.keys()
    assert {OrderPlaced, PlaceOrder, CancelOrder} == registry.snapshot.handlers.keys()


# check


def test_check_lists_what_is_likely_wrong() -> None:
    """A sentence each, for an application's own tests [L9]."""

    class Login(Command):
        user: str
        password: SecretStr

    registry = Registry()
    registry.register(PlaceOrder)
    registry.register(OrderPlaced)
    registry.register(Login, place_order)
    secret = "is of a secret type: the message cannot be written as JSON. Use Annotated[str, Private]."

    assert [
        f"{__name__}.PlaceOrder is a command without handler.",
        f"{__name__}.OrderPlaced is an event that nobody handles.",
        f"{__name__}.{Login.__qualname__}.password {secret}",
    ] == registry.check()


def test_check_has_nothing_to_say_of_a_sound_registry() -> None:
    """Handlers by a base count; return messages need none [L9]."""
    registry = Registry()
    registry.register(PlaceOrder, place_order)
    registry.register(Event, saying("any"), subclasses=True)
    registry.register(OrderPlaced)
    registry.register(Confirmation)

    assert [] == registry.check()


# Changes while runs are under way


@every_bus
def test_run_sees_the_registry_as_it_was_when_its_bus_was_made(bus_class: Bus) -> None:
    """What a handler registers is seen by the next run [L9]."""
    registry = module("old")

    def register_more(command: PlaceOrder) -> OrderPlaced:
        registry.register(OrderPlaced, saying("new"))
        return OrderPlaced()

    registry.register(PlaceOrder, register_more)

    first = said(run(bus_class, PlaceOrder(), registry))
    second = said(run(bus_class, OrderPlaced(), registry))

    assert (["old"], ["old", "new"]) == (first, second)


def test_bus_that_was_made_before_does_not_see_a_change() -> None:
    """The moment that counts is the making [L9]."""
    registry = module("old")
    bus = MessageBus(OrderPlaced(), registry=registry, log_level="disabled")

    registry.register(OrderPlaced, saying("new"))

    assert ["old"] == said(bus())


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class First(Event):
    pass


class Second(Event):
    pass


RUNS = 3_000
THREADS = 8
MODULES = 6


def run_many(is_async: bool, message: Message, registry: Registry) -> Iterator[list[ReturnMessage]]:
    """Run a message again and again; on one event loop if async."""
    if not is_async:
        for _ in range(RUNS):
            yield handle_message(message, registry=registry)
        return
    with asyncio.Runner() as runner:
        for _ in range(RUNS):
            yield runner.run(ahandle_message(message, registry=registry))


@pytest.mark.usefixtures("restless_threads")
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_runs_in_eight_threads_see_old_or_new_and_never_half(is_async: bool) -> None:
    """Modules are added meanwhile; no run is lost, none sees a part of a module [L9, L25]."""
    registry = Registry()
    handled: list[None] = []
    registry.register(PlaceOrder, lambda _: (handled.append(None), [First(), Second(), Confirmation(text="done")])[1])
    due, results, failures = threading.Semaphore(0), [], []

    def work() -> None:
        try:
            for number, result in enumerate(run_many(is_async, PlaceOrder(), registry)):
                results.append(said(result))
                if number % 100 == 0:
                    due.release()
        except BaseException as error:
            failures.append(error)
            due.release(1_000)

    def register() -> None:
        for number in range(MODULES):
            for _ in range(30):
                due.acquire()
            other = Registry()
            other.register(First, saying(f"first {number}"))
            other.register(Second, saying(f"second {number}"))
            registry.include(other)
            registry.register(type(Event)(f"Unrelated{number}", (Event,), {"__module__": __name__}), saying("never"))

    threads = [threading.Thread(target=work) for _ in range(THREADS)] + [threading.Thread(target=register)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [] == failures
    assert THREADS * RUNS == len(handled) == len(results)
    whole = [
        ["done", *(f"first {n}" for n in range(seen)), *(f"second {n}" for n in range(seen))]
        for seen in range(MODULES + 1)
    ]
    assert [] == [result for result in results if result not in whole]
    assert whole[0] in results
    assert whole[MODULES] == said(handle_message(PlaceOrder(), registry=registry))


@pytest.mark.usefixtures("restless_threads")
def test_no_registration_is_lost_between_threads() -> None:
    """Eight threads register at the same time, and everything is there afterwards [L9]."""
    registry = Registry()
    barrier = threading.Barrier(THREADS)

    def register(thread: int) -> None:
        barrier.wait()
        for number in range(50):
            registry.register(OrderPlaced, saying(f"{thread} {number}"))

    threads = [threading.Thread(target=register, args=[thread]) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    results = said(run(MessageBus, OrderPlaced(), registry))
    assert sorted(f"{thread} {number}" for thread in range(THREADS) for number in range(50)) == sorted(results)
    for thread in range(THREADS):
        own = [text for text in results if text.startswith(f"{thread} ")]
        assert [f"{thread} {number}" for number in range(50)] == own
