"""What is special to PostgreSQL: many writers, the server's clock, sessions that end, and what text it takes."""

import threading
import time

import pytest

from messagebus import ConfigurationError, DispatchError, Envelope
from messagebus.delivery import (
    Failure,
    Outcome,
    Settlement,
    StoreBusyError,
    StoreFileError,
    StoreUnavailableError,
    open_store,
)
from messagebus.delivery.schema import VERSION
from messagebus.testing import Clock
from messagebus.testing.laws import LEASE, end, finish, outcome, take, take_one
from messagebus.testing.shop import PlaceOrder, order_ids, orders

psycopg = pytest.importorskip("psycopg")


@pytest.fixture
def url(postgres):
    return postgres.fresh()


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


@pytest.fixture
def server(url):
    """A connection beside the store's, in the same schema."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        yield connection


def sessions(server):
    """Return the process ids of all other sessions that have this schema."""
    sql = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query LIKE '%%mb_message%%'"
    return [row[0] for row in server.execute(sql)]


# Tables


def test_tables_are_made_for_a_queue(store, server):
    """[D2] Rows are changed often and soon dead: room on each page, and a vacuum that comes early."""
    found = server.execute("SELECT reloptions FROM pg_class WHERE oid = 'mb_message'::regclass").fetchone()

    assert [["fillfactor=70", "autovacuum_vacuum_scale_factor=0.02"]] == [*found]


def test_stores_that_open_at_once_make_the_tables_once(opened):
    """[D11] As many workers of a deployment do."""
    failed = []

    def begin():
        try:
            opened().send(PlaceOrder(order_id="o-1"))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [] == failed
    assert 8 == opened().stats().due


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        (f"UPDATE mb_meta SET version = {VERSION + 1}", "newer"),
        ("DROP TABLE mb_meta", "none of this library"),
        ("ALTER TABLE mb_message DROP COLUMN headers", f"not those of version {VERSION}"),
    ],
)
def test_tables_of_another_are_refused(opened, server, statement, why):
    """[D11] They are left as they are: nobody knows what they mean."""
    opened().close()
    server.execute(statement)

    with pytest.raises(StoreFileError, match=why):
        opened()


# Many writers


def test_writers_do_not_wait_for_each_other(opened):
    """[D6] A long transaction of one worker keeps no other from its work."""
    store, other = opened(timeout=1), opened(timeout=1)
    store.send_many(orders("1", "2", "3"))
    claim = store.claim(1, LEASE)

    with store.transaction() as transaction:
        assert store.owns(claim.token, claim.messages[0].seq, transaction)
        other.send(PlaceOrder(order_id="4"))
        assert ["2", "3", "4"] == order_ids(take(other))


def test_heartbeat_does_not_wait_for_a_handler(opened, clock):
    """[D6] What the handler's transaction has locked is safe as it is; the rest of the claim must not run out."""
    store = opened(timeout=1)
    store.send_many(orders("1", "2"))
    claim = store.claim(2, LEASE)
    first, second = claim.messages

    with store.transaction() as transaction:
        assert store.owns(claim.token, first.seq, transaction)
        clock.advance(LEASE - 1)
        store.extend([claim.token], LEASE)
        clock.advance(2)
        assert () == take(opened())
        assert set() == store.settle(claim.token, [Settlement(first.seq, [outcome()])], transaction=transaction)

    assert set() == end(store, claim.token, second)


def test_one_key_is_never_in_two_hands(opened):
    """[D5] Though a message that was sent first may be committed last, and then be before one that is in flight."""
    store, other = opened(), opened()

    with store.transaction() as transaction:
        transaction.send(PlaceOrder(order_id="first"), key="customer-7")
        other.send(PlaceOrder(order_id="second"), key="customer-7")
        token, second = take_one(other)

    assert ["second"] == order_ids([second])
    assert () == take(store)
    end(other, token, second)
    assert ["first"] == order_ids(take(store))


