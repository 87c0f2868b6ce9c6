"""Faults F42 to F51 as a worker meets them: messages that cannot be read, that fail, that kill; signals; outages."""

import os
import signal
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest

from messagebus import Envelope, Registry, to_json
from messagebus.delivery import Arrival, Retry, Worker, current_transaction, open_store
from messagebus.testing import Clock
from messagebus.testing.laws import take
from messagebus.testing.shop import PlaceOrder, order_ids, orders

QUIET = {"log_level": "disabled", "error_log_level": "disabled"}


class OutOfStock(Exception):
    pass


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(url, clock):
    store = open_store(url, clock=clock)
    yield store
    store.close()


@pytest.fixture
def registry():
    return Registry()


def work(store, registry, **options):
    return Worker(store, registry, **{**QUIET, **options}).run(until_idle=True)


def tell(process, line=""):
    process.stdin.write(line + "\n")
    process.stdin.flush()


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"body": b"{"}, "InvalidMessageError"),
        ({"body": b"\xff\x00 no JSON at all"}, "InvalidMessageError"),
        ({"body": b'{"type":"shop.place_order","data":{"order_id":7}}'}, "InvalidMessageError"),
        ({"body": b'{"type":"shop.gone","data":{}}', "type": "shop.gone"}, "UnknownMessageError"),
        ({"body": b'{"type":"os:system","data":{"command":"true"}}', "type": "os:system"}, "UnknownMessageError"),
        (
            {"body": b'{"type":"shop.cancel_order","data":{"order_id":"o"}}', "type": "shop.cancel_order"},
            "UnknownMessageError",
        ),
    ],
    ids=["torn", "bytes", "wrong field", "gone", "forged", "never registered"],
)
def test_f45_stored_message_cannot_be_handled(store, registry, changed, error):
    """[D9] A dead letter at once, with the raw bytes, and the worker goes on; mended, it is handled."""
    handled = []

    def place_order(command):
        handled.append(command.order_id)

    registry.register(PlaceOrder, place_order)
    unread, _ = store.send_many(orders("unread", "good"))
    with store.transaction() as transaction:
        for column, value in changed.items():
            transaction.execute(
                f"UPDATE mb_message SET {column} = :value WHERE id = :id", {"value": value, "id": unread}
            )

    work(store, registry)

    (letter,) = store.dead()
    assert (unread, "", changed["body"]) == (letter.message_id, letter.handler, letter.body)
    assert ["good"] == handled
    assert error in letter.failure.error


def test_f46_message_fails_always(store, registry, clock):
    """[D4] Five attempts with growing waits, then a dead letter that says why and where; others do not wait for it."""
    tried = []

    def place_order(command):
        if command.order_id == "poison":
            tried.append(clock())
            raise OutOfStock("there is none left")

    registry.register(PlaceOrder, place_order)
    store.send_many(orders("good", "poison", "good too"))

    handled = work(store, registry)
    assert (2, 1) == (store.stats().finished, store.stats().delayed)
    while (due := store.next_due()) is not None:
        clock.advance(due - clock())
        handled += work(store, registry)

    (letter,) = store.dead()
    waits = [after - before for before, after in pairwise(tried)]
    assert (5, 5) == (len(tried), letter.attempts)
    # The store rounds up to milliseconds.
    assert all(0 <= wait <= 4**number + 0.001 for number, wait in enumerate(waits))
    assert "OutOfStock" in letter.failure.error
    assert "test_worker_faults.py" in letter.failure.place


def test_f46_message_kills_its_worker(start, tmp_path):
    """[D4] As one that takes all memory does. Five workers die of it, the sixth makes it a dead letter and goes on."""
    url = f"sqlite:///{tmp_path}/bus.db"
    script = """
        def place_order(command):
            if command.order_id == "poison":
                os.kill(os.getpid(), signal.SIGKILL)
            say(command.order_id)

        registry.register(PlaceOrder, place_order)
        Worker(open_store(url), registry, lease=0.05, **quiet).run(until_idle=True)
    """
    store = open_store(url)
    store.send_many(orders("good", "poison", "good too"))
    codes, handled = [], []

    while not store.dead():
        store.wait(600)
        worker = start(script, url)
        handled += worker.communicate()[0].splitlines()
        codes.append(worker.returncode)
    while store.stats().finished < 2:
        store.wait(600)
        handled += start(script, url).communicate()[0].splitlines()

    assert [-signal.SIGKILL] * 5 == codes[:5]
    assert {"good", "good too"} == {*handled}
    assert [5] == [letter.attempts for letter in store.dead()]
    store.close()


