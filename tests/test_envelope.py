"""Envelopes: ids that are made when they are read, chains of causes, and a context that leaks into nothing."""

import asyncio
import contextvars
import inspect
import itertools
import json
import os
import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import pytest
from structlog.contextvars import bind_contextvars, get_contextvars, unbind_contextvars

import messagebus.envelope
from messagebus import (
    AsyncMessageBus,
    Command,
    DispatchError,
    Envelope,
    Event,
    MessageBus,
    Registry,
    ReturnMessage,
    ahandle_message,
    current_envelope,
    handle_message,
)

QUIET = {"log_level": "disabled", "error_log_level": "disabled"}


class ConcurrentBus(AsyncMessageBus):
    concurrent = True


every_bus = pytest.mark.parametrize("bus_class", [MessageBus, AsyncMessageBus, ConcurrentBus])


class PlaceOrder(Command):
    order_id: str = "o-1"


class OrderPlaced(Event):
    left: int = 0


class MailSent(Event):
    pass


class Confirmation(ReturnMessage):
    pass


def run(bus):
    """Call a bus of either kind to the end of its run."""
    outcome = bus()
    return asyncio.run(outcome) if inspect.isawaitable(outcome) else outcome


def ids():
    """Return the ids of the message being handled: its own, its correlation's, its cause's."""
    envelope = current_envelope()
    return envelope.id, envelope.correlation_id, envelope.causation_id


def assert_outside():
    with pytest.raises(DispatchError):
        current_envelope()


@pytest.fixture
def made(monkeypatch):
    """The ids that are made, counted instead of random."""
    ids_made = []
    numbers = itertools.count(1)

    def counted():
        ids_made.append(f"id-{next(numbers)}")
        return ids_made[-1]

    monkeypatch.setattr(messagebus.envelope, "new_id", counted)
    return ids_made


# The envelope itself


def test_id_is_made_when_it_is_first_read_and_stays(made):
    """Who reads none pays for none (L22)."""
    envelope = Envelope(PlaceOrder())
    assert made == []

    first, second = envelope.id, envelope.id

    assert ("id-1", "id-1", ["id-1"]) == (first, second, made)


def test_first_message_is_its_own_correlation_and_has_no_cause():
    """Nothing led to it (L22)."""
    envelope = Envelope(PlaceOrder())

    assert envelope.id == envelope.correlation_id
    assert envelope.causation_id is None


def test_envelope_keeps_what_it_is_given():
    """What came from outside is not made again (L22)."""
    time = datetime(2026, 1, 2, tzinfo=UTC)

    envelope = Envelope(
        PlaceOrder(), id="i", correlation_id="c", causation_id="p", time=time, attempt=3, headers={"source": "/shop"}
    )

    expected = ("i", "c", "p", time, 3, {"source": "/shop"}, "PlaceOrder", PlaceOrder())
    assert expected == (
        envelope.id,
        envelope.correlation_id,
        envelope.causation_id,
        envelope.time,
        envelope.attempt,
        envelope.headers,
        envelope.type,
        envelope.message,
    )


def test_time_is_aware_and_stays():
    """A time without a zone is no time for whoever reads it elsewhere (L22)."""
    envelope = Envelope(PlaceOrder())

    assert timedelta(0) == envelope.time.utcoffset()
    assert envelope.time is envelope.time


def test_ids_are_32_hexadecimal_digits_and_do_not_repeat():
    """128 random bits each (L22)."""
    made = {Envelope(PlaceOrder()).id for _ in range(1_000)}

    assert len(made) == 1_000
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


def test_ids_do_not_repeat_when_the_application_seeds_random():
    """A simulation that seeds ``random`` twice does not get the same ids twice (L22)."""
    made = []
    for _ in range(2):
        random.seed(1)
        made.append(Envelope(PlaceOrder()).id)

    assert made[0] != made[1]


