"""Faults F32 to F54: each has a test named after it, on real files, servers and processes.

Those that need a worker are in test_worker_faults.py; in tests/proof/ are F32, F33 and F42 (test_kills.py), and F34
(test_power.py).
"""

import os
import random
import re
import shutil
import signal
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from textwrap import dedent

import pytest

from messagebus import Registry
from messagebus.brokers import Relay, connect
from messagebus.delivery import (
    ConflictError,
    Settlement,
    StoreBusyError,
    StoreError,
    StoreFileError,
    StoreUnavailableError,
    Worker,
    open_store,
)
from messagebus.delivery.schema import VERSION
from messagebus.testing import Clock
from messagebus.testing.laws import LEASE, dies, end, finish, outcome, sending, take, take_one
from messagebus.testing.shop import OrderPlaced, PlaceOrder, order_ids, orders
from tests import servers
from tests.older import make_older
from tests.proof import shim


def outputs(*processes):
    """Let processes that wait for a line begin, and return what each printed."""
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    printed = [process.communicate()[0] for process in processes]
    assert [0] * len(processes) == [process.returncode for process in processes]
    return printed


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def opened(url, clock):
    """A function that opens a store at the place of the test."""
    stores = []

    def another(**settings):
        stores.append(open_store(url, **{"clock": clock, **settings}))
        return stores[-1]

    yield another
    for store in stores:
        store.close()


@pytest.fixture
def store(opened):
    return opened()


# F35: it cannot be written or read


