"""What is special to SQLite: the file, its settings, its one writer; and group commit, which pays most here."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from contextlib import closing
from textwrap import dedent

import pytest

from messagebus import ConfigurationError, DispatchError
from messagebus.delivery import StoreBusyError, StoreFileError, StoreUnavailableError, open_store
from messagebus.delivery.schema import VERSION
from messagebus.delivery.sqlite import APPLICATION_ID
from messagebus.delivery.sqlite_driver import has_wal_reset_bug
from messagebus.testing import Clock
from messagebus.testing.laws import LEASE, take
from messagebus.testing.shop import PlaceOrder, order_ids, orders


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bus.db"


@pytest.fixture
def opened(path):
    """A function that opens a store in the file of the test."""
    stores = []

    def another(**settings):
        stores.append(open_store(f"sqlite:///{path}", **settings))
        return stores[-1]

    yield another
    for store in stores:
        store.close()


def ask(store, pragma):
    with store.transaction() as transaction:
        return transaction.execute(f"PRAGMA {pragma}")[0][0]


def run(script, *arguments):
    """Run a script in an interpreter of its own, and return what it printed."""
    root = __file__.rpartition("/tests/")[0]
    command = [sys.executable, "-W", "error", "-c", dedent(script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout


# The file


def test_file_is_for_its_owner_alone(path, opened):
    """[D11] Whatever the umask says; so is all that lies beside it."""
    umask = os.umask(0)
    try:
        opened().send(PlaceOrder(order_id="o-1"))
    finally:
        os.umask(umask)

    found = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}

    assert dict.fromkeys(["bus.db", "bus.db-lock", "bus.db-shm", "bus.db-wal"], 0o600) == found


def test_commits_are_on_disk(opened):
    """[D1] [D11] WAL with synchronous=FULL on every connection: anything less loses what was acknowledged."""
    store = opened()
    held = store.transaction()

    with held as first:
        settings = [first.execute(f"PRAGMA {name}")[0][0] for name in ("journal_mode", "synchronous", "trusted_schema")]

    assert ["wal", 2, 0] == settings
    assert ["wal", 2] == [ask(opened(), "journal_mode"), ask(store, "synchronous")]


def test_own_file_says_whose_it_is(path, opened):
    """[D11] `file bus.db`, and an older version of the library, can tell."""
    store = opened()

    assert [APPLICATION_ID, VERSION] == [ask(store, "application_id"), ask(store, "user_version")]


def test_file_of_the_application_keeps_its_own(path, opened):
    """[D3] The application's tables lie beside the store's, with its own numbers, and its own permissions."""
    own = sqlite3.connect(path)
    for statement in ["CREATE TABLE orders (id)", "PRAGMA application_id = 7", "PRAGMA user_version = 99"]:
        own.execute(statement)
    own.close()
    path.chmod(0o640)

    for _ in range(2):
        store = opened()
        store.send(PlaceOrder(order_id="o-1"))
        assert [7, 99] == [ask(store, "application_id"), ask(store, "user_version")]
        store.close()

    assert 0o640 == stat.S_IMODE(path.stat().st_mode)
    with closing(sqlite3.connect(path)) as own:
        assert [(0,)] == own.execute("SELECT count(*) FROM orders").fetchall()


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        (f"PRAGMA user_version = {VERSION + 1}", "newer"),
        (f"UPDATE mb_meta SET version = {VERSION + 1}", "newer"),
        ("DROP TABLE mb_meta", "none of this library"),
        ("ALTER TABLE mb_message DROP COLUMN headers", f"not those of version {VERSION}"),
    ],
)
def test_tables_of_another_are_refused(path, opened, statement, why):
    """[D11] They are left as they are: nobody knows what they mean."""
    opened().close()
    other = sqlite3.connect(path)
    other.execute(statement)
    other.commit()
    other.close()
    before = path.read_bytes()

    with pytest.raises(StoreFileError, match=why):
        opened()

    assert before == path.read_bytes()


def test_store_on_a_relative_path_stays_where_it_was_opened(tmp_path, monkeypatch):
    """[D11] A program that changes its folder does not begin another file."""
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///bus.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    store.send_many(orders("1", "2"))
    claims = [store.claim(1, LEASE) for _ in range(2)]
    store.close()

    assert ["1", "2"] == [order_ids(claim.messages)[0] for claim in claims]
    assert [] == [*(tmp_path / "elsewhere").iterdir()]


@pytest.mark.parametrize(
    ("version", "has_bug"),
    [
        ((3, 6, 23), False), ((3, 7, 0), True), ((3, 40, 1), True), ((3, 44, 5), True), ((3, 44, 6), False),
        ((3, 45, 0), True), ((3, 50, 6), True), ((3, 50, 7), False), ((3, 51, 2), True), ((3, 51, 3), False),
        ((3, 53, 4), False),
    ],
)  # fmt: skip
def test_versions_with_the_wal_reset_bug_are_known(version, has_bug):
    """[D11] SQLite 3.7.0 to 3.51.2, without the two that the fix was brought back to."""
    assert has_bug == has_wal_reset_bug(version)


# One writer


def test_process_waits_for_another(path, opened):
    """[D11] Writers take turns, with a bound on the wait, and go on as soon as the other is done."""
    store, patient = opened(timeout=0.1), opened(timeout=30)
    script = """
        import sys
        from messagebus.delivery import open_store
        store = open_store(sys.argv[1])
        with store.transaction():
            print("locked", flush=True)
            input()
    """
    root = __file__.rpartition("/tests/")[0]
    command = [sys.executable, "-c", dedent(script), f"sqlite:///{path}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
    other = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": root}, **pipes)
    assert "locked\n" == other.stdout.readline()

    with pytest.raises(StoreBusyError, match=r"0\.1 s"):
        store.send(PlaceOrder(order_id="refused"))
    waiter = threading.Thread(target=patient.send, args=[PlaceOrder(order_id="patient")])
    waiter.start()
    other.communicate("\n")
    waiter.join()

    assert ["patient"] == order_ids(take(store))


def test_processes_that_write_at_once_all_succeed(path, opened):
    """[D11] Nobody is told that the database is locked, and nothing is lost."""
    opened()
    script = """
        import sys
        from messagebus.delivery import open_store
        from messagebus.testing.shop import PlaceOrder
        store = open_store(sys.argv[1])
        for number in range(100):
            store.send(PlaceOrder(order_id=str(number)))
    """
    threads = [threading.Thread(target=run, args=[script, f"sqlite:///{path}"]) for _ in range(3)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 300 == opened().stats().due


def test_thread_does_not_wait_for_itself(opened):
    """A send beside the transaction that the same thread holds could never go on: it is told so at once."""
    store = opened()

    with pytest.raises(DispatchError, match="wait for itself"), store.transaction():
        store.send(PlaceOrder(order_id="o-1"))

    store.send(PlaceOrder(order_id="o-2"))
    assert ["o-2"] == order_ids(take(store))


def test_looking_waits_for_nobody(opened):
    """[D11] Who reads sees what was committed, while another writes."""
    store = opened(timeout=0.1)
    store.send(PlaceOrder(order_id="o-1"))

    with store.transaction() as transaction:
        transaction.send(PlaceOrder(order_id="o-2"))
        assert 1 == store.stats().due
        assert 1 == len(store.waiting())
        assert store.next_due() is not None


def test_statement_that_ends_the_transaction_is_refused(opened):
    """[D3] After a COMMIT in between the messages would no longer go with the rows."""
    store = opened()

    with pytest.raises(DispatchError, match="has ended it"), store.transaction() as transaction:
        transaction.execute("COMMIT")


# Group commit


def commits(store):
    """Return a list that grows by the number of messages of each commit."""
    written, add = [], store._group._store

    def counted(rows):
        written.append(len(rows))
        return add(rows)

    store._group._store = counted
    return written


def test_tasks_share_commits(opened):
    """[D1] What is awaited at the same time is written together, each message once."""
    store = opened()

    async def send(*numbers):
        await asyncio.gather(*(store.asend(PlaceOrder(order_id=str(number))) for number in numbers))

    asyncio.run(send("first"))
    written = commits(store)
    asyncio.run(send(*range(200)))

    assert 200 == sum(written)
    assert len(written) <= 20
    assert 201 == store.stats().due


def test_group_tells_each_its_own_fate(opened):
    """[D8] A conflict is the error of the one who has it; the others are stored."""
    store = opened()
    store.send(PlaceOrder(order_id="1"), dedup="order-1")

    async def send():
        sends = [store.asend(PlaceOrder(order_id=str(number)), dedup=f"order-{number % 3}") for number in range(6)]
        return await asyncio.gather(*sends, return_exceptions=True)

    fates = asyncio.run(send())

    assert ["str"] * 3 + ["ConflictError"] * 3 == [type(fate).__name__ for fate in fates]
    assert 3 == store.stats().due


def test_group_that_cannot_be_stored_tells_all(path, opened):
    """[D1] None is told that it is stored, and the next one is."""
    store = opened(timeout=0.05)

    async def send(*numbers):
        sends = [store.asend(PlaceOrder(order_id=str(number))) for number in numbers]
        return [type(fate).__name__ for fate in await asyncio.gather(*sends, return_exceptions=True)]

    with opened().transaction():
        assert ["StoreBusyError"] * 5 == asyncio.run(send(*range(5)))

    assert ["str"] == asyncio.run(send("later"))
    assert ["later"] == order_ids(take(store))


def test_closing_stores_what_was_handed_over(opened):
    """[D1] Then nothing more is taken."""
    store = opened()

    async def send():
        tasks = [asyncio.ensure_future(store.asend(PlaceOrder(order_id=str(number)))) for number in range(20)]
        await asyncio.sleep(0)
        await asyncio.to_thread(store.close)
        await asyncio.gather(*tasks)
        with pytest.raises(DispatchError, match="closed"):
            await store.asend(PlaceOrder(order_id="late"))

    asyncio.run(send())

    assert 20 == opened().stats().due


# Forks


def test_child_of_a_fork_in_a_transaction_is_refused(path):
    """[D11] SQLite in it has inherited its parent's locks: to go on would damage the file; to leave must not."""
    script = """
        import os, sys
        from messagebus import DispatchError
        from messagebus.delivery import open_store
        from messagebus.testing.shop import PlaceOrder
        store = open_store(sys.argv[1])
        try:
            with store.transaction() as transaction:
                transaction.send(PlaceOrder(order_id="of the parent"))
                child = os.fork()
        except DispatchError as error:  # The child may not commit.
            print("child:", error, flush=True)
            try:
                store.send(PlaceOrder(order_id="of the child"))
            except DispatchError as error:
                print("child:", error, flush=True)
        else:
            print("parent:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), store.stats().due)
    """

    printed = run(script, f"sqlite:///{path}").splitlines()

    assert ["child:", "child:", "parent:"] == [line.split()[0] for line in printed]
    assert "only its parent can commit it" in printed[0]
    assert "forked while a transaction was open" in printed[1]
    assert "parent: 0 1" == printed[2]


