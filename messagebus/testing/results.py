"""Laws of results and of history: what a message led to."""

import pytest
from pydantic_core import from_json

from messagebus import Envelope, to_json
from messagebus.delivery.entries import Flow
from messagebus.delivery.store import Store
from messagebus.errors import DeliveryFailedError, ResultTimeoutError
from messagebus.testing.clock import Clock
from messagebus.testing.laws import Laws, at_once, dies, end, finish, outcome, sending, take_one
from messagebus.testing.shop import Confirmation, OrderPlaced, PlaceOrder, orders

__all__ = ["HistoryLaws", "ResultLaws"]


def confirm(*order_ids: str) -> bytes:
    """Return the return messages of a handler, as a worker settles them."""
    return to_json([Confirmation(order_id=order_id) for order_id in order_ids])


def confirmed(results: bytes) -> list[str]:
    """Return what `confirm` was given."""
    return [one["data"]["order_id"] for one in from_json(results)]


class ResultLaws(Laws):
    """What `result` promises."""

    def test_result_is_what_handlers_returned(self, store: Store) -> None:
        """[D12] As a JSON array, in the order in which it was returned; as often as it is asked for."""
        sent = store.send(PlaceOrder(order_id="o-1"))
        finish(store, results=confirm("a", "b"))

        assert [confirm("a", "b")] * 2 == [store.result(sent) for _ in range(2)]

    def test_result_of_handlers_that_returned_nothing_is_empty(self, store: Store) -> None:
        """[D12] An empty array, not an error."""
        sent = store.send(PlaceOrder(order_id="o-1"))
        finish(store)

        assert b"[]" == store.result(sent)

    def test_results_of_all_attempts_are_kept(self, store: Store, clock: Clock) -> None:
        """[D12] Those of a handler that finished earlier come first."""
        sent = store.send(OrderPlaced(order_id="o-1"))
        token, message = take_one(store)
        end(store, token, message, outcome("done", "a"), outcome("retry", "b", due=clock()), results=confirm("a"))

        finish(store, "b", results=confirm("b"))

        assert ["a", "b"] == confirmed(store.result(sent))

    def test_result_is_of_everything_it_led_to(self, store: Store) -> None:
        """[D12] Its own first; and not what others led to."""
        sent = store.send(PlaceOrder(order_id="o-1"))
        events = [OrderPlaced(order_id="e-1"), OrderPlaced(order_id="e-2")]
        token, cause = take_one(store)
        end(store, token, cause, sends=[sending(event, cause) for event in events], results=confirm("root"))
        claim = store.claim(100, 30)
        first, second = claim.messages
        end(store, claim.token, first, sends=[sending(PlaceOrder(order_id="o-2"), first)], results=confirm("e-1"))
        end(store, claim.token, second, results=confirm("e-2"))
        finish(store, results=confirm("grandchild"))
        store.send(PlaceOrder(order_id="other"))
        finish(store, results=confirm("other"))

        assert ["root", "e-1", "e-2", "grandchild"] == confirmed(store.result(sent))
        assert ["e-1", "grandchild"] == confirmed(store.result(first.id))

    def test_result_of_what_is_not_finished_is_an_error(self, store: Store) -> None:
        """[D12] It says so at once, and asking again is right."""
        sent = store.send(PlaceOrder(order_id="o-1"))

        with pytest.raises(ResultTimeoutError, match="1"):
            store.result(sent)

        finish(store, results=confirm("a"))
        assert ["a"] == confirmed(store.result(sent))

    def test_result_waits_for_what_it_led_to(self, store: Store) -> None:
        """[D12] It is not finished while something that it sent is open, be it delayed or waiting for its next try."""
        sent = store.send(PlaceOrder(order_id="o-1"))
        token, cause = take_one(store)
        end(store, token, cause, sends=[sending(OrderPlaced(order_id="e-1"), cause, delay=600.0)])

        with pytest.raises(ResultTimeoutError):
            store.result(sent)

    def test_result_comes_as_soon_as_it_is_there(self, store: Store) -> None:
        """[D12] Whoever waits gets it when a worker settles: this test would take ten minutes."""
        sent = store.send(PlaceOrder(order_id="o-1"))

        result, _ = at_once(lambda: store.result(sent, timeout=600), lambda: finish(store, results=confirm("a")))

        assert ["a"] == confirmed(result)

    def test_result_of_what_failed_for_good_is_an_error(self, store: Store) -> None:
        """[D12] It says which handler of which type; nobody waits for what will not come."""
        sent = store.send(PlaceOrder(order_id="o-1"))
        dies(store, "shop.place_order_badly")

        with pytest.raises(DeliveryFailedError) as caught:
            store.result(sent, timeout=600)

        assert sent == caught.value.message_id
        assert "shop.place_order_badly" in str(caught.value)

    def test_failure_further_down_is_an_error(self, store: Store) -> None:
        """[D12] Also if it parks nothing, so that its message counts as finished."""
        sent = store.send(PlaceOrder(order_id="o-1"))
        token, cause = take_one(store)
        end(store, token, cause, sends=[sending(OrderPlaced(order_id="e-1"), cause)])
        dies(store, "shop.count", parks=False)

        with pytest.raises(DeliveryFailedError, match=r"shop\.count"):
            store.result(sent)

    def test_result_is_there_when_somebody_has_decided(self, store: Store) -> None:
        """[D12] After another try that succeeded, or after the failure was dropped."""
        first, second = store.send_many(orders("o-1", "o-2"), key="customer-7")
        dies(store)
        store.retry(store.dead()[0].id)
        finish(store, results=confirm("a"))
        dies(store)
        store.drop(store.dead()[0].id)

        assert (["a"], []) == (confirmed(store.result(first)), confirmed(store.result(second)))


