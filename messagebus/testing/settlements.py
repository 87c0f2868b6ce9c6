"""Laws of settling: what became of each handler, and what it sent, in one transaction."""

from collections.abc import Callable

import pytest

from messagebus.delivery.entries import Settlement
from messagebus.delivery.store import Store
from messagebus.testing.clock import Clock
from messagebus.testing.laws import FAILURE, LEASE, Laws, end, finish, outcome, sending, take, take_one
from messagebus.testing.shop import OrderPlaced, PlaceOrder, order_ids, orders

__all__ = ["SettlementLaws"]


class SettlementLaws(Laws):
    """What `settle` promises."""

    def test_finished_message_never_comes_back(self, store: Store, clock: Clock) -> None:
        """[D2] Handled and acknowledged is over."""
        store.send(PlaceOrder(order_id="o-1"))
        finish(store)

        clock.advance(100 * LEASE)

        assert () == take(store)
        assert 1 == store.stats().finished

    def test_event_without_handlers_is_finished(self, store: Store) -> None:
        """[D9] Nothing to do is done."""
        store.send(OrderPlaced(order_id="o-1"))
        claim = store.claim(100, LEASE)

        lost = store.settle(claim.token, [Settlement(claim.messages[0].seq, [])])

        assert (set(), 1) == (lost, store.stats().finished)

    def test_batch_is_settled_at_once(self, store: Store, clock: Clock) -> None:
        """[D2] Each message as its own settlement says, whatever the others say."""
        store.send_many(orders("done", "retry", "dead", "not settled", "none"))
        claim = store.claim(100, LEASE)
        seqs = [message.seq for message in claim.messages]

        lost = store.settle(
            claim.token,
            [
                Settlement(seqs[0], [outcome("done")]),
                Settlement(seqs[1], [outcome("retry", due=clock() + 5)]),
                Settlement(seqs[2], [outcome("dead")]),
                Settlement(seqs[4], []),
            ],
        )

        stats = store.stats()
        assert set() == lost
        assert (2, 1, 1, 1) == (stats.finished, stats.delayed, stats.dead, stats.in_flight)

    def test_large_batch_is_settled_at_once(self, store: Store) -> None:
        """[D2] Also with more messages, and more sent, than a statement may have parameters."""
        store.send_many(orders(*map(str, range(1_500))))
        claim = store.claim(2_000, LEASE)
        settlements = [
            Settlement(cause.seq, [outcome()], [sending(OrderPlaced(order_id=order_id), cause)])
            for cause, order_id in zip(claim.messages, order_ids(claim.messages), strict=True)
        ]

        assert set() == store.settle(claim.token, settlements)
        assert list(map(str, range(1_500))) == order_ids(take(store, limit=2_000))

    # Another try

    def test_failed_handler_is_tried_again_when_due(self, store: Store, clock: Clock) -> None:
        """[D4] Not before; and then its worker knows what happened so far."""
        store.send(PlaceOrder(order_id="o-1"))
        token, message = take_one(store)
        failed = outcome("retry", attempts=3, due=clock() + 60)
        end(store, token, message, failed)

        clock.advance(59.999)
        assert () == take(store)
        clock.advance(0.001)

        _, again = take_one(store)
        assert [failed.handler] == list(again.outcomes)
        kept = again.outcomes[failed.handler]
        assert ("retry", 3, 1.5, FAILURE) == (kept.state, kept.attempts, kept.duration_ms, kept.failure)

    def test_earliest_of_several_tries_counts(self, store: Store, clock: Clock) -> None:
        """[D4] Each handler has a wait of its own."""
        store.send(OrderPlaced(order_id="o-1"))
        token, message = take_one(store)

        end(store, token, message, outcome("retry", "a", due=clock() + 60), outcome("retry", "b", due=clock() + 20))

        clock.advance(20)
        _, again = take_one(store)
        due = {name: one.due for name, one in again.outcomes.items()}
        assert {"a": clock() + 40, "b": clock()} == due

    def test_handler_that_succeeded_stays_done(self, store: Store, clock: Clock) -> None:
        """[D4] Outcomes are kept by handler: what is settled later replaces only what it names."""
        store.send(OrderPlaced(order_id="o-1"))
        token, message = take_one(store)
        end(store, token, message, outcome("done", "a"), outcome("retry", "b", due=clock()), outcome("done", "c"))
        token, message = take_one(store)
        end(store, token, message, outcome("retry", "b", attempts=2, due=clock()))

        token, message = take_one(store)

        states = {name: (one.state, one.attempts) for name, one in message.outcomes.items()}
        assert {"a": ("done", 1), "b": ("retry", 2), "c": ("done", 1)} == states
        assert set() == end(store, token, message, outcome("done", "b", attempts=3))
        assert 1 == store.stats().finished

    def test_try_that_was_due_in_the_past_is_due_now(self, store: Store, clock: Clock) -> None:
        """[D4] A wait of nothing is no wait."""
        store.send(PlaceOrder(order_id="o-1"))
        token, message = take_one(store)

        end(store, token, message, outcome("retry", due=clock() - 60))

        assert [1] == [message.attempt for message in take(store)]

    # What handlers sent

    def test_sent_by_a_handler_is_stored_with_its_acknowledgement(self, store: Store, clock: Clock) -> None:
        """[D3] In the order in which it was sent, with where it came from."""
        store.send(PlaceOrder(order_id="o-1"))
        token, cause = take_one(store)
        events = [OrderPlaced(order_id="a"), OrderPlaced(order_id="b")]

        end(store, token, cause, sends=[sending(event, cause) for event in events])

        claimed = take(store)
        assert ["a", "b"] == order_ids(claimed)
        assert [(cause.id, cause.id)] * 2 == [(one.causation_id, one.correlation_id) for one in claimed]
        assert [clock()] * 2 == [one.sent_at for one in claimed]

    def test_sent_by_a_handler_may_wait_and_have_keys(self, store: Store, clock: Clock) -> None:
        """[D7] As with `send`."""
        store.send(PlaceOrder(order_id="o-1"))
        token, cause = take_one(store)
        event = OrderPlaced(order_id="a")

        sends = [
            sending(event, cause, delay=60.0, key="customer-7"),
            sending(event, cause, at=clock.time(90), dedup="once"),
            sending(event, cause, dedup="once"),
        ]
        end(store, token, cause, sends=sends)

        waiting = [(one.key, one.due) for one in store.waiting()]
        assert [("customer-7", clock.time(60)), (None, clock.time(90))] == waiting

    def test_nothing_is_sent_by_a_worker_that_lost_its_lease(self, store: Store, clock: Clock) -> None:
        """[D3] No ghosts: those who hold a lease settle, and send, in the same batch."""
        store.send_many(orders("o-1", "o-2"))
        claim = store.claim(100, LEASE)
        first, second = claim.messages
        clock.advance(LEASE + 1)
        assert ["o-1"] == order_ids(take(store))

        lost = store.settle(
            claim.token,
            [
                Settlement(first.seq, [outcome()], [sending(OrderPlaced(order_id="ghost"), first)]),
                Settlement(second.seq, [outcome()], [sending(OrderPlaced(order_id="real"), second)]),
            ],
        )

        assert {first.seq} == lost
        assert ["real"] == order_ids(take(store))
        assert 1 == store.stats().finished

    def test_failed_handler_sends_what_others_sent(self, store: Store, clock: Clock) -> None:
        """[D3] The handlers of one message are settled together, and each has its own outcome."""
        store.send(OrderPlaced(order_id="o-1"))
        token, cause = take_one(store)
        outcomes = [outcome("done", "a"), outcome("retry", "b", due=clock() + 60)]

        end(store, token, cause, *outcomes, sends=[sending(PlaceOrder(order_id="of a"), cause)])

        assert ["of a"] == order_ids(take(store))

    # With the next claim

    def test_settling_transaction_claims_what_was_sent_in_it(self, store: Store) -> None:
        """[D3] A worker that settles and claims at once goes on with what its handlers have sent."""
        store.send(PlaceOrder(order_id="o-1"))
        token, message = take_one(store)
        settlement = Settlement(message.seq, [outcome()], [sending(OrderPlaced(order_id="o-2"), message)])

        with store.transaction() as transaction:
            store.settle(token, [settlement], transaction=transaction)
            claim = store.claim(100, LEASE, transaction=transaction)

        assert (["o-2"], ()) == (order_ids(claim.messages), take(store))
        assert set() == end(store, claim.token, claim.messages[0])

    def test_claim_is_rolled_back_with_its_transaction(self, store: Store) -> None:
        """[D6] What was not committed is nobody's: it is due, and no attempt was counted."""
        store.send(PlaceOrder(order_id="o-1"))

        with pytest.raises(LookupError), store.transaction() as transaction:
            claim = store.claim(100, LEASE, transaction=transaction)
            assert ["o-1"] == order_ids(claim.messages)
            raise LookupError

        _, message = take_one(store)
        assert ("o-1", 1) == (order_ids([message])[0], message.attempt)

    # With the handler's own rows

    def test_rows_and_acknowledgement_are_one(self, store: Store, rows: Callable[[], list[str]]) -> None:
        """[D3] What a handler wrote is committed with its settlement."""
        store.send(PlaceOrder(order_id="o-1"))
        token, message = take_one(store)

        with store.transaction() as transaction:
            transaction.execute("INSERT INTO invoice (id) VALUES (:id)", {"id": "i-1"})
            lost = store.settle(token, [Settlement(message.seq, [outcome()])], transaction=transaction)

        assert (set(), ["i-1"], 1) == (lost, rows(), store.stats().finished)

    def test_rows_and_acknowledgement_are_rolled_back_together(
        self, store: Store, clock: Clock, rows: Callable[[], list[str]]
    ) -> None:
        """[D3] Then the message is still the worker's, and comes back when the lease ends."""
        store.send(PlaceOrder(order_id="o-1"))
        token, message = take_one(store)
        settlement = Settlement(message.seq, [outcome()], [sending(OrderPlaced(order_id="ghost"), message)])

        with pytest.raises(LookupError), store.transaction() as transaction:
            transaction.execute("INSERT INTO invoice (id) VALUES (:id)", {"id": "i-1"})
            store.settle(token, [settlement], transaction=transaction)
            raise LookupError

        assert ([], 0, 1) == (rows(), store.stats().finished, store.stats().in_flight)
        clock.advance(LEASE + 1)
        assert ["o-1"] == order_ids(take(store))
