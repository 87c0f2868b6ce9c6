"""The allocation example on the durable store: what is one transaction, and what is left after kill -9."""

import os
import random
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from datetime import date
from itertools import islice
from pathlib import Path
from textwrap import dedent

import pytest
from sqlalchemy import text

from examples.allocation import bootstrap as in_process
from examples.allocation.bus import AllocationBus
from examples.allocation.database import sessions_on
from examples.allocation.durable import bootstrap, take_order
from examples.allocation.mail import KeptMail
from examples.allocation.messages import Allocate, ChangeBatchQuantity, CreateBatch
from messagebus.delivery import Retry, Worker, open_store

ROOT = Path(__file__).parents[2]
SKUS = ["lamp", "chair", "table", "shelf", "clock"]
ORDERS = [Allocate(order_id=f"o-{number}", sku=SKUS[number % 5], quantity=1 + number % 3) for number in range(1, 301)]
KILLS = 10

WORKER = """
    import sys
    from examples.allocation.durable import bootstrap
    from examples.allocation.mail import KeptMail
    from messagebus import MessageBus
    from messagebus.delivery import Worker, open_store

    class TellingBus(MessageBus):
        def message_dispatcher(self, message):
            super().message_dispatcher(message)
            print("handled", flush=True)

    store = open_store(sys.argv[1])
    Worker(store, bootstrap(store, KeptMail()), bus=TellingBus, lease=0.3, log_level="disabled").run()
"""

ORDER_DESK = """
    import sys
    from itertools import count
    from examples.allocation.durable import take_order
    from examples.allocation.messages import Allocate
    from messagebus.delivery import open_store

    store = open_store(sys.argv[1])
    for number in count(int(sys.argv[2])):
        take_order(store, Allocate(order_id=f"o-{number}", sku="lamp", quantity=1))
        print(f"o-{number}", flush=True)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "shop.db"


@pytest.fixture
def store(path):
    store = open_store(f"sqlite:///{path}")
    bootstrap(store, KeptMail())
    yield store
    store.close()


def rows(store, select):
    """Execute a statement, and return its rows."""
    with store.transaction() as transaction:
        return transaction.execute(select)


def work(store, mail=None):
    """Do what is there to be done, in this process."""
    registry = bootstrap(store, mail or KeptMail())
    worker = Worker(store, registry, retry=Retry(attempts=1), log_level="disabled", error_log_level="disabled")
    worker.run(until_idle=True)


@contextmanager
def running(script, *arguments):
    """Run a script beside the block, and kill it at the end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", dedent(script), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def kill_at_random(process, most_lines):
    """Kill a process, which must still be running, at some moment after it has said a few lines; return these."""
    lines = [*islice(process.stdout, random.randint(1, most_lines))]
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(random.uniform(0, 0.005))
    process.kill()
    assert process.wait() == -9
    return lines


# One transaction


def test_registry_is_complete(store):
    """The handlers are those of the application in process, and one more."""
    assert bootstrap(store, KeptMail()).check() == []


def test_order_that_is_refused_leaves_no_command(store):
    """The outbox: an order and its command are stored together, or not at all."""
    take_order(store, ORDERS[0])

    with pytest.raises(Exception, match="UNIQUE"):
        take_order(store, ORDERS[0])

    assert rows(store, "SELECT order_id FROM customer_order") == [("o-1",)]
    assert len(store.waiting()) == 1


def test_command_that_cannot_be_stored_leaves_no_order(store):
    """The outbox, the other way round."""
    rows(store, "CREATE TRIGGER full BEFORE INSERT ON mb_message BEGIN SELECT RAISE(ABORT, 'no room'); END")

    with pytest.raises(Exception, match="no room"):
        take_order(store, ORDERS[0])

    assert rows(store, "SELECT order_id FROM customer_order") == []


def test_failed_handler_takes_no_other_with_it(store):
    """Each handler of an event writes for itself: what one could not count is in the view of the other."""
    store.send(CreateBatch(reference="b-1", sku="lamp", quantity=10))
    take_order(store, Allocate(order_id="o-1", sku="lamp", quantity=3))
    rows(store, "CREATE TRIGGER full BEFORE INSERT ON sold BEGIN SELECT RAISE(ABORT, 'no room'); END")

    work(store)

    assert rows(store, "SELECT order_id, batch FROM allocation_view") == [("o-1", "b-1")]
    assert rows(store, "SELECT * FROM sold") == []
    assert [letter.handler for letter in store.dead()] == ["examples.allocation.durable.count_sold"]


