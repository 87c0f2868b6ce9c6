"""The bus: what a run does when handlers fail, what an override decides, and the functions that run in one call."""

import asyncio
import inspect
import itertools
import json
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

import pytest
import structlog
import tenacity
from structlog.testing import LogCapture

from messagebus import (
    AsyncMessageBus,
    Command,
    Event,
    InvalidMessageError,
    MessageBus,
    NoHandlerError,
    Registry,
    ReturnMessage,
    UnknownMessageError,
    ahandle_json,
    ahandle_message,
    current_envelope,
    handle_json,
    handle_message,
)

QUIET = {"log_level": "disabled", "error_log_level": "disabled"}


class ConcurrentBus(AsyncMessageBus):
    concurrent = True


every_bus = pytest.mark.parametrize("bus_class", [MessageBus, AsyncMessageBus, ConcurrentBus])


class PlaceOrder(Command):
    order_id: str = "o-1"


class OrderPlaced(Event):
    order_id: str = "o-1"


class StockReserved(Event):
    left: int = 0


class MailSent(Event):
    pass


class Confirmation(ReturnMessage):
    text: str = ""


class OutOfStock(Exception):
    pass


def run(bus):
    """Call a bus of either kind to the end of its run."""
    outcome = bus()
    return asyncio.run(outcome) if inspect.isawaitable(outcome) else outcome


def recorder():
    """Return a logger, and the list of what is written to it."""
    capture = LogCapture()
    return structlog.wrap_logger(None, [capture], structlog.make_filtering_bound_logger("debug")), capture.entries


def deciding(bus_class, decide):
    """Return a subclass whose ``handle_exception`` calls ``decide(exc, message)``."""

    class Sync(bus_class):
        def handle_exception(self, exc, message):
            decide(exc, message)

    class Async(bus_class):
        async def handle_exception(self, exc, message):
            decide(exc, message)

    return Sync if issubclass(bus_class, MessageBus) else Async


def full_name(thing):
    return f"{thing.__module__}.{thing.__qualname__}"


def raising(error):
    """Return a handler that raises this very error."""

    def fail(message):
        raise error

    return fail


# One failing handler, and its siblings


def three_handlers(calls):
    """Return a registry in which the second of three handlers of an event fails, and what they return is noted."""
    registry = Registry()

    @registry.handles(OrderPlaced)
    def reserve(message):
        calls.append("reserve")
        return [StockReserved(), Confirmation(text="reserved")]

    @registry.handles(OrderPlaced)
    def charge(message):
        calls.append("charge")
        yield MailSent()
        yield Confirmation(text="charged")
        raise OutOfStock("none left")

    @registry.handles(OrderPlaced)
    def mail(message):
        calls.append("mail")
        return MailSent()

    registry.register(StockReserved, lambda message: calls.append("reserved"))
    registry.register(MailSent, lambda message: calls.append("mailed") or Confirmation(text="mailed"))
    return registry


@every_bus
def test_siblings_of_a_failing_handler_run(bus_class):
    """An event happened, whoever fails over it; what they return waits in ``pending`` (L13, L15)."""
    calls = []
    bus = bus_class(OrderPlaced(), registry=three_handlers(calls), **QUIET)

    with pytest.raises(OutOfStock):
        run(bus)

    assert Counter(["reserve", "charge", "mail"]) == Counter(calls)
    assert [StockReserved(), MailSent()] == bus.pending
    assert [Confirmation(text="reserved")] == bus.return_messages


@every_bus
def test_bus_called_again_goes_on(bus_class):
    """What was left is dispatched, what was done is not done again (L15)."""
    calls = []
    bus = bus_class(OrderPlaced(), registry=three_handlers(calls), **QUIET)
    with pytest.raises(OutOfStock):
        run(bus)

    results = run(bus)

    assert Counter(["reserve", "charge", "mail", "reserved", "mailed"]) == Counter(calls)
    assert [Confirmation(text="reserved"), Confirmation(text="mailed")] == results
    assert [] == bus.pending