class HistoryLaws(Laws):
    """What `tree` promises."""

    def test_history_of_a_message_that_waits_is_itself(self, store: Store, clock: Clock) -> None:
        """[D12] Nothing has become of it."""
        sent = store.send(PlaceOrder(order_id="o-1"))

        (step,) = store.tree(sent)

        assert (sent, "shop.place_order", None) == (step.id, step.type, step.causation_id)
        assert (clock.time(), None, []) == (step.sent_at, step.finished_at, list(step.outcomes))

    def test_history_tells_what_led_to_what(self, store: Store, clock: Clock) -> None:
        """[D12] Each after its cause, with what became of its handlers, and when."""
        sent = store.send(PlaceOrder(order_id="o-1"))
        token, cause = take_one(store)
        clock.advance(1)
        end(store, token, cause, outcome(), sends=[sending(OrderPlaced(order_id="e-1"), cause)])
        token, event = take_one(store)
        clock.advance(1)
        outcomes = [outcome("done", "a"), outcome("dead", "b", attempts=5)]
        end(store, token, event, *outcomes, sends=[sending(PlaceOrder(order_id="o-2"), event)])

        root, child, grandchild = store.tree(sent)

        assert [sent, event.id, None] == [root.id, child.id, root.causation_id]
        assert [sent, event.id] == [child.causation_id, grandchild.causation_id]
        assert [clock.time(-1), None, None] == [root.finished_at, child.finished_at, grandchild.finished_at]
        assert [("done", 1, 1.5)] == [(one.state, one.attempts, one.duration_ms) for one in root.outcomes]
        assert {"a": ("done", 1), "b": ("dead", 5)} == {
            one.handler: (one.state, one.attempts) for one in child.outcomes
        }
        assert [child, grandchild] == store.tree(child.id)

    def test_history_begins_in_the_middle_if_its_cause_is_elsewhere(self, store: Store) -> None:
        """[D12] What came from outside has a cause that is not in this store."""
        message = PlaceOrder(order_id="o-1")
        sent = store.send(message, envelope=Envelope(message, correlation_id="run-1", causation_id="id-0"))

        assert [(sent, "id-0")] == [(step.id, step.causation_id) for step in store.tree(sent)]

    def test_message_that_names_itself_as_its_cause_has_a_history(self, store: Store) -> None:
        """[D12] Ids come from outside, and may lead in a circle."""
        message = PlaceOrder(order_id="o-1")
        store.send(message, envelope=Envelope(message, id="a", causation_id="b"))
        store.send(message, envelope=Envelope(message, id="b", causation_id="a"))

        assert ["a", "b"] == [step.id for step in store.tree("a")]

    def test_types_that_led_to_types_are_counted(self, store: Store) -> None:
        """[D12] Of follow-ups and of return messages; what nothing led to is in no count."""
        for _ in range(2):
            store.send(PlaceOrder(order_id="o-1"))
            token, cause = take_one(store)
            follow_up = sending(OrderPlaced(order_id="e-1"), cause)
            end(store, token, cause, outcome(), sends=[follow_up], results=confirm("a", "b"))
            finish(store)

        assert [
            Flow("shop.place_order", "shop.confirmation", 4),
            Flow("shop.place_order", "shop.order_placed", 2),
        ] == store.flows()

    def test_nothing_led_to_nothing(self, store: Store) -> None:
        """[D12] An empty history has no counts, and neither has one of messages that wait."""
        assert [] == store.flows()
        store.send(PlaceOrder(order_id="o-1"))
        assert [] == store.flows()

    def test_unknown_message_has_no_history(self, store: Store) -> None:
        """[D12] Nothing is known, which is no error."""
        assert [] == store.tree("unknown")
