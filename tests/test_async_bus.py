"""The async bus: every kind of handler, threads, handlers at the same time, and cancellation."""

import asyncio
import functools
import gc
import inspect
import re
import threading
from collections import Counter
from contextlib import suppress
from contextvars import ContextVar

import pytest
import structlog
from structlog.testing import LogCapture

from messagebus import (
    AsyncHandlerError,
    AsyncMessageBus,
    CascadeLimitError,
    Command,
    Event,
    HandlerError,
    MessageBus,
    Registry,
    ReturnMessage,
    ahandle_message,
    current_envelope,
    handle_message,
)

QUIET = {"log_level": "disabled", "error_log_level": "disabled"}
TENANT: ContextVar[str] = ContextVar("tenant", default="nobody")


class ConcurrentBus(AsyncMessageBus):
    concurrent = True


both_ways = pytest.mark.parametrize("bus_class", [AsyncMessageBus, ConcurrentBus])


class PlaceOrder(Command):
    text: str = ""


class OrderPlaced(Event):
    text: str = ""


class MailSent(Event):
    text: str = ""


class Confirmation(ReturnMessage):
    text: str = ""


class OutOfStock(Exception):
    pass


def full_name(thing):
    return f"{thing.__module__}.{thing.__qualname__}"


def replies(*texts):
    return [Confirmation(text=text) for text in texts]


def others():
    """Return the tasks of the loop but the one that asks."""
    return asyncio.all_tasks() - {asyncio.current_task()}


# Every kind of handler


async def coroutine_function(message):
    await asyncio.sleep(0)
    return Confirmation(text="done")


async def async_generator(message):
    yield Confirmation(text="done")
    await asyncio.sleep(0)


def plain(message):
    return Confirmation(text="done")


def generator(message):
    yield Confirmation(text="done")


def logged(function):
    """Decorate as an application would, and hide that the function is async."""

    @functools.wraps(function)
    def wrapper(message):
        return function(message)

    return wrapper


async def with_session(session, message):
    return Confirmation(text="done")


class Handling:
    async def __call__(self, message):
        return Confirmation(text="done")

    async def method(self, message):
        return Confirmation(text="done")

    async def generating(self, message):
        yield Confirmation(text="done")

    @staticmethod
    async def static(message):
        return Confirmation(text="done")

    @classmethod
    async def of_class(cls, message):
        return Confirmation(text="done")


class Waiting:
    """An awaitable that is no coroutine."""

    def __await__(self):
        yield
        return Confirmation(text="done")


class Ticking:
    """An async iterable that is no async generator."""

    def __init__(self, message):
        self.left = 1

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        return Confirmation(text="done")


# Of these it can be known that they are async; of those below only when they have been called.
DECLARED = {
    "coroutine function": coroutine_function,
    "async generator": async_generator,
    "callable object": Handling(),
    "bound method": Handling().method,
    "bound async generator": Handling().generating,
    "static method": Handling.static,
    "class method": Handling.of_class,
    "partial": functools.partial(with_session, object()),
    "partial of a partial": functools.partial(functools.partial(with_session), object()),
    "partial of a method": functools.partial(Handling().method),
}
DISGUISED = {
    "lambda with a coroutine": lambda message: coroutine_function(message),
    "lambda with an async generator": lambda message: async_generator(message),
    "decorated": logged(coroutine_function),
    "decorated async generator": logged(async_generator),
    "awaitable": lambda message: Waiting(),
    "async iterable": Ticking,
}
PLAIN = {
    "plain": plain,
    "generator": generator,
    "lambda": lambda message: plain(message),
    "decorated plain": logged(plain),
}


@pytest.mark.parametrize("handler", (DECLARED | DISGUISED | PLAIN).values(), ids=(DECLARED | DISGUISED | PLAIN).keys())
@both_ways
def test_every_kind_of_handler_is_taken(bus_class, handler):
    """Async in every form, and plain ones as the sync bus takes them (L24)."""
    registry = Registry()
    registry.register(PlaceOrder, handler)

    results = asyncio.run(bus_class(PlaceOrder(), registry=registry, **QUIET)())

    assert replies("done") == results