@every_bus
def test_run_goes_on_if_the_override_returns(bus_class):
    """Who swallows a failure gets what the others returned, in the same call (L13, L15)."""
    calls = []
    bus = deciding(bus_class, lambda exc, message: None)(OrderPlaced(), registry=three_handlers(calls), **QUIET)

    results = run(bus)

    assert Counter(["reserve", "charge", "mail", "reserved", "mailed"]) == Counter(calls)
    assert [Confirmation(text="reserved"), Confirmation(text="mailed")] == results
    assert [] == bus.pending


@every_bus
def test_generator_that_raises_releases_nothing(bus_class):
    """What it yielded before it failed was never said (L13)."""
    seen = []
    registry = Registry()

    @registry.handles(PlaceOrder)
    def place_order(message):
        yield OrderPlaced()
        yield Confirmation()
        raise OutOfStock

    registry.register(OrderPlaced, seen.append)
    bus = deciding(bus_class, lambda exc, message: None)(PlaceOrder(), registry=registry, **QUIET)

    assert [] == run(bus)
    assert [] == seen


@every_bus
def test_failure_of_a_follow_up_leaves_the_rest_in_order(bus_class):
    """A run that stops in its middle holds what was still before it (L15)."""
    registry = Registry()
    registry.register(PlaceOrder, lambda message: [Confirmation(text="1"), OrderPlaced(), MailSent(), StockReserved()])
    registry.register(OrderPlaced, lambda message: StockReserved(left=1))
    registry.register(MailSent, raising(OutOfStock()))
    bus = bus_class(PlaceOrder(), registry=registry, **QUIET)

    with pytest.raises(OutOfStock):
        run(bus)

    assert [StockReserved(), StockReserved(left=1)] == bus.pending
    assert [Confirmation(text="1")] == bus.return_messages


# What comes out


@every_bus
def test_exception_comes_out_as_it_is(bus_class):
    """The very exception of the handler, with its cause and its traceback, and nothing around it (L14)."""
    cause = KeyError("sku")
    error = OutOfStock("none left")
    error.__cause__ = cause
    registry = Registry()
    registry.register(PlaceOrder, raising(error))

    with pytest.raises(OutOfStock) as caught:
        run(bus_class(PlaceOrder(), registry=registry, **QUIET))

    assert caught.value is error
    assert caught.value.__cause__ is cause
    assert "fail" in [entry.name for entry in caught.traceback]


@every_bus
def test_note_names_type_id_handler_and_cause(bus_class):
    """Who reads the traceback knows which message in which handler, and where that message came from (L14)."""
    ids = []
    registry = Registry()

    @registry.handles(PlaceOrder)
    def place_order(message):
        ids.append(current_envelope().id)
        return OrderPlaced()

    @registry.handles(OrderPlaced)
    def reserve(message):
        ids.append(current_envelope().id)
        raise OutOfStock

    with pytest.raises(OutOfStock) as caught:
        run(bus_class(PlaceOrder(), registry=registry, **QUIET))

    cause, failed = ids
    line = reserve.__code__.co_firstlineno
    expected = (
        rf"while handling {re.escape(full_name(OrderPlaced))} {failed} "
        rf"in {re.escape(full_name(reserve))} \(.*test_bus\.py:{line}\), "
        rf"caused by {re.escape(full_name(PlaceOrder))} {cause}"
    )
    (note,) = caught.value.__notes__
    assert re.fullmatch(expected, note)


@every_bus
def test_note_of_the_first_message_names_no_cause(bus_class):
    """Nothing in the bus led to the message that was handed in (L14)."""
    registry = Registry()
    registry.register(PlaceOrder, raising(OutOfStock()))

    with pytest.raises(OutOfStock) as caught:
        run(bus_class(PlaceOrder(), registry=registry, **QUIET))

    (note,) = caught.value.__notes__
    assert full_name(PlaceOrder) in note
    assert "caused by" not in note


