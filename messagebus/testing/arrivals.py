"""Laws of the inbox: what an engine brings is stored once, and leased to whoever received it."""

from messagebus import to_json
from messagebus.delivery.entries import Arrival
from messagebus.delivery.store import Store
from messagebus.testing.clock import Clock
from messagebus.testing.laws import LEASE, Laws, dies, end, finish, outcome, take
from messagebus.testing.shop import OrderPlaced, PlaceOrder, order_ids

__all__ = ["ArrivalLaws"]


def arriving(order_id: str, id: str = "", key: str | None = None) -> Arrival:
    """Return a command as an engine brings it."""
    body = to_json(PlaceOrder(order_id=order_id))
    return Arrival(id or f"id-{order_id}", "shop.place_order", body, key, "c-1", "m-1", 5.25, {"source": "/theirs"})


class ArrivalLaws(Laws):
    """What `receive` promises."""

    def test_received_message_is_stored_and_leased(self, store: Store, clock: Clock) -> None:
        """[B1] It is the receiver's at once, with all that came with it, and others' when the lease is over."""
        claim = store.receive([arriving("o-1", key="k")], LEASE)

        (message,) = claim.messages
        assert ("id-o-1", "shop.place_order", "k", "c-1", "m-1", 5.25, {"source": "/theirs"}, 1, False) == (
            message.id, message.type, message.key, message.correlation_id, message.causation_id, message.sent_at,
            message.headers, message.attempt, message.is_event,
        )  # fmt: skip
        assert () == take(store)
        clock.advance(LEASE + 0.001)
        assert ["o-1"] == order_ids(take(store))

    def test_received_message_is_settled_by_its_token(self, store: Store) -> None:
        """[B1] As any other claim."""
        claim = store.receive([arriving("o-1"), arriving("o-2")], LEASE)

        for message in claim.messages:
            assert set() == end(store, claim.token, message, outcome("done"))

        assert 2 == store.stats().finished

    def test_same_id_is_one_message(self, store: Store) -> None:
        """[B3] Whether it waits, is in flight, finished or dead, and in one batch too."""
        first = store.receive([arriving("o-1"), arriving("o-1")], LEASE)
        again = store.receive([arriving("o-1")], LEASE)
        end(store, first.token, first.messages[0], outcome("done"))
        after = store.receive([arriving("o-1")], LEASE)

        assert [1, 0, 0] == [len(claim.messages) for claim in (first, again, after)]
        assert 1 == store.stats().finished

    def test_what_was_given_back_is_taken_when_it_comes_again(self, store: Store) -> None:
        """[B1] It has waited for nobody else."""
        claim = store.receive([arriving("o-1")], LEASE)
        store.release(claim.token, [claim.messages[0].seq])

        again = store.receive([arriving("o-1")], LEASE)

        assert [1] == [message.attempt for message in again.messages]

    def test_key_that_is_held_is_waited_for(self, store: Store) -> None:
        """[D5] Of one key one is taken at a time, and none while an earlier one is dead."""
        first = store.receive([arriving("o-1", key="k"), arriving("o-2", key="k"), arriving("o-3")], LEASE)

        assert ["o-1", "o-3"] == order_ids(first.messages)
        assert () == take(store)
        end(store, first.token, first.messages[0], outcome("done"))
        assert "id-o-2" == dies(store).id
        assert () == store.receive([arriving("o-4", key="k")], LEASE).messages

    def test_own_message_that_comes_back_is_another(self, store: Store) -> None:
        """[B3] What was sent here, left, and came back is handled here once, though its id is known."""
        sent = store.send(OrderPlaced(order_id="o-1"))
        assert finish(store, "published").is_event
        arrival = Arrival(sent, "shop.order_placed", to_json(OrderPlaced(order_id="o-1")), headers={"source": "/us"})

        first, again = store.receive([arrival], LEASE), store.receive([arrival], LEASE)

        assert [f"{sent}@inbox"] == [message.id for message in first.messages]
        assert () == again.messages

    def test_unreadable_bytes_are_kept(self, store: Store) -> None:
        """[D9] As they came, until somebody decides."""
        store.receive([Arrival("x:1", "", b"\x00\xff", headers={"source": "x"})], 0.0)
        dies(store, "")

        (letter,) = store.dead()
        assert b"\x00\xff" == letter.body
