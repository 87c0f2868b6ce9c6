"""The public API: its names, its signatures, and overrides written with exactly these."""

import asyncio
import inspect
from inspect import Parameter
from typing import Literal, get_type_hints

import pytest
import structlog
from structlog.testing import LogCapture

import messagebus
from messagebus import (
    AsyncMessageBus,
    Command,
    ConfigurationError,
    Event,
    MessageBus,
    Registry,
    ReturnMessage,
    ahandle_json,
    ahandle_message,
    handle_json,
    handle_message,
)

BUSES = [MessageBus, AsyncMessageBus]
METHODS = ["message_dispatcher", "dispatch_message", "handle_exception"]
REQUIRED = Parameter.empty


class PlaceOrder(Command):
    order_id: str = "o-1"


class OrderPlaced(Event):
    order_id: str = "o-1"


class Confirmation(ReturnMessage):
    order_id: str = "o-1"


def fail(message):
    raise LookupError("no such order")


def run(bus):
    """Call a bus of either kind to the end of its run."""
    outcome = bus()
    return asyncio.run(outcome) if inspect.isawaitable(outcome) else outcome


def recorder():
    """Return a logger, and the list of what is written to it."""
    capture = LogCapture()
    return structlog.wrap_logger(None, [capture], structlog.make_filtering_bound_logger("debug")), capture.entries


def shape(function):
    """Return name, kind and default of each parameter."""
    return [(one.name, one.kind.name, one.default) for one in inspect.signature(function).parameters.values()]


def documented(function, *expected):
    """Return the parameters beyond the documented ones, which come first."""
    found = shape(function)

    assert list(expected) == found[: len(expected)]
    return found[len(expected) :]


def test_every_public_name_is_there():
    """What README imports can be imported."""
    missing = [name for name in messagebus.__all__ if not hasattr(messagebus, name)]

    assert missing == []
    assert {
        "Command",
        "Event",
        "ReturnMessage",
        "Registry",
        "handles",
        "handle_message",
        "ahandle_message",
        "handle_json",
        "ahandle_json",
        "MessageBus",
        "AsyncMessageBus",
        "current_envelope",
        "to_json",
    } <= set(messagebus.__all__)


@pytest.mark.parametrize("bus_class", BUSES)
def test_init_takes_the_message_and_two_levels(bus_class):
    """The signature is the contract of existing users; only keywords with a default may stand behind it."""
    extras = documented(
        bus_class.__init__,
        ("self", "POSITIONAL_OR_KEYWORD", REQUIRED),
        ("initial_message", "POSITIONAL_OR_KEYWORD", REQUIRED),
        ("log_level", "KEYWORD_ONLY", "info"),
        ("error_log_level", "KEYWORD_ONLY", "error"),
    )

    assert {"registry", "logger"} <= {name for name, _, _ in extras}
    assert {("KEYWORD_ONLY", None)} == {(kind, default) for _, kind, default in extras}


@pytest.mark.parametrize("bus_class", BUSES)
def test_init_names_its_levels(bus_class):
    """A type checker refuses what the bus would refuse."""
    hints = get_type_hints(bus_class.__init__)

    assert Command | Event | ReturnMessage == hints["initial_message"]
    assert Literal["debug", "info", "disabled"] == hints["log_level"]
    assert Literal["info", "warning", "error", "disabled"] == hints["error_log_level"]


@pytest.mark.parametrize("function", [handle_message, ahandle_message])
def test_handle_message_is_quiet_unless_told_otherwise(function):
    """The signature is the contract of existing users; both levels are off."""
    extras = documented(
        function,
        ("message", "POSITIONAL_OR_KEYWORD", REQUIRED),
        ("log_level", "KEYWORD_ONLY", "disabled"),
        ("error_log_level", "KEYWORD_ONLY", "disabled"),
    )
    hints = get_type_hints(function)

    assert extras == [("registry", "KEYWORD_ONLY", None), ("logger", "KEYWORD_ONLY", None)]
    assert Literal["debug", "info", "disabled"] == hints["log_level"]
    assert Literal["warning", "error", "disabled"] == hints["error_log_level"]
    assert list[ReturnMessage] == hints["return"]


@pytest.mark.parametrize("function", [handle_json, ahandle_json])
def test_handle_json_takes_a_payload_and_gives_bytes(function):
    """The functions at the edge take the same keywords as those within."""
    names = [name for name, _, _ in shape(function)]

    assert names[0] == "payload"
    assert {"registry", "logger", "log_level", "error_log_level"} <= set(names)
    assert bytes is get_type_hints(function)["return"]