@every_bus
def test_several_failures_come_out_as_one_group(bus_class):
    """Each with a note of its own, in the order of registration; the group says how many and of what (L14)."""
    errors = [OutOfStock("a"), ValueError("b")]
    calls = []
    registry = Registry()
    registry.register(OrderPlaced, raising(errors[0]))
    registry.register(OrderPlaced, lambda message: calls.append("between"))
    registry.register(OrderPlaced, raising(errors[1]))

    with pytest.raises(ExceptionGroup) as caught:
        run(bus_class(OrderPlaced(), registry=registry, **QUIET))

    assert tuple(errors) == caught.value.exceptions
    assert f"2 handlers of {full_name(OrderPlaced)} failed" == caught.value.message
    assert [1, 1] == [len(error.__notes__) for error in errors]
    assert calls == ["between"]


@every_bus
def test_group_raised_by_a_handler_comes_out_as_it_is(bus_class):
    """It is that handler's own exception like any other (L14)."""
    error = ExceptionGroup("two suppliers", [OutOfStock(), ValueError()])
    registry = Registry()
    registry.register(PlaceOrder, raising(error))

    with pytest.raises(ExceptionGroup) as caught:
        run(bus_class(PlaceOrder(), registry=registry, **QUIET))

    assert caught.value is error
    assert 1 == len(error.__notes__)


@every_bus
def test_group_raised_beside_another_failure_is_one_member(bus_class):
    """One failure for one handler, whatever it raised (L14)."""
    errors = ExceptionGroup("two suppliers", [OutOfStock(), ValueError()]), OutOfStock()
    registry = Registry()
    for error in errors:
        registry.register(OrderPlaced, raising(error))

    with pytest.raises(ExceptionGroup) as caught:
        run(bus_class(OrderPlaced(), registry=registry, **QUIET))

    assert errors == caught.value.exceptions


@dataclass(frozen=True)
class Frozen(Exception):
    """Refuses every attribute."""

    code: int = 7


class Refusing(Exception):
    def add_note(self, note):
        raise TypeError("no notes here")


class Taken(Exception):
    __notes__ = None


@pytest.mark.parametrize("kind", [Frozen, Refusing, Taken])
@every_bus
def test_exception_that_refuses_notes_comes_out_all_the_same(bus_class, kind):
    """The note is a courtesy; its failure is never the message's failure, nor that of the siblings (L13, L14)."""
    calls = []
    error = kind()
    registry = Registry()
    registry.register(OrderPlaced, raising(error))
    registry.register(OrderPlaced, calls.append)

    with pytest.raises(kind) as caught:
        run(bus_class(OrderPlaced(), registry=registry, **QUIET))

    assert caught.value is error
    assert [OrderPlaced()] == calls


# handle_exception


@every_bus
def test_handle_exception_is_called_once_for_a_failing_message(bus_class):
    """However many handlers failed; in the order in which the messages failed (L15)."""
    decided = []
    first, second, third = OutOfStock(1), OutOfStock(2), OutOfStock(3)
    registry = Registry()
    registry.register(PlaceOrder, lambda message: [MailSent(), OrderPlaced(), StockReserved()])
    registry.register(MailSent, raising(first))
    registry.register(OrderPlaced, raising(second))
    registry.register(OrderPlaced, raising(third))
    bus = deciding(bus_class, lambda exc, message: decided.append((exc, message)))

    run(bus(PlaceOrder(), registry=registry, **QUIET))

    (mail_error, mail), (group, order) = decided
    assert (first, MailSent(), OrderPlaced()) == (mail_error, mail, order)
    assert (second, third) == group.exceptions


@every_bus
def test_handle_exception_gets_the_very_message(bus_class):
    """An override may ask whether it is the instance that it knows (L15)."""
    decided = []
    message = PlaceOrder()
    registry = Registry()
    registry.register(PlaceOrder, raising(OutOfStock()))

    run(deciding(bus_class, lambda exc, given: decided.append(given))(message, registry=registry, **QUIET))

    assert [True] == [given is message for given in decided]