@pytest.mark.parametrize(("error", "why"), [(28, "full"), (5, "disk failed"), (30, "")])
def test_f35_disk_is_full_or_broken(start, tmp_path, error, why):
    """[D1] What could not be written was not accepted, and when it can be written again everything goes on."""
    script = """
        from tests.proof import shim
        store = open_store(url)
        accepted = [store.send(PlaceOrder(order_id="before"))]
        shim.arm(shim.WRITE | shim.TRUNCATE | shim.SYNC, 1, shim.FOREVER, int(sys.argv[2]))
        refused = []
        for send in [store.send, lambda message: store.send_many([message] * 3)] * 3:
            try:
                accepted.append(send(PlaceOrder(order_id="refused")))
            except StoreUnavailableError as error:
                refused.append(str(error))
        shim.disarm()
        accepted.append(store.send(PlaceOrder(order_id="after")))
        store.close()
        again = open_store(url)
        print(len(refused), accepted == [one.id for one in again.waiting()], refused[0])
    """

    with shim.loaded(tmp_path) as environment:
        (printed,) = outputs(start(script, f"sqlite:///{tmp_path}/bus.db", str(error), env=environment))

    assert ["6", "True", "Cannot"] == printed.split()[:3]
    assert why in printed


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.chmod(0),
        lambda path: path.chmod(0o444),
        lambda path: path.unlink() or path.mkdir(),
        lambda path: shutil.rmtree(path.parent),
    ],
    ids=["forbidden", "read-only", "a folder", "no folder"],
)
def test_f35_file_is_not_to_be_had(start, spoil):
    """[D11] No permission, read-only, a folder, no folder: the program is told, as of something that may pass."""
    script = """
        open_store("memory://").close()  # Whom the program becomes may not even read what Python imports.
        os.geteuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534))
        try:
            store = open_store(url)
        except StoreUnavailableError as error:
            print("open", error)
        else:
            try:
                store.send(PlaceOrder(order_id="o-1"))
            except StoreUnavailableError as error:
                print("send", error)
    """
    folder = servers.folder_for_servers()
    path = folder / "bus.db"
    store = open_store(f"sqlite:///{path}")
    store.close()
    spoil(path)

    try:
        (printed,) = outputs(start(script, f"sqlite:///{path}"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)

    assert "Cannot" == printed.split()[1]


def test_f35_server_is_gone_and_comes_back(tmp_path):
    """[D1] What the server did not take was not accepted; when it is back the same store goes on."""
    folder = servers.folder_for_servers()
    server = servers.start_postgres(folder)
    try:
        store = open_store(server.url, clock=Clock())
        accepted = [store.send(PlaceOrder(order_id="before"))]
        server.stop(signal.SIGQUIT)
        for verb in [lambda: store.send(PlaceOrder(order_id="lost")), store.stats, lambda: store.claim(1, LEASE)]:
            with pytest.raises(StoreUnavailableError):
                verb()
        with pytest.raises(StoreUnavailableError):
            open_store(server.url)
        server.start()
        accepted.append(store.send(PlaceOrder(order_id="after")))

        assert accepted == [message.id for message in take(store)]
        store.close()
    finally:
        server.stop()
        shutil.rmtree(folder)


# F36: others keep it locked


@contextmanager
def locked(url):
    """Keep others from writing, as a program does that takes long over a transaction."""
    if url.startswith("sqlite"):
        other = sqlite3.connect(url.partition(":///")[2], isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
    else:
        psycopg = pytest.importorskip("psycopg")
        other = psycopg.connect(url.replace("+psycopg", ""))
        other.execute("LOCK TABLE mb_message IN ACCESS EXCLUSIVE MODE")
    yield
    other.rollback()
    other.close()


def test_f36_store_is_locked_for_long(url, opened):
    """[D11] The wait is bounded, nothing was changed, and later the same call succeeds."""
    store = opened(timeout=0.1)
    store.send(PlaceOrder(order_id="o-1"))
    token, message = take_one(store)
    store.send(PlaceOrder(order_id="o-2"))

    with locked(url):
        for verb in [
            lambda: store.send(PlaceOrder(order_id="lost")),
            lambda: store.send_many(orders("lost", "too")),
            lambda: end(store, token, message),
            lambda: store.claim(1, LEASE),
        ]:
            with pytest.raises(StoreBusyError):
                verb()

    assert set() == end(store, token, message)
    assert ["o-2"] == order_ids(take(store))
    assert 1 == store.stats().finished


# F37: it is not ours, or damaged


def played(path):
    """Make a file with some of everything in it, closed as it should be, and return its bytes."""
    store = open_store(f"sqlite:///{path}", clock=Clock())
    store.send_many(orders(*map(str, range(30))), key="customer-7")
    finish(store)
    dies(store)
    store.send(PlaceOrder(order_id="x" * 10_000))
    store.every("0 3 * * *", PlaceOrder(order_id="nightly"), name="nightly")
    store.close()
    return path.read_bytes()


def changed(path, *statements):
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text("This is a letter, and no database.\n" * 200),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(path.read_bytes()[:1_000]),
        lambda path: path.write_bytes(path.read_bytes()[:47] + b"\x07" + path.read_bytes()[48:]),  # the schema format
        lambda path: path.write_bytes(path.read_bytes().replace(b"CREATE TABLE mb_dead", b"CREATE TABL\xce mb_dead")),
        lambda path: path.write_bytes(b"SQLite format 4" + path.read_bytes()[15:]),
        lambda path: path.write_bytes(path.read_bytes()[:-8_192] + b"\xff" * 4_096 + path.read_bytes()[-4_096:]),
        lambda path: changed(path, "DROP TABLE mb_message"),
        lambda path: changed(path, "ALTER TABLE mb_meta RENAME COLUMN version TO wersion"),
        lambda path: changed(path, "DROP TABLE mb_dead", "CREATE TABLE mb_dead (name TEXT)"),
        lambda path: (path.unlink(), changed(path, "CREATE TABLE mb_message (name TEXT)")),
    ],
    ids=[
        "text",
        "half",
        "beginning",
        "schema format",
        "schema",
        "header",
        "page",
        "no table",
        "no version",
        "another table",
        "foreign",
    ],
)
def test_f37_file_is_foreign_or_damaged(tmp_path, spoil):
    """[D11] It is refused when it is opened, in so many words, and left as it is."""
    path = tmp_path / "bus.db"
    played(path)
    spoil(path)
    before = path.read_bytes()

    with pytest.raises(StoreFileError, match=r"bus\.db"):
        open_store(f"sqlite:///{path}")

    assert before == path.read_bytes()