@both_ways
def test_async_handler_may_return_an_iterable(bus_class):
    """What may be returned is the same as for a plain handler (L24)."""
    registry = Registry()

    @registry.handles(PlaceOrder)
    async def place_order(message):
        return (Confirmation(text=text) for text in "ab")

    assert replies("a", "b") == asyncio.run(bus_class(PlaceOrder(), registry=registry, **QUIET)())


@both_ways
def test_async_handler_may_return_nothing(bus_class):
    """``None`` is no message (L24)."""
    registry = Registry()

    @registry.handles(PlaceOrder)
    async def place_order(message):
        pass

    assert asyncio.run(bus_class(PlaceOrder(), registry=registry, **QUIET)()) == []


@both_ways
def test_async_handler_that_returns_something_wrong_is_named(bus_class):
    """The sentence is that of the sync bus (L24)."""
    registry = Registry()

    @registry.handles(PlaceOrder)
    async def place_order(message):
        return {"placed": True}

    with pytest.raises(HandlerError) as caught:
        asyncio.run(bus_class(PlaceOrder(), registry=registry, **QUIET)())

    expected = (
        rf"Cannot take what {re.escape(full_name(place_order))} \(.*test_async_bus\.py:\d+\) returned: "
        r"it is an object of type dict\. "
        r"Return None, a message or an iterable of messages; data for the caller goes into a ReturnMessage\."
    )
    assert re.fullmatch(expected, str(caught.value))


@both_ways
def test_async_generator_that_raises_releases_nothing(bus_class):
    """What it yielded before it failed was never said (L13, L24)."""
    registry = Registry()

    @registry.handles(PlaceOrder)
    async def place_order(message):
        yield Confirmation()
        yield OrderPlaced()
        raise OutOfStock

    bus = bus_class(PlaceOrder(), registry=registry, **QUIET)

    with pytest.raises(OutOfStock):
        asyncio.run(bus())

    assert ([], []) == (bus.pending, bus.return_messages)


@pytest.mark.parametrize("blocking", [False, True])
@both_ways
def test_endless_generator_is_stopped_and_closed(bus_class, blocking):
    """Its clean-up is done when the run has ended, and no task is left to do it later (L12, L24)."""
    closed, tasks = [], []
    registry = Registry()

    async def endless(message):
        try:
            while True:
                yield OrderPlaced()
        finally:
            closed.append("async")

    def endless_plain(message):
        try:
            while True:
                yield OrderPlaced()
        finally:
            closed.append("plain")

    class Limited(bus_class):
        max_messages = 100

    registry.register(PlaceOrder, endless_plain if blocking else endless, blocking=blocking)

    async def main():
        with pytest.raises(CascadeLimitError):
            await Limited(PlaceOrder(), registry=registry, **QUIET)()
        assert closed == ["plain" if blocking else "async"]
        tasks.extend(others())

    asyncio.run(main())
    assert tasks == []


# The sync bus and async handlers


@pytest.mark.parametrize("handler", DECLARED.values(), ids=DECLARED.keys())
def test_sync_bus_refuses_an_async_handler_before_any_sibling_ran(handler):
    """It names the handler, and nothing has happened that would have to be undone (L24)."""
    calls = []
    registry = Registry()
    registry.register(OrderPlaced, calls.append)
    registry.register(OrderPlaced, handler)

    with pytest.raises(AsyncHandlerError) as caught:
        handle_message(OrderPlaced(), registry=registry)

    assert full_name(OrderPlaced) in str(caught.value)
    assert calls == []


@pytest.mark.parametrize("handler", DISGUISED.values(), ids=DISGUISED.keys())
def test_sync_bus_refuses_what_would_have_to_be_awaited(handler):
    """It fails by name, and leaves no coroutine behind that was never awaited (L24)."""
    registry = Registry()
    registry.register(PlaceOrder, handler)

    with pytest.raises(AsyncHandlerError, match=r"Cannot dispatch .* on the sync bus"):
        handle_message(PlaceOrder(), registry=registry)

    gc.collect()