@every_bus
def test_handle_exception_decides_about_a_command_without_handler(bus_class):
    """It is a failure of that message like any other (L6, L15)."""
    decided = []
    registry = Registry()
    registry.register(OrderPlaced, lambda message: [PlaceOrder(), MailSent()])
    registry.register(MailSent, lambda message: Confirmation())
    bus = deciding(bus_class, lambda exc, message: decided.append((type(exc), message)))

    results = run(bus(OrderPlaced(), registry=registry, **QUIET))

    assert [(NoHandlerError, PlaceOrder())] == decided
    assert [Confirmation()] == results


@every_bus
def test_error_raised_by_an_override_has_the_original_as_context(bus_class):
    """What went wrong first is in the traceback of what came of it (L15)."""
    original = OutOfStock("none left")
    registry = Registry()
    registry.register(PlaceOrder, lambda message: [OrderPlaced(), MailSent(), Confirmation()])
    registry.register(OrderPlaced, raising(original))

    def give_up(exc, message):
        raise RuntimeError("gave up")

    bus = deciding(bus_class, give_up)(PlaceOrder(), registry=registry, **QUIET)

    with pytest.raises(RuntimeError, match="gave up") as caught:
        run(bus)

    assert caught.value.__context__ is original
    assert ([MailSent()], [Confirmation()]) == (bus.pending, bus.return_messages)


@every_bus
def test_override_may_raise_again_without_naming_the_exception(bus_class):
    """A bare ``raise``, as in an ``except`` block, raises what failed (L15)."""
    error = OutOfStock("none left")
    registry = Registry()
    registry.register(PlaceOrder, raising(error))

    def decide(exc, message):
        raise  # noqa: PLE0704

    with pytest.raises(OutOfStock) as caught:
        run(deciding(bus_class, decide)(PlaceOrder(), registry=registry, **QUIET))

    assert caught.value is error


@every_bus
def test_default_logs_once_and_raises(bus_class):
    """One failure, one record, at every depth (L14, L15, L20)."""
    logger, records = recorder()
    registry = Registry()
    registry.register(
        StockReserved, lambda message: StockReserved(left=message.left - 1) if message.left else MailSent()
    )
    registry.register(MailSent, lambda message: Confirmation())
    registry.register(MailSent, raising(OutOfStock()))

    with pytest.raises(OutOfStock):
        run(bus_class(StockReserved(left=48), registry=registry, logger=logger))

    failures = [record["message_type"] for record in records if record["log_level"] == "error"]
    assert failures == ["MailSent"]
    assert ["StockReserved"] * 49 == [record["message_type"] for record in records if record["log_level"] == "info"]


@every_bus
def test_failing_handler_takes_no_context_of_the_bus_along(bus_class):
    """A handler that catches its own errors raises into a clean traceback (L14)."""
    registry = Registry()
    registry.register(PlaceOrder, raising(OutOfStock()))

    with pytest.raises(OutOfStock) as caught:
        run(bus_class(PlaceOrder(), registry=registry, **QUIET))

    assert (None, None) == (caught.value.__cause__, caught.value.__context__)


# message_dispatcher


def trying(bus_class, attempts):
    """Return a subclass that retries with tenacity, written as an application would write it."""
    options = {"stop": tenacity.stop_after_attempt(attempts), "wait": tenacity.wait_none(), "reraise": True}

    class Sync(bus_class):
        def message_dispatcher(self, message):
            for attempt in tenacity.Retrying(**options):
                with attempt:
                    self.dispatch_message(message)

    class Async(bus_class):
        async def message_dispatcher(self, message):
            async for attempt in tenacity.AsyncRetrying(**options):
                with attempt:
                    await self.dispatch_message(message)

    return Sync if issubclass(bus_class, MessageBus) else Async


def cascade_with_a_failure(depth, calls, failing):
    """Return a registry in which, that deep, one of three handlers fails as long as ``failing`` says."""
    registry = Registry()

    @registry.handles(StockReserved)
    def descend(message):
        calls.append("descend")
        return StockReserved(left=message.left - 1) if message.left else OrderPlaced()

    @registry.handles(OrderPlaced)
    def reserve(message):
        calls.append("reserve")
        return MailSent()

    @registry.handles(OrderPlaced)
    def charge(message):
        calls.append("charge")
        yield Confirmation(text="charged")
        if next(failing):
            raise OutOfStock

    @registry.handles(OrderPlaced)
    def ship(message):
        calls.append("ship")
        return Confirmation(text="shipped")

    @registry.handles(MailSent)
    def mail(message):
        calls.append("mail")

    return registry, StockReserved(left=depth - 1)


