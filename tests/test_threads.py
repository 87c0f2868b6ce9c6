"""Runs are independent: any number of them, in any threads and event loops, on one registry."""

import asyncio
import itertools
import sys
import sysconfig
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

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

THREADS, RUNS = 8, 3_000
QUIET = {"log_level": "disabled", "error_log_level": "disabled"}


class PlaceOrder(Command):
    thread: int
    number: int


class OrderPlaced(Event):
    thread: int
    number: int


class Confirmation(ReturnMessage):
    thread: int
    number: int


class OutOfStock(Exception):
    pass


@pytest.fixture(autouse=True)
def frequent_switches():
    """Let threads take turns a hundred times more often than usual, so that they meet in more places."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 100)
    yield
    sys.setswitchinterval(usual)


def in_threads(*jobs):
    """Run the jobs at the same time, each in a thread, and return what they returned."""
    begin = threading.Barrier(len(jobs))

    def run(job):
        begin.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [one.result() for one in [pool.submit(run, job) for job in jobs]]


def shop():
    """Return a registry whose runs lead to three messages, the last of which comes back."""
    registry = Registry()

    @registry.handles(PlaceOrder)
    def place_order(message):
        return OrderPlaced(thread=message.thread, number=message.number)

    @registry.handles(OrderPlaced)
    def confirm(message):
        assert current_envelope().message is message
        return Confirmation(thread=message.thread, number=message.number)

    return registry


def test_threads_share_a_registry_that_changes():
    """8 threads of 3,000 runs each while a ninth registers: exact results, and no run sees half a change (L9, L25)."""
    registry = shop()
    counts = [Counter() for _ in range(THREADS)]
    ended = threading.Event()
    left = itertools.count(1)

    def runs(thread):
        try:
            for number in range(RUNS):
                results = handle_message(PlaceOrder(thread=thread, number=number), registry=registry)
                counts[thread][results == [Confirmation(thread=thread, number=number)]] += 1
        finally:
            if next(left) == THREADS:
                ended.set()

    def changes():
        registered = 0
        while not ended.is_set() or not registered:
            added = type("Added", (Event,), {}, name=f"added.{registered}")
            registry.register(added, lambda message: None)
            with registry.override(OrderPlaced, lambda message: Confirmation(**message.model_dump())):
                registered += 1
        return registered

    *_, registered = in_threads(*(lambda thread=thread: runs(thread) for thread in range(THREADS)), changes)

    assert [Counter({True: RUNS})] * THREADS == counts
    for number in range(registered):
        assert registry.validate({"type": f"added.{number}", "data": {}})


def test_registrations_of_many_threads_are_all_kept():
    """No thread's registration is lost to another's, and an event's handlers are all there (L9)."""
    registry = Registry()

    def register(thread):
        for number in range(100):
            registry.register(OrderPlaced, lambda message, number=number: Confirmation(thread=thread, number=number))

    in_threads(*(lambda thread=thread: register(thread) for thread in range(THREADS)))
    results = handle_message(OrderPlaced(thread=0, number=0), registry=registry)

    assert {(thread, number) for thread in range(THREADS) for number in range(100)} == {
        (reply.thread, reply.number) for reply in results
    }
    for thread in range(THREADS):
        assert list(range(100)) == [reply.number for reply in results if reply.thread == thread]


def test_one_of_two_threads_registers_a_commands_handler():
    """However close they come, a command has exactly one handler (L5, L9)."""
    for _ in range(50):
        registry = Registry()

        def register(registry=registry):
            try:
                registry.register(PlaceOrder, lambda message: None)
            except Exception as error:
                return type(error).__name__
            return "registered"

        assert ["DuplicateHandlerError", "registered"] == sorted(in_threads(register, register))


def test_failures_stay_in_their_run():
    """What fails in one thread is raised there, with its own message in the note, and nowhere else (L14, L25)."""
    registry = Registry()

    @registry.handles(PlaceOrder)
    def place_order(message):
        if message.number % 3 == 0:
            raise OutOfStock(message.thread, message.number)
        return Confirmation(thread=message.thread, number=message.number)

    def runs(thread):
        failed, handled = [], []
        for number in range(300):
            bus = MessageBus(PlaceOrder(thread=thread, number=number), registry=registry, **QUIET)
            try:
                handled += [reply.number for reply in bus()]
            except OutOfStock as error:
                assert len(error.__notes__) == 1
                failed.append(error.args)
        return failed, handled

    results = in_threads(*(lambda thread=thread: runs(thread) for thread in range(THREADS)))

    every = range(300)
    expected = [
        ([(thread, number) for number in every[::3]], [number for number in every if number % 3])
        for thread in range(THREADS)
    ]
    assert expected == results