def test_no_connection_crosses_a_fork(path):
    """[D11] Before a fork all are closed: a child has no descriptor of the file, and no lock of its parent's."""
    script = """
        import os, sys
        from messagebus.delivery import open_store
        from messagebus.testing.shop import PlaceOrder
        store = open_store(sys.argv[1])
        store.send(PlaceOrder(order_id="o-1"))
        def descriptors():
            links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
            return [name for link in links if "bus.db" in (name := os.path.realpath(link))]
        assert descriptors()
        child = os.fork()
        if not child:
            print(descriptors(), flush=True)
            store.send(PlaceOrder(order_id="o-2"))
            store.close()
            sys.exit()
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(store.stats().due)
    """
    if not os.path.exists("/proc/self/fd"):
        pytest.skip("there is no /proc to look at")

    assert "[]\n2\n" == run(script, f"sqlite:///{path}")


# In memory


def test_memory_is_a_copy_in_a_forked_child():
    """[D11] A child has what was there, and what it does is its own."""
    script = """
        import os, sys
        from messagebus.delivery import open_store
        from messagebus.testing.shop import PlaceOrder
        store = open_store("memory://")
        store.send(PlaceOrder(order_id="o-1"))
        child = os.fork()
        store.send(PlaceOrder(order_id="o-2"))
        if child:
            os.waitpid(child, 0)
        print(store.stats().due, flush=True)
    """

    assert "2\n2\n" == run(script)