@pytest.mark.parametrize("depth", [1, 2, 50])
@every_bus
def test_three_attempts_are_three_runs_of_the_failing_handler(bus_class, depth):
    """And one of each other; the follow-ups are released once, and one failure is recorded (L16, L20)."""
    calls = []
    logger, records = recorder()
    registry, first = cascade_with_a_failure(depth, calls, itertools.repeat(True))
    bus = trying(bus_class, 3)(first, registry=registry, logger=logger, log_level="disabled")

    with pytest.raises(OutOfStock) as caught:
        run(bus)

    assert Counter(descend=depth, reserve=1, charge=3, ship=1) == Counter(calls)
    assert ([MailSent()], [Confirmation(text="shipped")]) == (bus.pending, bus.return_messages)
    assert [("message.failed", "OrderPlaced")] == [(record["event"], record["message_type"]) for record in records]
    assert 1 == len(caught.value.__notes__)


@pytest.mark.parametrize("depth", [1, 50])
@every_bus
def test_retry_that_succeeds_is_no_failure(bus_class, depth):
    """What the handler returned in the end is released, and nobody hears of the attempts before (L16)."""
    calls = []
    logger, records = recorder()
    registry, first = cascade_with_a_failure(depth, calls, iter([True, True, False]))
    bus = trying(bus_class, 3)(first, registry=registry, logger=logger, log_level="disabled")

    results = run(bus)

    assert Counter(descend=depth, reserve=1, charge=3, ship=1, mail=1) == Counter(calls)
    assert [Confirmation(text="shipped"), Confirmation(text="charged")] == results
    assert [] == records


@every_bus
def test_attempt_is_counted_in_the_envelope(bus_class):
    """A handler can tell which attempt it is (L16, L22)."""
    attempts = []
    registry = Registry()

    @registry.handles(PlaceOrder)
    def place_order(message):
        attempts.append(current_envelope().attempt)
        raise OutOfStock

    with pytest.raises(OutOfStock):
        run(trying(bus_class, 3)(PlaceOrder(), registry=registry, **QUIET))

    assert attempts == [1, 2, 3]


@every_bus
def test_same_exception_raised_three_times_has_one_note(bus_class):
    """A retry of a handler with a prepared exception does not pile up notes (L14, L16)."""
    error = OutOfStock()
    registry = Registry()
    registry.register(PlaceOrder, raising(error))

    with pytest.raises(OutOfStock):
        run(trying(bus_class, 3)(PlaceOrder(), registry=registry, **QUIET))

    assert 1 == len(error.__notes__)


@every_bus
def test_retries_of_two_failing_handlers_are_counted_apart(bus_class):
    """Each runs until it succeeds; the group shrinks with those that did (L16)."""
    calls = []
    registry = Registry()

    def failing(name, times):
        turns = itertools.count(1)

        def handle(message):
            calls.append(name)
            if next(turns) <= times:
                raise OutOfStock(name)
            return Confirmation(text=name)

        return handle

    registry.register(OrderPlaced, failing("once", 1))
    registry.register(OrderPlaced, failing("always", 9))
    registry.register(OrderPlaced, failing("twice", 2))
    bus = trying(bus_class, 3)(OrderPlaced(), registry=registry, **QUIET)

    with pytest.raises(OutOfStock, match="always"):
        run(bus)

    assert calls == ["once", "always", "twice", "once", "always", "twice", "always", "twice"]
    assert [Confirmation(text="once"), Confirmation(text="twice")] == bus.return_messages