def test_f48_many_fail_at_once(registry, clock):
    """[D4] What a dependency that is down for a minute makes fail comes back spread out, and all of it is done."""
    store = open_store("memory://", clock=clock)
    count, down_until, calls = 500, clock() + 60, Counter()

    def place_order(_):
        calls[int(clock())] += 1
        if clock() < down_until:
            raise OutOfStock

    registry.register(PlaceOrder, place_order)
    store.send_many(orders(*map(str, range(count))))

    while store.stats().delayed + store.stats().due:
        work(store, registry, retry=Retry(attempts=20, first=2, longest=30))
        clock.advance(0.5)

    after = {second: number for second, number in calls.items() if second >= down_until}
    assert count == store.stats().finished == sum(after.values())
    assert max(after.values()) < count / 5, "a thundering herd"
    assert sum(calls.values()) < 10 * count
    store.close()


# Signals


def test_f50_worker_is_told_to_stop(start, url):
    """[D10] It finishes what it has in hand, gives back the rest, which is no attempt, and ends with 0."""
    script = """
        def place_order(command):
            say(command.order_id)
            sys.stdin.readline()
            say("done")

        registry.register(PlaceOrder, place_order)
        Worker(open_store(url), registry, lease=600, **quiet).run()
    """
    store = open_store(url)
    store.send_many(orders("o-1", "o-2", "o-3"))
    worker = start(script, url)
    assert "o-1\n" == worker.stdout.readline()

    worker.send_signal(signal.SIGTERM)
    tell(worker)

    assert ("done\n", 0) == (worker.communicate()[0], worker.returncode)
    left = take(store)
    assert ["o-2", "o-3"] == order_ids(left)
    assert [1, 1] == [message.attempt for message in left]
    assert 1 == store.stats().finished
    store.close()


@pytest.mark.parametrize("grace", [0.1, 600])
def test_f50_worker_does_not_wait_for_ever(start, url, grace):
    """[D10] When the grace time is over, or at a second signal, the message in hand is broken off; nothing is lost."""
    script = """
        import time

        def place_order(command):
            say(command.order_id)
            while not worker.is_stopping:
                time.sleep(0.01)
            say("told")
            sys.stdin.readline()
            say("done")

        registry.register(PlaceOrder, place_order)
        worker = Worker(open_store(url), registry, lease=1, grace=float(sys.argv[2]), **quiet)
        worker.run()
    """
    store = open_store(url)
    store.send_many(orders("o-1", "o-2"))
    worker = start(script, url, str(grace))
    assert "o-1\n" == worker.stdout.readline()

    worker.send_signal(signal.SIGTERM)
    assert "told\n" == worker.stdout.readline()
    if grace > 1:
        worker.send_signal(signal.SIGTERM)

    assert (0, "") == (worker.wait(), worker.stdout.read())
    got = []
    while len(got) < 2:
        store.wait(600)
        got += order_ids(store.claim(1, 600).messages)
    assert ["o-1", "o-2"] == sorted(got)
    store.close()


def test_f51_worker_is_stopped_in_a_handler_and_goes_on(start, url):
    """[D6] Another worker has handled the message meanwhile: what the late one wrote is rolled back."""
    script = """
        def place_order(command):
            say("in hand")
            os.kill(os.getpid(), signal.SIGSTOP)
            current_transaction().execute("INSERT INTO invoice (id) VALUES ('late')")
            return OrderPlaced(order_id="late")

        registry.register(PlaceOrder, place_order)
        Worker(open_store(url), registry, lease=0.2, **quiet).run(until_idle=True)
    """
    store = open_store(url)
    with store.transaction() as transaction:
        transaction.execute("CREATE TABLE invoice (id VARCHAR(100))")
    sent = store.send(PlaceOrder(order_id="o-1"))
    late = start(script, url)
    assert "in hand\n" == late.stdout.readline()
    os.waitid(os.P_PID, late.pid, os.WSTOPPED | os.WNOWAIT)
    registry = Registry()

    def place_order(_):
        current_transaction().execute("INSERT INTO invoice (id) VALUES ('in time')")

    registry.register(PlaceOrder, place_order)

    while not store.stats().finished:
        store.wait(600)
        work(store, registry)
    late.send_signal(signal.SIGCONT)

    assert 0 == late.wait()
    with store.transaction() as transaction:
        assert [("in time",)] == [tuple(row) for row in transaction.execute("SELECT id FROM invoice")]
    assert [sent] == [step.id for step in store.tree(sent)]
    late.communicate()
    store.close()


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (datetime.max.replace(tzinfo=timezone(timedelta(hours=-10))), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=10))), datetime(1, 1, 1, tzinfo=UTC)),
    ],
    ids=["latest", "earliest"],
)
def test_time_that_utc_cannot_show_stops_no_worker(store, registry, sent, shown):
    """[D9] Whoever sends it chooses it, and it is for show only: it is moved to the nearest that can be shown."""
    message, handled = PlaceOrder(order_id="o-1"), []
    registry.register(PlaceOrder, handled.append)
    arrival = Arrival("brought", "shop.place_order", to_json(message), sent_at=sent.timestamp())

    store.send(message, envelope=Envelope(message, id="sent", time=sent))
    store.release((claim := store.receive([arrival], 30)).token, [claim.messages[0].seq])

    assert {shown} == {waiting.sent_at for waiting in store.waiting()}
    assert 2 == work(store, registry)
    assert [message, message] == handled