def test_ids_of_a_forked_child_are_its_own():
    """A child that inherits the generator does not go on with the ids of its parent (L22)."""
    reading, writing = os.pipe()

    child = os.fork()
    if not child:
        try:
            os.write(writing, Envelope(PlaceOrder()).id.encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with open(reading) as pipe:
        of_child = pipe.read()

    assert Envelope(PlaceOrder()).id != of_child
    assert len(of_child) == 32


def test_ids_are_no_part_of_the_message():
    """Two equal messages are equal, whatever became of them (L22)."""
    seen = []
    registry = Registry()
    registry.register(PlaceOrder, lambda message: seen.append((message.model_dump(), current_envelope().id)))

    handle_message(PlaceOrder(), registry=registry)
    handle_message(PlaceOrder(), registry=registry)

    (first, first_id), (second, second_id) = seen
    assert {"order_id": "o-1"} == first == second
    assert first_id != second_id


def test_cloudevent_says_what_the_envelope_says():
    """The ids leave the process with the message, and not in it (L22)."""
    time = datetime(2026, 1, 2, tzinfo=UTC)
    envelope = Envelope(
        PlaceOrder(), id="i", correlation_id="c", causation_id="p", time=time, headers={"traceparent": "00-1-1-00"}
    )

    written = json.loads(envelope.to_cloudevent("/shop"))

    expected = {
        "specversion": "1.0",
        "id": "i",
        "source": "/shop",
        "time": "2026-01-02T00:00:00Z",
        "datacontenttype": "application/json",
        "correlationid": "c",
        "causationid": "p",
        "traceparent": "00-1-1-00",
        "type": "PlaceOrder",
        "data": {"order_id": "o-1"},
    }
    assert expected == written


def test_cloudevent_reads_back_as_the_same_envelope():
    """What one process wrote another takes over, ids and headers (L22)."""
    registry = Registry()
    registry.register(PlaceOrder)
    sent = Envelope(PlaceOrder(), correlation_id="c", causation_id="p", headers={"traceparent": "00-1-1-00"})

    message, received = registry.read_json(sent.to_cloudevent("/shop"))

    assert PlaceOrder() == message == received.message
    assert (sent.id, "c", "p", sent.time) == (
        received.id,
        received.correlation_id,
        received.causation_id,
        received.time,
    )
    assert {"source": "/shop", "traceparent": "00-1-1-00"} == received.headers


# In handlers


def test_outside_a_handler_there_is_no_envelope():
    """The sentence says where to call it (L22)."""
    with pytest.raises(DispatchError) as caught:
        current_envelope()

    expected = (
        "Cannot call current_envelope(): no message is being handled here. "
        "Call it in a handler, or in what a handler calls."
    )
    assert expected == str(caught.value)


@every_bus
def test_handler_sees_the_envelope_of_its_message(bus_class):
    """The very instance, its first attempt (L22)."""
    seen = []
    message = PlaceOrder()
    registry = Registry()
    registry.register(PlaceOrder, lambda message: seen.append(current_envelope()))

    run(bus_class(message, registry=registry, **QUIET))

    (envelope,) = seen
    assert isinstance(envelope, Envelope)
    assert envelope.message is message
    assert envelope.attempt == 1


@every_bus
def test_run_that_reads_no_id_makes_none(bus_class, made):
    """With logs off and handlers that do not ask, ids cost nothing (L22)."""
    registry = Registry()
    registry.register(PlaceOrder, lambda message: [OrderPlaced(), Confirmation()])
    registry.register(OrderPlaced, lambda message: current_envelope().attempt and None)

    run(bus_class(PlaceOrder(), registry=registry, **QUIET))

    assert made == []


@every_bus
def test_id_read_late_is_the_one_its_follow_ups_know(bus_class, made):
    """An effect that reads its cause's id makes it, and every other effect reads the same (L22)."""
    seen = []
    registry = Registry()
    registry.register(PlaceOrder, lambda message: [OrderPlaced(), OrderPlaced()])
    registry.register(OrderPlaced, lambda message: seen.append(current_envelope().causation_id))

    run(bus_class(PlaceOrder(), registry=registry, **QUIET))

    assert seen == ["id-1", "id-1"]
    assert made == ["id-1"]


@every_bus
def test_causes_form_a_chain_and_the_correlation_stays(bus_class):
    """Each message names the one whose handler returned it; all of a run share one correlation id (L22)."""
    seen = []
    registry = Registry()

    @registry.handles(PlaceOrder)
    def place_order(message):
        seen.append(ids())
        return OrderPlaced(left=30)

    @registry.handles(OrderPlaced)
    def placed(message):
        seen.append(ids())
        return OrderPlaced(left=message.left - 1) if message.left else None

    run(bus_class(PlaceOrder(), registry=registry, **QUIET))

    own, correlations, causes = zip(*seen, strict=True)
    assert len(set(own)) == len(seen) == 32
    assert {own[0]} == set(correlations)
    assert (None, *own[:-1]) == causes


@every_bus
def test_siblings_have_one_cause_and_ids_of_their_own(bus_class):
    """Also the same instance returned twice: each dispatch is a message of its own (L10, L22)."""
    seen = []
    twice = OrderPlaced()
    registry = Registry()

    @registry.handles(PlaceOrder)
    def place_order(message):
        seen.append(ids())
        return [twice, twice]

    registry.register(OrderPlaced, lambda message: seen.append(ids()))

    run(bus_class(PlaceOrder(), registry=registry, **QUIET))

    (cause, _, _), (first, _, first_cause), (second, _, second_cause) = seen
    assert cause == first_cause == second_cause
    assert len({cause, first, second}) == 3


@every_bus
def test_handlers_of_one_event_see_one_id(bus_class):
    """The id is the message's, not the handler's; a retry keeps it (L16, L22)."""
    seen = []
    registry = Registry()
    registry.register(OrderPlaced, lambda message: seen.append(ids()))
    registry.register(OrderPlaced, lambda message: seen.append(ids()))

    run(bus_class(OrderPlaced(), registry=registry, **QUIET))

    assert seen[0] == seen[1]


@every_bus
def test_generator_handler_has_its_envelope_to_the_end(bus_class):
    """Its body runs while its message is in hand (L22)."""
    seen = []
    registry = Registry()

    @registry.handles(PlaceOrder)
    def place_order(message):
        seen.append(current_envelope().message)
        yield OrderPlaced()
        seen.append(current_envelope().message)

    run(bus_class(PlaceOrder(), registry=registry, **QUIET))

    assert [PlaceOrder(), PlaceOrder()] == seen


@every_bus
def test_bus_takes_over_the_envelope_it_is_given(bus_class):
    """Ids, cause, attempt, time and headers came with the message from outside; effects join them (L22)."""
    seen = []
    time = datetime(2026, 1, 2, tzinfo=UTC)
    registry = Registry()

    @registry.handles(PlaceOrder)
    def place_order(message):
        envelope = current_envelope()
        seen.append((*ids(), envelope.attempt, envelope.time, dict(envelope.headers)))
        return OrderPlaced()

    @registry.handles(OrderPlaced)
    def placed(message):
        seen.append((*ids()[1:], dict(current_envelope().headers)))

    message = PlaceOrder()
    envelope = Envelope(
        message, id="i", correlation_id="c", causation_id="p", time=time, attempt=3, headers={"traceparent": "t"}
    )
    run(bus_class(message, registry=registry, envelope=envelope, **QUIET))

    assert [("i", "c", "p", 3, time, {"traceparent": "t"}), ("c", "i", {"traceparent": "t"})] == seen


@every_bus
def test_envelope_that_is_given_may_know_nothing(bus_class):
    """What it does not know is made as for any other message (L22)."""
    seen = []
    message = PlaceOrder()
    envelope = Envelope(message)
    registry = Registry()
    registry.register(PlaceOrder, lambda message: seen.append(ids()))

    run(bus_class(message, registry=registry, envelope=envelope, **QUIET))

    assert [(envelope.id, envelope.id, None)] == seen


# Tasks and threads of a handler


def test_task_of_a_handler_sees_its_envelope():
    """A task copies the context in which it was made, and keeps it when the run has gone on (L22)."""
    seen = []
    registry = Registry()

    async def main():
        tasks, later = [], asyncio.Event()

        async def work():
            await later.wait()
            seen.append(current_envelope().message)

        @registry.handles(PlaceOrder)
        async def place_order(message):
            tasks.append(asyncio.create_task(work()))
            return OrderPlaced()

        await ahandle_message(PlaceOrder(), registry=registry)
        later.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())

    assert [PlaceOrder()] == seen