@every_bus
def test_dispatching_again_after_success_calls_nobody(bus_class):
    """There is no handler that has not yet succeeded (L16)."""
    calls = []

    class Twice(bus_class):
        if issubclass(bus_class, MessageBus):

            def message_dispatcher(self, message):
                self.dispatch_message(message)
                self.dispatch_message(message)
        else:

            async def message_dispatcher(self, message):
                await self.dispatch_message(message)
                await self.dispatch_message(message)

    registry = Registry()
    registry.register(PlaceOrder, lambda message: calls.append("place") or [OrderPlaced(), Confirmation()])
    registry.register(OrderPlaced, lambda message: calls.append("placed"))

    results = run(Twice(PlaceOrder(), registry=registry, **QUIET))

    assert calls == ["place", "placed"]
    assert [Confirmation()] == results


@every_bus
def test_dispatcher_that_swallows_lets_the_run_go_on(bus_class):
    """What it hides is no failure; the handlers that succeeded have their follow-ups dispatched (L13, L16)."""
    decided = []

    class Hiding(deciding(bus_class, lambda exc, message: decided.append(message))):
        if issubclass(bus_class, MessageBus):

            def message_dispatcher(self, message):
                with suppress(OutOfStock):
                    self.dispatch_message(message)
        else:

            async def message_dispatcher(self, message):
                with suppress(OutOfStock):
                    await self.dispatch_message(message)

    calls = []
    results = run(Hiding(OrderPlaced(), registry=three_handlers(calls), **QUIET))

    assert Counter(["reserve", "charge", "mail", "reserved", "mailed"]) == Counter(calls)
    assert [Confirmation(text="reserved"), Confirmation(text="mailed")] == results
    assert [] == decided


@every_bus
def test_dispatcher_may_skip_a_message(bus_class):
    """Without ``dispatch_message`` no handler runs, and the next message has its turn (L16)."""

    class Skipping(bus_class):
        if issubclass(bus_class, MessageBus):

            def message_dispatcher(self, message):
                if not isinstance(message, MailSent):
                    self.dispatch_message(message)
        else:

            async def message_dispatcher(self, message):
                if not isinstance(message, MailSent):
                    await self.dispatch_message(message)

    calls = []
    registry = Registry()
    registry.register(PlaceOrder, lambda message: [MailSent(), OrderPlaced()])
    registry.register(MailSent, calls.append)
    registry.register(OrderPlaced, calls.append)
    bus = Skipping(PlaceOrder(), registry=registry, **QUIET)

    run(bus)

    assert [OrderPlaced()] == calls
    assert [] == bus.pending


@every_bus
def test_error_of_a_dispatcher_is_the_messages_failure(bus_class):
    """What an override raises by itself, before or after the handlers, is decided about as theirs is (L15)."""
    decided = []

    class Broken(deciding(bus_class, lambda exc, message: decided.append((type(exc), message)))):
        if issubclass(bus_class, MessageBus):

            def message_dispatcher(self, message):
                self.dispatch_message(message)
                raise LookupError
        else:

            async def message_dispatcher(self, message):
                await self.dispatch_message(message)
                raise LookupError

    registry = Registry()
    registry.register(PlaceOrder, lambda message: [OrderPlaced(), Confirmation()])

    results = run(Broken(PlaceOrder(), registry=registry, **QUIET))

    assert [(LookupError, PlaceOrder()), (LookupError, OrderPlaced())] == decided
    assert [Confirmation()] == results


# What is no failure


PASSING = [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit]


@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.parametrize("bus_class", [MessageBus, AsyncMessageBus])
def test_interruption_passes_and_the_message_is_pending_again(bus_class, kind):
    """It is not for ``handle_exception``; who calls the bus again finishes what was begun (L17)."""
    calls, decided = [], []
    interruptions = iter([True, False])
    registry = Registry()
    registry.register(PlaceOrder, lambda message: [OrderPlaced(), MailSent()])
    registry.register(OrderPlaced, lambda message: calls.append("before") or Confirmation(text="before"))

    @registry.handles(OrderPlaced)
    def charge(message):
        calls.append("charge")
        if next(interruptions):
            raise kind
        return StockReserved()

    registry.register(OrderPlaced, lambda message: calls.append("after"))
    registry.register(MailSent, lambda message: calls.append("mail"))
    registry.register(StockReserved, lambda message: calls.append("reserved"))
    bus = deciding(bus_class, lambda exc, message: decided.append(exc))(PlaceOrder(), registry=registry, **QUIET)

    with pytest.raises(kind):
        run(bus)

    assert calls == ["before", "charge"]
    assert [OrderPlaced(), MailSent()] == bus.pending
    assert [Confirmation(text="before")] == bus.return_messages

    results = run(bus)

    assert calls == ["before", "charge", "charge", "after", "mail", "reserved"]
    assert [Confirmation(text="before")] == results
    assert [] == decided


