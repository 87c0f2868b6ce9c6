"""Messages in a user's own session: committed with its rows, or never sent."""

import asyncio

import pytest

from messagebus import ConfigurationError, DispatchError, Envelope, UnwritableMessageError
from messagebus.delivery import ConflictError, open_store
from messagebus.testing.laws import take
from messagebus.testing.shop import LOG_IN, Confirmation, OrderPlaced, PlaceOrder, order_ids

sqlalchemy = pytest.importorskip("sqlalchemy")

from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker  # noqa: E402

from messagebus.delivery.outbox import send_in  # noqa: E402


class Base(DeclarativeBase):
    pass


class Invoice(Base):
    __tablename__ = "invoice"
    id: Mapped[str] = mapped_column(primary_key=True)


@pytest.fixture
def store(url):
    store = open_store(url)
    yield store
    store.close()


@pytest.fixture
def engine(url, store):
    engine = sqlalchemy.create_engine(url)
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def invoices(engine):
    with Session(engine) as session:
        return [*session.scalars(sqlalchemy.select(Invoice.id).order_by(Invoice.id))]


def test_message_is_sent_with_the_rows(engine, store):
    """[D3] When the session commits, and not before."""
    with Session(engine) as session:
        session.add(Invoice(id="i-1"))
        sent = send_in(session, OrderPlaced(order_id="o-1"), key="customer-7")
        assert () == take(store)
        session.commit()

    (message,) = take(store)
    assert (sent, ["o-1"], "customer-7") == (message.id, order_ids([message]), message.key)
    assert ["i-1"] == invoices(engine)


def test_message_is_rolled_back_with_the_rows(engine, store):
    """[D3] No ghost, not even with the next commit of the same session."""
    with Session(engine) as session:
        session.add(Invoice(id="i-1"))
        send_in(session, OrderPlaced(order_id="ghost"))
        session.rollback()
        session.add(Invoice(id="i-2"))
        session.commit()

    assert (["i-2"], ()) == (invoices(engine), take(store))


def test_savepoint_of_the_session_takes_its_messages_along(engine, store):
    """[D3] A nested transaction is one."""
    if engine.dialect.name == "sqlite":
        pytest.skip("the driver of SQLAlchemy's SQLite begins no transaction for a savepoint unless told to")
    with Session(engine) as session:
        send_in(session, OrderPlaced(order_id="kept"))
        with pytest.raises(LookupError), session.begin_nested():
            send_in(session, OrderPlaced(order_id="ghost"))
            raise LookupError
        session.commit()

    assert ["kept"] == order_ids(take(store))


def test_options_mean_what_they_mean_to_a_store(engine, store):
    """[D7] [D8] Delay, dedup and envelope."""
    message = PlaceOrder(order_id="o-1")
    envelope = Envelope(message, id="m-1", correlation_id="c-1", causation_id="x-1", headers={"source": "shop"})
    with Session(engine) as session:
        first = send_in(session, PlaceOrder(order_id="later"), delay=60, dedup="order-1")
        again = send_in(session, PlaceOrder(order_id="later"), dedup="order-1")
        send_in(session, message, envelope=envelope)
        session.commit()

    (waiting,) = [one for one in store.waiting() if one.id == first]
    (claimed,) = take(store)
    assert first == again
    assert 59 < (waiting.due - waiting.sent_at).total_seconds() < 61
    assert ("m-1", "c-1", "x-1") == (claimed.id, claimed.correlation_id, claimed.causation_id)
    assert {"source": "shop"} == claimed.headers


def test_what_a_store_refuses_is_refused(engine, store):
    """[D1] [D8] At once, and the session can go on."""
    with Session(engine) as session:
        send_in(session, PlaceOrder(order_id="o-1"), dedup="order-1")
        with pytest.raises(ConflictError):
            send_in(session, PlaceOrder(order_id="o-2"), dedup="order-1")
        with pytest.raises(UnwritableMessageError):
            send_in(session, LOG_IN)
        with pytest.raises(DispatchError):
            send_in(session, Confirmation(order_id="o-1"))
        session.commit()

    assert ["o-1"] == order_ids(take(store))


def test_sessions_of_other_kinds_serve_too(engine, store):
    """A scoped session, and a bare connection of SQLAlchemy Core."""
    scoped = scoped_session(sessionmaker(engine))
    send_in(scoped, OrderPlaced(order_id="1"))
    scoped.commit()
    scoped.remove()
    with engine.begin() as connection:
        send_in(connection, OrderPlaced(order_id="2"))

    assert ["1", "2"] == order_ids(take(store))


def test_async_session_serves_too(postgres):
    """By way of its sync self, as SQLAlchemy has it."""
    pytest.importorskip("greenlet")
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine  # noqa: PLC0415 - greenlet is not always there

    url = postgres.fresh()
    store = open_store(url)

    async def send():
        engine = create_async_engine(url)
        async with AsyncSession(engine) as session:
            await session.run_sync(send_in, OrderPlaced(order_id="o-1"))
            await session.commit()
        await engine.dispose()

    asyncio.run(send())

    assert ["o-1"] == order_ids(take(store))
    store.close()


def test_database_of_another_kind_is_refused():
    """[D13] Where there is no store, nothing would ever take the message."""
    connection = sqlalchemy.create_mock_engine("mysql+pymysql://", print)

    class Session:
        def connection(self):
            return connection

    with pytest.raises(ConfigurationError, match="its database is mysql"):
        send_in(Session(), OrderPlaced(order_id="o-1"))