def test_sync_bus_names_the_async_handler_and_what_to_use():
    """What cannot be done, why, and what to do (L24)."""
    registry = Registry()
    registry.register(PlaceOrder, coroutine_function)

    with pytest.raises(AsyncHandlerError) as caught:
        MessageBus(PlaceOrder(), registry=registry, **QUIET)()

    line = coroutine_function.__code__.co_firstlineno
    expected = (
        rf"Cannot dispatch {re.escape(full_name(PlaceOrder))} on the sync bus: "
        rf"its handler {re.escape(full_name(coroutine_function))} \(.*test_async_bus\.py:{line}\) is async\. "
        r"Use AsyncMessageBus or `await ahandle_message\(\.\.\.\)`\."
    )
    assert re.fullmatch(expected, str(caught.value))


def test_sync_bus_refuses_an_async_handler_in_a_follow_up():
    """What was dispatched before it stands (L15, L24)."""
    registry = Registry()
    registry.register(PlaceOrder, lambda message: [Confirmation(), OrderPlaced(), MailSent()])
    registry.register(OrderPlaced, coroutine_function)
    bus = MessageBus(PlaceOrder(), registry=registry, **QUIET)

    with pytest.raises(AsyncHandlerError):
        bus()

    assert ([MailSent()], replies("")) == (bus.pending, bus.return_messages)


# Blocking handlers


@both_ways
def test_blocking_handler_runs_in_another_thread(bus_class):
    """The event loop stays free: it lets the handler go on (L24)."""
    home = threading.get_ident()
    registry = Registry()

    async def main():
        loop = asyncio.get_running_loop()
        released = threading.Event()

        def place_order(message):
            assert threading.get_ident() != home
            loop.call_soon_threadsafe(released.set)
            released.wait()
            return Confirmation(text="done")

        registry.register(PlaceOrder, place_order, blocking=True)
        return await bus_class(PlaceOrder(), registry=registry, **QUIET)()

    assert replies("done") == asyncio.run(main())


@both_ways
def test_generator_of_a_blocking_handler_is_consumed_in_its_thread(bus_class):
    """All of its body blocks, and so none of it runs on the event loop (L24)."""
    threads = []
    registry = Registry()

    def place_order(message):
        threads.append(threading.get_ident())
        yield Confirmation(text="a")
        threads.append(threading.get_ident())
        yield Confirmation(text="b")
        threads.append(threading.get_ident())

    registry.register(PlaceOrder, place_order, blocking=True)

    results = asyncio.run(bus_class(PlaceOrder(), registry=registry, **QUIET)())

    assert replies("a", "b") == results
    assert len(threads) == 3
    assert threading.get_ident() not in threads


@both_ways
def test_blocking_handler_has_a_copy_of_the_context(bus_class):
    """It reads the caller's context variables and its envelope; what it sets stays in its thread (L22, L24)."""
    seen = []
    registry = Registry()

    def place_order(message):
        seen.append((TENANT.get(), current_envelope().message, structlog.contextvars.get_contextvars()["request"]))
        TENANT.set("changed")

    registry.register(PlaceOrder, place_order, blocking=True)

    async def main():
        TENANT.set("t-1")
        structlog.contextvars.bind_contextvars(request="r-1")
        await bus_class(PlaceOrder(), registry=registry, **QUIET)()
        return TENANT.get()

    assert asyncio.run(main()) == "t-1"
    assert [("t-1", PlaceOrder(), "r-1")] == seen


@both_ways
def test_blocking_handler_that_raises_raises_its_own_exception(bus_class):
    """With its note, as any other (L14, L24)."""
    registry = Registry()

    def place_order(message):
        raise OutOfStock

    registry.register(PlaceOrder, place_order, blocking=True)

    with pytest.raises(OutOfStock) as caught:
        asyncio.run(bus_class(PlaceOrder(), registry=registry, **QUIET)())

    assert [True] == [full_name(place_order) in note for note in caught.value.__notes__]


@both_ways
def test_stop_iteration_in_a_blocking_handler_is_a_failure(bus_class):
    """A ``next()`` too many in a thread does not leave the run waiting for ever, as a future would (L14, L24)."""
    registry = Registry()
    registry.register(PlaceOrder, lambda message: next(iter(())), blocking=True)

    async def main():
        run = asyncio.create_task(bus_class(PlaceOrder(), registry=registry, **QUIET)())
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: run.cancel())
        return (await asyncio.gather(run, return_exceptions=True))[0]

    error = asyncio.run(main())

    assert isinstance(error, RuntimeError)
    assert isinstance(error.__cause__, StopIteration)


