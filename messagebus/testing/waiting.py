"""Laws of waiting: delays, and what can be done about a message before it is handled."""

from typing import Any

from messagebus.delivery.entries import Waiting
from messagebus.delivery.store import Store
from messagebus.testing.clock import Clock
from messagebus.testing.laws import LEASE, Laws, dies, end, finish, outcome, take, take_one
from messagebus.testing.shop import CancelOrder, PlaceOrder, order_ids, orders

__all__ = ["WaitingLaws"]


class WaitingLaws(Laws):
    """What `delay`, `at`, `waiting`, `cancel` and `move` promise."""

    def test_delayed_message_is_claimed_when_due(self, store: Store, clock: Clock) -> None:
        """[D7] Not a moment earlier."""
        store.send(PlaceOrder(order_id="o-1"), delay=60)

        clock.advance(59.999)
        assert () == take(store)
        clock.advance(0.001)

        assert ["o-1"] == order_ids(take(store))

    def test_message_is_claimed_at_its_time(self, store: Store, clock: Clock) -> None:
        """[D7] A time that has passed is now."""
        store.send(PlaceOrder(order_id="o-1"), at=clock.time(60))
        store.send(PlaceOrder(order_id="o-2"), at=clock.time(-60))

        assert ["o-2"] == order_ids(take(store))
        clock.advance(60)
        assert "o-1" in order_ids(take(store)) + order_ids(take(store))

    def test_listing_shows_the_earliest_first(self, store: Store, clock: Clock) -> None:
        """[D7] With what is known about it, in UTC."""
        later = store.send(PlaceOrder(order_id="o-1"), delay=60, key="customer-7")
        sooner = store.send(CancelOrder(order_id="o-1"), delay=30)

        now = clock.time()
        assert [
            Waiting(sooner, "shop.cancel_order", None, clock.time(30), now, is_in_flight=False, retries={}),
            Waiting(later, "shop.place_order", "customer-7", clock.time(60), now, is_in_flight=False, retries={}),
        ] == store.waiting()

    def test_listing_is_of_what_is_asked_for(self, store: Store) -> None:
        """[D7] By type, by key, and no more than the limit."""
        one, two = store.send_many(orders("o-1", "o-2"), key="customer-7")
        three = store.send(CancelOrder(order_id="o-3"), key="customer-7", delay=1)
        four = store.send(CancelOrder(order_id="o-4"), delay=2)

        def found(**by: Any) -> list[str]:
            return [waiting.id for waiting in store.waiting(**by)]

        assert [one, two, three, four] == found()
        assert [three, four] == found(type="shop.cancel_order")
        assert [one, two, three] == found(key="customer-7")
        assert [three] == found(type="shop.cancel_order", key="customer-7")
        assert [] == found(key="customer-8")
        assert [one, two, three] == [waiting.id for waiting in store.waiting(limit=3)]

    def test_listing_shows_what_is_in_flight_and_what_failed(self, store: Store, clock: Clock) -> None:
        """[D7] Who waits for what; finished and dead messages do not wait."""
        store.send(PlaceOrder(order_id="finished"))
        finish(store)
        store.send(PlaceOrder(order_id="dead"))
        dies(store)
        failed = store.send(PlaceOrder(order_id="failed"))
        token, message = take_one(store)
        end(store, token, message, outcome("done", "a"), outcome("retry", "b", attempts=2, due=clock() + 600))
        in_flight = store.send(PlaceOrder(order_id="in flight"))
        take(store)

        listed = {one.id: (one.is_in_flight, dict(one.retries)) for one in store.waiting()}

        assert {failed: (False, {"b": 2}), in_flight: (True, {})} == listed

    # Changed in time

    def test_cancelled_message_is_never_handled(self, store: Store, clock: Clock) -> None:
        """[D7] It is forgotten."""
        sent = store.send(PlaceOrder(order_id="o-1"), delay=60)

        assert store.cancel(sent)

        clock.advance(600)
        assert ((), []) == (take(store), store.waiting())
        assert not store.cancel(sent)

    def test_moved_message_is_due_at_its_new_time(self, store: Store, clock: Clock) -> None:
        """[D7] Sooner or later, by seconds from now or by the clock."""
        sooner, later, at = store.send_many(orders("sooner", "later", "at"), delay=60)
        clock.advance(10)

        assert store.move(sooner, delay=5)
        assert store.move(later, delay=600)
        assert store.move(at, at=clock.time(30))

        got = []
        for _ in range(3):
            due = store.next_due()
            assert due is not None
            clock.advance(due - clock())
            got.append((due, *order_ids([finish(store)])))
        now = clock()
        assert [(now - 595, "sooner"), (now - 570, "at"), (now, "later")] == got

    def test_only_what_waits_can_be_changed(self, store: Store) -> None:
        """[D7] In flight, finished, dead and unknown messages stay as they are: the answer is no, not an error."""
        finished = store.send(PlaceOrder(order_id="finished"))
        finish(store)
        dead = store.send(PlaceOrder(order_id="dead"))
        dies(store)
        in_flight = store.send(PlaceOrder(order_id="in flight"))
        token, message = take_one(store)
        ids = [finished, dead, in_flight, "unknown"]

        assert [False] * 4 == [store.move(one, delay=0) for one in ids]
        assert [False] * 4 == [store.cancel(one) for one in ids]

        assert () == take(store)
        assert set() == end(store, token, message)
        assert (2, 1) == (store.stats().finished, store.stats().dead)

    def test_next_try_can_be_moved(self, store: Store, clock: Clock) -> None:
        """[D7] What failed waits as well."""
        sent = store.send(PlaceOrder(order_id="o-1"))
        token, message = take_one(store)
        end(store, token, message, outcome("retry", due=clock() + 600))

        assert store.move(sent, delay=LEASE)

        assert () == take(store)
        clock.advance(LEASE)
        assert ["o-1"] == order_ids(take(store))