def test_f37_any_bit_may_have_changed(tmp_path):
    """[D11] Whatever is flipped, the store says that the file is damaged, or works; it fails in no other way."""
    whole = played(tmp_path / "bus.db")
    choose = random.Random(37)
    outcomes = Counter()

    for number in range(300):
        path = tmp_path / f"{number}.db"
        spoilt = bytearray(whole)
        for _ in range(choose.choice([1, 1, 8])):
            spoilt[choose.randrange(len(whole))] ^= 1 << choose.randrange(8)
        path.write_bytes(spoilt)
        try:
            store = open_store(f"sqlite:///{path}", clock=Clock())
            try:
                for verb in [store.waiting, store.dead, store.stats, store.schedules, lambda s=store: s.claim(99, 1)]:
                    verb()
                store.send(PlaceOrder(order_id="o-1"))
            finally:
                store.close()
            outcomes["works"] += 1
        except StoreFileError:
            outcomes["refused"] += 1
        except Exception as error:
            outcomes[repr(error)] += 1

    assert {"works", "refused"} == set(outcomes)


def test_f37_a_time_may_have_changed(tmp_path):
    """[D9] [D11] What no calendar holds is shown as the nearest that one does, and a worker goes on."""
    path, handled = tmp_path / "bus.db", []
    played(path)
    changed(path, "UPDATE mb_message SET sent_at = sent_at + (1 << 50)", "UPDATE mb_dead SET died_at = -(1 << 60)")
    registry = Registry()
    registry.register(PlaceOrder, handled.append)

    with closing(open_store(f"sqlite:///{path}", clock=Clock())) as store:
        times = {one.sent_at.year for one in store.waiting()} | {letter.died_at.year for letter in store.dead()}
        for letter in store.dead():
            store.drop(letter.id)
        Worker(store, registry, log_level="disabled", error_log_level="disabled").run(until_idle=True)

    assert {1, 9999} == times
    assert handled


# F38 to F47: who may say what, and what fails


def test_f38_two_processes_claim_at_once(start, url, opened, clock):
    """[D6] Exactly one gets each message, and no message is forgotten."""
    store = opened(clock=time.time)
    wanted = [f"o-{number}" for number in range(1_000)]
    store.send_many(orders(*wanted))
    script = """
        store = open_store(url)
        input()
        while messages := store.claim(7, 600).messages:
            print(*order_ids(messages), flush=True)
    """

    got = outputs(*(start(script, url) for _ in range(3)))

    assert Counter(wanted) == Counter(" ".join(got).split())


def test_f38_sender_commits_late(postgres, clock):
    """[D5] What got its place early and was committed late is not handled beside one that came after it."""
    url = postgres.fresh()
    sender, store = open_store(url, clock=clock), open_store(url, clock=clock)
    with sender.transaction() as transaction:
        transaction.send(PlaceOrder(order_id="late"), key="customer-7")
        store.send_many(orders("o-1", "o-2"), key="customer-7")
        token, message = take_one(store)

    assert () == take(store)

    end(store, token, message)
    assert [["late"], ["o-2"]] == [order_ids([finish(store)]) for _ in range(2)]
    sender.close()
    store.close()


def test_f39_slow_worker_is_fenced(store, opened, clock):
    """[D6] A heartbeat keeps the lease; without one, acknowledgement, rows and messages of the late one are nothing."""
    other = opened()
    with store.transaction() as transaction:
        transaction.execute("CREATE TABLE invoice (id VARCHAR(100))")
    store.send(PlaceOrder(order_id="o-1"))
    token, message = take_one(store)
    clock.advance(LEASE - 1)
    store.extend([token], LEASE)
    clock.advance(LEASE - 1)
    assert () == take(other)
    clock.advance(2)
    new_token, again = take_one(other)

    with pytest.raises(LookupError), store.transaction() as transaction:
        transaction.execute("INSERT INTO invoice (id) VALUES ('late')")
        sends = [sending(OrderPlaced(order_id="ghost"), message)]
        if store.settle(token, [Settlement(message.seq, [outcome()], sends)], transaction=transaction):
            raise LookupError("the lease is lost")

    assert set() == end(other, new_token, again)
    assert () == take(other)
    with store.transaction() as transaction:
        assert [] == transaction.execute("SELECT id FROM invoice")