def test_blocking_handler_is_a_plain_one_to_the_sync_bus():
    """It blocks the thread that called the bus, which is what a sync bus does (L24)."""
    threads = []
    registry = Registry()
    registry.register(PlaceOrder, lambda message: threads.append(threading.get_ident()), blocking=True)

    handle_message(PlaceOrder(), registry=registry)

    assert [threading.get_ident()] == threads


def test_blocking_handlers_of_a_concurrent_bus_run_at_the_same_time():
    """Each in a thread of its own; the barrier would keep a single one for ever (L24)."""
    registry = Registry()
    barrier = threading.Barrier(3)

    def meeting(name):
        def handle(message):
            barrier.wait()
            return Confirmation(text=name)

        return handle

    for name in "abc":
        registry.register(OrderPlaced, meeting(name), blocking=True)

    assert replies("a", "b", "c") == asyncio.run(ConcurrentBus(OrderPlaced(), registry=registry, **QUIET)())


# One after another, or at the same time


def test_handlers_run_one_after_another():
    """A handler begins when the one before it has ended, however often that gave way (L8, L24)."""
    order = []
    registry = Registry()

    def handler(name):
        async def handle(message):
            order.append(f"{name} begins")
            for _ in range(3):
                await asyncio.sleep(0)
            order.append(f"{name} ends")

        return handle

    registry.register(OrderPlaced, handler("a"))
    registry.register(OrderPlaced, handler("b"))

    asyncio.run(ahandle_message(OrderPlaced(), registry=registry))

    assert order == ["a begins", "a ends", "b begins", "b ends"]


def meeting_registry(order):
    """Return a registry with three handlers that wait for one another, and end in the reverse order."""
    registry = Registry()
    ended = [asyncio.Event() for _ in range(4)]
    ended[3].set()
    arrived = []
    complete = asyncio.Event()

    def handler(number):
        async def handle(message):
            arrived.append(number)
            if len(arrived) == 3:
                complete.set()
            await complete.wait()
            await ended[number + 1].wait()
            order.append(number)
            ended[number].set()
            return [OrderPlaced(text=str(number)), Confirmation(text=str(number))]

        return handle

    for number in range(3):
        registry.register(MailSent, handler(number))
    return registry


def test_concurrent_handlers_run_at_the_same_time():
    """Each waits for the others, which would never end one after another; follow-ups keep their order (L24)."""
    ended, followed = [], []

    async def main():
        registry = meeting_registry(ended)
        registry.register(OrderPlaced, lambda message: followed.append(message.text))
        return await ConcurrentBus(MailSent(), registry=registry, **QUIET)()

    results = asyncio.run(main())

    assert ended == [2, 1, 0]
    assert followed == ["0", "1", "2"]
    assert replies("0", "1", "2") == results


def test_messages_of_a_concurrent_run_are_still_dispatched_one_by_one():
    """Only the handlers of one event run at the same time (L10, L24)."""
    order = []
    registry = Registry()

    @registry.handles(OrderPlaced)
    async def handle(message):
        order.append(f"{message.text} begins")
        await asyncio.sleep(0)
        order.append(f"{message.text} ends")

    registry.register(PlaceOrder, lambda message: [OrderPlaced(text="1"), OrderPlaced(text="2")])

    asyncio.run(ConcurrentBus(PlaceOrder(), registry=registry, **QUIET)())

    assert order == ["1 begins", "1 ends", "2 begins", "2 ends"]


def test_failures_of_concurrent_handlers_are_grouped():
    """In the order of registration, whichever came first; what the others returned is released (L13, L14, L24)."""
    first, third = OutOfStock("first"), OutOfStock("third")

    async def main():
        failed = asyncio.Event()
        registry = Registry()

        @registry.handles(OrderPlaced)
        async def fail_last(message):
            await failed.wait()
            raise first

        @registry.handles(OrderPlaced)
        async def finish(message):
            await failed.wait()
            return Confirmation()

        @registry.handles(OrderPlaced)
        async def fail_first(message):
            failed.set()
            raise third

        bus = ConcurrentBus(OrderPlaced(), registry=registry, **QUIET)
        with pytest.raises(ExceptionGroup) as caught:
            await bus()
        return caught.value, bus.return_messages, others()

    group, results, left = asyncio.run(main())

    assert (first, third) == group.exceptions
    assert replies("") == results
    assert set() == left


