"""Laws of keys: one at a time, in the order of sending."""

from collections import Counter
from collections.abc import Callable

import pytest

from messagebus.delivery.store import Store
from messagebus.testing.clock import Clock
from messagebus.testing.laws import LEASE, Laws, at_once, dies, end, finish, outcome, sending, take, take_one
from messagebus.testing.shop import OrderPlaced, PlaceOrder, order_ids, orders

__all__ = ["KeyLaws"]

KEY = "customer-7"


class KeyLaws(Laws):
    """What `key` promises."""

    def test_first_of_each_key_is_claimed(self, store: Store) -> None:
        """[D5] Never two with one key, and all that have none."""
        for order_id, key in [("a-1", "a"), ("a-2", "a"), ("-1", None), ("b-1", "b"), ("-2", None), ("a-3", "a")]:
            store.send(PlaceOrder(order_id=order_id), key=key)

        claimed = take(store)

        assert ["a-1", "-1", "b-1", "-2"] == order_ids(claimed)
        assert ["a", None, "b", None] == [message.key for message in claimed]

    def test_next_of_a_key_comes_when_the_one_before_is_finished(self, store: Store) -> None:
        """[D5] In the order in which they were sent."""
        store.send_many(orders("o-1", "o-2", "o-3"), key=KEY)

        got = [order_ids([finish(store)]) for _ in range(3)]

        assert [["o-1"], ["o-2"], ["o-3"]] == got
        assert () == take(store)

    def test_message_in_flight_holds_its_key(self, store: Store, rival: Store, clock: Clock) -> None:
        """[D5] Also against other workers, and after its own has crashed."""
        store.send_many(orders("o-1", "o-2"), key=KEY)
        take(store)
        assert () == take(rival)

        clock.advance(LEASE + 1)

        assert [["o-1"], []] == [order_ids(take(rival)) for _ in range(2)]

    def test_limit_is_filled_with_what_is_free(self, store: Store) -> None:
        """[D5] However many wait behind the first of a key."""
        store.send_many(orders(*map(str, range(50))), key=KEY)
        store.send_many(orders("free", "free too"))

        assert ["0", "free", "free too"] == order_ids(take(store, limit=3))

    def test_message_that_waits_for_another_try_holds_its_key(self, store: Store, clock: Clock) -> None:
        """[D5] A failure does not change the order."""
        store.send_many(orders("o-1", "o-2"), key=KEY)
        token, message = take_one(store)
        end(store, token, message, outcome("retry", due=clock() + 60))

        clock.advance(59)
        assert () == take(store)
        clock.advance(1)

        assert [["o-1"], ["o-2"]] == [order_ids([finish(store)]) for _ in range(2)]

    def test_delayed_message_holds_its_key(self, store: Store, clock: Clock) -> None:
        """[D5] What was sent first is handled first, whenever that is."""
        store.send(PlaceOrder(order_id="o-1"), key=KEY, delay=60)
        store.send(PlaceOrder(order_id="o-2"), key=KEY)
        assert () == take(store)

        clock.advance(60)

        assert [["o-1"], ["o-2"]] == [order_ids([finish(store)]) for _ in range(2)]

    def test_cancelled_message_frees_its_key(self, store: Store) -> None:
        """[D7] The next one need not wait for what will not come."""
        first, _ = store.send_many(orders("o-1", "o-2"), key=KEY)

        store.cancel(first)

        assert ["o-2"] == order_ids(take(store))

    def test_released_message_is_first_again(self, store: Store) -> None:
        """[D5] It was not handled."""
        store.send_many(orders("o-1", "o-2"), key=KEY)
        token, message = take_one(store)

        store.release(token, [message.seq])

        assert [["o-1"], ["o-2"]] == [order_ids([finish(store)]) for _ in range(2)]

    def test_sent_by_a_handler_takes_its_place(self, store: Store) -> None:
        """[D5] After those with its key that were sent before."""
        store.send_many(orders("o-1", "o-2"), key=KEY)
        token, cause = take_one(store)

        end(store, token, cause, sends=[sending(OrderPlaced(order_id="o-3"), cause, key=KEY)])

        assert [["o-2"], ["o-3"]] == [order_ids([finish(store)]) for _ in range(2)]

    def test_dead_letter_parks_its_key(self, store: Store, clock: Clock) -> None:
        """[D5] And no other."""
        store.send_many(orders("o-1", "o-2"), key=KEY)
        dies(store)
        store.send(PlaceOrder(order_id="o-3"), key="customer-8")

        clock.advance(100 * LEASE)

        assert ["o-3"] == order_ids(take(store))

    def test_dropped_dead_letter_parks_no_more(self, store: Store) -> None:
        """[D5] Somebody has decided."""
        store.send_many(orders("o-1", "o-2"), key=KEY)
        dies(store)

        store.drop(store.dead()[0].id)

        assert ["o-2"] == order_ids(take(store))

    def test_retried_dead_letter_comes_before_what_it_parked(self, store: Store) -> None:
        """[D5] A replay keeps the order."""
        store.send_many(orders("o-1", "o-2", "o-3"), key=KEY)
        dies(store)

        store.retry(store.dead()[0].id)

        assert [["o-1"], ["o-2"], ["o-3"]] == [order_ids([finish(store)]) for _ in range(3)]

    def test_last_of_several_dead_letters_parks(self, store: Store) -> None:
        """[D5] Every handler of a message comes before every handler of the next."""
        store.send(OrderPlaced(order_id="o-1"), key=KEY)
        store.send(OrderPlaced(order_id="o-2"), key=KEY)
        dies(store, "a", "b")
        first, second = store.dead()

        store.drop(first.id)
        assert () == take(store)
        store.drop(second.id)

        assert ["o-2"] == order_ids(take(store))

    def test_dead_letter_need_not_park(self, store: Store) -> None:
        """[D5] Opted out, those behind it go on; it is kept all the same, and may be tried again."""
        store.send_many(orders("o-1", "o-2"), key=KEY)
        dies(store, parks=False)

        assert ["o-2"] == order_ids([finish(store)])
        (letter,) = store.dead()
        assert store.retry(letter.id)
        assert letter.message_id == finish(store).id

    def test_dead_letter_parks_as_it_was_told_to(self, store: Store, clock: Clock) -> None:
        """[D5] A sibling that is settled later, by a worker with another opinion, changes nothing about it."""
        store.send_many(orders("a-1", "a-2"), key="a")
        store.send_many(orders("b-1", "b-2"), key="b")
        claim = store.claim(10, LEASE)
        for message, parks in zip(claim.messages, [True, False], strict=True):
            outcomes = [outcome("dead", "shop.ship"), outcome("retry", "shop.bill", due=clock())]
            end(store, claim.token, message, *outcomes, parks=parks)

        claim = store.claim(10, LEASE)
        for message, parks in zip(claim.messages, [False, True], strict=True):
            end(store, claim.token, message, outcome("done", "shop.bill"), parks=parks)

        assert ["b-2"] == order_ids(take(store))

    def test_replay_waits_for_the_one_in_flight(self, store: Store) -> None:
        """[D5] Tried again after those behind it went on, it is not handled beside one of them."""
        store.send_many(orders("o-1", "o-2", "o-3"), key=KEY)
        dies(store, parks=False)
        token, message = take_one(store)
        store.retry(store.dead()[0].id)

        assert () == take(store)

        end(store, token, message)
        assert [["o-1"], ["o-3"]] == [order_ids([finish(store)]) for _ in range(2)]

    @pytest.mark.parametrize("how", ["finished", "cancelled", "dropped", "not parking"])
    def test_turn_comes_however_many_wait_for_it(self, store: Store, how: str) -> None:
        """[D5] Whatever a store takes down of those that wait, it knows which one is next when the first has ended."""
        first = store.send(PlaceOrder(order_id="0"), key=KEY)
        store.send_many(orders(*map(str, range(1, 250))), key=KEY)
        store.send_many(orders("a", "b"), key=lambda message: message.model_dump()["order_id"])
        if how == "cancelled":
            store.move(first, delay=3_600)
            assert ["a", "b"] == order_ids(take(store, limit=50))
            store.cancel(first)
        else:
            claim = store.claim(50, LEASE)
            assert ["0", "a", "b"] == order_ids(claim.messages)
            assert () == take(store, limit=50)
            ended = outcome("done" if how == "finished" else "dead")
            end(store, claim.token, claim.messages[0], ended, parks=how != "not parking")
        if how == "dropped":
            assert () == take(store, limit=50)
            store.drop(store.dead()[0].id)

        assert ["1"] == order_ids([finish(store)])
        assert ["2"] == order_ids(take(store))

    def test_replay_comes_first_however_many_wait(self, store: Store) -> None:
        """[D5] Those that were next have to wait for their turn again."""
        store.send(PlaceOrder(order_id="0"), key=KEY)
        store.send_many(orders(*map(str, range(1, 250))), key=KEY)
        dies(store, parks=False)
        claim = store.claim(50, LEASE)
        store.retry(store.dead()[0].id)
        assert () == take(store, limit=50)

        end(store, claim.token, claim.messages[0])

        assert [["0"], ["2"]] == [order_ids([finish(store)]) for _ in range(2)]

    def test_workers_keep_the_order_of_each_key(self, store: Store, another: Callable[[], Store]) -> None:
        """[D5] Several workers, many keys: each message once, per key in order, and one at a time."""
        keys, each = 10, 12
        for number in range(each):
            for key in range(keys):
                store.send(PlaceOrder(order_id=f"{key}-{number}"), key=f"customer-{key}")
        done: list[str] = []
        in_hand: Counter[str | None] = Counter()
        most_in_hand = 0

        def work(source: Store) -> None:
            nonlocal most_in_hand
            while (stats := source.stats()).due + stats.in_flight:
                claim = source.claim(5, LEASE)
                in_hand.update(message.key for message in claim.messages)
                most_in_hand = max([most_in_hand, *in_hand.values()])
                for message in claim.messages:
                    done.extend(order_ids([message]))
                    in_hand[message.key] -= 1
                    end(source, claim.token, message)

        stores = [store, *([another(), another()] if self.is_shared else [store, store])]
        at_once(*[lambda source=source: work(source) for source in stores])

        assert 1 == most_in_hand
        assert {1} == set(Counter(done).values())
        for key in range(keys):
            assert [f"{key}-{number}" for number in range(each)] == [one for one in done if one.startswith(f"{key}-")]