@pytest.mark.parametrize("bus_class", BUSES)
def test_bus_is_called_without_arguments(bus_class):
    """One call is one run, and its return messages are what comes back."""
    assert shape(bus_class.__call__) == [("self", "POSITIONAL_OR_KEYWORD", REQUIRED)]
    assert list[ReturnMessage] == get_type_hints(bus_class.__call__)["return"]


@pytest.mark.parametrize("bus_class", BUSES)
def test_methods_take_what_is_documented(bus_class):
    """An override that names the parameters as documented fits."""
    self_, message = ("self", "POSITIONAL_OR_KEYWORD", REQUIRED), ("message", "POSITIONAL_OR_KEYWORD", REQUIRED)

    assert [self_, message] == shape(bus_class.message_dispatcher)
    assert [self_, message] == shape(bus_class.dispatch_message)
    assert [self_, ("exc", "POSITIONAL_OR_KEYWORD", REQUIRED), message] == shape(bus_class.handle_exception)
    assert [self_, ("args", "VAR_POSITIONAL", REQUIRED)] == shape(bus_class.log_activity)
    assert [
        self_,
        ("msg", "POSITIONAL_OR_KEYWORD", REQUIRED),
        ("exc", "POSITIONAL_OR_KEYWORD", None),
        ("kwargs", "VAR_KEYWORD", REQUIRED),
    ] == shape(bus_class.log_error)


@pytest.mark.parametrize("bus_class", BUSES)
def test_methods_return_nothing(bus_class):
    """What leaves a method leaves through ``pending``, ``return_messages`` or an exception."""
    hints = [get_type_hints(getattr(bus_class, name))["return"] for name in [*METHODS, "log_activity", "log_error"]]

    assert [type(None)] * 5 == hints


@pytest.mark.parametrize("name", ["__call__", *METHODS])
def test_async_twins_are_coroutine_functions(name):
    """Who overrides a method of the async bus writes ``async def``, and of the sync bus ``def``."""
    twins = [inspect.iscoroutinefunction(getattr(bus_class, name)) for bus_class in BUSES]

    assert twins == [False, True]


@pytest.mark.parametrize("bus_class", BUSES)
def test_dispatch_message_is_final(bus_class):
    """A type checker refuses to override it; ``message_dispatcher`` is the place."""
    assert bus_class.dispatch_message.__final__ is True


@pytest.mark.parametrize("bus_class", BUSES)
def test_limit_is_one_hundred_thousand_messages(bus_class):
    """The limit is a class attribute, since a subclass is the configuration (L12)."""
    assert bus_class.max_messages == 100_000


def test_sync_overrides_with_the_documented_signatures_work():
    """All of it holds with overrides written with exactly the documented signatures."""
    calls = []

    class Audited(MessageBus):
        def message_dispatcher(self, message) -> None:
            calls.append(("dispatcher", message))
            self.dispatch_message(message)

        def handle_exception(self, exc: Exception, message) -> None:
            calls.append(("exception", type(exc), message))

        def log_activity(self, *args) -> None:
            calls.append(("activity", args[0]))

    registry = Registry()
    registry.register(PlaceOrder, lambda message: [OrderPlaced(), Confirmation()])
    registry.register(OrderPlaced, fail)

    results = Audited(PlaceOrder(), registry=registry)()

    assert [Confirmation()] == results
    assert [
        ("dispatcher", PlaceOrder()),
        ("activity", "command.handled"),
        ("dispatcher", OrderPlaced()),
        ("exception", LookupError, OrderPlaced()),
    ] == calls


def test_async_overrides_with_the_documented_signatures_work():
    """All of it holds with overrides written with exactly the documented signatures."""
    calls = []

    class Audited(AsyncMessageBus):
        async def message_dispatcher(self, message) -> None:
            calls.append(("dispatcher", message))
            await self.dispatch_message(message)

        async def handle_exception(self, exc: Exception, message) -> None:
            calls.append(("exception", type(exc), message))

        def log_activity(self, *args) -> None:
            calls.append(("activity", args[0]))

    registry = Registry()
    registry.register(PlaceOrder, lambda message: [OrderPlaced(), Confirmation()])
    registry.register(OrderPlaced, fail)

    results = asyncio.run(Audited(PlaceOrder(), registry=registry)())

    assert [Confirmation()] == results
    assert [
        ("dispatcher", PlaceOrder()),
        ("activity", "command.handled"),
        ("dispatcher", OrderPlaced()),
        ("exception", LookupError, OrderPlaced()),
    ] == calls