def test_one_failure_of_concurrent_handlers_comes_out_unwrapped():
    """As when they run one after another (L14, L24)."""
    error = OutOfStock()
    registry = Registry()
    registry.register(OrderPlaced, coroutine_function)

    @registry.handles(OrderPlaced)
    async def fail(message):
        raise error

    with pytest.raises(OutOfStock) as caught:
        asyncio.run(ConcurrentBus(OrderPlaced(), registry=registry, **QUIET)())

    assert caught.value is error


def test_concurrent_handlers_see_their_own_envelope():
    """All of them that of their message, and each its own context (L22, L24)."""
    seen = []
    registry = Registry()

    def handler(name):
        async def handle(message):
            TENANT.set(name)
            await asyncio.sleep(0)
            seen.append((name, TENANT.get(), current_envelope().message))

        return handle

    for name in "ab":
        registry.register(OrderPlaced, handler(name))

    asyncio.run(ConcurrentBus(OrderPlaced(text="1"), registry=registry, **QUIET)())

    assert [("a", "a", OrderPlaced(text="1")), ("b", "b", OrderPlaced(text="1"))] == seen


# Cancellation


def interruptible(log, started):
    """Return a registry with four handlers of an event, the second of which waits for ever in its first run."""
    registry = Registry()
    turns = iter([True, False])

    @registry.handles(OrderPlaced)
    async def before(message):
        log.append("before")
        return Confirmation(text="before")

    @registry.handles(OrderPlaced)
    async def waiting(message):
        log.append("waiting")
        try:
            if next(turns):
                started.set()
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
        return Confirmation(text="waiting")

    @registry.handles(OrderPlaced)
    async def after(message):
        log.append("after")
        return Confirmation(text="after")

    registry.register(OrderPlaced, lambda message: log.append("silent"))
    registry.register(PlaceOrder, lambda message: [OrderPlaced(), MailSent()])
    registry.register(MailSent, lambda message: log.append("mail"))
    return registry


async def cancel_when(started, bus):
    """Run the bus as a task, cancel it when it waits, and return the task when it has ended."""
    task = asyncio.create_task(bus())
    await started.wait()
    task.cancel()
    await asyncio.wait([task])
    return task


def test_cancelled_run_keeps_its_message():
    """The handler is cancelled at its await; what had finished is not run again when the run goes on (L17, L24)."""
    log, decided = [], []

    class Deciding(AsyncMessageBus):
        async def handle_exception(self, exc, message):
            decided.append(exc)

    async def main():
        started = asyncio.Event()
        bus = Deciding(PlaceOrder(), registry=interruptible(log, started), **QUIET)

        task = await cancel_when(started, bus)

        assert task.cancelled()
        assert set() == others()
        assert log == ["before", "waiting", "cancelled"]
        assert [OrderPlaced(), MailSent()] == bus.pending
        assert replies("before") == bus.return_messages
        return await bus()

    results = asyncio.run(main())

    assert log == ["before", "waiting", "cancelled", "waiting", "after", "silent", "mail"]
    assert replies("before", "waiting", "after") == results
    assert decided == []


def test_cancelled_concurrent_run_keeps_its_message():
    """Those that had finished are done; the others were cancelled, and run when the run goes on (L17, L24)."""
    log = []

    async def main():
        started = asyncio.Event()
        bus = ConcurrentBus(PlaceOrder(), registry=interruptible(log, started), **QUIET)

        task = await cancel_when(started, bus)

        assert task.cancelled()
        assert set() == others()
        assert log == ["before", "waiting", "after", "silent", "cancelled"]
        assert [OrderPlaced(), MailSent()] == bus.pending
        assert replies("before", "after") == bus.return_messages
        return await bus()

    results = asyncio.run(main())

    assert log == ["before", "waiting", "after", "silent", "cancelled", "waiting", "mail"]
    assert replies("before", "after", "waiting") == results