def test_f40_stale_claim_acknowledges_or_gives_back(store, opened, clock):
    """[D6] It has no effect."""
    other = opened()
    store.send(PlaceOrder(order_id="o-1"))
    token, message = take_one(store)
    clock.advance(LEASE + 1)
    new_token, again = take_one(other)

    store.release(token, [message.seq])
    assert {message.seq} == end(store, token, message, outcome("dead"))

    assert ((), []) == (take(other), other.dead())
    assert set() == end(other, new_token, again)


def test_f41_message_is_sent_twice(store):
    """[D8] One message; with another body an error."""
    sent = [store.send(PlaceOrder(order_id="o-1"), dedup="order-1") for _ in range(2)]

    with pytest.raises(ConflictError):
        store.send(PlaceOrder(order_id="o-2"), dedup="order-1")

    assert [sent[0]] * 2 == sent
    assert ["o-1"] == order_ids(take(store))


def test_f43_unit_of_work_is_rolled_back(store):
    """[D3] Its events never appear, not even with the next one's."""
    with pytest.raises(LookupError), store.transaction() as transaction:
        transaction.send(PlaceOrder(order_id="666"))
        raise LookupError
    with store.transaction() as transaction:
        transaction.send(PlaceOrder(order_id="1"))

    assert ["1"] == order_ids(take(store))


def test_f44_engine_is_down_after_the_commit(clock, tmp_path):
    """[B3] The outbox keeps it, and sends it when the engine is back: in the order of its key, and twice as one."""
    pytest.importorskip("faststream.nats", reason="no NATS here: pip install 'pydantic-messagebus[nats]'")
    server, registry, arrived = servers.start_nats(), Registry(), []
    outbox = open_store(f"sqlite:///{tmp_path}/bus.db", clock=clock)
    registry.register(PlaceOrder, lambda _: None)
    try:
        with connect(server.url, group="shop") as shop, connect(server.url, group="billing") as billing:
            billing.begin(registry.snapshot, ahead=100, lease=LEASE)
            relay = Relay(outbox, shop, lease=LEASE, log_level="disabled", error_log_level="disabled")
            with outbox.transaction() as transaction:
                sent = [transaction.send(order, key="customer-7") for order in orders(*map(str, range(10)))]
            for confirmed in shop.carry(take(outbox)):
                confirmed.result()
            clock.advance(LEASE + 1)  # Whoever published the first has not lived to say so.

            server.kill()
            publishing = threading.Thread(target=relay.run)
            publishing.start()
            while not outbox.stats().in_flight:
                outbox.wait(0.01)
            assert (9, 0) == (outbox.stats().due, outbox.stats().finished)
            server.start()
            while len(arrived) < 10 or outbox.stats().finished < 10:
                billing.wait(0.1)
                arrived += [arrival.id for arrival in billing.take(100)]
            relay.stop()
            publishing.join()
    finally:
        server.stop()

    assert sent == arrived, "not in order, or not all known by their ids"
    assert [] == outbox.dead()
    outbox.close()


def test_f46_message_kills_its_worker_each_time(store, clock):
    """[D4] Crashes are counted, so that a worker can end the loop; its neighbours are handled once each."""
    store.send_many(orders("good", "poison", "good too"))
    attempts, handled = [], []

    while not store.dead():
        claim = store.claim(10, LEASE)
        for message in claim.messages:
            if order_ids([message]) == ["poison"]:
                attempts.append(message.attempt)
                if message.attempt >= 5:
                    end(store, claim.token, message, outcome("dead", attempts=message.attempt))
                clock.advance(LEASE + 1)
                break
            handled += order_ids([message])
            end(store, claim.token, message)

    assert [1, 2, 3, 4, 5] == attempts
    assert ["good", "good too"] == handled
    assert () == take(store)
    assert [5] == [letter.attempts for letter in store.dead()]