@pytest.mark.parametrize("level", ["info", "debug"])
@pytest.mark.parametrize("bus_class", BUSES)
def test_log_activity_gets_positionals_only(bus_class, level):
    """An override that takes ``*args`` and nothing else sees each record, and passes it on."""
    logger, records = recorder()
    seen = []

    class Listening(bus_class):
        def log_activity(self, *args) -> None:
            seen.append(args[0])
            super().log_activity(*args)

    registry = Registry()
    registry.register(PlaceOrder, lambda message: OrderPlaced())
    registry.register(OrderPlaced, lambda message: None)

    run(Listening(PlaceOrder(), registry=registry, logger=logger, log_level=level))

    finished = {"info": [], "debug": ["handler.finished"]}[level]
    assert [*finished, "command.handled", *finished, "event.handled"] == seen
    assert seen == [record["event"] for record in records]


@pytest.mark.parametrize("bus_class", BUSES)
def test_log_error_gets_text_exception_and_fields(bus_class):
    """The default ``handle_exception`` calls it once for a failure, with the exception itself."""
    logger, records = recorder()
    seen = []

    class Listening(bus_class):
        def log_error(self, msg: str, exc: Exception | None = None, **kwargs) -> None:
            seen.append((msg, exc, kwargs["message_type"]))
            super().log_error(msg, exc, **kwargs)

    registry = Registry()
    registry.register(PlaceOrder, fail)

    with pytest.raises(LookupError) as caught:
        run(Listening(PlaceOrder(), registry=registry, logger=logger, log_level="disabled"))

    assert [("message.failed", caught.value, "PlaceOrder")] == seen
    assert [record["event"] for record in records] == ["message.failed"]


@pytest.mark.parametrize("bus_class", BUSES)
def test_log_error_can_be_called_by_an_override(bus_class):
    """An application's ``handle_exception`` writes its own text and fields, with or without the exception."""
    logger, records = recorder()
    bus = bus_class(PlaceOrder(), registry=Registry(), logger=logger, error_log_level="warning")

    bus.log_error("order.lost", order_id="o-1")
    bus.log_error("order.lost", LookupError("no such order"))

    assert {"event": "order.lost", "order_id": "o-1", "log_level": "warning"}.items() <= records[0].items()
    assert records[1]["failure"][0]["exc_type"] == "LookupError"


@pytest.mark.parametrize("bus_class", BUSES)
def test_log_activity_can_be_called_with_any_text(bus_class):
    """An override may write activity of its own through the same filter."""
    logger, records = recorder()

    bus_class(PlaceOrder(), registry=Registry(), logger=logger).log_activity("order.seen")

    assert [record["event"] for record in records] == ["order.seen"]


@pytest.mark.parametrize("bus_class", BUSES)
def test_subclass_is_the_configuration(bus_class):
    """A class attribute serves every instance, and a keyword one of them."""
    mine, other = Registry(), Registry()
    mine.register(PlaceOrder, lambda message: Confirmation(order_id="mine"))
    other.register(PlaceOrder, lambda message: Confirmation(order_id="other"))

    class Mine(bus_class):
        registry = mine

    assert [Confirmation(order_id="mine")] == run(Mine(PlaceOrder()))
    assert [Confirmation(order_id="other")] == run(Mine(PlaceOrder(), registry=other))
    assert [Confirmation(order_id="mine")] == run(Mine(PlaceOrder()))


@pytest.mark.parametrize("bus_class", BUSES)
def test_subclass_may_have_an_init_of_its_own(bus_class):
    """What a dispatcher needs, such as a unit of work, is handed to the instance."""

    class WithTenant(bus_class):
        def __init__(self, initial_message, *, tenant, **options):
            super().__init__(initial_message, **options)
            self.tenant = tenant

    registry = Registry()
    registry.register(PlaceOrder, lambda message: Confirmation())
    bus = WithTenant(PlaceOrder(), tenant="t-1", registry=registry)

    assert ("t-1", [Confirmation()]) == (bus.tenant, run(bus))


@pytest.mark.parametrize("bus_class", BUSES)
def test_unknown_log_level_is_refused_when_the_bus_is_made(bus_class):
    """``log_level="warn"`` is found before anything ran, and the sentence says what to write instead."""
    with pytest.raises(ConfigurationError) as caught:
        bus_class(PlaceOrder(), log_level="warn", registry=Registry())

    assert (
        str(caught.value)
        == "Cannot set log_level to 'warn': it takes 'debug', 'info', 'disabled'. Choose one of these. "
        "Failures have a level of their own: error_log_level."
    )


@pytest.mark.parametrize("bus_class", BUSES)
def test_unknown_error_log_level_is_refused_when_the_bus_is_made(bus_class):
    """As for ``log_level``."""
    with pytest.raises(ConfigurationError) as caught:
        bus_class(PlaceOrder(), error_log_level="critical", registry=Registry())

    assert (
        str(caught.value)
        == "Cannot set error_log_level to 'critical': it takes 'info', 'warning', 'error', 'disabled'. "
        "Choose one of these."
    )
