"""Laws of schedules: messages that are sent again and again."""

from collections.abc import Callable

import pytest

from messagebus import ConfigurationError, UnwritableMessageError, UsageError
from messagebus.delivery.entries import Schedule
from messagebus.delivery.store import Store
from messagebus.testing.clock import Clock
from messagebus.testing.laws import Laws, at_once, finish, take
from messagebus.testing.shop import LOG_IN, CancelOrder, Confirmation, OrderPlaced, PlaceOrder, order_ids

__all__ = ["ScheduleLaws"]

HOUR = 3_600.0


class ScheduleLaws(Laws):
    """What `every`, `schedules`, `unschedule` and `fire` promise. The clock begins at midnight, UTC."""

    def test_schedule_is_listed(self, store: Store, clock: Clock) -> None:
        """[D7] With when it is due next."""
        store.every("0 3 * * *", PlaceOrder(order_id="o-1"), name="nightly")

        assert [Schedule("nightly", "0 3 * * *", "UTC", "shop.place_order", clock.time(3 * HOUR))] == store.schedules()
        assert clock() + 3 * HOUR == store.next_due()

    def test_schedule_sends_when_it_is_due(self, store: Store, clock: Clock) -> None:
        """[D7] Not before, once, and then again at its next time; each a message of its own."""
        store.every("0 3 * * *", PlaceOrder(order_id="o-1"), name="nightly")
        fired, sent = [], []

        for _ in range(50):
            fired.append(store.fire())
            if fired[-1]:
                sent.append(finish(store))
            clock.advance(HOUR)

        assert [3, 27] == [hour for hour, count in enumerate(fired) if count == 1]
        assert 2 == sum(fired)
        assert ["o-1", "o-1"] == order_ids(sent)
        assert 2 == len({message.id for message in sent})

    def test_scheduled_event_is_an_event(self, store: Store, clock: Clock) -> None:
        """[D7] And a command is none: whoever publishes them knows for whom they are."""
        store.every("0 3 * * *", OrderPlaced(order_id="o-1"), name="nightly")
        store.every("0 3 * * *", PlaceOrder(order_id="o-2"), name="nightly too")
        clock.advance(3 * HOUR)
        store.fire()

        assert {"o-1": True, "o-2": False} == {order_ids([one])[0]: one.is_event for one in take(store)}

    def test_zone_is_that_of_the_schedule(self, store: Store, clock: Clock) -> None:
        """[D7] Three o'clock in Tokyo is six in the evening before in UTC."""
        store.every("0 3 * * *", PlaceOrder(order_id="o-1"), name="nightly", timezone="Asia/Tokyo")

        (schedule,) = store.schedules()
        assert ("Asia/Tokyo", clock.time(18 * HOUR)) == (schedule.timezone, schedule.next_at)

    def test_missed_times_are_made_up_for_once(self, store: Store, clock: Clock) -> None:
        """[D7] A weekend without workers is one message, not sixty."""
        store.every("0 * * * *", PlaceOrder(order_id="o-1"), name="hourly")
        clock.advance(60.5 * HOUR)

        fired = [store.fire() for _ in range(3)]

        assert [1, 0, 0] == fired
        assert ["o-1"] == order_ids(take(store))
        assert [clock.time(0.5 * HOUR)] == [schedule.next_at for schedule in store.schedules()]

    def test_one_of_several_workers_sends(self, store: Store, another: Callable[[], Store], clock: Clock) -> None:
        """[D7] However many there are, and whenever they look."""
        store.every("0 * * * *", PlaceOrder(order_id="o-1"), name="hourly")
        store.every("30 * * * *", CancelOrder(order_id="o-1"), name="half past")
        clock.advance(HOUR)
        stores = [another() if self.is_shared else store for _ in range(3)]

        fired = at_once(*[source.fire for source in [store, *stores]])

        assert 2 == sum(fired)
        assert ["shop.cancel_order", "shop.place_order"] == sorted(message.type for message in take(store))

    def test_schedule_of_the_same_name_is_replaced(self, store: Store, clock: Clock) -> None:
        """[D7] The last word counts."""
        store.every("0 3 * * *", PlaceOrder(order_id="o-1"), name="nightly")
        store.every("0 5 * * *", CancelOrder(order_id="o-2"), name="nightly")

        assert [("0 5 * * *", "shop.cancel_order", clock.time(5 * HOUR))] == [
            (schedule.cron, schedule.type, schedule.next_at) for schedule in store.schedules()
        ]
        clock.advance(5 * HOUR)
        assert (1, ["o-2"]) == (store.fire(), order_ids(take(store)))

    def test_schedule_said_again_keeps_what_is_due(self, store: Store, clock: Clock) -> None:
        """[D7] An application says its schedules whenever it starts; what it missed while it was down is not lost."""
        store.every("0 3 * * *", PlaceOrder(order_id="o-1"), name="nightly")
        clock.advance(4 * HOUR)

        store.every("0 3 * * *", PlaceOrder(order_id="o-1"), name="nightly")

        assert (1, ["o-1"]) == (store.fire(), order_ids(take(store)))

    def test_schedule_ends(self, store: Store, clock: Clock) -> None:
        """[D7] Taken back, it sends nothing; one that is not there is no error."""
        store.every("0 3 * * *", PlaceOrder(order_id="o-1"), name="nightly")

        assert [True, False] == [store.unschedule("nightly") for _ in range(2)]

        clock.advance(24 * HOUR)
        assert ([], None, 0, ()) == (store.schedules(), store.next_due(), store.fire(), take(store))

    @pytest.mark.parametrize("cron", ["", "soon", "0 25 * * *", "0 3 * *", "0 0 30 2 *"])
    def test_expression_that_is_no_time_is_refused(self, store: Store, cron: str) -> None:
        """[D7] When it is said, not when it should have been due."""
        with pytest.raises(ConfigurationError):
            store.every(cron, PlaceOrder(order_id="o-1"), name="nightly")

        assert [] == store.schedules()

    def test_unknown_zone_is_refused(self, store: Store) -> None:
        """[D7] As with the expression."""
        with pytest.raises(ConfigurationError, match="Mars/Olympus"):
            store.every("0 3 * * *", PlaceOrder(order_id="o-1"), name="nightly", timezone="Mars/Olympus")

        assert [] == store.schedules()

    def test_message_that_cannot_be_sent_is_refused(self, store: Store) -> None:
        """[D1] As with `send`."""
        with pytest.raises(UnwritableMessageError):
            store.every("0 3 * * *", LOG_IN, name="nightly")
        with pytest.raises(UsageError):
            store.every("0 3 * * *", Confirmation(order_id="o-1"), name="nightly")

        assert [] == store.schedules()
