"""Laws of dead letters: kept until somebody decides, and decided for one handler at a time."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic_core import from_json

from messagebus import UnwritableMessageError, to_json
from messagebus.delivery.store import Store
from messagebus.envelope import Envelope
from messagebus.errors import ConflictError
from messagebus.testing.clock import Clock
from messagebus.testing.laws import FAILURE, HANDLER, LEASE, Laws, at_once, dies, end, finish, outcome, take, take_one
from messagebus.testing.shop import CancelOrder, OrderPlaced, PlaceOrder, Weigh

__all__ = ["DeadLetterLaws"]

UNKNOWN = 123_456_789


class DeadLetterLaws(Laws):
    """What `dead`, `retry` and `drop` promise."""

    def test_dead_letter_tells_everything(self, store: Store, clock: Clock) -> None:
        """[D4] The raw bytes, the error and where it was raised, how often it was tried, what led to it."""
        message = PlaceOrder(order_id="o-1")
        sent_at = clock.time()
        sent = store.send(message, key="customer-7")
        clock.advance(60)

        dies(store)

        (letter,) = store.dead()
        assert (sent, "shop.place_order", "customer-7") == (letter.message_id, letter.type, letter.key)
        assert (HANDLER, 5, FAILURE) == (letter.handler, letter.attempts, letter.failure)
        assert (sent_at, clock.time()) == (letter.sent_at, letter.died_at)
        assert (sent, None, to_json(message)) == (letter.correlation_id, letter.causation_id, letter.body)
        assert "o-1" not in repr(letter)

    def test_dead_letter_is_found_by_its_id(self, store: Store) -> None:
        """[D4] With the headers that its message was sent with."""
        message = PlaceOrder(order_id="o-1")
        store.send(OrderPlaced(order_id="o-0"))
        dies(store)
        store.send(message, envelope=Envelope(message, headers={"source": "/shop"}))
        dies(store)
        first, second = store.dead()

        found = store.dead(id=second.id)

        assert [second] == found
        assert ({}, {"source": "/shop"}) == (first.headers, second.headers)
        assert [] == store.dead(id=UNKNOWN)

    def test_dead_handler_does_not_run_again(self, store: Store, clock: Clock) -> None:
        """[D4] Until somebody says so."""
        store.send(PlaceOrder(order_id="o-1"))
        dies(store)

        clock.advance(100 * LEASE)

        assert () == take(store)
        assert (1, 0) == (store.stats().dead, store.stats().finished)

    def test_each_handler_has_its_own_dead_letter(self, store: Store) -> None:
        """[D4] The unit of failure is (message, handler)."""
        store.send(OrderPlaced(order_id="o-1"))

        dies(store, "a", "b")

        assert ["a", "b"] == [letter.handler for letter in store.dead()]

    def test_other_handlers_go_on(self, store: Store, clock: Clock) -> None:
        """[D4] One is dead, another is to be tried again: it is, and the dead one stays where it is."""
        store.send(OrderPlaced(order_id="o-1"))
        token, message = take_one(store)
        end(store, token, message, outcome("dead", "a"), outcome("retry", "b", due=clock() + 5))
        clock.advance(5)

        again = finish(store, handler="b")

        assert {"a": "dead", "b": "retry"} == {name: one.state for name, one in again.outcomes.items()}
        assert (["a"], 0) == ([letter.handler for letter in store.dead()], store.stats().finished)

    # Looking

    def test_dead_letters_are_found(self, store: Store, clock: Clock) -> None:
        """[D4] By type, handler, class of the error and age; the oldest first."""
        for message, handler, error in [
            (PlaceOrder(order_id="1"), "a", "shop.OutOfStock"),
            (OrderPlaced(order_id="2"), "b", "shop.OutOfStock"),
            (OrderPlaced(order_id="3"), "a", "builtins.ZeroDivisionError"),
        ]:
            store.send(message)
            token, claimed = take_one(store)
            end(store, token, claimed, outcome("dead", handler, error=error))
            clock.advance(10)

        def found(**by: Any) -> list[str]:
            return [from_json(letter.body)["data"]["order_id"] for letter in store.dead(**by)]

        assert ["1", "2", "3"] == found()
        assert ["2", "3"] == found(type="shop.order_placed")
        assert ["1", "3"] == found(handler="a")
        assert ["1", "2"] == found(error="shop.OutOfStock")
        assert ["1", "2"] == found(older_than=15)
        assert ["1", "2"] == found(limit=2)
        assert found()[1:3] == found(after=store.dead()[0].id, limit=2)
        assert ["3"] == found(type="shop.order_placed", handler="a")
        assert [] == found(type="shop.place_order", handler="b")

    # Another chance

    def test_retry_runs_that_handler_only(self, store: Store) -> None:
        """[D4] With all its attempts; what its siblings reached stands."""
        store.send(OrderPlaced(order_id="o-1"))
        token, message = take_one(store)
        end(store, token, message, outcome("done", "a"), outcome("dead", "b", attempts=5))
        (letter,) = store.dead()

        assert store.retry(letter.id)

        assert [] == store.dead()
        _, again = take_one(store)
        states = {name: (one.state, one.attempts) for name, one in again.outcomes.items()}
        assert {"a": ("done", 1), "b": ("retry", 0)} == states
        assert 1 == again.attempt

    def test_retry_leaves_other_dead_letters(self, store: Store) -> None:
        """[D4] Each is decided for itself; the message is finished when the last one is."""
        store.send(OrderPlaced(order_id="o-1"))
        dies(store, "a", "b")
        first, second = store.dead()
        store.retry(first.id)

        again = finish(store, handler="a")

        assert "dead" == again.outcomes["b"].state
        assert [second] == store.dead()
        assert 0 == store.stats().finished
        store.retry(second.id)
        finish(store, handler="b")
        assert 1 == store.stats().finished

    def test_retried_handler_may_die_again(self, store: Store, clock: Clock) -> None:
        """[D4] Then it is one dead letter, the new one."""
        store.send(PlaceOrder(order_id="o-1"))
        dies(store)
        store.retry(store.dead()[0].id)
        clock.advance(60)

        dies(store)

        assert [clock.time()] == [letter.died_at for letter in store.dead()]

    def test_retry_of_what_could_not_be_dispatched_begins_anew(self, store: Store) -> None:
        """[D9] No handler was called: now that its type is known, all of them are."""
        store.send(PlaceOrder(order_id="o-1"))
        dies(store, "")
        (letter,) = store.dead()

        assert ("", True) == (letter.handler, store.retry(letter.id))

        _, again = take_one(store)
        assert {} == again.outcomes

    def test_retry_may_mend_the_message(self, store: Store) -> None:
        """[D4] It keeps its id, its key and its place."""
        sent = store.send(PlaceOrder(order_id="o-1"), key="customer-7")
        dies(store)
        mended = PlaceOrder(order_id="o-1", quantity=5)

        store.retry(store.dead()[0].id, message=mended)

        _, again = take_one(store)
        assert (sent, "customer-7", to_json(mended)) == (again.id, again.key, again.body)

    def test_retry_with_another_type_is_an_error(self, store: Store) -> None:
        """[D4] That would be another message; the dead letter stays."""
        store.send(PlaceOrder(order_id="o-1"))
        dies(store)
        (letter,) = store.dead()

        with pytest.raises(ConflictError):
            store.retry(letter.id, message=CancelOrder(order_id="o-1"))

        assert [letter] == store.dead()
        assert () == take(store)

    def test_retry_with_an_unreadable_message_is_refused(self, store: Store) -> None:
        """[D1] As with `send`; the dead letter stays."""
        store.send(Weigh(parcel_id="p-1", kilograms=1))
        dies(store)
        (letter,) = store.dead()

        with pytest.raises(UnwritableMessageError):
            store.retry(letter.id, message=Weigh(parcel_id="p-1", kilograms=float("nan")))

        assert [letter] == store.dead()

    # Given up

    def test_dropped_handler_is_over(self, store: Store, clock: Clock) -> None:
        """[D4] The message is finished, and its history says how."""
        sent = store.send(PlaceOrder(order_id="o-1"))
        dies(store)

        assert store.drop(store.dead()[0].id)

        assert ([], 1) == (store.dead(), store.stats().finished)
        (step,) = store.tree(sent)
        assert (["dropped"], clock.time()) == ([one.state for one in step.outcomes], step.finished_at)
        assert () == take(store)

    def test_drop_leaves_what_is_still_open(self, store: Store, clock: Clock) -> None:
        """[D4] A second dead letter, or a handler that waits for its next try, keeps the message open."""
        store.send(OrderPlaced(order_id="o-1"))
        token, message = take_one(store)
        end(store, token, message, outcome("dead", "a"), outcome("dead", "b"), outcome("retry", "c", due=clock() + 5))
        first, second = store.dead()

        store.drop(first.id)
        assert ([second], 0) == (store.dead(), store.stats().finished)

        store.drop(second.id)
        assert ([], 0) == (store.dead(), store.stats().finished)
        clock.advance(5)
        finish(store, handler="c")
        assert 1 == store.stats().finished

    def test_unknown_dead_letter_is_false(self, store: Store) -> None:
        """[D4] Also one about which somebody has decided before: the answer is no, not an error."""
        store.send(OrderPlaced(order_id="o-1"))
        dies(store, "a", "b")
        first, second = store.dead()
        store.retry(first.id)
        store.drop(second.id)

        assert [False] * 3 == [store.retry(unknown) for unknown in (first.id, second.id, UNKNOWN)]
        assert [False] * 3 == [store.drop(unknown) for unknown in (first.id, second.id, UNKNOWN)]

    def test_one_of_two_decides(self, store: Store, another: Callable[[], Store]) -> None:
        """[D4] Two who decide at once do not both get their way."""
        store.send(PlaceOrder(order_id="o-1"))
        dies(store)
        (letter,) = store.dead()
        other = another() if self.is_shared else store

        got = at_once(lambda: store.retry(letter.id), lambda: other.drop(letter.id))

        assert [False, True] == sorted(got)
        assert (1 if got[0] else 0) == len(take(store))

    def test_decision_waits_for_the_worker_in_between(self, store: Store, clock: Clock) -> None:
        """[D6] A retry does not take the lease of a sibling in hand, nor is it forgotten when that is settled."""
        store.send(OrderPlaced(order_id="o-1"))
        token, message = take_one(store)
        end(store, token, message, outcome("dead", "a"), outcome("retry", "b", due=clock()))
        token, message = take_one(store)

        assert store.retry(store.dead()[0].id)

        assert () == take(store)
        assert set() == end(store, token, message, outcome("done", "b", attempts=2))
        again = finish(store, handler="a")
        assert {"a": "retry", "b": "done"} == {name: one.state for name, one in again.outcomes.items()}
        assert 1 == store.stats().finished

    def test_sibling_of_a_dead_letter_finishes_its_message(self, store: Store) -> None:
        """[D4] A handler that was given up is as good as done for the others."""
        store.send(OrderPlaced(order_id="o-1"))
        dies(store, "a", "b")
        first, second = store.dead()
        store.drop(first.id)
        store.retry(second.id)

        finish(store, handler="b")

        assert (1, []) == (store.stats().finished, store.dead())
