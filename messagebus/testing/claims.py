"""Laws of claiming: in order, one worker at a time, and back again when the worker is gone."""

from collections import Counter
from collections.abc import Callable
from threading import Thread

from messagebus.delivery.entries import Settlement, Stats
from messagebus.delivery.store import Store
from messagebus.testing.clock import Clock
from messagebus.testing.laws import LEASE, Laws, at_once, dies, end, finish, outcome, take, take_one
from messagebus.testing.shop import PlaceOrder, order_ids, orders

__all__ = ["ClaimLaws", "LeaseLaws"]

# Times are kept in milliseconds.
MOMENT = 0.001


class ClaimLaws(Laws):
    """What `claim`, `release`, `stats` and `next_due` promise."""

    def test_claims_in_the_order_of_sending(self, store: Store) -> None:
        """[D2] First in, first out, and at most as many as asked for."""
        store.send_many(orders("o-1", "o-2", "o-3", "o-4", "o-5"))

        assert ["o-1", "o-2"] == order_ids(take(store, limit=2))
        assert ["o-3", "o-4"] == order_ids(take(store, limit=2))
        assert ["o-5"] == order_ids(take(store, limit=2))

    def test_order_is_that_of_due_times(self, store: Store, clock: Clock) -> None:
        """[D7] What was due first comes first, whenever it was sent; among equals, what was sent first."""
        store.send_many(orders("o-1", "o-2"), delay=20)
        store.send_many(orders("o-3"), delay=10)
        store.send_many(orders("o-4"), delay=20)
        clock.advance(60)

        assert ["o-3", "o-1", "o-2", "o-4"] == order_ids(take(store))

    def test_nothing_due_is_an_empty_claim(self, store: Store) -> None:
        """[D2] A worker asks again and again."""
        store.send(PlaceOrder(order_id="o-1"), delay=60)

        assert () == take(store)

    def test_claimed_message_is_one_workers(self, store: Store, rival: Store, clock: Clock) -> None:
        """[D6] Nobody else gets it as long as the lease holds."""
        store.send_many(orders("o-1", "o-2", "o-3"))

        mine, others = take(store, limit=2), take(rival)

        clock.advance(LEASE - MOMENT)
        assert (["o-1", "o-2"], ["o-3"]) == (order_ids(mine), order_ids(others))
        assert ((), ()) == (take(store), take(rival))

    def test_every_claim_has_a_token_of_its_own(self, store: Store) -> None:
        """[D6] The fence tells even two claims of one worker apart."""
        store.send_many(orders(*map(str, range(20))))

        tokens = [store.claim(1, LEASE).token for _ in range(20)]

        assert 20 == len({*tokens})

    def test_threads_never_claim_the_same(self, store: Store, another: Callable[[], Store]) -> None:
        """[D6] However many claim at once, each message is claimed once, and none is forgotten."""
        wanted = [f"o-{number}" for number in range(400)]
        store.send_many(orders(*wanted))
        stores = [store, store, *([another(), another()] if self.is_shared else [store, store])]

        def claim_all(source: Store) -> list[str]:
            got: list[str] = []
            while claimed := take(source, limit=7):
                got += order_ids(claimed)
            return got

        got = at_once(*[lambda source=source: claim_all(source) for source in stores])

        assert Counter(wanted) == Counter(order_id for share in got for order_id in share)

    # Giving back

    def test_released_message_is_due_at_once(self, store: Store) -> None:
        """[D10] A worker that stops gives back what it has not begun; that was no attempt."""
        store.send_many(orders("o-1", "o-2", "o-3"))
        claim = store.claim(100, LEASE)

        store.release(claim.token, [message.seq for message in claim.messages[1:]])

        again = take(store)
        assert ["o-2", "o-3"] == order_ids(again)
        assert [1, 1] == [message.attempt for message in again]

    def test_release_keeps_earlier_attempts(self, store: Store, clock: Clock) -> None:
        """[D4] A crash stays counted."""
        store.send(PlaceOrder(order_id="o-1"))
        take(store)
        clock.advance(LEASE + MOMENT)
        token, message = take_one(store)

        store.release(token, [message.seq])

        assert [2] == [message.attempt for message in take(store)]

    def test_release_keeps_what_was_settled(self, store: Store, clock: Clock) -> None:
        """[D4] A handler that succeeded does not run again because somebody gave the rest back."""
        store.send(PlaceOrder(order_id="o-1"))
        token, message = take_one(store)
        end(store, token, message, outcome("done", "a"), outcome("retry", "b", due=clock() + 5))
        clock.advance(5)
        token, message = take_one(store)

        store.release(token, [message.seq])

        _, again = take_one(store)
        assert {"a": "done", "b": "retry"} == {name: one.state for name, one in again.outcomes.items()}

    # Looking

    def test_stats_count_each_message_once(self, store: Store, clock: Clock) -> None:
        """[D7] One message is due, delayed, in flight, dead or finished."""
        store.send(PlaceOrder(order_id="finished"))
        finish(store)
        store.send(PlaceOrder(order_id="dead"))
        dies(store)
        store.send(PlaceOrder(order_id="in flight"))
        take(store, lease=600)
        store.send(PlaceOrder(order_id="delayed"), delay=600)
        store.send_many(orders("due", "due"), key="one")
        clock.advance(90)

        assert Stats(due=2, delayed=1, in_flight=1, dead=1, finished=1, oldest_due=90.0) == store.stats()

    def test_stats_of_an_empty_store_are_nothing(self, store: Store) -> None:
        """[D7] No message, no lag."""
        assert Stats(due=0, delayed=0, in_flight=0, dead=0, finished=0, oldest_due=0.0) == store.stats()

    def test_next_due_is_when_a_worker_is_needed(self, store: Store, clock: Clock) -> None:
        """[D7] Nobody has to ask again and again for what is due in an hour."""
        assert store.next_due() is None

        store.send(PlaceOrder(order_id="o-1"), delay=3_600)
        assert clock() + 3_600 == store.next_due()

        store.send(PlaceOrder(order_id="o-2"), delay=60)
        assert clock() + 60 == store.next_due()

        clock.advance(60)
        finish(store)
        assert clock() + 3_540 == store.next_due()

    def test_finished_and_dead_messages_are_due_never(self, store: Store) -> None:
        """[D4] A worker sleeps beside them."""
        store.send(PlaceOrder(order_id="o-1"))
        finish(store)
        store.send(PlaceOrder(order_id="o-2"))
        dies(store)

        assert store.next_due() is None

    def test_wait_ends_when_something_was_sent(self, store: Store) -> None:
        """[D2] Also when it was sent between the look and the wait: this test would take ten minutes."""
        assert () == take(store)
        store.send(PlaceOrder(order_id="o-1"))

        store.wait(600)

        assert ["o-1"] == order_ids(take(store))

    def test_wait_ends_when_another_sent_something(self, store: Store, rival: Store) -> None:
        """[D2] A worker need not be in the process that sends: this test would take ten minutes."""
        assert () == take(store)

        at_once(lambda: store.wait(600), lambda: rival.send(PlaceOrder(order_id="o-1")))

        assert ["o-1"] == order_ids(take(store))

    def test_wait_ends_with_its_time(self, store: Store) -> None:
        """[D10] Nothing sent, nothing to do."""
        store.wait(0)
        store.wait(0.01)

        assert () == take(store)


