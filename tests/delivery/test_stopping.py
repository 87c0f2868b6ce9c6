"""Workers as processes: SIGTERM, the grace time, a second signal (law D10, F50)."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import messagebus
from messagebus.delivery import Store, open_store
from messagebus.testing.shop import PlaceOrder

PROGRAM = """
    import asyncio, os, sys, threading, time
    from messagebus import Registry
    from messagebus.delivery import Worker, open_store
    from messagebus.testing.shop import PlaceOrder

    registry = Registry()
    store = open_store(sys.argv[1])

    def say(word):
        os.write(1, (word + "\\n").encode())  # In one piece: two threads may say something.

    {handler}

    Worker(store, registry, log_level="disabled", error_log_level="disabled", {options}).run()
    say("returned")
"""

BRIEF = """
    @registry.handles(PlaceOrder)
    def place(command):
        say(command.order_id)
        time.sleep(0.3)
"""

HANGING = """
    @registry.handles(PlaceOrder)
    def place(command):
        say(command.order_id)
        time.sleep(600)
"""

HANGING_LATER = """
    @registry.handles(PlaceOrder)
    async def place(command):
        say(command.order_id)
        await asyncio.sleep(600)
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/bus.db"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = open_store(url)
    yield store
    store.close()


@pytest.fixture
def start(url: str) -> Iterator[Callable[..., Any]]:
    processes = []

    def start_worker(handler: str, options: str = "") -> Any:
        script = dedent(PROGRAM).format(handler=dedent(handler), options=options)
        environment = {**os.environ, "PYTHONPATH": str(Path(messagebus.__file__).parent.parent)}
        command = [sys.executable, "-c", script, url]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
        processes.append(process)
        return process

    yield start_worker
    for process in processes:
        process.kill()
        process.communicate()


def rest_of(process: Any) -> tuple[str, str]:
    """Return what a process says until it ends; `communicate` would lose what was read with the first line."""
    said, errors = process.stdout.read(), process.stderr.read()
    process.wait()
    return said, errors


@pytest.mark.parametrize("options", ["", "concurrency=2"])
def test_sigterm_lets_the_message_in_hand_finish(store, start, options):
    """[D10] Nothing more is claimed, what was claimed and not begun is due at once, and the exit code is 0."""
    store.send_many(PlaceOrder(order_id=str(number)) for number in range(20))
    process = start(BRIEF, options)
    begun = process.stdout.readline()

    process.send_signal(signal.SIGTERM)
    said, errors = rest_of(process)

    assert begun in {"0\n", "1\n"}
    assert said.endswith("returned\n"), errors
    assert 0 == process.returncode
    stats = store.stats()
    assert stats.in_flight == 0
    assert stats.finished == said.count("\n")
    assert stats.finished + stats.due == 20


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("handler", "options"),
    [(HANGING, "grace=0.2"), (HANGING_LATER, "grace=0.2"), (HANGING, "grace=0.2, concurrency=2")],
    ids=["sync", "async", "threads"],
)
def test_handler_that_outlasts_the_grace_time_is_broken_off(store, start, handler, options, signal_number):
    """[D10] Its message is given back, no attempt is counted, and the exit code is 0."""
    message_id = store.send(PlaceOrder(order_id="o-1"))
    process = start(handler, options)
    process.stdout.readline()

    process.send_signal(signal_number)
    said, errors = rest_of(process)

    assert ("returned\n", 0) == (said, process.returncode), errors
    (stored,) = store.claim(10, 30).messages
    assert (message_id, 1) == (stored.id, stored.attempt)


def test_second_signal_does_not_wait(store, start):
    """[D10] Who asks twice means it."""
    store.send(PlaceOrder(order_id="o-1"))
    process = start(HANGING, "grace=600")
    process.stdout.readline()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
    rest_of(process)

    assert 0 == process.returncode
    assert 1 == store.stats().due


def test_idle_worker_stops_at_once(store, start):
    """[D10] Also when there is nothing to finish."""
    store.send(PlaceOrder(order_id="o-1"))
    process = start(BRIEF)
    process.stdout.readline()

    process.send_signal(signal.SIGTERM)
    rest_of(process)

    assert 0 == process.returncode


def test_worker_killed_while_it_writes_leaves_no_effect(store, start):
    """[D3] The transaction of the handler dies with its process; the message comes back when the lease is over."""
    with store.transaction() as transaction:
        transaction.execute("CREATE TABLE orders(id text)")
    store.send(PlaceOrder(order_id="o-1"))
    writing = """
        from messagebus.delivery import current_transaction

        @registry.handles(PlaceOrder)
        def place(command):
            current_transaction().execute("INSERT INTO orders VALUES (:id)", {"id": command.order_id})
            say(command.order_id)
            time.sleep(600)
    """
    process = start(writing, "lease=0.5")
    process.stdout.readline()

    process.kill()
    process.wait()

    with store.transaction() as transaction:
        assert [] == transaction.execute("SELECT id FROM orders")
    assert 1 == store.stats().in_flight + store.stats().due