@every_bus
def test_thread_with_the_handlers_context_sees_its_envelope(bus_class):
    """``copy_context`` is enough; a thread without it is outside (L22)."""
    seen = []
    registry = Registry()

    @registry.handles(PlaceOrder)
    def place_order(message):
        context = contextvars.copy_context()
        with ThreadPoolExecutor(1) as pool:
            seen.append(pool.submit(context.run, current_envelope).result().message)
            pool.submit(assert_outside).result()

    run(bus_class(PlaceOrder(), registry=registry, **QUIET))

    assert [PlaceOrder()] == seen


# Runs within handlers


def inner_registry(seen):
    """Return a registry for a run of two messages within a handler."""
    registry = Registry()

    @registry.handles(MailSent)
    def inner(message):
        seen["inner"] = ids()
        return Confirmation(), OrderPlaced()

    @registry.handles(OrderPlaced)
    def innermost(message):
        seen["innermost"] = ids()

    return registry


def outer_registry(handler, **options):
    """Return a registry in which ``handler`` handles the second message of a run, whose correlation is the first."""
    registry = Registry()
    registry.register(PlaceOrder, lambda message: OrderPlaced())
    registry.register(OrderPlaced, handler, **options)
    return registry


def assert_joined(seen):
    """The inner run has the outer message as its cause, and its correlation id; it left nothing behind."""
    own, correlation, _ = seen["before"]

    assert own != correlation
    assert (correlation, own) == seen["inner"][1:]
    assert (correlation, seen["inner"][0]) == seen["innermost"][1:]
    assert seen["before"] == seen["after"]