@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.parametrize("bus_class", [MessageBus, AsyncMessageBus])
def test_interruption_in_a_generator_passes(bus_class, kind):
    """A handler that has yielded already is not finished; nothing of it is released (L13, L17)."""
    registry = Registry()

    @registry.handles(PlaceOrder)
    def place_order(message):
        yield Confirmation()
        raise kind

    bus = bus_class(PlaceOrder(), registry=registry, **QUIET)

    with pytest.raises(kind):
        run(bus)

    assert ([PlaceOrder()], []) == (bus.pending, bus.return_messages)


@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.parametrize("bus_class", [MessageBus, AsyncMessageBus])
def test_interruption_is_not_retried(bus_class, kind):
    """A retry around ``dispatch_message`` for ordinary errors does not see it, and nothing is recorded (L17)."""
    calls = []
    logger, records = recorder()
    registry = Registry()

    @registry.handles(PlaceOrder)
    def place_order(message):
        calls.append("place")
        raise kind

    retrying = trying(bus_class, 3)
    with pytest.raises(kind):
        run(retrying(PlaceOrder(), registry=registry, logger=logger))

    assert calls == ["place"]
    assert [] == records


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("bus_class", [MessageBus, AsyncMessageBus])
def test_interruption_after_a_failed_sibling_passes(bus_class, kind):
    """The failure before it is met again when the run goes on; it is not lost, and not decided early (L16, L17)."""
    calls, decided = [], []
    interruptions = iter([True, False])
    registry = Registry()
    registry.register(OrderPlaced, lambda message: calls.append("failing") or 1 / 0)

    @registry.handles(OrderPlaced)
    def charge(message):
        calls.append("charge")
        if next(interruptions):
            raise kind

    bus = deciding(bus_class, lambda exc, message: decided.append(type(exc)))(OrderPlaced(), registry=registry, **QUIET)

    with pytest.raises(kind):
        run(bus)
    assert ([OrderPlaced()], []) == (bus.pending, decided)

    run(bus)
    assert calls == ["failing", "charge", "failing", "charge"]
    assert [ZeroDivisionError] == decided


@pytest.mark.parametrize("bus_class", [MessageBus, AsyncMessageBus])
def test_interruption_while_deciding_keeps_the_message(bus_class):
    """Nobody has decided about it yet: it goes back to the front, and is decided about when the run goes on (L17)."""
    decisions = iter([KeyboardInterrupt(), None])
    registry = Registry()
    registry.register(OrderPlaced, lambda message: [PlaceOrder(), MailSent()])
    registry.register(PlaceOrder, raising(OutOfStock()))

    def decide(exc, message):
        if interruption := next(decisions):
            raise interruption

    bus = deciding(bus_class, decide)(OrderPlaced(), registry=registry, **QUIET)

    with pytest.raises(KeyboardInterrupt):
        run(bus)

    assert [PlaceOrder(), MailSent()] == bus.pending
    assert [] == run(bus)
    assert [] == list(decisions)


# In one call


def shop():
    registry = Registry()

    @registry.handles(PlaceOrder)
    def place_order(message):
        if message.order_id == "o-13":
            raise OutOfStock
        yield Confirmation(text=message.order_id)
        yield OrderPlaced(order_id=message.order_id)
        yield Confirmation(text=message.order_id)

    return registry


def call(function, *args, **options):
    """Call one of the four functions."""
    outcome = function(*args, **options)
    return asyncio.run(outcome) if inspect.isawaitable(outcome) else outcome


