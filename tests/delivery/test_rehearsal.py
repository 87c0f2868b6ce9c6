"""A rehearsal: the handler that failed runs as it would, and nothing of that is kept."""

import asyncio

import pytest

from messagebus import Command, Event, Registry, current_envelope
from messagebus.delivery import Retry, Worker, acurrent_transaction, current_transaction, open_store
from messagebus.delivery.rehearsal import rehearse
from messagebus.envelope import Envelope
from messagebus.errors import ConfigurationError, ConflictError, HandlerError, UnknownMessageError


class Pay(Command):
    amount: int = 1


class Paid(Event):
    amount: int


class Booked(Event):
    amount: int


class Broken(Exception):
    """What handlers raise while they are broken."""


class Till:
    """Handlers of `Paid`, of which `book` fails as long as the till is broken."""

    def __init__(self):
        self.is_broken = True
        self.rung = 0
        self.seen = []

    def ring(self, event):
        self.rung += 1

    def fail(self):
        if self.is_broken:
            raise Broken


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path):
    url = f"sqlite:///{tmp_path}/bus.db" if request.param == "file" else "memory://"
    store = open_store(url)
    store_of_app(store)
    yield store
    store.close()


def store_of_app(store):
    with store.transaction() as transaction:
        transaction.execute("CREATE TABLE book(amount integer)")


def booked(store):
    with store.transaction() as transaction:
        return transaction.execute("SELECT amount FROM book")


def die(store, message, handler, **options):
    """Return a registry, a till that works now, and the id of the dead letter it left while it was broken."""
    registry, till = Registry(), Till()
    registry.register(Booked)

    def ring(event):
        till.ring(event)

    def book(event):
        till.fail()
        till.seen.append(current_envelope())
        return handler(event)

    async def abook(event):
        till.fail()
        return await handler(event)

    is_async = asyncio.iscoroutinefunction(handler)
    registry.register(Paid, ring)
    registry.register(Paid, abook if is_async else book)
    store.send(message, **options)
    Worker(store, registry, retry=Retry(attempts=1), log_level="disabled", error_log_level="disabled").run(
        until_idle=True
    )
    till.is_broken = False
    (letter,) = store.dead()
    return registry, till, letter.id


def sends(event):
    """Write and send in every way there is."""
    transaction = current_transaction()
    transaction.execute("INSERT INTO book VALUES (:amount)", {"amount": event.amount})
    transaction.send(Booked(amount=1))
    yield Booked(amount=2)
    yield Booked(amount=3)


def test_returns_what_the_handler_would_send(store):
    """What goes through the transaction is stored first, and so it comes first."""
    registry, _, id = die(store, Paid(amount=7), sends)

    sent = rehearse(store, id, registry)

    assert [Booked(amount=1), Booked(amount=2), Booked(amount=3)] == sent


def test_returns_what_the_handler_hands_to_the_store(store):
    """`store.send` in a handler waits for its end (D3)."""
    registry, _, id = die(store, Paid(amount=7), lambda event: store.send(Booked(amount=event.amount)) and None)

    assert [Booked(amount=7)] == rehearse(store, id, registry)
    assert 0 == store.stats().due


def test_keeps_nothing(store):
    """The rows of the application, the messages and the dead letter are as they were."""
    registry, _, id = die(store, Paid(amount=7), sends)
    before = store.stats(), store.dead()

    rehearse(store, id, registry)

    assert before == (store.stats(), store.dead())
    assert [] == booked(store)


def test_runs_that_handler_only(store):
    """Its sibling has succeeded (D4)."""
    registry, till, id = die(store, Paid(amount=7), sends)

    rehearse(store, id, registry)

    assert 1 == till.rung


def test_the_handler_finds_its_envelope(store):
    """With the ids and headers it was sent with."""
    paid = Paid(amount=7)
    envelope = Envelope(paid, id="p-1", correlation_id="c-1", causation_id="b-1", headers={"source": "/tests"})
    registry, till, id = die(store, paid, lambda event: None, envelope=envelope)

    rehearse(store, id, registry)

    (seen,) = till.seen
    assert ("p-1", "c-1", "b-1", {"source": "/tests"}) == (
        seen.id,
        seen.correlation_id,
        seen.causation_id,
        seen.headers,
    )


def test_another_message_may_take_its_place(store):
    """The stored one stays."""
    registry, _, id = die(store, Paid(amount=7), lambda event: Booked(amount=event.amount))

    assert [Booked(amount=8)] == rehearse(store, id, registry, message=Paid(amount=8))
    assert [Booked(amount=7)] == rehearse(store, id, registry)


def test_a_message_of_another_type_may_not(store):
    """As in `retry`."""
    registry, _, id = die(store, Paid(amount=7), sends)

    with pytest.raises(ConflictError, match="dead letter id"):
        rehearse(store, id, registry, message=Booked(amount=8))


def test_what_the_handler_raises_comes_out_as_it_is(store):
    """And its rows are rolled back."""

    def writes_and_fails(event):
        list(sends(event))
        raise Broken("again")

    registry, _, id = die(store, Paid(amount=7), writes_and_fails)

    with pytest.raises(Broken, match="again"):
        rehearse(store, id, registry)

    assert [] == booked(store)
    assert (1, 0) == (store.stats().dead, store.stats().due)


def test_async_handlers_run_on_a_loop_of_their_own(store):
    """With the transaction they wait for."""

    async def asends(event):
        transaction = await acurrent_transaction()
        transaction.execute("INSERT INTO book VALUES (:amount)", {"amount": event.amount})
        await store.asend(Booked(amount=1))
        return Booked(amount=2)

    registry, _, id = die(store, Paid(amount=7), asends)

    assert [Booked(amount=1), Booked(amount=2)] == rehearse(store, id, registry)
    assert [] == booked(store)


def test_what_could_not_be_dispatched_runs_with_all_its_handlers(store):
    """A dead letter without a handler is of the message: its type was not known."""
    empty, registry = Registry(), Registry()
    registry.register(Pay, lambda command: Paid(amount=command.amount))
    registry.register(Paid)
    store.send(Pay(amount=5))
    Worker(store, empty, log_level="disabled", error_log_level="disabled").run(until_idle=True)
    (letter,) = store.dead()

    assert [Paid(amount=5)] == rehearse(store, letter.id, registry)
    with pytest.raises(UnknownMessageError):
        rehearse(store, letter.id, empty)


def test_an_unknown_dead_letter_is_refused(store):
    """Somebody may have decided about it."""
    with pytest.raises(ConfigurationError, match="there is none with the id 99"):
        rehearse(store, 99, Registry())


def test_a_handler_that_is_not_there_any_more_is_refused(store):
    """It cannot be run."""
    _, _, id = die(store, Paid(amount=7), sends)
    registry = Registry()
    registry.register(Paid, print)

    with pytest.raises(HandlerError, match="no handler of Paid has this name any more"):
        rehearse(store, id, registry)