@both_ways
def test_cancellation_is_recorded_nowhere(bus_class):
    """It is nobody's failure (L17)."""
    capture = LogCapture()
    logger = structlog.wrap_logger(None, [capture], structlog.make_filtering_bound_logger("debug"))

    async def main():
        started = asyncio.Event()
        bus = bus_class(OrderPlaced(), registry=interruptible([], started), logger=logger, log_level="info")
        return await cancel_when(started, bus)

    assert asyncio.run(main()).cancelled()
    assert capture.entries == []


def test_what_ended_beside_a_cancelled_handler_is_recorded():
    """At debug there is one record of each handler that finished or failed, however its neighbours ended (L19)."""
    capture = LogCapture()
    logger = structlog.wrap_logger(None, [capture], structlog.make_filtering_bound_logger("debug"))

    async def main():
        started = asyncio.Event()
        registry = interruptible([], started)
        registry.register(OrderPlaced, lambda message: 1 / 0)
        bus = ConcurrentBus(OrderPlaced(), registry=registry, logger=logger, log_level="debug")
        await cancel_when(started, bus)

    asyncio.run(main())

    names = [(entry["event"], entry["handler"].rpartition(".")[2]) for entry in capture.entries]
    finished = [("handler.finished", name) for name in ("before", "after", "<lambda>")]
    assert [*finished, ("handler.failed", "<lambda>")] == names


@both_ways
def test_handler_may_clean_up_while_it_is_cancelled(bus_class):
    """The run has not ended before the handler has, even if it is cancelled twice: no task is orphaned (L24)."""
    log = []

    async def main():
        started, cleaning, cleaned = asyncio.Event(), asyncio.Event(), asyncio.Event()
        registry = Registry()

        @registry.handles(OrderPlaced)
        async def handle(message):
            try:
                started.set()
                await asyncio.Event().wait()
            finally:
                while not cleaned.is_set():
                    cleaning.set()
                    with suppress(asyncio.CancelledError):
                        await cleaned.wait()
                log.append("cleaned up")

        registry.register(OrderPlaced, coroutine_function)
        task = asyncio.create_task(bus_class(OrderPlaced(), registry=registry, **QUIET)())
        await started.wait()
        task.cancel()
        await cleaning.wait()
        task.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        has_ended_early = task.done()
        cleaned.set()
        await asyncio.wait([task])
        return has_ended_early, task.cancelled(), others()

    assert (False, True, set()) == asyncio.run(main())
    assert log == ["cleaned up"]


def test_failure_beside_a_cancellation_is_no_loose_end():
    """A sibling that failed before is met again when the run goes on; asyncio finds no error unread (L16, L24)."""
    complaints = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        started = asyncio.Event()
        registry = interruptible([], started)

        @registry.handles(OrderPlaced)
        async def fail(message):
            raise OutOfStock

        bus = ConcurrentBus(OrderPlaced(), registry=registry, **QUIET)

        task = await cancel_when(started, bus)

        assert task.cancelled()
        gc.collect()
        with pytest.raises(OutOfStock):
            await bus()

    asyncio.run(main())
    gc.collect()

    assert complaints == []


@both_ways
def test_timeout_around_a_run_is_a_timeout(bus_class):
    """``asyncio.timeout`` sees the cancellation that it asked for, and turns it into ``TimeoutError`` (L17)."""

    async def main():
        bus = bus_class(OrderPlaced(), registry=interruptible([], asyncio.Event()), **QUIET)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await bus()
        return bus.pending, others()

    pending, left = asyncio.run(main())

    assert ([OrderPlaced()], set()) == (pending, left)


@both_ways
def test_cancelled_error_of_a_handler_passes(bus_class):
    """A handler that awaited something cancelled has not failed; the message is pending again (L17)."""
    decided = []
    turns = iter([True, False])

    class Deciding(bus_class):
        async def handle_exception(self, exc, message):
            decided.append(exc)

    async def main():
        registry = Registry()

        @registry.handles(OrderPlaced)
        async def handle(message):
            if next(turns):
                task = asyncio.create_task(asyncio.Event().wait())
                task.cancel()
                await task
            return Confirmation(text="handled")

        registry.register(OrderPlaced, coroutine_function)
        bus = Deciding(OrderPlaced(), registry=registry, **QUIET)
        with pytest.raises(asyncio.CancelledError):
            await bus()
        assert [OrderPlaced()] == bus.pending
        return sorted(reply.text for reply in await bus())

    assert asyncio.run(main()) == ["done", "handled"]
    assert decided == []