@pytest.mark.parametrize("function", [handle_message, ahandle_message])
def test_handle_message_returns_the_return_messages(function):
    """All of them, in order, as a bus does (L11)."""
    results = call(function, PlaceOrder(order_id="o-7"), registry=shop())

    assert [Confirmation(text="o-7")] * 2 == results


@pytest.mark.parametrize("function", [handle_message, ahandle_message])
def test_handle_message_raises_what_the_handler_raised(function):
    """As a bus does, with its note (L14)."""
    with pytest.raises(OutOfStock) as caught:
        call(function, PlaceOrder(order_id="o-13"), registry=shop())

    assert 1 == len(caught.value.__notes__)


@pytest.mark.parametrize("function", [handle_message, ahandle_message])
def test_handle_message_writes_nothing_unless_told(function, capfd):
    """Both levels are off (L19)."""
    call(function, PlaceOrder(), registry=shop())
    with pytest.raises(OutOfStock):
        call(function, PlaceOrder(order_id="o-13"), registry=shop())

    assert ("", "") == capfd.readouterr()


@pytest.mark.parametrize("function", [handle_message, ahandle_message])
def test_handle_message_writes_what_it_is_told(function):
    """The levels mean what they mean to a bus (L19)."""
    logger, records = recorder()
    options = {"registry": shop(), "logger": logger, "log_level": "info", "error_log_level": "warning"}

    call(function, PlaceOrder(), **options)
    with pytest.raises(OutOfStock):
        call(function, PlaceOrder(order_id="o-13"), **options)

    expected = [("command.handled", "info"), ("event.unhandled", "info"), ("message.failed", "warning")]
    assert expected == [(record["event"], record["log_level"]) for record in records]


@pytest.mark.parametrize("payload", ['{"type": "PlaceOrder", "data": {"order_id": "o-7"}}', b'{"type":"PlaceOrder"}'])
@pytest.mark.parametrize("function", [handle_json, ahandle_json])
def test_handle_json_takes_and_gives_json(function, payload):
    """Validate, run and serialise in one call; an array of return messages comes back (L2, L11)."""
    order_id = json.loads(payload).get("data", {}).get("order_id", "o-1")

    written = call(function, payload, registry=shop())

    expected = {"type": "Confirmation", "data": {"text": order_id}}
    assert [expected, expected] == json.loads(written)


@pytest.mark.parametrize("function", [handle_json, ahandle_json])
def test_handle_json_gives_an_empty_array_for_nothing(function):
    """There is always JSON, so that whoever called can parse it."""
    registry = Registry()
    registry.register(OrderPlaced)

    assert b"[]" == call(function, b'{"type": "OrderPlaced"}', registry=registry)


@pytest.mark.parametrize("function", [handle_json, ahandle_json])
def test_handle_json_refuses_before_anything_ran(function):
    """A payload that does not fit, and a type that nobody knows, are one clear error each (L1)."""
    with pytest.raises(InvalidMessageError):
        call(function, '{"type": "PlaceOrder", "data": {"order_id": 7}}', registry=shop())
    with pytest.raises(UnknownMessageError):
        call(function, '{"type": "PlaceOrdr", "data": {}}', registry=shop())


@pytest.mark.parametrize("function", [handle_json, ahandle_json])
def test_handle_json_takes_over_the_envelope_of_a_cloudevent(function):
    """The ids that came in are those that the handler sees (L22)."""
    seen = []
    registry = Registry()

    @registry.handles(PlaceOrder)
    def place_order(message):
        envelope = current_envelope()
        seen.append((envelope.id, envelope.correlation_id, envelope.causation_id, dict(envelope.headers)))

    event = {
        "specversion": "1.0",
        "id": "e-1",
        "source": "/shop",
        "correlationid": "c-1",
        "causationid": "p-1",
        "traceparent": "00-1-1-00",
        "type": "PlaceOrder",
        "data": {},
    }

    call(function, json.dumps(event), registry=registry)

    assert [("e-1", "c-1", "p-1", {"source": "/shop", "traceparent": "00-1-1-00"})] == seen