def test_f47_message_with_a_key_is_dead(store):
    """[D5] Those behind it wait for the decision; replayed, it comes before them; opted out, they go on."""
    store.send_many(orders("o-1", "o-2"), key="parked")
    store.send_many(orders("p-1", "p-2"), key="free")
    claim = store.claim(10, LEASE)
    for message, parks in zip(claim.messages, [True, False], strict=True):
        end(store, claim.token, message, outcome("dead"), parks=parks)

    assert ["p-2"] == order_ids([finish(store)])
    assert ["p-2"] != order_ids(take(store))
    store.retry(store.dead()[0].id)
    assert [["o-1"], ["o-2"]] == [order_ids([finish(store)]) for _ in range(2)]


# F49: time does not pass evenly


@pytest.mark.parametrize("step", [3_600, -3_600])
def test_f49_clock_is_set(start, tmp_path, step):
    """[D6] Leases hold and end as if it had not been; what was due, or was to be tried again, is not a minute late."""
    script = """
        store = open_store(url)
        store.send_many(orders("held", "failed"))
        held, failed = [store.claim(1, 600) for _ in range(2)]
        store.settle(failed.token, [Settlement(failed.messages[0].seq, [outcome("retry", due=store.clock() + 0.1)])])
        store.send(PlaceOrder(order_id="waits"))
        store.send(PlaceOrder(order_id="later"), delay=7_200)

        with open(os.environ["SHIM_CLOCK"], "w") as file:
            file.write(sys.argv[2])

        others = [open_store(url), open_store(url)]
        got = []
        while len(got) < 2:
            others[0].wait(1)
            got += [message for other in others for message in other.claim(1, 600).messages]
        assert all(abs(one.due - store.clock()) < 60 for message in got for one in message.outcomes.values())
        print(*order_ids(got), store.settle(held.token, [Settlement(held.messages[0].seq, [outcome()])]))
        print(*[round((one.due.timestamp() - store.clock()) / 3_600) for one in store.waiting(limit=9)][-1:])
    """

    with shim.loaded(tmp_path) as environment:
        clock = {**environment, "SHIM_CLOCK": str(tmp_path / "clock")}
        (printed,) = outputs(start(script, f"sqlite:///{tmp_path}/bus.db", str(step), env=clock))

    assert f"waits failed set()\n{2 - step // 3_600}\n" == printed


def test_f49_clock_of_a_client_is_set(start, postgres, tmp_path):
    """[D6] On a server it is the server's clock that counts, whatever becomes of the one here."""
    script = """
        store = open_store(url)
        store.send_many(orders("held", "waits"))
        held = store.claim(1, 600)
        before = store.clock()
        with open(os.environ["SHIM_CLOCK"], "w") as file:
            file.write("-3600")
        print(*order_ids(store.claim(9, 600).messages), store.clock() - before < 60)
        with open(os.environ["SHIM_CLOCK"], "w") as file:
            file.write("3600")
        print(*order_ids(store.claim(9, 600).messages), store.clock() - before < 60)
    """

    with shim.loaded(tmp_path) as environment:
        clock = {**environment, "SHIM_CLOCK": str(tmp_path / "clock")}
        (printed,) = outputs(start(script, postgres.fresh(), env=clock))

    assert "waits True\nTrue\n" == printed


def test_f49_year_2038_is_a_year(opened):
    """[D7] Seconds since the epoch have more than 31 bits."""
    later = Clock(datetime(2038, 1, 19, 3, 14, 7, tzinfo=UTC).timestamp())
    store = opened(clock=later)
    store.send(PlaceOrder(order_id="o-1"), delay=10)

    assert [datetime(2038, 1, 19, 3, 14, 17, tzinfo=UTC)] == [one.due for one in store.waiting()]
    later.advance(10)
    assert ["o-1"] == order_ids(take(store))