def test_threads_have_no_envelope_of_one_another():
    """Each run sees the envelope of its own message while the others are in the middle of theirs (L22, L25)."""
    registry = Registry()
    within = threading.Barrier(THREADS)
    own = []

    @registry.handles(PlaceOrder)
    def place_order(message):
        within.wait()
        own.append(current_envelope().message is message)
        within.wait()

    def run(thread):
        handle_message(PlaceOrder(thread=thread, number=0), registry=registry)
        with pytest.raises(DispatchError):
            current_envelope()

    in_threads(*(lambda thread=thread: run(thread) for thread in range(THREADS)))

    assert [True] * THREADS == own


@pytest.mark.parametrize("concurrent", [False, True])
def test_two_event_loops_share_a_registry(concurrent):
    """Loops in two threads, many runs in each, handlers that wait for both loops: no cross-talk (L25)."""
    registry = Registry()
    meeting = threading.Barrier(2)
    loops = {}
    strangers = []

    class Bus(AsyncMessageBus):
        pass

    Bus.registry, Bus.concurrent = registry, concurrent

    def check(message):
        is_own = current_envelope().message is message and asyncio.get_running_loop() is loops[message.thread]
        strangers.extend([] if is_own else [message])

    @registry.handles(PlaceOrder)
    async def place_order(message):
        check(message)
        await asyncio.sleep(0)
        check(message)
        return OrderPlaced(thread=message.thread, number=message.number)

    @registry.handles(OrderPlaced)
    async def confirm(message):
        check(message)
        yield Confirmation(thread=message.thread, number=message.number)
        await asyncio.sleep(0)
        check(message)

    def meet(message):
        if message.number == 0:
            meeting.wait()

    registry.register(OrderPlaced, meet, blocking=True)

    async def main(thread):
        loops[thread] = asyncio.get_running_loop()
        buses = [Bus(PlaceOrder(thread=thread, number=number), **QUIET) for number in range(200)]
        try:
            return await asyncio.gather(*(bus() for bus in buses))
        except BaseException:
            meeting.abort()
            raise

    results = in_threads(*(lambda thread=thread: asyncio.run(main(thread)) for thread in range(2)))

    assert [[[Confirmation(thread=thread, number=number)] for number in range(200)] for thread in range(2)] == results
    assert strangers == []


def test_sync_and_async_runs_share_a_registry():
    """Which bus runs a message is nobody else's concern (L23, L25)."""
    registry = shop()

    def sync_runs():
        return [handle_message(PlaceOrder(thread=0, number=number), registry=registry) for number in range(500)]

    async def main():
        return [await ahandle_message(PlaceOrder(thread=1, number=number), registry=registry) for number in range(500)]

    results = in_threads(sync_runs, lambda: asyncio.run(main()))

    assert [[[Confirmation(thread=thread, number=number)] for number in range(500)] for thread in range(2)] == results


def test_threads_that_read_an_id_first_read_the_same():
    """Ids and time are made when they are first read; threads of one handler may all be the first (L22, L25)."""
    sys.setswitchinterval(1e-7)
    message, envelopes = PlaceOrder(thread=0, number=0), []
    for _ in range(20_000):
        envelopes.append(Envelope(message))
        envelopes[-1].identity = None  # As in a run, where nobody has asked yet.

    one, other = in_threads(*[lambda: [(envelope.id, envelope.time) for envelope in envelopes]] * 2)

    assert 0 == sum(seen != also_seen for seen, also_seen in zip(one, other, strict=True))


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL")
def test_nothing_turns_the_gil_on(fresh_python):
    """Where threads are free, the tests above say nothing if something that is imported takes that back (L25)."""
    done = fresh_python("import sys, messagebus, messagebus.delivery; print(sys._is_gil_enabled())")

    assert ("False\n", "") == (done.stdout, done.stderr)
