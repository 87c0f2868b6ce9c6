"""The unit of work: what aggregates changed and recorded is committed, and goes on; the rest leaves no trace."""

import gc

import pytest

from messagebus import Command, DispatchError, Event, Registry, UnwritableMessageError, handle_message
from messagebus.delivery import Retry, Worker, current_transaction, open_store, rehearse
from messagebus.testing.laws import take
from messagebus.testing.shop import LOG_IN, order_ids

sqlalchemy = pytest.importorskip("sqlalchemy")

from sqlalchemy.exc import IntegrityError  # noqa: E402
from sqlalchemy.orm import (  # noqa: E402
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    scoped_session,
    sessionmaker,
)

from messagebus.delivery.outbox import session_in  # noqa: E402
from messagebus.delivery.unit_of_work import UnitOfWork  # noqa: E402


class Sell(Command):
    sku: str


class Sold(Event):
    order_id: str  # As in the shop of the laws, so that what is taken from a store can be compared.


class Base(DeclarativeBase):
    pass


class Product(Base):
    """An aggregate."""

    __tablename__ = "product"
    sku: Mapped[str] = mapped_column(primary_key=True)
    stock: Mapped[int]

    def sell(self):
        self.stock -= 1
        self.state()

    def state(self):
        """Record what has happened, and change nothing."""
        self.events.append(Sold(order_id=self.sku))


class Note(Base):
    """No aggregate."""

    __tablename__ = "note"
    text: Mapped[str] = mapped_column(primary_key=True)


QUIET = {"log_level": "disabled", "error_log_level": "disabled"}


@pytest.fixture
def store(url):
    store = open_store(url)
    yield store
    store.close()


@pytest.fixture
def sessions(url, store):
    engine = sqlalchemy.create_engine(url)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Product(sku=sku, stock=10) for sku in ("lamp", "chair")])
        session.commit()
    yield sessionmaker(engine)
    engine.dispose()


def stocks(sessions):
    """Return what others see."""
    with sessions() as session:
        return {product.sku: product.stock for product in session.scalars(sqlalchemy.select(Product))}


def skus(messages):
    return [message.order_id for message in messages]


# What is committed


def test_what_was_recorded_is_handed_out_after_the_commit(sessions):
    """In the order in which the aggregates came into the session, and each in its own."""
    with UnitOfWork(sessions, Product) as work:
        chair, lamp = (work.session.get(Product, sku) for sku in ("chair", "lamp"))
        lamp.sell()
        chair.sell()
        lamp.sell()
        assert [] == work.events
        work.commit()

    assert ["chair", "lamp", "lamp"] == skus(work.events)
    assert {"lamp": 8, "chair": 9} == stocks(sessions)


def test_each_commit_hands_out_what_is_new(sessions):
    """Nothing twice."""
    with UnitOfWork(sessions, Product) as work:
        for sku in ("lamp", "chair"):
            work.session.get(Product, sku).sell()
            work.commit()

    assert ["lamp", "chair"] == skus(work.events)


def test_next_block_begins_with_nothing(sessions):
    """One unit of work may be used for many messages, one after another."""
    work = UnitOfWork(sessions, Product)
    for sku in ("lamp", "chair"):
        with work:
            work.session.get(Product, sku).sell()
            work.commit()

        assert [sku] == skus(work.events)


def test_aggregates_come_into_a_session_in_many_ways(sessions):
    """Made, loaded, found by a query, merged, or there before; and what only recorded is not let go."""
    with sessions() as before:
        there = before.get(Product, "lamp")
        with UnitOfWork(lambda: before, Product) as work:
            there.state()
            made = Product(sku="table", stock=1)
            made.events = [Sold(order_id="made")]
            work.session.add(made)
            work.session.scalars(sqlalchemy.select(Product).filter_by(sku="chair")).one().state()
            gc.collect()
            work.session.merge(Product(sku="shelf", stock=1)).state()
            work.commit()

    assert {"lamp", "made", "chair", "shelf"} == {*skus(work.events)}


def test_objects_of_other_classes_are_left_alone(sessions):
    """Only aggregates get a list."""
    with UnitOfWork(sessions, Product) as work:
        note = Note(text="hello")
        work.session.add(note)
        work.commit()
        assert not hasattr(note, "events")


def test_scoped_session_serves_too(sessions):
    """And nothing of the unit of work is left in it."""
    scoped = scoped_session(sessions)
    with UnitOfWork(scoped, Product) as work:
        scoped.get(Product, "lamp").sell()
        work.commit()
    stray = scoped.get(Product, "chair")

    assert ["lamp"] == skus(work.events)
    assert not hasattr(stray, "events")
    scoped.remove()


def test_events_are_dispatched_after_the_commit(sessions):
    """Whoever handles one finds in the database what it tells of."""
    registry, seen = Registry(), []

    @registry.handles(Sell)
    def sell(command):
        with UnitOfWork(sessions, Product) as work:
            work.session.get(Product, command.sku).sell()
            work.commit()
        return work.events

    registry.register(Sold, lambda event: seen.append(stocks(sessions)[event.order_id]))

    handle_message(Sell(sku="lamp"), registry=registry)

    assert [9] == seen


# What is not