@pytest.mark.parametrize("day", [datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 10, 24, tzinfo=UTC)])
def test_f49_clocks_are_put_forward_and_back(opened, day):
    """[D7] On each of three days, with the day of 23 or of 25 hours in the middle, the schedule fires once."""
    passing = Clock(day.timestamp())
    store = opened(clock=passing)
    store.every("30 2 * * *", PlaceOrder(order_id="o-1"), name="nightly", timezone="Europe/Berlin")
    fired = Counter()

    for _ in range(72 * 4):
        passing.advance(900)
        fired[passing.time().date()] += store.fire()

    assert [1, 1, 1] == [times for times in fired.values() if times]


# F51 to F53: processes


def test_f51_worker_is_stopped_and_goes_on(start, url, opened):
    """[D6] Stopped for longer than its lease, it finds that the message is another's."""
    store = opened(clock=time.time)
    store.send(PlaceOrder(order_id="o-1"))
    script = """
        import signal
        store = open_store(url)
        token, message = take_one(store, lease=0.2)
        print("claimed", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        print(*end(store, token, message))
    """
    worker = start(script, url)
    assert "claimed\n" == worker.stdout.readline()
    os.waitid(os.P_PID, worker.pid, os.WSTOPPED | os.WNOWAIT)
    while not (claim := store.claim(1, 600)).messages:
        store.wait(1)

    worker.send_signal(signal.SIGCONT)

    (message,) = claim.messages
    assert (f"{message.seq}\n", 0) == (worker.communicate()[0], worker.returncode)
    assert 2 == message.attempt
    assert set() == end(store, claim.token, message)


def test_f52_process_forks_after_opening(start, url):
    """[D11] Children open it anew; nobody hangs, and nobody uses what is another's. With a group commit under way."""
    script = """
        import asyncio, threading
        store = open_store(url, timeout=10)
        asyncio.run(store.asend(PlaceOrder(order_id="parent")))
        is_over, sent = threading.Event(), []
        def go_on():
            while not is_over.is_set():
                sent.append(store.send(PlaceOrder(order_id="thread")))
        thread = threading.Thread(target=go_on)
        thread.start()
        children = []
        for number in range(20):
            if pid := os.fork():
                children.append(pid)
                continue
            code = 1
            try:
                store.send(PlaceOrder(order_id="child"))
                asyncio.run(store.asend(PlaceOrder(order_id="child")))
                claim = store.claim(1, 600)
                store.settle(claim.token, [Settlement(claim.messages[0].seq, [outcome()])])
                store.close()
                code = 0
            finally:
                os._exit(code)
        codes = [os.waitpid(pid, 0)[1] for pid in children]
        is_over.set()
        thread.join()
        stats = store.stats()
        print(*codes, stats.finished, stats.due - len(sent))
    """

    (printed,) = outputs(start("import warnings; warnings.simplefilter('ignore')\n" + dedent(script), url))

    assert ["0"] * 20 + ["20", "21"] == printed.split()


def test_f53_schema_is_newer(opened):
    """[D11] A store of a newer version is refused, and left as it is, with its messages."""
    store = opened()
    store.send(PlaceOrder(order_id="o-1"))
    with store.transaction() as transaction:
        transaction.execute("UPDATE mb_meta SET version = version + 1")
    with pytest.raises(StoreFileError, match="newer than"):
        opened()

    with store.transaction() as transaction:
        transaction.execute("UPDATE mb_meta SET version = version - 1")
    assert ["o-1"] == order_ids(take(opened()))


def test_f53_schema_is_older(opened, url):
    """[D11] A store of an older version is brought up to date when it is opened, with its messages in their order."""
    store = opened()
    store.send_many(orders("o-1", "o-2"), key="customer-7")
    dies(store)
    store.send(PlaceOrder(order_id="p-1"))
    store.every("0 3 * * *", PlaceOrder(order_id="n-1"), name="nightly")
    make_older(store, is_sqlite=url.startswith("sqlite"))
    store.close()

    for _ in range(2):
        store = opened()
    assert ["p-1"] == order_ids([finish(store)])
    assert ["nightly"] == [one.name for one in store.schedules()]
    store.drop(store.dead()[0].id)
    assert ["o-2"] == order_ids(take(store))
    with store.transaction() as transaction:
        assert [(VERSION,)] == [tuple(row) for row in transaction.execute("SELECT version FROM mb_meta")]