def test_order_of_an_unknown_product_is_a_dead_letter(store):
    """Nobody waits for the worker: what cannot be done is kept until somebody decides."""
    take_order(store, Allocate(order_id="o-1", sku="lmap", quantity=3))

    work(store)

    [letter] = store.dead()
    assert (letter.type, letter.failure.text) == ("Allocate", "lmap")
    assert rows(store, "SELECT * FROM product") == []


def test_outcome_is_the_same_as_in_process(store, tmp_path):
    """Handlers and model do not know where they run."""
    day = [
        CreateBatch(reference="here", sku="lamp", quantity=10),
        CreateBatch(reference="at-sea", sku="lamp", quantity=5, eta=date(2026, 2, 1)),
        Allocate(order_id="o-1", sku="lamp", quantity=4),
        Allocate(order_id="o-2", sku="lamp", quantity=3),
        Allocate(order_id="o-3", sku="lamp", quantity=3),
        ChangeBatchQuantity(reference="here", quantity=4),
    ]
    kept, kept_durably = KeptMail(), KeptMail()
    registry = in_process.bootstrap(tmp_path / "stock.db", kept)
    for command in day:
        AllocationBus(command, registry=registry, log_level="disabled")()

    store.send_many(day, key="lamp")
    work(store, kept_durably)

    assert kept_durably.sent == kept.sent != []
    with sessions_on(tmp_path / "stock.db")() as session:
        for table in ("product", "batch", "order_line", "allocation_view"):
            select = f"SELECT * FROM {table} ORDER BY 1, 2"
            assert rows(store, select) == [tuple(row) for row in session.execute(text(select))] != []


# kill -9


def test_order_desk_that_is_killed_keeps_orders_and_commands_alike(path, store):
    """The outbox: whatever the moment, there is no order without its command, and no command without its order."""
    said = []
    store.send(CreateBatch(reference="b-1", sku="lamp", quantity=1_000), key="lamp")

    for _ in range(3):
        with running(ORDER_DESK, f"sqlite:///{path}", 1_000 * len(said)) as process:
            said += kill_at_random(process, most_lines=20)
    work(store)

    orders = rows(store, "SELECT order_id FROM customer_order ORDER BY order_id")
    assert orders == rows(store, "SELECT order_id FROM order_line ORDER BY order_id")
    assert {(line.strip(),) for line in said} <= set(orders)


def test_nothing_is_lost_and_nothing_done_twice_when_workers_are_killed(path, store):
    """Ten workers are killed, each at some moment; what they leave is as if one had done it all in peace."""
    url = f"sqlite:///{path}"
    for sku in SKUS:
        store.send(CreateBatch(reference=f"{sku}-1", sku=sku, quantity=1_000), key=sku)
    ids = [take_order(store, command) for command in ORDERS]

    for _ in range(KILLS):
        assert store.stats().due > 20, "there is too little left to be killed in the middle of it"
        with running(WORKER, url) as process:
            kill_at_random(process, most_lines=20)
    with running(WORKER, url) as process:
        for message_id in ids:
            store.result(message_id, timeout=60)

    attempts = Counter(outcome.attempts for id in ids for step in store.tree(id) for outcome in step.outcomes)
    assert max(attempts) > 1, "no kill hit a message in hand"
    assert_all_is_done_once(store, ids)


def assert_all_is_done_once(store, ids):
    expected = [(command.order_id, command.sku, f"{command.sku}-1") for command in ORDERS]
    sold = Counter()
    for command in ORDERS:
        sold[command.sku] += command.quantity
    in_order = [[command.order_id for command in ORDERS if command.sku == sku] for sku in SKUS]

    lines = rows(store, "SELECT order_id, sku, batch FROM order_line ORDER BY rowid")
    view = rows(store, "SELECT order_id, sku, batch FROM allocation_view")
    versions = rows(store, "SELECT sku, version FROM product")
    stats = store.stats()

    assert sorted(expected) == sorted(lines)
    assert sorted(expected) == sorted(view)
    assert sold == dict(rows(store, "SELECT sku, quantity FROM sold"))
    assert {sku: 1 + len(ORDERS) // len(SKUS) for sku in SKUS} == dict(versions)
    assert in_order == [[order_id for order_id, of, _ in lines if of == sku] for sku in SKUS]
    assert [["Allocate", "Allocated"]] * len(ids) == [[step.type for step in store.tree(id)] for id in ids]
    assert (0, 0, 0, 0) == (stats.due, stats.delayed, stats.in_flight, stats.dead)
    assert [("ok",)] == rows(store, "PRAGMA integrity_check")