def test_memory_can_be_read_in_a_transaction():
    """There is one connection, and the thread that writes may look too."""
    store = open_store("memory://", clock=Clock())

    with store.transaction() as transaction:
        transaction.send(PlaceOrder(order_id="o-1"))
        assert 1 == store.stats().due

    store.close()


def test_memory_bounds_the_wait_for_another_thread():
    """[D11] Looking too: the one connection is the other's."""
    store = open_store("memory://", timeout=0.05)
    begun, over = threading.Event(), threading.Event()

    def hold():
        with store.transaction():
            begun.set()
            over.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    begun.wait()
    for verb in [store.stats, lambda: store.send(PlaceOrder(order_id="o-1"))]:
        with pytest.raises(StoreBusyError):
            verb()
    over.set()
    holder.join()

    assert 0 == store.stats().due
    store.close()


# Opening


@pytest.mark.parametrize(
    "url", ["", "bus.db", "sqlite:///", "sqlite://bus.db", "mysql://localhost/bus", "memory://bus"]
)
def test_url_of_no_store_is_refused(url):
    """The error says what a URL looks like, and repeats none: it may have a password in it."""
    with pytest.raises(ConfigurationError, match=r"sqlite:///bus\.db"):
        open_store(url)


def test_environment_names_the_store(path, monkeypatch):
    """MESSAGEBUS_URL is where a deployment says it."""
    monkeypatch.setenv("MESSAGEBUS_URL", f"sqlite:///{path}")

    open_store().close()

    assert path.exists()
    monkeypatch.delenv("MESSAGEBUS_URL")
    with pytest.raises(ConfigurationError, match="MESSAGEBUS_URL is not set"):
        open_store()


def test_folder_that_is_missing_is_named(tmp_path):
    """It is not made: a wrong path would become a new, empty store."""
    with pytest.raises(StoreUnavailableError, match=r"nowhere/bus\.db"):
        open_store(f"sqlite:///{tmp_path}/nowhere/bus.db")


def test_wait_ends_with_what_is_sent(opened):
    """[D7] At once if this process sends it, soon if another does; and at its time limit."""
    store, other = opened(), opened()

    def waited(send, timeout=30.0):
        thread = threading.Thread(target=send)
        began = time.monotonic()
        thread.start()
        store.wait(timeout)
        thread.join()
        return time.monotonic() - began

    assert waited(lambda: None, timeout=0.05) >= 0.05
    assert waited(lambda: other.send(PlaceOrder(order_id="1"))) < 10
    take(store)
    assert waited(lambda: store.send(PlaceOrder(order_id="2"))) < 10