def on_the_sync_bus(registry):
    return handle_message(MailSent(), registry=registry)


def on_a_loop_of_its_own(registry):
    return asyncio.run(ahandle_message(MailSent(), registry=registry))


@pytest.mark.parametrize("start", [on_the_sync_bus, on_a_loop_of_its_own])
@pytest.mark.parametrize(
    ("bus_class", "blocking"), [(MessageBus, False), (AsyncMessageBus, True), (ConcurrentBus, True)]
)
def test_run_started_in_a_plain_handler_joins(bus_class, blocking, start):
    """Also in a loop that the handler makes, and in the thread of a blocking handler (L22)."""
    seen = {}

    def handler(message):
        seen["before"] = ids()
        assert [Confirmation()] == start(inner_registry(seen))
        seen["after"] = ids()

    run(bus_class(PlaceOrder(), registry=outer_registry(handler, blocking=blocking), **QUIET))

    assert_joined(seen)


@pytest.mark.parametrize("bus_class", [AsyncMessageBus, ConcurrentBus])
def test_sync_run_started_in_an_async_handler_joins(bus_class):
    """The sync bus runs anywhere, also under an event loop (L22, L23)."""
    seen = {}

    async def handler(message):
        seen["before"] = ids()
        assert [Confirmation()] == on_the_sync_bus(inner_registry(seen))
        seen["after"] = ids()

    run(bus_class(PlaceOrder(), registry=outer_registry(handler), **QUIET))

    assert_joined(seen)


@pytest.mark.parametrize("bus_class", [AsyncMessageBus, ConcurrentBus])
def test_async_run_awaited_in_an_async_handler_joins(bus_class):
    """The inner run shares the task of the handler, and gives its context back (L22)."""
    seen = {}

    async def handler(message):
        seen["before"] = ids()
        assert [Confirmation()] == await ahandle_message(MailSent(), registry=inner_registry(seen))
        seen["after"] = ids()

    run(bus_class(PlaceOrder(), registry=outer_registry(handler), **QUIET))

    assert_joined(seen)


@every_bus
def test_inner_run_returns_to_its_handler_only(bus_class):
    """A run of its own: its return messages do not appear in the outer run's (L11, L22)."""
    registry = outer_registry(lambda message: on_the_sync_bus(inner_registry({})) and None)

    results = run(bus_class(PlaceOrder(), registry=registry, **QUIET))

    assert results == []


@every_bus
def test_inner_run_with_an_envelope_keeps_its_correlation(bus_class):
    """A message that came from outside belongs to what it came from (L22)."""
    seen = {}

    def handler(message):
        inner = MailSent()
        envelope = Envelope(inner, id="i", correlation_id="c", causation_id="p")
        MessageBus(inner, registry=inner_registry(seen), envelope=envelope, **QUIET)()

    run(bus_class(PlaceOrder(), registry=outer_registry(handler), **QUIET))

    assert ("i", "c", "p") == seen["inner"]


@every_bus
def test_note_of_an_inner_failure_names_the_outer_message(bus_class):
    """Who reads it learns what the run was started for (L14, L22)."""
    outer = []

    def handler(message):
        outer.append(current_envelope().id)
        registry = Registry()
        registry.register(MailSent, lambda message: 1 / 0)
        on_the_sync_bus(registry)

    with pytest.raises(ZeroDivisionError) as caught:
        run(bus_class(PlaceOrder(), registry=outer_registry(handler), **QUIET))

    inner_note, outer_note = caught.value.__notes__
    assert inner_note.endswith(f"caused by {OrderPlaced.__module__}.OrderPlaced {outer[0]}")
    assert outer_note.startswith(f"while handling {OrderPlaced.__module__}.OrderPlaced {outer[0]}")