@both_ways
def test_run_can_be_cancelled_while_a_failure_is_decided(bus_class):
    """Nobody has decided about the message yet: it is pending again, and its follow-ups were not lost (L15, L17)."""
    turns = iter([True, False])

    async def main():
        deciding = asyncio.Event()

        class Deciding(bus_class):
            async def handle_exception(self, exc, message):
                if next(turns):
                    deciding.set()
                    await asyncio.Event().wait()

        registry = Registry()
        registry.register(OrderPlaced, coroutine_function)

        @registry.handles(OrderPlaced)
        async def fail(message):
            raise OutOfStock

        bus = Deciding(OrderPlaced(), registry=registry, **QUIET)

        task = await cancel_when(deciding, bus)

        assert task.cancelled()
        assert [OrderPlaced()] == bus.pending
        return await bus(), bus.pending

    assert (replies("done"), []) == asyncio.run(main())


PASSING = [KeyboardInterrupt, SystemExit, GeneratorExit]


@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.parametrize("form", ["coroutine", "plain", "generator"])
@both_ways
def test_interruption_of_a_handler_passes(bus_class, form, kind):
    """The message is pending again, and a handler that finished is not run again when the run goes on (L17)."""
    calls = []
    turns = iter([True, False])
    registry = Registry()
    registry.register(OrderPlaced, lambda message: calls.append("before"))

    def interrupt():
        if next(turns):
            raise kind

    async def coroutine(message):
        calls.append("interrupted")
        interrupt()

    def plain(message):
        calls.append("interrupted")
        interrupt()

    def generator(message):
        calls.append("interrupted")
        yield Confirmation(text="done")
        interrupt()

    registry.register(OrderPlaced, {"coroutine": coroutine, "plain": plain, "generator": generator}[form])
    registry.register(OrderPlaced, lambda message: calls.append("after"))
    bus = bus_class(OrderPlaced(), registry=registry, **QUIET)

    with pytest.raises(kind):
        asyncio.run(bus())
    assert [OrderPlaced()] == bus.pending

    asyncio.run(bus())
    assert Counter(before=1, interrupted=2, after=1) == Counter(calls)


# Side by side


@both_ways
def test_many_runs_share_a_loop(bus_class):
    """A hundred runs in one event loop, interleaved at every await, do not mix (L22, L25)."""
    registry = Registry()

    @registry.handles(PlaceOrder)
    async def place_order(message):
        await asyncio.sleep(0)
        assert message is current_envelope().message
        return [OrderPlaced(text=message.text), Confirmation(text=message.text)]

    @registry.handles(OrderPlaced)
    async def order_placed(message):
        await asyncio.sleep(0)
        assert message is current_envelope().message
        return Confirmation(text=f"{message.text} placed")

    async def main():
        buses = [bus_class(PlaceOrder(text=str(number)), registry=registry, **QUIET) for number in range(100)]
        return await asyncio.gather(*(bus() for bus in buses))

    results = asyncio.run(main())

    assert [replies(str(number), f"{number} placed") for number in range(100)] == results


def test_run_leaves_no_task_behind():
    """When the call of the bus has returned nothing goes on in its name (L24)."""
    registry = Registry()
    for handler in (coroutine_function, async_generator, plain):
        registry.register(OrderPlaced, handler)

    async def main():
        await ConcurrentBus(OrderPlaced(), registry=registry, **QUIET)()
        return others()

    assert set() == asyncio.run(main())


def test_bus_that_was_never_awaited_is_found():
    """Who forgets ``await`` is told by Python: the call gives a coroutine, and has dispatched nothing (L24)."""
    bus = AsyncMessageBus(OrderPlaced(), registry=Registry(), **QUIET)

    coroutine = bus()

    assert inspect.iscoroutine(coroutine)
    assert [OrderPlaced()] == bus.pending
    coroutine.close()
