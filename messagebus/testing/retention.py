"""Laws of keeping: what is forgotten, and what is there after a restart."""

from collections.abc import Callable

from messagebus.delivery.store import Store
from messagebus.testing.clock import Clock
from messagebus.testing.laws import LEASE, Laws, dies, end, finish, outcome, take, take_one
from messagebus.testing.shop import PlaceOrder, order_ids, orders

__all__ = ["PruningLaws", "RestartLaws"]


class PruningLaws(Laws):
    """What `prune` promises."""

    def test_finished_long_ago_is_forgotten(self, store: Store, clock: Clock) -> None:
        """[D12] With its history; what was finished since is kept."""
        old = store.send(PlaceOrder(order_id="old"))
        finish(store)
        clock.advance(60)
        new = store.send(PlaceOrder(order_id="new"))
        finish(store, results=b'["kept"]')
        clock.advance(60)

        assert [1, 0] == [store.prune(90) for _ in range(2)]

        assert ([], 1, 1) == (store.tree(old), len(store.tree(new)), store.stats().finished)
        assert b'["kept"]' == store.result(new)

    def test_age_is_counted_from_the_end(self, store: Store, clock: Clock) -> None:
        """[D12] A message that waited for a year has just been finished."""
        store.send(PlaceOrder(order_id="o-1"))
        clock.advance(600)
        finish(store)

        assert 0 == store.prune(60)

    def test_open_messages_are_never_forgotten(self, store: Store, clock: Clock) -> None:
        """[D2] However old they are: due, delayed, in flight, to be tried again."""
        store.send(PlaceOrder(order_id="in flight"))
        token, in_flight = take_one(store, lease=10_000)
        store.send(PlaceOrder(order_id="retry"))
        failed, message = take_one(store)
        end(store, failed, message, outcome("done", "a"), outcome("retry", "b", due=clock() + 10_000))
        store.send(PlaceOrder(order_id="delayed"), delay=10_000)
        store.send(PlaceOrder(order_id="due"))
        clock.advance(5_000)

        assert 0 == store.prune(0)

        assert ["due"] == order_ids(take(store))
        assert set() == end(store, token, in_flight)
        clock.advance(5_000)
        assert {"retry", "delayed"} < {*order_ids([*take(store), *take(store)])}

    def test_dead_letters_are_never_forgotten(self, store: Store, clock: Clock) -> None:
        """[D4] Somebody has to decide; also about one that parks nothing."""
        for parks in [True, False]:
            store.send(PlaceOrder(order_id="o-1"))
            dies(store, parks=parks)
        clock.advance(5_000)

        assert 0 == store.prune(60)

        assert [True, True] == [store.drop(letter.id) for letter in store.dead()]
        clock.advance(5_000)
        assert 2 == store.prune(60)

    def test_cause_may_be_forgotten_before_what_it_led_to(self, store: Store, clock: Clock) -> None:
        """[D12] The rest of the history is still there."""
        message = PlaceOrder(order_id="o-1")
        cause = store.send(message)
        token, claimed = take_one(store)
        end(store, token, claimed)
        clock.advance(60)
        assert 1 == store.prune(30)

        assert [] == store.tree(cause)
        assert cause != store.send(message)


class RestartLaws(Laws):
    """What `close`, and opening again, promise."""

    def test_store_tells_the_time_by_its_clock(self, store: Store, clock: Clock) -> None:
        """[D6] Workers reckon with the clock of the store, which tests can move."""
        clock.advance(60)

        assert clock() == store.clock()

    def test_closing_twice_is_closing(self, store: Store) -> None:
        """[D11] Whoever is in doubt closes."""
        store.send(PlaceOrder(order_id="o-1"))

        store.close()
        store.close()

    def test_everything_is_there_after_a_restart(
        self, store: Store, clock: Clock, reopened: Callable[[], Store]
    ) -> None:
        """[D1] Messages and their keys, outcomes, dead letters, results and schedules."""
        finished = store.send(PlaceOrder(order_id="finished"), dedup="order-1")
        finish(store, results=b'["kept"]')
        store.send(PlaceOrder(order_id="dead"), key="parked")
        dies(store)
        store.send(PlaceOrder(order_id="behind"), key="parked")
        store.send(PlaceOrder(order_id="failed"))
        token, message = take_one(store)
        end(store, token, message, outcome("done", "a"), outcome("retry", "b", due=clock() + 60))
        store.send(PlaceOrder(order_id="o-1"))
        store.every("0 3 * * *", PlaceOrder(order_id="nightly"), name="nightly")
        before = (store.dead(), store.waiting(), store.schedules(), store.stats(), store.tree(finished))

        again = reopened()

        assert before == (again.dead(), again.waiting(), again.schedules(), again.stats(), again.tree(finished))
        assert b'["kept"]' == again.result(finished)
        assert finished == again.send(PlaceOrder(order_id="finished"), dedup="order-1")
        assert ["o-1"] == order_ids([finish(again)])
        clock.advance(60)
        _, message = take_one(again)
        assert {"a": "done", "b": "retry"} == {name: one.state for name, one in message.outcomes.items()}

    def test_lease_outlives_its_worker(self, store: Store, clock: Clock, reopened: Callable[[], Store]) -> None:
        """[D2] After a restart the message is still claimed, until its lease ends, and it was one attempt."""
        store.send(PlaceOrder(order_id="o-1"))
        take(store)

        again = reopened()

        assert () == take(again)
        clock.advance(LEASE + 1)
        assert [2] == [message.attempt for message in take(again)]

    def test_two_stores_see_the_same(self, store: Store, rival: Store) -> None:
        """[D11] What one sent, the other one can see, change and handle."""
        first, second = store.send_many(orders("o-1", "o-2"))

        assert rival.cancel(first)
        token, message = take_one(rival)
        assert set() == end(store, token, message, results=b'["a"]')

        assert b'["a"]' == rival.result(second)
        assert store.stats() == rival.stats()