@every_bus
def test_inner_failure_gives_the_context_back(bus_class):
    """A handler that catches it is still the handler of its own message (L22)."""
    seen = []

    def handler(message):
        registry = Registry()
        registry.register(MailSent, lambda message: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            on_the_sync_bus(registry)
        seen.append(current_envelope().message)

    run(bus_class(PlaceOrder(), registry=outer_registry(handler), **QUIET))

    assert [OrderPlaced()] == seen


# Nothing leaks

ENDS = {"success": None, "failure": ZeroDivisionError, "interruption": KeyboardInterrupt}


def ending(error):
    """Return a registry whose second message ends so."""

    def end(message):
        if error is not None:
            raise error

    return outer_registry(end)


class LoudBus(MessageBus):
    """Binds the ids for the handlers' own records, as it does when it writes any."""

    def log_activity(self, *args):
        pass

    def log_error(self, msg, exc=None, **kwargs):
        pass


class AsyncLoudBus(AsyncMessageBus):
    """Binds the ids for the handlers' own records, as it does when it writes any."""

    def log_activity(self, *args):
        pass

    def log_error(self, msg, exc=None, **kwargs):
        pass


@pytest.mark.parametrize("error", ENDS.values(), ids=ENDS.keys())
def test_context_is_restored_after_a_run(error):
    """However it ended: no envelope, and the host's own fields of the log as they were (L22)."""
    bind_contextvars(message_id="mine", request="r-1")
    try:
        with pytest.raises(error) if error else nullcontext():
            LoudBus(PlaceOrder(), registry=ending(error))()

        assert_outside()
        assert {"message_id": "mine", "request": "r-1"} == get_contextvars()
    finally:
        unbind_contextvars("message_id", "request")


@pytest.mark.parametrize("error", [None, ZeroDivisionError], ids=["success", "failure"])
def test_context_is_restored_after_an_awaited_run(error):
    """The task that awaited the bus goes on as it was (L22)."""

    async def main():
        bind_contextvars(message_id="mine", request="r-1")
        with pytest.raises(error) if error else nullcontext():
            await AsyncLoudBus(PlaceOrder(), registry=ending(error))()
        assert_outside()
        return get_contextvars()

    assert {"message_id": "mine", "request": "r-1"} == asyncio.run(main())


def test_context_is_restored_after_a_cancelled_run():
    """The task that catches the cancellation is outside of the run (L17, L22)."""

    async def main():
        registry = outer_registry(lambda message: asyncio.Event().wait())
        bind_contextvars(request="r-1")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await AsyncLoudBus(PlaceOrder(), registry=registry)()
        assert_outside()
        return get_contextvars()

    assert {"request": "r-1"} == asyncio.run(main())


@pytest.mark.parametrize("error", ENDS.values(), ids=ENDS.keys())
def test_thread_of_a_pool_keeps_nothing_of_a_run(error):
    """The next job of the same thread is outside (L22, L25)."""

    def job():
        with pytest.raises(error) if error else nullcontext():
            LoudBus(PlaceOrder(), registry=ending(error))()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(job).result()
        pool.submit(assert_outside).result()

        assert {} == pool.submit(get_contextvars).result()


def test_suspended_generator_keeps_nothing_of_a_run():
    """A generator of the application that runs messages between its yields leaves no trace outside (L22)."""
    registry = outer_registry(lambda message: None)

    def working():
        while True:
            LoudBus(PlaceOrder(), registry=registry)()
            yield get_contextvars()

    work = working()

    assert [{}, {}] == [next(work), next(work)]
    assert_outside()
    work.close()
    assert_outside()


def test_run_in_a_thread_does_not_join_the_handler_that_started_it():
    """A thread without the handler's context is no part of its run (L22, L25)."""
    seen = {}

    def handler(message):
        thread = threading.Thread(target=on_the_sync_bus, args=[inner_registry(seen)])
        thread.start()
        thread.join()

    MessageBus(PlaceOrder(), registry=outer_registry(handler), **QUIET)()

    own, correlation, cause = seen["inner"]
    assert (own, None) == (correlation, cause)


class Pause:
    """Suspends whoever awaits it, without an event loop."""

    def __await__(self):
        yield


def test_abandoned_run_leaves_the_context_in_which_it_is_closed():
    """A task of a loop that is gone is closed by the garbage collector anywhere, also in another run (L22)."""
    seen = []
    abandoned = AsyncLoudBus(PlaceOrder(), registry=outer_registry(lambda message: Pause()))()
    contextvars.Context().run(abandoned.send, None)

    def handler(message):
        before = get_contextvars()
        abandoned.close()
        seen.append((current_envelope().message, before == get_contextvars()))

    LoudBus(PlaceOrder(), registry=outer_registry(handler))()

    assert [(OrderPlaced(), True)] == seen