def test_what_was_not_committed_is_gone(sessions):
    """Nothing leaks from a unit of work that ends without a commit, however it ends, into the next one."""
    with sessions() as session:
        work = UnitOfWork(lambda: session, Product)
        with work:
            lamp = session.get(Product, "lamp")
            lamp.sell()
        with pytest.raises(ConnectionError), work:
            session.get(Product, "lamp").sell()
            session.flush()
            raise ConnectionError
        with work:
            session.get(Product, "lamp").sell()
            work.rollback()
            session.get(Product, "chair").sell()
            work.commit()

    assert ["chair"] == skus(work.events)
    assert [] == lamp.events
    assert {"lamp": 10, "chair": 9} == stocks(sessions)


def test_commit_that_fails_hands_out_nothing(sessions):
    """What the database refused has not happened."""
    with sessions() as session:
        session.add(Note(text="once"))
        session.commit()
    with UnitOfWork(sessions, Product) as work:
        lamp = work.session.get(Product, "lamp")
        lamp.sell()
        work.session.add(Note(text="once"))
        with pytest.raises(IntegrityError):
            work.commit()
        work.commit()

    assert ([], []) == (work.events, lamp.events)
    assert {"lamp": 10, "chair": 10} == stocks(sessions)


def test_it_is_used_within_its_block(sessions):
    """And by one at a time."""
    work = UnitOfWork(sessions, Product)
    with pytest.raises(DispatchError, match="not open"):
        work.commit()
    with work, pytest.raises(DispatchError, match="open already"), work:
        pass
    with pytest.raises(DispatchError, match="not open"):
        _ = work.session


# Outbox


def test_outbox_commits_rows_and_messages_together(sessions, store):
    """[D3] Nothing is left for the handler to return."""
    with UnitOfWork(sessions, Product, is_outbox=True) as work:
        work.session.get(Product, "lamp").sell()
        assert () == take(store)
        work.commit()

    assert [] == work.events
    assert ["lamp"] == order_ids(take(store))
    assert 9 == stocks(sessions)["lamp"]


def test_outbox_that_is_rolled_back_sends_nothing(sessions, store):
    """[D3] No ghost, and no row without its message."""
    with UnitOfWork(sessions, Product, is_outbox=True) as work:
        work.session.get(Product, "lamp").sell()
    with UnitOfWork(sessions, Product, is_outbox=True) as work:
        chair = work.session.get(Product, "chair")
        chair.sell()
        chair.events.append(LOG_IN)
        with pytest.raises(UnwritableMessageError):
            work.commit()

    assert ([], ()) == (work.events, take(store))
    assert {"lamp": 10, "chair": 10} == stocks(sessions)


# In the transaction of a store


def test_session_writes_in_the_transaction_of_a_store(sessions, store):
    """[D3] With the store's messages, or not at all."""
    for error in (None, LookupError()):
        try:
            with store.transaction() as transaction:
                with session_in(transaction) as session:
                    session.get(Product, "lamp").stock -= 1
                    session.commit()
                with session_in(transaction) as session:  # It sees what was written, and undoes its own alone.
                    assert (9 if error is None else 8) == session.get(Product, "lamp").stock
                    session.get(Product, "lamp").stock = 0
                    session.flush()
                transaction.send(Sold(order_id="lamp"))
                if error is not None:
                    raise error
        except LookupError:
            pass

    assert ["lamp"] == order_ids(take(store))
    assert 9 == stocks(sessions)["lamp"]


def test_worker_commits_it_with_the_acknowledgement(sessions, store):
    """[D3] A handler that fails after its commit leaves nothing; when it is tried again it happens once."""
    registry, attempts, seen = Registry(), [], []

    @registry.handles(Sell)
    def sell(command):
        with UnitOfWork(lambda: session_in(current_transaction()), Product) as work:
            work.session.get_one(Product, command.sku).sell()
            work.commit()
        attempts.append(len(seen))
        if len(attempts) < 3:
            raise ConnectionError
        return work.events

    registry.register(Sold, seen.append)
    store.send(Sell(sku="lamp"))

    Worker(store, registry, retry=Retry(attempts=3, first=0), **QUIET).run(until_idle=True)

    assert ([0, 0, 0], ["lamp"]) == (attempts, skus(seen))
    assert {"lamp": 9, "chair": 10} == stocks(sessions)


def test_rehearsal_keeps_none_of_it(sessions, store):
    """What the handler of a dead letter would do is shown, and rolled back."""
    registry, is_mended = Registry(), []

    @registry.handles(Sell)
    def sell(command):
        with UnitOfWork(lambda: session_in(current_transaction()), Product) as work:
            work.session.get_one(Product, command.sku).sell()
            work.commit()
        if not is_mended:
            raise ConnectionError
        return work.events

    registry.register(Sold, lambda _: None)
    store.send(Sell(sku="lamp"))
    Worker(store, registry, retry=Retry(attempts=1), **QUIET).run(until_idle=True)
    is_mended.append(True)

    would_send = rehearse(store, store.dead()[0].id, registry)

    assert ["lamp"] == skus(would_send)
    assert 10 == stocks(sessions)["lamp"]


def test_session_of_a_transaction_that_is_over_is_refused(store):
    """A handler that keeps one writes into nobody else's transaction."""
    with store.transaction() as transaction:
        pass

    with pytest.raises(DispatchError, match="it is over"):
        session_in(transaction)
