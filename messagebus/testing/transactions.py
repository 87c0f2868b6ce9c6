"""Laws of transactions: the application's rows and its messages, together or not at all."""

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import pytest

from messagebus import NotAMessageError, UnwritableMessageError
from messagebus.delivery.entries import Sending, Settlement
from messagebus.delivery.store import WORK, Store, Transaction
from messagebus.envelope import CURRENT, Envelope
from messagebus.errors import ConflictError
from messagebus.testing.clock import Clock
from messagebus.testing.laws import Laws, at_once, finish, outcome, take, take_one
from messagebus.testing.shop import LOG_IN, OrderPlaced, PlaceOrder, order_ids

__all__ = ["TransactionLaws", "WorkLaws"]

INSERT = "INSERT INTO invoice (id) VALUES (:id)"
Rows = Callable[[], list[str]]


class TransactionLaws(Laws):
    """What `transaction` promises."""

    def test_rows_and_messages_are_committed_together(self, store: Store, rows: Rows) -> None:
        """[D3] The outbox: none without the other."""
        with store.transaction() as transaction:
            transaction.execute(INSERT, {"id": "i-1"})
            sent = transaction.send(PlaceOrder(order_id="o-1"))

        assert (["i-1"], [sent]) == (rows(), [message.id for message in take(store)])

    def test_rows_and_messages_are_rolled_back_together(self, store: Store, rows: Rows) -> None:
        """[D3] No ghosts: what happened in a transaction that failed did not happen."""
        with pytest.raises(LookupError, match="no such order"), store.transaction() as transaction:
            transaction.execute(INSERT, {"id": "i-1"})
            transaction.send(PlaceOrder(order_id="ghost"))
            raise LookupError("no such order")

        assert ([], ()) == (rows(), take(store))

    def test_nothing_is_left_of_a_rollback(self, store: Store, rows: Rows) -> None:
        """[D3] Neither for the next transaction."""
        with pytest.raises(LookupError), store.transaction() as transaction:
            transaction.send(PlaceOrder(order_id="ghost"))
            raise LookupError

        with store.transaction() as transaction:
            transaction.send(PlaceOrder(order_id="o-1"))
        store.send(PlaceOrder(order_id="o-2"))

        assert ([], ["o-1", "o-2"]) == (rows(), order_ids(take(store)))

    def test_any_way_out_but_the_end_rolls_back(self, store: Store, rows: Rows) -> None:
        """[D3] Also one that is no error of the application, as when the process is told to stop."""
        with pytest.raises(KeyboardInterrupt), store.transaction() as transaction:
            transaction.execute(INSERT, {"id": "i-1"})
            transaction.send(PlaceOrder(order_id="ghost"))
            raise KeyboardInterrupt

        assert ([], ()) == (rows(), take(store))

    def test_refused_message_is_not_sent(self, store: Store, rows: Rows) -> None:
        """[D1] An application may catch the refusal, and its transaction is as good as before."""
        with store.transaction() as transaction:
            transaction.execute(INSERT, {"id": "i-1"})
            transaction.send(PlaceOrder(order_id="o-1"), dedup="order-1")
            with pytest.raises(UnwritableMessageError):
                transaction.send(LOG_IN)
            with pytest.raises(ConflictError):
                transaction.send(PlaceOrder(order_id="o-2"), dedup="order-1")
            transaction.send(PlaceOrder(order_id="o-3"))

        assert (["i-1"], ["o-1", "o-3"]) == (rows(), order_ids(take(store)))

    def test_send_takes_what_store_send_takes(self, store: Store, clock: Clock) -> None:
        """[D7] Delay, time, key and envelope."""
        message = PlaceOrder(order_id="o-1")
        with store.transaction() as transaction:
            transaction.send(message, delay=60, key="customer-7", envelope=Envelope(message, id="id-1"))
            transaction.send(message, at=clock.time(90))

        first, second = store.waiting()
        assert ("id-1", "customer-7", clock.time(60)) == (first.id, first.key, first.due)
        assert clock.time(90) == second.due

    def test_statements_return_rows(self, store: Store, rows: Rows) -> None:
        """[D3] One mapping of parameters, many of them, or none."""
        with store.transaction() as transaction:
            transaction.execute(INSERT, [{"id": f"i-{number}"} for number in range(3)])
            transaction.execute(INSERT, {"id": "it's"})
            got = transaction.execute("SELECT id, 1 FROM invoice WHERE id <> :id ORDER BY id", {"id": "i-1"})

        assert [("i-0", 1), ("i-2", 1), ("it's", 1)] == [tuple(row) for row in got]
        assert ["i-0", "i-1", "i-2", "it's"] == rows()

    def test_savepoint_rolls_back_what_is_in_it(self, store: Store, rows: Rows) -> None:
        """[D3] The exception passes; what came before and after is kept."""
        with store.transaction() as transaction:
            transaction.execute(INSERT, {"id": "before"})
            transaction.send(PlaceOrder(order_id="before"))
            with pytest.raises(LookupError), transaction.savepoint():
                transaction.execute(INSERT, {"id": "within"})
                transaction.send(PlaceOrder(order_id="within"))
                raise LookupError
            with transaction.savepoint():
                transaction.execute(INSERT, {"id": "later"})
                transaction.send(PlaceOrder(order_id="later"))

        assert (["before", "later"], ["before", "later"]) == (rows(), order_ids(take(store)))

    def test_savepoints_are_nested(self, store: Store, rows: Rows) -> None:
        """[D3] An inner one that succeeded goes with the outer one that failed."""
        with store.transaction() as transaction:
            with pytest.raises(LookupError), transaction.savepoint():
                with transaction.savepoint():
                    transaction.execute(INSERT, {"id": "within"})
                    transaction.send(PlaceOrder(order_id="within"))
                raise LookupError
            transaction.send(PlaceOrder(order_id="outside"))

        assert ([], ["outside"]) == (rows(), order_ids(take(store)))

    def test_transactions_of_threads_are_apart(self, store: Store, rows: Rows) -> None:
        """[D3] What one rolls back is not another's."""

        def write(number: int) -> None:
            with pytest.raises(LookupError) if number % 2 else ExitStack(), store.transaction() as transaction:
                transaction.execute(INSERT, {"id": f"i-{number}"})
                transaction.send(PlaceOrder(order_id=f"i-{number}"))
                if number % 2:
                    raise LookupError

        at_once(*[lambda number=number: write(number) for number in range(8)])

        kept = ["i-0", "i-2", "i-4", "i-6"]
        assert (kept, kept) == (rows(), sorted(order_ids(take(store))))

    def test_failed_statement_passes_as_it_is(self, store: Store, rows: Rows) -> None:
        """[D3] It is the application's; nothing is committed, and the store goes on."""
        with pytest.raises(Exception, match="no_such_table"), store.transaction() as transaction:
            transaction.send(PlaceOrder(order_id="ghost"))
            transaction.execute("INSERT INTO no_such_table (id) VALUES (1)")

        store.send(PlaceOrder(order_id="o-1"))
        assert ([], ["o-1"]) == (rows(), order_ids(take(store)))