def test_f53_schema_is_changed_under_a_worker(store):
    """[D11] A worker of the old version fails, and leaves what is there as it is."""
    registry = Registry()
    registry.register(PlaceOrder, lambda _: None)
    store.send(PlaceOrder(order_id="o-1"))
    with store.transaction() as transaction:
        transaction.execute("ALTER TABLE mb_message RENAME COLUMN lease TO fence")

    with pytest.raises(Exception, match="lease"):
        Worker(store, registry, log_level="disabled", error_log_level="disabled").run(until_idle=True)

    with store.transaction() as transaction:
        transaction.execute("ALTER TABLE mb_message RENAME COLUMN fence TO lease")
    assert ["o-1"] == order_ids(take(store))


# F54: very many


def test_f54_many_wait(opened):
    """[D2] A claim among 30,000, half of them behind one key, takes about as long as one among 2,000."""
    store = opened()

    def typical():
        took = []
        for _ in range(15):
            begin = time.perf_counter()
            claim = store.claim(10, LEASE)
            took.append(time.perf_counter() - begin)
            assert 10 == len(claim.messages)
            store.release(claim.token, [message.seq for message in claim.messages])
        return median(took)

    def send(count):
        store.send_many(orders(*map(str, range(count))))
        store.send_many(orders(*map(str, range(count))), key="customer-7")

    send(1_000)
    few = typical()
    send(14_000)
    many = typical()

    assert many < 5 * few, f"{few * 1000:.1f} ms, then {many * 1000:.1f} ms: it looks at each that waits"


def test_f54_pruned_file_does_not_grow(tmp_path, clock):
    """[D12] What is forgotten makes room for what comes."""
    path = tmp_path / "bus.db"
    store = open_store(f"sqlite:///{path}", clock=clock)
    sizes = []

    for _ in range(8):
        store.send_many(orders(*(f"{number:0500}" for number in range(300))))
        claim = store.claim(1_000, LEASE)
        store.settle(claim.token, [Settlement(message.seq, [outcome()]) for message in claim.messages])
        clock.advance(60)
        store.prune(90)
        with suppress(StoreError):
            sizes.append(path.stat().st_size + (tmp_path / "bus.db-wal").stat().st_size)
    store.close()

    assert path.stat().st_size <= 4 * 300 * 1_000
    assert sizes[-1] <= 2 * sizes[2]


def test_f54_file_shrinks_when_there_is_less_in_it(tmp_path, clock):
    """[D12] After a busy day the disk is given back; what is left is whole."""
    path = tmp_path / "bus.db"
    store = open_store(f"sqlite:///{path}", clock=clock)
    store.send_many(orders(*(f"{number:02000}" for number in range(2_000))))
    claim = store.claim(2_000, LEASE)
    store.settle(claim.token, [Settlement(message.seq, [outcome()]) for message in claim.messages])
    store.send_many(orders("o-1", "o-2"))
    clock.advance(60)

    store.prune(30)

    store.close()
    assert path.stat().st_size < 2**21
    assert ["o-1", "o-2"] == order_ids(take(open_store(f"sqlite:///{path}", clock=clock)))


def test_every_fault_has_a_test():
    """A number that nobody tests is a promise that nobody keeps."""
    here = Path(__file__).parent
    files = [*here.glob("test_*.py"), *here.with_name("proof").glob("test_*.py")]
    names = [name for file in files for name in re.findall(r"^def (test_f\d\w+)", file.read_text(), re.MULTILINE)]
    numbers = {int(number) for name in names for number in re.findall(r"(?<=_f)\d+", name)}

    assert set() == {*range(32, 55)} - numbers