class LeaseLaws(Laws):
    """What becomes of the messages of a worker that crashed, or was too slow."""

    def test_message_comes_back_after_the_lease(self, store: Store, clock: Clock) -> None:
        """[D2] Its worker is taken for dead; not a moment earlier."""
        sent = store.send(PlaceOrder(order_id="o-1"))
        take(store)

        clock.advance(LEASE - MOMENT)
        assert () == take(store)

        clock.advance(2 * MOMENT)
        assert [sent] == [message.id for message in take(store)]

    def test_crashes_are_counted(self, store: Store, clock: Clock) -> None:
        """[D4] So that a message that kills its worker becomes a dead letter in the end."""
        store.send(PlaceOrder(order_id="o-1"))
        attempts = []

        for _ in range(5):
            attempts += [message.attempt for message in take(store)]
            clock.advance(LEASE + MOMENT)

        assert [1, 2, 3, 4, 5] == attempts

    def test_settling_begins_a_new_count(self, store: Store, clock: Clock) -> None:
        """[D4] Attempts that are told by outcomes are not counted twice."""
        store.send(PlaceOrder(order_id="o-1"))
        take(store)
        clock.advance(LEASE + MOMENT)
        token, message = take_one(store)
        end(store, token, message, outcome("retry", attempts=2, due=clock()))

        _, again = take_one(store)

        assert (2, 1) == (message.attempt, again.attempt)
        assert [2] == [one.attempts for one in again.outcomes.values()]

    def test_suspects_are_claimed_alone(self, store: Store, clock: Clock) -> None:
        """[D4] One of them killed the worker; it must not use up the attempts of the others."""
        store.send_many(orders("o-1", "o-2", "o-3"))
        take(store)
        clock.advance(LEASE + MOMENT)
        store.send_many(orders("o-4", "o-5"))

        claims = [order_ids(take(store)) for _ in range(4)]

        assert [["o-1"], ["o-2"], ["o-3"], ["o-4", "o-5"]] == claims

    def test_suspect_that_was_settled_is_none_any_more(self, store: Store, clock: Clock) -> None:
        """[D4] Its worker survived."""
        store.send_many(orders("o-1", "o-2"))
        take(store)
        clock.advance(LEASE + MOMENT)
        for _ in range(2):
            claim = store.claim(100, LEASE)
            end(store, claim.token, claim.messages[0], outcome("retry", due=clock() + 60))
        clock.advance(60)

        assert ["o-1", "o-2"] == order_ids(take(store))

    def test_extended_lease_holds_longer(self, store: Store, clock: Clock) -> None:
        """[D6] A heartbeat keeps the message of a slow handler where it is: so long from now, not from before."""
        store.send_many(orders("o-1", "o-2"))
        tokens = [store.claim(1, LEASE).token for _ in range(2)]
        clock.advance(LEASE - 1)

        store.extend(tokens, 2 * LEASE)

        clock.advance(2 * LEASE - MOMENT)
        assert () == take(store)
        clock.advance(2 * MOMENT)
        assert ["o-1"] == order_ids(take(store))

    def test_extended_lease_is_no_attempt(self, store: Store, clock: Clock) -> None:
        """[D4] Only a claim is."""
        store.send(PlaceOrder(order_id="o-1"))
        token, _ = take_one(store)
        store.extend([token], LEASE)
        clock.advance(LEASE + MOMENT)

        assert [2] == [message.attempt for message in take(store)]

    # The fence: a worker that lost its lease has nothing to say

    def test_lost_lease_cannot_be_extended(self, store: Store, clock: Clock) -> None:
        """[D6] The message is another worker's now, for as long as that one asked for."""
        store.send(PlaceOrder(order_id="o-1"))
        stale, _ = take_one(store)
        clock.advance(LEASE + MOMENT)
        take_one(store)

        store.extend([stale, "unknown"], 100 * LEASE)

        clock.advance(LEASE + MOMENT)
        assert [3] == [message.attempt for message in take(store)]

    def test_lost_message_cannot_be_released(self, store: Store, clock: Clock) -> None:
        """[D6] It would be handled by two workers."""
        store.send(PlaceOrder(order_id="o-1"))
        stale, message = take_one(store)
        clock.advance(LEASE + MOMENT)
        take_one(store)

        store.release(stale, [message.seq])
        store.release("unknown", [message.seq])

        assert () == take(store)

    def test_lost_message_cannot_be_settled(self, store: Store, clock: Clock) -> None:
        """[D6] Nothing of what the slow worker says is stored, and it is told so; the new one is heard."""
        sent = store.send(PlaceOrder(order_id="o-1"))
        stale, message = take_one(store)
        clock.advance(LEASE + MOMENT)
        token, again = take_one(store)

        assert {message.seq} == end(store, stale, message, outcome("dead"), results=b'["ghost"]')
        assert [] == store.dead()
        assert set() == end(store, token, again)
        assert b"[]" == store.result(sent)

    def test_settled_message_cannot_be_settled_again(self, store: Store) -> None:
        """[D6] The lease ended with the first settlement."""
        store.send(PlaceOrder(order_id="o-1"))
        token, message = take_one(store)
        end(store, token, message)

        assert {message.seq} == end(store, token, message, outcome("dead"))
        assert [] == store.dead()

    def test_owner_knows_that_it_owns(self, store: Store, clock: Clock) -> None:
        """[D6] A handler's own rows are written only by the one who holds the lease."""
        store.send_many(orders("o-1", "o-2"))
        claim = store.claim(1, LEASE)
        message = claim.messages[0]

        def owns(token: str, seq: int) -> bool:
            with store.transaction() as transaction:
                return store.owns(token, seq, transaction)

        assert [True, False, False] == [
            owns(claim.token, message.seq),
            owns("unknown", message.seq),
            owns(claim.token, message.seq + 1),
        ]
        clock.advance(LEASE + MOMENT)
        (again,) = take(store, limit=1)
        assert (message.seq, False) == (again.seq, owns(claim.token, message.seq))

    def test_owned_lease_holds_until_the_transaction_ends(self, store: Store, rival: Store, clock: Clock) -> None:
        """[D6] What was asked at the beginning is still true at the commit, however late that is."""
        store.send(PlaceOrder(order_id="o-1"))
        token, message = take_one(store)
        got: list[str] = []

        with store.transaction() as transaction:
            assert store.owns(token, message.seq, transaction)
            clock.advance(LEASE + MOMENT)
            thief = Thread(target=lambda: got.extend(order_ids(take(rival))))
            thief.start()
            thief.join(0.2)  # Some stores make it wait, and others give it nothing.
            settled = store.settle(token, [Settlement(message.seq, [outcome()])], transaction=transaction)
        thief.join()

        assert (set(), []) == (settled, got)