class Handling:
    """The work of a worker that runs one handler, without the worker."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.sendings: list[Sending] = []
        self.open = ExitStack()
        self._transaction: Transaction | None = None

    def add(self, sending: Sending) -> None:
        """Keep it until the handler has finished."""
        self.sendings.append(sending)

    def transaction(self) -> Transaction:
        """Open the transaction of the acknowledgement."""
        if self._transaction is None:
            outside = WORK.set(None)
            self._transaction = self.open.enter_context(self.store.transaction())
            WORK.reset(outside)
        return self._transaction

    async def turn(self) -> None:
        """Nobody else writes."""

    def __enter__(self) -> Self:
        token = WORK.set(self)
        self.open.callback(WORK.reset, token)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.open.__exit__(kind, error, at)


class WorkLaws(Laws):
    """What the store does in a handler that a worker runs."""

    def test_sent_in_a_handler_goes_with_its_acknowledgement(self, store: Store) -> None:
        """[D3] Not before; and the message in hand is its cause."""
        store.send(PlaceOrder(order_id="o-1"))
        token, cause = take_one(store)
        with Handling(store) as work:
            before = CURRENT.set(Envelope(PlaceOrder(order_id="o-1"), id=cause.id, correlation_id=cause.correlation_id))
            sent = store.send(OrderPlaced(order_id="a"), key="customer-7")
            sent_too = store.send_many([OrderPlaced(order_id="b")])
            CURRENT.reset(before)
        assert () == take(store)

        store.settle(token, [Settlement(cause.seq, [outcome()], work.sendings)])

        claimed = take(store)
        assert [sent, *sent_too] == [message.id for message in claimed]
        assert ["customer-7", None] == [message.key for message in claimed]
        assert [cause.id] * 2 == [message.causation_id for message in claimed]

    def test_sent_in_a_handler_that_failed_is_not_sent(self, store: Store) -> None:
        """[D3] The worker settles nothing of it."""
        with pytest.raises(LookupError), Handling(store):
            store.send(OrderPlaced(order_id="ghost"))
            raise LookupError

        assert () == take(store)

    def test_what_cannot_be_read_back_is_refused_in_a_handler(self, store: Store) -> None:
        """[D1] At once, so that the handler fails, and not the acknowledgement."""
        with Handling(store) as work:
            with pytest.raises(UnwritableMessageError):
                store.send(LOG_IN)
            with pytest.raises(NotAMessageError):
                store.send(None)  # type: ignore[arg-type]

        assert [] == work.sendings

    def test_transaction_in_a_handler_is_that_of_its_acknowledgement(self, store: Store, rows: Rows) -> None:
        """[D3] Rolled back with it, although the block itself ended well."""
        with pytest.raises(LookupError), Handling(store):
            with store.transaction() as transaction:
                transaction.execute(INSERT, {"id": "i-1"})
                transaction.send(OrderPlaced(order_id="ghost"))
            raise LookupError

        assert ([], ()) == (rows(), take(store))

    def test_transaction_in_a_handler_may_fail_alone(self, store: Store, rows: Rows) -> None:
        """[D3] A handler that catches the error of a block keeps what it did outside."""
        with Handling(store) as work:
            with store.transaction() as transaction:
                transaction.execute(INSERT, {"id": "kept"})
            with pytest.raises(LookupError), store.transaction() as transaction:
                transaction.execute(INSERT, {"id": "lost"})
                transaction.send(OrderPlaced(order_id="ghost"))
                raise LookupError

        assert (["kept"], ()) == (rows(), take(store))
        assert [] == work.sendings

    def test_another_stores_handler_is_no_concern(self, store: Store, rival: Store) -> None:
        """[D3] Two stores cannot commit together: what is sent to the other one is sent."""
        with Handling(store) as work:
            rival.send(OrderPlaced(order_id="o-1"))

        assert [] == work.sendings
        assert ["o-1"] == order_ids([finish(store)])