def test_transactions_that_wait_for_each_other_are_told(opened):
    """[D3] One of the two goes on; the other may try again."""
    store = opened()
    with store.transaction() as transaction:
        transaction.execute("CREATE TABLE item (id int PRIMARY KEY, n int)")
        transaction.execute("INSERT INTO item VALUES (1, 0), (2, 0)")
    meeting = threading.Barrier(2)
    fates = []

    def cross(first, second):
        try:
            with store.transaction() as transaction:
                transaction.execute("UPDATE item SET n = n + 1 WHERE id = :id", {"id": first})
                meeting.wait()
                transaction.execute("UPDATE item SET n = n + 1 WHERE id = :id", {"id": second})
            fates.append("ok")
        except StoreBusyError:
            fates.append("busy")

    threads = [threading.Thread(target=cross, args=pair) for pair in [(1, 2), (2, 1)]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ["busy", "ok"] == sorted(fates)


# Transactions


def test_transaction_with_a_failed_statement_is_not_committed(store):
    """[D3] PostgreSQL would answer COMMIT with a silent rollback: it must not look like a commit."""
    with pytest.raises(DispatchError, match="has failed"), store.transaction() as transaction:
        transaction.send(PlaceOrder(order_id="lost"))
        with pytest.raises(Exception, match="no_such_table"):
            transaction.execute("SELECT * FROM no_such_table")

    assert 0 == store.stats().due


def test_savepoint_keeps_a_failed_statement_apart(store):
    """[D3] The transaction goes on, and is committed."""
    with store.transaction() as transaction:
        transaction.send(PlaceOrder(order_id="o-1"))
        with pytest.raises(Exception, match="no_such_table"), transaction.savepoint():
            transaction.execute("SELECT * FROM no_such_table")

    assert ["o-1"] == order_ids(take(store))


def test_error_of_a_statement_shows_no_parameters(store):
    """[L21] SQLAlchemy would print them, and there may be anything in them."""
    with pytest.raises(Exception, match="no_such_table") as caught, store.transaction() as transaction:
        transaction.execute("INSERT INTO no_such_table VALUES (:secret)", {"secret": "canary"})

    assert "canary" not in str(caught.value)


def test_statement_that_ends_the_transaction_is_refused(store):
    """[D3] After a COMMIT in between the messages would no longer go with the rows."""
    with pytest.raises(DispatchError, match="has ended it"), store.transaction() as transaction:
        transaction.execute("COMMIT")


# The server


def test_time_is_the_servers(opened, monkeypatch):
    """[D6] Leases must mean the same to all machines, however their own clocks are set."""
    right = opened(clock=time.time)
    hour = 3_600.0
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + hour)

    fast = open_store(right._engine.url.render_as_string(hide_password=False))
    fast.send(PlaceOrder(order_id="o-1"))

    assert abs(fast.clock() - now()) < 10
    monkeypatch.undo()
    assert ["o-1"] == order_ids(take(right))
    fast.close()


def test_session_that_was_ended_is_replaced(store, server):
    """[D1] The call that meets it fails and says so; the next one works, without opening the store again."""
    store.send(PlaceOrder(order_id="before"))
    for pid in sessions(server):
        server.execute("SELECT pg_terminate_backend(%s)", [pid])

    with pytest.raises(StoreUnavailableError):
        store.send(PlaceOrder(order_id="refused"))
    store.send(PlaceOrder(order_id="after"))

    assert ["before", "after"] == order_ids(take(store))


def test_server_that_is_not_there_is_named_without_its_password():
    """[L21] A URL has a password in it."""
    with pytest.raises(StoreUnavailableError, match="cannot be reached") as caught:
        open_store("postgresql+psycopg://ann:canary@127.0.0.1:1/shop", timeout=1)

    assert "canary" not in str(caught.value)


def test_address_that_is_none_is_refused():
    """The error repeats none of it."""
    with pytest.raises(ConfigurationError, match="no URL") as caught:
        open_store("postgresql://ann:canary@host:port/shop")

    assert "canary" not in str(caught.value)


def test_commits_are_on_disk_whatever_the_role_says(url, postgres):
    """[D1] A role may have been told not to wait for the disk; a store waits."""
    postgres.execute("ALTER ROLE postgres SET synchronous_commit = off")
    try:
        store = open_store(url)
        with store.transaction() as transaction:
            assert [("on",)] == transaction.execute("SELECT current_setting('synchronous_commit')")
        store.close()
    finally:
        postgres.execute("ALTER ROLE postgres RESET synchronous_commit")


# Text


def test_null_characters_survive(store):
    """[D1] PostgreSQL's own texts have none, in JSON neither; bodies, headers and failures may have what they like."""
    sent = PlaceOrder(order_id="a\0b")
    store.send(sent, envelope=Envelope(sent, id="m-1", headers={"source": "a\0b"}))
    token, message = take_one(store)
    end(store, token, message, Outcome("h", "dead", 5, failure=Failure("shop.Broken", "a\0b", "shop.py:12")))

    (letter,) = store.dead()

    assert (["a\0b"], "a\0b") == (order_ids([message]), message.headers["source"])
    assert "a\N{REPLACEMENT CHARACTER}b" == letter.failure.text


@pytest.mark.parametrize("key", ["a\0b", "\ud800", "x" * 2_001, ""])
def test_keys_that_not_every_engine_takes(store, key):
    """[D13] They are refused on each alike, before anything is sent; an empty one is a key."""
    if key:
        with pytest.raises(ConfigurationError, match="its key"):
            store.send(PlaceOrder(order_id="o-1"), key=key)
    else:
        store.send(PlaceOrder(order_id="o-1"), key=key)

    assert ([] if key else [""]) == [message.key for message in take(store)]


def test_large_and_long_batches_are_stored(store):
    """[D1] Arrays carry them in one statement."""
    numbers = [str(number) for number in range(5_000)]

    store.send_many(orders(*numbers))
    store.send(PlaceOrder(order_id="x" * 1_000_000))

    claimed = store.claim(10_000, LEASE)
    assert numbers == order_ids(claimed.messages)[:-1]
    assert set() == store.settle(claimed.token, [Settlement(one.seq, [outcome()]) for one in claimed.messages])
    assert 5_001 == store.stats().finished
    assert () == take(store)


def test_finished_is_finished(store):
    """[D2] The smallest life of a message, on a server that is real."""
    sent = store.send(PlaceOrder(order_id="o-1"))

    assert sent == finish(store).id
    assert b"[]" == store.result(sent)
